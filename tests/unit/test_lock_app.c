/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_lock_app.c - locks of applications: waiting, races, circles. Ranges against a model: test_lock_app_model.c; deaths and limits: test_lock_app_death.c.
 */
#include "lock_app_fixture.h"

TestSuite(lock_app, .fini = fixture_remove, .timeout = 120);

/* ---- waiting ---- */

/* Goal:   who waits is granted oldest first, by whoever gives the lock up, and told; readers together.
 * Method: a writer, then waiters W R R W of three members; each unlock grants exactly the next. */
Test(lock_app, oldest_first)
{
    open_members(3);
    unsigned                start = free_count();
    struct lock_app_request hold = request(0, 0, WRITE, 0, 9), w1 = request(0, 1, WRITE, 5, 5), r2 = request(0, 2, READ, 0, 20),
                            r3 = request(0, 3, READ, 5, 5), w4 = request(0, 4, WRITE, 4, INT64_MAX);
    cr_assert_eq(set(0, hold), 0);
    uint64_t a = wait_for(1, w1), b = wait_for(2, r2), c = wait_for(1, r3), d = wait_for(0, w4);
    cr_expect_eq(poll_for(1, w1, a), -EINPROGRESS);
    hold.type = NONE;
    cr_assert_eq(set(0, hold), 0);
    expect_told(1, a);
    expect_told_nothing(1);
    expect_told_nothing(2);
    cr_expect_eq(poll_for(2, r2, b), -EINPROGRESS, "behind one that was granted and has not noticed");
    cr_expect_eq(poll_for(1, w1, a), 0);
    cr_expect_eq(poll_for(1, w1, a), -ENOENT, "finished twice");
    w1.type = NONE;
    cr_assert_eq(set(1, w1), 0);
    expect_told(2, b);
    expect_told(1, c);
    expect_told_nothing(0);
    cr_expect_eq(poll_for(1, r3, c), 0);
    cr_expect_eq(poll_for(2, r2, b), 0);
    cr_expect_eq(lock_app_release_owner(mgr_of(2), &r2.ref, r2.owner, 0), 0);
    expect_told_nothing(0);
    cr_expect_eq(lock_app_release_file(mgr_of(1), &r3.ref, r3.file), 0);
    expect_told(0, d);
    cr_expect_eq(poll_for(0, w4, d), 0);
    cr_expect_eq(lock_app_release_owner(mgr_of(0), &w4.ref, w4.owner, 0), 0);
    close_clean(start);
}

/* Goal:   a lost message costs a poll; a cancelled waiter is gone; one that has the lock keeps it.
 * Method: the inbox is not looked at; cancel before and after the grant. */
Test(lock_app, cancel_and_poll)
{
    open_members(2);
    unsigned                start = free_count();
    struct lock_app_request hold = request(0, 0, WRITE, 0, 9), first = request(0, 1, WRITE, 0, 9), second = request(0, 2, WRITE, 0, 9);
    cr_assert_eq(set(0, hold), 0);
    uint64_t a = wait_for(1, first), b = wait_for(1, second);
    cr_expect_eq(lock_app_cancel(mgr_of(1), &first, a), -EINTR);
    cr_expect_eq(lock_app_cancel(mgr_of(1), &first, a), -ENOENT);
    cr_expect_eq(poll_for(1, first, a), -ENOENT);
    hold.type = NONE;
    cr_assert_eq(set(0, hold), 0);
    cr_expect_eq(lock_app_cancel(mgr_of(1), &second, b), 0, "it has the lock");
    cr_expect_eq(poll_for(1, second, b), -ENOENT);
    hold.type = WRITE;
    cr_expect_eq(set(0, hold), -EAGAIN);
    second.type = NONE;
    cr_expect_eq(set(1, second), 0);
    close_clean(start);
}

/* Goal:   a grant by a member that was fenced while it granted does not make two holders.
 * Method: a waiter is marked granted, by hand, beside the lock that is in its way. */
