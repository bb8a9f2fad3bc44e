/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_app_line.c - who waits for whom, and the life of the lock table: open, recovery, list, check.
 *
 * The line lock. Of two owners whose waits close a circle, the one that comes second must see the first. So from the look at the circle to the link of the waiter
 * one holds a spin lock of the whole segment. Nothing under it needs repair: whoever finds its holder gone, or stopped for LINE_PATIENCE looks, takes it over; at worst a circle
 * is then found by the next poll. Its place in lock order is after a publish lock (LOCK_RANK_APP_LINE).
 *
 * The look takes no other lock. It walks records of other inodes inside an epoch; records are constant but for their state. What it sees of others may be over by then, as on one
 * machine; but in a real circle everybody waits and nothing moves, so it is seen.
 *
 * If we die here: recovery unlinks every record of the life that is over; see lock_app.c.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "lock_app_internal.h"
#include "seg_epoch.h"

enum { OWNERS_MAX = 256, WAITS_MAX = 16, LINE_PATIENCE = 20000, RECORDS_MIN = 1024, RECORDS_MAX = 65536, FRAMES_PER_RECORD = 4 };

/* ---- life ---- */

uint64_t lock_app_count(uint64_t frames)
{
    uint64_t count = frames / FRAMES_PER_RECORD;
    return count < RECORDS_MIN ? RECORDS_MIN : count > RECORDS_MAX ? RECORDS_MAX : count;
}

static struct seg_array records_of(const struct seg *seg)
{
    struct seg_array records = seg_section(seg, SEG_SECTION_APP_LOCKS);
    if (records.stride != sizeof(struct lock_app_record) || records.count < 2)
        records.base = NULL;
    return records;
}

void lock_app_format(struct seg *seg)
{
    struct seg_array  records = records_of(seg), hints = seg_section(seg, SEG_SECTION_APP_LOCK_HINTS);
    _Atomic uint64_t *hint = hints.base ? seg_elem(&hints, 0) : NULL;
    if (!records.base || !hint)
        return;
    seg_pool_format(seg, SEG_SECTION_APP_LOCKS, SEG_SECTION_APP_LOCK_HINTS);
    struct lock_app_common *common = seg_elem(&records, 0);
    atomic_fetch_and(hint, ~1ull);
    atomic_store_explicit(&common->pool, seg_pool_word(SEG_POOL_LIVE, 0, 0, 0), memory_order_release);
}

int lock_app_open(struct lock_mgr *mgr)
{
    struct seg_array records = records_of(mgr->seg);
    if (!records.base)
        return 0;
    struct lock_app *app = calloc(1, sizeof *app);
    if (!app)
        return -ENOMEM;
    app->seg = mgr->seg;
    app->base = records.base;
    app->common = seg_elem(&records, 0);
    app->own_max = (uint32_t)(records.count / 4 * 3);
    int rc = seg_pool_open(mgr->seg, SEG_SECTION_APP_LOCKS, SEG_SECTION_APP_LOCK_HINTS, true, &app->pool);
    if (rc == 0)
        rc = seg_chain_open(&app->by_inode, mgr->seg, app->pool, SEG_SECTION_APP_LOCK_BUCKETS, offsetof(struct lock_app_record, link));
    if (rc == 0)
        rc = seg_chain_open(&app->by_owner, mgr->seg, app->pool, SEG_SECTION_APP_WAIT_BUCKETS, offsetof(struct lock_app_record, wait_link));
    if (rc == 0) {
        mgr->app = app;
        return 0;
    }
    seg_pool_close(app->pool);
    free(app);
    return rc;
}

void lock_app_close(struct lock_mgr *mgr)
{
    if (!mgr->app)
        return;
    seg_pool_reap(mgr->app->pool);
    seg_pool_close(mgr->app->pool);
    free(mgr->app);
    mgr->app = NULL;
}

/* ---- the line ---- */

