/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_chunk.c - from (inode, page) to the page's word: the direct words of the inode, and chunks found by hash.
 *
 *              alloc, fill in, insert          publish            claim, close words             remove, retire
 *   FREE -----------------> PRIVATE(me), linked ------> LIVE, linked ----------> LIMBO(me), linked ----------> LIMBO(me) -> FREE
 *                                                          ^                         |
 *                                                          +---- a word is in use: words opened, unclaim
 *
 * Chunks come without a lock: whoever needs one allocates it, fills it in and inserts it; the loser of that race uses
 * the winner's. A chunk can be used as soon as it is linked, PRIVATE or not.
 *
 * Chunks go by closing. The thread that wants to free one wins it by seg_pool_claim, then turns each of the 16 words
 * from EMPTY into a claim of kind CLOSE by CAS. If a word is not EMPTY it gives up: its own CLOSE words become EMPTY
 * again and the chunk is LIVE. Only when all 16 are closed is the chunk unlinked. A slow thread, still in an epoch
 * with a word of this chunk in its hand, CASes what it read (EMPTY or older) and fails, because the word has moved;
 * nothing lands in a chunk that cannot be found. Who meets a CLOSE word leaves its epoch and looks the chunk up
 * again. While somebody's own claim stands in a word, closing fails at that word: so the word stays good beyond the
 * epoch. Words keep counting their sequence through all lives of a chunk: the claim of a member that sleeps for ages
 * matches nothing in a later life.
 *
 * The words of pages 0..3 in chunk 0 are never used: these hang on the inode. Inodes are not closed: who adds
 * something to an inode's words holds the inode (known, or its write lock).
 *
 * If we die here: PRIVATE linked becomes LIVE by recovery, unlinked FREE; LIMBO linked becomes LIVE and its CLOSE
 * words EMPTY (until then those pages cannot be cached: fills answer -ENOMEM, writes go on without a claim). The
 * single store of the chain decides which of the two it is.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "cache_internal.h"

enum { MAKE_TRIES = 64 };

struct chunk_key {
    uint64_t id, number;
};

/* Walks over the pool read these while a chunk is being filled in; what they find then is checked by CAS on its words. */
static uint64_t chunk_id(const struct cache_chunk *chunk)
{
    return __atomic_load_n(&chunk->inode_id, __ATOMIC_RELAXED);
}
static uint64_t chunk_number(const struct cache_chunk *chunk)
{
    return __atomic_load_n(&chunk->number, __ATOMIC_RELAXED);
}

static bool chunk_match(const void *e, const void *k)
{
    const struct cache_chunk *chunk = e;
    const struct chunk_key   *key = k;
    return chunk_id(chunk) == key->id && chunk_number(chunk) == key->number;
}

struct cache_chunk *cache_chunk_find(const struct cache *cache, uint64_t id, uint64_t number, uint32_t *index)
{
    struct chunk_key key = {id, number};
    uint32_t         found = seg_chain_find(&cache->chunk_chain, cache_chunk_hash(id, number), chunk_match, &key);
    if (found == SEG_INDEX_NONE)
        return NULL;
    if (index)
        *index = found;
    return seg_pool_at(cache->chunks, found);
}

bool cache_chunk_linked(const struct cache *cache, uint32_t index)
{
    const struct cache_chunk *chunk = seg_pool_at(cache->chunks, index);
    uint32_t                  found = SEG_INDEX_NONE;
    return chunk && cache_chunk_find(cache, chunk_id(chunk), chunk_number(chunk), &found) && found == index;
}

/* ---- making ---- */

/* Before the chunk is linked, so that who sees the chunk sees this. */
static void chunk_end_raise(struct cache_inode *inode, uint64_t number)
{
    uint64_t end = atomic_load_explicit(&inode->chunk_end, memory_order_relaxed);
    while (end <= number && !atomic_compare_exchange_weak_explicit(&inode->chunk_end, &end, number + 1,
                                                                   memory_order_seq_cst, memory_order_relaxed))
        ;
}

