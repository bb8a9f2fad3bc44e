/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of lock_mgr.c: the publish lock, recovery of one inode's words, and what the check finds. */
#include "lock_fixture.h"

TestSuite(lock_mgr, .fini = fixture_remove, .timeout = 60);

/* ---- publish ---- */
enum { PUBLISHERS = 4, PUBLISH_ROUNDS = 50000 };
static unsigned long published; /* plain */

static void *publish(void *arg)
{
    struct fixture_member *me = arg;
    struct lock_ref        ref = fixture_ref(0);
    for (unsigned i = 0; i < PUBLISH_ROUNDS / FIXTURE_SLOW; i++) {
        lock_publish_enter(me->mgr, ref.words);
        published++;
        lock_publish_exit(me->mgr, ref.words);
    }
    return NULL;
}

/* Goal:   one publisher at a time, of one member or of two. */
Test(lock_mgr, publish_excludes)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    pthread_t              thread[PUBLISHERS];
    for (unsigned i = 0; i < PUBLISHERS; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, publish, i % 2 ? b : a), 0);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(published, (unsigned long)PUBLISHERS * (PUBLISH_ROUNDS / FIXTURE_SLOW));
    fixture_check(true);
    fixture_close();
}

/* Goal:   a publisher that dies inside is settled by the next; one that was fenced does not free what another has now.
 * Method: a forked member is killed inside; then member 1 holds it, loses it to recovery, and exits after member 0 has entered. */
Test(lock_mgr, publisher_dies_or_is_fenced)
{
    struct fixture_member *a = fixture_open();
    struct lock_ref        ref = fixture_ref(0);
    int                    ready[2];
    char                   byte;

    cr_assert_eq(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        fixture_child();
        if (fixture_try_join(2)) {
            lock_publish_enter(fixture.member[2].mgr, fixture_ref_of(2, 0).words);
            (void)!write(ready[1], "", 1);
        }
        for (;;)
            pause();
    }
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    cr_assert_eq(seg_who_slot(atomic_load(&ref.words->publish)), 2);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    lock_publish_enter(a->mgr, ref.words);
    cr_assert_eq(atomic_load(&ref.words->publish), seg_self(a->seg));
    lock_publish_exit(a->mgr, ref.words);
    cr_assert_eq(seg_member_state(a->seg, 2, NULL), SEG_PARKED);

    struct fixture_member *b = fixture_join(1);
    lock_publish_enter(b->mgr, ref.words);
    lock_recover(a->mgr, &ref, b->slot);
    lock_rank_pop(LOCK_RANK_INODE_PUBLISH); /* member 0's is the same thread here */
    lock_publish_enter(a->mgr, ref.words);
    lock_rank_push(LOCK_RANK_INODE_PUBLISH);
    lock_publish_exit(b->mgr, ref.words);
    cr_assert_eq(atomic_load(&ref.words->publish), seg_self(a->seg), "freed by one that had lost it");
    lock_publish_exit(a->mgr, ref.words);
    fixture_check(true);
    fixture_close();
}

/* ---- recovery ---- */

static void words_fill(struct lock_shared *words, uint64_t bits, uint64_t owner, uint64_t publish)
{
    atomic_store(&words->interest, bits);
    atomic_store(&words->touched, bits);
    atomic_store(&words->owed, bits);
    atomic_store(&words->waiters, bits);
    atomic_store(&words->starving, bits);
    atomic_store(&words->owner, owner);
    atomic_store(&words->publish, publish);
}

/* Goal:   recovery takes from the dead all it has in the words, leaves the others theirs, says whether it was the owner, and may be repeated.
 * Method: bits of three members by hand; the dead one owns, then another does. */
Test(lock_mgr, recover_is_idempotent)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct lock_shared    *words = ref.words;
    uint64_t               dead = 1ull << 5, others = a->bit | b->bit;

    for (unsigned phase = LOCK_RECALLING; phase <= LOCK_GRANTED; phase++) {
        words_fill(words, others | dead, lock_word(5, phase, 9), seg_who_make(5, 9));
        for (unsigned i = 0; i < 3; i++) {
            cr_expect_eq(lock_recover(a->mgr, &ref, 5), i == 0);
            cr_expect_eq(atomic_load(&words->owner), 0);
            cr_expect_eq(atomic_load(&words->publish), 0);
            cr_expect_eq(atomic_load(&words->interest), others);
            cr_expect_eq(atomic_load(&words->touched), others);
            cr_expect_eq(atomic_load(&words->starving), others);
            cr_expect_eq(atomic_load(&words->waiters) & dead, 0);
            cr_expect_eq(atomic_load(&words->owed), others, "what the living owe to the dead owner, they answer");
        }
    }
    uint64_t owner = lock_own_word(b->mgr, LOCK_RECALLING);
    words_fill(words, others | dead, owner, seg_self(b->seg));
    for (unsigned i = 0; i < 3; i++) {
        cr_expect_not(lock_recover(a->mgr, &ref, 5));
        cr_expect_eq(atomic_load(&words->owner), owner);
        cr_expect_eq(atomic_load(&words->publish), seg_self(b->seg));
        cr_expect_eq(atomic_load(&words->owed), others, "what is owed to a living owner, but by the dead");
    }
    words_fill(words, 0, 0, 0);
    fixture_close();
}