Test(lock_app, late_grant_is_taken_back)
{
    open_members(2);
    unsigned                start = free_count();
    struct lock_app_request hold = request(0, 0, WRITE, 0, 9), want = request(0, 1, WRITE, 0, 9);
    cr_assert_eq(set(0, hold), 0);
    uint64_t                a = wait_for(1, want);
    struct lock_app_record *record = seg_pool_at(mgr_of(1)->app->pool, (uint32_t)a);
    atomic_store(&record->state, LOCK_APP_GRANTED);
    cr_expect_eq(poll_for(1, want, a), -EINPROGRESS);
    cr_expect_eq(atomic_load(&record->state), LOCK_APP_WAITING);
    atomic_store(&record->state, LOCK_APP_GRANTED);
    cr_expect_eq(lock_app_cancel(mgr_of(1), &want, a), -EINTR);
    hold.type = NONE;
    cr_expect_eq(set(0, hold), 0);
    close_clean(start);
}

/* Goal:   more waiters than one batch of the line are all granted, in order.
 * Method: 300 waiters of two members on one byte each or on all; the holder goes. */
Test(lock_app, many_waiters)
{
    enum { MANY = 300 };
    static uint64_t wait[MANY];
    open_members(2);
    unsigned                start = free_count();
    struct lock_app_request hold = request(0, 0, WRITE, 0, INT64_MAX);
    cr_assert_eq(set(0, hold), 0);
    for (unsigned i = 0; i < MANY; i++)
        wait[i] = wait_for(i % 2, request(0, 1 + i, i < MANY / 2 ? READ : WRITE, 0, i == MANY - 1 ? INT64_MAX : 0));
    cr_assert_eq(lock_app_release_owner(mgr_of(0), &hold.ref, hold.owner, 0), MANY / 2, "left of the own: those who wait or are granted");
    for (unsigned i = 0; i < MANY; i++) {
        struct lock_app_request want = request(0, 1 + i, READ, 0, 0);
        uint32_t state = atomic_load(&((struct lock_app_record *)seg_pool_at(mgr_of(0)->app->pool, (uint32_t)wait[i]))->state);
        if (i < MANY / 2)
            cr_assert_eq(state, LOCK_APP_GRANTED, "reader %u", i);
        else
            cr_assert_eq(state, LOCK_APP_WAITING, "writer %u", i);
        if (i < MANY / 2)
            cr_assert_eq(poll_for(i % 2, want, wait[i]), 0);
    }
    for (unsigned i = 0; i < MANY / 2; i++)
        lock_app_release_owner(mgr_of(i % 2), &hold.ref, 101 + i, 0);
    for (unsigned i = MANY / 2; i < MANY; i++) {
        struct lock_app_request want = request(0, 1 + i, WRITE, 0, 0);
        cr_assert_eq(poll_for(i % 2, want, wait[i]), 0, "writer %u is next", i);
        if (i + 1 < MANY)
            cr_assert_eq(poll_for((i + 1) % 2, request(0, 2 + i, WRITE, 0, 0), wait[i + 1]), -EINPROGRESS, "writer %u is not", i + 1);
        lock_app_release_owner(mgr_of(i % 2), &hold.ref, want.owner, 0);
    }
    close_clean(start);
}

/* ---- threads ---- */

struct racer {
    unsigned  member, owner;
    uint64_t  seed;
    pthread_t thread;
};
enum { RACERS = 6, RACE_BYTES = 8 };
static _Atomic unsigned inside[RACE_BYTES]; /* writers + 1000 * readers */
static _Atomic unsigned race_waits, race_cancels, race_granted_at_cancel;
static unsigned         race_rounds, race_members;

/* Polls, or gives up after a while. 0: it has the lock. */
static int race_wait(struct racer *racer, struct lock_app_request *want, uint64_t wait)
{
    unsigned patience = (unsigned)(fixture_random(&racer->seed) >> 40) % 40;
    atomic_fetch_add(&race_waits, 1);
    for (;;) {
        int rc = patience ? poll_for(racer->member, *want, wait) : lock_app_cancel(mgr_of(racer->member), want, wait);
        if (!patience)
            atomic_fetch_add(rc == 0 ? &race_granted_at_cancel : &race_cancels, 1);
        if (rc != -EINPROGRESS)
            return rc;
        patience--;
        sched_yield();
    }
}

