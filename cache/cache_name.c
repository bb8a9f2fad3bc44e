/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_name.c - what a name in a directory leads to: a node, nothing (negative), or not known.
 *
 * A record is one element, or up to three for names longer than 72 bytes:   head [72 bytes] -> part [96] -> part [96]
 * Records hang on one hash of (directory, name). The head alone is linked; its parts are reached through it and live and go
 * with it.
 *
 * Who writes what. `child` changes only under the directory's publish lock, by one store, so readers need no lock and no
 * version: what they find was so at some moment of their call, and the recall protocol keeps a kernel from keeping it beyond
 * a change. A fill compares the directory's version under that lock: what was asked of the origin before a change is refused
 * after it. Everything else of a record is constant while it can be found. A record that has come to be wrong is not unlinked
 * but made UNKNOWN; only the clock (cache_names_evict) and nobody else frees records. A clock may be about to unlink a record
 * (LIMBO) while its child is changed: either it stays, changed, or it is gone, which is a miss.
 *
 * Pins keep the clock away from a record that a recall names: pinner (N1) pins + 1 (N2) load state; clock (N3) claim (N4)
 * load pins. One of them sees the other; the clock gives way. A pin is a hint, not a promise: recovery of any dead member
 * sets all of them to 0, because nobody can tell whose they were. Then a record may be freed while a recall still names it;
 * the generation in the argument shows that, cache_name_get() says -ESTALE, and the recalled member takes back all names of
 * that directory, which is more than was asked.
 *
 * If we die here: before linking, head and parts are PRIVATE and unlinked: FREE. Linked and not published: LIVE. Claimed and
 * still linked: LIVE; unlinked: FREE. A part counts as linked when the head that it names is, and leads to it.
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <xxhash.h>

#include "cache_internal.h"

enum { NAME_MAX_BYTES = 255, PARTS_MAX = 3, EVICT_BATCH = 16, PIN_TRIES = 1000, CHANGES_MAX = 4 };

struct name_key {
    const struct cache *cache;
    uint64_t            dir, hash;
    const char         *name;
    size_t              length;
};

/* A record that nobody can find yet; count 0: none. The first is the head. */
struct fresh {
    unsigned count;
    uint32_t index[PARTS_MAX];
};

uint64_t cache_name_hash(uint64_t dir, const char *name, size_t length)
{
    return XXH3_64bits_withSeed(name, length, dir * 0x9e3779b97f4a7c15ull);
}

static struct name_key key_make(const struct cache *cache, uint64_t dir, const char *name, size_t length)
{
    return (struct name_key){cache, dir, cache_name_hash(dir, name, length), name, length};
}

static bool length_is_good(size_t length)
{
    return length >= 1 && length <= NAME_MAX_BYTES;
}

static struct cache_name *name_at(const struct cache *cache, uint32_t index)
{
    return seg_pool_at(cache->names, index);
}

/* ---- bytes ---- */

int cache_name_bytes(const struct cache *cache, const struct cache_name *record, char name[256])
{
    size_t   length = record->length, done = length < CACHE_NAME_INLINE ? length : CACHE_NAME_INLINE;
    uint32_t part = record->part;

    if (!length_is_good(length))
        return -EUCLEAN;
    memcpy(name, record->bytes, done);
    while (done < length) {
        const struct cache_name_part *more = seg_pool_at(cache->names, part - 1); /* 0: out of range */
        size_t                        n = length - done < CACHE_NAME_PART ? length - done : CACHE_NAME_PART;
        if (!more || more->parent != 0)
            return -EUCLEAN;
        memcpy(name + done, more->bytes, n);
        done += n;
        part = more->part;
    }
    name[length] = 0;
    return (int)length;
}

static bool name_match(const void *e, const void *k)
{
    const struct cache_name *record = e;
    const struct name_key   *key = k;
    char                     name[256];

    if (record->hash != key->hash || record->parent != key->dir || record->length != key->length)
        return false;
    if (key->length <= CACHE_NAME_INLINE)
        return memcmp(record->bytes, key->name, key->length) == 0;
    return cache_name_bytes(key->cache, record, name) == (int)key->length && memcmp(name, key->name, key->length) == 0;
}

