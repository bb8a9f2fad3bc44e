/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of lock_read.c: who may answer, what the bits say afterwards, and how a waiting reader goes on. */
#include "lock_fixture.h"

TestSuite(lock_read, .fini = fixture_remove, .timeout = 60);

/* Goal:   a reader answers when nobody owns the lock, its own member does, it is only granted, or the owner is RECALLING and this member owes;
 *         else it waits, and has not taken an interest. A peek says the same and never takes one.
 * Method: every owner, phase and owed bit by hand. */
Test(lock_read, answers_when_it_may)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_shared    *words = fixture_ref(0).words;

    for (unsigned phase = LOCK_IDLE; phase <= LOCK_GRANTED; phase++) {
        for (unsigned i = 0; i < 8; i++) {
            bool owes = i & 1, is_own = i & 2, had_bits = i & 4;
            atomic_store(&words->owner, phase == LOCK_IDLE ? 0 : lock_own_word(is_own ? b->mgr : a->mgr, phase));
            atomic_store(&words->owed, owes ? b->bit : a->bit);
            atomic_store(&words->interest, had_bits ? b->bit : 0);
            atomic_store(&words->touched, had_bits ? b->bit : 0);
            bool           may = phase == LOCK_IDLE || phase == LOCK_GRANTED || is_own || (phase == LOCK_RECALLING && owes);
            enum lock_read want = may ? LOCK_READ_GO : LOCK_READ_WAIT;

            cr_expect_eq(lock_read_peek(b->mgr, words), want, "phase %u, case %u", phase, i);
            cr_expect_eq(atomic_load(&words->interest), had_bits ? b->bit : 0, "a peek takes no interest");
            cr_expect_eq(lock_read_begin(b->mgr, words), want, "phase %u, case %u", phase, i);
            cr_expect_eq(atomic_load(&words->interest), may || had_bits ? b->bit : 0, "phase %u, case %u", phase, i);
            cr_expect_eq(atomic_load(&words->touched), may || had_bits ? b->bit : 0, "phase %u, case %u", phase, i);
        }
    }
    atomic_store(&words->owner, 0);
    atomic_store(&words->owed, 0);
    lock_interest_drop(a->mgr, words);
    cr_assert_eq(atomic_load(&words->interest), b->bit); /* not member 0's to drop */
    atomic_store(&words->interest, 0);                   /* one of the two alone: drops it, too; and a read sets both again */
    lock_interest_drop(b->mgr, words);
    cr_assert_eq(atomic_load(&words->touched), 0);
    for (unsigned i = 0; i < 2; i++) {
        atomic_store(i ? &words->interest : &words->touched, b->bit);
        cr_assert_eq(lock_read_begin(b->mgr, words), LOCK_READ_GO);
        cr_assert_eq(atomic_load(&words->interest), b->bit);
        cr_assert_eq(atomic_load(&words->touched), b->bit);
        lock_interest_drop(b->mgr, words);
        cr_assert_eq(atomic_load(&words->interest) | atomic_load(&words->touched), 0);
    }
    fixture_check(true);
    fixture_close();
}

static bool says_stuck(void *arg)
{
    return *(bool *)arg;
}

static bool stops_after_a_while(void *arg)
{
    return ++*(unsigned *)arg > 10;
}

/* Goal:   while a recall of another inode is stuck in the own kernel, a reader of what somebody is RECALLING is answered although nothing is owed, and has set its bits, so
 *         that the writer finds them; of what is being WRITING it is not, and no more when the recall is not stuck any longer.
 * Method: owner and phase by hand; a stuck() that says what it is told. */