static int chunk_make(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t number, uint32_t *index)
{
    struct chunk_key key = {id, number};
    uint32_t         fresh, found;

    if (seg_pool_alloc(cache->chunks, 1, &fresh) == 0)
        return -ENOMEM;
    struct cache_chunk *chunk = seg_pool_at(cache->chunks, fresh);
    __atomic_store_n(&chunk->inode_id, id, __ATOMIC_RELAXED);
    __atomic_store_n(&chunk->number, number, __ATOMIC_RELAXED);
    atomic_store_explicit(&chunk->used, 0, memory_order_relaxed);
    for (unsigned i = 0; i < CACHE_CHUNK_PAGES; i++) {
        uint64_t w = atomic_load_explicit(&chunk->page[i], memory_order_relaxed);
        atomic_store_explicit(&chunk->page[i], cache_word_next(w, CACHE_EMPTY, 0), memory_order_relaxed);
    }
    chunk_end_raise(inode, number);
    int rc = seg_chain_insert(&cache->chunk_chain, cache_chunk_hash(id, number), fresh, chunk_match, &key, &found);
    if (rc == 0) {
        seg_pool_publish(cache->chunks, fresh);
        *index = fresh;
        return 0;
    }
    seg_pool_free(cache->chunks, fresh);
    if (rc != -EEXIST)
        return rc;
    *index = found;
    return 0;
}

static bool word_is_closed(uint64_t w)
{
    return cache_word_tag(w) == CACHE_CLAIM && cache_claim_of_kind(cache_word_value(w)) == CACHE_CLAIM_CLOSE;
}

int cache_word_get(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page, _Atomic uint64_t **word)
{
    uint32_t            index;
    struct cache_chunk *chunk;

    if (page < CACHE_DIRECT_PAGES) {
        *word = &inode->direct[page];
        return 0;
    }
    chunk = cache_chunk_find(cache, id, page / CACHE_CHUNK_PAGES, &index);
    if (!chunk) {
        int rc = chunk_make(cache, inode, id, page / CACHE_CHUNK_PAGES, &index);
        if (rc)
            return rc;
        chunk = seg_pool_at(cache->chunks, index);
        if (!chunk)
            return -EUCLEAN;
    }
    _Atomic uint64_t *at = &chunk->page[page % CACHE_CHUNK_PAGES];
    if (word_is_closed(atomic_load_explicit(at, memory_order_acquire)))
        return -EAGAIN;
    *word = at;
    return 0;
}

_Atomic uint64_t *cache_word(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page)
{
    if (page < CACHE_DIRECT_PAGES)
        return &inode->direct[page];
    struct cache_chunk *chunk = cache_chunk_find(cache, id, page / CACHE_CHUNK_PAGES, NULL);
    return chunk ? &chunk->page[page % CACHE_CHUNK_PAGES] : NULL;
}

/* What is evicted here cannot be used before the caller's epoch has ended: this helps callers that come later. */
_Atomic uint64_t *cache_word_make(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page)
{
    _Atomic uint64_t *word = NULL;
    for (unsigned tries = 0; tries < MAKE_TRIES; tries++) {
        int rc = cache_word_get(cache, inode, id, page, &word);
        if (rc == 0)
            return word;
        if (rc == -ENOMEM && (tries > 0 || cache_chunks_evict(cache, 1) == 0))
            return NULL;
        if (rc != -ENOMEM && rc != -EAGAIN)
            return NULL;
        sched_yield(); /* -EAGAIN: its closer is at work, and does not sleep */
    }
    return NULL;
}

void cache_word_used(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page)
{
    if (page < CACHE_DIRECT_PAGES) {
        cache_used_set(&inode->used, 2u << page);
        return;
    }
    struct cache_chunk *chunk = cache_chunk_find(cache, id, page / CACHE_CHUNK_PAGES, NULL);
    if (chunk)
        cache_used_set(&chunk->used, 1u << page % CACHE_CHUNK_PAGES);
}

