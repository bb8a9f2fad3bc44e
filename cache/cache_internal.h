/* SPDX-License-Identifier: Apache-2.0 */
/* cache_internal.h - what the files of cache/ share among themselves; not for other folders. */
#ifndef HEARTH_CACHE_INTERNAL_H
#define HEARTH_CACHE_INTERNAL_H

#include "cache.h"
#include "lock_rank.h"
#include "work.h"

struct cache_cookie_hint { /* where a directory cookie lies; guarded by a sequence: written and read without a lock, checked on use */
    _Atomic uint64_t tag;      /* hash of directory and cookie */
    _Atomic uint64_t position; /* page << 32 | byte            */
};
enum { CACHE_COOKIE_HINTS = 256 };

struct cache {
    struct seg      *seg;
    struct lock_mgr *lock;
    struct work     *work;
    struct seg_pool *frames, *inodes, *names, *chunks;
    struct seg_chain inode_chain, name_chain, chunk_chain;
    struct seg_array data;    /* SEG_SECTION_DATA     */
    struct seg_array intents; /* SEG_SECTION_INTENTS  */
    _Atomic uint32_t intent_used; /* bit n: own intent n is taken by a thread of this process */
    _Atomic uint64_t frame_hand, inode_hand, name_hand, chunk_hand; /* the clock's hands of this process */
    cache_prune_fn   prune;
    void            *prune_arg;
    uint32_t         low_frames; /* low-water mark */
    _Atomic uint32_t evict_tick; /* how often frames were found low: not every time is worth a post */
    struct cache_cookie_hint cookie[CACHE_COOKIE_HINTS];
};

/* ---- page words ---- */
#define CACHE_SEQ_MASK 0x3fffffffull
static inline unsigned cache_word_tag(uint64_t w) { return (unsigned)(w & 3); }
static inline uint32_t cache_word_value(uint64_t w) { return (uint32_t)(w >> 2); }
static inline uint64_t cache_word_next(uint64_t w, unsigned tag, uint32_t value) /* the word that follows w: sequence + 1 */
{
    return (((w >> 34) + 1) & CACHE_SEQ_MASK) << 34 | (uint64_t)value << 2 | tag;
}
static inline uint32_t cache_claim_value(unsigned slot, uint32_t incarnation, unsigned kind)
{
    return (uint32_t)(slot & 0xff) << 24 | (incarnation & 0xffff) << 8 | (kind & 0xff);
}
static inline unsigned cache_claim_slot(uint32_t value) { return value >> 24; }
static inline uint32_t cache_claim_incarnation(uint32_t value) { return value >> 8 & 0xffff; } /* low 16 bits */
static inline unsigned cache_claim_of_kind(uint32_t value) { return value & 0xff; }

/* Every change of a page word. Acquire and release: what a frame holds is written before its word and read after it (pairs with every acquire of a page word). */
static inline bool cache_word_cas(_Atomic uint64_t *word, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(word, &from, to, memory_order_acq_rel, memory_order_relaxed);
}
static inline void cache_used_set(_Atomic uint32_t *used, uint32_t bits) /* skips the store when they are set: a hot word stays shared */
{
    if ((atomic_load_explicit(used, memory_order_relaxed) & bits) != bits)
        atomic_fetch_or_explicit(used, bits, memory_order_relaxed);
}
static inline void cache_relax(void) /* in spins: leaves the core to its sibling */
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}
uint32_t cache_claim_own(const struct cache *cache, enum cache_claim_kind kind); /* cache_fill.c */

/*
 * cache_chunk.c: the word of one page. [epoch] cache_word: NULL when there is none (so the page is not cached). cache_word_make: makes the chunk when it is missing; NULL when no chunk is
 * to be had even after eviction (the caller must be inside an epoch; a chunk with a claim or a frame in it is never freed, so a word stays good beyond the epoch while the
 * caller's own claim stands in it). A chunk being freed is "closed": all its words are turned into claims of the freer first, so that no late CAS can land in it.
 */
