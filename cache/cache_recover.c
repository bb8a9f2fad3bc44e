/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_recover.c - settles what a dead member left in the cache.
 *
 * Called under the recovery lock, by a member that lives, for a slot whose process is proven gone: a fenced member, or the
 * own slot's former life while joining. Nobody else writes in that slot's name any more. Others go on working meanwhile, and
 * may find and take over single steps themselves (frames, claims): every change here is a CAS on exactly what was read, so
 * one of the two wins.
 *
 * What says that something is half-done, and what is done about it:
 *   its intents           pages of the range (DATA), or everything of the inodes (NAMES) is dropped, attributes are unknown
 *   its write locks       in phase WRITING it may have changed the origin and not yet the cache: everything of that inode is dropped.
 *                         RECALLING, GRANTED: nothing had begun
 *   its publish locks     words, names, attributes may be half swapped: everything of that inode is dropped, the version becomes even
 *   its claims            become EMPTY; CLOSE words only in chunks that can still be found
 *   its pool elements     PRIVATE or LIMBO: LIVE when they can be found, else given back
 *   its bits              known, interest and the rest: cleared. Pins of names: see cache_name.c
 *
 * The steps, and what holds when this recovery dies in one of them (then somebody recovers the dead recoverer as well, and
 * this slot again):
 *   1. bucket owners      nobody spins on a chain any more. Any part of it done is done
 *      shared frames      in its hands: the page words that lead to each are counted, and it is LIVE with that many references, or has one left and goes in
 *                         step 6. Nobody can make a word lead to it meanwhile; one that is taken away without it leaves the count too high by one at worst
 *   2. halves dropped     under the publish lock, taken over from the dead holder by one CAS. If we die inside, the lock bears our slot, and whoever
 *                         recovers us drops the same again. Intents and write locks still stand, so this step is repeated as well
 *   3. intents cleared    one by one, each after its range was dropped
 *   4. claims, frames     claims voided; what is linked is looked up. Only words that name the dead slot change
 *   5. bits and locks     per inode: known bit, then lock words. The write lock goes last, so that those who wait for it find everything settled
 *   6. pools              after 4, which says what is linked; what is given back goes through our limbo, so readers who still look at it
 *                         are not disturbed. If we die, it bears our slot
 *   7. pins               after 6, when all records that stay are LIVE. Zero is never wrong
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "cache_internal.h"

enum { STUCK_MAX = 128, PUBLISH_TRIES = 20000, PUBLISH_YIELDS = 1000 };

struct recovery {
    struct cache *cache;
    unsigned      slot;
    uint8_t      *frame_linked; /* bitmap; only bits of the slot's own frames are set; NULL: it has none */
};

static bool bears(uint64_t word, unsigned slot)
{
    unsigned state = seg_pool_word_state(word);
    return (state == SEG_POOL_PRIVATE || state == SEG_POOL_LIMBO) && seg_pool_word_slot(word) == slot;
}

static bool is_former_self(const struct recovery *r, seg_who who)
{
    return who && seg_who_slot(who) == r->slot && who != seg_self(r->cache->seg);
}

/* ---- step 1: shared frames ---- */

struct count {
    uint32_t frame[STUCK_MAX];
    uint32_t links[STUCK_MAX];
    unsigned frames;
};

static void words_count(struct count *count, const _Atomic uint64_t *words, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t w = atomic_load_explicit(&words[i], memory_order_acquire);
        for (unsigned k = 0; cache_word_tag(w) == CACHE_FRAME && k < count->frames; k++)
            count->links[k] += cache_word_value(w) == count->frame[k];
    }
}