static void used_clear(_Atomic uint32_t *used, uint32_t bit)
{
    if (atomic_load_explicit(used, memory_order_relaxed) & bit)
        atomic_fetch_and_explicit(used, ~bit, memory_order_relaxed);
}

void cache_word_unused(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page)
{
    struct cache_chunk *chunk = page < CACHE_DIRECT_PAGES ? NULL : cache_chunk_find(cache, id, page / CACHE_CHUNK_PAGES, NULL);
    if (page < CACHE_DIRECT_PAGES)
        used_clear(&inode->used, 2u << page);
    else if (chunk)
        used_clear(&chunk->used, 1u << page % CACHE_CHUNK_PAGES);
}

/* ---- freeing ---- */

static bool words_all_empty(const struct cache_chunk *chunk)
{
    for (unsigned i = 0; i < CACHE_CHUNK_PAGES; i++)
        if (cache_word_tag(atomic_load_explicit(&chunk->page[i], memory_order_relaxed)) != CACHE_EMPTY)
            return false;
    return true;
}

/* Closes words from 0 on; stops at the first that is in use. Returns how many are closed; closed[] has what stands in them. */
static unsigned words_close(struct cache *cache, struct cache_chunk *chunk, uint64_t closed[CACHE_CHUNK_PAGES])
{
    uint32_t value = cache_claim_own(cache, CACHE_CLAIM_CLOSE);
    unsigned n = 0;

    while (n < CACHE_CHUNK_PAGES) {
        uint64_t w = atomic_load_explicit(&chunk->page[n], memory_order_relaxed);
        if (cache_word_tag(w) != CACHE_EMPTY)
            break;
        closed[n] = cache_word_next(w, CACHE_CLAIM, value);
        if (cache_word_cas(&chunk->page[n], w, closed[n]))
            n++;
    }
    return n;
}

bool cache_chunk_free_if_empty(struct cache *cache, uint32_t chunk_index)
{
    struct cache_chunk *chunk = seg_pool_at(cache->chunks, chunk_index);
    uint64_t            closed[CACHE_CHUNK_PAGES];

    if (!chunk || chunk_index == 0) /* index 0 is reserved by cache_format */
        return false;
    if (seg_pool_word_state(seg_pool_load(cache->chunks, chunk_index)) != SEG_POOL_LIVE || !words_all_empty(chunk) ||
        !seg_pool_claim(cache->chunks, chunk_index))
        return false;
    unsigned n = words_close(cache, chunk, closed);
    if (n == CACHE_CHUNK_PAGES) {
        uint64_t hash = cache_chunk_hash(chunk_id(chunk), chunk_number(chunk));
        int      rc = seg_chain_remove(&cache->chunk_chain, hash, chunk_index);
        if (rc == 0 || rc == -ENOENT) { /* -ENOENT: a peer's fault; not linked in any case */
            seg_pool_retire(cache->chunks, chunk_index);
            return true;
        }
    }
    while (n-- > 0)
        cache_word_cas(&chunk->page[n], closed[n], cache_word_next(closed[n], CACHE_EMPTY, 0));
    seg_pool_unclaim(cache->chunks, chunk_index);
    return false;
}

/* ---- walks ---- */

typedef int (*chunk_fn)(void *arg, uint32_t index, struct cache_chunk *chunk, uint64_t number);

/* Every chunk in any state but FREE may hold a fresh claim: it can be used from the moment on when it is linked. */
static int chunks_walk_pool(struct cache *cache, uint64_t id, uint64_t first, uint64_t end, chunk_fn fn, void *arg)
{
    for (uint32_t i = 0; i < seg_pool_count(cache->chunks); i++) {
        struct cache_chunk *chunk = seg_pool_at(cache->chunks, i);
        if (seg_pool_word_state(seg_pool_load(cache->chunks, i)) == SEG_POOL_FREE || chunk_id(chunk) != id)
            continue;
        uint64_t number = chunk_number(chunk);
        if (number < first || number >= end)
            continue;
        int rc = fn(arg, i, chunk, number);
        if (rc)
            return rc;
    }
    return 0;
}

