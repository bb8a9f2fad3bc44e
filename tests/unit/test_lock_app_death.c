/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_lock_app_death.c - locks of applications: members that die or are fenced, recovery, quota and full pool, files being closed.
 */
#include "lock_app_fixture.h"

TestSuite(lock_app_death, .fini = fixture_remove, .timeout = 120);

/* ---- death ---- */

/* A child that is member 1 and does `work`, says so, and waits for its end. */
static pid_t child_member(void (*work)(void))
{
    int  pipes[2];
    char ready = 0;
    cr_assert_eq(pipe(pipes), 0);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        fixture_child();
        if (!fixture_try_join(1))
            _exit(1);
        work();
        ready = 1;
        if (write(pipes[1], &ready, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(pipes[1]);
    cr_assert_eq(read(pipes[0], &ready, 1), 1, "the child has failed");
    close(pipes[0]);
    return pid;
}

static struct lock_app_request child_request(unsigned inode, unsigned owner, enum lock_app_type type, uint64_t first, uint64_t last)
{
    struct lock_app_request what = request(inode, owner, type, first, last);
    what.ref = fixture_ref_of(1, inode);
    return what;
}

static void child_holds(void)
{
    for (unsigned i = 0; i < 200; i++) {
        struct lock_app_request what = child_request(i % 3, i, i % 2 ? READ : WRITE, i, i);
        if (lock_app_set(mgr_of(1), &what) != 0)
            _exit(1);
    }
    struct lock_app_request want = child_request(4, 7, WRITE, 0, 0);
    uint64_t                wait;
    if (lock_app_set_or_wait(mgr_of(1), &want, &wait) != -EINPROGRESS) /* and waits */
        _exit(1);
}

static void settle(unsigned member, seg_who who)
{
    fixture_dead(&fixture.member[member], who);
}

static seg_who who_of_slot(unsigned slot)
{
    uint32_t incarnation = 0;
    seg_member_state(fixture.member[0].seg, slot, &incarnation);
    return seg_who_make(slot, incarnation);
}

/* Goal:   the locks and waiters of a killed member are gone, those behind it get what it held, recovery may run twice, and nothing is left.
 * Method: a forked member holds 200 locks, waits for one, and is killed. */
Test(lock_app_death, death_of_a_member)
{
    open_members(1);
    fixture_join(2);
    unsigned                start = free_count();
    struct lock_app_request block = request(4, 0, WRITE, 0, 0), behind = request(0, 1, WRITE, 0, INT64_MAX), next = request(4, 2, WRITE, 0, 0);
    cr_assert_eq(set(0, block), 0);
    pid_t    child = child_member(child_holds);
    uint64_t a = wait_for(2, behind), b = wait_for(2, next);
    cr_expect_eq(listed(), 200 + 1 + 1 + 2);
    cr_expect_eq(poll_for(2, behind, a), -EINPROGRESS);
    seg_who who = who_of_slot(1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    settle(0, who);
    expect_told(2, a);
    cr_expect_eq(poll_for(2, behind, a), 0);
    cr_expect_eq(listed(), 3, "the dead member's are not shown");
    cr_assert_eq(seg_recovery_lock(fixture.member[0].seg, false), 0);
    lock_app_recover(mgr_of(0), 1);
    lock_app_recover(mgr_of(0), 1);
    seg_recovery_unlock(fixture.member[0].seg);
    cr_expect_eq(listed(), 3);
    block.type = NONE;
    cr_assert_eq(set(0, block), 0);
    expect_told(2, b);
    cr_expect_eq(poll_for(2, next, b), 0, "the dead waiter is passed over");
    lock_app_release_owner(mgr_of(2), &behind.ref, behind.owner, 0);
    lock_app_release_owner(mgr_of(2), &next.ref, next.owner, 0);
    close_clean(start);
}

static _Atomic bool *child_go;

static void child_scribbles(void)
{
    uint64_t seed = (uint64_t)getpid();
    atomic_store(child_go, true);
    for (;;) {
        uint64_t                random = fixture_random(&seed) >> 20;
        struct lock_app_request what = child_request(random % 3, random >> 8 & 7, (random >> 12) % 3, random >> 16 & 15, 16 + (random >> 20 & 15));
        lock_app_set(mgr_of(1), &what);
    }
}

/* Goal:   a member that is killed at any instant leaves nothing behind.
 * Method: one that sets, splits and joins without pause is killed after random times; the pool is as full as before, and the survivor's locks work. */
Test(lock_app_death, killed_at_any_instant)
{
    unsigned rounds = 60 / FIXTURE_SLOW;
    uint64_t seed = (uint64_t)time(NULL);
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    open_members(1);
    child_go = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq((void *)child_go, MAP_FAILED);
    unsigned start = free_count();
    for (unsigned n = 0; n < rounds; n++) {
        pid_t child = fork();
        if (child == 0) {
            fixture_child();
            if (!fixture_try_join(1))
                _exit(1);
            child_scribbles();
            _exit(0);
        }
        fixture_until(atomic_load(child_go));
        atomic_store(child_go, false);
        nanosleep(&(struct timespec){.tv_nsec = (long)(fixture_random(&seed) % 3000000)}, NULL);
        seg_who who = who_of_slot(1);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        settle(0, who);
        for (unsigned i = 0; i < 3; i++) {
            struct lock_app_request all = request(i, 1, WRITE, 0, INT64_MAX);
            cr_assert_eq(set(0, all), 0, "round %u: a dead member's lock on %u", n, i);
            all.type = NONE;
            cr_assert_eq(set(0, all), 0);
        }
        cr_assert_eq(listed(), 0);
    }
    cr_expect_eq(free_count(), start, "%u of %u records are free", free_count(), start);
    fixture_close();
}

/* Goal:   the locks of a member that is fenced while it lives cease to count at that moment; it gets -EIO; what it had comes back when it goes.
 * Method: member 1 holds and waits; it is fenced. */
Test(lock_app_death, fenced_member)
{
    open_members(3);
    unsigned                start = free_count();
    struct lock_app_request mine = request(0, 1, WRITE, 0, 9), other = request(1, 2, WRITE, 0, 9), behind = request(0, 3, READ, 0, 9);
    cr_assert_eq(set(1, mine), 0);
    cr_assert_eq(set(2, other), 0);
    struct lock_app_request also = request(1, 1, WRITE, 5, 5), third = request(1, 4, WRITE, 0, 0);
    uint64_t                a = wait_for(1, also), b = wait_for(2, behind), c = wait_for(0, third);
    seg_who                 who = seg_self(fixture.member[1].seg);
    cr_assert(seg_member_fence(fixture.member[0].seg, 1, seg_who_incarnation(who)));
    settle(0, who);
    expect_told(2, b);
    cr_expect_eq(poll_for(2, behind, b), 0);
    cr_expect_eq(poll_for(1, also, a), -EIO);
    cr_expect_eq(lock_app_cancel(mgr_of(1), &also, a), -EIO);
    cr_expect_eq(set(1, request(3, 1, WRITE, 0, 0)), -EIO);
    other.type = NONE;
    cr_assert_eq(set(2, other), 0);
    cr_expect_eq(poll_for(0, third, c), 0, "a fenced waiter is passed over");
    fixture_leave(1);
    cr_assert_eq(seg_recovery_lock(fixture.member[0].seg, false), 0);
    lock_app_recover(mgr_of(0), 1);
    seg_recovery_unlock(fixture.member[0].seg);
    lock_app_release_owner(mgr_of(2), &behind.ref, behind.owner, 0);
    lock_app_release_owner(mgr_of(0), &third.ref, third.owner, 0);
    close_clean(start);
}

/* ---- limits ---- */

/* Goal:   when the own three quarters are used up, what would need more is refused, what would not is carried out, and nothing is lost.
 * Method: separate bytes until -ENOLCK; then splits, conversions, unlocks; then all is given up. */
Test(lock_app_death, quota_and_full_pool)
{
    open_members(2);
    unsigned start = free_count(), held = 0;
    while (set(0, request(0, 1, READ, 10 * held, 10 * held + 5)) == 0)
        held++;
    cr_expect_eq(held, FIXTURE_APP_LOCKS / 4 * 3);
    cr_expect_eq(set(0, request(1, 1, WRITE, 0, 0)), -ENOLCK);
    cr_expect_eq(set(0, request(0, 1, NONE, 2, 3)), -ENOLCK, "a split makes two of one");
    cr_expect_eq(set(0, request(0, 1, NONE, 3, 5)), 0, "a shorter one does not");
    cr_expect_eq(set(0, request(0, 1, WRITE, 10, 15)), 0, "nor does a conversion");
    cr_expect_eq(set(0, request(0, 1, NONE, 0, 2)), 0);
    cr_expect_eq(set(0, request(1, 1, WRITE, 0, 0)), 0, "one is free again");
    unsigned other = 0;
    while (set(1, request(2, 2, WRITE, 10 * other, 10 * other)) == 0)
        other++;
    cr_expect_geq(other, FIXTURE_APP_LOCKS / 4 - 8u, "the other member has the rest: %u", other);
    struct lock_app_request blocked = request(0, 3, WRITE, 10, 10);
    uint64_t                wait;
    cr_expect_eq(lock_app_set_or_wait(mgr_of(1), &blocked, &wait), -ENOLCK, "no record to wait with");
    cr_expect_eq(lock_app_release_owner(mgr_of(0), &blocked.ref, 101, 0), 0);
    struct lock_ref one = fixture_ref(1), two = fixture_ref(2);
    cr_expect_eq(lock_app_release_owner(mgr_of(0), &one, 101, 0), 0);
    cr_expect_eq(lock_app_release_owner(mgr_of(1), &two, 102, 0), 0);
    cr_expect_eq(atomic_load(&mgr_of(0)->app->own), 0u);
    cr_expect_eq(atomic_load(&mgr_of(1)->app->own), 0u);
    close_clean(start);
}

/* Goal:   a waiter for whose lock there is no record when it is granted gets -ENOLCK, and the next one the lock.
 * Method: as the grant would split a lock, member 0 has used up the rest of the pool. */
Test(lock_app_death, no_record_at_the_grant)
{
    open_members(2);
    unsigned start = free_count(), held = 0, rest = 0;
    cr_assert_eq(set(1, request(0, 1, READ, 0, 20)), 0);
    cr_assert_eq(set(0, request(0, 2, READ, 5, 6)), 0);
    struct lock_app_request up = request(0, 1, WRITE, 5, 6), next = request(0, 3, WRITE, 5, 6);
    uint64_t                a = wait_for(1, up), b = wait_for(0, next);
    while (set(0, request(1, 1, READ, 2 * held, 2 * held)) == 0)
        held++;
    while (set(1, request(2, 4, READ, 2 * rest, 2 * rest)) == 0)
        rest++;
    cr_assert_eq(set(0, request(0, 2, NONE, 5, 6)), 0);
    struct lock_app_record *record = seg_pool_at(mgr_of(1)->app->pool, (uint32_t)a);
    cr_expect_eq(atomic_load(&record->state), LOCK_APP_GRANTED);
    while (set(1, request(3, 5, READ, 2 * rest, 2 * rest)) == 0) /* what the unlock gave back */
        rest++;
    cr_expect_eq(poll_for(1, up, a), -ENOLCK);
    cr_expect_eq(lock_app_release_owner(mgr_of(1), &up.ref, up.owner, 0), 0);
    cr_expect_eq(poll_for(0, next, b), 0);
    for (unsigned inode = 0; inode < 4; inode++)
        for (unsigned owner = 0; owner < 6; owner++)
            for (unsigned m = 0; m < 2; m++) {
                struct lock_ref ref = fixture_ref(inode);
                lock_app_release_owner(mgr_of(m), &ref, 100 + owner, 0);
            }
    close_clean(start);
}

/* Goal:   what a closed file may have given up is not refused at once, what others hold is.
 * Method: FLUSH of a file whose locks another owner made; then tries within and after the time. */
Test(lock_app_death, closing)
{
    open_members(2);
    unsigned                start = free_count();
    struct lock_app_request hold = request(0, 1, WRITE, 0, 9), try = request(0, 2, READ, 0, 20);
    struct lock_app_record  found;
    cr_assert_eq(set(0, hold), 0);
    cr_expect_eq(set(1, try), -EAGAIN);
    cr_expect_eq(lock_app_release_owner(mgr_of(0), &hold.ref, 77, hold.file), 1);
    int set_rc = set(1, try), test_rc = lock_app_test(mgr_of(1), &try, &found);
    cr_expect(set_rc == -EBUSY || set_rc == -EAGAIN); /* the latter if this machine took 50 ms for it */
    cr_expect(test_rc == -EBUSY || test_rc == 1);
    cr_assert_eq(set(0, request(0, 3, WRITE, 15, 15)), 0);
    cr_expect_eq(set(1, try), -EAGAIN, "somebody else is in the way as well");
    cr_assert_eq(set(0, request(0, 3, NONE, 15, 15)), 0);
    fixture_until(set(1, try) == -EAGAIN);
    cr_expect_eq(lock_app_test(mgr_of(1), &try, &found), 1);
    cr_expect_eq(found.pid, hold.pid);
    struct lock_app_request own = request(0, 1, NONE, 5, 7);
    cr_expect_eq(lock_app_test(mgr_of(0), &own, &found), 1, "type NONE: the own lock");
    own.first = own.last = 10;
    cr_expect_eq(lock_app_test(mgr_of(0), &own, &found), 0);
    cr_expect_eq(lock_app_release_file(mgr_of(0), &hold.ref, hold.file), 0);
    cr_expect_eq(set(1, try), 0);
    cr_expect_eq(lock_app_release_owner(mgr_of(1), &try.ref, try.owner, 0), 0);
    close_clean(start);
}

static int expect_older(void *arg, const struct lock_app_record *record)
{
    cr_expect_gt(record->ticket, *(uint64_t *)arg);
    *(uint64_t *)arg = record->ticket;
    return 0;
}

/* Goal: the list is in the order of age, and a node that is gone is -ESTALE. */
Test(lock_app_death, list_and_stale)
{
    uint64_t last = 0;
    open_members(2);
    unsigned start = free_count();
    for (unsigned i = 0; i < 300; i++)
        cr_assert_eq(set(i % 2, request(i % 7, i, READ, i, i)), 0);
    cr_expect_eq(listed(), 300);
    cr_expect_eq(lock_app_list(fixture.member[1].seg, expect_older, &last), 0);
    struct lock_app_request nowhere = request(0, 1, READ, 0, 0);
    nowhere.ref.words = NULL;
    cr_expect_eq(set(0, nowhere), -ESTALE);
    for (unsigned i = 0; i < 300; i++) {
        struct lock_ref ref = fixture_ref(i % 7);
        cr_expect_geq(lock_app_release_file(mgr_of(i % 2), &ref, 200 + i), 0);
    }
    close_clean(start);
}
