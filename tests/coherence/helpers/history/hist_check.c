/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hist_check.c - does the history of one object have a legal order? Exactly, for every sequential specification.
 *
 * Method: just-in-time linearization. J. M. Wing and C. Gong, "Testing and verifying concurrent objects", J. Parallel Distrib. Comput. 17, 1993; G. Lowe, "Testing for
 * linearizability", Concurrency Computat. Pract. Exper. 29(4), 2017; one object at a time: A. Horn and D. Kroening, "Faster linearizability checking via
 * P-compositionality", FORTE 2015.
 *
 * The history is gone through in the order of its starts and ends (at the same instant starts come first: operations that touch overlap). The *frontier* is the set of
 * all configurations {state, which of the pending operations have taken effect} that some legal order leads to. At the end of an operation it must have taken
 * effect: each configuration in which it has not is extended by every sequence of pending operations that ends with it; those that cannot be are dropped.
 * An empty frontier: no legal order exists. It is complete because an order never needs an operation to take effect before some end demands it,
 * or before another one that does; it is sound because each configuration is reached by a legal order.
 *
 * Observations change nothing. So where a pending one is legal it takes effect at once: any order that has it later stays legal with it here.
 *
 * Cost: operations times frontier. The frontier is at most (states) x 2^(pending changes), and pending are no more changes than there are threads; it
 * nearly always is one or two. Registers with unique writes could be decided by P. B. Gibbons and E. Korach, "Testing shared memories", SIAM J.
 * Comput. 26(4), 1997, in O(n log n) for any width; here the width is bounded, and one method does for all objects.
 */
#include <stdlib.h>
#include <string.h>

#include "hist.h"

enum { FRONTIER_MAX = 1 << 20 };

struct config {
    struct hist_state state;
    uint64_t          done; /* bit n: pending operation n has taken effect */
};

struct config_set { /* a vector with a hash index */
    struct config *at;
    uint32_t      *bucket; /* index + 1 */
    size_t         count, room, buckets;
};

struct search {
    const struct hist_object *object;
    const struct hist_op     *ops;
    size_t                    pending[HIST_PENDING_MAX];
    uint64_t                  used, observers, changes; /* bits of pending */
    struct config_set         frontier, results, seen;
    bool                      overflow;
};

static uint64_t config_hash(const struct config *config)
{
    uint64_t hash = config->done * 0x9E3779B97F4A7C15ull;
    for (unsigned i = 0; i < HIST_WORDS; i++)
        hash = (hash ^ config->state.word[i]) * 0xD1B54A32D192ED03ull, hash ^= hash >> 29;
    return hash;
}

