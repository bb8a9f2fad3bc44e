/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_lock_app_model.c - locks of applications against a model: for each owner and inode an array of bytes, each free, read-locked or write-locked.
 *
 * Random calls by 16 owners of four members on three inodes, one after the other, with results that the model foretells: set, unlock, test, wait, cancel, close. The
 * last byte of the model stands for all to the end. Its line: waiters in the order in which they began; after each call every waiter that conflicts with nobody is
 * granted, oldest first. Compared are the result of each call, who has been granted, by state and not by poll (so a grant that is forgotten is seen), and now and then
 * the records themselves: disjoint, joined where they can be, and as the model has them.
 */
#include "lock_app_fixture.h"

TestSuite(lock_app_model, .fini = fixture_remove, .timeout = 240);

enum { MEMBERS = 4, OWNERS = 16, INODES = 3, BYTES = 48, KINDS = 2 };

struct waiter {
    bool                    waits, granted;
    struct lock_app_request want;
    uint64_t                wait, age;
};

static uint8_t       held[KINDS][INODES][OWNERS][BYTES]; /* 0, or type + 1 */
static struct waiter waiters[OWNERS];
static uint64_t      random_state, age;
static unsigned      outcome[6]; /* done, refused, waits, circles, granted, cancelled */

static unsigned pick(unsigned n)
{
    return (unsigned)(fixture_random(&random_state) >> 32) % n;
}

static unsigned member_of(unsigned owner)
{
    return owner % MEMBERS;
}

static unsigned byte_of(uint64_t offset)
{
    return offset < BYTES - 1 ? (unsigned)offset : BYTES - 1;
}

static unsigned inode_of(const struct lock_app_request *want)
{
    return (uint32_t)want->ref.id - 1;
}

static unsigned owner_of(const struct lock_app_request *want)
{
    return (unsigned)want->owner - 100;
}

/* Numbers of owners are used by several members: owner 5 of member 1 and of member 2 are two. */
static struct lock_app_request model_request(unsigned owner, unsigned inode, enum lock_app_kind kind, enum lock_app_type type, unsigned first, unsigned last)
{
    struct lock_app_request want = request(inode, owner, type, first, last);
    want.kind = kind;
    if (last == BYTES - 1)
        want.last = INT64_MAX;
    if (kind == FLOCK)
        want.first = 0, want.last = UINT64_MAX;
    return want;
}

/* ---- the model ---- */

static bool clash(unsigned type, unsigned other)
{
    return type == WRITE || other == WRITE;
}

/* Bit n: owner n is in the way of that request. */
static uint32_t model_blockers(const struct lock_app_request *want)
{
    uint32_t found = 0;
    for (unsigned owner = 0; owner < OWNERS; owner++) {
        const struct waiter *other = &waiters[owner];
        if (owner == owner_of(want))
            continue;
        for (unsigned i = byte_of(want->first); i <= byte_of(want->last); i++) {
            uint8_t byte = held[want->kind][inode_of(want)][owner][i];
            if (byte && clash(want->type, byte - 1u))
                found |= 1u << owner;
        }
        if (other->waits && other->granted && other->want.kind == want->kind && other->want.ref.id == want->ref.id &&
            clash(want->type, other->want.type) && other->want.first <= want->last && want->first <= other->want.last)
            found |= 1u << owner;
    }
    return found;
}

static void model_set(const struct lock_app_request *want)
{
    for (unsigned i = byte_of(want->first); i <= byte_of(want->last); i++)
        held[want->kind][inode_of(want)][owner_of(want)][i] = want->type == NONE ? 0 : (uint8_t)(want->type + 1);
}

static struct waiter *model_next(uint64_t after)
{
    struct waiter *next = NULL;
    for (unsigned owner = 0; owner < OWNERS; owner++)
        if (waiters[owner].waits && waiters[owner].age > after && (!next || waiters[owner].age < next->age))
            next = &waiters[owner];
    return next;
}

static void model_grant(void)
{
    for (struct waiter *waiter = model_next(0); waiter; waiter = model_next(waiter->age))
        if (!waiter->granted && !model_blockers(&waiter->want))
            waiter->granted = true;
}

static bool model_circle(const struct lock_app_request *want)
{
    uint32_t reached = model_blockers(want), seen = 0;
    while (reached & ~seen) {
        unsigned owner = (unsigned)__builtin_ctz(reached & ~seen);
        seen |= 1u << owner;
        if (waiters[owner].waits && !waiters[owner].granted && waiters[owner].want.kind == RECORD)
            reached |= model_blockers(&waiters[owner].want);
    }
    return reached >> owner_of(want) & 1;
}

