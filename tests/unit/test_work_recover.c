/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of work_recover.c and of what takers do about producers that died or came too late. */
#include "work_fixture.h"

TestSuite(work_recover, .fini = fixture_remove, .timeout = 60);

enum { CHILD = 9 };

/* One item committed, one reserved when it dies. To slot 0 and to the shared queue. */
static void post_and_die(struct member *member)
{
    struct work_item item = ping(51, 0);
    if (post(member, 0, 50, 0, false) || work_share(member->work, &item, false))
        _exit(2);
    member->work->reserved = die;
    post(member, 0, 52, 0, false);
}

static void share_and_die(struct member *member)
{
    struct work_item item = ping(53, 0);
    member->work->reserved = die;
    work_share(member->work, &item, false);
}

/* Goal:   a producer killed with a reserved cell blocks nobody once it has been recovered; what it had committed stays.
 * Method: a child is killed in the middle of a post; items of others stand behind its cell; recovery twice. */
Test(work_recover, reserved_cell_of_a_killed_child)
{
    struct member    a = fixture_member(1);
    struct work_item item;
    uint32_t         incarnation;

    fixture_killed_child(CHILD, post_and_die);
    cr_assert_eq(post(&a, a.slot, 60, 0, false), 0);
    cr_assert_eq(seg_member_state(a.seg, 1, &incarnation), SEG_ACTIVE); /* nobody has noticed yet */
    assert_sound(&a);
    cr_assert(seg_member_is_dead(a.seg, 1));
    cr_assert(seg_member_fence(a.seg, 1, incarnation));
    work_recover(a.work, 1);
    work_recover(a.work, 1);
    seg_member_park(a.seg, 1);
    assert_sound(&a);
    cr_assert_eq(work_take(a.work, &item), 1);
    cr_assert(item.key == 50 && item.from == 1);
    cr_assert_eq(work_take(a.work, &item), 1);
    cr_assert_eq(item.key, 60);
    cr_assert_eq(work_take(a.work, &item), 0);
    cr_assert_eq(work_take_shared(a.work, &item), 1);
    cr_assert_eq(item.key, 51);
    for (unsigned i = 0; i < 3 * WORK_INBOX_CELLS; i++) { /* the cell is in use again */
        cr_assert_eq(post(&a, a.slot, i, 0, false), 0);
        cr_assert_eq(work_take(a.work, &item), 1);
    }
    for (unsigned i = 0; i < WORK_INBOX_CELLS; i++)
        cr_assert_eq(post(&a, a.slot, i, 0, false), 0);
    assert_sound(&a);
    fixture_leave(&a);
}

/* Goal:   the taker gets past a dead producer's cell by itself, before anybody has fenced it.
 * Method: the same child; only takes and sleeps. */
Test(work_recover, taker_finds_the_death_itself)
{
    struct member    a = fixture_member(1);
    struct work_item item;

    fixture_killed_child(CHILD, post_and_die);
    cr_assert_eq(post(&a, a.slot, 60, 0, false), 0);
    cr_assert_eq(work_take(a.work, &item), 1);
    cr_assert_eq(item.key, 50);
    while (work_take(a.work, &item) == 0)
        work_sleep(a.work, 2);
    cr_assert_eq(item.key, 60);
    assert_sound(&a);
    fixture_leave(&a);
}

/* Goal:   nor does it block the shared queue after recovery.
 * Method: a child killed in the middle of work_share(). */
Test(work_recover, shared_queue)
{
    struct member    a = fixture_member(1);
    struct work_item item = ping(60, 0);
    uint32_t         incarnation;

    fixture_killed_child(CHILD, share_and_die);
    cr_assert_eq(work_share(a.work, &item, false), 0);
    cr_assert_eq(work_take_shared(a.work, &item), 0);
    seg_member_state(a.seg, 1, &incarnation);
    cr_assert(seg_member_fence(a.seg, 1, incarnation));
    work_recover(a.work, 1);
    cr_assert_eq(work_take_shared(a.work, &item), 1);
    cr_assert_eq(item.key, 60);
    assert_sound(&a);
    fixture_leave(&a);
}

struct late {
    struct member  *member;
    unsigned        to;
    int             rc;
    _Atomic int     stage; /* 1: it has reserved; 2: it may go on */
};

static void be_late(void *arg)
{
    struct late *late = arg;
    if (atomic_exchange(&late->stage, 1) == 0)
        while (atomic_load(&late->stage) != 2)
            usleep(100);
}

static void *post_late(void *arg)
{
    struct late *late = arg;
    late->member->work->reserved = be_late;
    late->member->work->reserved_arg = late;
    late->rc = post(late->member, late->to, 70, 70, false);
    return NULL;
}

/* Goal:   a producer that is fenced while it sleeps in the middle of a post fails when it wakes up; its cell is passed over, round by round, as long as it might
 *         still scribble on it, and is used again when it is gone.
 * Method: a thread held between reserving and committing; the ring goes round three times meanwhile. */
