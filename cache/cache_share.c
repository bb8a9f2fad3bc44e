/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_share.c - a copy of a range shares the frames of what it was copied from.
 *
 * Frames never change, so two pages with the same bytes may be in one. A frame's references (the aux of its pool word) are the page words that lead to it. They
 * change only in the hands of whoever has seized the frame:
 *   1 seize         LIVE(n) -> LIMBO(me, n), and the source's word is still what it was before the origin copied: nobody has changed that page since
 *   2 raise         LIMBO(me, n) -> LIMBO(me, n + 1)
 *   3 install       the copy's page: CLAIM(me) -> FRAME
 *   4 let go        -> LIVE(n + 1)
 * A writer or evictor of one of the pages seizes the frame, takes its word away, and lets the frame go with one reference less (cache_frame_unlinked). Step 2 comes
 * before 3, so that a frame in the hands of the dead that two words may lead to is known as such.
 *
 * If we die here: after 1 the frame is LIMBO(me, 1), as any other seized frame. After 2 or 3 recovery counts the words that lead to it (cache_recover.c).
 *
 * Why the word of the source proves that the bytes are right: every change of a page claims its word before it changes the origin, and moves the sequence when it publishes. The word
 * that was there before the origin copied and is there now stood all the time.
 *
 * The source's pages lose their used bits: after a copy they are the first to be evicted, which costs nothing while the copy has the frame.
 */
#include <errno.h>

#include "cache_internal.h"

enum { REFERENCES_MAX = 250 };

static uint64_t source_word(struct cache *cache, const struct cache_copy *copy, uint32_t i, struct cache_inode **inode)
{
    *inode = cache_inode_at(cache, copy->src_id);
    _Atomic uint64_t *word = *inode ? cache_word(cache, *inode, copy->src_id, copy->src_first + i) : NULL;
    return word ? atomic_load_explicit(word, memory_order_acquire) : 0;
}

int cache_copy_begin(struct cache *cache, uint64_t dst_id, uint64_t first, uint32_t count, uint64_t src_id, uint64_t src_first, struct cache_copy *copy)
{
    struct cache_inode *inode;
    int                 rc = cache_claims_begin(cache, dst_id, first, count, false, &copy->write);
    if (rc)
        return rc;
    copy->cache = cache;
    copy->src_id = src_id;
    copy->src_first = src_first;
    copy->shared = 0;
    seg_epoch_enter(cache->seg);
    for (uint32_t i = 0; i < count; i++)
        copy->src_word[i] = src_first == UINT64_MAX ? 0 : source_word(cache, copy, i, &inode);
    seg_epoch_exit(cache->seg);
    return 0;
}

static bool install(void *arg, uint32_t i, _Atomic uint64_t *word, uint64_t claim)
{
    struct cache_copy  *copy = arg;
    struct cache       *cache = copy->cache;
    struct cache_inode *inode;
    uint64_t            before = copy->src_word[i];
    uint32_t            frame = cache_word_value(before);

    if (i < copy->from || i >= copy->to || cache_word_tag(before) != CACHE_FRAME || !seg_pool_claim(cache->frames, frame))
        return false;
    uint32_t references = seg_pool_word_aux(seg_pool_load(cache->frames, frame));
    if (source_word(cache, copy, i, &inode) != before || references >= REFERENCES_MAX ||
        !seg_pool_aux_set(cache->frames, frame, references + 1)) {
        seg_pool_unclaim(cache->frames, frame);
        return false;
    }
    bool installed = cache_word_cas(word, claim, cache_word_next(claim, CACHE_FRAME, frame));
    if (!installed)
        seg_pool_aux_set(cache->frames, frame, references);
    seg_pool_unclaim(cache->frames, frame);
    if (installed) {
        copy->shared++;
        cache_word_unused(cache, inode, copy->src_id, copy->src_first + i);
    }
    return installed;
}

uint32_t cache_copy_end(struct cache *cache, struct cache_copy *copy, uint32_t from, uint32_t to, const struct cache_attr *attr)
{
    copy->from = from;
    copy->to = to;
    cache_claims_end(cache, &copy->write, 0, attr, install, copy);
    return copy->shared;
}