/* A try as the model does it; flock gives up the old lock first. */
static int model_try(const struct lock_app_request *want)
{
    struct lock_app_request give_up = *want;
    give_up.type = NONE;
    if (want->kind == FLOCK && want->type != NONE && held[FLOCK][inode_of(want)][owner_of(want)][0] != want->type + 1)
        model_set(&give_up);
    if (want->type != NONE && model_blockers(want)) {
        model_grant();
        return -EAGAIN;
    }
    model_set(want);
    model_grant();
    return 0;
}

/* ---- comparing ---- */

static uint8_t  seen_bytes[KINDS][INODES][OWNERS][BYTES];
static unsigned seen_waiters;

static int see(void *arg, const struct lock_app_record *record)
{
    unsigned owner = (unsigned)record->owner - 100, inode = (uint32_t)record->id - 1, first = byte_of(record->first), last = byte_of(record->last);
    (void)arg;
    cr_assert(owner < OWNERS && inode < INODES && record->kind < KINDS && seg_who_slot(record->who) == member_of(owner));
    if (atomic_load(&record->state) != LOCK_APP_HELD) {
        seen_waiters++;
        return 0;
    }
    uint8_t *bytes = seen_bytes[record->kind][inode][owner];
    for (unsigned i = first; i <= last; i++) {
        cr_assert_eq(bytes[i], 0, "owner %u holds byte %u of inode %u twice", owner, i, inode);
        bytes[i] = (uint8_t)(record->type + 1);
    }
    const uint8_t *model = held[record->kind][inode][owner];
    cr_assert(first == 0 || model[first - 1] != record->type + 1, "owner %u: the lock at %u of inode %u is not joined with what is before it", owner, first, inode);
    cr_assert(last == BYTES - 1 || model[last + 1] != record->type + 1, "owner %u: the lock to %u of inode %u is not joined with what is behind", owner, last, inode);
    return 0;
}

static void compare(void)
{
    unsigned waiting = 0;
    memset(seen_bytes, 0, sizeof seen_bytes);
    seen_waiters = 0;
    cr_assert_eq(lock_app_list(fixture.member[0].seg, see, NULL), 0);
    cr_assert_eq(memcmp(seen_bytes, held, sizeof held), 0, "the records are not what the model holds");
    for (unsigned owner = 0; owner < OWNERS; owner++)
        waiting += waiters[owner].waits;
    cr_assert_eq(seen_waiters, waiting);
}

/* Who has been granted, by state; then each is told so by a poll, which may grant others. */
static void finish_granted(void)
{
    bool again = true;
    while (again) {
        again = false;
        for (struct waiter *waiter = model_next(0); waiter; waiter = model_next(waiter->age)) {
            const struct lock_app_record *record = seg_pool_at(mgr_of(0)->app->pool, (uint32_t)waiter->wait);
            cr_assert_eq(atomic_load(&record->state), waiter->granted ? LOCK_APP_GRANTED : LOCK_APP_WAITING, "owner %u, which %s be granted",
                         owner_of(&waiter->want), waiter->granted ? "should" : "should not");
        }
        for (unsigned owner = 0; owner < OWNERS && !again; owner++) {
            struct waiter *waiter = &waiters[owner];
            if (!waiter->waits || (!waiter->granted && pick(4)))
                continue;
            int rc = poll_for(member_of(owner), waiter->want, waiter->wait);
            cr_assert_eq(rc, waiter->granted ? 0 : -EINPROGRESS, "poll of owner %u: %d", owner, rc);
            if (!waiter->granted)
                continue;
            outcome[4]++;
            waiter->waits = waiter->granted = false;
            model_set(&waiter->want);
            model_grant();
            again = true;
        }
    }
}

/* ---- calls ---- */

static void call_test(unsigned owner, const struct lock_app_request *want)
{
    struct lock_app_record found;
    uint32_t               blockers = model_blockers(want);
    int                    rc = lock_app_test(mgr_of(member_of(owner)), want, &found);
    cr_assert_eq(rc, blockers != 0, "test of owner %u: %d", owner, rc);
    if (rc)
        cr_assert(blockers >> (found.owner - 100) & 1 && found.first <= want->last && want->first <= found.last && found.pid == found.owner + 200);
}