void lock_app_line_enter(struct lock_mgr *mgr)
{
    _Atomic uint64_t *word = &mgr->app->common->line;
    seg_who           self = seg_self(mgr->seg);
    uint64_t          seen = 0;
    lock_rank_push(LOCK_RANK_APP_LINE);
    for (unsigned tries = 0; !atomic_compare_exchange_weak_explicit(word, &seen, self, memory_order_acquire, memory_order_relaxed); tries++) {
        if (seen && tries > LINE_PATIENCE && atomic_compare_exchange_strong(word, &seen, self))
            return; /* dead, or stopped: nothing to repair */
        if (seen && tries % 64 == 63)
            sched_yield();
        lock_cpu_relax();
        seen = 0;
    }
}

void lock_app_line_exit(struct lock_mgr *mgr)
{
    uint64_t self = seg_self(mgr->seg);
    atomic_compare_exchange_strong_explicit(&mgr->app->common->line, &self, 0, memory_order_release, memory_order_relaxed);
    lock_rank_pop(LOCK_RANK_APP_LINE);
}

/* ---- circles ---- */

struct owner {
    uint64_t who, owner;
};

struct circle {
    struct lock_mgr              *mgr;
    const struct lock_app_record *begin; /* does somebody wait for its owner? */
    const struct lock_app_record *wait;  /* whose holders are being looked at  */
    struct owner                  owners[OWNERS_MAX];
    unsigned                      count;
    bool                          closed;
    const struct lock_app_record *waits[WAITS_MAX];
    unsigned                      wait_count;
};

struct circle_key {
    struct circle *circle;
    struct owner   owner;
};

/* Collects the holders that `wait` waits for. */
static bool holder_match(const void *e, const void *k)
{
    const struct lock_app_record *record = e;
    struct circle                *circle = ((const struct circle_key *)k)->circle;
    if (!lock_app_blocks(circle->wait, record) || !seg_who_stands(circle->mgr->seg, record->who))
        return false;
    if (record->who == circle->begin->who && record->owner == circle->begin->owner)
        return circle->closed = true;
    for (unsigned i = 0; i < circle->count; i++)
        if (circle->owners[i].who == record->who && circle->owners[i].owner == record->owner)
            return false;
    if (circle->count < OWNERS_MAX)
        circle->owners[circle->count++] = (struct owner){record->who, record->owner};
    return false;
}

static bool waiter_match(const void *e, const void *k)
{
    const struct lock_app_record *record = e;
    const struct circle_key      *key = k;
    if (record->who == key->owner.who && record->owner == key->owner.owner && record->kind == LOCK_APP_RECORD &&
        atomic_load_explicit(&record->state, memory_order_acquire) == LOCK_APP_WAITING && key->circle->wait_count < WAITS_MAX)
        key->circle->waits[key->circle->wait_count++] = record;
    return false;
}

bool lock_app_circle(struct lock_mgr *mgr, const struct lock_app_record *waiter)
{
    struct circle     circle = {.mgr = mgr, .begin = waiter, .wait = waiter};
    struct circle_key key = {.circle = &circle};

    lock_app_find(mgr->app, waiter->id, holder_match, &key);
    for (unsigned i = 0; i < circle.count && !circle.closed; i++) {
        key.owner = circle.owners[i];
        circle.wait_count = 0;
        seg_chain_find(&mgr->app->by_owner, lock_app_owner_hash(key.owner.who, key.owner.owner), waiter_match, &key);
        for (unsigned n = 0; n < circle.wait_count && !circle.closed; n++) {
            circle.wait = circle.waits[n];
            lock_app_find(mgr->app, circle.wait->id, holder_match, &key);
        }
    }
    return circle.closed;
}

/* ---- recovery ---- */

static bool never_linked(void *arg, uint32_t index)
{
    (void)arg;
    (void)index;
    return false;
}

void lock_app_grant_all(struct lock_mgr *mgr)
{
    struct lock_app *app = mgr->app;
    uint64_t         last = 0;
    for (uint32_t i = 1; app && i < seg_pool_count(app->pool); i++) {
        const struct lock_app_record *record = seg_pool_at(app->pool, i);
        uint64_t                      id = record->id;
        if (seg_pool_word_state(seg_pool_load(app->pool, i)) != SEG_POOL_LIVE || atomic_load(&record->state) != LOCK_APP_WAITING || id == last)
            continue;
        struct lock_ref ref = {.id = id, .words = mgr->config.resolve(mgr->config.resolve_arg, id)};
        last = id;
        if (!ref.words)
            continue;
        lock_publish_enter(mgr, ref.words);
        seg_epoch_enter(mgr->seg);
        lock_app_grant(mgr, id);
        seg_epoch_exit(mgr->seg);
        lock_publish_exit(mgr, ref.words);
    }
}

