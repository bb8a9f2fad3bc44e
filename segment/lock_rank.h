/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_rank.h - the only statement of lock order. Take strictly upward; checked at run time in debug builds (no NDEBUG).
 * Locks that live in the segment and locks of one process share one order, because a thread may hold both.
 */
#ifndef HEARTH_LOCK_RANK_H
#define HEARTH_LOCK_RANK_H

#define LOCK_RANKS(X)                                                                                \
    X(INODE_WRITE, 200)   /* several: lower inode index first                           may sleep   */ \
    X(PAGE_CLAIM, 250)    /* claims in page words; lower page first                     may sleep   */ \
    X(SEG_MEMBERS, 280)   /* join, leave, fence, recovery of the dead: whoever waits may do it  may sleep */ \
    X(INODE_PUBLISH, 300) /* swaps words and attributes only                            never sleeps */ \
    X(APP_LINE, 350)      /* of all waiters for application locks: one is put in line   never sleeps */ \
    X(CACHE_BUCKET, 400)  /* one hash chain                                             never sleeps */ \
    X(PROCESS_LEAF, 900)  /* mutexes of one process around its own tables               never sleeps */

enum lock_rank {
#define X(name, rank) LOCK_RANK_##name = rank,
    LOCK_RANKS(X)
#undef X
};

#ifdef NDEBUG
static inline void lock_rank_push(enum lock_rank rank) { (void)rank; }
static inline void lock_rank_pop(enum lock_rank rank) { (void)rank; }
#else
void lock_rank_push(enum lock_rank rank); /* aborts with both names when `rank` is below one held by this thread */
void lock_rank_pop(enum lock_rank rank);
#endif

#endif