static void call_set(unsigned owner, const struct lock_app_request *want, bool may_wait)
{
    uint64_t wait = 0;
    int      expected = model_try(want), rc;
    if (may_wait && expected == -EAGAIN)
        expected = want->kind == RECORD && model_circle(want) ? -EDEADLK : -EINPROGRESS;
    rc = may_wait ? lock_app_set_or_wait(mgr_of(member_of(owner)), want, &wait) : lock_app_set(mgr_of(member_of(owner)), want);
    cr_assert_eq(rc, expected, "owner %u, inode %u, kind %d, type %d, %llu to %llu: %d instead of %d", owner, inode_of(want), want->kind, want->type,
                 (unsigned long long)want->first, (unsigned long long)want->last, rc, expected);
    outcome[rc == 0 ? 0 : rc == -EAGAIN ? 1 : rc == -EINPROGRESS ? 2 : 3]++;
    if (rc == -EINPROGRESS)
        waiters[owner] = (struct waiter){.waits = true, .want = *want, .wait = wait, .age = ++age};
}

static void call_close(unsigned owner, const struct lock_app_request *want)
{
    bool by_file = pick(2);
    memset(held[RECORD][inode_of(want)][owner], 0, BYTES);
    if (by_file)
        memset(held[FLOCK][inode_of(want)][owner], 0, BYTES);
    model_grant();
    int rc = by_file ? lock_app_release_file(mgr_of(member_of(owner)), &want->ref, want->file)
                     : lock_app_release_owner(mgr_of(member_of(owner)), &want->ref, want->owner, 0);
    cr_assert_geq(rc, 0);
}

static void call_cancel(unsigned owner)
{
    struct waiter *waiter = &waiters[owner];
    int            rc = lock_app_cancel(mgr_of(member_of(owner)), &waiter->want, waiter->wait);
    cr_assert_eq(rc, -EINTR, "owner %u: %d", owner, rc);
    waiter->waits = false;
    outcome[5]++;
}

static void call(void)
{
    unsigned                owner = pick(OWNERS);
    for (unsigned i = 0; waiters[owner].waits && i < OWNERS; i++)
        owner = pick(16) ? (owner + 1) % OWNERS : owner; /* rather one that can do something */
    unsigned                first = pick(BYTES), what = pick(24);
    enum lock_app_type      type = pick(5) % 3;
    unsigned                last = pick(6) ? first + pick(BYTES - first < 6 ? BYTES - first : 6) : BYTES - 1;
    struct lock_app_request want = model_request(owner, pick(INODES), pick(8) ? RECORD : FLOCK, type, first, last);
    if (waiters[owner].waits) {
        if (pick(4) == 0)
            call_cancel(owner);
    } else if (what < 3) {
        want.type = type == NONE ? WRITE : type;
        call_test(owner, &want);
    } else if (what < 10) {
        call_close(owner, &want);
    } else {
        call_set(owner, &want, what > 14 && type != NONE);
    }
    finish_granted();
}

static void drain(void)
{
    struct work_item item;
    for (unsigned m = 0; m < MEMBERS; m++)
        while (work_take(fixture.member[m].work, &item) == 1)
            ;
}

/* Goal:   ranges, conversions, waits, grants and circles are those of POSIX and of flock, whoever asks through whichever member.
 * Method: as above. HEARTHFS_SEED=n repeats a run. */
Test(lock_app_model, random_calls)
{
    const char *wanted = getenv("HEARTHFS_SEED");
    uint64_t    seed = wanted ? strtoull(wanted, NULL, 10) : (uint64_t)time(NULL);
    unsigned    calls = 60000 / FIXTURE_SLOW;
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    random_state = seed * 2 + 1;
    open_members(MEMBERS);
    unsigned start = free_count();
    for (unsigned n = 0; n < calls; n++) {
        call();
        if (n % 16 == 0) {
            compare();
            drain();
        }
    }
    for (unsigned owner = 0; owner < OWNERS; owner++)
        if (waiters[owner].waits)
            call_cancel(owner);
    for (unsigned owner = 0; owner < OWNERS; owner++)
        for (unsigned i = 0; i < INODES; i++) {
            struct lock_ref ref = fixture_ref(i);
            cr_assert_geq(lock_app_release_file(mgr_of(member_of(owner)), &ref, 200 + owner), 0);
        }
    fprintf(stderr, "done %u, refused %u, waits %u, circles %u, granted %u, cancelled %u\n", outcome[0], outcome[1], outcome[2], outcome[3], outcome[4],
            outcome[5]);
    for (unsigned i = 0; i < 6; i++)
        cr_expect_gt(outcome[i], calls / 2000, "outcome %u: %u times", i, outcome[i]);
    close_clean(start);
}
