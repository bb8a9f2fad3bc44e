/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tests of lock_recall.c: whom a writer asks, what it waits for, when it asks again, and what becomes of those who do not answer. The test's own thread is the
 * dispatcher of all members; the writer is a thread. What must not happen is looked for in the words, not in time.
 */
#include "lock_fixture.h"

TestSuite(lock_recall, .fini = fixture_remove, .timeout = 60);

static void answer(unsigned n, unsigned inode, enum lock_scope scope)
{
    struct lock_ref ref = fixture_ref(inode);
    lock_recall_begin(fixture.member[n].mgr, &ref, scope);
    lock_recall_ack(fixture.member[n].mgr, &ref, lock_recall_round(ref.words));
}

/* Of member 0, which holds the lock. */
static void *recall_run(void *recall)
{
    if (lock_recall_all(fixture.member[0].mgr, recall, 1, 0) != 0)
        fixture_wrong("recall failed");
    return NULL;
}

static void interest_take(unsigned n, unsigned inode)
{
    cr_assert_eq(lock_read_begin(fixture.member[n].mgr, fixture_ref(inode).words), LOCK_READ_GO);
}

static uint64_t counter_of(unsigned n, enum seg_counter counter)
{
    return seg_counter_read(fixture.member[0].seg, fixture.member[n].slot, counter);
}

/* Goal:   nobody is interested, or the own kernel only: nothing is sent and nothing waited for. */
Test(lock_recall, nobody_interested)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct lock_recall     recall[2] = {{.ref = ref, .kind = WORK_RECALL_DATA, .arg = 1}, {.kind = WORK_RECALL_NAMES}};

    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(lock_write_acquire(a->mgr, &ref, 0, NULL, NULL), 0);
        cr_assert_eq(lock_recall_all(a->mgr, recall, 2, 0), 0);
        cr_assert_eq(fixture_phase(ref.words), LOCK_WRITING);
        cr_assert_eq(lock_recall_all(a->mgr, recall, 17, 0), -EINVAL);
        lock_write_release(a->mgr, &ref);
        interest_take(0, 0);
    }
    cr_assert_eq(work_depth(a->work, b->slot) + work_depth(a->work, a->slot), 0u);
    cr_assert_eq(counter_of(0, SEG_COUNTER_recalls_sent) + counter_of(0, SEG_COUNTER_recall_rounds), 0);
    cr_assert_eq(atomic_load(&ref.words->interest), a->bit);
    fixture_check(true);
    fixture_close();
}

/* Goal:   each interested member finds the item in its inbox, and the writer stays RECALLING until all have acknowledged.
 * Method: two interested members, one that is not; they answer one after the other. */
Test(lock_recall, waits_for_every_acknowledgement)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1), *c = fixture_join(2), *d = fixture_join(3);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;

    interest_take(1, 0);
    interest_take(2, 0);
    fixture_writer_start(&w, a, 1, 0);
    struct work_item item = fixture_take(1);
    cr_assert_eq(item.kind, WORK_RECALL_DATA);
    cr_assert_eq(item.key, ref.id);
    cr_assert_eq(item.arg, 7ull << 32 | 1);
    cr_assert(lock_recall_owed(b->mgr, ref.words), "the bit is there before the item");
    fixture_take(2);
    cr_assert_eq(atomic_load(&ref.words->owed), b->bit | c->bit);
    answer(1, 0, LOCK_SCOPE_ALL);
    for (unsigned i = 0; i < 200; i++) {
        fixture_nap();
        cr_assert_eq(fixture_phase(ref.words), LOCK_RECALLING);
    }
    cr_assert_not(atomic_load(&w.done));
    answer(2, 0, LOCK_SCOPE_ALL);
    fixture_until(atomic_load(&w.done));
    cr_assert_eq(fixture_phase(ref.words), LOCK_WRITING);
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(work_depth(a->work, d->slot), 0u);
    cr_assert_eq(counter_of(0, SEG_COUNTER_recalls_sent), 2);
    cr_assert_eq(counter_of(0, SEG_COUNTER_recall_rounds), 1);
    cr_assert_eq(atomic_load(&ref.words->interest), 0);
    fixture_check(true);
    fixture_close();
}