Test(lock_read, reader_is_answered_while_a_recall_is_stuck)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    bool                   stuck = false;
    unsigned               looks = 0;

    lock_stuck_set(b->mgr, says_stuck, &stuck);
    atomic_store(&ref.words->owner, lock_own_word(a->mgr, LOCK_RECALLING));
    cr_assert_eq(lock_read_wait(b->mgr, &ref, false, stops_after_a_while, &looks), -EINTR);
    cr_assert_eq(lock_read_begin(b->mgr, ref.words), LOCK_READ_WAIT);
    stuck = true;
    cr_assert_eq(lock_read_wait(b->mgr, &ref, false, NULL, NULL), 0);
    cr_assert_eq(lock_read_begin(b->mgr, ref.words), LOCK_READ_GO);
    cr_assert_eq(atomic_load(&ref.words->interest), b->bit);
    cr_assert_eq(atomic_load(&ref.words->touched), b->bit);
    cr_assert_eq(lock_read_begin_page(b->mgr, ref.words), LOCK_READ_WAIT, "pages wait all the same");
    atomic_store(&ref.words->owner, lock_own_word(a->mgr, LOCK_WRITING));
    cr_assert_eq(lock_read_begin(b->mgr, ref.words), LOCK_READ_WAIT);
    stuck = false;
    looks = 0;
    atomic_store(&ref.words->owner, lock_own_word(a->mgr, LOCK_RECALLING));
    while (lock_read_peek(b->mgr, ref.words) == LOCK_READ_GO)
        fixture_nap();
    cr_assert_eq(lock_read_wait(b->mgr, &ref, false, stops_after_a_while, &looks), -EINTR);
    atomic_store(&ref.words->owner, 0);
    lock_stuck_set(b->mgr, NULL, NULL);
    fixture_close();
}

/* Goal:   a READ of pages answers only when nobody recalls or writes, the own member included and whatever it owes; while it waits it takes no interest.
 * Method: every owner, phase and owed bit by hand. */
Test(lock_read, pages_wait_for_every_owner)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_shared    *words = fixture_ref(0).words;

    for (unsigned phase = LOCK_IDLE; phase <= LOCK_GRANTED; phase++) {
        for (unsigned i = 0; i < 16; i++) {
            bool owes = i & 1, is_own = i & 2;
            atomic_store(&words->owner, phase == LOCK_IDLE ? 0 : lock_own_word(is_own ? b->mgr : a->mgr, phase));
            atomic_store(&words->owed, owes ? b->bit : 0);
            atomic_store(&words->interest, a->bit | (i & 4 ? b->bit : 0));
            atomic_store(&words->touched, a->bit | (i & 8 ? b->bit : 0));
            bool may = phase == LOCK_IDLE || phase == LOCK_GRANTED;

            cr_expect_eq(lock_read_begin_page(b->mgr, words), may ? LOCK_READ_GO : LOCK_READ_WAIT, "phase %u, case %u", phase, i);
            cr_expect_eq(atomic_load(&words->interest), a->bit | (may || i & 4 ? b->bit : 0), "phase %u, case %u", phase, i);
            cr_expect_eq(atomic_load(&words->touched), a->bit | (may || i & 8 ? b->bit : 0), "phase %u, case %u", phase, i);
        }
    }
    fixture_close();
}

/* Goal:   lock_interest_take sets the own two bits, whoever owns the lock, and nothing else.
 * Method: each combination of the bits before, with an owner and without. */
Test(lock_read, interest_is_taken_whoever_owns)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_shared    *words = fixture_ref(0).words;

    for (unsigned i = 0; i < 12; i++) {
        uint64_t owner = i / 4 == 0 ? 0 : lock_own_word(i / 4 == 1 ? a->mgr : b->mgr, i / 4 == 1 ? LOCK_WRITING : LOCK_RECALLING);
        atomic_store(&words->owner, owner);
        atomic_store(&words->owed, a->bit);
        atomic_store(&words->interest, a->bit | (i & 1 ? b->bit : 0));
        atomic_store(&words->touched, i & 2 ? b->bit : 0);
        lock_interest_take(b->mgr, words);
        cr_expect_eq(atomic_load(&words->interest), a->bit | b->bit, "case %u", i);
        cr_expect_eq(atomic_load(&words->touched), b->bit, "case %u", i);
        cr_expect_eq(atomic_load(&words->owner), owner, "case %u", i);
        cr_expect_eq(atomic_load(&words->owed), a->bit, "case %u", i);
    }
    fixture_close();
}

