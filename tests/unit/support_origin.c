/* SPDX-License-Identifier: Apache-2.0 */
/* support_origin.c - see support_origin.h. */
#include "support_origin.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct origin_cred root_cred = {0};
const struct origin_cred nobody_cred = {.uid = NOBODY, .gid = NOBODY};

/* LeakSanitizer asks for these. Criterion 2.4.1 forgets the record of a timeout when two tests that have one run at the
 * same time. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_options(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libcriterion\n";
}

const char *__lsan_default_options(void)
{
    return "print_suppressions=0";
}

void need_root(void)
{
    if (geteuid() != 0)
        cr_skip_test("needs root");
}

void scene_note(const struct scene *scene, const char *text)
{
    fprintf(stderr, "[%s] %s\n", scene->label, text);
}

static int scene_locate(void *arg, const struct origin_ref *node, struct origin_ref *parent, char *name,
                        size_t name_size)
{
    struct scene *scene = arg;
    int           err = -ESTALE;

    pthread_mutex_lock(&scene->lock);
    scene->locate_count++;
    for (size_t i = scene->name_count; i-- > 0 && err;) {
        if (memcmp(&scene->names[i].ref, node, sizeof *node) == 0) {
            *parent = scene->names[i].parent;
            snprintf(name, name_size, "%s", scene->names[i].name);
            err = 0;
        }
    }
    pthread_mutex_unlock(&scene->lock);
    return err;
}

void scene_learn(struct scene *scene, const struct origin_ref *ref, const struct origin_ref *parent, const char *name)
{
    pthread_mutex_lock(&scene->lock);
    cr_assert(scene->name_count < SCENE_NAMES_MAX);
    struct scene_name *entry = &scene->names[scene->name_count++];
    entry->ref = *ref;
    entry->parent = *parent;
    snprintf(entry->name, sizeof entry->name, "%s", name);
    pthread_mutex_unlock(&scene->lock);
}

void scene_unlearn(struct scene *scene, const struct origin_ref *ref)
{
    pthread_mutex_lock(&scene->lock);
    for (size_t i = 0; i < scene->name_count; i++) {
        if (memcmp(&scene->names[i].ref, ref, sizeof *ref) == 0)
            memset(&scene->names[i].ref, 0, sizeof scene->names[i].ref);
    }
    pthread_mutex_unlock(&scene->lock);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void scene_open(struct scene *scene)
{
    int err = origin_posix_open(scene->dir, &scene->options, &scene->origin);

    cr_assert(err == 0, "[%s] open %s: %d", scene->label, scene->dir, err);
    expect_ok(scene, origin_root(scene->origin, &scene->root, &scene->root_attr));
}

void scene_reopen(struct scene *scene)
{
    origin_close(scene->origin);
    scene_open(scene);
}

static void scene_run(scene_fn body, const struct origin_options *options, const char *base, bool no_handles,
                      const char *label)
{
    struct scene *scene = calloc(1, sizeof *scene);
    char          top[PATH_MAX - 16];

    cr_assert(scene);
    snprintf(top, sizeof top, "%s/hearthfs-test-origin-%d-XXXXXX", base, (int)getpid());
    cr_assert(mkdtemp(top), "mkdtemp %s: %s", top, strerror(errno));
    sys(chmod(top, 0755));
    snprintf(scene->dir, sizeof scene->dir, "%s/shared", top);
    sys(mkdir(scene->dir, 0755));
    scene->label = label;
    scene->names = calloc(SCENE_NAMES_MAX, sizeof *scene->names);
    cr_assert(scene->names);
    pthread_mutex_init(&scene->lock, NULL);
    if (options)
        scene->options = *options;
    scene->options.no_handles = no_handles;
    scene->options.locate = scene_locate;
    scene->options.locate_arg = scene;
    scene_open(scene);
    body(scene);
    origin_close(scene->origin);
    free(scene->names);
    free(scene);
    nftw(top, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

void scene_each(scene_fn body, const struct origin_options *options)
{
    const char *tmp = getenv("TMPDIR");

    tmp = tmp && *tmp ? tmp : "/tmp";
    umask(022);
    scene_run(body, options, tmp, false, "tmp, handles");
    scene_run(body, options, tmp, true, "tmp, paths");
    scene_run(body, options, "/dev/shm", false, "shm, handles");
    scene_run(body, options, "/dev/shm", true, "shm, paths");
}

const char *scene_path(const struct scene *scene, const char *name)
{
    static _Thread_local char path[4][2 * PATH_MAX];
    static _Thread_local int  turn;

    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", scene->dir, name);
    return path[turn];
}

void scene_write_file(const struct scene *scene, const char *name, const char *text, mode_t mode)
{
    int fd;

    sys(fd = open(scene_path(scene, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    cr_assert(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    sys(fchmod(fd, mode));
    close(fd);
}

struct origin_ref scene_lookup(struct scene *scene, const struct origin_ref *dir, const char *name)
{
    struct origin_ref  ref;
    struct origin_attr attr;
    int                err = origin_lookup(scene->origin, dir, name, &ref, &attr);

    cr_assert(err == 0, "[%s] lookup %s: %d", scene->label, name, err);
    scene_learn(scene, &ref, dir, name);
    return ref;
}

struct origin_ref scene_create(struct scene *scene, const struct origin_ref *dir, const char *name, uint32_t mode)
{
    struct origin_ref  ref;
    struct origin_attr attr;
    bool               created = false;
    int                err = origin_create(scene->origin, dir, name, mode, O_EXCL, &root_cred, &ref, &attr, &created);

    cr_assert(err == 0 && created, "[%s] create %s: %d", scene->label, name, err);
    scene_learn(scene, &ref, dir, name);
    return ref;
}

struct origin_ref scene_mkdir(struct scene *scene, const struct origin_ref *dir, const char *name, uint32_t mode)
{
    struct origin_ref  ref;
    struct origin_attr attr;
    int                err = origin_mkdir(scene->origin, dir, name, mode, &root_cred, &ref, &attr);

    cr_assert(err == 0, "[%s] mkdir %s: %d", scene->label, name, err);
    scene_learn(scene, &ref, dir, name);
    return ref;
}

void scene_expect_text(struct scene *scene, const struct origin_ref *ref, const char *text)
{
    char    got[4096];
    ssize_t len = origin_read(scene->origin, ref, got, sizeof got, 0);

    cr_assert(len == (ssize_t)strlen(text) && memcmp(got, text, (size_t)len) == 0, "[%s] wanted \"%s\", got %zd bytes",
              scene->label, text, len);
}