/* [epoch] */
static uint32_t record_find(const struct name_key *key)
{
    return seg_chain_find(&key->cache->name_chain, key->hash, name_match, key);
}

/* ---- hints: where a node was last seen ---- */

static void hint_set(struct cache *cache, uint64_t child, uint64_t dir, uint32_t index)
{
    struct cache_inode *inode = cache_inode_at(cache, child);
    if (!inode)
        return;
    atomic_store_explicit(&inode->parent, dir, memory_order_relaxed);
    atomic_store_explicit(&inode->name, index, memory_order_relaxed);
}

static void hint_clear(struct cache *cache, uint64_t child, uint32_t index)
{
    struct cache_inode *inode = cache_inode_at(cache, child);
    uint32_t            seen = index;
    if (inode)
        atomic_compare_exchange_strong_explicit(&inode->name, &seen, SEG_INDEX_NONE, memory_order_relaxed, memory_order_relaxed);
}

/* ---- making records ---- */

static unsigned elements_needed(size_t length)
{
    return length <= CACHE_NAME_INLINE ? 1 : 1 + (unsigned)((length - CACHE_NAME_INLINE + CACHE_NAME_PART - 1) / CACHE_NAME_PART);
}

static void fresh_drop(struct cache *cache, struct fresh *fresh)
{
    while (fresh->count)
        seg_pool_free(cache->names, fresh->index[--fresh->count]);
}

static bool fresh_alloc(struct cache *cache, struct fresh *fresh, unsigned want)
{
    fresh->count = seg_pool_alloc(cache->names, want, fresh->index);
    for (unsigned tries = 0; fresh->count < want && tries < 2; tries++) {
        cache_names_evict(cache, EVICT_BATCH);
        fresh->count += seg_pool_alloc(cache->names, want - fresh->count, fresh->index + fresh->count);
    }
    if (fresh->count < want)
        fresh_drop(cache, fresh);
    return fresh->count == want;
}

static void parts_fill(struct cache *cache, const struct fresh *fresh, const char *bytes, size_t left)
{
    for (unsigned i = 1; i < fresh->count; i++) {
        struct cache_name_part *part = seg_pool_at(cache->names, fresh->index[i]);
        size_t                  n = left < CACHE_NAME_PART ? left : CACHE_NAME_PART;
        part->head = fresh->index[0];
        part->part = i + 1 < fresh->count ? fresh->index[i + 1] + 1 : 0;
        __atomic_store_n(&part->parent, 0, __ATOMIC_RELAXED); /* walks over the pool read it */
        part->zero = 0;
        memcpy(part->bytes, bytes, n);
        bytes += n;
        left -= n;
    }
}

/* Outside epochs: may evict. False: no memory. */
static bool record_prepare(struct cache *cache, const struct name_key *key, uint64_t child, uint32_t pins, struct fresh *fresh)
{
    size_t inline_length = key->length < CACHE_NAME_INLINE ? key->length : CACHE_NAME_INLINE;

    if (!fresh_alloc(cache, fresh, elements_needed(key->length)))
        return false;
    struct cache_name *head = name_at(cache, fresh->index[0]);
    head->part = fresh->count > 1 ? fresh->index[1] + 1 : 0;
    __atomic_store_n(&head->parent, key->dir, __ATOMIC_RELAXED);
    atomic_store_explicit(&head->child, child, memory_order_relaxed);
    head->hash = key->hash;
    head->length = (uint16_t)key->length;
    atomic_store_explicit(&head->pins, pins, memory_order_relaxed);
    atomic_store_explicit(&head->used, 1, memory_order_relaxed);
    memcpy(head->bytes, key->name, inline_length);
    parts_fill(cache, fresh, key->name + inline_length, key->length - inline_length);
    return true;
}

/* 0: linked and LIVE, *fresh is used up. -EEXIST: *found has that name already. Others: the member has been fenced, or the chain is broken. */
static int record_link(struct cache *cache, const struct name_key *key, struct fresh *fresh, uint32_t *found)
{
    int rc = seg_chain_insert(&cache->name_chain, key->hash, fresh->index[0], name_match, key, found);
    if (rc)
        return rc;
    *found = fresh->index[0];
    for (unsigned i = 0; i < fresh->count; i++)
        seg_pool_publish(cache->names, fresh->index[i]);
    fresh->count = 0;
    return 0;
}

