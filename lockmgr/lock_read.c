/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_read.c - the reader's side: taking an interest, and waiting for a writer.
 *
 *   R0  another member owns the lock and this member owes nothing: wait, without setting the bit. Either it has acknowledged (then the writer needs
 *       nothing more of it, and not setting the bit keeps hot readers from making the writer start over), or it has not been asked yet; when it is
 *       asked, its dispatcher wakes the waiting reader, which then answers at once.
 *   R1  set the bit   R2  look again: WRITING -> wait (the bit may stay: it costs the writer one more round at most)
 *                                     RECALLING, owing -> answer the old data: the write has not happened, and the recall will drop it
 *                                     RECALLING, owing nothing -> wait, as R0; but when a recall of another inode is stuck in the own
 *                                     kernel (lock_stuck_set), what is asked for may be what it waits for: answer the old data, W4 finds the bit
 * Pages are stricter (lock_read_begin_page): a READ never gets old data while anybody, this member too, is recalling or writing, and the recall does not wait for it: it is
 * made known to the invalidation, which leaves its pages out (fs_inflight.c). While it is unanswered they are locked and not up to date, so nobody can see them or dirty
 * them. So neither hot readers nor hot mappings can make a writer start over, and what write-back slips past a writer is bounded by what is dirty when it begins.
 *
 * If this member dies between R1 and its answer, recovery clears the bit.
 */
#include "lock_internal.h"

enum { STUCK_MS = 2 * LOCK_POLL_MS };

void lock_stuck_set(struct lock_mgr *mgr, bool (*stuck)(void *arg), void *arg)
{
    mgr->stuck_arg = arg;
    mgr->stuck = stuck;
}

static bool is_stuck(const struct lock_mgr *mgr)
{
    uint64_t until = atomic_load_explicit(&mgr->stuck_until_ms, memory_order_relaxed);
    return until && lock_now_ms() < until;
}

/* Asked by those who wait, now and then. */
static void look_if_stuck(struct lock_mgr *mgr)
{
    if (mgr->stuck && mgr->stuck(mgr->stuck_arg))
        atomic_store_explicit(&mgr->stuck_until_ms, lock_now_ms() + STUCK_MS, memory_order_relaxed);
}

/* May a reader answer now? Looks only. */
static bool may_answer(const struct lock_mgr *mgr, const struct lock_shared *words)
{
    uint64_t owner = atomic_load_explicit(&words->owner, memory_order_seq_cst); /* R2, pairs with W1 and W3 */
    if (!owner || lock_word_slot(owner) == mgr->self_slot)
        return true;
    unsigned phase = lock_word_phase(owner);
    if (phase == LOCK_GRANTED)
        return true;
    return phase == LOCK_RECALLING && (lock_recall_owed(mgr, words) || is_stuck(mgr));
}

enum lock_read lock_read_peek(struct lock_mgr *mgr, struct lock_shared *words)
{
    return may_answer(mgr, words) ? LOCK_READ_GO : LOCK_READ_WAIT;
}

enum lock_read lock_read_begin(struct lock_mgr *mgr, struct lock_shared *words)
{
    if (!may_answer(mgr, words)) /* R0 */
        return LOCK_READ_WAIT;
    lock_interest_take(mgr, words); /* R1 */
    return may_answer(mgr, words) ? LOCK_READ_GO : LOCK_READ_WAIT; /* R2 */
}

/* ---- pages ---- */
static bool page_may_answer(const struct lock_shared *words)
{
    uint64_t owner = atomic_load_explicit(&words->owner, memory_order_seq_cst); /* R2, pairs with W1 */
    return !owner || lock_word_phase(owner) == LOCK_GRANTED;
}

void lock_interest_take(struct lock_mgr *mgr, struct lock_shared *words)
{
    /* Always by a store: that the bits are there says nothing about a recall that is about to take them (A1). Interest first, for W4 looks at touched. */
    atomic_fetch_or_explicit(&words->interest, mgr->self_bit, memory_order_seq_cst);
    atomic_fetch_or_explicit(&words->touched, mgr->self_bit, memory_order_seq_cst);
}