static void *race(void *arg)
{
    struct racer *racer = arg;
    for (unsigned n = 0; n < race_rounds; n++) {
        uint64_t                random = fixture_random(&racer->seed) >> 20, first = random % RACE_BYTES;
        bool                    writes = random >> 8 & 1;
        struct lock_app_request want = request(0, racer->owner, writes ? WRITE : READ, first, first + (random >> 12) % (RACE_BYTES - first));
        uint64_t                wait = 0;
        int rc = lock_app_set_or_wait(mgr_of(racer->member), &want, &wait);
        if (rc == -EINPROGRESS)
            rc = race_wait(racer, &want, wait);
        if (rc == -EINTR)
            continue;
        if (rc) {
            fixture_wrong("owner %u: %d", racer->owner, rc); /* holds nothing when it asks: no circle */
            continue;
        }
        unsigned mine = writes ? 1 : 1000;
        for (uint64_t i = want.first; i <= want.last; i++) {
            unsigned others = atomic_fetch_add(&inside[i], mine);
            if (writes ? others != 0 : others % 1000 != 0)
                fixture_wrong("byte %u: %u are inside", (unsigned)i, others);
        }
        if (random >> 30 & 1)
            sched_yield();
        for (uint64_t i = want.first; i <= want.last; i++)
            atomic_fetch_sub(&inside[i], mine);
        want.type = NONE;
        if (random >> 31 & 1)
            rc = set(racer->member, want);
        else
            rc = lock_app_release_owner(mgr_of(racer->member), &want.ref, want.owner, want.file) < 0;
        if (rc)
            fixture_wrong("owner %u: unlock: %d", racer->owner, rc);
    }
    return NULL;
}

static void *race_drain(void *arg)
{
    struct work_item item;
    for (unsigned m = 0; !atomic_load((_Atomic bool *)arg); m = (m + 1) % race_members)
        if (work_take(fixture.member[m].work, &item) == 0)
            sched_yield();
    return NULL;
}