/* ---- eviction ---- */

/* LIMBO(self): the head's parts, as far as they are what they should be. Returns how many; all are claimed. */
static unsigned parts_claim(struct cache *cache, uint32_t head, uint32_t part[PARTS_MAX])
{
    const struct cache_name *record = name_at(cache, head);
    uint32_t                 next = record->part;
    unsigned                 n = 0;

    while (next && n < PARTS_MAX - 1) {
        const struct cache_name_part *more = seg_pool_at(cache->names, next - 1);
        if (!more || more->parent != 0 || more->head != head || !seg_pool_claim(cache->names, next - 1))
            break;
        part[n++] = next - 1;
        next = more->part;
    }
    return n;
}

/* [epoch] 1. claim the head  2. claim the parts  3. unlink  4. retire all */
static bool record_evict(struct cache *cache, uint32_t index)
{
    struct cache_name *record = name_at(cache, index);
    uint32_t           part[PARTS_MAX];
    unsigned           parts;

    if (!seg_pool_claim(cache->names, index)) /* N3 */
        return false;
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&record->pins, memory_order_seq_cst)) { /* N4, pairs with N1 */
        seg_pool_unclaim(cache->names, index);
        return false;
    }
    parts = parts_claim(cache, index, part);
    if (seg_chain_remove(&cache->name_chain, record->hash, index)) {
        while (parts)
            seg_pool_unclaim(cache->names, part[--parts]);
        seg_pool_unclaim(cache->names, index);
        return false;
    }
    hint_clear(cache, atomic_load_explicit(&record->child, memory_order_relaxed), index);
    seg_pool_retire(cache->names, index);
    while (parts)
        seg_pool_retire(cache->names, part[--parts]);
    return true;
}

/* [epoch] The record under the hand, if it may go: LIVE, a head, not pinned, and used by nobody since the hand came by. What leads nowhere goes first. */
static bool hand_takes(struct cache *cache, uint32_t index)
{
    struct cache_name *record = name_at(cache, index);

    if (index == 0 || seg_pool_word_state(seg_pool_load(cache->names, index)) != SEG_POOL_LIVE ||
        __atomic_load_n(&record->parent, __ATOMIC_RELAXED) == 0)
        return false;
    if (atomic_load_explicit(&record->pins, memory_order_relaxed))
        return false;
    if (atomic_load_explicit(&record->child, memory_order_relaxed) != CACHE_NAME_UNKNOWN &&
        atomic_exchange_explicit(&record->used, 0, memory_order_relaxed))
        return false;
    return record_evict(cache, index);
}

uint32_t cache_names_evict(struct cache *cache, uint32_t want)
{
    uint32_t count = seg_pool_count(cache->names), evicted = 0;

    for (uint64_t steps = 0; steps < 2ull * count && evicted < want; steps++) {
        uint64_t hand = atomic_fetch_add_explicit(&cache->name_hand, 1, memory_order_relaxed);
        seg_epoch_enter(cache->seg);
        evicted += hand_takes(cache, (uint32_t)(hand % count));
        seg_epoch_exit(cache->seg);
    }
    if (evicted)
        seg_pool_reap(cache->names);
    return evicted;
}

/* ---- find, fill ---- */

int cache_name_find(const struct cache *cache, uint64_t dir, const char *name, size_t length, uint64_t *child)
{
    struct name_key key;
    uint32_t        index = SEG_INDEX_NONE;
    uint64_t        value = CACHE_NAME_UNKNOWN;

    if (length_is_good(length)) {
        key = key_make(cache, dir, name, length);
        index = record_find(&key);
    }
    if (index != SEG_INDEX_NONE) {
        struct cache_name *record = name_at(cache, index);
        value = atomic_load_explicit(&record->child, memory_order_acquire); /* pairs with child_store */
        cache_used_set(&record->used, 1);
    }
    if (value == CACHE_NAME_UNKNOWN || (value != CACHE_NAME_NEGATIVE && !cache_inode_at(cache, value))) {
        seg_count(cache->seg, SEG_COUNTER_name_misses, 1);
        return -ENODATA;
    }
    seg_count(cache->seg, SEG_COUNTER_name_hits, 1);
    *child = value;
    return 0;
}

