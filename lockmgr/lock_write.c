/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_write.c - taking, handing over and releasing the write lock of inodes.
 *
 *        CAS                      lock_recall_all            release
 *  free ------> RECALLING(self) <-----------------> WRITING(self) ------> free, or GRANTED(next) when somebody starves
 *                   ^                                                        |
 *                   +------------------------ CAS by a thread of `next` <----+
 *
 * The word names slot and incarnation, so threads of one member exclude each other by the same word. Every change of the word is a CAS on exactly what was read:
 * a fenced owner that wakes up releases nothing. If the owner dies, whoever waits has it settled (lock_wait.c).
 */
#include <stdlib.h>

#include "lock_internal.h"

static bool cas_owner(struct lock_shared *words, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(&words->owner, &from, to, memory_order_seq_cst, memory_order_relaxed); /* W1 */
}

/* One attempt: free, or handed to this member. */
static bool try_take(struct lock_mgr *mgr, struct lock_shared *words)
{
    uint64_t seen = atomic_load_explicit(&words->owner, memory_order_seq_cst); /* S3 of lock_wait.c */
    if (seen == 0 || seen == lock_own_word(mgr, LOCK_GRANTED))
        return cas_owner(words, seen, lock_own_word(mgr, LOCK_RECALLING));
    return false;
}

/* Whoever owns it, this member too: it may have recalled its own kernel, which then writes back before it drops. */
static bool must_slip(const struct lock_mgr *mgr, const struct lock_shared *words)
{
    uint64_t owner = atomic_load_explicit(&words->owner, memory_order_seq_cst);
    return owner && lock_word_phase(owner) == LOCK_RECALLING && lock_recall_owed(mgr, words);
}

/*
 * Looks after an owner that does not move: dead, or a grant that nobody takes up. `grant_ms` remembers since when a grant has stood. -EUCLEAN: the word
 * makes no sense, and nobody will change it.
 */
static int look_after_owner(struct lock_mgr *mgr, const struct lock_ref *ref, uint64_t *grant_word, uint64_t *grant_ms)
{
    uint64_t owner = atomic_load_explicit(&ref->words->owner, memory_order_relaxed);
    if (!lock_word_is_sane(owner))
        return -EUCLEAN;
    if (!owner)
        return 0;
    if (lock_word_phase(owner) == LOCK_GRANTED) {
        if (*grant_word != owner) {
            *grant_word = owner;
            *grant_ms = lock_now_ms();
        } else if (lock_now_ms() - *grant_ms > LOCK_STALE_GRANT_MS && cas_owner(ref->words, owner, 0)) {
            lock_wake(mgr, ref);
        }
        return 0;
    }
    *grant_word = 0;
    lock_settle_if_dead(mgr, lock_word_slot(owner), lock_word_incarnation(owner));
    return 0;
}

/* Nobody here wants it any more, or may have it: what this member holds in `phase`, having changed nothing, is free. */
static void give_back(struct lock_mgr *mgr, const struct lock_ref *ref, unsigned phase)
{
    if (cas_owner(ref->words, lock_own_word(mgr, phase), 0))
        lock_wake(mgr, ref);
}

static int wait_and_take(struct lock_mgr *mgr, const struct lock_ref *ref, unsigned flags, bool (*stop)(void *), void *stop_arg)
{
    struct lock_shared *words = ref->words;
    uint64_t            start = lock_now_ms(), looked = start, grant_word = 0, grant_ms = 0;
    bool                starves = false;
    int                 result = 0;

    seg_count(mgr->seg, SEG_COUNTER_lock_waits, 1);
    for (;;) {
        uint32_t event = lock_wait_prepare(mgr, words);
        if (try_take(mgr, words))
            break;
        if ((flags & LOCK_MAY_SLIP) && must_slip(mgr, words)) {
            result = -EDEADLK;
            break;
        }
        if (stop && stop(stop_arg)) {
            result = -EINTR;
            break;
        }
        if (!seg_self_stands(mgr->seg)) {
            result = -EIO;
            break;
        }
        uint64_t now = lock_now_ms();
        if (now - start >= LOCK_STARVE_MS) {
            starves = true;
            atomic_fetch_or_explicit(&words->starving, mgr->self_bit, memory_order_relaxed);
        }
        if (now - looked >= LOCK_POLL_MS) {
            looked = now;
            result = look_after_owner(mgr, ref, &grant_word, &grant_ms);
            if (result)
                break;
        }
        lock_wait_sleep(mgr, words, event, now - start < LOCK_STARVE_MS ? LOCK_STARVE_MS : LOCK_POLL_MS);
    }
    /* A bit left behind would have the lock handed to nobody. Others of this member that starve set it again. */
    if (starves)
        atomic_fetch_and_explicit(&words->starving, ~mgr->self_bit, memory_order_relaxed);
    if (result)
        give_back(mgr, ref, LOCK_GRANTED);
    return result;
}

