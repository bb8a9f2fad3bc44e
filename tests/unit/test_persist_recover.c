/* SPDX-License-Identifier: Apache-2.0 */
/* Goal:   whatever a member holds when it dies, nobody waits for it afterwards, no frame is lost, and it gets its slot back.
 * Method: children that are killed with locks, claims, private frames and half-made changes in their hands; the parent is another member. */
#include "persist_fixture.h"

TestSuite(persist_recover, .init = place_begin, .fini = place_end, .timeout = 60);

enum { SERIAL = 11, PAGES = 8 };

/* What both sides agree on: a file of PAGES cached pages. */
static uint64_t file_make(struct persist_session *session)
{
    struct cache_attr  attr = file_attr(SERIAL, PAGES * CACHE_PAGE);
    uint64_t           id = file_inode(session, SERIAL);
    struct cache_fill *fill = calloc(1, sizeof *fill);
    cr_assert_eq(cache_attr_publish(session->cache, id, &attr), 0);
    cr_assert_eq(cache_fill_begin(session->cache, id, 0, PAGES, fill), 0);
    for (uint32_t i = 0; i < fill->iov_count; i++)
        memset(fill->iov[i].iov_base, 'o', fill->iov[i].iov_len);
    cache_fill_end(session->cache, fill, PAGES * CACHE_PAGE);
    cache_fill_release(session->cache, fill);
    free(fill);
    return id;
}

/* In the child: a write of pages 2..4 that has got as far as the origin. */
static struct persist_session child_session;
static void                   writer_halfway(void)
{
    static struct cache_write write;
    session_open(&child_session, "b");
    uint64_t           id = file_inode(&child_session, SERIAL);
    struct lock_ref    ref = cache_lock_ref(child_session.cache, id);
    struct lock_recall recall = {.ref = ref, .kind = WORK_RECALL_DATA, .arg = UINT32_MAX};
    lock_read_begin(child_session.lock, ref.words); /* an interest bit, too */
    if (lock_write_acquire(child_session.lock, &ref, 0, NULL, NULL) != 0 || lock_recall_all(child_session.lock, &recall, 1, 0) != 0 ||
        cache_write_begin(child_session.cache, id, 2, 3, &write) != 0)
        _exit(9);
}

/* Takes and gives back the write lock; fails the test when that takes too long. */
static void lock_once(struct persist_session *session, uint64_t id)
{
    struct lock_ref ref = cache_lock_ref(session->cache, id);
    cr_assert_not_null(ref.words);
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    cr_assert_eq(lock_write_acquire(session->lock, &ref, 0, NULL, NULL), 0);
    lock_write_release(session->lock, &ref);
    clock_gettime(CLOCK_MONOTONIC, &to);
    cr_expect_lt(to.tv_sec - from.tv_sec, 5);
}

static unsigned other_slot(struct persist_session *session)
{
    uint64_t others = seg_members_active(session->seg) & ~seg_self_bit(session->seg);
    cr_assert_eq(__builtin_popcountll(others), 1);
    return (unsigned)__builtin_ctzll(others);
}

/* After the writer's death: pages 2..4 are gone, the others are not, and nothing is held. */
static void half_write_is_undone(struct persist_session *session, uint64_t id)
{
    struct iovec iov[PAGES];
    unsigned     count;
    size_t       bytes;
    uint64_t     missing = 0;
    struct cache_attr attr = file_attr(SERIAL, PAGES * CACHE_PAGE), got;

    seg_epoch_enter(session->seg);
    cr_expect_eq(cache_attr_get(session->cache, id, &got), -ENODATA, "attributes are unknown after a write that nobody finished");
    seg_epoch_exit(session->seg);
    cr_assert_eq(cache_attr_publish(session->cache, id, &attr), 0);
    seg_epoch_enter(session->seg);
    cr_expect_eq(cache_read(session->cache, id, 2 * CACHE_PAGE, 1, iov, PAGES, &count, &bytes, &missing), -ENODATA);
    seg_epoch_exit(session->seg);
}