/* [epoch] Under the directory's publish lock. */
static void child_store(struct cache *cache, uint64_t dir, uint32_t index, uint64_t child)
{
    struct cache_name *record = name_at(cache, index);
    uint64_t           old = atomic_exchange_explicit(&record->child, child, memory_order_release);

    if (old != child)
        hint_clear(cache, old, index);
    hint_set(cache, child, dir, index);
    cache_used_set(&record->used, 1);
}

/* [epoch] Under the directory's publish lock: the name has this child from now on. *fresh is used when the name has no record. */
static int child_install(struct cache *cache, const struct name_key *key, struct fresh *fresh, uint64_t child)
{
    uint32_t index = record_find(key);
    int      rc = 0;

    if (index == SEG_INDEX_NONE) {
        if (!fresh->count)
            return child == CACHE_NAME_UNKNOWN ? 0 : -ENOMEM; /* a miss, as it was */
        rc = record_link(cache, key, fresh, &index);
        if (rc && rc != -EEXIST)
            return rc;
    }
    child_store(cache, key->dir, index, child);
    return 0;
}

static bool record_is_there(const struct name_key *key)
{
    struct seg *seg = key->cache->seg;
    seg_epoch_enter(seg);
    bool there = record_find(key) != SEG_INDEX_NONE;
    seg_epoch_exit(seg);
    return there;
}

int cache_name_fill(struct cache *cache, uint64_t dir, uint64_t version, const char *name, size_t length, uint64_t child)
{
    struct cache_inode *inode;
    struct fresh        fresh = {0};
    int                 rc;

    if (!length_is_good(length))
        return -EINVAL;
    struct name_key key = key_make(cache, dir, name, length);
    if (!record_is_there(&key) && !record_prepare(cache, &key, child, 0, &fresh))
        return -ENOMEM;
    rc = cache_publish_enter(cache, dir, &inode);
    if (!rc) {
        seg_epoch_enter(cache->seg);
        if (atomic_load_explicit(&inode->version, memory_order_relaxed) != version)
            rc = -EAGAIN;
        else
            rc = child_install(cache, &key, &fresh, child);
        seg_epoch_exit(cache->seg);
        cache_publish_exit(cache, inode);
    }
    fresh_drop(cache, &fresh);
    return rc;
}

/* ---- publish ---- */

struct names_step {
    struct cache       *cache;
    struct cache_inode *inode[2]; /* NULL: none, or gone */
    uint64_t            dir[2];   /* lower index first   */
    const struct cache_attr *attr[2];
};

/* Both publish locks, lower index first, and both versions open. -ESTALE when a directory is gone; the other one is locked all the same. */
static int step_enter(struct names_step *step)
{
    int rc = 0;

    for (unsigned i = 0; i < 2; i++) {
        step->inode[i] = NULL;
        if (step->dir[i] && cache_publish_enter(step->cache, step->dir[i], &step->inode[i])) {
            step->inode[i] = NULL;
            rc = -ESTALE;
        }
    }
    for (unsigned i = 0; i < 2; i++)
        if (step->inode[i])
            cache_version_open(step->inode[i]);
    return rc;
}

static void step_exit(struct names_step *step)
{
    for (unsigned i = 2; i-- > 0;) {
        if (!step->inode[i])
            continue;
        cache_attr_store(step->inode[i], step->attr[i]);
        cache_version_shut(step->inode[i]);
        cache_publish_exit(step->cache, step->inode[i]);
    }
}

static bool step_has(const struct names_step *step, uint64_t dir)
{
    return (step->inode[0] && step->dir[0] == dir) || (step->inode[1] && step->dir[1] == dir);
}

static void step_order(struct names_step *step)
{
    if (step->dir[0] == step->dir[1]) {
        step->dir[1] = 0;
    } else if (step->dir[1] && cache_id_index(step->dir[1]) < cache_id_index(step->dir[0])) {
        uint64_t                 dir = step->dir[0];
        const struct cache_attr *attr = step->attr[0];
        step->dir[0] = step->dir[1];
        step->attr[0] = step->attr[1];
        step->dir[1] = dir;
        step->attr[1] = attr;
    }
}

