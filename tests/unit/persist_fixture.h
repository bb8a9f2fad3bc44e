/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist_fixture.h - a segment file and a state directory of their own, sessions in this process and in children, for the unit tests of persist/.
 *
 * Each test is a process of its own; place_begin() makes the folder, place_end() removes it with all that is in it.
 */
#ifndef HEARTH_PERSIST_FIXTURE_H
#define HEARTH_PERSIST_FIXTURE_H

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "persist.h"
#include "seg_counter.h"

enum { PLACE_SIZE = 16 << 20 };

struct place {
    char dir[64], spec[160], path[128], state[128], records[160];
};
static struct place place;

static inline void place_begin(void)
{
    snprintf(place.dir, sizeof place.dir, "/dev/shm/hearthfs-test-persist-%d-XXXXXX", (int)getpid());
    cr_assert_not_null(mkdtemp(place.dir));
    snprintf(place.path, sizeof place.path, "%s/seg", place.dir);
    snprintf(place.spec, sizeof place.spec, "file:%s", place.path);
    snprintf(place.state, sizeof place.state, "%s/state", place.dir);
    snprintf(place.records, sizeof place.records, "%s/tree", place.state);
}

static inline void place_end(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", place.dir);
    cr_expect_eq(system(command), 0);
}

static inline struct persist_config place_config(const char *member)
{
    struct persist_config config = {.spec = place.spec, .name = "tree", .member = member, .mountpoint = "/mnt/tree", .state_dir = place.state,
                                    .size_bytes = PLACE_SIZE, .has_origin = true, .may_create = true, .recall_timeout_ms = 2000};
    memset(config.origin_id, 7, sizeof config.origin_id);
    return config;
}

/* Opens or ends the test. */
static inline void session_open(struct persist_session *session, const char *member)
{
    char                  err[SEG_ERR_BYTES] = "";
    struct persist_config config = place_config(member);
    cr_assert_eq(persist_session_open(&config, session, err), 0, "%s: %s", member, err);
}

static inline void check_print(void *arg, const char *line)
{
    (void)arg;
    fprintf(stderr, "check: %s\n", line);
}

/* Every invariant holds, seen from outside. */
static inline void place_check(void)
{
    char          err[SEG_ERR_BYTES] = "";
    struct seg   *seg;
    struct cache *cache;
    cr_assert_eq(persist_inspect_open(place.spec, &seg, &cache, err), 0, "%s", err);
    cr_expect_eq(persist_check(seg, cache, true, check_print, NULL), 0);
    persist_inspect_close(seg, cache);
}

static inline struct persist_frames place_frames(void)
{
    char                  err[SEG_ERR_BYTES] = "";
    struct seg           *seg;
    struct cache         *cache;
    struct persist_frames frames;
    cr_assert_eq(persist_inspect_open(place.spec, &seg, &cache, err), 0, "%s", err);
    persist_frames_count(seg, &frames);
    persist_inspect_close(seg, cache);
    return frames;
}

static inline bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static inline void sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* Waits until the state of `slot` is `state`; false after 5 s. */
static inline bool state_comes(const struct seg *seg, unsigned slot, enum seg_member_state state)
{
    for (unsigned ms = 0; ms < 5000; ms += 5) {
        if (seg_member_state(seg, slot, NULL) == state)
            return true;
        sleep_ms(5);
    }
    return false;
}

/* A regular file's inode, the same for every session that asks with the same serial. */
static inline uint64_t file_inode(struct persist_session *session, uint64_t serial)
{
    uint8_t  ref[CACHE_REF_BYTES] = {0};
    uint64_t id = 0;
    memcpy(ref, &serial, sizeof serial);
    ref[8] = 0xf1;
    cr_assert_eq(cache_inode_intern(session->cache, ref, true, &id, NULL), 0);
    return id;
}

static inline struct cache_attr file_attr(uint64_t serial, uint64_t size_bytes)
{
    return (struct cache_attr){.ino = serial, .size_bytes = size_bytes, .mode = 0100644, .nlink = 1, .blksize = CACHE_PAGE};
}

/* ---- children ---- */

struct child {
    pid_t pid;
    int   said; /* the child writes a byte when it is where the test wants it */
};

/* Runs fn(say) in a child that stops there for good; returns when it has said so. */
static inline struct child child_start(void (*fn)(void))
{
    int          ends[2];
    struct child child;
    char         byte = 0;
    cr_assert_eq(pipe(ends), 0);
    child.pid = fork();
    cr_assert_geq(child.pid, 0);
    if (child.pid == 0) {
        close(ends[0]);
        fn();
        if (write(ends[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ends[1]);
    child.said = ends[0];
    cr_assert_eq(read(child.said, &byte, 1), 1, "the child died before it was there");
    return child;
}

static inline void child_kill(struct child *child)
{
    kill(child->pid, SIGKILL);
    waitpid(child->pid, NULL, 0);
    close(child->said);
}

#endif
