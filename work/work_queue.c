/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work_queue.c - bounded rings that any member may write and read, and that no dead member can block.
 *
 * The ring is Vyukov's bounded queue (cells that carry the round they belong to, "Bounded MPMC queue", 2010) with two changes:
 *
 *   1. The cell is changed first, the position after it. A producer that dies between the two leaves a cell that names it and a tail that
 *      lags by one, which the next producer pushes on; no position is ever owned by nobody. Takers and head likewise.
 *   2. A cell goes from COMMITTED straight to FREE of the next round: the taker reads the payload first, and the CAS that takes the cell proves
 *      that nobody took it, merged into it or reused it meanwhile. So there is no state in which a dead taker holds a cell.
 *
 * Ordering. (A) commit or merge: CAS, seq_cst, pairs with (T) the taker's CAS (so the taker sees the payload and all that the poster did
 * before) and with (D) in work_queue_ready(): see work_bell.c. (F) the CAS to FREE releases the cell to (R) the reserving CAS of the
 * next round: payload reads of the taker come before payload writes of the next producer.
 *
 * Death. A producer that dies (or is fenced) with a RESERVED cell: whoever takes, or recovery, makes it SKIPPED, and its commit fails
 * if it wakes up after all. As it might then still be between two stores into the payload, the cell is used again only when it is proven gone;
 * until then each round passes over it (the queue is a cell smaller). Losing nothing but that: an item not committed was never posted.
 *
 * Every loop is bounded: words that make no sense, or that never come to rest, are a peer's fault and answered with -EUCLEAN.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "seg_counter.h"
#include "work_private.h"

enum {
    STEPS_MAX = 1 << 16,         /* of one operation: far more than there are rivals                     */
    MERGE_SCAN_CELLS = 128,      /* newest cells that are searched for an equal item                     */
    COMMIT_TRIES = 8,            /* a standing producer whose cell is skipped again and again: give up   */
    DEATH_CHECK_NS = 5 * 1000 * 1000, /* a head cell RESERVED for so long: ask the kernel about its producer */
};

uint64_t work_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t work_inbox_stride(void) { return sizeof(struct work_queue) + WORK_INBOX_CELLS * sizeof(struct work_cell); }
uint64_t work_shared_stride(void) { return sizeof(struct work_queue) + WORK_SHARED_CELLS * sizeof(struct work_cell); }

struct work_queue *work_queue_at(const struct seg *seg, unsigned index, uint32_t *cells)
{
    bool             is_inbox = index < SEG_MEMBERS_MAX;
    struct seg_array array = seg_section(seg, is_inbox ? SEG_SECTION_INBOXES : SEG_SECTION_SHARED_QUEUE);
    uint64_t         stride = is_inbox ? work_inbox_stride() : work_shared_stride();
    if (!array.base || array.stride != stride || index >= WORK_QUEUES)
        return NULL;
    *cells = is_inbox ? WORK_INBOX_CELLS : WORK_SHARED_CELLS;
    return seg_elem(&array, is_inbox ? index : 0);
}

void work_format(struct seg *seg)
{
    for (unsigned index = 0; index < WORK_QUEUES; index++) {
        uint32_t           cells;
        struct work_queue *queue = work_queue_at(seg, index, &cells);
        if (queue)
            atomic_store_explicit(&queue->cell_count, cells, memory_order_relaxed); /* published by the segment's magic */
    }
}

int work_open(struct seg *seg, struct work **out)
{
    uint32_t cells;
    for (unsigned index = 0; index < WORK_QUEUES; index++)
        if (!work_queue_at(seg, index, &cells))
            return -EPROTO;
    struct work *work = calloc(1, sizeof(*work));
    if (!work)
        return -ENOMEM;
    work->seg = seg;
    work->inboxes = seg_section(seg, SEG_SECTION_INBOXES);
    work->shared = work_queue_at(seg, SEG_MEMBERS_MAX, &cells);
    work->bell_ops = &work_bell_futex;
    *out = work;
    return 0;
}

void work_close(struct work *work) { free(work); }

/* The producers. */

enum work_producer work_producer_look(const struct seg *seg, uint64_t word, bool ask_kernel)
{
    uint32_t              incarnation = 0;
    unsigned              slot = work_word_slot(word);
    enum seg_member_state state = slot < SEG_MEMBERS_MAX ? seg_member_state(seg, slot, &incarnation) : SEG_FREE;

