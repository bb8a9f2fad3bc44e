/* SPDX-License-Identifier: Apache-2.0 */
/* Goal:   the watch beats, finds the dead without being asked, and tells its own member once when that does not stand any more.
 * Method: a watch in this process; a child that is killed; a fence set by hand. */
#include "persist_fixture.h"

TestSuite(persist_watch, .init = place_begin, .fini = place_end, .timeout = 30);

static _Atomic unsigned fenced_calls;
static void             on_fenced(void *arg)
{
    fenced_calls += *(unsigned *)arg;
}
static unsigned one = 1;

static void child_joins(void)
{
    static struct persist_session session;
    session_open(&session, "b");
}

Test(persist_watch, beats)
{
    struct persist_session session;
    session_open(&session, "a");
    _Atomic uint64_t *beat = &seg_member(session.seg, (unsigned)seg_self_slot(session.seg))->heartbeat;
    uint64_t          before = atomic_load(beat);
    cr_assert_eq(persist_watch_start(&session, on_fenced, &one), 0);
    for (unsigned ms = 0; ms < 5000 && atomic_load(beat) < before + 3; ms += 10)
        sleep_ms(10);
    cr_expect_geq(atomic_load(beat), before + 3);
    cr_expect_eq(fenced_calls, 0);
    persist_session_close(&session); /* stops it */
    place_check();
}

Test(persist_watch, finds_the_dead)
{
    struct persist_session session;
    session_open(&session, "a");
    cr_assert_eq(persist_watch_start(&session, on_fenced, &one), 0);
    struct child child = child_start(child_joins);
    unsigned     slot = (unsigned)__builtin_ctzll(seg_members_active(session.seg) & ~seg_self_bit(session.seg));
    sleep_ms(250);
    cr_expect_eq(seg_member_state(session.seg, slot, NULL), SEG_ACTIVE, "the living are left alone");
    child_kill(&child);
    cr_expect(state_comes(session.seg, slot, SEG_PARKED));
    persist_watch_stop(&session);
    persist_watch_stop(&session);
    persist_session_close(&session);
    place_check();
}

Test(persist_watch, frees_the_quarantine_when_the_process_has_gone)
{
    struct persist_session session;
    session_open(&session, "a");
    cr_assert_eq(persist_watch_start(&session, on_fenced, &one), 0);
    struct child child = child_start(child_joins);
    unsigned     slot = (unsigned)__builtin_ctzll(seg_members_active(session.seg) & ~seg_self_bit(session.seg));
    cr_expect_eq(persist_settle(&session, seg_who_make(slot, 1)), -EBUSY);
    sleep_ms(250);
    cr_expect_eq(seg_member_state(session.seg, slot, NULL), SEG_FENCED);
    child_kill(&child);
    cr_expect(state_comes(session.seg, slot, SEG_PARKED));
    persist_session_close(&session);
    place_check();
}

Test(persist_watch, tells_once_that_we_are_fenced)
{
    struct persist_session session, other;
    session_open(&session, "a");
    cr_assert_eq(persist_watch_start(&session, on_fenced, &one), 0);
    unsigned slot = (unsigned)seg_self_slot(session.seg);
    cr_assert(seg_member_fence(session.seg, slot, 1));
    for (unsigned ms = 0; ms < 5000 && fenced_calls == 0; ms += 10)
        sleep_ms(10);
    sleep_ms(350);
    cr_expect_eq(fenced_calls, 1);
    session_open(&other, "b");
    cr_expect_eq(persist_settle(&session, seg_who_make((unsigned)seg_self_slot(other.seg), 1)), -EIO, "who is fenced settles nobody");
    cr_expect_eq(seg_member_state(other.seg, (unsigned)seg_self_slot(other.seg), NULL), SEG_ACTIVE);
    persist_session_close(&session);
    cr_expect_eq(persist_settle(&other, seg_who_make(slot, 1)), 0);
    cr_expect_eq(seg_member_state(other.seg, slot, NULL), SEG_PARKED);
    persist_session_close(&other);
    place_check();
}
