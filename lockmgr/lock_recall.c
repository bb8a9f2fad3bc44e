/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_recall.c - the writer's side of the recall protocol: W1 to W4 of lock.h, for one inode or several at once.
 *
 * Several recalls may name one inode (a rename inside one directory has two names). A member owes one acknowledgement per inode at a time, so the
 * recalls of one inode go out one after another, each to the members that were interested when the first went out; those of different inodes go out
 * together. When all have come in, the phases become WRITING, and then interest is looked at once more (W4).
 *
 * Who does not answer: a dead member is settled (its bits cleared by recovery); one that lets recall_timeout_ms pass is fenced and settled alike; the wait
 * then goes on with the others. The own death in here leaves owed bits behind; recovery of the owner clears them (lock_recover).
 */
#include <string.h>

#include "lock_internal.h"

enum { POST_WAIT_MS = 20, RECALLS_MAX = 16 };

struct round {
    const struct lock_recall *recall[RECALLS_MAX]; /* at most one per inode */
    unsigned                  count;
};

static void set_phase(struct lock_mgr *mgr, struct lock_shared *words, unsigned phase)
{
    uint64_t owner = atomic_load_explicit(&words->owner, memory_order_relaxed);
    uint64_t want = lock_own_word(mgr, phase);
    if (lock_write_held(mgr, words) && owner != want)
        atomic_compare_exchange_strong_explicit(&words->owner, &owner, want, memory_order_seq_cst, memory_order_relaxed); /* W1, W3 */
}

static int post_recall(struct lock_mgr *mgr, unsigned slot, const struct lock_recall *recall)
{
    struct work_item item = {.kind = recall->kind, .key = recall->ref.id, .arg = recall->arg};
    uint64_t         deadline = lock_now_ms() + mgr->config.recall_timeout_ms;
    for (;;) {
        int result = work_post_wait(mgr->work, slot, &item, true, POST_WAIT_MS);
        if (result != -EAGAIN && result != -ETIMEDOUT)
            return result;
        uint32_t incarnation = 0;
        seg_member_state(mgr->seg, slot, &incarnation);
        if (lock_settle_if_dead(mgr, slot, incarnation))
            return -ESRCH;
        if (lock_now_ms() > deadline)
            return -ETIMEDOUT;
    }
}

/* Sends one recall to the members in `targets`; those that are not at work any more owe nothing and hold nothing. */
static int send_recall(struct lock_mgr *mgr, const struct lock_recall *recall, uint64_t targets)
{
    struct lock_shared *words = recall->ref.words;
    atomic_fetch_or_explicit(&words->owed, targets, memory_order_seq_cst); /* before the item: an acknowledgement must find its bit */
    for (uint64_t left = targets; left; left &= left - 1) {
        unsigned slot = (unsigned)__builtin_ctzll(left);
        int      result = post_recall(mgr, slot, recall);
        if (result == -EIO)
            return -EIO;
        if (result == -ETIMEDOUT)
            lock_settle(mgr, slot);
        if (result) {
            atomic_fetch_and_explicit(&words->owed, ~(1ull << slot), memory_order_seq_cst);
            atomic_fetch_and_explicit(&words->interest, ~(1ull << slot), memory_order_seq_cst);
            continue;
        }
        seg_count(mgr->seg, SEG_COUNTER_recalls_sent, 1);
    }
    return 0;
}

/* After a while without an answer: send again (a late producer may have spoilt the item), settle the dead, fence the silent. */
static void urge(struct lock_mgr *mgr, const struct lock_recall *recall, uint64_t owed, bool expired)
{
    for (; owed; owed &= owed - 1) {
        unsigned slot = (unsigned)__builtin_ctzll(owed);
        uint32_t incarnation = 0;
        enum seg_member_state state = seg_member_state(mgr->seg, slot, &incarnation);
        if (slot == mgr->self_slot && !expired)
            continue;
        if (state != SEG_ACTIVE || lock_settle_if_dead(mgr, slot, incarnation) || expired) {
            if (state == SEG_ACTIVE && expired && slot != mgr->self_slot)
                lock_settle(mgr, slot);
            atomic_fetch_and_explicit(&recall->ref.words->interest, ~(1ull << slot), memory_order_seq_cst);
            atomic_fetch_and_explicit(&recall->ref.words->owed, ~(1ull << slot), memory_order_seq_cst);
        }
    }
}

