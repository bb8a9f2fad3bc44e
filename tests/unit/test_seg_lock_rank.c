/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of lock_rank.c. Without assertions (NDEBUG) nothing aborts. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>

#include "lock_rank.h"

/* Goal:   the order of lock_rank.h may be walked upward, with several locks of one rank, and released in any order.
 * Method: do so twice; any objection aborts the test. */
Test(lock_rank, upward_is_allowed)
{
    for (int round = 0; round < 2; round++) {
        lock_rank_push(LOCK_RANK_INODE_WRITE);
        lock_rank_push(LOCK_RANK_INODE_WRITE);
        for (int page = 0; page < 300; page++)
            lock_rank_push(LOCK_RANK_PAGE_CLAIM);
        lock_rank_push(LOCK_RANK_SEG_MEMBERS);
        lock_rank_push(LOCK_RANK_INODE_PUBLISH);
        lock_rank_push(LOCK_RANK_CACHE_BUCKET);
        lock_rank_push(LOCK_RANK_PROCESS_LEAF);
        lock_rank_pop(LOCK_RANK_INODE_WRITE);
        lock_rank_pop(LOCK_RANK_CACHE_BUCKET);
        lock_rank_pop(LOCK_RANK_PROCESS_LEAF);
        lock_rank_pop(LOCK_RANK_INODE_PUBLISH);
        lock_rank_pop(LOCK_RANK_SEG_MEMBERS);
        for (int page = 0; page < 300; page++)
            lock_rank_pop(LOCK_RANK_PAGE_CLAIM);
        lock_rank_push(LOCK_RANK_INODE_WRITE);
        lock_rank_pop(LOCK_RANK_INODE_WRITE);
        lock_rank_pop(LOCK_RANK_INODE_WRITE);
    }
    cr_assert(true);
}

static void *push_low(void *arg)
{
    (void)arg;
    lock_rank_push(LOCK_RANK_SEG_MEMBERS);
    lock_rank_pop(LOCK_RANK_SEG_MEMBERS);
    return NULL;
}

/* Goal:   what one thread holds does not bind another.
 * Method: hold a high rank, take a low one elsewhere. */
Test(lock_rank, threads_are_apart)
{
    pthread_t thread;
    lock_rank_push(LOCK_RANK_PROCESS_LEAF);
    cr_assert_eq(pthread_create(&thread, NULL, push_low, NULL), 0);
    pthread_join(thread, NULL);
    lock_rank_pop(LOCK_RANK_PROCESS_LEAF);
}

#ifndef NDEBUG
/* Goal:   a lock taken against the order aborts.
 * Method: a bucket, then an inode's write lock. */
Test(lock_rank, downward_aborts, .signal = SIGABRT)
{
    lock_rank_push(LOCK_RANK_CACHE_BUCKET);
    lock_rank_push(LOCK_RANK_INODE_WRITE);
}

/* Goal:   releasing what is not held aborts.
 * Method: pop on an empty thread. */
Test(lock_rank, release_of_nothing_aborts, .signal = SIGABRT)
{
    lock_rank_pop(LOCK_RANK_INODE_WRITE);
}
#endif
