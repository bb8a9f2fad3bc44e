/* SPDX-License-Identifier: Apache-2.0 */
/*
 * support_origin.h - a scratch directory with an origin on it, in each variety that must behave alike.
 *
 * scene_each() runs a test's body four times: on $TMPDIR (or /tmp) and on /dev/shm, with file handles and without. The
 * scene plays the cache's part for PATH references: it remembers the parent and name of what was looked up through it.
 */
#ifndef HEARTH_SUPPORT_ORIGIN_H
#define HEARTH_SUPPORT_ORIGIN_H

#include "origin.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>

enum { NOBODY = 65534, SCENE_NAMES_MAX = 8192 };

struct scene_name {
    struct origin_ref ref, parent;
    char              name[256];
};

struct scene {
    struct origin        *origin;
    struct origin_options options;
    struct origin_ref     root;
    struct origin_attr    root_attr;
    const char           *label;         /* which variety; part of every message */
    char                  dir[PATH_MAX]; /* the shared directory; its parent belongs to the scene too */
    pthread_mutex_t       lock;
    struct scene_name    *names;
    size_t                name_count;
    size_t                locate_count; /* how often the origin asked */
};

typedef void (*scene_fn)(struct scene *scene);

/* `options` may be NULL; its no_handles and locate are set by the scene. */
void scene_each(scene_fn body, const struct origin_options *options);
/* Closes the origin and opens it again: as after a restart, names are still known. */
void scene_reopen(struct scene *scene);

/* dir/name in a buffer of the calling thread (one of four that are used in turn) */
const char *scene_path(const struct scene *scene, const char *name);
void scene_learn(struct scene *scene, const struct origin_ref *ref, const struct origin_ref *parent, const char *name);
void scene_unlearn(struct scene *scene, const struct origin_ref *ref);

/* Without the origin, from outside: a file with that text and mode. */
void scene_write_file(const struct scene *scene, const char *name, const char *text, mode_t mode);
/* Through the origin; they must succeed. */
struct origin_ref scene_lookup(struct scene *scene, const struct origin_ref *dir, const char *name);
struct origin_ref scene_create(struct scene *scene, const struct origin_ref *dir, const char *name, uint32_t mode);
struct origin_ref scene_mkdir(struct scene *scene, const struct origin_ref *dir, const char *name, uint32_t mode);
/* The whole content must be `text`. */
void scene_expect_text(struct scene *scene, const struct origin_ref *ref, const char *text);

void need_root(void);
/* Says on stderr that some part could not be tested here. */
void scene_note(const struct scene *scene, const char *text);

extern const struct origin_cred root_cred, nobody_cred;

#define expect_rc(scene, call, wanted)                                                                              \
    do {                                                                                                            \
        long long rc_got = (call), rc_wanted = (wanted);                                                            \
        cr_assert(rc_got == rc_wanted, "[%s] %s: got %lld, wanted %lld", (scene)->label, #call, rc_got, rc_wanted); \
    } while (0)
#define expect_ok(scene, call)   expect_rc(scene, call, 0)
#define expect_true(scene, what) cr_assert((what), "[%s] %s", (scene)->label, #what)
#define sys(call)                cr_assert((call) >= 0, "%s: %s", #call, strerror(errno))

#endif
