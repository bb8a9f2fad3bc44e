/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of lock_write.c: exclusion, sets, hand-over, owners that die or are fenced. */
#include "lock_fixture.h"

TestSuite(lock_write, .fini = fixture_remove, .timeout = 120);

/* ---- exclusion ---- */
enum { MEMBERS = 4, THREADS = 2, ROUNDS = 12500 };

struct counting {
    struct fixture_member *me;
    uint64_t               seed;
    pthread_t              thread;
};
static struct {
    unsigned long value; /* plain: ThreadSanitizer sees who is there at the same time */
    uint64_t      inside;
} counter[FIXTURE_INODES];

static void count_up(unsigned inode, uint64_t who)
{
    if (counter[inode].inside)
        fixture_wrong("inode %u: two at once", inode);
    counter[inode].inside = who;
    counter[inode].value++;
    if (counter[inode].value % 16 == 0)
        sched_yield(); /* let the others find it held */
    if (counter[inode].inside != who)
        fixture_wrong("inode %u: somebody came in", inode);
    counter[inode].inside = 0;
}

static void *count_alone(void *arg)
{
    struct counting *c = arg;
    struct lock_ref  ref = fixture_ref(0);
    for (unsigned i = 0; i < ROUNDS / FIXTURE_SLOW; i++) {
        if (lock_write_acquire(c->me->mgr, &ref, 0, NULL, NULL) != 0)
            fixture_wrong("not acquired");
        if (!lock_write_held(c->me->mgr, ref.words))
            fixture_wrong("not held");
        count_up(0, (uintptr_t)c);
        lock_write_release(c->me->mgr, &ref);
    }
    return NULL;
}

static void run_counting(void *(*run)(void *), uint64_t seed)
{
    struct counting c[MEMBERS * THREADS];
    for (unsigned i = 0; i < MEMBERS * THREADS; i++) {
        c[i] = (struct counting){.me = &fixture.member[i % MEMBERS], .seed = seed * 31 + i + 1};
        cr_assert_eq(pthread_create(&c[i].thread, NULL, run, &c[i]), 0);
    }
    for (unsigned i = 0; i < MEMBERS * THREADS; i++)
        pthread_join(c[i].thread, NULL);
}

/* Goal:   one at a time, whether threads of one member or of several.
 * Method: 4 members with 2 threads each count up a plain variable 100,000 times in all. */
Test(lock_write, excludes_members_and_threads)
{
    fixture_open();
    for (unsigned n = 1; n < MEMBERS; n++)
        fixture_join(n);
    run_counting(count_alone, 0);
    cr_assert_eq(counter[0].value, (unsigned long)MEMBERS * THREADS * (ROUNDS / FIXTURE_SLOW));
    fixture_check(true);
    fixture_close();
}

enum { SET_ROUNDS = 2000 };
static _Atomic unsigned long set_total[FIXTURE_INODES];

static void *count_sets(void *arg)
{
    struct counting *c = arg;
    for (unsigned i = 0; i < SET_ROUNDS / FIXTURE_SLOW; i++) {
        struct lock_ref refs[LOCK_SET_MAX];
        unsigned        count = 1 + (unsigned)(fixture_random(&c->seed) % LOCK_SET_MAX);
        uint64_t        named = 0;
        for (unsigned n = 0; n < count; n++) {
            unsigned inode = (unsigned)(fixture_random(&c->seed) % (FIXTURE_INODES + 2));
            refs[n] = inode < FIXTURE_INODES ? fixture_ref(inode) : (struct lock_ref){0};
            named |= inode < FIXTURE_INODES ? 1ull << inode : 0;
        }
        if (lock_write_acquire_set(c->me->mgr, refs, count, NULL, NULL) != 0)
            fixture_wrong("set not acquired");
        uint64_t held = 0;
        for (unsigned n = 0; n < count; n++) {
            if (!refs[n].id)
                continue;
            unsigned inode = (uint32_t)refs[n].id - 1;
            if (held >> inode & 1)
                fixture_wrong("inode %u is named twice after the acquire", inode);
            held |= 1ull << inode;
            count_up(inode, (uintptr_t)c);
            atomic_fetch_add(&set_total[inode], 1);
        }
        if (held != named)
            fixture_wrong("held %#llx, wanted %#llx", (unsigned long long)held, (unsigned long long)named);
        lock_write_release_set(c->me->mgr, refs, count);
    }
    return NULL;
}