/* Goal:   A1 clears touched, and interest when everything is dropped: PART never, ALL always, SHRINK if nothing was asked for since the last recall. Where the
 *         rest stays that was asked for, interest is set afterwards, even if a reader and the recall before have left touched alone.
 * Method: each scope, with and without a read in between, with and without interest; another member's bits stay. */
Test(lock_read, recalled_member_gives_up_interest)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    const struct {
        enum lock_scope scope;
        bool            touched, all;
    } cases[] = {{LOCK_SCOPE_PART, false, false},  {LOCK_SCOPE_PART, true, false}, {LOCK_SCOPE_SHRINK, false, true},
                 {LOCK_SCOPE_SHRINK, true, false}, {LOCK_SCOPE_ALL, false, true},  {LOCK_SCOPE_ALL, true, true}};

    for (unsigned n = 0; n < 2 * sizeof cases / sizeof cases[0]; n++) {
        unsigned i = n / 2;
        bool     had_interest = n % 2;
        atomic_store(&ref.words->interest, a->bit | (had_interest ? b->bit : 0));
        atomic_store(&ref.words->touched, a->bit | (cases[i].touched ? b->bit : 0));
        atomic_store(&ref.words->owed, b->bit);
        cr_expect_eq(lock_recall_begin(b->mgr, &ref, cases[i].scope), cases[i].all, "case %u", i);
        cr_expect_eq(atomic_load(&ref.words->interest), a->bit | (!cases[i].all && (had_interest || cases[i].touched) ? b->bit : 0), "case %u", n);
        cr_expect_eq(atomic_load(&ref.words->touched), a->bit, "case %u", i);
        cr_expect(lock_recall_owed(b->mgr, ref.words), "not acknowledged yet");
        cr_expect_not(lock_recall_owed(a->mgr, ref.words));
        lock_recall_ack(b->mgr, &ref, lock_recall_round(ref.words));
        cr_expect_eq(atomic_load(&ref.words->owed), 0);
    }
    cr_assert_eq(seg_counter_read(b->seg, b->slot, SEG_COUNTER_recalls_served), 12);
    atomic_store(&ref.words->interest, 0);
    atomic_store(&ref.words->touched, 0);
    fixture_close();
}

/* Goal:   a further recall in the same round (MORE) leaves on record what has been asked for since the first; the first does not.
 * Method: a read before each. */
Test(lock_read, further_part_keeps_what_was_asked_for)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    const enum lock_scope  scopes[] = {LOCK_SCOPE_PART, LOCK_SCOPE_MORE};

    for (unsigned i = 0; i < 2; i++) {
        atomic_store(&ref.words->interest, a->bit | b->bit);
        atomic_store(&ref.words->touched, b->bit);
        cr_expect_not(lock_recall_begin(b->mgr, &ref, scopes[i]));
        cr_expect_eq(atomic_load(&ref.words->touched), i ? b->bit : 0, "scope %u", i);
        cr_expect_eq(atomic_load(&ref.words->interest), a->bit | b->bit, "scope %u", i);
    }
    atomic_store(&ref.words->interest, 0);
    atomic_store(&ref.words->touched, 0);
    fixture_close();
}

/* ---- waiting ---- */
struct reader {
    struct fixture_member *me;
    bool                   page;
    pthread_t              thread;
    _Atomic bool           stop, done;
    _Atomic int            result;
};

static bool reader_stop(void *arg)
{
    return atomic_load(&((struct reader *)arg)->stop);
}

