/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_fixture.h - a small segment with up to eight members in one process, for the unit tests of lockmgr/.
 *
 *   fixture_open();                       the file, member 0 joined
 *   fixture_join(n);                      member n by a mapping of its own
 *   fixture_leave(n);  fixture_close();
 * fixture.member[n].mgr is its lock manager. The words of inode i (0 .. FIXTURE_INODES - 1) are fixture_ref(i): all members look at them through the mapping of
 * member 0, because ThreadSanitizer does not see what two mappings of one memory have to do with each other. A forked child calls fixture_join() too, and uses
 * fixture_ref_of(n, i).
 *
 * A dead member is settled by fixture_settle(), in a thread of its own, as whoever finds it dead holds locks.
 *
 * No assertion of Criterion is made outside the test's own thread: others count what they find wrong with fixture_wrong().
 */
#ifndef HEARTH_LOCK_FIXTURE_H
#define HEARTH_LOCK_FIXTURE_H

#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lock_app_internal.h"
#include "seg.h"
#include "seg_counter.h"
#include "seg_epoch.h"
#include "work.h"

enum { FIXTURE_MEMBERS = 8, FIXTURE_INODES = 8, FIXTURE_GENERATION = 3, FIXTURE_APP_LOCKS = 1024 };

struct fixture_member {
    struct seg      *seg;
    struct work     *work;
    struct lock_mgr *mgr;
    unsigned         slot;
    uint64_t         bit;
    _Atomic unsigned settled; /* how often the dead callback was called */
};

static struct {
    char                  path[64];
    struct seg_plan       plan;
    unsigned              recall_timeout_ms;
    struct fixture_member member[FIXTURE_MEMBERS];
    _Atomic unsigned      wrong;
} fixture;

