/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_recall.c - the writer's side of the recall protocol: W1 to W4 of lock.h, for one inode or several at once.
 *
 * Several recalls may name one inode (a rename inside one directory has two names). A member owes one acknowledgement per inode at a time, so the
 * recalls of one inode go out one after another, each to the members that were interested when the first went out; those of different inodes go out
 * together. When all have come in, the phases become WRITING, and then who has touched the inode is looked at (W4). If the own kernel was recalled, too, A1
 * has cleared the own interest bit; it is set again, because that kernel keeps what its own write puts there.
 *
 * Who does not answer: a dead member is settled (its bits cleared by recovery); one that lets recall_timeout_ms pass is fenced and settled alike; the wait
 * then goes on with the others. The own death in here leaves owed bits behind: the next owner waits for them first, because an answer on its way
 * must not count for a recall of its own.
 */
#include <string.h>

#include "lock_internal.h"

enum { POST_WAIT_MS = 20, POST_AGAIN_MS = 1000, RECALLS_MAX = 16 };

struct round {
    unsigned index[RECALLS_MAX]; /* of recalls; at most one per inode */
    unsigned count;
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
    struct work_item item = {.kind = recall->kind, .key = recall->ref.id, .arg = recall->arg, .round = lock_recall_round(recall->ref.words)};
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

/*
 * A life that is over holds nothing and owes nothing. The slot's next life may have begun meanwhile and set the bits for itself: then they stay, and W4
 * sees them. gone: the life that was found to be over; 0: nobody was at work there.
 */
static void forget(struct lock_mgr *mgr, struct lock_shared *words, unsigned slot, seg_who gone)
{
    uint64_t bit = 1ull << slot;
    uint32_t incarnation = 0;
    if (slot != mgr->self_slot) {
        atomic_fetch_and_explicit(&words->touched, ~bit, memory_order_seq_cst);
        atomic_fetch_and_explicit(&words->interest, ~bit, memory_order_seq_cst);
        if (seg_member_state(mgr->seg, slot, &incarnation) == SEG_ACTIVE && seg_who_make(slot, incarnation) != gone) {
            atomic_fetch_or_explicit(&words->interest, bit, memory_order_seq_cst);
            atomic_fetch_or_explicit(&words->touched, bit, memory_order_seq_cst);
        }
    }
    atomic_fetch_and_explicit(&words->owed, ~bit, memory_order_seq_cst);
}

static seg_who who_is_active(struct lock_mgr *mgr, unsigned slot)
{
    uint32_t incarnation = 0;
    return seg_member_state(mgr->seg, slot, &incarnation) == SEG_ACTIVE ? seg_who_make(slot, incarnation) : 0;
}

/* Sends one recall to the members in `targets`; those that are not at work any more owe nothing and hold nothing. */
static int send_recall(struct lock_mgr *mgr, const struct lock_recall *recall, uint64_t targets)
{
    struct lock_shared *words = recall->ref.words;
    atomic_fetch_add_explicit(&words->round, 1, memory_order_seq_cst);     /* before owed: what is left of older recalls answers nothing */
    atomic_fetch_or_explicit(&words->owed, targets, memory_order_seq_cst); /* before the item: an acknowledgement must find its bit */
    for (uint64_t left = targets; left; left &= left - 1) {
        unsigned slot = (unsigned)__builtin_ctzll(left);
        seg_who  who = who_is_active(mgr, slot);
        int      result = post_recall(mgr, slot, recall);
        if (result == -EIO)
            return -EIO;
        if (result && result != -ESRCH)
            lock_settle(mgr, who); /* its inbox stays full, or is nonsense */
        if (result) {
            forget(mgr, words, slot, who);
            continue;
        }
        seg_count(mgr->seg, SEG_COUNTER_recalls_sent, 1);
    }
    return 0;
}

/* After a while without an answer: settles the dead, fences the silent. */
static void urge(struct lock_mgr *mgr, const struct lock_recall *recall, uint64_t owed, bool expired)
{
    for (; owed; owed &= owed - 1) {
        unsigned slot = (unsigned)__builtin_ctzll(owed);
        seg_who  who = who_is_active(mgr, slot);
        bool     is_gone = !who || lock_settle_if_dead(mgr, slot, seg_who_incarnation(who));
        if (!is_gone && !expired)
            continue;
        if (!is_gone)
            lock_settle(mgr, who);
        forget(mgr, recall->ref.words, slot, who);
    }
}

/* A late producer may have spoilt the item. */
static void post_again(struct lock_mgr *mgr, const struct lock_recall *recall, uint64_t owed)
{
    struct work_item item = {.kind = recall->kind, .key = recall->ref.id, .arg = recall->arg, .round = lock_recall_round(recall->ref.words)};
    for (; owed; owed &= owed - 1)
        work_post(mgr->work, (unsigned)__builtin_ctzll(owed), &item, true);
}

static int wait_acks(struct lock_mgr *mgr, const struct lock_recall *recall)
{
    struct lock_shared *words = recall->ref.words;
    uint64_t            start = lock_now_ms(), urged = start, posted = start;
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
            if (now - posted >= POST_AGAIN_MS) {
                posted = now;
                post_again(mgr, recall, owed);
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
            round->index[round->count++] = i;
    }
}

static int recall_round(struct lock_mgr *mgr, const struct lock_recall *recalls, const struct round *round, const uint64_t *targets)
{
    int result = 0;
    for (unsigned i = 0; i < round->count && !result; i++)
        if (targets[round->index[i]])
            result = send_recall(mgr, &recalls[round->index[i]], targets[round->index[i]]);
    for (unsigned i = 0; i < round->count && !result; i++)
        if (targets[round->index[i]])
            result = wait_acks(mgr, &recalls[round->index[i]]);
    return result;
}

static uint64_t others_interested(struct lock_mgr *mgr, const struct lock_shared *words)
{
    uint64_t either = atomic_load_explicit(&words->interest, memory_order_seq_cst) | atomic_load_explicit(&words->touched, memory_order_seq_cst);
    return either & ~mgr->self_bit; /* W2 */
}

static uint64_t others_touched(struct lock_mgr *mgr, const struct lock_shared *words)
{
    return atomic_load_explicit(&words->touched, memory_order_seq_cst) & ~mgr->self_bit; /* W4 */
}

/*
 * Whom each recall goes to: those interested, or when it is done again, those who have asked for something meanwhile. All recalls of one inode go to the same members,
 * whatever bits are set meanwhile: one that got a part of them would keep what the others name. Returns whether anybody is to be asked.
 */
static bool pick_targets(struct lock_mgr *mgr, const struct lock_recall *recalls, unsigned count, uint64_t self, bool again, uint64_t *targets)
{
    uint64_t others[RECALLS_MAX], asked = 0;
    for (unsigned i = 0; i < count; i++) {
        unsigned first = 0;
        while (recalls[first].ref.id != recalls[i].ref.id)
            first++;
        targets[i] = 0;
        if (!recalls[i].ref.id)
            continue;
        others[i] = first < i ? others[first] : (again ? others_touched : others_interested)(mgr, recalls[i].ref.words);
        targets[i] = others[i] | (self >> i & 1 ? mgr->self_bit : 0);
        asked |= targets[i];
    }
    return asked != 0;
}

/* All recalls once. Returns 1 when anybody was asked, 0 when nobody was, or -errno. */
static int recall_interested(struct lock_mgr *mgr, const struct lock_recall *recalls, unsigned count, uint64_t self, bool again)
{
    struct round round;
    uint64_t     targets[RECALLS_MAX];
    int          result = 0;

    if (!pick_targets(mgr, recalls, count, self, again, targets))
        return 0;
    seg_count(mgr->seg, SEG_COUNTER_recall_rounds, 1);
    for (unsigned n = 0; !result; n++) {
        pick_round(recalls, count, n, &round);
        if (!round.count)
            break;
        result = recall_round(mgr, recalls, &round, targets);
    }
    for (unsigned i = 0; i < count && !result; i++)
        if (targets[i] & mgr->self_bit)
            atomic_fetch_or_explicit(&recalls[i].ref.words->interest, mgr->self_bit, memory_order_seq_cst);
    return result ? result : 1;
}

/* Write-back slipped by: whatever it changed may still be old in any kernel, also the own one (model: recall_mmap.pml, mutants 4 and 16). */
static int recall_slipped(struct lock_mgr *mgr, const struct lock_recall *recalls, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct lock_recall all = recalls[i];
        if (!all.ref.id || !atomic_exchange_explicit(&all.ref.words->slipped, 0, memory_order_seq_cst))
            continue;
        all.kind = WORK_RECALL_DATA;
        all.arg = UINT32_MAX; /* from page 0 to the end */
        set_phase(mgr, all.ref.words, LOCK_RECALLING);
        if (all.own_later)
            *all.own_later = true;
        int result = recall_interested(mgr, &all, 1, !all.own_later, false);
        if (result < 0)
            return result;
    }
    return 0;
}

