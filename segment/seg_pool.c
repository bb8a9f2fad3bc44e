/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_pool.c - allocation from an array of equal elements, without locks between members.
 *
 *         alloc                publish            claim                 reap (retired and epoch passed)
 *   FREE --------> PRIVATE(me) --------> LIVE ------------> LIMBO(me) ------> FREE
 *    ^                 | free              ^                 |    | free (nobody else can hold it)
 *    +-----------------+                   +-----------------+    +---------> FREE
 *                                               unclaim
 *
 * Truth is the element's first word; every arrow is one CAS on the exact word, so a late or fenced caller fails
 * quietly. FREE and LIVE words name nobody (slot and incarnation 0). Contents written before an arrow are released
 * by it and acquired by the next.
 *
 * Hints. A bit says "perhaps free". alloc clears bits first (one CAS takes a whole run, so allocators do not meet on
 * elements), then claims the words; whoever frees stores FREE first and sets the bit after. A bit that is cleared
 * too early is set again by the free that follows: if the clearing comes after that setting, it has acquired the
 * FREE word and alloc finds it. So a hint is lost only when a member dies between its two steps; seg_pool_recover()
 * sets such bits again. Bits set wrongly cost a look.
 *
 * Limbo. Each process keeps its retired elements in a queue (one link and one stamp per element, in process memory,
 * touched as used), under a mutex of rank PROCESS_LEAF. The stamp is taken inside the mutex, so stamps grow along
 * the queue. reap frees from its head what is older than a bound: min(seg_epoch_oldest(), E0), where E0 is the
 * global epoch as read before the scan. An element with stamp < E0 was stamped before the scan (E0 read what its
 * stamp wrote, or later), so the scan's answer holds for it, and goes on holding: the bound is kept, and scans are
 * rate-limited. The queue belongs to one membership: after a fence and a new join its entries are void, because
 * recovery has given those elements back.
 *
 * If we die here: PRIVATE and LIMBO words bear our slot and incarnation. seg_pool_recover() makes those that are
 * linked LIVE and adopts the others into the limbo of the member that recovers, because readers may still look at
 * what was unlinked a moment ago. If that one dies too, they bear its slot.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lock_rank.h"
#include "seg_epoch.h"
#include "seg_internal.h"
#include "seg_pool.h"

enum {
    CURSORS = 64,
    WORD_BITS = 64,
    RUN_SEARCH_WORDS = 64, /* how far alloc looks for runs before it takes single elements */
    RUN_MIN = 16,          /* elements in a row worth that look                            */
    REAP_AT = 256,         /* alloc reaps when more than this wait                         */
    REAP_BATCH = 64,
    SCAN_PERIOD_NS = 100000,
    FREE_COUNT_PERIOD_NS = 2000000,
};

struct seg_pool {
    struct seg       *seg;
    struct seg_array  elements;
    _Atomic uint64_t *hint; /* [words] */
    uint32_t          count, words;
    bool              keep_aux;

    pthread_mutex_t  limbo_mutex; /* for the queue below */
    uint32_t        *limbo_next;
    uint64_t        *limbo_stamp; /* 0: not in the queue */
    uint32_t         limbo_head, limbo_tail;
    seg_who          limbo_who; /* the membership whose queue this is */
    uint64_t         bound;     /* stamps below it may be freed */
    uint64_t         scanned_ns;
    _Atomic uint32_t limbo_count;

    _Atomic uint32_t free_count; /* as of free_counted_ns */
    _Atomic uint64_t free_counted_ns;

    struct {
        _Alignas(64) _Atomic uint32_t word; /* where threads of this number go on */
    } cursor[CURSORS];
};

static unsigned thread_number(void)
{
    static _Atomic unsigned       next;
    static _Thread_local unsigned mine;
    if (!mine)
        mine = 1 + atomic_fetch_add_explicit(&next, 1, memory_order_relaxed);
    return mine % CURSORS;
}