/* Goal:   sets with doubles, nothing (id 0) and opposite orders never deadlock, and each inode is locked once.
 * Method: 8 threads of 4 members take random sets of up to 6 out of 8 inodes; the time limit is the deadlock. */
Test(lock_write, sets_never_deadlock)
{
    uint64_t seed = (uint64_t)time(NULL);
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    fixture_open();
    for (unsigned n = 1; n < MEMBERS; n++)
        fixture_join(n);
    run_counting(count_sets, seed);
    for (unsigned i = 0; i < FIXTURE_INODES; i++)
        cr_expect_eq(counter[i].value, atomic_load(&set_total[i]), "inode %u, seed %llu", i, (unsigned long long)seed);
    fixture_check(true);
    fixture_close();
}

static bool stop_now(void *arg)
{
    (void)arg;
    return true;
}

/* Goal:   a set that cannot be had is given back whole: held by another and stopped; two lives of one record; no words.
 * Method: member 1 holds inode 2; member 0 asks for 1, 2, 3 and is stopped. Then the other two. */
Test(lock_write, set_is_all_or_none)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        held = fixture_ref(2);
    struct lock_ref        refs[3] = {fixture_ref(3), fixture_ref(1), fixture_ref(2)};

    cr_assert_eq(lock_write_acquire(b->mgr, &held, 0, NULL, NULL), 0);
    cr_assert_eq(lock_write_acquire_set(a->mgr, refs, 3, stop_now, NULL), -EINTR);
    for (unsigned i = 1; i <= 3; i += 2)
        cr_assert_eq(atomic_load(&fixture_ref(i).words->owner), 0, "inode %u is still held", i);
    lock_write_release(b->mgr, &held);

    struct lock_ref lives[3] = {fixture_ref(1), fixture_ref(4), fixture_ref(1)};
    lives[0].id += 1ull << 32;
    cr_assert_eq(lock_write_acquire_set(a->mgr, lives, 3, NULL, NULL), -ESTALE);
    struct lock_ref gone[2] = {fixture_ref(0), {.id = 5}};
    cr_assert_eq(lock_write_acquire_set(a->mgr, gone, 2, NULL, NULL), -ESTALE);
    fixture_check(true);
    fixture_close();
}

/* ---- not waiting ---- */

/* Goal:   LOCK_TRY answers -EBUSY whoever holds the lock, also another thread's of the same member, and takes a free one. */
Test(lock_write, try_does_not_wait)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);

    cr_assert_eq(lock_write_acquire(a->mgr, &ref, LOCK_TRY, NULL, NULL), 0);
    cr_assert_eq(fixture_phase(ref.words), LOCK_RECALLING);
    cr_assert(lock_write_held(a->mgr, ref.words));
    cr_assert_not(lock_write_held(b->mgr, ref.words));
    cr_assert_eq(lock_write_acquire(a->mgr, &ref, LOCK_TRY, NULL, NULL), -EBUSY);
    cr_assert_eq(lock_write_acquire(b->mgr, &ref, LOCK_TRY, NULL, NULL), -EBUSY);
    lock_write_release(a->mgr, &ref);
    cr_assert_eq(lock_write_acquire(b->mgr, &ref, LOCK_TRY, NULL, NULL), 0);
    lock_write_release(b->mgr, &ref);
    fixture_check(true);
    fixture_close();
}

/* Goal:   LOCK_MAY_SLIP ends a wait with -EDEADLK exactly when the owner, whoever it is, is RECALLING and this member owes.
 * Method: every combination of owner, phase and owed bit by hand; other waits are ended by `stop`. */