int cache_names_publish(struct cache *cache, const struct cache_name_change *change, unsigned count, const uint64_t dir[2],
                        const struct cache_attr *dir_attr[2])
{
    struct names_step step = {.cache = cache, .dir = {dir[0], dir[1]}};
    struct name_key   key[CHANGES_MAX];
    struct fresh      fresh[CHANGES_MAX] = {0};
    int               rc;

    if (count > CHANGES_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < count; i++)
        if (!length_is_good(change[i].length) || (change[i].dir != dir[0] && change[i].dir != dir[1]))
            return -EINVAL;
    for (unsigned i = 0; i < 2 && dir_attr; i++)
        step.attr[i] = dir_attr[i];
    step_order(&step);
    for (unsigned i = 0; i < count; i++) { /* before the locks: may evict. No memory: that name is a miss then. */
        key[i] = key_make(cache, change[i].dir, change[i].name, change[i].length);
        if (change[i].child != CACHE_NAME_UNKNOWN && !record_is_there(&key[i]))
            (void)record_prepare(cache, &key[i], change[i].child, 0, &fresh[i]);
    }
    rc = step_enter(&step);
    seg_epoch_enter(cache->seg);
    for (unsigned i = 0; i < count; i++)
        if (step_has(&step, change[i].dir))
            (void)child_install(cache, &key[i], &fresh[i], change[i].child);
    for (unsigned i = 0; i < 2; i++)
        if (step.inode[i])
            cache_words_clear(cache, step.inode[i], step.dir[i], 0, UINT64_MAX); /* the listing */
    seg_epoch_exit(cache->seg);
    step_exit(&step);
    seg_epoch_enter(cache->seg);
    for (unsigned i = 0; i < 2; i++)
        if (step.inode[i])
            cache_chunks_tidy(cache, step.inode[i], step.dir[i], 0, UINT64_MAX);
    seg_epoch_exit(cache->seg);
    for (unsigned i = 0; i < count; i++)
        fresh_drop(cache, &fresh[i]);
    return rc;
}

void cache_names_forget(struct cache *cache, uint64_t dir)
{
    for (uint32_t i = 1; i < seg_pool_count(cache->names); i++) {
        struct cache_name *record = name_at(cache, i);
        seg_epoch_enter(cache->seg);
        /* any state: who links a record later than this has the lock and the version to pass. "Not known" is never wrong, whatever the record is by now. */
        if (seg_pool_word_state(seg_pool_load(cache->names, i)) != SEG_POOL_FREE &&
            __atomic_load_n(&record->parent, __ATOMIC_RELAXED) == dir)
            atomic_store_explicit(&record->child, CACHE_NAME_UNKNOWN, memory_order_release);
        seg_epoch_exit(cache->seg);
    }
}

/* ---- names that travel with recalls ---- */

static uint64_t arg_make(uint32_t index, uint32_t generation)
{
    return (uint64_t)index << 32 | generation;
}

/* [epoch] The record behind an argument; NULL when it has been freed. */
static struct cache_name *arg_record(const struct cache *cache, uint64_t arg)
{
    uint32_t index = (uint32_t)(arg >> 32);
    uint64_t word = seg_pool_load(cache->names, index);

    if (index == 0 || index >= seg_pool_count(cache->names) || seg_pool_word_state(word) == SEG_POOL_FREE ||
        seg_pool_word_aux(word) != (uint32_t)arg)
        return NULL;
    return name_at(cache, index);
}

static void pins_drop(struct cache_name *record)
{
    uint32_t pins = atomic_load_explicit(&record->pins, memory_order_relaxed);
    while (pins && !atomic_compare_exchange_weak_explicit(&record->pins, &pins, pins - 1, memory_order_release,
                                                          memory_order_relaxed))
        ;
}

/* [epoch] -EAGAIN: the clock is about to take it, or has. */
static int record_pin(struct cache *cache, uint32_t index, uint64_t *arg)
{
    struct cache_name *record = name_at(cache, index);
    uint64_t           word;

    atomic_fetch_add_explicit(&record->pins, 1, memory_order_seq_cst); /* N1 */
    atomic_thread_fence(memory_order_seq_cst);
    word = seg_pool_load(cache->names, index); /* N2, pairs with N3 */
    if (seg_pool_word_state(word) != SEG_POOL_LIVE && seg_pool_word_state(word) != SEG_POOL_PRIVATE) {
        pins_drop(record);
        return -EAGAIN;
    }
    *arg = arg_make(index, seg_pool_word_aux(word));
    return 0;
}