/* As many as STUCK_MAX at a time; returns how many there were. */
static unsigned shared_settle_some(struct recovery *r)
{
    struct cache *cache = r->cache;
    struct count  count = {.frames = 0};

    for (uint32_t i = 1; i < seg_pool_count(cache->frames) && count.frames < STUCK_MAX; i++) {
        uint64_t word = seg_pool_load(cache->frames, i);
        if (seg_pool_word_state(word) == SEG_POOL_LIMBO && seg_pool_word_slot(word) == r->slot && seg_pool_word_aux(word) > 1)
            count.frame[count.frames++] = i;
    }
    if (!count.frames)
        return 0;
    for (uint32_t i = 1; i < seg_pool_count(cache->inodes); i++)
        if (seg_pool_word_state(seg_pool_load(cache->inodes, i)) != SEG_POOL_FREE)
            words_count(&count, ((struct cache_inode *)seg_pool_at(cache->inodes, i))->direct, CACHE_DIRECT_PAGES);
    for (uint32_t i = 1; i < seg_pool_count(cache->chunks); i++)
        if (seg_pool_word_state(seg_pool_load(cache->chunks, i)) != SEG_POOL_FREE)
            words_count(&count, ((struct cache_chunk *)seg_pool_at(cache->chunks, i))->page, CACHE_CHUNK_PAGES);
    for (unsigned k = 0; k < count.frames; k++) {
        struct cache_frame *frame = seg_pool_at(cache->frames, count.frame[k]);
        uint64_t            word = seg_pool_load(cache->frames, count.frame[k]);
        uint64_t next = count.links[k] ? seg_pool_word(SEG_POOL_LIVE, 0, 0, count.links[k]) : (word & UINT32_MAX) | 1ull << 32;
        if (seg_pool_word_state(word) == SEG_POOL_LIMBO && seg_pool_word_slot(word) == r->slot)
            atomic_compare_exchange_strong_explicit(&frame->pool, &word, next, memory_order_acq_rel, memory_order_relaxed);
    }
    return count.frames;
}

static void shared_settle(struct recovery *r)
{
    while (shared_settle_some(r) == STUCK_MAX)
        ;
}

/* ---- step 2: halves ---- */