Test(lock_write, slips_exactly_when_owing)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    const unsigned         phases[] = {LOCK_RECALLING, LOCK_WRITING, LOCK_GRANTED};

    for (unsigned i = 0; i < 12; i++) {
        unsigned phase = phases[i % 3];
        bool     owes = i / 3 % 2, is_own = i / 6;
        if (is_own && phase == LOCK_GRANTED)
            continue; /* it would just take it */
        struct fixture_member *owner = is_own ? b : a;
        atomic_store(&ref.words->owner, lock_own_word(owner->mgr, phase));
        atomic_store(&ref.words->owed, owes ? b->bit : a->bit);
        int want = phase == LOCK_RECALLING && owes ? -EDEADLK : -EINTR;
        cr_expect_eq(lock_write_acquire(b->mgr, &ref, LOCK_MAY_SLIP, stop_now, NULL), want, "phase %u, owes %d, own %d", phase, owes, is_own);
        cr_expect_eq(lock_write_acquire(b->mgr, &ref, 0, stop_now, NULL), -EINTR, "slips though it may not");
        cr_expect_eq(atomic_load(&ref.words->owner), lock_own_word(owner->mgr, phase), "a wait that was stopped has moved the owner");
    }
    atomic_store(&ref.words->owner, 0);
    atomic_store(&ref.words->owed, 0);
    fixture_close();
}

/* ---- hand-over ---- */
struct waiter {
    struct fixture_member *me;
    pthread_t              thread;
    _Atomic bool           acquired, go, stop;
    _Atomic int            result;
};

static bool waiter_stop(void *arg)
{
    struct waiter *w = arg;
    return atomic_load(&w->stop);
}

static void *wait_for_lock(void *arg)
{
    struct waiter  *w = arg;
    struct lock_ref ref = fixture_ref(0);
    int             result = lock_write_acquire(w->me->mgr, &ref, 0, waiter_stop, w);
    atomic_store(&w->result, result);
    atomic_store(&w->acquired, true);
    if (result)
        return NULL;
    fixture_until(atomic_load(&w->go));
    lock_write_release(w->me->mgr, &ref);
    return NULL;
}

static void waiter_start(struct waiter *w, struct fixture_member *me)
{
    memset(w, 0, sizeof *w);
    w->me = me;
    cr_assert_eq(pthread_create(&w->thread, NULL, wait_for_lock, w), 0);
}

/* Goal:   a starving member is handed the lock: who releases it cannot take it again before that one has had it.
 * Method: member 1 waits until it starves; member 0 releases and tries at once. */
Test(lock_write, starving_member_is_handed_the_lock)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct waiter          w;

    cr_assert_eq(lock_write_acquire(a->mgr, &ref, 0, NULL, NULL), 0);
    waiter_start(&w, b);
    fixture_until(atomic_load(&ref.words->starving) == b->bit);
    lock_write_release(a->mgr, &ref);
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_eq(lock_write_acquire(a->mgr, &ref, LOCK_TRY, NULL, NULL), -EBUSY);
    fixture_until(atomic_load(&w.acquired));
    cr_assert_eq(seg_counter_read(a->seg, a->slot, SEG_COUNTER_lock_handoffs), 1);
    cr_assert(lock_write_held(b->mgr, ref.words));
    atomic_store(&w.go, true);
    pthread_join(w.thread, NULL);
    cr_assert_eq(atomic_load(&w.result), 0);
    cr_assert_eq(atomic_load(&ref.words->owner), 0);
    fixture_check(true);
    fixture_close();
}

/* Goal:   a member that starved and has the lock, or gave up, is not handed it again: nobody would take it up.
 * Method: as above, with the lock taken from free after the starving bit was set, and with a waiter that is stopped. */