int lock_recall_all(struct lock_mgr *mgr, const struct lock_recall *recalls, unsigned count, uint64_t self)
{
    if (count > RECALLS_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < count; i++) /* a second call under one lock starts from WRITING, past which nothing slips */
        if (recalls[i].ref.id)
            set_phase(mgr, recalls[i].ref.words, LOCK_RECALLING);
    for (unsigned i = 0; i < count; i++) { /* what is still owed to an owner that died is waited for, under its round */
        int result = recalls[i].ref.id ? wait_acks(mgr, &recalls[i]) : 0;
        if (result != 0)
            return result;
    }
    for (bool again = false;;) {
        int result = recall_interested(mgr, recalls, count, self, again);
        self = 0; /* the own kernel is asked once */
        if (result >= 0)
            result = recall_slipped(mgr, recalls, count);
        if (result < 0)
            return result;
        again = false;
        for (unsigned i = 0; i < count; i++)
            if (recalls[i].ref.id)
                set_phase(mgr, recalls[i].ref.words, LOCK_WRITING);
        for (unsigned i = 0; i < count; i++) {
            struct lock_shared *words = recalls[i].ref.words;
            if (recalls[i].ref.id && (others_touched(mgr, words) || atomic_load_explicit(&words->slipped, memory_order_seq_cst)))
                again = true;
        }
        if (!again)
            return seg_self_stands(mgr->seg) ? 0 : -EIO;
        for (unsigned i = 0; i < count; i++)
            if (recalls[i].ref.id)
                set_phase(mgr, recalls[i].ref.words, LOCK_RECALLING);
    }
}