_Atomic uint64_t *cache_word(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page);
_Atomic uint64_t *cache_word_make(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page);
void              cache_word_unused(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page); /* first to be evicted */
void              cache_word_used(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page); /* clock bit; cheap, skips the store when it is set */
/* Calls fn for every page word of [first, first + count) that exists, in order, also where chunks lie scattered (count UINT64_MAX: all; then it walks the pool when that is
 * cheaper, and not in order). fn returns 0 to go on. */
int cache_words_walk(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t count,
                     int (*fn)(void *arg, uint64_t page, _Atomic uint64_t *word), void *arg);
static inline uint64_t cache_chunk_hash(uint64_t id, uint64_t number) /* finaliser of MurmurHash3 (Appleby), public domain */
{
    uint64_t h = (id >> 32) * 0x9e3779b97f4a7c15ull ^ id ^ number * 0xc2b2ae3d27d4eb4full;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdull;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ull;
    return h ^ h >> 33;
}
/* [epoch] NULL when there is none; index may be NULL. */
struct cache_chunk *cache_chunk_find(const struct cache *cache, uint64_t id, uint64_t number, uint32_t *index);
bool cache_chunk_linked(const struct cache *cache, uint32_t index); /* [epoch] can it be found? (recovery, check) */
/* [epoch] Frees the chunk if no word holds a frame or a claim. Tries once. */
bool cache_chunk_free_if_empty(struct cache *cache, uint32_t chunk_index);
/* [epoch] As cache_word_make, but never evicts: 0; -ENOMEM no chunk is free (leave the epoch, cache_chunks_room, try again); -EAGAIN the chunk is being closed
 * (leave the epoch, look again). */
int cache_word_get(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t page, _Atomic uint64_t **word);
/* [epoch] Drops whatever is cached of the range: frames are retired, claims of fills and writes overtaken (their ends find that out), chunks left empty freed. For callers that are
 * in a version step, or hold an inode that nobody can reach any more. Spins while a living peer is half-way through a step on a frame. */
void cache_words_drop(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t count);
/* Its two halves. Under a publish lock only clear, and tidy after it: tidy takes hash buckets, whose owner may be dead until recovery frees them. */
void cache_words_clear(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t count);
void cache_chunks_tidy(struct cache *cache, struct cache_inode *inode, uint64_t id, uint64_t first, uint64_t count);

/* ---- claims (cache_fill.c) ---- */
/* Does member `slot` live in this incarnation (low 16 bits), and where `look` is set: is its process not gone (one system call)? */
bool cache_member_alive(const struct cache *cache, unsigned slot, uint32_t incarnation, bool look);
/* Does the claimer live (its incarnation stands, and where `look` is set: its process is not gone)? A word that no member can have written: no. */
bool cache_claim_alive(const struct cache *cache, uint64_t word, bool look);
/* [epoch] Voids a fill's or write's claim whose claimer is dead: CAS to EMPTY. True when the word is no such claim any more. */
bool cache_claim_void(struct cache *cache, _Atomic uint64_t *word, bool look);


/* ---- changes of data (cache_write.c), for cache_share.c ---- */
/* As cache_write_begin, but without frames of its own where `frames` is false. */
int cache_claims_begin(struct cache *cache, uint64_t id, uint64_t first, uint32_t count, bool frames, struct cache_write *write);
/* As cache_write_end; install (may be NULL) is asked first for each page that is claimed: true when it has turned the claim in `word` into a frame. Inside the version step and an epoch. */
typedef bool (*cache_install_fn)(void *arg, uint32_t i, _Atomic uint64_t *word, uint64_t claim);
void cache_claims_end(struct cache *cache, struct cache_write *write, uint32_t good, const struct cache_attr *attr, cache_install_fn install,
                      void *arg);

/* ---- eviction (cache_evict.c); outside epochs ---- */
/* Empties and frees up to `want` chunks, the least used ones first; returns how many are free or in limbo now. */
uint32_t cache_chunks_evict(struct cache *cache, uint32_t want);
bool     cache_chunks_room(struct cache *cache); /* makes a chunk free, waiting a little for epochs; false: all are in use */