enum lock_read lock_read_begin_page(struct lock_mgr *mgr, struct lock_shared *words)
{
    if (!page_may_answer(words))
        return LOCK_READ_WAIT;
    lock_interest_take(mgr, words); /* R1 */
    return page_may_answer(words) ? LOCK_READ_GO : LOCK_READ_WAIT;
}

int lock_read_wait(struct lock_mgr *mgr, const struct lock_ref *ref, bool page, bool (*stop)(void *), void *stop_arg)
{
    uint64_t looked = lock_now_ms();
    for (;;) {
        uint32_t event = lock_wait_prepare(mgr, ref->words);
        if (page ? page_may_answer(ref->words) : may_answer(mgr, ref->words))
            return 0;
        if (stop && stop(stop_arg))
            return -EINTR;
        if (!seg_self_stands(mgr->seg))
            return -EIO;
        uint64_t now = lock_now_ms();
        if (now - looked >= LOCK_POLL_MS) {
            uint64_t owner = atomic_load_explicit(&ref->words->owner, memory_order_relaxed);
            looked = now;
            if (!page)
                look_if_stuck(mgr);
            if (!lock_word_is_sane(owner))
                return -EUCLEAN;
            if (owner)
                lock_settle_if_dead(mgr, lock_word_slot(owner), lock_word_incarnation(owner));
        }
        lock_wait_sleep(mgr, ref->words, event, LOCK_POLL_MS);
    }
}

void lock_interest_drop(struct lock_mgr *mgr, struct lock_shared *words)
{
    uint64_t either = atomic_load_explicit(&words->interest, memory_order_relaxed) | atomic_load_explicit(&words->touched, memory_order_relaxed);
    if (!(either & mgr->self_bit))
        return;
    atomic_fetch_and_explicit(&words->touched, ~mgr->self_bit, memory_order_seq_cst);
    atomic_fetch_and_explicit(&words->interest, ~mgr->self_bit, memory_order_seq_cst);
}

bool lock_recall_owed(const struct lock_mgr *mgr, const struct lock_shared *words)
{
    return atomic_load_explicit(&words->owed, memory_order_seq_cst) & mgr->self_bit;
}

bool lock_recall_begin(struct lock_mgr *mgr, const struct lock_ref *ref, enum lock_scope scope)
{
    uint64_t keep = scope == LOCK_SCOPE_MORE ? UINT64_MAX : ~mgr->self_bit;
    uint64_t before = atomic_fetch_and_explicit(&ref->words->touched, keep, memory_order_seq_cst); /* A1 */
    bool     all = scope == LOCK_SCOPE_ALL || (scope == LOCK_SCOPE_SHRINK && !(before & mgr->self_bit));
    if (all)
        atomic_fetch_and_explicit(&ref->words->interest, ~mgr->self_bit, memory_order_seq_cst);
    else if (before & mgr->self_bit) /* a reader may have set both bits while an earlier recall gave up interest: the rest that stays must be asked for */
        atomic_fetch_or_explicit(&ref->words->interest, mgr->self_bit, memory_order_seq_cst);
    lock_wake(mgr, ref); /* readers of this member that wait may answer now, and must: the kernel's invalidation waits for their pages */
    return all;
}

uint32_t lock_recall_round(const struct lock_shared *words)
{
    return atomic_load_explicit(&words->round, memory_order_seq_cst);
}

void lock_recall_ack(struct lock_mgr *mgr, const struct lock_ref *ref, uint32_t round)
{
    if (lock_recall_round(ref->words) != round)
        return; /* somebody else's recall, which has an item of its own */

    seg_count(mgr->seg, SEG_COUNTER_recalls_served, 1);
    atomic_fetch_and_explicit(&ref->words->owed, ~mgr->self_bit, memory_order_seq_cst); /* A3 */
    lock_wake(mgr, ref);
}

void lock_slipped(struct lock_mgr *mgr, struct lock_shared *words)
{
    seg_count(mgr->seg, SEG_COUNTER_slipped_writes, 1);
    atomic_store_explicit(&words->slipped, 1, memory_order_seq_cst);
}