static void *read_run(void *arg)
{
    struct reader  *r = arg;
    struct lock_ref ref = fixture_ref(0);
    int             result = 0;
    while (result == 0 && (r->page ? lock_read_begin_page : lock_read_begin)(r->me->mgr, ref.words) == LOCK_READ_WAIT)
        result = lock_read_wait(r->me->mgr, &ref, r->page, reader_stop, r);
    atomic_store(&r->result, result);
    atomic_store(&r->done, true);
    return NULL;
}

static void reader_start(struct reader *r, struct fixture_member *me, bool page)
{
    memset(r, 0, sizeof *r);
    r->me = me;
    r->page = page;
    cr_assert_eq(pthread_create(&r->thread, NULL, read_run, r), 0);
}

static int reader_end(struct reader *r)
{
    pthread_join(r->thread, NULL);
    return atomic_load(&r->result);
}

/* Goal:   a member that owes is answered at once; one that has acknowledged waits, without a bit, until the release.
 * Method: a writer in a thread; here is the recalled member's dispatcher. */
Test(lock_read, waits_after_the_acknowledgement)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1), *c = fixture_join(2);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;
    struct reader          r;

    cr_assert_eq(lock_read_begin(b->mgr, ref.words), LOCK_READ_GO);
    cr_assert_eq(lock_read_begin(c->mgr, ref.words), LOCK_READ_GO); /* keeps the writer RECALLING when b has acknowledged */
    fixture_writer_start(&w, a, 1, 0);
    fixture_take(1);
    cr_assert_eq(lock_read_begin(b->mgr, ref.words), LOCK_READ_GO);
    lock_recall_begin(b->mgr, &ref, LOCK_SCOPE_ALL);
    lock_recall_ack(b->mgr, &ref, lock_recall_round(ref.words));
    cr_assert_eq(lock_read_begin(b->mgr, ref.words), LOCK_READ_WAIT, "the writer needs nothing more of it");
    cr_assert_eq((atomic_load(&ref.words->interest) | atomic_load(&ref.words->touched)) & b->bit, 0, "it would make the writer start over");
    reader_start(&r, b, false);
    fixture_take(2);
    lock_recall_begin(c->mgr, &ref, LOCK_SCOPE_ALL);
    lock_recall_ack(c->mgr, &ref, lock_recall_round(ref.words));
    fixture_until(atomic_load(&w.done));
    cr_assert_eq(fixture_phase(ref.words), LOCK_WRITING);
    cr_assert_eq(lock_read_begin(c->mgr, ref.words), LOCK_READ_WAIT);
    cr_assert_not(atomic_load(&r.done));
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(reader_end(&r), 0);
    cr_assert_eq(atomic_load(&ref.words->interest), b->bit);
    cr_assert_eq(seg_counter_read(a->seg, a->slot, SEG_COUNTER_recall_rounds), 1);
    fixture_check(true);
    fixture_close();
}

/* Goal:   the law: a reader that waits because its member owed nothing goes on, old data and all, when its member is recalled.
 * Method: the writer recalls member 2 first; the reader at member 1 waits with its bit in place, set by hand as by a reader at W2 and W4. */
Test(lock_read, waiting_reader_is_let_go_by_a_recall)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1), *c = fixture_join(2);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;
    struct reader          r;

    cr_assert_eq(lock_read_begin(c->mgr, ref.words), LOCK_READ_GO);
    fixture_writer_start(&w, a, 1, 0);
    fixture_take(2);
    reader_start(&r, b, false);
    fixture_until(atomic_load(&ref.words->waiters) & b->bit);
    cr_assert_not(atomic_load(&r.done));
    atomic_fetch_or(&ref.words->interest, b->bit);
    atomic_fetch_or(&ref.words->touched, b->bit);
    lock_recall_begin(c->mgr, &ref, LOCK_SCOPE_ALL);
    lock_recall_ack(c->mgr, &ref, lock_recall_round(ref.words));
    fixture_take(1); /* W4 has seen it */
    lock_recall_begin(b->mgr, &ref, LOCK_SCOPE_ALL);
    cr_assert_eq(reader_end(&r), 0); /* before the acknowledgement, which in a kernel waits for the reader's page */
    lock_recall_ack(b->mgr, &ref, lock_recall_round(ref.words));
    while (!atomic_load(&w.done)) { /* once more if that reader set its bit after A1 */
        struct work_item item;
        if (work_take(b->work, &item) == 1) {
            lock_recall_begin(b->mgr, &ref, LOCK_SCOPE_ALL);
            lock_recall_ack(b->mgr, &ref, lock_recall_round(ref.words));
        }
    }
    cr_assert_eq(atomic_load(&ref.words->touched), 0);
    cr_assert_eq(fixture_writer_end(&w), 0);
    fixture_check(true);
    fixture_close();
}