static int wait_acks(struct lock_mgr *mgr, const struct lock_recall *recall)
{
    struct lock_shared *words = recall->ref.words;
    uint64_t            start = lock_now_ms(), urged = start;
    for (;;) {
        uint32_t event = lock_wait_prepare(mgr, words);
        uint64_t owed = atomic_load_explicit(&words->owed, memory_order_seq_cst);
        if (!owed)
            return 0;
        if (!seg_self_stands(mgr->seg))
            return -EIO;
        uint64_t now = lock_now_ms();
        if (now - urged >= LOCK_POLL_MS) {
            urged = now;
            urge(mgr, recall, owed, now - start >= mgr->config.recall_timeout_ms);
            if (!(owed = atomic_load_explicit(&words->owed, memory_order_seq_cst)))
                return 0;
            for (uint64_t left = owed; left && (now - start) % 1000 < LOCK_POLL_MS && now - start >= 1000; left &= left - 1) {
                struct work_item item = {.kind = recall->kind, .key = recall->ref.id, .arg = recall->arg};
                work_post(mgr->work, (unsigned)__builtin_ctzll(left), &item, true);
            }
        }
        lock_wait_sleep(mgr, words, event, LOCK_POLL_MS);
    }
}

/* The n-th recall of each inode. */
static void pick_round(const struct lock_recall *recalls, unsigned count, unsigned n, struct round *round)
{
    round->count = 0;
    for (unsigned i = 0; i < count; i++) {
        unsigned earlier = 0;
        for (unsigned j = 0; j < i; j++)
            earlier += recalls[j].ref.id == recalls[i].ref.id;
        if (earlier == n && recalls[i].ref.id)
            round->recall[round->count++] = &recalls[i];
    }
}

static int recall_round(struct lock_mgr *mgr, const struct round *round, const uint64_t *targets)
{
    int result = 0;
    for (unsigned i = 0; i < round->count && !result; i++)
        if (targets[i])
            result = send_recall(mgr, round->recall[i], targets[i]);
    for (unsigned i = 0; i < round->count && !result; i++)
        if (targets[i])
            result = wait_acks(mgr, round->recall[i]);
    return result;
}

static uint64_t others_interested(struct lock_mgr *mgr, const struct lock_shared *words)
{
    return atomic_load_explicit(&words->interest, memory_order_seq_cst) & ~mgr->self_bit; /* W2, W4 */
}

/* All recalls once, to those interested now. Returns 1 when anybody was asked, 0 when nobody was, or -errno. */
static int recall_interested(struct lock_mgr *mgr, const struct lock_recall *recalls, unsigned count, uint64_t self)
{
    struct round first, later;
    uint64_t     targets[RECALLS_MAX] = {0}, asked = 0;

    pick_round(recalls, count, 0, &first);
    for (unsigned i = 0; i < first.count; i++) {
        targets[i] = others_interested(mgr, first.recall[i]->ref.words);
        if (self >> (first.recall[i] - recalls) & 1)
            targets[i] |= mgr->self_bit;
        asked |= targets[i];
    }
    if (!asked)
        return 0;
    seg_count(mgr->seg, SEG_COUNTER_recall_rounds, 1);
    int result = recall_round(mgr, &first, targets);
    for (unsigned n = 1; !result; n++) {
        uint64_t same[RECALLS_MAX] = {0};
        pick_round(recalls, count, n, &later);
        if (!later.count)
            break;
        for (unsigned i = 0; i < later.count; i++)
            for (unsigned j = 0; j < first.count; j++)
                if (first.recall[j]->ref.id == later.recall[i]->ref.id)
                    same[i] = targets[j];
        result = recall_round(mgr, &later, same);
    }
    return result ? result : 1;
}

/* Write-back slipped by: whatever it changed may still be old in any kernel, also the own one. */
static int recall_slipped(struct lock_mgr *mgr, const struct lock_recall *recalls, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct lock_recall all = recalls[i];
        if (!all.ref.id || !atomic_exchange_explicit(&all.ref.words->slipped, 0, memory_order_seq_cst))
            continue;
        all.kind = WORK_RECALL_DATA;
        all.arg = UINT32_MAX; /* from page 0 to the end */
        set_phase(mgr, all.ref.words, LOCK_RECALLING);
        int result = recall_interested(mgr, &all, 1, 1);
        if (result < 0)
            return result;
    }
    return 0;
}

int lock_recall_all(struct lock_mgr *mgr, const struct lock_recall *recalls, unsigned count, uint64_t self)
{
    if (count > RECALLS_MAX)
        return -EINVAL;
    for (;;) {
        int result = recall_interested(mgr, recalls, count, self);
        self = 0; /* the own kernel is asked once */
        if (result >= 0)
            result = recall_slipped(mgr, recalls, count);
        if (result < 0)
            return result;
        bool again = false;
        for (unsigned i = 0; i < count; i++)
            if (recalls[i].ref.id)
                set_phase(mgr, recalls[i].ref.words, LOCK_WRITING);
        for (unsigned i = 0; i < count; i++) {
            struct lock_shared *words = recalls[i].ref.words;
            if (recalls[i].ref.id && (others_interested(mgr, words) || atomic_load_explicit(&words->slipped, memory_order_seq_cst)))
                again = true;
        }
        if (!again)
            return seg_self_stands(mgr->seg) ? 0 : -EIO;
        for (unsigned i = 0; i < count; i++)
            if (recalls[i].ref.id)
                set_phase(mgr, recalls[i].ref.words, LOCK_RECALLING);
    }
}