Test(work_recover, late_producer)
{
    struct member    a = fixture_member(1), b = fixture_member(2);
    struct late      late = {.member = &b, .to = a.slot};
    struct work_item item;
    pthread_t        thread;
    unsigned         posted;

    pthread_create(&thread, NULL, post_late, &late);
    while (atomic_load(&late.stage) != 1)
        usleep(100);
    cr_assert_eq(post(&a, a.slot, 0, 0, false), 0);
    cr_assert_eq(work_take(a.work, &item), 0); /* it may commit any moment */
    cr_assert(seg_member_fence(a.seg, b.slot, seg_self_incarnation(b.seg)));
    cr_assert_eq(work_take(a.work, &item), 1);
    cr_assert_eq(item.key, 0);
    for (unsigned i = 0; i < 3 * WORK_INBOX_CELLS; i++) {
        cr_assert_eq(post(&a, a.slot, i, 1, false), 0);
        cr_assert_eq(work_take(a.work, &item), 1);
        cr_assert_eq(item.key, i);
        assert_sound(&a);
    }
    for (posted = 0; post(&a, a.slot, posted, 2, false) == 0; posted++)
        ;
    cr_assert_eq(posted, WORK_INBOX_CELLS - 1); /* the ring is a cell smaller */
    atomic_store(&late.stage, 2);
    pthread_join(thread, NULL);
    cr_assert_eq(late.rc, -EIO);
    assert_sound(&a);
    for (unsigned i = 0; i < posted; i++) {
        cr_assert_eq(work_take(a.work, &item), 1);
        cr_assert(item.key == i && item.arg == 2);
    }
    cr_assert_eq(work_take(a.work, &item), 0);
    work_close(b.work);
    seg_close(b.seg); /* its liveness lock goes with it: proven gone */
    work_recover(a.work, b.slot);
    seg_member_park(a.seg, b.slot);
    for (posted = 0; post(&a, a.slot, posted, 3, false) == 0; posted++)
        ;
    cr_assert_eq(posted, WORK_INBOX_CELLS);
    assert_sound(&a);
    fixture_leave(&a);
}

/* Goal:   a producer whose cell was skipped though it stands (a taker was mistaken) posts after all, exactly once.
 * Method: skip its cell by hand while it is held. */
Test(work_recover, skipped_while_standing)
{
    struct member      a = fixture_member(1), b = fixture_member(2);
    struct late        late = {.member = &b, .to = a.slot};
    struct work_queue *inbox = inbox_of(&a);
    struct work_item   item;
    pthread_t          thread;

    pthread_create(&thread, NULL, post_late, &late);
    while (atomic_load(&late.stage) != 1)
        usleep(100);
    atomic_fetch_add(&inbox->cell[0].word, WORK_SKIPPED - WORK_RESERVED);
    atomic_store(&late.stage, 2);
    pthread_join(thread, NULL);
    cr_assert_eq(late.rc, 0);
    cr_assert_eq(work_take(a.work, &item), 1);
    cr_assert(item.key == 70 && item.arg == 70);
    cr_assert_eq(work_take(a.work, &item), 0);
    assert_sound(&a);
    fixture_leave(&b);
    fixture_leave(&a);
}

static void die_at_once(struct member *member)
{
    (void)member;
    raise(SIGKILL);
}

/* Goal:   a dead receiver's inbox is emptied and its bell is silent; the next life begins with an empty inbox and does not lose its own posts to the recovery of the
 *         former one.
 * Method: items posted to a dead child that nobody has noticed yet; recovery by another, and by its next life while joining. */
Test(work_recover, inbox_of_a_dead_receiver)
{
    struct member    a = fixture_member(1);
    struct work_item item;
    uint32_t         incarnation;

    fixture_killed_child(CHILD, die_at_once);
    for (unsigned i = 0; i < WORK_INBOX_CELLS; i++)
        cr_assert_eq(post(&a, 1, i, 0, false), 0);
    atomic_store(&((struct work_queue *)seg_elem(&a.work->inboxes, 1))->bell, WORK_ASLEEP);
    cr_assert_eq(post(&a, 1, 0, 0, false), -EAGAIN);
    seg_member_state(a.seg, 1, &incarnation);
    cr_assert(seg_member_fence(a.seg, 1, incarnation));
    item = ping(1, 1);
    cr_assert_eq(work_post_wait(a.work, 1, &item, false, 20000), -ESRCH);
    work_recover(a.work, 1);
    cr_assert_eq(work_depth(a.work, 1), 0);
    cr_assert_eq(atomic_load(&((struct work_queue *)seg_elem(&a.work->inboxes, 1))->bell), WORK_BUSY);
    seg_member_park(a.seg, 1);
    assert_sound(&a);

    struct member b = fixture_join(CHILD); /* the same identity: the same slot */
    cr_assert_eq(b.slot, 1);
    cr_assert_eq(post(&b, a.slot, 80, 0, false), 0);
    struct late late = {.member = &b, .to = a.slot};
    pthread_t   thread;
    pthread_create(&thread, NULL, post_late, &late);
    while (atomic_load(&late.stage) != 1)
        usleep(100);
    work_recover(b.work, b.slot); /* its former lives, not this one */
    atomic_store(&late.stage, 2);
    pthread_join(thread, NULL);
    cr_assert_eq(late.rc, 0);
    cr_assert_eq(work_take(a.work, &item), 1);
    cr_assert_eq(item.key, 80);
    cr_assert_eq(work_take(a.work, &item), 1);
    cr_assert_eq(item.key, 70);
    assert_sound(&a);
    fixture_leave(&b);
    fixture_leave(&a);
}
