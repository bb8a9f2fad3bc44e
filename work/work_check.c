/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work_check.c - the invariants of the queues, asserted on a live or a dead segment.
 *
 * With round(p) = p / cells, and p the position a cell stands for between head and head + cells:
 *   p <  head            nothing: that position is over; its cell is looked at as p + cells
 *   head <= p < tail     RESERVED, COMMITTED or SKIPPED of round(p); p == head may be of round(p) + 1: taken, the head not yet moved
 *   p == tail            FREE of round(p); any of the above while the tail lags; SKIPPED of round(p) - 1 in quarantine
 *   p >  tail            FREE of round(p), or SKIPPED of round(p) - 1 in quarantine
 *   head <= tail + 1 and tail <= head + cells + 1; a producer's slot is a slot; an item has a kind and came from that slot; bell and
 *   cell count are what they may be; reserved bytes are 0.
 *
 * On a live segment head, tail and cell are not one snapshot. A cell that looks wrong is reported only when head, tail and the
 * cell itself stayed the same over the look; as each of them only grows, that was a snapshot.
 */
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "work_private.h"

enum { LOOKS_MAX = 10000 };

struct look { /* what was read of a queue around one cell */
    uint64_t head, tail, word;
    uint32_t kind, from;
};

static int broken(char *err, size_t err_size, unsigned index, const char *format, ...) __attribute__((format(printf, 4, 5)));
static int broken(char *err, size_t err_size, unsigned index, const char *format, ...)
{
    char    what[160];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    if (index < SEG_MEMBERS_MAX)
        snprintf(err, err_size, "work: inbox of slot %u: %s", index, what);
    else
        snprintf(err, err_size, "work: shared queue: %s", what);
    return -EUCLEAN;
}

/* NULL or what is wrong with the cell. */
static const char *cell_wrong(const struct look *look, uint32_t cells, uint32_t i)
{
    uint64_t p = look->head + (i + cells - look->head % cells) % cells; /* the position in [head, head + cells) of this cell */
    int32_t  ahead = work_round_ahead(work_word_round(look->word), (uint32_t)(p / cells));
    unsigned state = work_word_state(look->word);
    bool     is_held = state == WORK_RESERVED || state == WORK_COMMITTED || state == WORK_SKIPPED;

    if (state > WORK_SKIPPED)
        return "unknown state";
    if (is_held && work_word_slot(look->word) >= SEG_MEMBERS_MAX)
        return "producer's slot out of range";
    if (state == WORK_FREE && (uint32_t)look->word != 0)
        return "free cell with leftovers";
    if (state == WORK_COMMITTED && ((look->kind & 0xffff) == WORK_NONE || look->from != work_word_slot(look->word)))
        return "committed item without a kind, or of another producer than its cell";
    if (ahead == -1 && state == WORK_SKIPPED && p >= look->tail)
        return NULL;
    if (ahead == 0 && state == WORK_FREE)
        return p >= look->tail ? NULL : "free below the tail";
    if (ahead == 0)
        return p <= look->tail ? NULL : "in use beyond the tail";
    if (ahead == 1 && p == look->head && (state == WORK_FREE || p + cells <= look->tail))
        return NULL; /* taken, perhaps already in use again */
    return "of a wrong round";
}

static int cell_check(struct work_queue *queue, uint32_t cells, unsigned index, uint32_t i, char *err, size_t err_size)
{
    struct look       look = { 0 };
    const char       *wrong = NULL;
    struct work_cell *cell = &queue->cell[i];
    for (unsigned looks = 0;; looks++) {
        look.head = atomic_load_explicit(&queue->head, memory_order_acquire);
        look.tail = atomic_load_explicit(&queue->tail, memory_order_acquire);
        look.word = atomic_load_explicit(&cell->word, memory_order_acquire);
        look.kind = atomic_load_explicit(&cell->kind, memory_order_relaxed);
        look.from = atomic_load_explicit(&cell->from, memory_order_relaxed);
        wrong = cell_wrong(&look, cells, i);
        if (!wrong)
            return 0;
        if (atomic_load_explicit(&cell->word, memory_order_acquire) == look.word &&
            atomic_load_explicit(&queue->head, memory_order_acquire) == look.head &&
            atomic_load_explicit(&queue->tail, memory_order_acquire) == look.tail)
            break; /* all three only grow: this was a snapshot */
        if (looks == LOOKS_MAX)
            return 0; /* a broken cell would have brought the queue to rest */
        sched_yield();
    }
    return broken(err, err_size, index, "cell %u: %s (word 0x%016llx, head %llu, tail %llu)", i, wrong, (unsigned long long)look.word,
                  (unsigned long long)look.head, (unsigned long long)look.tail);
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i])
            return false;
    return true;
}

static int queue_check(struct work_queue *queue, uint32_t cells, unsigned index, char *err, size_t err_size)
{
    uint64_t head, tail;
    unsigned looks = 0;
    do { /* tail first: it only grows, so a head read later may be ahead of it without anything being wrong */
        tail = atomic_load_explicit(&queue->tail, memory_order_acquire);
        head = atomic_load_explicit(&queue->head, memory_order_acquire);
    } while ((head > tail + 1 || tail > head + cells + 1) && ++looks < LOOKS_MAX);
    if (head > tail + 1 || tail > head + cells + 1)
        return broken(err, err_size, index, "head %llu and tail %llu do not belong together", (unsigned long long)head, (unsigned long long)tail);

    uint32_t bell = atomic_load_explicit(&queue->bell, memory_order_relaxed);
    uint32_t cell_count = atomic_load_explicit(&queue->cell_count, memory_order_relaxed);
    if (bell > WORK_WOKEN || (index == SEG_MEMBERS_MAX && bell != 0))
        return broken(err, err_size, index, "bell is %u", bell);
    if (cell_count != cells)
        return broken(err, err_size, index, "cell count is %u, should be %u", cell_count, cells);
    if (!is_zero(queue->zero0, sizeof(queue->zero0)) || !is_zero(queue->zero1, sizeof(queue->zero1)))
        return broken(err, err_size, index, "reserved bytes are not zero");
    for (uint32_t i = 0; i < cells; i++) {
        int rc = cell_check(queue, cells, index, i, err, err_size);
        if (rc)
            return rc;
    }
    return 0;
}

int work_check(const struct seg *seg, char *err, size_t err_size)
{
    for (unsigned index = 0; index < WORK_QUEUES; index++) {
        uint32_t           cells;
        struct work_queue *queue = work_queue_at(seg, index, &cells);
        int                rc = queue ? queue_check(queue, cells, index, err, err_size)
                                      : broken(err, err_size, index, "section missing or of another shape");
        if (rc)
            return rc;
    }
    return 0;
}