/* Who holds a publish lock and is dead loses it to us; who lives is waited for. -EAGAIN: it is held too long, try the whole recovery again. */
static int publish_take(struct recovery *r, struct cache_inode *inode)
{
    seg_who self = seg_self(r->cache->seg);

    lock_rank_push(LOCK_RANK_INODE_PUBLISH);
    for (unsigned tries = 0; tries < PUBLISH_TRIES; tries++) {
        uint64_t seen = atomic_load_explicit(&inode->lock.publish, memory_order_relaxed);
        bool     look = tries % 64 == 63; /* is its process gone? */
        bool     dead = is_former_self(r, seen) ||
                    (seen && seen != self &&
                     !cache_member_alive(r->cache, seg_who_slot(seen), seg_who_incarnation(seen) & 0xffff, look));
        if ((!seen || dead) && atomic_compare_exchange_strong_explicit(&inode->lock.publish, &seen, self, memory_order_seq_cst,
                                                                       memory_order_relaxed))
            return 0; /* pairs with lock_publish_exit */
        if (tries < PUBLISH_YIELDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    lock_rank_pop(LOCK_RANK_INODE_PUBLISH);
    return -EAGAIN;
}

/* Drops pages [first, first + count) and the attributes; with `names` also the names in it, as a directory. */
static int inode_drop(struct recovery *r, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t count, bool names)
{
    struct cache *cache = r->cache;
    int           rc = publish_take(r, inode);

    if (rc)
        return rc;
    cache_version_open(inode);
    if (names)
        cache_names_forget(cache, id);
    seg_epoch_enter(cache->seg);
    cache_words_clear(cache, inode, id, first, count);
    seg_epoch_exit(cache->seg);
    cache_attr_store(inode, NULL);
    cache_version_shut(inode);
    lock_publish_exit(cache->lock, &inode->lock);
    seg_epoch_enter(cache->seg);
    cache_chunks_tidy(cache, inode, id, first, count);
    seg_epoch_exit(cache->seg);
    return 0;
}

static bool may_have_names(const struct cache_inode *inode)
{
    uint32_t mode = __atomic_load_n(&inode->attr.mode, __ATOMIC_RELAXED); /* what it last was; 0: never known */
    return mode == 0 || (mode & 0170000) == 0040000;
}

static bool inode_is_half(const struct recovery *r, const struct cache_inode *inode)
{
    uint64_t owner = atomic_load_explicit(&inode->lock.owner, memory_order_acquire);
    uint64_t publish = atomic_load_explicit(&inode->lock.publish, memory_order_acquire);
    bool     writing = owner && (owner & 0xff) == r->slot + 1 && (owner >> 8 & 0xff) == LOCK_WRITING; /* lock_shared.h */
    bool     odd = !publish && atomic_load_explicit(&inode->version, memory_order_acquire) & 1;
    return writing || is_former_self(r, publish) || odd;
}

/* The inode in slot `index`, whatever state it is in; NULL when it is FREE. */
static struct cache_inode *inode_in(const struct cache *cache, uint32_t index, uint64_t *id)
{
    uint64_t word = seg_pool_load(cache->inodes, index);
    if (seg_pool_word_state(word) == SEG_POOL_FREE)
        return NULL;
    *id = cache_id_make(seg_pool_word_aux(word), index);
    return seg_pool_at(cache->inodes, index);
}

static int halves_drop(struct recovery *r)
{
    struct cache *cache = r->cache;
    int           rc = 0;

    for (uint32_t i = 1; i < seg_pool_count(cache->inodes) && !rc; i++) {
        uint64_t            id;
        struct cache_inode *inode = inode_in(cache, i, &id);
        if (inode && inode_is_half(r, inode))
            rc = inode_drop(r, inode, id, 0, UINT64_MAX, may_have_names(inode));
    }
    return rc;
}

/* ---- steps 2 and 3: intents ---- */

static int intent_settle(struct recovery *r, const struct cache_intent *intent, uint64_t op)
{
    struct cache *cache = r->cache;
    int           rc = 0;

    for (unsigned i = 0; i < 4 && !rc; i++) {
        uint64_t            id = intent->id[i];
        struct cache_inode *inode = id ? cache_inode_at(cache, id) : NULL; /* gone: so are its pages */
        if (!inode)
            continue;
        if (op == CACHE_INTENT_DATA)
            rc = i ? 0 : inode_drop(r, inode, id, intent->first_page, intent->page_count, false);
        else
            rc = inode_drop(r, inode, id, 0, UINT64_MAX, may_have_names(inode));
    }
    return rc;
}

static int intents_settle(struct recovery *r)
{
    struct cache_intents *page = seg_elem(&r->cache->intents, r->slot);
    int                   rc = 0;

    for (unsigned i = 0; page && i < CACHE_INTENTS && !rc; i++) {
        struct cache_intent *intent = &page->intent[i];
        uint64_t             op = atomic_load_explicit(&intent->op, memory_order_acquire);
        if (op == CACHE_INTENT_NONE)
            continue;
        rc = intent_settle(r, intent, op);
        if (!rc)
            atomic_store_explicit(&intent->op, CACHE_INTENT_NONE, memory_order_release); /* step 3 */
    }
    return rc;
}

/* ---- step 4: words ---- */

/* linked: the word's owner can be found, so what is in the word is reachable. */
static void word_settle(struct recovery *r, _Atomic uint64_t *word, bool linked)
{
    uint64_t w = atomic_load_explicit(word, memory_order_acquire);
    uint32_t value = cache_word_value(w);

    if (cache_word_tag(w) == CACHE_CLAIM && cache_claim_slot(value) == r->slot) {
        if (linked || cache_claim_of_kind(value) != CACHE_CLAIM_CLOSE)
            cache_word_cas(word, w, cache_word_next(w, CACHE_EMPTY, 0)); /* failed: overtaken meanwhile */
    } else if (cache_word_tag(w) == CACHE_FRAME && linked && r->frame_linked &&
               bears(seg_pool_load(r->cache->frames, value), r->slot)) {
        r->frame_linked[value / 8] |= (uint8_t)(1u << value % 8);
    }
}

static bool chunk_is_linked(const struct recovery *r, uint32_t index, uint64_t word)
{
    struct cache *cache = r->cache;

    if (seg_pool_word_state(word) == SEG_POOL_LIVE)
        return true;
    seg_epoch_enter(cache->seg);
    bool linked = cache_chunk_linked(cache, index);
    seg_epoch_exit(cache->seg);
    return linked;
}

static void words_settle(struct recovery *r)
{
    struct cache *cache = r->cache;

    for (uint32_t i = 1; i < seg_pool_count(cache->inodes); i++) {
        uint64_t            id;
        struct cache_inode *inode = inode_in(cache, i, &id);
        for (unsigned page = 0; inode && page < CACHE_DIRECT_PAGES; page++)
            word_settle(r, &inode->direct[page], true);
    }
    for (uint32_t i = 1; i < seg_pool_count(cache->chunks); i++) {
        uint64_t            word = seg_pool_load(cache->chunks, i);
        struct cache_chunk *chunk = seg_pool_at(cache->chunks, i);
        if (seg_pool_word_state(word) == SEG_POOL_FREE)
            continue;
        bool linked = chunk_is_linked(r, i, word);
        for (unsigned page = 0; page < CACHE_CHUNK_PAGES; page++)
            word_settle(r, &chunk->page[page], linked);
    }
}

static int frames_prepare(struct recovery *r)
{
    uint32_t count = seg_pool_count(r->cache->frames);

    for (uint32_t i = 0; i < count; i++) {
        if (!bears(seg_pool_load(r->cache->frames, i), r->slot))
            continue;
        r->frame_linked = calloc(count / 8 + 1, 1);
        return r->frame_linked ? 0 : -ENOMEM;
    }
    return 0;
}

/* ---- steps 5 and 7 ---- */

static void pins_clear(struct cache *cache)
{
    for (uint32_t i = 1; i < seg_pool_count(cache->names); i++) {
        struct cache_name *record = seg_pool_at(cache->names, i);
        seg_epoch_enter(cache->seg);
        /* LIVE, and a head: inside the epoch it stays that */
        if (seg_pool_word_state(seg_pool_load(cache->names, i)) == SEG_POOL_LIVE &&
            __atomic_load_n(&record->parent, __ATOMIC_RELAXED) != 0 &&
            atomic_load_explicit(&record->pins, memory_order_relaxed))
            atomic_store_explicit(&record->pins, 0, memory_order_relaxed);
        seg_epoch_exit(cache->seg);
    }
}

/* An evictor that died after DYING: nobody knows the inode. Were it 64 members that know it instead, all of them would be active; then the bits are left: an
 * inode that stays costs little, one that goes too early is wrong. */
static void known_clear(struct recovery *r, struct cache_inode *inode, uint32_t index)
{
    struct cache *cache = r->cache;
    uint64_t      known = atomic_load_explicit(&inode->known, memory_order_relaxed), next;

    do {
        uint64_t word = seg_pool_load(cache->inodes, index);
        bool     dying = known == CACHE_KNOWN_DYING && seg_pool_word_state(word) == SEG_POOL_LIMBO;
        if (dying && !bears(word, r->slot))
            return; /* a living evictor's */
        next = dying && ~seg_members_active(cache->seg) ? 0 : known & ~(1ull << r->slot);
    } while (next != known && !atomic_compare_exchange_weak_explicit(&inode->known, &known, next, memory_order_seq_cst,
                                                                     memory_order_relaxed));
}

static void inodes_settle(struct recovery *r)
{
    struct cache *cache = r->cache;

    for (uint32_t i = 1; i < seg_pool_count(cache->inodes); i++) {
        uint64_t            id;
        struct cache_inode *inode = inode_in(cache, i, &id);
        if (!inode)
            continue;
        known_clear(r, inode, i);
        struct lock_ref ref = {.id = id, .words = &inode->lock};
        lock_recover(cache->lock, &ref, r->slot);
    }
}

/* ---- step 6: can it be found? ---- */

static bool is_element(const void *e, const void *key)
{
    return e == key;
}

static bool in_chain(const struct seg_chain *chain, uint64_t hash, const void *element)
{
    seg_epoch_enter(chain->seg);
    uint32_t found = seg_chain_find(chain, hash, is_element, element);
    seg_epoch_exit(chain->seg);
    return found != SEG_INDEX_NONE;
}

static bool inode_linked(void *arg, uint32_t index)
{
    const struct recovery    *r = arg;
    const struct cache_inode *inode = seg_pool_at(r->cache->inodes, index);
    return inode && in_chain(&r->cache->inode_chain, cache_ref_hash(inode->ref), inode);
}

static bool head_linked(const struct recovery *r, uint32_t index)
{
    const struct cache_name *record = seg_pool_at(r->cache->names, index);
    return record && record->parent && in_chain(&r->cache->name_chain, record->hash, record);
}

static bool name_linked(void *arg, uint32_t index)
{
    const struct recovery        *r = arg;
    const struct cache_name_part *part = seg_pool_at(r->cache->names, index);
    const struct cache_name      *head;
    uint32_t                      next;

    if (!part || part->parent != 0)
        return head_linked(r, index);
    if (!head_linked(r, part->head))
        return false;
    head = seg_pool_at(r->cache->names, part->head);
    next = head->part;
    for (unsigned i = 0; i < 2 && next; i++) {
        if (next - 1 == index)
            return true;
        part = seg_pool_at(r->cache->names, next - 1);
        next = part ? part->part : 0;
    }
    return false;
}

static bool chunk_linked(void *arg, uint32_t index)
{
    return chunk_is_linked(arg, index, seg_pool_word(SEG_POOL_LIMBO, 0, 0, 0));
}

static bool frame_linked(void *arg, uint32_t index)
{
    const struct recovery *r = arg;
    return r->frame_linked && r->frame_linked[index / 8] >> index % 8 & 1;
}

static void pools_settle(struct recovery *r)
{
    struct cache *cache = r->cache;
    seg_pool_recover(cache->frames, r->slot, frame_linked, r);
    seg_pool_recover(cache->chunks, r->slot, chunk_linked, r);
    seg_pool_recover(cache->names, r->slot, name_linked, r);
    seg_pool_recover(cache->inodes, r->slot, inode_linked, r);
}

int cache_recover(struct cache *cache, unsigned slot)
{
    struct recovery r = {.cache = cache, .slot = slot};
    int             rc;

    if (slot >= SEG_MEMBERS_MAX)
        return -EINVAL;
    assert(!seg_epoch_inside(cache->seg));
    seg_chain_recover(&cache->inode_chain, slot); /* step 1 */
    seg_chain_recover(&cache->name_chain, slot);
    seg_chain_recover(&cache->chunk_chain, slot);
    if ((int)slot != seg_self_slot(cache->seg))
        seg_epoch_clear(cache->seg, slot);
    shared_settle(&r);
    rc = halves_drop(&r); /* step 2 */
    if (!rc)
        rc = intents_settle(&r); /* steps 2, 3 */
    if (!rc)
        rc = frames_prepare(&r);
    if (rc)
        return rc;
    words_settle(&r);  /* step 4 */
    inodes_settle(&r); /* step 5 */
    pools_settle(&r);  /* step 6 */
    pins_clear(cache); /* step 7 */
    free(r.frame_linked);
    return 0;
}