/* ---- frames (cache_frame.c) ---- */
void    *cache_frame_data(const struct cache *cache, uint32_t frame); /* NULL when out of range */
/* A seized frame that one page word less leads to: retired, or LIVE again if it is shared. */
void cache_frame_unlinked(struct cache *cache, uint32_t frame);
bool cache_frame_shared(const struct cache *cache, uint32_t frame); /* of a seized frame: do other words lead to it? */
/* Is it shared, and in the hands of a member that is gone? Then its words may be changed without it; recovery counts. */
bool cache_frame_stuck(struct cache *cache, uint32_t frame, bool look);
/* Up to `want` private frames, evicting when none are left; posts WORK_EVICT below the low-water mark. */
uint32_t cache_frames_take(struct cache *cache, uint32_t want, uint32_t *frame);
void     cache_frame_drop(struct cache *cache, uint32_t frame);   /* own private one: free at once */
void     cache_frame_seal(struct cache *cache, uint32_t frame);   /* computes and stores the checksum */
uint64_t cache_frame_sum(const void *data);
/* [epoch] Wins a linked frame before its word is changed: LIVE -> LIMBO(self), or takes over the half-done step of a member that is dead (found out where
 * `look` is set). NO: a living peer is half-way through a step with it; try again. unseize: the word had changed. After the change: seg_pool_retire. */
enum cache_seized { CACHE_SEIZED_NO, CACHE_SEIZED_LIVE, CACHE_SEIZED_DEAD };
enum cache_seized cache_frame_seize(struct cache *cache, uint32_t frame, bool look);
void              cache_frame_unseize(struct cache *cache, uint32_t frame, enum cache_seized seized);
/* [epoch] Makes the word EMPTY whatever it is (but CLOSE): retires its frame or overtakes its claim. Spins while a living peer is half-way through a step. */
void cache_word_drop(struct cache *cache, _Atomic uint64_t *word);
/* [epoch] One page word from FRAME `old` to tag/value by CAS on exactly `old`; retires the frame. False: the word has changed, or a peer is at it. */
bool cache_word_replace_frame(struct cache *cache, _Atomic uint64_t *word, uint64_t old, unsigned tag, uint32_t value);

/* ---- version steps: the publish lock of the inode is held ---- */
static inline void cache_version_open(struct cache_inode *inode)  /* odd: readers of words and attributes start over (pairs with cache_read's second look) */
{
    uint64_t v = atomic_load_explicit(&inode->version, memory_order_relaxed) | 1;
    atomic_store_explicit(&inode->version, v, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}
static inline void cache_version_shut(struct cache_inode *inode)
{
    uint64_t v = atomic_load_explicit(&inode->version, memory_order_relaxed);
    atomic_store_explicit(&inode->version, (v | 1) + 1, memory_order_release);
}
void cache_attr_store(struct cache_inode *inode, const struct cache_attr *attr); /* inside a version step; NULL clears CACHE_ATTR_VALID */

/* ---- inodes (cache_inode.c) ---- */
static inline uint64_t cache_id_make(uint32_t generation, uint32_t index) { return (uint64_t)generation << 32 | index; }
uint64_t cache_ref_hash(const void *ref);
/* Enters the publish lock of an inode that stands, and goes on standing while it is held; -ESTALE. Never inside an epoch: who waits here may have to
 * settle a dead member, and what is given back then would wait for our own epoch. */
int  cache_publish_enter(struct cache *cache, uint64_t id, struct cache_inode **inode);
void cache_publish_exit(struct cache *cache, struct cache_inode *inode);

/* ---- names (cache_name.c) ---- */
uint64_t cache_name_hash(uint64_t dir, const char *name, size_t length);
/* Bytes of a name record, terminated; -EUCLEAN when the record makes no sense. [epoch] */
int  cache_name_bytes(const struct cache *cache, const struct cache_name *record, char name[256]);
uint32_t cache_names_evict(struct cache *cache, uint32_t want); /* clock; outside epochs; returns records retired */

/* ---- listings ---- */
enum { CACHE_LISTING_PAGES_MAX = 16384 };

#endif