/* 0, -ENODATA no record, -EAGAIN. */
static int pin_find(struct cache *cache, const struct name_key *key, uint64_t *arg)
{
    seg_epoch_enter(cache->seg);
    uint32_t index = record_find(key);
    int      rc = index == SEG_INDEX_NONE ? -ENODATA : record_pin(cache, index, arg);
    seg_epoch_exit(cache->seg);
    return rc;
}

int cache_name_pin(struct cache *cache, uint64_t dir, const char *name, size_t length, uint64_t *arg)
{
    struct fresh fresh = {0};
    uint32_t     found;
    int          rc = -EAGAIN;

    if (!length_is_good(length))
        return -EINVAL;
    struct name_key key = key_make(cache, dir, name, length);
    for (unsigned tries = 0; rc == -EAGAIN && tries < PIN_TRIES; tries++) {
        rc = pin_find(cache, &key, arg);
        if (rc == -EAGAIN)
            sched_yield();
        if (rc != -ENODATA)
            continue;
        if (!fresh.count && !record_prepare(cache, &key, CACHE_NAME_UNKNOWN, 1, &fresh))
            break;
        uint32_t head = fresh.index[0];
        uint64_t made = arg_make(head, seg_pool_word_aux(seg_pool_load(cache->names, head)));
        rc = record_link(cache, &key, &fresh, &found);
        if (rc == 0)
            *arg = made;
        else if (rc == -EEXIST)
            rc = -EAGAIN;
    }
    fresh_drop(cache, &fresh);
    return rc ? -ENOMEM : 0;
}

void cache_name_unpin(struct cache *cache, uint64_t arg)
{
    seg_epoch_enter(cache->seg);
    struct cache_name *record = arg_record(cache, arg);
    if (record)
        pins_drop(record);
    seg_epoch_exit(cache->seg);
}

/* [epoch] Copies the name and sees that the record is one: its hash is of what it says. */
static int record_get(const struct cache *cache, const struct cache_name *record, uint64_t *dir, char name[256], size_t *length)
{
    uint64_t parent = record->parent;
    int      n = parent ? cache_name_bytes(cache, record, name) : -EUCLEAN;

    if (n < 0 || cache_name_hash(parent, name, (size_t)n) != record->hash)
        return -EUCLEAN;
    *dir = parent;
    *length = (size_t)n;
    return 0;
}

int cache_name_get(const struct cache *cache, uint64_t arg, uint64_t *dir, char name[256], size_t *length)
{
    seg_epoch_enter(cache->seg);
    const struct cache_name *record = arg_record(cache, arg);
    int                      rc = record ? record_get(cache, record, dir, name, length) : -ESTALE;
    seg_epoch_exit(cache->seg);
    return rc;
}

int cache_name_of(const struct cache *cache, uint64_t id, uint64_t *dir, char name[256], size_t *length)
{
    int rc = -ENOENT;

    seg_epoch_enter(cache->seg);
    const struct cache_inode *inode = cache_inode_at(cache, id);
    if (inode) {
        uint64_t                 parent = atomic_load_explicit(&inode->parent, memory_order_relaxed);
        uint32_t                 index = atomic_load_explicit(&inode->name, memory_order_relaxed);
        uint64_t                 word = seg_pool_load(cache->names, index);
        const struct cache_name *record = name_at(cache, index);
        bool live = record && (seg_pool_word_state(word) == SEG_POOL_LIVE || seg_pool_word_state(word) == SEG_POOL_PRIVATE);
        /* the hint may be old: what counts is that the record is a name of this node there */
        if (live && parent && __atomic_load_n(&record->parent, __ATOMIC_RELAXED) == parent &&
            atomic_load_explicit(&record->child, memory_order_acquire) == id && !record_get(cache, record, dir, name, length))
            rc = 0;
    }
    seg_epoch_exit(cache->seg);
    return rc;
}
