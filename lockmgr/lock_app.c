/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock_app.c - setting, testing and giving up the locks of applications (lock_app.h).
 *
 * Records do not change, they are replaced: what an owner has after the call is linked first, then what it had before is taken away. At each instant in between it
 * holds at least what it will have and no more than what it had or will have, so nobody else is let in too early, and a member that dies inside leaves only
 * locks of its own, which do not count any more.
 *
 *   new records   PRIVATE, linked, LIVE        dead inside: recovery unlinks whatever its life has made
 *   old records   LIMBO, unlinked, retired     likewise
 *   waiters       granted in the order of age; the grant is one store to `state`
 *
 * All of that under the inode's publish lock. A member that was fenced inside goes on with records that do not count: the life in `who` does not stand.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lock_app_internal.h"
#include "seg_epoch.h"

enum { BATCH = 64, PIECES = 3 };

/* ---- entering and leaving ---- */

static int enter(struct lock_mgr *mgr, const struct lock_ref *ref)
{
    if (!mgr->app)
        return -ENOLCK;
    if (!ref->words)
        return -ESTALE;
    if (!seg_self_stands(mgr->seg))
        return -EIO;
    lock_publish_enter(mgr, ref->words);
    seg_epoch_enter(mgr->seg);
    return 0;
}