static void *must(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

static void set_clear(struct config_set *set)
{
    if (set->count * 8 > set->buckets) {
        memset(set->bucket, 0, set->buckets * sizeof *set->bucket);
    } else {
        for (size_t i = 0; i < set->count; i++) { /* cheaper for the few that there mostly are */
            size_t at = config_hash(&set->at[i]) & (set->buckets - 1);
            while (set->bucket[at]) {
                set->bucket[at] = 0;
                at = (at + 1) & (set->buckets - 1);
            }
        }
    }
    set->count = 0;
}

static void set_grow(struct config_set *set)
{
    set->room = set->room ? set->room * 2 : 64;
    set->buckets = set->room * 4;
    set->at = must(realloc(set->at, set->room * sizeof *set->at));
    free(set->bucket);
    set->bucket = must(calloc(set->buckets, sizeof *set->bucket));
    for (size_t i = 0; i < set->count; i++) {
        size_t at = config_hash(&set->at[i]) & (set->buckets - 1);
        while (set->bucket[at])
            at = (at + 1) & (set->buckets - 1);
        set->bucket[at] = (uint32_t)i + 1;
    }
}

/* False: it was there. */
static bool set_add(struct config_set *set, const struct config *config)
{
    if (set->count == set->room)
        set_grow(set);
    size_t at = config_hash(config) & (set->buckets - 1);
    for (; set->bucket[at]; at = (at + 1) & (set->buckets - 1))
        if (memcmp(&set->at[set->bucket[at] - 1], config, sizeof *config) == 0)
            return false;
    set->at[set->count] = *config;
    set->bucket[at] = (uint32_t)++set->count;
    return true;
}

static void set_free(struct config_set *set)
{
    free(set->at);
    free(set->bucket);
}

/* Pending observations that are legal now take effect. */
static void observe(const struct search *search, struct config *config)
{
    struct hist_state same;
    for (uint64_t left = search->observers & ~config->done; left; left &= left - 1) {
        unsigned bit = (unsigned)__builtin_ctzll(left);
        if (hist_apply(search->object, &search->ops[search->pending[bit]], &config->state, &same))
            config->done |= 1ull << bit;
    }
}

static bool op_starts(struct search *search, size_t op)
{
    if (search->used == UINT64_MAX)
        return false;
    unsigned bit = (unsigned)__builtin_ctzll(~search->used);
    search->used |= 1ull << bit;
    search->pending[bit] = op;
    if (!hist_observes(&search->ops[op])) {
        search->changes |= 1ull << bit;
        return true;
    }
    search->observers |= 1ull << bit;
    struct config_set *to = &search->results; /* configurations that become equal are kept once */
    set_clear(to);
    for (size_t i = 0; i < search->frontier.count; i++) {
        struct config config = search->frontier.at[i];
        observe(search, &config);
        set_add(to, &config);
    }
    struct config_set was = search->frontier;
    search->frontier = *to;
    *to = was;
    return true;
}

/* All ways on from `seen` (a queue that grows) until pending operation `bit` has taken effect. */
static void extend(struct search *search, unsigned bit)
{
    for (size_t next = 0; next < search->seen.count; next++) {
        struct config from = search->seen.at[next];
        for (uint64_t left = search->changes & ~from.done; left; left &= left - 1) {
            unsigned      change = (unsigned)__builtin_ctzll(left);
            struct config to = {.done = from.done | 1ull << change};
            if (!hist_apply(search->object, &search->ops[search->pending[change]], &from.state, &to.state))
                continue;
            observe(search, &to);
            if (to.done >> bit & 1) {
                to.done &= ~(1ull << bit);
                set_add(&search->results, &to);
            } else {
                set_add(&search->seen, &to);
            }
        }
        if (search->seen.count > FRONTIER_MAX || search->results.count > FRONTIER_MAX) {
            search->overflow = true;
            return;
        }
    }
}

/* False: no configuration is left (the frontier stays, for the report). */
static bool op_ends(struct search *search, size_t op)
{
    unsigned bit = 0;
    while (!(search->used >> bit & 1) || search->pending[bit] != op)
        bit++;
    set_clear(&search->results);
    set_clear(&search->seen);
    for (size_t i = 0; i < search->frontier.count; i++) {
        struct config config = search->frontier.at[i];
        if (config.done >> bit & 1) {
            config.done &= ~(1ull << bit);
            set_add(&search->results, &config);
        } else {
            set_add(&search->seen, &config);
        }
    }
    extend(search, bit);
    if (!search->results.count)
        return false;
    struct config_set was = search->frontier;
    search->frontier = search->results;
    search->results = was;
    search->used &= ~(1ull << bit);
    search->observers &= ~(1ull << bit);
    search->changes &= ~(1ull << bit);
    return true;
}

static int by_start(const void *left, const void *right)
{
    const struct hist_op *x = left, *y = right;
    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

struct end_at {
    uint64_t end;
    size_t   op;
};

static int by_end(const void *left, const void *right)
{
    const struct end_at *x = left, *y = right;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return x->op < y->op ? -1 : x->op > y->op;
}

static void states_of(const struct config_set *set, struct hist_states *states)
{
    states->count = 0;
    for (size_t i = 0; i < set->count && states->count < HIST_STATES_MAX; i++) {
        unsigned j = 0;
        while (j < states->count && memcmp(&states->state[j], &set->at[i].state, sizeof(struct hist_state)) != 0)
            j++;
        if (j == states->count)
            states->state[states->count++] = set->at[i].state;
    }
}

static enum hist_verdict run(struct search *search, size_t count, const struct end_at *ends, struct hist_fault *fault)
{
    size_t started = 0;
    for (size_t ended = 0; ended < count; ended++) {
        for (; started < count && search->ops[started].start <= ends[ended].end; started++)
            if (!search->ops[started].dropped && !op_starts(search, started))
                return HIST_UNDECIDED;
        if (search->ops[ends[ended].op].dropped || op_ends(search, ends[ended].op))
            continue;
        if (search->overflow)
            return HIST_UNDECIDED;
        if (fault) {
            fault->op = ends[ended].op;
            states_of(&search->frontier, &fault->before);
        }
        return HIST_ILLEGAL;
    }
    return search->overflow || search->frontier.count > HIST_STATES_MAX ? HIST_UNDECIDED : HIST_LEGAL;
}

enum hist_verdict hist_check(const struct hist_object *object, struct hist_op *ops, size_t count, struct hist_states *states,
                             struct hist_fault *fault)
{
    struct search  search = {.object = object, .ops = ops};
    struct end_at *ends = must(malloc((count + 1) * sizeof *ends));

    qsort(ops, count, sizeof *ops, by_start);
    for (size_t i = 0; i < count; i++)
        ends[i] = (struct end_at){.end = ops[i].end, .op = i};
    qsort(ends, count, sizeof *ends, by_end);
    for (unsigned i = 0; i < states->count; i++)
        set_add(&search.frontier, &(struct config){.state = states->state[i]});
    enum hist_verdict verdict = run(&search, count, ends, fault);
    if (verdict == HIST_LEGAL)
        states_of(&search.frontier, states);
    set_free(&search.frontier);
    set_free(&search.results);
    set_free(&search.seen);
    free(ends);
    return verdict;
}

/* ---- widening ---- */
static bool widen_by(struct hist_op *op, const struct hist_op *change)
{
    if (change->call_ns > op->return_ns || change->return_ns < op->call_ns)
        return false;
    op->start = change->call_ns < op->start ? change->call_ns : op->start;
    op->end = change->return_ns > op->end ? change->return_ns : op->end;
    return true;
}

static bool same_widened(const struct hist_op *x, const struct hist_op *y)
{
    return x->start == y->start && x->end == y->end && x->start != x->call_ns && x->end != x->return_ns && y->start != y->call_ns &&
           y->end != y->return_ns && x->kind == y->kind && x->a == y->a && x->b == y->b && x->x == y->x && x->y == y->y &&
           x->err == y->err && hist_observes(x) && hist_observes(y);
}

size_t hist_widen(const struct hist_object *object, struct hist_op *ops, size_t count)
{
    struct hist_op **changes = must(malloc((count + 1) * sizeof *changes));
    size_t           change_count = 0, kept = 0;

    for (size_t i = 0; i < count; i++)
        if (!hist_observes(&ops[i]))
            changes[change_count++] = &ops[i];
    for (size_t i = 0; i < count; i++) {
        if (!hist_observes(&ops[i]))
            continue;
        uint32_t touches = hist_touches(object, &ops[i]);
        for (size_t j = 0; j < change_count; j++)
            if (changes[j]->member == ops[i].member && (hist_touches(object, changes[j]) & touches))
                widen_by(&ops[i], changes[j]);
    }
    free(changes);
    qsort(ops, count, sizeof *ops, by_start);
    for (size_t i = 0; i < count; i++) { /* those of one change stand together */
        bool twice = false;
        for (size_t j = kept; !twice && j > 0 && ops[j - 1].start == ops[i].start; j--)
            twice = same_widened(&ops[j - 1], &ops[i]);
        if (!twice)
            ops[kept++] = ops[i];
    }
    return kept;
}