__attribute__((format(printf, 1, 2))) static inline void fixture_wrong(const char *format, ...)
{
    va_list args;
    if (atomic_fetch_add(&fixture.wrong, 1) > 20)
        return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static inline struct lock_ref fixture_ref_of(unsigned n, unsigned inode)
{
    struct seg_array array = seg_section(fixture.member[n].seg, SEG_SECTION_INODES);
    return (struct lock_ref){.id = (uint64_t)FIXTURE_GENERATION << 32 | (inode + 1), .words = seg_elem(&array, inode)};
}

static inline struct lock_ref fixture_ref(unsigned inode)
{
    return fixture_ref_of(0, inode);
}

static inline struct lock_shared *fixture_resolve(void *arg, uint64_t id)
{
    (void)arg;
    return (uint32_t)id >= 1 && (uint32_t)id <= FIXTURE_INODES ? fixture_ref((uint32_t)id - 1).words : NULL;
}

/* ---- settling the dead ---- */
struct fixture_errand {
    struct fixture_member *me;
    seg_who                who;
};

static inline void *fixture_settle(void *arg)
{
    struct fixture_errand *errand = arg;
    struct seg            *seg = errand->me->seg;
    unsigned               slot = seg_who_slot(errand->who);
    uint32_t               incarnation = 0;

    if (seg_recovery_lock(seg, false) != 0)
        return NULL;
    enum seg_member_state state = seg_member_state(seg, slot, &incarnation);
    if (incarnation == seg_who_incarnation(errand->who) && state != SEG_PARKED && state != SEG_FREE) {
        bool is_dead = seg_member_is_dead(seg, slot);
        seg_member_fence(seg, slot, incarnation);
        for (unsigned i = 0; i < FIXTURE_INODES; i++) {
            struct lock_ref ref = fixture_ref(i);
            lock_recover(errand->me->mgr, &ref, slot);
        }
        if (is_dead) {
            seg_epoch_clear(seg, slot);
            work_recover(errand->me->work, slot);
            lock_app_recover(errand->me->mgr, slot);
            seg_member_park(seg, slot);
        } else {
            lock_app_grant_all(errand->me->mgr);
        }
    }
    seg_recovery_unlock(seg);
    return NULL;
}

static inline void fixture_dead(void *arg, seg_who who)
{
    struct fixture_errand errand = {arg, who};
    pthread_t             thread;
    atomic_fetch_add(&errand.me->settled, 1);
    if (pthread_create(&thread, NULL, fixture_settle, &errand) == 0)
        pthread_join(thread, NULL);
}

/* ---- members ---- */
static inline bool fixture_try_join(unsigned n)
{
    struct fixture_member *me = &fixture.member[n];
    char                   err[SEG_ERR_BYTES] = "", name[16];
    bool                   created = false;

    memset(me, 0, sizeof *me);
    if (seg_open(fixture.path, &fixture.plan, SEG_OPEN_CREATE, &me->seg, &created, err) != 0)
        return false;
    if (created) {
        work_format(me->seg);
        lock_app_format(me->seg);
    }
    snprintf(name, sizeof name, "member%u", n);
    struct seg_join join = {.name = name, .mountpoint = "/mnt/test", .slot_wanted = (int)n};
    memset(join.uuid, 0x10 + (int)n, sizeof join.uuid);
    if (seg_member_join(me->seg, &join, err) != 0 || work_open(me->seg, &me->work) != 0)
        return false;
    struct lock_config config = {.recall_timeout_ms = fixture.recall_timeout_ms,
                                 .dead = fixture_dead, .dead_arg = me, .resolve = fixture_resolve};
    if (lock_mgr_open(me->seg, me->work, &config, &me->mgr) != 0)
        return false;
    seg_member_activate(me->seg);
    me->slot = (unsigned)seg_self_slot(me->seg);
    me->bit = seg_self_bit(me->seg);
    return true;
}

static inline struct fixture_member *fixture_join(unsigned n)
{
    cr_assert(fixture_try_join(n), "member %u cannot join", n);
    return &fixture.member[n];
}

static inline void fixture_leave(unsigned n)
{
    struct fixture_member *me = &fixture.member[n];
    if (!me->seg)
        return;
    lock_mgr_close(me->mgr);
    work_close(me->work);
    seg_member_leave(me->seg);
    seg_close(me->seg);
    memset(me, 0, sizeof *me);
}

static inline struct fixture_member *fixture_open(void)
{
    struct seg_plan *plan = &fixture.plan;
    memset(&fixture, 0, sizeof fixture);
    fixture.recall_timeout_ms = 60000;
    snprintf(fixture.path, sizeof fixture.path, "/dev/shm/hearthfs-test-lock-%d", (int)getpid());
    unlink(fixture.path);
    strcpy(plan->name, "fixture");
    plan->signature = 4712;
    plan->size_bytes = 4 << 20;
    plan->section_count = 8;
    plan->section[0] = (struct seg_plan_section){SEG_SECTION_MEMBERS, SEG_PAGE, sizeof(struct seg_member), SEG_MEMBERS_MAX};
    plan->section[1] = (struct seg_plan_section){SEG_SECTION_INBOXES, SEG_PAGE, work_inbox_stride(), SEG_MEMBERS_MAX};
    plan->section[2] = (struct seg_plan_section){SEG_SECTION_SHARED_QUEUE, SEG_PAGE, work_shared_stride(), 1};
    plan->section[3] = (struct seg_plan_section){SEG_SECTION_INODES, 64, sizeof(struct lock_shared), FIXTURE_INODES};
    plan->section[4] = (struct seg_plan_section){SEG_SECTION_APP_LOCKS, 64, sizeof(struct lock_app_record), FIXTURE_APP_LOCKS};
    plan->section[5] = (struct seg_plan_section){SEG_SECTION_APP_LOCK_HINTS, 64, 8, FIXTURE_APP_LOCKS / 64};
    plan->section[6] = (struct seg_plan_section){SEG_SECTION_APP_LOCK_BUCKETS, 64, 8, FIXTURE_APP_LOCKS};
    plan->section[7] = (struct seg_plan_section){SEG_SECTION_APP_WAIT_BUCKETS, 64, 8, FIXTURE_APP_LOCKS / 4};
    return fixture_join(0);
}

/* With all members: `quiet` holds at the end of any test that gave back what it took. */
static inline void fixture_check(bool quiet)
{
    char err[200] = "";
    for (unsigned i = 0; i < FIXTURE_INODES; i++)
        cr_expect_eq(lock_check(fixture.member[0].seg, fixture_ref(i).words, quiet, err, sizeof err), 0, "inode %u: %s", i, err);
    cr_expect_eq(work_check(fixture.member[0].seg, err, sizeof err), 0, "%s", err);
    cr_expect_eq(lock_app_check(fixture.member[0].seg, quiet, err, sizeof err), 0, "%s", err);
}

static inline void fixture_close(void)
{
    for (unsigned n = FIXTURE_MEMBERS; n-- > 0;)
        fixture_leave(n);
    unlink(fixture.path);
    cr_expect_eq(atomic_load(&fixture.wrong), 0, "%u things went wrong in threads", atomic_load(&fixture.wrong));
}

/* For .fini: a test that failed leaves its file. */
static inline void fixture_remove(void)
{
    if (fixture.path[0])
        unlink(fixture.path);
}

/* In a forked child, first: it goes when the test goes. */
static inline void fixture_child(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* ---- small tools ---- */
static inline void fixture_nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

/* Waits for a condition; the test's own time limit ends it if that never comes. */
#define fixture_until(condition)                                                                                                 \
    do {                                                                                                                         \
        while (!(condition))                                                                                                     \
            fixture_nap();                                                                                                       \
    } while (0)

static inline bool fixture_always(void *arg)
{
    (void)arg;
    return true;
}

static inline unsigned fixture_phase(const struct lock_shared *words)
{
    return lock_word_phase(atomic_load(&words->owner));
}

/* What kernel `n` does when it is asked to: takes the next item of its inbox, waits for one. */
static inline struct work_item fixture_take(unsigned n)
{
    struct work_item item = {0};
    fixture_until(work_take(fixture.member[n].work, &item) == 1);
    return item;
}

/* A thread that takes the lock of one inode, recalls, and then holds it in WRITING until told. */
struct fixture_writer {
    struct fixture_member *me;
    struct lock_recall     recall[3];
    unsigned               count;
    uint64_t               self;
    pthread_t              thread;
    _Atomic int            result;
    _Atomic bool           done, go;
};

static inline void *fixture_write(void *arg)
{
    struct fixture_writer *w = arg;
    int                    result = lock_write_acquire(w->me->mgr, &w->recall[0].ref, 0, NULL, NULL);
    if (result) {
        atomic_store(&w->result, result);
        atomic_store(&w->done, true);
        return NULL;
    }
    atomic_store(&w->result, lock_recall_all(w->me->mgr, w->recall, w->count, w->self));
    atomic_store(&w->done, true);
    fixture_until(atomic_load(&w->go));
    lock_write_release(w->me->mgr, &w->recall[0].ref);
    return NULL;
}

/* `count` data recalls of inode 0, each of another page. */
static inline void fixture_writer_start(struct fixture_writer *w, struct fixture_member *me, unsigned count, uint64_t self)
{
    memset(w, 0, sizeof *w);
    w->me = me;
    w->count = count;
    w->self = self;
    for (unsigned i = 0; i < count; i++)
        w->recall[i] = (struct lock_recall){.ref = fixture_ref(0), .kind = WORK_RECALL_DATA, .arg = (uint64_t)(7 + i) << 32 | 1};
    cr_assert_eq(pthread_create(&w->thread, NULL, fixture_write, w), 0);
}

static inline int fixture_writer_end(struct fixture_writer *w)
{
    atomic_store(&w->go, true);
    pthread_join(w->thread, NULL);
    return atomic_load(&w->result);
}

/* xorshift64*: the seed is printed by the test that uses it */
static inline uint64_t fixture_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717ull;
}

#if defined(__SANITIZE_THREAD__)
enum { FIXTURE_SLOW = 5 }; /* loops are shorter by this */
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
enum { FIXTURE_SLOW = 5 };
#else
enum { FIXTURE_SLOW = 1 };
#endif
#else
enum { FIXTURE_SLOW = 1 };
#endif

#endif