Test(lock_write, nothing_is_handed_to_nobody)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct waiter          w;

    cr_assert_eq(lock_write_acquire(a->mgr, &ref, 0, NULL, NULL), 0);
    waiter_start(&w, b);
    fixture_until(atomic_load(&ref.words->starving) == b->bit);
    atomic_store(&ref.words->owner, 0); /* free, as by a release that looked at the bit a moment too early */
    lock_wake(a->mgr, &ref);
    lock_rank_pop(LOCK_RANK_INODE_WRITE);
    fixture_until(atomic_load(&w.acquired));
    atomic_store(&w.go, true);
    pthread_join(w.thread, NULL);
    cr_expect_eq(atomic_load(&ref.words->owner), 0, "handed over to nobody: %#llx", (unsigned long long)atomic_load(&ref.words->owner));
    cr_expect_eq(atomic_load(&ref.words->starving), 0);

    atomic_store(&ref.words->owner, 0);
    cr_assert_eq(lock_write_acquire(a->mgr, &ref, 0, NULL, NULL), 0);
    waiter_start(&w, b);
    fixture_until(atomic_load(&ref.words->starving) == b->bit);
    atomic_store(&w.stop, true);
    pthread_join(w.thread, NULL);
    cr_assert_eq(atomic_load(&w.result), -EINTR);
    lock_write_release(a->mgr, &ref);
    cr_expect_eq(atomic_load(&ref.words->owner), 0, "handed over to one that has given up");
    cr_expect_eq(atomic_load(&ref.words->starving), 0);
    fixture_close();
}

/* Goal:   one that gives up when it has just been handed the lock gives it back at once.
 * Method: `stop` hands the lock over, by hand, and ends the wait. */
static bool stop_and_grant(void *arg)
{
    struct fixture_member *me = arg;
    atomic_store(&fixture_ref(0).words->owner, lock_own_word(me->mgr, LOCK_GRANTED));
    return true;
}

Test(lock_write, grant_to_one_that_gives_up)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);

    atomic_store(&ref.words->owner, lock_own_word(a->mgr, LOCK_WRITING));
    cr_assert_eq(lock_write_acquire(b->mgr, &ref, 0, stop_and_grant, b), -EINTR);
    cr_assert_eq(atomic_load(&ref.words->owner), 0);
    fixture_close();
}

/* Goal:   a grant that nobody takes up is taken back, whether the grantee lives, is dead, or was never there; a fresh one is left alone.
 * Method: the word by hand; the waiter gets it in the end. LOCK_TRY does not take a fresh one. */
Test(lock_write, stale_grant_is_taken_back)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    uint64_t               word[] = {lock_own_word(b->mgr, LOCK_GRANTED), lock_word(b->slot, LOCK_GRANTED, 77), lock_word(63, LOCK_GRANTED, 1)};

    for (unsigned i = 0; i < 3; i++) {
        atomic_store(&ref.words->owner, word[i]);
        cr_assert_eq(lock_write_acquire(a->mgr, &ref, LOCK_TRY, NULL, NULL), -EBUSY);
        cr_assert_eq(lock_write_acquire(a->mgr, &ref, 0, NULL, NULL), 0);
        lock_write_release(a->mgr, &ref);
    }
    atomic_store(&ref.words->owner, word[0]);
    cr_assert_eq(lock_write_acquire(b->mgr, &ref, LOCK_TRY, NULL, NULL), 0); /* its own */
    lock_write_release(b->mgr, &ref);
    fixture_check(true);
    fixture_close();
}

/* ---- the dead and the fenced ---- */

/* A child that joins as member `n`, takes inode 0 and waits to be killed. */
static pid_t owner_child(unsigned n, unsigned phase)
{
    int  ready[2];
    char byte;
    cr_assert_eq(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        fixture_child();
        if (fixture_try_join(n)) {
            struct lock_ref ref = fixture_ref_of(n, 0);
            if (lock_write_acquire(fixture.member[n].mgr, &ref, 0, NULL, NULL) == 0) {
                atomic_store(&ref.words->owner, lock_own_word(fixture.member[n].mgr, phase));
                atomic_store(&ref.words->owed, 1); /* of member 0 */
                (void)!write(ready[1], "", 1);
            }
        }
        for (;;)
            pause();
    }
    close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1, "the child could not take the lock");
    close(ready[0]);
    return pid;
}

/* Goal:   an owner that dies, in either phase, is settled by whoever waits, who then gets the lock; the dead owes nothing any more.
 * Method: a forked member takes the lock and is killed; two members of ours ask for it. */