int lock_write_acquire(struct lock_mgr *mgr, const struct lock_ref *ref, unsigned flags, bool (*stop)(void *), void *stop_arg)
{
    if (!ref->words)
        return -ESTALE;
    if (!try_take(mgr, ref->words)) {
        if (flags & LOCK_TRY)
            return -EBUSY;
        int result = wait_and_take(mgr, ref, flags, stop, stop_arg);
        if (result)
            return result;
    }
    if (!seg_self_stands(mgr->seg)) {
        give_back(mgr, ref, LOCK_RECALLING);
        return -EIO;
    }
    lock_rank_push(LOCK_RANK_INODE_WRITE);
    return 0;
}

static int by_index(const void *a, const void *b)
{
    uint64_t x = ((const struct lock_ref *)a)->id, y = ((const struct lock_ref *)b)->id;
    x = x << 32 | x >> 32; /* index, then generation */
    y = y << 32 | y >> 32;
    return (x > y) - (x < y);
}

int lock_write_acquire_set(struct lock_mgr *mgr, struct lock_ref *refs, unsigned count, bool (*stop)(void *), void *stop_arg)
{
    qsort(refs, count, sizeof *refs, by_index);
    for (unsigned i = 0; i < count; i++) {
        if (!refs[i].id)
            continue;
        if (i && refs[i].id == refs[i - 1].id) {
            refs[i - 1].id = 0; /* keep the later one; this one must not be locked twice */
            refs[i].words = refs[i - 1].words;
            continue;
        }
        bool is_stale = i && refs[i - 1].id && (uint32_t)refs[i].id == (uint32_t)refs[i - 1].id; /* two lives of one record: one is over */
        int  result = is_stale ? -ESTALE : lock_write_acquire(mgr, &refs[i], 0, stop, stop_arg);
        if (result) {
            lock_write_release_set(mgr, refs, i);
            return result;
        }
    }
    return 0;
}

/* The next starving member that is at work, round robin from the own slot, so that nobody is passed over for ever. */
static uint64_t pick_starving(struct lock_mgr *mgr, struct lock_shared *words)
{
    uint64_t starving = atomic_load_explicit(&words->starving, memory_order_relaxed);
    for (unsigned i = 1; starving && i <= SEG_MEMBERS_MAX; i++) {
        unsigned slot = (mgr->self_slot + i) % SEG_MEMBERS_MAX;
        uint32_t incarnation;
        if (!(starving >> slot & 1))
            continue;
        if (!(atomic_fetch_and_explicit(&words->starving, ~(1ull << slot), memory_order_relaxed) >> slot & 1))
            continue; /* it has got the lock, or given up */
        if (seg_member_state(mgr->seg, slot, &incarnation) == SEG_ACTIVE)
            return lock_word(slot, LOCK_GRANTED, incarnation);
    }
    return 0;
}

void lock_write_release(struct lock_mgr *mgr, const struct lock_ref *ref)
{
    uint64_t owner = atomic_load_explicit(&ref->words->owner, memory_order_relaxed);
    uint64_t next = 0;

    lock_rank_pop(LOCK_RANK_INODE_WRITE);
    if (!lock_write_held(mgr, ref->words) || !seg_self_stands(mgr->seg))
        return; /* fenced meanwhile: recovery has taken it, or will, after it has dropped what was changed by half */
    if (atomic_load_explicit(&ref->words->starving, memory_order_relaxed))
        next = pick_starving(mgr, ref->words);
    if (next)
        seg_count(mgr->seg, SEG_COUNTER_lock_handoffs, 1);
    cas_owner(ref->words, owner, next);
    lock_wake(mgr, ref);
}

void lock_write_release_set(struct lock_mgr *mgr, const struct lock_ref *refs, unsigned count)
{
    while (count--)
        if (refs[count].id)
            lock_write_release(mgr, &refs[count]);
}

bool lock_write_held(const struct lock_mgr *mgr, const struct lock_shared *words)
{
    uint64_t owner = atomic_load_explicit(&words->owner, memory_order_relaxed);
    return owner && lock_word_slot(owner) == mgr->self_slot &&
           lock_word_incarnation(owner) == seg_self_incarnation(mgr->seg) && lock_word_phase(owner) != LOCK_GRANTED;
}