/* Goal:   W4: whoever has asked for something between its A1 and WRITING is recalled again, and only that one; a member that keeps the rest of the inode
 *         keeps its interest and is asked by the next writer.
 * Method: member 1 reads between A1 and A3 (the look at W4 cannot tell it from a read after A3); member 2 does not. */
Test(lock_recall, asks_again_who_has_read_since)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;

    fixture_join(2);
    interest_take(1, 0);
    interest_take(2, 0);
    fixture_writer_start(&w, a, 1, 0);
    fixture_take(2);
    answer(2, 0, LOCK_SCOPE_PART);
    for (unsigned i = 0; i < 3; i++) {
        fixture_take(1);
        cr_assert_eq(fixture_phase(ref.words), LOCK_RECALLING);
        lock_recall_begin(b->mgr, &ref, LOCK_SCOPE_PART);
        if (i < 2)
            interest_take(1, 0);
        lock_recall_ack(b->mgr, &ref, lock_recall_round(ref.words));
    }
    fixture_until(atomic_load(&w.done));
    cr_assert_eq(atomic_load(&ref.words->touched), 0);
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(counter_of(0, SEG_COUNTER_recalls_sent), 4);
    cr_assert_eq(counter_of(0, SEG_COUNTER_recall_rounds), 3);

    fixture_writer_start(&w, a, 1, 0);
    fixture_take(1);
    fixture_take(2);
    answer(1, 0, LOCK_SCOPE_SHRINK);
    answer(2, 0, LOCK_SCOPE_SHRINK);
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(atomic_load(&ref.words->interest), 0, "asked for nothing since: all is dropped");
    fixture_check(true);
    fixture_close();
}

/* Goal:   an item that has outlived its recall answers nothing, whatever is owed by then.
 * Method: the round of a finished recall is kept and offered as the answer to the next one. */
Test(lock_recall, left_over_item_answers_nothing)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;

    interest_take(1, 0);
    fixture_writer_start(&w, a, 1, 0);
    fixture_take(1);
    uint32_t old_round = lock_recall_round(ref.words);
    answer(1, 0, LOCK_SCOPE_PART);
    cr_assert_eq(fixture_writer_end(&w), 0);

    interest_take(1, 0);
    fixture_writer_start(&w, a, 1, 0);
    fixture_take(1);
    cr_assert_neq(lock_recall_round(ref.words), old_round);
    lock_recall_ack(b->mgr, &ref, old_round);
    cr_assert(lock_recall_owed(b->mgr, ref.words), "answered by an item of an older recall");
    cr_assert_eq(fixture_phase(ref.words), LOCK_RECALLING);
    answer(1, 0, LOCK_SCOPE_PART);
    cr_assert_eq(fixture_writer_end(&w), 0);
    fixture_check(true);
    fixture_close();
}

/* Goal:   a member that has touched alone is asked as one that has interest: for what is named, and for everything when something has slipped.
 * Method: set the bit by hand, and the mark of what slipped. */
Test(lock_recall, touched_alone_is_asked)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;

    atomic_store(&ref.words->touched, b->bit);
    atomic_store(&ref.words->slipped, 1);
    fixture_writer_start(&w, a, 1, 0);
    cr_assert_eq(fixture_take(1).arg, 7ull << 32 | 1);
    lock_recall_begin(b->mgr, &ref, LOCK_SCOPE_ALL); /* leaves no interest, as when a reader comes between the two words */
    atomic_fetch_or(&ref.words->touched, b->bit);
    lock_recall_ack(b->mgr, &ref, lock_recall_round(ref.words));
    cr_assert_eq(fixture_take(1).arg, UINT32_MAX);
    answer(1, 0, LOCK_SCOPE_ALL);
    fixture_take(0);
    answer(0, 0, LOCK_SCOPE_ALL);
    fixture_until(atomic_load(&w.done));
    cr_assert_eq(fixture_writer_end(&w), 0);
    fixture_check(true);
    fixture_close();
}

/* Goal:   a second call under one lock is RECALLING again until it has its answers.
 * Method: two calls in a row, the second when a member has become interested: the phase is looked at when its item is there. */
