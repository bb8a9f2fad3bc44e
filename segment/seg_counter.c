/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_counter.c - counters of a member, in its own pages.
 *
 * Every thread of the owner adds relaxed; anyone may read. They survive incarnations: a slot's figures are those of
 * all its lives, and whoever wants a rate takes differences. Nothing depends on their value, so a late add of a
 * fenced member is harmless.
 */
#include "seg_counter.h"

#include "seg_internal.h"

const char *const seg_counter_name[SEG_COUNTER_COUNT] = {
#define X(name) #name,
    SEG_COUNTERS(X)
#undef X
};

void seg_count(struct seg *seg, enum seg_counter counter, uint64_t n)
{
    uint64_t self = atomic_load_explicit(&seg->self, memory_order_relaxed);
    if (self && (unsigned)counter < SEG_COUNTER_COUNT)
        atomic_fetch_add_explicit(&seg->members[seg_who_slot(self)].counter[counter], n, memory_order_relaxed);
}

uint64_t seg_counter_read(const struct seg *seg, unsigned slot, enum seg_counter counter)
{
    struct seg_member *member = seg_member(seg, slot);
    if (!member || (unsigned)counter >= SEG_COUNTER_COUNT)
        return 0;
    return atomic_load_explicit(&member->counter[counter], memory_order_relaxed);
}