struct recoverer {
    struct fixture_member *me;
    _Atomic bool           stop;
};

static void *recover_again_and_again(void *arg)
{
    struct recoverer *r = arg;
    struct lock_ref   ref = fixture_ref(0);
    while (!atomic_load(&r->stop))
        lock_recover(r->me->mgr, &ref, 5);
    return NULL;
}

/* Goal:   an owner that is only fenced may give its lock up while it is being recovered: what the next writer is owed then is not cleared.
 * Method: a thread recovers slot 5 without end; here slot 5 is the owner, gives up by itself, and the next writer sets owed bits at once. */
Test(lock_mgr, recover_leaves_the_next_owner_alone)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct recoverer       r = {.me = b};
    pthread_t              thread;
    uint64_t               dead = lock_word(5, LOCK_RECALLING, 9), mine = lock_own_word(a->mgr, LOCK_RECALLING);

    cr_assert_eq(pthread_create(&thread, NULL, recover_again_and_again, &r), 0);
    for (unsigned i = 0; i < 200000 / FIXTURE_SLOW; i++) {
        uint64_t free_word = 0, expected = dead;
        fixture_until(atomic_compare_exchange_strong(&ref.words->owner, &free_word, dead) || (free_word = 0));
        atomic_compare_exchange_strong(&ref.words->owner, &expected, 0);
        while (free_word = 0, !atomic_compare_exchange_strong(&ref.words->owner, &free_word, mine))
            ;
        atomic_fetch_or(&ref.words->owed, 1ull << 7);
        for (unsigned look = 0; look < 50; look++)
            cr_assert_eq(atomic_load(&ref.words->owed), 1ull << 7, "round %u: the next writer goes on without its acknowledgement", i);
        atomic_store(&ref.words->owed, 0);
        atomic_store(&ref.words->owner, 0);
    }
    atomic_store(&r.stop, true);
    pthread_join(thread, NULL);
    fixture_check(true);
    fixture_close();
}

/* ---- check ---- */

static int check(struct fixture_member *me, bool quiet)
{
    char err[200] = "";
    int  rc = lock_check(me->seg, fixture_ref(0).words, quiet, err, sizeof err);
    cr_expect_eq(rc != 0, err[0] != 0, "a line goes with an error, and only with one");
    return rc;
}

/* Goal:   the check passes what may be and names what may not.
 * Method: one word at a time by hand, on a live segment and on a quiet one. */
Test(lock_mgr, check_finds_broken_words)
{
    struct fixture_member *a = fixture_open();
    struct lock_shared    *words = fixture_ref(0).words;
    const struct {
        uint64_t owner, publish, interest, owed;
        int      live, quiet;
    } cases[] = {
        {0, 0, 0, 0, 0, 0},
        {lock_own_word(a->mgr, LOCK_RECALLING), 0, 0, 0, 0, -EUCLEAN},
        {lock_own_word(a->mgr, LOCK_WRITING), 0, 0, 0, 0, -EUCLEAN},
        {lock_own_word(a->mgr, LOCK_IDLE), 0, 0, 0, -EUCLEAN, -EUCLEAN},
        {lock_own_word(a->mgr, LOCK_GRANTED + 1), 0, 0, 0, -EUCLEAN, -EUCLEAN},
        {lock_word(a->slot, LOCK_WRITING, 1000), 0, 0, 0, -EUCLEAN, -EUCLEAN},
        {lock_word(9, LOCK_WRITING, 1), 0, 0, 0, -EUCLEAN, -EUCLEAN},
        {lock_word(64, LOCK_WRITING, 1), 0, 0, 0, -EUCLEAN, -EUCLEAN},
        {1ull << 32, 0, 0, 0, -EUCLEAN, -EUCLEAN},
        {0, seg_self(a->seg), 0, 0, 0, -EUCLEAN},
        {0, seg_who_make(9, 1), 0, 0, -EUCLEAN, -EUCLEAN},
        {0, UINT64_MAX, 0, 0, -EUCLEAN, -EUCLEAN},
        {0, 0, a->bit, 0, 0, 0},
        {0, 0, a->bit << 1, 0, -EUCLEAN, -EUCLEAN},
        {0, 0, 0, a->bit, 0, -EUCLEAN},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        words_fill(words, 0, cases[i].owner, cases[i].publish);
        atomic_store(&words->interest, cases[i].interest);
        atomic_store(&words->owed, cases[i].owed);
        cr_expect_eq(check(a, false), cases[i].live, "case %u, live", i);
        cr_expect_eq(check(a, true), cases[i].quiet, "case %u, quiet", i);
    }
    words_fill(words, 0, 0, 0);
    fixture_check(true);
    fixture_close();
}