    if (state == SEG_FREE || state == SEG_PARKED || (incarnation & 0xff) != work_word_incarnation(word))
        return WORK_PRODUCER_GONE;
    if ((state == SEG_FENCED || ask_kernel) && seg_member_is_dead(seg, slot))
        return WORK_PRODUCER_GONE;
    return state == SEG_FENCED ? WORK_PRODUCER_FENCED : WORK_PRODUCER_STANDS;
}

static struct work_cell *cell_at(struct work_queue *queue, uint32_t cells, uint64_t position) { return &queue->cell[position % cells]; }
static uint32_t          round_of(uint32_t cells, uint64_t position) { return (uint32_t)(position / cells); }

static void hint_push(_Atomic uint64_t *hint, uint64_t position)
{
    atomic_compare_exchange_strong_explicit(hint, &position, position + 1, memory_order_release, memory_order_relaxed);
}

/* (F) when the producer is proven gone; otherwise the cell stays in quarantine. */
void work_cell_skip(const struct seg *seg, struct work_queue *queue, uint32_t cells, uint64_t position, uint64_t word)
{
    if (work_producer_look(seg, word, false) == WORK_PRODUCER_GONE)
        atomic_compare_exchange_strong_explicit(&cell_at(queue, cells, position)->word, &word,
                                                work_word(work_word_round(word) + 1, 0, 0, 0, WORK_FREE), memory_order_acq_rel,
                                                memory_order_relaxed);
}

/* Posting. */

/*
 * The cell at the tail still bears the round before. 0: look again (something was done about it); -EAGAIN: the queue is full.
 * A quarantined cell is moved into this round by one CAS, as if its dead producer had reserved and skipped it once more.
 */
static int reserve_behind(const struct seg *seg, struct work_queue *queue, uint32_t cells, uint64_t tail, uint64_t word)
{
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_acquire); /* pairs with hint_push() */
    if (work_word_state(word) != WORK_SKIPPED || head + cells <= tail)
        return -EAGAIN;
    _Atomic uint64_t *cell_word = &cell_at(queue, cells, tail)->word;
    work_cell_skip(seg, queue, cells, tail, word);
    if (atomic_load_explicit(cell_word, memory_order_relaxed) == word)
        atomic_compare_exchange_strong_explicit(cell_word, &word, word + (1ull << 32), memory_order_relaxed, memory_order_relaxed);
    return 0;
}

/* (R): *cell is RESERVED under *word, which is ours. -EAGAIN full, -EUCLEAN. */
static int cell_reserve(struct work *work, struct work_queue *queue, uint32_t cells, struct work_cell **cell, uint64_t *word)
{
    unsigned slot = (unsigned)seg_self_slot(work->seg);
    uint32_t incarnation = seg_self_incarnation(work->seg);

    for (unsigned step = 0; step < STEPS_MAX; step++) {
        uint64_t          tail = atomic_load_explicit(&queue->tail, memory_order_acquire); /* pairs with hint_push() */
        uint32_t          round = round_of(cells, tail);
        struct work_cell *c = cell_at(queue, cells, tail);
        uint64_t          seen = atomic_load_explicit(&c->word, memory_order_relaxed);
        int32_t           ahead = work_round_ahead(work_word_round(seen), round);

        if (ahead == 0 && work_word_state(seen) == WORK_FREE) {
            uint64_t mine = work_word(round, 0, slot, incarnation, WORK_RESERVED);
            if (!atomic_compare_exchange_strong_explicit(&c->word, &seen, mine, memory_order_acquire, memory_order_relaxed))
                continue;
            hint_push(&queue->tail, tail);
            *cell = c;
            *word = mine;
            return 0;
        }
        if (ahead >= 0) {
            hint_push(&queue->tail, tail); /* somebody has reserved it and not yet, or never, moved the tail */
            continue;
        }
        int err = reserve_behind(work->seg, queue, cells, tail, seen);
        if (err && atomic_load_explicit(&queue->tail, memory_order_acquire) == tail) /* else `seen` was of a round long gone */
            return ahead == -1 ? err : -EUCLEAN;
    }
    return -EUCLEAN;
}

/* As it lies in the cell: kind:16 | round:16. */
static uint32_t packed_kind(const struct work_item *item)
{
    return (item->kind & 0xffff) | item->round << 16;
}

static bool item_equals(struct work_cell *cell, const struct work_item *item)
{
    return atomic_load_explicit(&cell->key, memory_order_relaxed) == item->key &&
           atomic_load_explicit(&cell->arg, memory_order_relaxed) == item->arg &&
           atomic_load_explicit(&cell->kind, memory_order_relaxed) == packed_kind(item);
}