Test(persist_recover, a_waiting_writer_settles_the_dead_holder)
{
    struct persist_session session;
    session_open(&session, "a");
    uint64_t     id = file_make(&session);
    struct child child = child_start(writer_halfway);
    unsigned     slot = other_slot(&session);
    child_kill(&child);

    lock_once(&session, id); /* no watch runs: found by the waiter alone */
    cr_expect_eq(seg_member_state(session.seg, slot, NULL), SEG_PARKED);
    cr_expect_eq(atomic_load(&cache_lock_ref(session.cache, id).words->interest) >> slot & 1, 0);
    half_write_is_undone(&session, id);
    cr_expect_eq(place_frames().busy, 0);
    place_check();
    persist_session_close(&session);
    place_check();
}

static void *lock_once_thread(void *arg)
{
    lock_once(arg, file_inode(arg, SERIAL));
    return NULL;
}

Test(persist_recover, with_a_watch_the_watch_does_it)
{
    struct persist_session session;
    pthread_t              thread[3];
    session_open(&session, "a");
    uint64_t id = file_make(&session);
    cr_assert_eq(persist_watch_start(&session, NULL, NULL), 0);
    for (unsigned round = 0; round < 5; round++) {
        struct child child = child_start(writer_halfway);
        for (unsigned i = 0; i < 3; i++)
            cr_assert_eq(pthread_create(&thread[i], NULL, lock_once_thread, &session), 0);
        sleep_ms(5 + 10 * round); /* they wait for it */
        unsigned slot = other_slot(&session);
        child_kill(&child);
        for (unsigned i = 0; i < 3; i++)
            pthread_join(thread[i], NULL);
        cr_expect(state_comes(session.seg, slot, SEG_PARKED));
        lock_once(&session, id);
    }
    cr_expect_eq(place_frames().busy, 0);
    place_check();
    persist_session_close(&session);
    place_check();
}

Test(persist_recover, the_next_life_settles_its_last)
{
    struct persist_session session;
    session_open(&session, "a");
    uint64_t id = file_make(&session);
    persist_session_close(&session);
    struct persist_frames before = place_frames();
    struct child          child = child_start(writer_halfway);
    cr_expect_gt(place_frames().busy, 0, "the child holds private frames");
    child_kill(&child);

    session_open(&session, "b");
    cr_expect(session.returned);
    cr_expect_eq(seg_self_incarnation(session.seg), 2);
    cr_expect_eq(seg_self_slot(session.seg), 1);
    half_write_is_undone(&session, id);
    lock_once(&session, id);
    cr_expect_eq(place_frames().busy, 0);
    persist_session_close(&session);
    place_check();
    cr_expect_leq(place_frames().clean, before.clean);
    cr_expect_eq(place_frames().clean + place_frames().free, before.clean + before.free, "no frame is lost");
}

Test(persist_recover, settling_twice_and_the_wrong_life_does_nothing)
{
    struct persist_session session;
    session_open(&session, "a");
    file_make(&session);
    struct child child = child_start(writer_halfway);
    unsigned     slot = other_slot(&session);
    seg_who      who = seg_who_make(slot, 1);
    cr_expect_eq(persist_settle(&session, seg_who_make(slot, 5)), 0, "no such life");
    cr_expect_eq(seg_member_state(session.seg, slot, NULL), SEG_ACTIVE);
    cr_expect_eq(persist_settle(&session, seg_who_make(SEG_MEMBERS_MAX, 1)), -EINVAL);
    cr_expect_eq(persist_settle(&session, seg_self(session.seg)), -EINVAL);
    child_kill(&child);
    cr_expect_eq(persist_settle(&session, who), 0);
    cr_expect_eq(seg_member_state(session.seg, slot, NULL), SEG_PARKED);
    cr_expect_eq(persist_settle(&session, who), 0);
    place_check();
    persist_session_close(&session);
}