Test(lock_recall, second_call_recalls_again)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct lock_recall     recall = {.ref = ref, .kind = WORK_RECALL_DATA, .arg = 1};
    pthread_t              thread;

    cr_assert_eq(lock_write_acquire(a->mgr, &ref, 0, NULL, NULL), 0);
    cr_assert_eq(lock_recall_all(a->mgr, &recall, 1, 0), 0);
    cr_assert_eq(fixture_phase(ref.words), LOCK_WRITING);
    lock_interest_take(b->mgr, ref.words);
    cr_assert_eq(pthread_create(&thread, NULL, recall_run, &recall), 0);
    fixture_take(1);
    cr_assert_eq(fixture_phase(ref.words), LOCK_RECALLING, "what slips past it is looked for");
    answer(1, 0, LOCK_SCOPE_PART);
    pthread_join(thread, NULL);
    cr_assert_eq(fixture_phase(ref.words), LOCK_WRITING);
    lock_write_release(a->mgr, &ref);
    fixture_check(true);
    fixture_close();
}

/* Goal:   recalls of one inode go one after another, each to the same members; those of different inodes together. `self` counts by position.
 * Method: two recalls of inode 0 and one of inode 1; the second of inode 0 also to the own kernel. Member 1 reads between the two. */
Test(lock_recall, one_after_another)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0), other = fixture_ref(1);
    struct fixture_writer  w = {.me = a, .count = 3, .self = 1u << 2};
    struct work_item       item;

    interest_take(0, 0);
    interest_take(1, 0);
    interest_take(1, 1);
    cr_assert_eq(lock_write_acquire(a->mgr, &other, 0, NULL, NULL), 0);
    lock_rank_pop(LOCK_RANK_INODE_WRITE); /* the thread that goes on with it never asks */
    w.recall[0] = (struct lock_recall){.ref = ref, .kind = WORK_RECALL_NAME, .arg = 10};
    w.recall[1] = (struct lock_recall){.ref = other, .kind = WORK_RECALL_DATA, .arg = 11};
    w.recall[2] = (struct lock_recall){.ref = ref, .kind = WORK_RECALL_NAME, .arg = 12};
    cr_assert_eq(pthread_create(&w.thread, NULL, fixture_write, &w), 0);
    item = fixture_take(1);
    cr_assert_eq(item.arg, 10u);
    item = fixture_take(1);
    cr_assert_eq(item.arg, 11u);
    answer(1, 1, LOCK_SCOPE_ALL);
    for (unsigned i = 0; i < 100; i++) {
        fixture_nap();
        cr_assert_eq(work_depth(a->work, b->slot), 0u, "the second goes out when the first is answered");
    }
    answer(1, 0, LOCK_SCOPE_ALL); /* no interest is left, yet the second comes */
    item = fixture_take(1);
    cr_assert_eq(item.arg, 12u);
    answer(1, 0, LOCK_SCOPE_ALL);
    item = fixture_take(0);
    cr_assert_eq(item.arg, 12u);
    answer(0, 0, LOCK_SCOPE_ALL);
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(work_depth(a->work, a->slot), 0u);
    cr_assert_eq(atomic_load(&ref.words->interest), a->bit, "the own kernel keeps what is written next");
    cr_assert_eq(fixture_phase(other.words), LOCK_WRITING);
    lock_rank_push(LOCK_RANK_INODE_WRITE);
    lock_write_release(a->mgr, &other);
    fixture_check(true);
    fixture_close();
}

/* Goal:   after write-back slipped by, everything of the inode is recalled from everyone, the own kernel included, before WRITING, and the own
 *         interest is there afterwards. A slip during that recall is noticed as well.
 * Method: slipped is set while the first recall is out, and once more while the second is. */