Test(lock_write, dead_owner_is_settled)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    const unsigned         phases[] = {LOCK_RECALLING, LOCK_WRITING, LOCK_GRANTED};

    for (unsigned i = 0; i < 3; i++) {
        pid_t pid = owner_child(2, phases[i]);
        cr_assert_eq(lock_word_slot(atomic_load(&ref.words->owner)), 2);
        struct waiter w;
        waiter_start(&w, b);
        atomic_store(&w.go, true);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        cr_assert_eq(lock_write_acquire(a->mgr, &ref, 0, NULL, NULL), 0);
        lock_write_release(a->mgr, &ref);
        pthread_join(w.thread, NULL);
        cr_assert_eq(atomic_load(&w.result), 0);
        if (phases[i] != LOCK_GRANTED) { /* one that was handed the lock is passed over without being settled */
            cr_expect_eq(seg_member_state(a->seg, 2, NULL), SEG_PARKED);
            cr_expect_eq(atomic_load(&ref.words->owed) & 1ull << 2, 0, "the dead owes nothing");
        }
        atomic_store(&ref.words->owed, 0);
    }
    fixture_check(true);
    fixture_close();
}

/* Goal:   a reader that waits for a writer which dies goes on. */
Test(lock_write, reader_of_a_dead_owner_goes_on)
{
    struct fixture_member *a = fixture_open();
    struct lock_ref        ref = fixture_ref(0);
    pid_t                  pid = owner_child(2, LOCK_WRITING);

    cr_assert_eq(lock_read_begin(a->mgr, ref.words), LOCK_READ_WAIT);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    cr_assert_eq(lock_read_wait(a->mgr, &ref, false, NULL, NULL), 0);
    cr_assert_eq(lock_read_begin(a->mgr, ref.words), LOCK_READ_GO);
    lock_recall_ack(a->mgr, &ref, lock_recall_round(ref.words)); /* what this member owed to it, if anything */
    fixture_check(true);
    fixture_close();
}

/* Goal:   a fenced member takes nothing and, as its change may be half done, releases nothing: that is for recovery.
 * Method: member 1 holds inode 0 in WRITING and is fenced; its release leaves the word; member 0's wait has it settled. */
Test(lock_write, fenced_member_takes_and_releases_nothing)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0), other = fixture_ref(1);
    struct lock_recall     recall = {.ref = ref, .kind = WORK_RECALL_DATA};

    cr_assert_eq(lock_write_acquire(b->mgr, &ref, 0, NULL, NULL), 0);
    cr_assert_eq(lock_recall_all(b->mgr, &recall, 1, 0), 0);
    uint64_t word = atomic_load(&ref.words->owner);
    cr_assert(seg_member_fence(a->seg, b->slot, seg_self_incarnation(b->seg)));
    lock_write_release(b->mgr, &ref);
    cr_assert_eq(atomic_load(&ref.words->owner), word, "recovery must drop what was written by half first");
    cr_assert_eq(lock_write_acquire(b->mgr, &other, 0, NULL, NULL), -EIO);
    cr_assert_eq(atomic_load(&other.words->owner), 0);
    cr_assert_eq(lock_write_acquire(b->mgr, &ref, 0, NULL, NULL), -EIO);
    cr_assert_eq(lock_write_acquire(a->mgr, &ref, 0, NULL, NULL), 0);
    cr_assert_geq(atomic_load(&a->settled), 1u);
    lock_write_release(a->mgr, &ref);
    fixture_check(true);
    fixture_close();
}

/* Goal:   a word that makes no sense ends the wait with -EUCLEAN, a writer's and a reader's, instead of hanging for ever. */
Test(lock_write, nonsense_is_answered)
{
    struct fixture_member *a = fixture_open();
    struct lock_ref        ref = fixture_ref(0);
    const uint64_t         words[] = {lock_word(64, LOCK_WRITING, 1), lock_word(3, 9, 1), lock_word(3, LOCK_IDLE, 1), 1ull << 40};

    for (unsigned i = 0; i < 4; i++) {
        atomic_store(&ref.words->owner, words[i]);
        cr_expect_eq(lock_write_acquire(a->mgr, &ref, 0, NULL, NULL), -EUCLEAN, "%#llx", (unsigned long long)words[i]);
        cr_expect_eq(lock_read_wait(a->mgr, &ref, false, NULL, NULL), -EUCLEAN, "%#llx", (unsigned long long)words[i]);
    }
    atomic_store(&ref.words->owner, 0);
    fixture_close();
}