static void run_race(unsigned members)
{
    static struct racer racers[RACERS];
    _Atomic bool        done = false;
    pthread_t           drain;
    uint64_t            seed = (uint64_t)time(NULL);
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    race_members = members;
    race_rounds = 4000 / FIXTURE_SLOW;
    open_members(members);
    unsigned start = free_count();
    cr_assert_eq(pthread_create(&drain, NULL, race_drain, &done), 0);
    for (unsigned i = 0; i < RACERS; i++) {
        racers[i] = (struct racer){.member = i % members, .owner = i, .seed = seed * 31 + i + 1};
        cr_assert_eq(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
    }
    for (unsigned i = 0; i < RACERS; i++)
        pthread_join(racers[i].thread, NULL);
    atomic_store(&done, true);
    pthread_join(drain, NULL);
    fprintf(stderr, "%u waits, %u cancelled, %u granted when they were to be cancelled\n", race_waits, race_cancels, race_granted_at_cancel);
    cr_expect_gt(race_waits, 100u);
    close_clean(start);
}

/* Goal:   however grants, polls and cancels meet, nobody is inside with a writer, and nothing is lost or left.
 * Method: six threads lock, wait with little patience, and count who is inside; of one member, and of three. */
Test(lock_app, race_of_threads)
{
    run_race(1);
}

Test(lock_app, race_of_members)
{
    if (FIXTURE_SLOW > 1)
        cr_skip_test("ThreadSanitizer does not see what two mappings have to do with each other");
    run_race(3);
}

/* ---- circles ---- */

static void circle_of(unsigned n)
{
    uint64_t wait[16];
    open_members(4);
    unsigned start = free_count();
    for (unsigned i = 0; i < n; i++)
        cr_assert_eq(set(i % 4, request(i % 5, i, WRITE, i, i)), 0);
    for (unsigned i = 0; i + 1 < n; i++)
        wait[i] = wait_for(i % 4, request((i + 1) % 5, i, READ, i + 1, i + 1));
    struct lock_app_request last = request(0, n - 1, WRITE, 0, 0);
    uint64_t                none = 0;
    cr_expect_eq(lock_app_set_or_wait(mgr_of((n - 1) % 4), &last, &none), -EDEADLK, "a circle of %u", n);
    for (unsigned i = 0; i + 1 < n; i++)
        cr_expect_eq(poll_for(i % 4, request((i + 1) % 5, i, READ, i + 1, i + 1), wait[i]), -EINPROGRESS, "only the last is told");
    /* Somebody who is in no circle may wait for those who wait. */
    struct lock_app_request outside = request(0, 50, WRITE, 0, 0);
    uint64_t                out = wait_for(3, outside);
    cr_expect_eq(lock_app_cancel(mgr_of(3), &outside, out), -EINTR);
    for (unsigned i = n; i-- > 0;) {
        if (i + 1 < n)
            cr_expect_eq(poll_for(i % 4, request((i + 1) % 5, i, READ, i + 1, i + 1), wait[i]), 0);
        for (unsigned inode = 0; inode < 5; inode++) {
            struct lock_ref ref = fixture_ref(inode);
            lock_app_release_owner(mgr_of(i % 4), &ref, 100 + i, 0);
        }
    }
    close_clean(start);
}

/* Goal:   circles of 2, 3 and 10 owners over five inodes and four members are answered with EDEADLK, to the one that closes it; nothing else is. */
Test(lock_app, circles)
{
    circle_of(2);
    circle_of(3);
    circle_of(10);
}

/* Goal:   the same number of another member is another owner; flock does not look for circles; nobody waits for himself. */
Test(lock_app, no_circle)
{
    open_members(2);
    unsigned start = free_count();
    cr_assert_eq(set(0, request(0, 1, WRITE, 0, 0)), 0);
    cr_assert_eq(set(1, request(1, 1, WRITE, 0, 0)), 0);
    cr_assert_eq(set(1, request(0, 1, WRITE, 0, 0)), -EAGAIN);
    cr_assert_eq(set(0, request(1, 2, WRITE, 5, 5)), 0);
    uint64_t a = wait_for(0, request(1, 2, WRITE, 0, 0)); /* owner 2 of member 0 for owner 1 of member 1 */
    uint64_t b = wait_for(1, request(0, 1, WRITE, 0, 0)); /* who waits for owner 1 of member 0: no circle */
    cr_expect_eq(set(0, request(0, 1, READ, 0, 9)), 0, "the own lock is in nobody's way");
    cr_expect_eq(poll_for(0, request(1, 2, WRITE, 0, 0), a), -EINPROGRESS);
    struct lock_app_request x = request(2, 1, WRITE, 0, UINT64_MAX), y = request(3, 1, WRITE, 0, UINT64_MAX);
    x.kind = y.kind = FLOCK;
    cr_assert_eq(set(0, x), 0);
    cr_assert_eq(set(1, y), 0);
    uint64_t c = wait_for(0, y), d = wait_for(1, x);
    cr_expect_eq(poll_for(0, y, c), -EINPROGRESS);
    cr_expect_eq(lock_app_cancel(mgr_of(0), &y, c), -EINTR);
    cr_expect_eq(lock_app_cancel(mgr_of(1), &x, d), -EINTR);
    struct lock_app_request cancel_a = request(1, 2, WRITE, 0, 0), cancel_b = request(0, 1, WRITE, 0, 0);
    cr_expect_eq(lock_app_cancel(mgr_of(0), &cancel_a, a), -EINTR);
    cr_expect_eq(lock_app_cancel(mgr_of(1), &cancel_b, b), -EINTR);
    for (unsigned i = 0; i < 4; i++)
        for (unsigned m = 0; m < 2; m++)
            for (unsigned o = 1; o < 3; o++) {
                struct lock_ref ref = fixture_ref(i);
                lock_app_release_file(mgr_of(m), &ref, 200 + o);
            }
    close_clean(start);
}