static _Atomic uint64_t *word_at(const struct seg_pool *pool, uint32_t index)
{
    return (_Atomic uint64_t *)(void *)(pool->elements.base + index * pool->elements.stride);
}

static bool word_change(struct seg_pool *pool, uint32_t index, uint64_t from, uint64_t to)
{
    /* WORD: acq_rel, each arrow of the diagram pairs with the one before it on the same element */
    return atomic_compare_exchange_strong_explicit(word_at(pool, index), &from, to, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

static uint64_t own_word(enum seg_pool_state state, seg_who who, uint32_t aux)
{
    return seg_pool_word(state, seg_who_slot(who), seg_who_incarnation(who), aux);
}

static bool word_is_own(uint64_t word, enum seg_pool_state state, seg_who who)
{
    return who && word == own_word(state, who, seg_pool_word_aux(word));
}

static uint64_t live_word(uint64_t word)
{
    return seg_pool_word(SEG_POOL_LIVE, 0, 0, seg_pool_word_aux(word));
}

static bool word_bears(uint64_t word, unsigned slot)
{
    unsigned state = seg_pool_word_state(word);
    return (state == SEG_POOL_PRIVATE || state == SEG_POOL_LIMBO) && seg_pool_word_slot(word) == slot;
}

/* ---- open and close ---- */

static uint32_t words_of(uint64_t count)
{
    return (uint32_t)((count + WORD_BITS - 1) / WORD_BITS);
}

static int pool_shape_check(const struct seg_array *elements, const struct seg_array *hints)
{
    if (!elements->base || !hints->base || elements->count >= SEG_INDEX_NONE || elements->stride % sizeof(uint64_t))
        return -EINVAL;
    if (hints->stride * hints->count < words_of(elements->count) * sizeof(uint64_t))
        return -EINVAL;
    return 0;
}

int seg_pool_open(struct seg *seg, enum seg_section_kind elements, enum seg_section_kind hints, bool keep_aux,
                  struct seg_pool **out)
{
    struct seg_array element_array = seg_section(seg, elements), hint_array = seg_section(seg, hints);
    struct seg_pool *pool;
    int              rc = pool_shape_check(&element_array, &hint_array);

    if (rc)
        return rc;
    pool = aligned_alloc(64, sizeof *pool);
    if (!pool)
        return -ENOMEM;
    memset(pool, 0, sizeof *pool);
    pool->seg = seg;
    pool->elements = element_array;
    pool->hint = (_Atomic uint64_t *)(void *)hint_array.base;
    pool->count = (uint32_t)element_array.count;
    pool->words = words_of(element_array.count);
    pool->keep_aux = keep_aux;
    pool->limbo_head = pool->limbo_tail = SEG_INDEX_NONE;
    pool->limbo_next = calloc(pool->count, sizeof *pool->limbo_next);
    pool->limbo_stamp = calloc(pool->count, sizeof *pool->limbo_stamp);
    if (!pool->limbo_next || !pool->limbo_stamp) {
        free(pool->limbo_next);
        free(pool->limbo_stamp);
        free(pool);
        return -ENOMEM;
    }
    pthread_mutex_init(&pool->limbo_mutex, NULL);
    for (uint32_t i = 0; i < CURSORS; i++) /* members and threads start apart from each other */
        atomic_store_explicit(&pool->cursor[i].word, (i * 2654435761u + (uint32_t)getpid() * 40503u) % pool->words,
                              memory_order_relaxed);
    *out = pool;
    return 0;
}

void seg_pool_format(struct seg *seg, enum seg_section_kind elements, enum seg_section_kind hints)
{
    struct seg_array element_array = seg_section(seg, elements), hint_array = seg_section(seg, hints);
    if (pool_shape_check(&element_array, &hint_array))
        return; /* seg_pool_open() will refuse it */
    _Atomic uint64_t *hint = (_Atomic uint64_t *)(void *)hint_array.base;
    uint64_t          rest = element_array.count;
    for (uint32_t i = 0; i < words_of(element_array.count); i++, rest -= rest < WORD_BITS ? rest : WORD_BITS)
        atomic_store_explicit(&hint[i], rest < WORD_BITS ? (1ull << rest) - 1 : UINT64_MAX, memory_order_relaxed);
}

uint32_t seg_pool_count(const struct seg_pool *pool)
{
    return pool->count;
}

uint64_t seg_pool_stride(const struct seg_pool *pool)
{
    return pool->elements.stride;
}

void *seg_pool_at(const struct seg_pool *pool, uint32_t index)
{
    return seg_elem(&pool->elements, index);
}

uint64_t seg_pool_load(const struct seg_pool *pool, uint32_t index)
{
    return index < pool->count ? atomic_load_explicit(word_at(pool, index), memory_order_acquire)
                               : 0; /* pairs with WORD */
}

uint32_t seg_pool_free_count(const struct seg_pool *pool_const)
{
    struct seg_pool *pool = (struct seg_pool *)pool_const; /* the cached figure is no part of the pool's meaning */
    uint64_t         now_ns = seg_now_ns();
    uint64_t         then_ns = atomic_load_explicit(&pool->free_counted_ns, memory_order_relaxed);

    if (then_ns && now_ns - then_ns < FREE_COUNT_PERIOD_NS)
        return atomic_load_explicit(&pool->free_count, memory_order_relaxed);
    if (then_ns && !atomic_compare_exchange_strong_explicit(&pool->free_counted_ns, &then_ns, now_ns,
                                                            memory_order_relaxed, memory_order_relaxed))
        return atomic_load_explicit(&pool->free_count, memory_order_relaxed); /* another thread counts */
    uint32_t bits = 0;
    for (uint32_t i = 0; i < pool->words; i++)
        bits += (uint32_t)__builtin_popcountll(atomic_load_explicit(&pool->hint[i], memory_order_relaxed));
    atomic_store_explicit(&pool->free_count, bits, memory_order_relaxed);
    atomic_store_explicit(&pool->free_counted_ns, now_ns, memory_order_relaxed);
    return bits;
}

/* ---- alloc ---- */

static uint64_t ones(uint32_t n)
{
    return n < WORD_BITS ? (1ull << n) - 1 : UINT64_MAX;
}

/* Bits at which a run of n set bits starts (1 <= n <= 64): and-ing with itself shifted, doubling. */
static uint64_t run_starts(uint64_t bits, uint32_t n)
{
    for (uint32_t have = 1; have < n;) {
        uint32_t step = have < n - have ? have : n - have;
        bits &= bits >> step;
        have += step;
    }
    return bits;
}

/* Up to `want` bits of `bits`: one run if there is, else any; 0 when there is no run of `run_min`. */
static uint64_t bits_pick(uint64_t bits, uint32_t want, uint32_t run_min)
{
    uint32_t n = want < WORD_BITS ? want : WORD_BITS;
    uint64_t starts = run_starts(bits, n);
    if (starts)
        return ones(n) << __builtin_ctzll(starts);
    if (run_min > 1) {
        starts = run_starts(bits, run_min);
        return starts ? ones(run_min) << __builtin_ctzll(starts) : 0;
    }
    uint64_t picked = 0;
    for (; bits && n; n--, bits &= bits - 1)
        picked |= bits & -bits;
    return picked;
}

static bool element_claim(struct seg_pool *pool, uint32_t index, seg_who who)
{
    if (index >= pool->count)
        return false;
    uint64_t word = seg_pool_load(pool, index);
    return seg_pool_word_state(word) == SEG_POOL_FREE &&
           word_change(pool, index, word,
                       own_word(SEG_POOL_PRIVATE, who, pool->keep_aux ? seg_pool_word_aux(word) : 1));
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t word_take(struct seg_pool *pool, uint32_t w, seg_who who, uint32_t want, uint32_t run_min,
                          uint32_t *index)
{
    uint64_t bits = atomic_load_explicit(&pool->hint[w], memory_order_relaxed);
    uint32_t got = 0;

    while (bits && got < want) {
        uint64_t picked = bits_pick(bits, want - got, least(run_min, want - got));
        if (!picked)
            break;
        /* HINT: acquires the FREE word of whoever set the bit */
        if (!atomic_compare_exchange_weak_explicit(&pool->hint[w], &bits, bits & ~picked, memory_order_acq_rel,
                                                   memory_order_relaxed))
            continue;
        bits &= ~picked;
        for (; picked; picked &= picked - 1) {
            uint32_t i = w * WORD_BITS + (uint32_t)__builtin_ctzll(picked);
            if (element_claim(pool, i, who))
                index[got++] = i;
        }
    }
    return got;
}

/* First whole runs, then shorter ones, both not too far away; then whatever there is. */
static uint32_t pool_take(struct seg_pool *pool, seg_who who, uint32_t want, uint32_t *index)
{
    static const uint32_t run_min[] = {WORD_BITS, RUN_MIN, 1};
    _Atomic uint32_t     *cursor = &pool->cursor[thread_number()].word;
    uint32_t              start = atomic_load_explicit(cursor, memory_order_relaxed) % pool->words, w = start, got = 0;

    for (unsigned pass = want > 1 ? 0 : 2; pass < 3 && got < want; pass++) {
        uint32_t words = pass < 2 ? least(pool->words, RUN_SEARCH_WORDS) : pool->words;
        w = start;
        for (uint32_t i = 0; i < words; i++, w = (w + 1) % pool->words) {
            got += word_take(pool, w, who, want - got, run_min[pass], index + got);
            if (got == want)
                break; /* the cursor stays on this word: the next one goes on there */
        }
    }
    atomic_store_explicit(cursor, w, memory_order_relaxed);
    return got;
}

/* ---- giving back ---- */

static bool element_free(struct seg_pool *pool, uint32_t index, uint64_t word)
{
    uint32_t aux = pool->keep_aux ? seg_pool_word_aux(word) + 1 : 0;
    if (!word_change(pool, index, word, seg_pool_word(SEG_POOL_FREE, 0, 0, aux)))
        return false;
    atomic_fetch_or_explicit(&pool->hint[index / WORD_BITS], 1ull << index % WORD_BITS,
                             memory_order_acq_rel); /* HINT */
    return true;
}

void seg_pool_publish(struct seg_pool *pool, uint32_t index)
{
    uint64_t word = seg_pool_load(pool, index);
    if (index < pool->count && word_is_own(word, SEG_POOL_PRIVATE, seg_self(pool->seg)))
        word_change(pool, index, word, live_word(word));
}

bool seg_pool_claim(struct seg_pool *pool, uint32_t index)
{
    seg_who  who = seg_self(pool->seg);
    uint64_t word = seg_pool_load(pool, index);

    /* the reference count of a LIVE frame may move under us: look again until it is LIVE no longer */
    while (who && index < pool->count && seg_pool_word_state(word) == SEG_POOL_LIVE) {
        if (word_change(pool, index, word, own_word(SEG_POOL_LIMBO, who, seg_pool_word_aux(word))))
            return true;
        word = seg_pool_load(pool, index);
    }
    return false;
}

void seg_pool_unclaim(struct seg_pool *pool, uint32_t index)
{
    uint64_t word = seg_pool_load(pool, index);
    if (index < pool->count && word_is_own(word, SEG_POOL_LIMBO, seg_self(pool->seg)))
        word_change(pool, index, word, live_word(word));
}

bool seg_pool_aux_set(struct seg_pool *pool, uint32_t index, uint32_t aux)
{
    uint64_t word = seg_pool_load(pool, index);
    seg_who  who = seg_self(pool->seg);
    return index < pool->count && !pool->keep_aux && word_is_own(word, SEG_POOL_LIMBO, who) &&
           word_change(pool, index, word, own_word(SEG_POOL_LIMBO, who, aux));
}

/* Takes the mutex and makes sure that the queue is that of `who`. */
static void limbo_lock(struct seg_pool *pool, seg_who who)
{
    lock_rank_push(LOCK_RANK_PROCESS_LEAF);
    pthread_mutex_lock(&pool->limbo_mutex);
    if (pool->limbo_who == who)
        return;
    while (pool->limbo_head != SEG_INDEX_NONE) {
        pool->limbo_stamp[pool->limbo_head] = 0;
        pool->limbo_head = pool->limbo_next[pool->limbo_head];
    }
    pool->limbo_tail = SEG_INDEX_NONE;
    pool->limbo_who = who;
    atomic_store_explicit(&pool->limbo_count, 0, memory_order_relaxed);
}

static void limbo_unlock(struct seg_pool *pool)
{
    pthread_mutex_unlock(&pool->limbo_mutex);
    lock_rank_pop(LOCK_RANK_PROCESS_LEAF);
}

static void limbo_add(struct seg_pool *pool, uint32_t index, seg_who who)
{
    limbo_lock(pool, who);
    if (!pool->limbo_stamp[index]) { /* else it was retired already */
        pool->limbo_stamp[index] = seg_epoch_stamp(pool->seg);
        pool->limbo_next[index] = SEG_INDEX_NONE;
        if (pool->limbo_tail == SEG_INDEX_NONE)
            pool->limbo_head = index;
        else
            pool->limbo_next[pool->limbo_tail] = index;
        pool->limbo_tail = index;
        atomic_fetch_add_explicit(&pool->limbo_count, 1, memory_order_relaxed);
    }
    limbo_unlock(pool);
}

void seg_pool_retire(struct seg_pool *pool, uint32_t index)
{
    seg_who who = seg_self(pool->seg);
    if (index < pool->count && word_is_own(seg_pool_load(pool, index), SEG_POOL_LIMBO, who))
        limbo_add(pool, index, who);
}

void seg_pool_free(struct seg_pool *pool, uint32_t index)
{
    seg_who  who = seg_self(pool->seg);
    uint64_t word = seg_pool_load(pool, index);
    bool     mine = word_is_own(word, SEG_POOL_PRIVATE, who);

    if (index >= pool->count)
        return;
    if (word_is_own(word, SEG_POOL_LIMBO, who)) {
        limbo_lock(pool, who);
        mine = !pool->limbo_stamp[index]; /* a retired one waits for its epoch */
        limbo_unlock(pool);
    }
    if (mine)
        element_free(pool, index, word);
}

/* Moves the bound on, unless that was done a moment ago. */
static void bound_scan(struct seg_pool *pool, bool force)
{
    uint64_t now_ns = seg_now_ns();
    if (!force && now_ns - pool->scanned_ns < SCAN_PERIOD_NS)
        return;
    /* E0, pairs with U3 in seg_epoch.c */
    uint64_t before = atomic_load_explicit(&seg_common(pool->seg)->epoch, memory_order_acquire);
    uint64_t oldest = seg_epoch_oldest(pool->seg);
    pool->bound = oldest < before ? oldest : before;
    pool->scanned_ns = now_ns;
}

/* Unqueues up to REAP_BATCH elements whose stamp has passed. */
static uint32_t limbo_take(struct seg_pool *pool, seg_who who, uint32_t *index, bool force)
{
    uint32_t n = 0;

    limbo_lock(pool, who);
    if (pool->limbo_head != SEG_INDEX_NONE && pool->limbo_stamp[pool->limbo_head] >= pool->bound)
        bound_scan(pool, force);
    while (n < REAP_BATCH && pool->limbo_head != SEG_INDEX_NONE && pool->limbo_stamp[pool->limbo_head] < pool->bound) {
        uint32_t head = pool->limbo_head;
        index[n++] = head;
        pool->limbo_stamp[head] = 0;
        pool->limbo_head = pool->limbo_next[head];
        if (pool->limbo_head == SEG_INDEX_NONE)
            pool->limbo_tail = SEG_INDEX_NONE;
    }
    atomic_fetch_sub_explicit(&pool->limbo_count, n, memory_order_relaxed);
    limbo_unlock(pool);
    return n;
}

static uint32_t pool_reap(struct seg_pool *pool, bool force)
{
    seg_who  who = seg_self(pool->seg);
    uint32_t index[REAP_BATCH], n, freed = 0;

    if (!who || !seg_pool_limbo_count(pool))
        return 0;
    do {
        n = limbo_take(pool, who, index, force);
        force = false;
        for (uint32_t i = 0; i < n; i++) {
            uint64_t word = seg_pool_load(pool, index[i]);
            if (word_is_own(word, SEG_POOL_LIMBO, who))
                freed += element_free(pool, index[i], word);
        }
    } while (n == REAP_BATCH);
    return freed;
}

uint32_t seg_pool_reap(struct seg_pool *pool)
{
    return pool_reap(pool, false);
}

uint32_t seg_pool_limbo_count(const struct seg_pool *pool)
{
    return atomic_load_explicit(&pool->limbo_count, memory_order_relaxed);
}

uint32_t seg_pool_alloc(struct seg_pool *pool, uint32_t want, uint32_t *index)
{
    seg_who  who = seg_self(pool->seg);
    uint32_t got;

    if (!who || !want)
        return 0;
    if (seg_pool_limbo_count(pool) > REAP_AT)
        pool_reap(pool, false);
    got = pool_take(pool, who, want, index);
    if (!got && pool_reap(pool, true))
        got = pool_take(pool, who, want, index);
    return got;
}

void seg_pool_close(struct seg_pool *pool)
{
    if (!pool)
        return;
    pool_reap(pool, true); /* the rest bears our slot and is given back when the slot is joined again */
    pthread_mutex_destroy(&pool->limbo_mutex);
    free(pool->limbo_next);
    free(pool->limbo_stamp);
    free(pool);
}

/* ---- recovery ---- */

/* Settles one element that the dead slot left; true when it was given back. */
static bool element_recover(struct seg_pool *pool, uint32_t index, uint64_t word, seg_who who, bool is_linked)
{
    if (is_linked) {
        word_change(pool, index, word, live_word(word));
        return false;
    }
    if (!word_change(pool, index, word, own_word(SEG_POOL_LIMBO, who, seg_pool_word_aux(word))))
        return false;
    limbo_add(pool, index, who);
    return true;
}

static void hints_complete(struct seg_pool *pool)
{
    for (uint32_t w = 0; w < pool->words; w++) {
        uint64_t missing = 0;
        uint64_t hint = atomic_load_explicit(&pool->hint[w], memory_order_relaxed);
        for (uint32_t bit = 0; bit < WORD_BITS && w * WORD_BITS + bit < pool->count; bit++)
            if (!(hint >> bit & 1) && seg_pool_word_state(seg_pool_load(pool, w * WORD_BITS + bit)) == SEG_POOL_FREE)
                missing |= 1ull << bit;
        if (missing)
            atomic_fetch_or_explicit(&pool->hint[w], missing, memory_order_acq_rel); /* HINT */
    }
}

uint32_t seg_pool_recover(struct seg_pool *pool, unsigned slot, bool (*linked)(void *arg, uint32_t index), void *arg)
{
    seg_who  who = seg_self(pool->seg);
    uint32_t given_back = 0;

    if (!who || slot >= SEG_MEMBERS_MAX)
        return 0;
    for (uint32_t i = 0; i < pool->count; i++) {
        uint64_t word = seg_pool_load(pool, i);
        /* the own slot: what this life has taken already is in good hands */
        if (word_bears(word, slot) && !word_is_own(word, SEG_POOL_PRIVATE, who) &&
            !word_is_own(word, SEG_POOL_LIMBO, who))
            given_back += element_recover(pool, i, word, who, linked && linked(arg, i));
    }
    pool_reap(pool, true);
    hints_complete(pool);
    return given_back;
}