Test(lock_recall, slipped_recalls_everybody)
{
    struct fixture_member *a = fixture_open();
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;

    fixture_join(1);
    interest_take(0, 0);
    interest_take(1, 0);
    fixture_writer_start(&w, a, 1, 0);
    cr_assert_eq(fixture_take(1).arg, 7ull << 32 | 1);
    lock_slipped(fixture.member[1].mgr, ref.words);
    answer(1, 0, LOCK_SCOPE_PART);
    for (unsigned i = 0; i < 2; i++) {
        struct work_item mine = fixture_take(0), its = fixture_take(1);
        cr_assert_eq(mine.kind, WORK_RECALL_DATA);
        cr_assert_eq(mine.arg, UINT32_MAX);
        cr_assert_eq(its.arg, UINT32_MAX);
        cr_assert_eq(fixture_phase(ref.words), LOCK_RECALLING);
        cr_assert_eq(atomic_load(&ref.words->slipped), 0);
        if (i == 0)
            lock_slipped(fixture.member[1].mgr, ref.words);
        answer(0, 0, LOCK_SCOPE_ALL);
        if (i == 0)
            interest_take(1, 0); /* or it has nothing more to give */
        answer(1, 0, LOCK_SCOPE_PART);
    }
    fixture_until(atomic_load(&w.done));
    cr_assert_eq(fixture_phase(ref.words), LOCK_WRITING);
    cr_assert(atomic_load(&ref.words->interest) & a->bit);
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(counter_of(1, SEG_COUNTER_slipped_writes), 2);
    fixture_check(true);
    fixture_close();
}

/* ---- those who do not answer ---- */

/* Goal:   a member that dies while it owes is settled, and the write goes on.
 * Method: a forked member takes an interest and is killed when it owes. */
Test(lock_recall, dead_member_is_settled)
{
    struct fixture_member *a = fixture_open();
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;
    int                    ready[2];
    char                   byte;

    cr_assert_eq(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        fixture_child();
        if (fixture_try_join(2) && lock_read_begin(fixture.member[2].mgr, fixture_ref_of(2, 0).words) == LOCK_READ_GO)
            (void)!write(ready[1], "", 1);
        for (;;)
            pause();
    }
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    fixture_writer_start(&w, a, 1, 0);
    fixture_until(atomic_load(&ref.words->owed) == 1ull << 2);
    cr_assert_not(atomic_load(&w.done));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    fixture_until(atomic_load(&w.done));
    cr_assert_eq(atomic_load(&ref.words->interest), 0);
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(seg_member_state(a->seg, 2, NULL), SEG_PARKED);
    fixture_check(true);
    fixture_close();
}

static _Atomic bool callback_does_nothing;

static void dead_later(void *arg, seg_who who)
{
    if (!atomic_load(&callback_does_nothing))
        fixture_dead(arg, who);
}

/* Goal:   a member that lives and stays silent is fenced before the writer goes on, even if its settling takes longer; one that answers is not.
 * Method: member 1 does not answer; the dead callback hands the work on, so to speak, and returns. recall_timeout is short for the writer. */
Test(lock_recall, silent_member_is_fenced)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1), *c = fixture_join(2);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;

    lock_mgr_close(a->mgr);
    struct lock_config config = {.recall_timeout_ms = 300, .dead = dead_later, .dead_arg = a};
    cr_assert_eq(lock_mgr_open(a->seg, a->work, &config, &a->mgr), 0);
    atomic_store(&callback_does_nothing, true);
    interest_take(1, 0);
    interest_take(2, 0);
    fixture_writer_start(&w, a, 1, 0);
    fixture_take(2);
    answer(2, 0, LOCK_SCOPE_ALL);
    fixture_until(atomic_load(&w.done));
    cr_assert_not(seg_self_stands(b->seg), "the writer went on though a kernel may hold the old data");
    cr_assert(seg_self_stands(c->seg));
    cr_assert(seg_self_stands(a->seg));
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(atomic_load(&ref.words->interest), 0);
    cr_assert_eq(counter_of(0, SEG_COUNTER_fences), 1);

    interest_take(1, 0); /* what a fenced member sets does not hold up anybody */
    fixture_writer_start(&w, a, 1, 0);
    cr_assert_eq(fixture_writer_end(&w), 0);
    atomic_store(&callback_does_nothing, false);
    fixture_check(true);
    fixture_close();
}

/* Goal:   a member with a full inbox is waited for, and the recall is not lost.
 * Method: its inbox is filled before; then it takes everything. */