/* Goal:   a READ of pages waits from the moment the lock is taken until it is released, through the recall of its own member, and does not make the writer start over.
 * Method: member 1 owes; two of its READs wait, one that came before the recall and one that came after A1; a name is answered meanwhile. Then the
 *         writer's own member likewise. */
Test(lock_read, pages_wait_until_the_release)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;
    struct reader          r, late, own;

    cr_assert_eq(lock_read_begin_page(b->mgr, ref.words), LOCK_READ_GO);
    fixture_writer_start(&w, a, 1, 0);
    fixture_take(1);
    reader_start(&r, b, true);
    reader_start(&own, a, true);
    fixture_until((atomic_load(&ref.words->waiters) & (a->bit | b->bit)) == (a->bit | b->bit));
    cr_assert_eq(lock_read_begin(b->mgr, ref.words), LOCK_READ_GO, "what is no page gets the old state");
    lock_recall_begin(b->mgr, &ref, LOCK_SCOPE_PART);
    reader_start(&late, b, true);
    for (unsigned i = 0; i < 5 * LOCK_POLL_MS; i++) /* time to look again, woken by A1 and by polling */
        fixture_nap();
    cr_assert_not(atomic_load(&r.done) || atomic_load(&late.done) || atomic_load(&own.done));
    lock_recall_ack(b->mgr, &ref, lock_recall_round(ref.words));
    fixture_until(atomic_load(&w.done));
    for (unsigned i = 0; i < 5 * LOCK_POLL_MS; i++)
        fixture_nap();
    cr_assert_not(atomic_load(&r.done) || atomic_load(&late.done) || atomic_load(&own.done));
    cr_assert_eq(fixture_phase(ref.words), LOCK_WRITING);
    cr_assert_eq(atomic_load(&ref.words->touched), 0, "it would make the writer start over");
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(reader_end(&r), 0);
    cr_assert_eq(reader_end(&late), 0);
    cr_assert_eq(reader_end(&own), 0);
    cr_assert_eq(atomic_load(&ref.words->touched), a->bit | b->bit);
    cr_assert_eq(seg_counter_read(a->seg, a->slot, SEG_COUNTER_recall_rounds), 1);
    fixture_check(true);
    fixture_close();
}

/* Goal:   a waiting reader can be stopped, and ends with -EIO when its member is fenced. */
Test(lock_read, waiting_reader_can_be_ended)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct reader          r;

    atomic_store(&ref.words->owner, lock_own_word(a->mgr, LOCK_WRITING));
    reader_start(&r, b, false);
    fixture_until(atomic_load(&ref.words->waiters) & b->bit);
    atomic_store(&r.stop, true);
    cr_assert_eq(reader_end(&r), -EINTR);
    reader_start(&r, b, true);
    fixture_until(atomic_load(&ref.words->waiters) & b->bit);
    atomic_store(&r.stop, true);
    cr_assert_eq(reader_end(&r), -EINTR);
    reader_start(&r, b, false);
    cr_assert(seg_member_fence(a->seg, b->slot, seg_self_incarnation(b->seg)));
    cr_assert_eq(reader_end(&r), -EIO);
    atomic_store(&ref.words->owner, 0);
    fixture_close();
}