/* One record of `slot`: unlinked whatever its state; a LIVE one is taken over first. Of the own slot all go: it joins, or its kernel has unmounted. */
static void record_recover(struct lock_mgr *mgr, unsigned slot, uint32_t index)
{
    struct lock_app              *app = mgr->app;
    const struct lock_app_record *record = seg_pool_at(app->pool, index);
    uint64_t                      word = seg_pool_load(app->pool, index);
    unsigned                      state = seg_pool_word_state(word);
    bool is_over = seg_who_slot(record->who) == slot && ((int)slot == seg_self_slot(mgr->seg) || !seg_who_stands(mgr->seg, record->who));

    if (state == SEG_POOL_LIVE && is_over && record->who) {
        lock_app_remove(app, index);
        atomic_fetch_add(&app->own, 1); /* it was none of ours */
    } else if ((state == SEG_POOL_PRIVATE || state == SEG_POOL_LIMBO) && seg_pool_word_slot(word) == slot) {
        seg_chain_remove(&app->by_inode, lock_app_hash(record->id), index);
        seg_chain_remove(&app->by_owner, lock_app_owner_hash(record->who, record->owner), index);
    }
}

void lock_app_recover(struct lock_mgr *mgr, unsigned slot)
{
    struct lock_app *app = mgr->app;
    if (!app || slot >= SEG_MEMBERS_MAX)
        return;
    seg_chain_recover(&app->by_inode, slot);
    seg_chain_recover(&app->by_owner, slot);
    for (uint32_t i = 1; i < seg_pool_count(app->pool); i++)
        if (seg_pool_word_state(seg_pool_load(app->pool, i)) != SEG_POOL_FREE)
            record_recover(mgr, slot, i);
    seg_pool_recover(app->pool, slot, never_linked, NULL);
    if ((int)slot == seg_self_slot(mgr->seg))
        atomic_store(&app->own, 0);
    lock_app_grant_all(mgr);
}

/* ---- list and check ---- */

int lock_app_list(const struct seg *seg, int (*fn)(void *arg, const struct lock_app_record *record), void *arg)
{
    struct seg_array records = records_of(seg);
    int              rc = 0;
    if (!records.base)
        return -EPROTO;
    for (uint64_t i = 1; i < records.count && !rc; i++) {
        const struct lock_app_record *record = seg_elem(&records, i);
        uint64_t                      word = atomic_load_explicit(&record->pool, memory_order_acquire);
        struct lock_app_record        copy = *record;
        if (seg_pool_word_state(word) == SEG_POOL_LIVE && word == atomic_load_explicit(&record->pool, memory_order_acquire) &&
            seg_who_stands(seg, copy.who))
            rc = fn(arg, &copy);
    }
    return rc;
}

int lock_app_check(struct seg *seg, bool quiet, char *err, size_t err_size)
{
    struct seg_array records = records_of(seg);
    for (uint64_t i = 1; records.base && i < records.count; i++) {
        const struct lock_app_record *record = seg_elem(&records, i);
        uint64_t                      word = atomic_load_explicit(&record->pool, memory_order_acquire);
        uint32_t                      state = atomic_load(&record->state);
        if (seg_pool_word_state(word) != SEG_POOL_LIVE)
            continue;
        const char *wrong = state < LOCK_APP_HELD || state > LOCK_APP_GRANTED             ? "an unknown state"
                            : record->kind > LOCK_APP_FLOCK || record->type > LOCK_APP_WRITE ? "an unknown kind or type"
                            : record->first > record->last                                ? "an empty range"
                            : seg_who_slot(record->who) >= SEG_MEMBERS_MAX                ? "no member"
                            : quiet && !seg_who_stands(seg, record->who)                  ? "a lock of a life that is over"
                                                                                          : NULL;
        if (wrong && word == atomic_load_explicit(&record->pool, memory_order_acquire)) {
            snprintf(err, err_size, "application lock %llu: %s", (unsigned long long)i, wrong);
            return -EUCLEAN;
        }
    }
    return 0;
}
