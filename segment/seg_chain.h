/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_chain.h - a hash table in the segment: an array of bucket words over the elements of one pool.
 *
 * Bucket word: head index + 1 : 32 | owner slot + 1 : 8 | incarnation : 24 (low bits). An element's link (u32: next index + 1) lies at a fixed
 * offset. Readers walk without a lock inside an epoch. A change takes the bucket's owner field (spinning; never sleeps while
 * held; rank CACHE_BUCKET) and is then one atomic store, which for insertion is the same store that unlocks. So a member that
 * dies inside leaves a sound chain, and recovery has only to clear the owner field. Walks are bounded by the pool's size: a cycle
 * written by a faulty peer ends with "not found".
 */
#ifndef HEARTH_SEG_CHAIN_H
#define HEARTH_SEG_CHAIN_H

#include "seg.h"
#include "seg_pool.h"

struct seg_chain {
    struct seg       *seg;
    struct seg_pool  *pool;
    struct seg_array  buckets;   /* _Atomic uint64_t each; count is a power of two */
    uint32_t          link_off;  /* of the _Atomic uint32_t link in an element      */
};

int seg_chain_open(struct seg_chain *chain, struct seg *seg, struct seg_pool *pool, enum seg_section_kind buckets,
                   uint32_t link_off);

/* match: true when element `e` is the one looked for. Called inside an epoch, must not block. */
typedef bool (*seg_chain_match)(const void *e, const void *key);

/* Finds inside an epoch; SEG_INDEX_NONE when absent. Takes no lock. */
uint32_t seg_chain_find(const struct seg_chain *chain, uint64_t hash, seg_chain_match match, const void *key);
/* Inserts `index` (PRIVATE; the caller publishes it then) unless one that matches is there: then -EEXIST and *found is that one. match NULL: the caller
 * knows that none is; the chain is not walked. */
int      seg_chain_insert(struct seg_chain *chain, uint64_t hash, uint32_t index, seg_chain_match match, const void *key,
                          uint32_t *found);
/* Unlinks exactly `index`; -ENOENT when it is not in the chain. The caller has claimed it before and retires it then. */
int      seg_chain_remove(struct seg_chain *chain, uint64_t hash, uint32_t index);
/* Clears owner fields held by `slot` (proven dead). Idempotent. */
void     seg_chain_recover(struct seg_chain *chain, unsigned slot);
/* Walks every chain: fn for each element; returns -EUCLEAN at a cycle or a bad index, or fn's first non-zero result. */
int      seg_chain_walk(const struct seg_chain *chain, int (*fn)(void *arg, uint64_t bucket, uint32_t index), void *arg);

#endif