static void leave(struct lock_mgr *mgr, const struct lock_ref *ref)
{
    seg_epoch_exit(mgr->seg);
    lock_publish_exit(mgr, ref->words);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static struct lock_app_record record_of(struct lock_mgr *mgr, const struct lock_app_request *request)
{
    return (struct lock_app_record){
        .state = LOCK_APP_HELD, .id = request->ref.id, .first = request->first, .last = request->last, .owner = request->owner,
        .who = seg_self(mgr->seg), .pid = request->pid, .kind = (uint8_t)request->kind, .type = (uint8_t)request->type,
        .file = request->file, .since_ns = now_ns(),
    };
}

/* ---- looking ---- */

bool lock_app_blocks(const struct lock_app_record *waiter, const struct lock_app_record *holder)
{
    uint32_t state = atomic_load_explicit(&holder->state, memory_order_acquire);
    return waiter->id == holder->id && waiter->kind == holder->kind && (state == LOCK_APP_HELD || state == LOCK_APP_GRANTED) &&
           !(waiter->who == holder->who && waiter->owner == holder->owner) && waiter->first <= holder->last &&
           holder->first <= waiter->last && (waiter->type == LOCK_APP_WRITE || holder->type == LOCK_APP_WRITE);
}

struct conflict_key {
    const struct seg             *seg;
    const struct lock_app_record *want;
    const struct lock_app_record **lowest; /* NULL: the first found will do */
};

static bool conflict_match(const void *e, const void *k)
{
    const struct lock_app_record *record = e;
    const struct conflict_key    *key = k;
    if (!lock_app_blocks(key->want, record) || !seg_who_stands(key->seg, record->who))
        return false;
    if (!key->lowest)
        return true;
    if (!*key->lowest || record->first < (*key->lowest)->first)
        *key->lowest = record;
    return false;
}

static bool conflicts(struct lock_mgr *mgr, const struct lock_app_record *want)
{
    struct conflict_key key = {.seg = mgr->seg, .want = want};
    return lock_app_find(mgr->app, want->id, conflict_match, &key) != SEG_INDEX_NONE;
}

int lock_app_test(struct lock_mgr *mgr, const struct lock_app_request *request, struct lock_app_record *found)
{
    const struct lock_app_record *lowest = NULL;
    struct lock_app_record        want = record_of(mgr, request);
    struct conflict_key           key = {.seg = mgr->seg, .want = &want, .lowest = &lowest};
    int                           rc = enter(mgr, &request->ref);
    if (rc)
        return rc;
    lock_app_find(mgr->app, want.id, conflict_match, &key);
    if (lowest)
        *found = *lowest;
    leave(mgr, &request->ref);
    return lowest ? 1 : 0;
}

/* ---- records in and out ---- */

static int records_take(struct lock_app *app, unsigned count, uint32_t index[PIECES])
{
    if (atomic_fetch_add(&app->own, count) + count > app->own_max) {
        atomic_fetch_sub(&app->own, count);
        return -ENOLCK;
    }
    uint32_t got = 0;
    while (got < count) {
        uint32_t more = seg_pool_alloc(app->pool, count - got, index + got);
        if (!more)
            break;
        got += more;
    }
    if (got == count)
        return 0;
    while (got)
        seg_pool_free(app->pool, index[--got]);
    atomic_fetch_sub(&app->own, count);
    return -ENOLCK;
}

static void record_put(struct lock_app *app, uint32_t index, const struct lock_app_record *from, uint64_t first, uint64_t last, uint8_t type)
{
    struct lock_app_record *record = seg_pool_at(app->pool, index);
    record->id = from->id;
    record->first = first;
    record->last = last;
    record->owner = from->owner;
    record->who = from->who;
    record->pid = from->pid;
    record->kind = from->kind;
    record->type = type;
    record->file = from->file;
    record->since_ns = from->since_ns;
    record->ticket = atomic_fetch_add(&app->common->ticket, 1) + 1;
    record->waited = from->waited;
    atomic_store_explicit(&record->state, atomic_load(&from->state), memory_order_release);
}

static int record_link(struct lock_app *app, uint32_t index)
{
    struct lock_app_record *record = seg_pool_at(app->pool, index);
    uint32_t                found;
    int                     rc = seg_chain_insert(&app->by_inode, lock_app_hash(record->id), index, NULL, NULL, &found);
    if (rc == 0 && record->waited)
        rc = seg_chain_insert(&app->by_owner, lock_app_owner_hash(record->who, record->owner), index, NULL, NULL, &found);
    seg_pool_publish(app->pool, index);
    return rc;
}

void lock_app_remove(struct lock_app *app, uint32_t index)
{
    const struct lock_app_record *record = seg_pool_at(app->pool, index);
    if (!record || !seg_pool_claim(app->pool, index))
        return;
    seg_chain_remove(&app->by_inode, lock_app_hash(record->id), index);
    if (record->waited)
        seg_chain_remove(&app->by_owner, lock_app_owner_hash(record->who, record->owner), index);
    seg_pool_retire(app->pool, index);
    atomic_fetch_sub(&app->own, 1);
}

/* ---- what an owner has, and what of it a change touches ---- */

struct piece {
    bool     is_there;
    uint64_t first, last;
    uint8_t  type;
};

struct touched {
    uint64_t     first, last; /* the new lock, joined with what it meets of its own type    */
    struct piece left, right; /* what is left of others that it cuts                         */
    bool         covered;     /* the owner has it already                                    */
    bool         waiters;     /* somebody waits on this inode                                */
    unsigned     count;       /* records that go; the first BATCH of them:                   */
    uint32_t     index[BATCH];
};

struct touched_key {
    const struct lock_app        *app;
    const struct lock_app_record *want;
    const uint32_t               *keep; /* PIECES of them: not to be touched */
    struct touched               *out;
};

static bool meets(const struct lock_app_record *want, const struct lock_app_record *record)
{
    if (record->first <= want->last && want->first <= record->last)
        return true;
    return record->type == want->type && ((record->last != UINT64_MAX && record->last + 1 == want->first) ||
                                          (want->last != UINT64_MAX && want->last + 1 == record->first));
}

static bool touched_match(const void *e, const void *k)
{
    const struct lock_app_record *record = e;
    const struct touched_key     *key = k;
    const struct lock_app_record *want = key->want;
    struct touched               *out = key->out;
    uint32_t                      index = lock_app_index(key->app, record), state = atomic_load_explicit(&record->state, memory_order_acquire);

    if (record->id != want->id)
        return false;
    out->waiters |= state == LOCK_APP_WAITING;
    if (record->who != want->who || record->owner != want->owner || record->kind != want->kind || state != LOCK_APP_HELD ||
        !meets(want, record) || index == key->keep[0] || index == key->keep[1] || index == key->keep[2])
        return false;
    if (out->count < BATCH)
        out->index[out->count] = index;
    out->count++;
    if (record->type == want->type) {
        out->covered |= record->first <= want->first && record->last >= want->last;
        out->first = record->first < out->first ? record->first : out->first;
        out->last = record->last > out->last ? record->last : out->last;
        return false;
    }
    if (record->first < want->first)
        out->left = (struct piece){true, record->first, want->first - 1, record->type};
    if (record->last > want->last)
        out->right = (struct piece){true, want->last + 1, record->last, record->type};
    return false;
}

static void touched_find(struct lock_app *app, const struct lock_app_record *want, const uint32_t keep[PIECES], struct touched *out)
{
    struct touched_key key = {app, want, keep, out};
    out->first = want->first;
    out->last = want->last;
    out->left.is_there = out->right.is_there = out->covered = out->waiters = false;
    out->count = 0;
    lock_app_find(app, want->id, touched_match, &key);
}

/* ---- granting ---- */

struct eldest_key {
    const struct seg              *seg;
    uint64_t                       id, after;
    const struct lock_app_record **eldest;
};

static bool eldest_match(const void *e, const void *k)
{
    const struct lock_app_record *record = e;
    const struct eldest_key      *key = k;
    if (record->id == key->id && atomic_load_explicit(&record->state, memory_order_acquire) == LOCK_APP_WAITING &&
        record->ticket > key->after && (!*key->eldest || record->ticket < (*key->eldest)->ticket) && seg_who_stands(key->seg, record->who))
        *key->eldest = record;
    return false;
}

void lock_app_grant(struct lock_mgr *mgr, uint64_t id)
{
    struct lock_app *app = mgr->app;
    uint64_t         after = 0;
    for (;;) {
        const struct lock_app_record *eldest = NULL;
        struct eldest_key             key = {mgr->seg, id, after, &eldest};
        lock_app_find(app, id, eldest_match, &key);
        if (!eldest)
            return;
        after = eldest->ticket;
        if (conflicts(mgr, eldest))
            continue;
        uint32_t                index = lock_app_index(app, eldest), waits = LOCK_APP_WAITING;
        struct lock_app_record *record = seg_pool_at(app->pool, index);
        if (!atomic_compare_exchange_strong(&record->state, &waits, LOCK_APP_GRANTED))
            continue;
        struct work_item item = {.kind = WORK_LOCK_GRANT, .key = id, .arg = lock_app_wait_make(app, index)};
        work_post(mgr->work, seg_who_slot(record->who), &item, false); /* lost: it polls */
    }
}

/* ---- changing ---- */

/* Whatever the owner has becomes `want`; nobody is in the way. */
int lock_app_replace(struct lock_mgr *mgr, const struct lock_app_record *want)
{
    struct lock_app *app = mgr->app;
    struct touched   touched;
    uint32_t         fresh[PIECES] = {SEG_INDEX_NONE, SEG_INDEX_NONE, SEG_INDEX_NONE};
    bool             sets = want->type != LOCK_APP_NONE;
    unsigned         n = 0;
    int              rc = 0;

    touched_find(app, want, fresh, &touched);
    if (touched.covered || (!sets && !touched.count))
        return 0;
    unsigned count = (unsigned)sets + (unsigned)touched.left.is_there + (unsigned)touched.right.is_there;
    if (count && (rc = records_take(app, count, fresh)) != 0)
        return rc;
    if (touched.left.is_there)
        record_put(app, fresh[n++], want, touched.left.first, touched.left.last, touched.left.type);
    if (touched.right.is_there)
        record_put(app, fresh[n++], want, touched.right.first, touched.right.last, touched.right.type);
    if (sets)
        record_put(app, fresh[n++], want, touched.first, touched.last, want->type);
    for (unsigned i = 0; i < n && !rc; i++)
        rc = record_link(app, fresh[i]);
    bool waiters = touched.waiters, gone = touched.count > 0;
    while (touched.count && !rc) {
        for (unsigned i = 0; i < touched.count && i < BATCH; i++)
            lock_app_remove(app, touched.index[i]);
        if (touched.count <= BATCH)
            break;
        touched_find(app, want, fresh, &touched);
    }
    if (waiters && gone)
        lock_app_grant(mgr, want->id);
    return rc;
}

/* flock(2): a lock of another type is given up first. 1: the owner has it already. */
static int flock_give_up(struct lock_mgr *mgr, const struct lock_app_record *want, bool *waiters)
{
    static const uint32_t none[PIECES] = {SEG_INDEX_NONE, SEG_INDEX_NONE, SEG_INDEX_NONE};
    struct touched        touched;
    touched_find(mgr->app, want, none, &touched);
    *waiters = touched.waiters && touched.count;
    if (touched.covered)
        return 1;
    for (unsigned i = 0; i < touched.count && i < BATCH; i++)
        lock_app_remove(mgr->app, touched.index[i]);
    return 0;
}

static int set_locked(struct lock_mgr *mgr, const struct lock_app_record *want)
{
    bool waiters = false;
    if (want->kind == LOCK_APP_FLOCK && want->type != LOCK_APP_NONE && flock_give_up(mgr, want, &waiters))
        return 0;
    int rc = want->type != LOCK_APP_NONE && conflicts(mgr, want) ? -EAGAIN : lock_app_replace(mgr, want);
    if (waiters)
        lock_app_grant(mgr, want->id);
    return rc;
}

int lock_app_set(struct lock_mgr *mgr, const struct lock_app_request *request)
{
    int rc = enter(mgr, &request->ref);
    if (rc)
        return rc;
    struct lock_app_record want = record_of(mgr, request);
    rc = set_locked(mgr, &want);
    leave(mgr, &request->ref);
    return rc == -ESTALE ? -EIO : rc; /* a chain that refuses us: fenced */
}

static int line_up(struct lock_mgr *mgr, struct lock_app_record *want, uint64_t *wait)
{
    struct lock_app *app = mgr->app;
    uint32_t         index[PIECES];
    int              rc = records_take(app, 1, index);
    if (rc)
        return rc;
    want->waited = 1;
    atomic_store(&want->state, LOCK_APP_WAITING);
    lock_app_line_enter(mgr);
    if (want->kind == LOCK_APP_RECORD && lock_app_circle(mgr, want)) {
        lock_app_line_exit(mgr);
        seg_pool_free(app->pool, index[0]);
        atomic_fetch_sub(&app->own, 1);
        return -EDEADLK;
    }
    record_put(app, index[0], want, want->first, want->last, want->type);
    rc = record_link(app, index[0]);
    lock_app_line_exit(mgr);
    *wait = lock_app_wait_make(app, index[0]);
    return rc ? rc : -EINPROGRESS;
}

int lock_app_set_or_wait(struct lock_mgr *mgr, const struct lock_app_request *request, uint64_t *wait)
{
    int rc = enter(mgr, &request->ref);
    if (rc)
        return rc;
    struct lock_app_record want = record_of(mgr, request);
    rc = set_locked(mgr, &want);
    if (rc == -EAGAIN)
        rc = line_up(mgr, &want, wait);
    leave(mgr, &request->ref);
    return rc == -ESTALE ? -EIO : rc;
}

/* ---- a waiter's own member ---- */

static struct lock_app_record *waiter_find(struct lock_mgr *mgr, const struct lock_app_request *request, uint64_t wait)
{
    uint32_t                index = (uint32_t)wait;
    uint64_t                word = seg_pool_load(mgr->app->pool, index);
    struct lock_app_record *record = seg_pool_at(mgr->app->pool, index);
    bool is_it = index && record && seg_pool_word_state(word) == SEG_POOL_LIVE && seg_pool_word_aux(word) == (uint32_t)(wait >> 32) &&
                 record->id == request->ref.id && record->who == seg_self(mgr->seg) &&
                 atomic_load(&record->state) != LOCK_APP_HELD;
    return is_it ? record : NULL;
}

/* Granted: it becomes a lock like any other. */
static void waiter_finish(struct lock_mgr *mgr, struct lock_app_record *record)
{
    struct lock_app_record want = *record;
    want.waited = 0;
    atomic_store(&want.state, LOCK_APP_HELD);
    if (lock_app_replace(mgr, &want) == 0)
        lock_app_remove(mgr->app, lock_app_index(mgr->app, record));
    else
        atomic_store(&record->state, LOCK_APP_HELD); /* no record to be had: this one counts, beside those it overlaps */
}

int lock_app_poll(struct lock_mgr *mgr, const struct lock_app_request *request, uint64_t wait)
{
    int rc = enter(mgr, &request->ref);
    if (rc)
        return rc;
    struct lock_app_record *record = waiter_find(mgr, request, wait);
    if (record && atomic_load(&record->state) == LOCK_APP_WAITING)
        lock_app_grant(mgr, record->id);
    if (!record) {
        rc = -ENOENT;
    } else if (atomic_load(&record->state) == LOCK_APP_GRANTED) {
        waiter_finish(mgr, record);
    } else {
        lock_app_line_enter(mgr);
        rc = record->kind == LOCK_APP_RECORD && lock_app_circle(mgr, record) ? -EDEADLK : -EINPROGRESS;
        if (rc == -EDEADLK)
            lock_app_remove(mgr->app, lock_app_index(mgr->app, record)); /* before another looks: one victim */
        lock_app_line_exit(mgr);
    }
    leave(mgr, &request->ref);
    return rc;
}

int lock_app_cancel(struct lock_mgr *mgr, const struct lock_app_request *request, uint64_t wait)
{
    int rc = enter(mgr, &request->ref);
    if (rc)
        return rc;
    struct lock_app_record *record = waiter_find(mgr, request, wait);
    if (!record) {
        rc = -ENOENT;
    } else if (atomic_load(&record->state) == LOCK_APP_GRANTED) {
        waiter_finish(mgr, record);
    } else {
        lock_app_remove(mgr->app, lock_app_index(mgr->app, record));
        rc = -EINTR;
    }
    leave(mgr, &request->ref);
    return rc;
}

/* ---- giving up ---- */

struct release_key {
    const struct lock_app *app;
    uint64_t               id, who, owner, file;
    bool                   by_file;
    struct release_found {
        unsigned left, count;
        bool     waiters;
        uint32_t index[BATCH];
    } *out;
};

static bool release_match(const void *e, const void *k)
{
    const struct lock_app_record *record = e;
    const struct release_key     *key = k;
    uint32_t                      state = atomic_load_explicit(&record->state, memory_order_acquire);
    if (record->id != key->id)
        return false;
    key->out->waiters |= state == LOCK_APP_WAITING;
    if (record->who != key->who)
        return false;
    bool goes = state == LOCK_APP_HELD &&
                (key->by_file ? record->file == key->file : record->kind == LOCK_APP_RECORD && record->owner == key->owner);
    key->out->left += !goes;
    if (goes && key->out->count < BATCH)
        key->out->index[key->out->count++] = lock_app_index(key->app, record);
    return goes && key->out->count == BATCH;
}

static int release(struct lock_mgr *mgr, const struct lock_ref *ref, struct release_key *key)
{
    struct release_found found;
    bool                 gone = false;
    int                  rc = enter(mgr, ref);
    if (rc)
        return rc;
    key->app = mgr->app;
    key->id = ref->id;
    key->who = seg_self(mgr->seg);
    key->out = &found;
    do {
        found = (struct release_found){0};
        lock_app_find(mgr->app, ref->id, release_match, key);
        for (unsigned i = 0; i < found.count; i++)
            lock_app_remove(mgr->app, found.index[i]);
        gone |= found.count > 0;
    } while (found.count == BATCH);
    if (gone)
        lock_app_grant(mgr, ref->id);
    leave(mgr, ref);
    return (int)found.left;
}

int lock_app_release_owner(struct lock_mgr *mgr, const struct lock_ref *ref, uint64_t owner)
{
    struct release_key key = {.owner = owner};
    return release(mgr, ref, &key);
}

int lock_app_release_file(struct lock_mgr *mgr, const struct lock_ref *ref, uint64_t file)
{
    struct release_key key = {.file = file, .by_file = true};
    return release(mgr, ref, &key);
}
