/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.h - work between members: inboxes, the shared queue, and doorbells that wake nobody who is awake.
 *
 * Every member owns an inbox: any member posts, only the owner's one dispatcher thread takes. The shared queue holds work that any member may
 * take. Items are small {kind, key, arg}; what does not fit lives in the segment and is named by index. An item equal to one that is
 * committed and not yet taken is merged with it (the word of that cell is bumped by CAS, which proves it was not taken). Equal means kind, key
 * and arg; `from` stays that of the first. Whoever takes the item sees everything that any of its posters wrote before posting.
 * An item may outlive its receiver's incarnation and reach the next one: items say where to look, the truth is in the segment.
 *
 * Waking (labels as in work_bell.c; modelled in tests/model/queue.pml and bell.pml):
 *   sender:    commit item (A), full fence (B), read bell: BUSY -> nothing; ASLEEP -> CAS to WOKEN, the winner rings; WOKEN -> nothing
 *   receiver:  bell := ASLEEP (C), full fence (D), look at the queue once more, sleep on the bell for at most WORK_SLEEP_MS, bell := BUSY
 * A sender that dies between WOKEN and the ring costs at most WORK_SLEEP_MS. A full inbox is back-pressure, never loss: work_post() answers
 * -EAGAIN after it has rung, work_post_wait() waits.
 */
#ifndef HEARTH_WORK_H
#define HEARTH_WORK_H

#include "seg_member.h"
#include "work_shared.h"

enum { WORK_SLEEP_MS = 50 };

/* Kinds known to all floors; each floor owns the meaning of its own. */
enum work_kind {
    WORK_NONE = 0,
    WORK_RECALL_DATA = 1,  /* key: node id, arg: first page : 32 | page count : 32 (UINT32_MAX: to the end; 0: attributes only) */
    WORK_RECALL_NAME = 2,  /* key: directory's node id, arg: name index : 32 | low bits of its generation : 32    */
    WORK_RECALL_NAMES = 3, /* key: directory's node id: all its names and its listing                             */
    WORK_LOCK_EVENT = 4,   /* key: node id: look again at the lock you wait for                                   */
    WORK_PRUNE = 5,        /* key: node id: have your kernel forget it if it is idle                              */
    WORK_EVICT = 6,        /* shared queue: frames are below the low-water mark; key: how many                    */
    WORK_LOCK_GRANT = 10,  /* key: node id, arg: which waiter: an application lock has been granted               */
    WORK_FORGOTTEN = 8,    /* key: node id without names that no kernel knows any more: the origin may let it go    */
    WORK_PING = 7,         /* tests                                                                               */
    WORK_RECALL_NAME_MORE = 9, /* as RECALL_NAME, a further name of a directory in the same change                */
};

struct work_item {
    uint32_t kind, from; /* from: the producer's slot, filled in by the queue; a peer's word: check before use */
    uint64_t key, arg;
    uint32_t round; /* 16 bits, the producer's: items of different rounds are not equal (lockmgr/ tells recalls apart by it) */
};

struct work; /* one process's handle over all queues of a segment */

/* Strides and counts for the plan of a new segment. */
uint64_t work_inbox_stride(void);
uint64_t work_shared_stride(void);
/* Creation: the sections are zero, which is right for everything but the cell counts; this sets them. Idempotent. */
void work_format(struct seg *seg);

int  work_open(struct seg *seg, struct work **out); /* after join; -EPROTO sections missing or of another shape, -ENOMEM */
void work_close(struct work *work);

/* Posts to the inbox of `slot`. 0; -EAGAIN full (the receiver has been rung); -ESRCH the slot is not ACTIVE; -EIO the own incarnation no
 * longer stands; -EUCLEAN the queue's words are nonsense. merge: may be merged with an equal committed item. Never blocks, takes no lock. */
int work_post(struct work *work, unsigned slot, const struct work_item *item, bool merge);
/* The same, waiting while the inbox is full: -ETIMEDOUT after timeout_ms. */
int work_post_wait(struct work *work, unsigned slot, const struct work_item *item, bool merge, unsigned timeout_ms);
/* Posts to the shared queue and rings one dispatcher that sleeps, if any. Errors as work_post(), without -ESRCH. */
int work_share(struct work *work, const struct work_item *item, bool merge);

/* Takes the next item of the own inbox (dispatcher thread only): 1 taken, 0 empty, -EUCLEAN nonsense in the queue. So loop while it is == 1.
 * Passes over cells whose producer no longer stands; a cell that is reserved by a living producer ends the queue until it is committed. */
int work_take(struct work *work, struct work_item *item);
/* Takes one of the shared queue: 1, 0, -EUCLEAN likewise. Any thread. A taker that dies takes the item with it. */
int work_take_shared(struct work *work, struct work_item *item);
/* Dispatcher: sleeps until rung or for max_ms (at most WORK_SLEEP_MS); returns at once when something is in the own inbox or in the shared
 * queue (so a dispatcher must drain both). */
void work_sleep(struct work *work, unsigned max_ms);
/* Wakes the own dispatcher, or lets its next sleep return at once (shutdown). Any thread. */
void work_kick(struct work *work);
/* Recovery, for a member proven dead (or the own slot while JOINING, for its former lives): RESERVED cells of `slot` in all queues become
 * SKIPPED, its own inbox is emptied, every bell found WOKEN is rung. Under the recovery lock. Idempotent; may itself die at any point. */
void work_recover(struct work *work, unsigned slot);
/* Walks every queue: -EUCLEAN and one line in err at the first broken invariant. */
int work_check(const struct seg *seg, char *err, size_t err_size);
/* Items now in the inbox of `slot` (for status). */
unsigned work_depth(const struct work *work, unsigned slot);

#endif