Test(persist_recover, a_member_that_died_while_joining_is_settled)
{
    struct persist_session session;
    session_open(&session, "a");
    file_make(&session);
    struct child child = child_start(writer_halfway);
    unsigned     slot = other_slot(&session);
    child_kill(&child);
    /* as if it had died before it was active */
    struct seg_member *member = seg_member(session.seg, slot);
    uint64_t           word = atomic_load(&member->state);
    atomic_store(&member->state, word - SEG_ACTIVE + SEG_JOINING);
    cr_expect_eq(persist_settle(&session, seg_who_make(slot, 1)), 0);
    cr_expect_eq(seg_member_state(session.seg, slot, NULL), SEG_PARKED);
    place_check();
    persist_session_close(&session);
}

static unsigned private_frames(struct persist_session *session, unsigned slot)
{
    struct seg_array array = seg_section(session->seg, SEG_SECTION_FRAMES);
    unsigned         count = 0;
    for (uint64_t i = 1; i < array.count; i++) {
        uint64_t word = atomic_load(&((struct cache_frame *)seg_elem(&array, i))->pool);
        count += seg_pool_word_state(word) == SEG_POOL_PRIVATE && seg_pool_word_slot(word) == slot;
    }
    return count;
}

Test(persist_recover, a_stopped_member_is_fenced_and_kept_in_quarantine)
{
    struct persist_session session;
    session_open(&session, "a");
    uint64_t     id = file_make(&session);
    struct child child = child_start(writer_halfway);
    unsigned     slot = other_slot(&session);
    seg_who      who = seg_who_make(slot, 1);
    kill(child.pid, SIGSTOP);
    unsigned held = private_frames(&session, slot);
    cr_expect_eq(held, 3);

    cr_expect_eq(persist_settle(&session, who), -EBUSY);
    cr_expect_eq(seg_member_state(session.seg, slot, NULL), SEG_FENCED);
    cr_expect_eq(seg_counter_read(session.seg, (unsigned)seg_self_slot(session.seg), SEG_COUNTER_fences), 1);
    lock_once(&session, id); /* nobody waits for it */
    half_write_is_undone(&session, id);
    cr_expect_eq(private_frames(&session, slot), held, "its private frames are used by nobody");

    char                  err[SEG_ERR_BYTES];
    struct persist_config config = place_config("b");
    cr_expect_eq(persist_session_open(&config, &child_session, err), -EBUSY, "its slot is not given away");
    child_kill(&child);
    cr_expect_eq(persist_settle(&session, who), 0);
    cr_expect_eq(seg_member_state(session.seg, slot, NULL), SEG_PARKED);
    cr_expect_eq(place_frames().busy, 0);
    place_check();
    persist_session_close(&session);
    place_check();
}

/* ---- recovery that dies ---- */

static void settle_and_die_somewhere(unsigned us)
{
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        struct persist_session session;
        char                   err[SEG_ERR_BYTES];
        struct persist_config  config = place_config("c");
        if (persist_session_open(&config, &session, err) != 0)
            _exit(0);
        for (;;)
            pause();
    }
    usleep(us);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

Test(persist_recover, recovery_may_die_anywhere)
{
    struct persist_session session;
    session_open(&session, "a");
    uint64_t id = file_make(&session);
    persist_session_close(&session);
    uint64_t all = place_frames().clean + place_frames().free;
    unsigned seed = (unsigned)getpid();
    fprintf(stderr, "seed %u\n", seed);
    for (unsigned round = 0; round < 40; round++) {
        struct child child = child_start(writer_halfway);
        child_kill(&child);
        settle_and_die_somewhere((unsigned)rand_r(&seed) % 12000);
        if (round % 8 == 7) {
            session_open(&session, "a");
            cr_expect_eq(__builtin_popcountll(seg_members_active(session.seg)), 1);
            lock_once(&session, id);
            persist_session_close(&session);
            cr_expect_eq(place_frames().clean + place_frames().free, all, "round %u", round);
            place_check();
        }
    }
}
