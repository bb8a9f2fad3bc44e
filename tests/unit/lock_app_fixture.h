/* SPDX-License-Identifier: Apache-2.0 */
/* lock_app_fixture.h - what the tests of application locks share, on top of lock_fixture.h. Owner n has file 200 + n and process 300 + n. */
#ifndef HEARTH_LOCK_APP_FIXTURE_H
#define HEARTH_LOCK_APP_FIXTURE_H

#include <sys/mman.h>

#include "lock_fixture.h"

#define RECORD LOCK_APP_RECORD
#define FLOCK  LOCK_APP_FLOCK
#define READ   LOCK_APP_READ
#define WRITE  LOCK_APP_WRITE
#define NONE   LOCK_APP_NONE

static inline struct lock_mgr *mgr_of(unsigned member)
{
    return fixture.member[member].mgr;
}

static inline struct lock_app_request request(unsigned inode, unsigned owner, enum lock_app_type type, uint64_t first, uint64_t last)
{
    return (struct lock_app_request){.ref = fixture_ref(inode), .kind = RECORD, .type = type, .first = first, .last = last,
                                     .owner = 100 + owner, .file = 200 + owner, .pid = 300 + owner};
}

static inline int set(unsigned member, struct lock_app_request what)
{
    return lock_app_set(mgr_of(member), &what);
}

static inline uint64_t wait_for(unsigned member, struct lock_app_request what)
{
    uint64_t wait = 0;
    int      rc = lock_app_set_or_wait(mgr_of(member), &what, &wait);
    cr_assert_eq(rc, -EINPROGRESS, "member %u, owner %llu: %d instead of a wait", member, (unsigned long long)what.owner, rc);
    return wait;
}

static inline int poll_for(unsigned member, struct lock_app_request what, uint64_t wait)
{
    return lock_app_poll(mgr_of(member), &what, wait);
}

/* The next message to a member names that waiter. */
static inline void expect_told(unsigned member, uint64_t wait)
{
    struct work_item item = {0};
    cr_assert_eq(work_take(fixture.member[member].work, &item), 1, "member %u is told nothing", member);
    cr_expect_eq(item.kind, WORK_LOCK_GRANT);
    cr_expect_eq(item.arg, wait);
}

static inline void expect_told_nothing(unsigned member)
{
    struct work_item item = {0};
    cr_expect_eq(work_take(fixture.member[member].work, &item), 0, "member %u is told of kind %u", member, item.kind);
}

static inline int count_one(void *arg, const struct lock_app_record *record)
{
    (void)record;
    ++*(unsigned *)arg;
    return 0;
}

static inline unsigned listed(void)
{
    unsigned count = 0;
    cr_assert_eq(lock_app_list(fixture.member[0].seg, count_one, &count), 0);
    return count;
}

/* Elements that are free when every member has reaped. */
static inline unsigned free_count(void)
{
    unsigned         count = 0;
    struct seg_pool *pool = mgr_of(0)->app->pool;
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned m = 0; m < FIXTURE_MEMBERS; m++)
            if (fixture.member[m].mgr)
                seg_pool_reap(mgr_of(m)->app->pool);
        fixture_nap(); /* scans of epochs are rate-limited */
    }
    for (unsigned i = 0; i < seg_pool_count(pool); i++)
        count += seg_pool_word_state(seg_pool_load(pool, i)) == SEG_POOL_FREE;
    return count;
}

static inline void open_members(unsigned count)
{
    fixture_open();
    for (unsigned m = 1; m < count; m++)
        fixture_join(m);
}

static inline void close_clean(unsigned free_at_start)
{
    cr_expect_eq(listed(), 0);
    cr_expect_eq(free_count(), free_at_start, "%u of %u records are free", free_count(), free_at_start);
    fixture_check(true);
    fixture_close();
}

#endif
