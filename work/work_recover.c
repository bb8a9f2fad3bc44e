/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work_recover.c - what a dead member leaves in the queues.
 *
 *   as producer   RESERVED cells that it will never commit: they block the queue they are in. They become SKIPPED (so that a commit that
 *                 comes after all fails) and are free again when the head passes them, or at once where it already has (quarantine).
 *   as receiver   the items of its inbox: dropped. They were hints to look at words of the segment; whoever waits for an answer sees
 *                 the death in those words. Posters that wait for room there get -ESRCH from the member's state.
 *   as ringer     a bell moved to WOKEN and not rung: every WOKEN bell is rung; a ring too many costs one look.
 *
 * Each step is one CAS on the word that was read, so recovery may die anywhere and be repeated, and may run while others post and take.
 * Runs under the recovery lock; takes no other.
 */
#include "work_private.h"

enum { SWEEP_MAX = 4096 }; /* steps on one inbox: senders that have not noticed the death may still be posting */

/* Is this cell reserved, or was it, by a life of `slot` that is over? When the own slot is joining, its new life may already post. */
static bool word_is_dead(const struct seg *seg, unsigned slot, uint64_t word)
{
    bool is_own_life = seg_self_slot(seg) == (int)slot && (seg_self_incarnation(seg) & 0xff) == work_word_incarnation(word);
    return work_word_slot(word) == slot && !is_own_life;
}

/* The member is proven dead, so a cell the head has passed is free at once. */
static void cell_recover(const struct seg *seg, unsigned slot, struct work_queue *queue, uint32_t cells, uint32_t index)
{
    struct work_cell *cell = &queue->cell[index];
    uint64_t          word = atomic_load_explicit(&cell->word, memory_order_acquire);
    if (work_word_state(word) == WORK_RESERVED && word_is_dead(seg, slot, word)) {
        uint64_t skipped = word - WORK_RESERVED + WORK_SKIPPED;
        if (!atomic_compare_exchange_strong_explicit(&cell->word, &word, skipped, memory_order_acq_rel, memory_order_relaxed))
            return; /* another did it */
        word = skipped;
    }
    if (work_word_state(word) != WORK_SKIPPED || !word_is_dead(seg, slot, word))
        return;
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_acquire); /* pairs with the release that moved it */
    uint64_t round = head / cells; /* of the head; the cell's position is the one of its own round, see below */
    bool     passed = work_round_ahead(work_word_round(word), (uint32_t)round) < 0 ||
                  (work_word_round(word) == (uint32_t)round && index < head % cells);
    if (passed)
        atomic_compare_exchange_strong_explicit(&cell->word, &word, work_word(work_word_round(word) + 1, 0, 0, 0, WORK_FREE),
                                                memory_order_acq_rel, memory_order_relaxed);
}

static void inbox_empty(const struct seg *seg, struct work_queue *inbox)
{
    struct work_item item;
    for (unsigned step = 0; step < SWEEP_MAX && work_queue_take(seg, inbox, WORK_INBOX_CELLS, &item, NULL) == 1; step++)
        ;
    atomic_store_explicit(&inbox->bell, WORK_BUSY, memory_order_seq_cst); /* nobody sleeps there any more */
}

void work_recover(struct work *work, unsigned slot)
{
    if (slot >= SEG_MEMBERS_MAX)
        return;
    for (unsigned index = 0; index < WORK_QUEUES; index++) {
        uint32_t           cells;
        struct work_queue *queue = work_queue_at(work->seg, index, &cells);
        for (uint32_t i = 0; queue && i < cells; i++)
            cell_recover(work->seg, slot, queue, cells, i);
    }
    inbox_empty(work->seg, seg_elem(&work->inboxes, slot));
    work_bell_ring_woken(work);
    /* Receivers that sleep behind a cell that has just been skipped. */
    uint64_t active = seg_members_active(work->seg);
    for (unsigned i = 0; i < SEG_MEMBERS_MAX; i++) {
        struct work_queue *inbox = seg_elem(&work->inboxes, i);
        if ((active >> i & 1) && work_queue_ready(inbox, WORK_INBOX_CELLS))
            work_bell_notify(work, i);
    }
}
