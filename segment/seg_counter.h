/* SPDX-License-Identifier: Apache-2.0 */
/* seg_counter.h - the counters of a member: one list of names for all who count and all who show. Relaxed, owner writes. */
#ifndef HEARTH_SEG_COUNTER_H
#define HEARTH_SEG_COUNTER_H

#include "seg_member.h"

#define SEG_COUNTERS(X)                                                                                                  \
    X(hits) X(misses) X(attr_hits) X(attr_misses) X(name_hits) X(name_misses) X(fills) X(fill_waits) X(evictions)        \
    X(recalls_sent) X(recalls_served) X(recall_rounds) X(doorbells_rung) X(doorbells_suppressed) X(items_merged)         \
    X(inbox_full) X(lock_waits) X(lock_handoffs) X(origin_reads) X(origin_read_bytes) X(origin_writes)                   \
    X(origin_write_bytes) X(origin_meta_ops) X(checksum_errors) X(fences) X(epoch_bumps) X(requests_inline)              \
    X(requests_queued) X(prunes) X(slipped_writes) X(listing_hits) X(listing_misses) X(opens) X(releases)       \
    X(pages_shared) X(outside_changes) X(watch_events) X(watch_overflows)

enum seg_counter {
#define X(name) SEG_COUNTER_##name,
    SEG_COUNTERS(X)
#undef X
    SEG_COUNTER_COUNT
};
static_assert((int)SEG_COUNTER_COUNT <= (int)SEG_COUNTERS_MAX, "layout v1");

extern const char *const seg_counter_name[SEG_COUNTER_COUNT];
void     seg_count(struct seg *seg, enum seg_counter counter, uint64_t n); /* relaxed add to the own slot; nothing before join */
uint64_t seg_counter_read(const struct seg *seg, unsigned slot, enum seg_counter counter);

#endif
