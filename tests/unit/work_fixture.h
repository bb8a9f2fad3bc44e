/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work_fixture.h - a segment of members and queues only, for the unit tests of work/.
 *
 * Each fixture_member() is a mapping with an open file description of its own: another member, also within one process.
 */
#ifndef HEARTH_WORK_FIXTURE_H
#define HEARTH_WORK_FIXTURE_H

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "seg_counter.h"
#include "work_private.h"

enum { FIXTURE_SIGNATURE = 815, FIXTURE_SIZE = 4 << 20 };

#if defined(__SANITIZE_THREAD__)
enum { FIXTURE_TSAN = 1 };
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
enum { FIXTURE_TSAN = 1 };
#else
enum { FIXTURE_TSAN = 0 };
#endif
#else
enum { FIXTURE_TSAN = 0 };
#endif

struct member {
    struct seg  *seg;
    struct work *work;
    unsigned     slot;
};

static inline const char *fixture_path(void)
{
    static char path[64]; /* a forked child goes on using its parent's */
    if (!path[0])
        snprintf(path, sizeof path, "/dev/shm/hearthfs-test-work-%d", (int)getpid());
    return path;
}

static inline void fixture_remove(void)
{
    unlink(fixture_path());
}

/* Opens and joins as `id`; the caller activates or, by fixture_member(), it is done here. */
static inline struct member fixture_join(uint8_t id)
{
    struct seg_plan plan = {
        .size_bytes = FIXTURE_SIZE, .signature = FIXTURE_SIGNATURE, .name = "fixture", .section_count = 3};
    char            err[SEG_ERR_BYTES] = "", name[16];
    struct member   member;
    struct seg_join join = {.name = name, .mountpoint = "/mnt/test", .slot_wanted = -1};

    plan.section[0] = (struct seg_plan_section){SEG_SECTION_MEMBERS, SEG_PAGE, sizeof(struct seg_member), SEG_MEMBERS_MAX};
    plan.section[1] = (struct seg_plan_section){SEG_SECTION_INBOXES, SEG_PAGE, work_inbox_stride(), SEG_MEMBERS_MAX};
    plan.section[2] = (struct seg_plan_section){SEG_SECTION_SHARED_QUEUE, SEG_PAGE, work_shared_stride(), 1};
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &member.seg, NULL, err), 0, "%s", err);
    work_format(member.seg);
    memset(join.uuid, id, sizeof join.uuid);
    snprintf(name, sizeof name, "member%u", id);
    cr_assert_eq(seg_member_join(member.seg, &join, err), 0, "%s", err);
    cr_assert_eq(work_open(member.seg, &member.work), 0);
    member.slot = (unsigned)seg_self_slot(member.seg);
    return member;
}

static inline struct member fixture_member(uint8_t id)
{
    struct member member = fixture_join(id);
    seg_member_activate(member.seg);
    return member;
}

static inline void fixture_leave(struct member *member)
{
    work_close(member->work);
    seg_member_leave(member->seg);
    seg_close(member->seg);
}

static inline struct work_item ping(uint64_t key, uint64_t arg)
{
    return (struct work_item){.kind = WORK_PING, .key = key, .arg = arg};
}

static inline int post(const struct member *member, unsigned slot, uint64_t key, uint64_t arg, bool merge)
{
    struct work_item item = ping(key, arg);
    return work_post(member->work, slot, &item, merge);
}

static inline uint64_t counted(const struct member *member, enum seg_counter counter)
{
    return seg_counter_read(member->seg, member->slot, counter);
}

static inline struct work_queue *inbox_of(const struct member *member)
{
    uint32_t cells;
    return work_queue_at(member->seg, member->slot, &cells);
}

static inline void assert_sound(const struct member *member)
{
    char err[256] = "";
    cr_assert_eq(work_check(member->seg, err, sizeof err), 0, "%s", err);
}

/* A child process that joins as `id`, runs fn and dies by SIGKILL, or by exit(1) if fn returns. Waits for its end. */
static inline void fixture_killed_child(uint8_t id, void (*fn)(struct member *member))
{
    fixture_path();
    pid_t pid = fork();
    if (pid == 0) {
        struct member member = fixture_member(id);
        fn(&member);
        _exit(1);
    }
    int status = 0;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %#x", status);
}

static inline void die(void *arg)
{
    (void)arg;
    raise(SIGKILL);
}

#endif