/* (A): true when an equal item was there, committed, at the moment of the CAS. */
static bool item_merge(struct work_queue *queue, uint32_t cells, const struct work_item *item)
{
    uint64_t tail = atomic_load_explicit(&queue->tail, memory_order_acquire);
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_acquire);
    for (uint64_t back = 1; back <= MERGE_SCAN_CELLS && back <= tail && tail - back >= head; back++) {
        struct work_cell *cell = cell_at(queue, cells, tail - back);
        uint64_t          word = atomic_load_explicit(&cell->word, memory_order_acquire);
        if (work_word_state(word) != WORK_COMMITTED || !item_equals(cell, item))
            continue;
        uint64_t more = work_word(work_word_round(word), work_word_merged(word) + 1, work_word_slot(word), work_word_incarnation(word),
                                  WORK_COMMITTED);
        if (atomic_compare_exchange_strong_explicit(&cell->word, &word, more, memory_order_seq_cst, memory_order_relaxed))
            return true;
    }
    return false;
}

/* Reserves, writes, commits. -EIO when the own incarnation does not stand any more. */
static int item_put(struct work *work, struct work_queue *queue, uint32_t cells, const struct work_item *item)
{
    for (unsigned attempt = 0; attempt < COMMIT_TRIES; attempt++) {
        struct work_cell *cell;
        uint64_t          word;
        if (!seg_self_stands(work->seg))
            return -EIO;
        int err = cell_reserve(work, queue, cells, &cell, &word);
        if (err)
            return err;
        if (work->reserved)
            work->reserved(work->reserved_arg);
        atomic_store_explicit(&cell->kind, packed_kind(item), memory_order_relaxed);
        atomic_store_explicit(&cell->from, work_word_slot(word), memory_order_relaxed);
        atomic_store_explicit(&cell->key, item->key, memory_order_relaxed);
        atomic_store_explicit(&cell->arg, item->arg, memory_order_relaxed);
        uint64_t committed = word - WORK_RESERVED + WORK_COMMITTED;
        if (atomic_compare_exchange_strong_explicit(&cell->word, &word, committed, memory_order_seq_cst, memory_order_relaxed)) /* (A) */
            return 0;
    }
    return -EIO;
}

static int queue_post(struct work *work, struct work_queue *queue, uint32_t cells, const struct work_item *item, bool merge)
{
    if (seg_self_slot(work->seg) < 0 || !seg_self_stands(work->seg))
        return -EIO;
    if (merge && item_merge(queue, cells, item)) {
        seg_count(work->seg, SEG_COUNTER_items_merged, 1);
        return 0;
    }
    int err = item_put(work, queue, cells, item);
    if (err == -EAGAIN)
        seg_count(work->seg, SEG_COUNTER_inbox_full, 1);
    return err;
}

int work_post(struct work *work, unsigned slot, const struct work_item *item, bool merge)
{
    uint32_t           incarnation;
    struct work_queue *queue = slot < SEG_MEMBERS_MAX ? seg_elem(&work->inboxes, slot) : NULL;
    if (!queue || seg_member_state(work->seg, slot, &incarnation) != SEG_ACTIVE)
        return -ESRCH;
    int err = queue_post(work, queue, WORK_INBOX_CELLS, item, merge);
    if (!err || err == -EAGAIN)
        work_bell_notify(work, slot); /* also after a merge: whoever posted the first may have died before it rang */
    return err;
}

int work_post_wait(struct work *work, unsigned slot, const struct work_item *item, bool merge, unsigned timeout_ms)
{
    uint64_t end_ns = work_clock_ns() + timeout_ms * 1000000ull;
    for (long pause_ns = 50000;; pause_ns = pause_ns < 1000000 ? pause_ns * 2 : pause_ns) {
        int err = work_post(work, slot, item, merge);
        if (err != -EAGAIN)
            return err;
        if (work_clock_ns() >= end_ns)
            return -ETIMEDOUT;
        nanosleep(&(struct timespec){ .tv_nsec = pause_ns }, NULL);
    }
}

int work_share(struct work *work, const struct work_item *item, bool merge)
{
    int err = queue_post(work, work->shared, WORK_SHARED_CELLS, item, merge);
    if (!err || err == -EAGAIN)
        work_bell_notify_any(work);
    return err;
}

/* Taking. */