Test(lock_recall, full_inbox_is_waited_for)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct fixture_writer  w;
    struct work_item       item = {.kind = WORK_PING};

    interest_take(1, 0);
    while (work_post(a->work, b->slot, &item, false) == 0)
        ;
    fixture_writer_start(&w, a, 1, 0);
    fixture_until(counter_of(0, SEG_COUNTER_inbox_full) > 3);
    do
        item = fixture_take(1);
    while (item.kind == WORK_PING);
    cr_assert_eq(item.kind, WORK_RECALL_DATA);
    answer(1, 0, LOCK_SCOPE_ALL);
    cr_assert_eq(fixture_writer_end(&w), 0);
    fixture_check(true);
    fixture_close();
}

/* Goal:   an item that got lost is sent again. */
Test(lock_recall, lost_item_is_sent_again)
{
    struct fixture_member *a = fixture_open();
    struct fixture_writer  w;

    fixture_join(1);
    interest_take(1, 0);
    fixture_writer_start(&w, a, 1, 0);
    fixture_take(1);
    cr_assert_eq(fixture_take(1).kind, WORK_RECALL_DATA);
    answer(1, 0, LOCK_SCOPE_ALL);
    cr_assert_eq(fixture_writer_end(&w), 0);
    fixture_check(true);
    fixture_close();
}

/* Goal:   interest that is left over from a life that is over holds nobody up: slot free, parked, or fenced and alive. */
Test(lock_recall, leftovers_hold_nobody_up)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;

    fixture_join(2);
    fixture_leave(2);
    cr_assert(seg_member_fence(a->seg, b->slot, seg_self_incarnation(b->seg)));
    atomic_store(&ref.words->interest, 1ull << 40 | 1ull << 2 | b->bit);
    atomic_store(&ref.words->touched, 1ull << 41 | 1ull << 2);
    fixture_writer_start(&w, a, 1, 0);
    cr_assert_eq(fixture_writer_end(&w), 0);
    cr_assert_eq(atomic_load(&ref.words->interest) | atomic_load(&ref.words->touched), 0);
    fixture_check(true);
    fixture_close();
}

/* Goal:   a writer that is fenced while it waits for acknowledgements ends with -EIO and has not changed anything.
 * Method: member 1 owes and never answers; member 0 is fenced by it. */
Test(lock_recall, fenced_writer_gives_up)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;

    interest_take(1, 0);
    fixture_writer_start(&w, a, 1, 0);
    fixture_take(1);
    cr_assert(seg_member_fence(b->seg, a->slot, seg_self_incarnation(a->seg)));
    cr_assert_eq(fixture_writer_end(&w), -EIO);
    cr_assert_eq(fixture_phase(ref.words), LOCK_RECALLING);
    cr_assert_eq(lock_write_acquire(b->mgr, &ref, 0, NULL, NULL), 0); /* has it settled */
    cr_assert_eq(atomic_load(&ref.words->owed), b->bit, "what the living owe they answer themselves");
    lock_recall_ack(b->mgr, &ref, lock_recall_round(ref.words));
    lock_write_release(b->mgr, &ref);
    fixture_check(true);
    fixture_close();
}

/* Goal:   what a member still owes to an owner that has died is waited for before the next recall goes out, and does not count for that.
 * Method: owed bit and round as the dead left them; a writer that has nobody to recall; the answer comes later. */
Test(lock_recall, next_owner_waits_for_what_was_owed)
{
    struct fixture_member *a = fixture_open(), *b = fixture_join(1);
    struct lock_ref        ref = fixture_ref(0);
    struct fixture_writer  w;

    atomic_store(&ref.words->round, 7);
    atomic_store(&ref.words->owed, b->bit);
    fixture_writer_start(&w, a, 1, 0);
    fixture_until(fixture_phase(ref.words) == LOCK_RECALLING);
    for (unsigned i = 0; i < 20; i++) {
        cr_assert_not(atomic_load(&w.done), "went on without the answer");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    cr_assert_eq(lock_recall_round(ref.words), 7u, "the round stands until it is answered");
    lock_recall_ack(b->mgr, &ref, 7);
    cr_assert_eq(fixture_writer_end(&w), 0);
    fixture_check(true);
    fixture_close();
}