static int chunks_walk(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t end,
                       chunk_fn fn, void *arg)
{
    uint64_t limit = atomic_load_explicit(&inode->chunk_end, memory_order_seq_cst); /* pairs with chunk_end_raise */
    if (end > limit)
        end = limit;
    if (first >= end)
        return 0;
    if (end - first > seg_pool_count(cache->chunks))
        return chunks_walk_pool(cache, id, first, end, fn, arg);
    for (uint64_t number = first; number < end; number++) {
        uint32_t            index;
        struct cache_chunk *chunk = cache_chunk_find(cache, id, number, &index);
        int                 rc = chunk ? fn(arg, index, chunk, number) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

struct words_walk {
    uint64_t first, end; /* pages */
    int (*fn)(void *arg, uint64_t page, _Atomic uint64_t *word);
    void *arg;
};

static int chunk_words(void *arg, uint32_t index, struct cache_chunk *chunk, uint64_t number)
{
    const struct words_walk *walk = arg;
    (void)index;
    for (unsigned i = 0; i < CACHE_CHUNK_PAGES; i++) {
        uint64_t page = number * CACHE_CHUNK_PAGES + i;
        if (page < CACHE_DIRECT_PAGES || page < walk->first || page >= walk->end)
            continue;
        int rc = walk->fn(walk->arg, page, &chunk->page[i]);
        if (rc)
            return rc;
    }
    return 0;
}

static uint64_t range_end(uint64_t first, uint64_t count)
{
    return count > UINT64_MAX - first ? UINT64_MAX : first + count;
}

static int direct_words(struct cache_inode *inode, const struct words_walk *walk)
{
    int rc = 0;
    for (uint64_t page = walk->first; page < walk->end && page < CACHE_DIRECT_PAGES && !rc; page++)
        rc = walk->fn(walk->arg, page, &inode->direct[page]);
    return rc;
}

int cache_words_walk(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t count,
                     int (*fn)(void *arg, uint64_t page, _Atomic uint64_t *word), void *arg)
{
    struct words_walk walk = {.first = first, .end = range_end(first, count), .fn = fn, .arg = arg};
    if (!count)
        return 0;
    int rc = direct_words(inode, &walk);
    if (rc || walk.end <= CACHE_DIRECT_PAGES)
        return rc;
    return chunks_walk(cache, inode, id, first / CACHE_CHUNK_PAGES, (walk.end - 1) / CACHE_CHUNK_PAGES + 1, chunk_words,
                       &walk);
}

static int drop_word(void *arg, uint64_t page, _Atomic uint64_t *word)
{
    (void)page;
    cache_word_drop(arg, word);
    return 0;
}

void cache_words_clear(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t count)
{
    cache_words_walk(cache, inode, id, first, count, drop_word, cache);
}

static int tidy_chunk(void *arg, uint32_t index, struct cache_chunk *chunk, uint64_t number)
{
    (void)chunk;
    (void)number;
    cache_chunk_free_if_empty(arg, index);
    return 0;
}

void cache_chunks_tidy(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t count)
{
    uint64_t end = range_end(first, count);
    if (count && end > CACHE_DIRECT_PAGES)
        chunks_walk(cache, inode, id, first / CACHE_CHUNK_PAGES, (end - 1) / CACHE_CHUNK_PAGES + 1, tidy_chunk, cache);
}

void cache_words_drop(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t count)
{
    cache_words_clear(cache, inode, id, first, count);
    cache_chunks_tidy(cache, inode, id, first, count);
}