int work_queue_take(const struct seg *seg, struct work_queue *queue, uint32_t cells, struct work_item *item, uint64_t *blocked)
{
    for (unsigned step = 0; step < STEPS_MAX; step++) {
        uint64_t          head = atomic_load_explicit(&queue->head, memory_order_acquire); /* pairs with hint_push() */
        struct work_cell *cell = cell_at(queue, cells, head);
        uint64_t          word = atomic_load_explicit(&cell->word, memory_order_acquire); /* pairs with (A) */
        int32_t           ahead = work_round_ahead(work_word_round(word), round_of(cells, head));

        if (ahead > 0) {
            hint_push(&queue->head, head); /* taken, head not yet moved */
            continue;
        }
        if (ahead < 0) { /* behind the tail only if head has moved since */
            if (atomic_load_explicit(&queue->head, memory_order_acquire) != head)
                continue;
            return ahead == -1 ? 0 : -EUCLEAN;
        }
        switch (work_word_state(word)) {
        case WORK_FREE:
            return 0;
        case WORK_RESERVED:
            if (work_producer_look(seg, word, false) == WORK_PRODUCER_STANDS) {
                if (blocked)
                    *blocked = word;
                return 0;
            }
            atomic_compare_exchange_strong_explicit(&cell->word, &word, word - WORK_RESERVED + WORK_SKIPPED, memory_order_relaxed,
                                                    memory_order_relaxed);
            continue;
        case WORK_SKIPPED:
            work_cell_skip(seg, queue, cells, head, word);
            hint_push(&queue->head, head);
            continue;
        case WORK_COMMITTED:
            item->kind = atomic_load_explicit(&cell->kind, memory_order_relaxed);
            item->round = item->kind >> 16; /* as packed_kind() put it */
            item->kind &= 0xffff;
            item->from = atomic_load_explicit(&cell->from, memory_order_relaxed);
            item->key = atomic_load_explicit(&cell->key, memory_order_relaxed);
            item->arg = atomic_load_explicit(&cell->arg, memory_order_relaxed);
            if (!atomic_compare_exchange_strong_explicit(&cell->word, &word, work_word(work_word_round(word) + 1, 0, 0, 0, WORK_FREE),
                                                         memory_order_acq_rel, memory_order_relaxed)) /* (T) (F) */
                continue;
            hint_push(&queue->head, head);
            return 1;
        default:
            return -EUCLEAN;
        }
    }
    return -EUCLEAN;
}

/* A cell that stays RESERVED at the head: its producer may have died without anybody having fenced it yet. Dispatcher only. */
static bool inbox_unblock(struct work *work, struct work_queue *queue, uint64_t blocked)
{
    uint64_t now_ns = work_clock_ns();
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);
    if (work->blocked_at != head + 1) {
        work->blocked_at = head + 1;
        work->blocked_ns = now_ns;
        return false;
    }
    if (now_ns - work->blocked_ns < DEATH_CHECK_NS)
        return false;
    work->blocked_ns = now_ns;
    if (work_producer_look(work->seg, blocked, true) != WORK_PRODUCER_GONE)
        return false;
    uint64_t free_word = work_word(work_word_round(blocked) + 1, 0, 0, 0, WORK_FREE);
    return atomic_compare_exchange_strong_explicit(&cell_at(queue, WORK_INBOX_CELLS, head)->word, &blocked, free_word, memory_order_acq_rel,
                                                   memory_order_relaxed); /* (F) */
}

int work_take(struct work *work, struct work_item *item)
{
    int                slot = seg_self_slot(work->seg);
    struct work_queue *queue = slot < 0 ? NULL : seg_elem(&work->inboxes, (unsigned)slot);
    if (!queue)
        return 0;
    for (;;) {
        uint64_t blocked = 0;
        int      taken = work_queue_take(work->seg, queue, WORK_INBOX_CELLS, item, &blocked);
        if (taken || !blocked || !inbox_unblock(work, queue, blocked))
            return taken;
    }
}

int work_take_shared(struct work *work, struct work_item *item)
{
    return work_queue_take(work->seg, work->shared, WORK_SHARED_CELLS, item, NULL);
}

bool work_queue_ready(struct work_queue *queue, uint32_t cells)
{
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_seq_cst);                         /* (D) */
    uint64_t word = atomic_load_explicit(&cell_at(queue, cells, head)->word, memory_order_seq_cst); /* (D) */
    int32_t  ahead = work_round_ahead(work_word_round(word), round_of(cells, head));
    return ahead > 0 || (ahead == 0 && (work_word_state(word) == WORK_COMMITTED || work_word_state(word) == WORK_SKIPPED));
}

unsigned work_depth(const struct work *work, unsigned slot)
{
    const struct work_queue *queue = slot < SEG_MEMBERS_MAX ? seg_elem(&work->inboxes, slot) : NULL;
    if (!queue)
        return 0;
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);
    return tail <= head ? 0 : tail - head < WORK_INBOX_CELLS ? (unsigned)(tail - head) : WORK_INBOX_CELLS;
}
