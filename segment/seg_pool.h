/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_pool.h - an array of equal elements that members allocate from and give back to, without a lock.
 *
 * Truth is the element's first word (seg_shared.h: state, slot, incarnation, aux), changed by CAS only. A section of hint bits (1:
 * perhaps free) makes finding a free one quick: a wrong hint costs a look, never an error; recovery sets lost hints again.
 *
 *   seg_pool_alloc     FREE -> PRIVATE(self)   fill it in, then link it where others find it, then
 *   seg_pool_publish   PRIVATE -> LIVE         just AFTER it was linked
 *   seg_pool_claim     LIVE -> LIMBO(self)     just BEFORE it is unlinked; exactly one claimer wins
 *   seg_pool_unclaim   LIMBO(self) -> LIVE     the unlinking did not happen
 *   seg_pool_retire    (claimed, unlinked)     takes the epoch stamp and queues it in this process's limbo list
 *   seg_pool_free      PRIVATE/LIMBO -> FREE   at once (never seen by others, or its epoch has passed)
 *
 * So at every instant an element that is not LIVE and linked bears the slot that must finish the step: a member that dies leaves PRIVATE and
 * LIMBO elements with its slot, and seg_pool_recover() makes those that are still linked LIVE and the others FREE.
 */
#ifndef HEARTH_SEG_POOL_H
#define HEARTH_SEG_POOL_H

#include "seg.h"
#include "seg_member.h"

#define SEG_INDEX_NONE UINT32_MAX

struct seg_pool; /* private: a handle over two sections; one per process */

/* Word helpers. */
static inline uint64_t seg_pool_word(unsigned state, unsigned slot, uint32_t incarnation, uint32_t aux)
{
    return (uint64_t)aux << 32 | (uint64_t)(incarnation & 0xffff) << 16 | (uint64_t)(slot & 0xff) << 8 | (state & 0xff);
}
static inline unsigned seg_pool_word_state(uint64_t w) { return (unsigned)(w & 0xff); }
static inline unsigned seg_pool_word_slot(uint64_t w) { return (unsigned)(w >> 8 & 0xff); }
static inline uint32_t seg_pool_word_aux(uint64_t w) { return (uint32_t)(w >> 32); }

/* keep_aux: true for nodes (aux is a generation: +1 at each free), false for frames (aux is 1 when allocated, 0 when free). */
int  seg_pool_open(struct seg *seg, enum seg_section_kind elements, enum seg_section_kind hints, bool keep_aux,
                   struct seg_pool **out);
void seg_pool_close(struct seg_pool *pool);
/* Creation only, before the magic: all elements FREE (zero), all hints set. */
void seg_pool_format(struct seg *seg, enum seg_section_kind elements, enum seg_section_kind hints);

uint32_t seg_pool_count(const struct seg_pool *pool);      /* elements                                   */
uint32_t seg_pool_free_count(const struct seg_pool *pool); /* hint bits set: approximate, cheap enough for a watermark (cached, refreshed by scan at most every few ms) */
void    *seg_pool_at(const struct seg_pool *pool, uint32_t index); /* NULL when out of range            */
/* The element's word, atomically (acquire); 0 when out of range. */
uint64_t seg_pool_load(const struct seg_pool *pool, uint32_t index);

/* Takes up to `want` elements, adjacent ones where it can (next-fit from a per-thread cursor). Returns how many (0: none; the
 * caller evicts and tries again; reaping of the own limbo is tried inside). Never blocks. */
uint32_t seg_pool_alloc(struct seg_pool *pool, uint32_t want, uint32_t *index);
void     seg_pool_publish(struct seg_pool *pool, uint32_t index); /* PRIVATE(self) -> LIVE; a late caller's CAS fails quietly */
/* LIVE -> LIMBO(self): true for the one caller that wins. The element is still linked; readers may use it. */
bool     seg_pool_claim(struct seg_pool *pool, uint32_t index);
void     seg_pool_unclaim(struct seg_pool *pool, uint32_t index); /* LIMBO(self) -> LIVE                                  */
/* The aux of an element that this member has claimed; for pools that do not keep it (frames: references). False: it is not ours. */
bool     seg_pool_aux_set(struct seg_pool *pool, uint32_t index, uint32_t aux);
/* After a claimed element was unlinked: stamps it and queues it in this process's limbo list. */
void     seg_pool_retire(struct seg_pool *pool, uint32_t index);
void     seg_pool_free(struct seg_pool *pool, uint32_t index);    /* PRIVATE(self) or claimed, not retired LIMBO(self) -> FREE */
/* Frees what has outlived its epoch in this process's limbo list; returns how many. */
uint32_t seg_pool_reap(struct seg_pool *pool);
uint32_t seg_pool_limbo_count(const struct seg_pool *pool);

/* For a member proven dead (or the own slot at join): PRIVATE and LIMBO elements of `slot` become LIVE where linked(arg, index) says that they can
 * be reached; the others go through the caller's limbo and are FREE as soon as no reader is inside that could hold them (at once
 * when nobody is inside). Hints are set again for every FREE element. The caller is a member. Idempotent, also when its caller dies half-way:
 * what it had taken over bears the caller's slot. Returns how many were given back. */
uint32_t seg_pool_recover(struct seg_pool *pool, unsigned slot, bool (*linked)(void *arg, uint32_t index), void *arg);

#endif
