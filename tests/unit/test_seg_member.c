/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of seg_member.c: slots and incarnations, liveness, fencing. */
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "seg_fixture.h"

TestSuite(seg_member, .fini = fixture_remove, .timeout = 60);

/* Goal:   a member that leaves and comes back has its slot and the next incarnation; others get other slots.
 * Method: two mappings; leave, join, leave, join. */
Test(seg_member, return_to_the_slot)
{
    struct seg *a = fixture_open(fixture_path(), 64), *b = fixture_open(fixture_path(), 64);

    cr_assert_eq(seg_self_slot(a), -1);
    cr_assert_eq(seg_self(a), 0);
    cr_assert_eq(seg_self_bit(a), 0);
    cr_assert_not(seg_self_stands(a));
    fixture_join(a, 1);
    fixture_join(b, 2);
    cr_assert_eq(seg_self_slot(a), 0);
    cr_assert_eq(seg_self_slot(b), 1);
    cr_assert_eq(seg_self_incarnation(a), 1);
    cr_assert_eq(seg_members_active(a), 3);
    cr_assert_str_eq(seg_member(b, 0)->name, "member1");
    cr_assert_eq(seg_member(b, 0)->pid, (uint32_t)getpid());

    seg_who first_life = seg_self(a);
    cr_assert(seg_who_stands(b, first_life));
    seg_member_leave(a);
    seg_member_leave(a);
    cr_assert_eq(seg_self_slot(a), -1);
    cr_assert_not(seg_who_stands(b, first_life));
    cr_assert_eq(seg_member_state(b, 0, NULL), SEG_PARKED);
    cr_assert_eq(seg_members_active(b), 2);
    cr_assert(seg_member_is_dead(b, 0));
    for (uint32_t life = 2; life < 5; life++) {
        fixture_join(a, 1);
        cr_assert_eq(seg_self_slot(a), 0);
        cr_assert_eq(seg_self_incarnation(a), life);
        cr_assert(seg_self_stands(a));
        cr_assert_not(seg_who_stands(b, first_life));
        cr_assert(seg_who_stands(b, seg_self(a)));
        cr_assert_not(seg_member_is_dead(b, 0));
        cr_assert_not(seg_member_is_dead(a, 0));
        seg_member_leave(a);
    }
    seg_member_leave(b);
    seg_close(b);
    seg_close(a);
}

/* Goal:   joining is refused where it must be, in words that name the process; the wanted slot is given when free.
 * Method: same uuid, same name, twice by one handle, no name, a handle that may only look. */
Test(seg_member, refusals)
{
    struct seg *a = fixture_open(fixture_path(), 64), *b = fixture_open(fixture_path(), 64), *c;
    char        err[SEG_ERR_BYTES] = "", pid[32];

    cr_assert_eq(fixture_join_as(a, 1, "ant", 17, err), 0, "%s", err);
    cr_assert_eq(seg_self_slot(a), 17);
    cr_assert_eq(seg_member_state(a, 17, NULL), SEG_JOINING);
    cr_assert(seg_self_stands(a));
    snprintf(pid, sizeof pid, "process %d", (int)getpid());
    cr_assert_eq(fixture_join_as(b, 1, "bee", -1, err), -EBUSY); /* JOINING counts as living */
    cr_assert(strstr(err, pid), "%s", err);
    seg_member_activate(a);
    cr_assert_eq(fixture_join_as(b, 2, "ant", -1, err), -EBUSY);
    cr_assert(strstr(err, pid) && strstr(err, "ant") && strstr(err, "-o member="), "%s", err);
    cr_assert_eq(fixture_join_as(a, 3, "cat", -1, err), -EINVAL);
    cr_assert_eq(fixture_join_as(b, 2, "", -1, err), -EINVAL);
    cr_assert_eq(fixture_join_as(b, 2, NULL, -1, err), -EINVAL);
    cr_assert_eq(fixture_join_as(b, 2, "bee", 17, err), 0, "%s", err); /* taken: another one */
    cr_assert_eq(seg_self_slot(b), 0);
    cr_assert_eq(seg_open(fixture_path(), NULL, SEG_OPEN_RDONLY, &c, NULL, err), 0);
    cr_assert_eq(fixture_join_as(c, 4, "dog", -1, err), -EINVAL);
    cr_assert_eq(seg_members_active(c), 1ull << 17);
    cr_assert_not(seg_member_is_dead(c, 17));
    cr_assert(seg_member_is_dead(c, 5));
    cr_assert_not(seg_member_is_dead(c, 64));
    seg_close(c);
    seg_member_leave(b);
    seg_close(b);
    cr_assert_eq(seg_self_slot(a), 17); /* a handle that is closed takes no other's lock along */
    c = fixture_open(fixture_path(), 64);
    cr_assert_not(seg_member_is_dead(c, 17));
    seg_close(c);
    seg_member_leave(a);
    seg_close(a);
}

/* Goal:   64 members fit, the 65th is told so; then the longest parked identity gives way first.
 * Method: 64 mappings; two leave in order 9, 3; two strangers come. */
Test(seg_member, sixty_four)
{
    struct seg *seg[SEG_MEMBERS_MAX + 2];
    char        err[SEG_ERR_BYTES] = "";

    for (int i = 0; i < SEG_MEMBERS_MAX + 2; i++)
        seg[i] = fixture_open(fixture_path(), 64);
    for (int i = 0; i < SEG_MEMBERS_MAX; i++) {
        fixture_join(seg[i], (uint8_t)(i + 1));
        cr_assert_eq(seg_self_slot(seg[i]), i);
    }
    cr_assert_eq(seg_members_active(seg[64]), UINT64_MAX);
    cr_assert_eq(fixture_join_as(seg[64], 100, "late", -1, err), -ENOSPC);
    cr_assert(strstr(err, "64"), "%s", err);
    seg_member_leave(seg[9]);
    seg_member_leave(seg[3]);
    cr_assert_eq(fixture_join_as(seg[64], 100, "late", -1, err), 0, "%s", err);
    cr_assert_eq(seg_self_slot(seg[64]), 9);
    cr_assert_eq(seg_self_incarnation(seg[64]), 2);
    cr_assert_eq(fixture_join_as(seg[3], 4, "member4", -1, err), 0, "%s", err);
    cr_assert_eq(seg_self_slot(seg[3]), 3);
    cr_assert_eq(fixture_join_as(seg[9], 10, "member10", -1, err), -ENOSPC);
    for (int i = 0; i < SEG_MEMBERS_MAX + 2; i++) {
        seg_member_leave(seg[i]);
        seg_close(seg[i]);
    }
}

/* A child that joins as `id`, says so through the pipe, and waits to be killed. */
static pid_t member_child(uint8_t id)
{
    int   ready[2];
    char  byte;
    pid_t pid;

    cr_assert_eq(pipe(ready), 0);
    const char *path = fixture_path();
    pid = fork();
    cr_assert_geq(pid, 0);
    if (!pid) {
        struct seg *seg = fixture_open(path, 64);
        fixture_join(seg, id);
        seg_epoch_enter(seg);
        if (write(ready[1], "x", 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

/* Goal:   a killed member is seen dead at once, is fenced exactly once, parked, and gets its slot back.
 * Method: kill -9 a child inside an epoch; the survivor walks through it; a new process of that identity returns. */
Test(seg_member, killed_member)
{
    struct seg *seg = fixture_open(fixture_path(), 64);
    uint32_t    incarnation;
    int         status;

    fixture_join(seg, 1);
    pid_t pid = member_child(2);
    cr_assert_eq(seg_member_state(seg, 1, &incarnation), SEG_ACTIVE);
    cr_assert_not(seg_member_is_dead(seg, 1));
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(seg_member_is_dead(seg, 1));
    cr_assert_eq(seg_member_state(seg, 1, NULL), SEG_ACTIVE);

    cr_assert_not(seg_member_fence(seg, 1, incarnation + 1));
    cr_assert_not(seg_member_fence(seg, 64, incarnation));
    cr_assert_neq(seg_epoch_oldest(seg), UINT64_MAX);
    cr_assert(seg_member_fence(seg, 1, incarnation));
    cr_assert_eq(seg_epoch_oldest(seg), UINT64_MAX); /* the fenced are not asked */
    cr_assert_not(seg_member_fence(seg, 1, incarnation));
    cr_assert_eq(seg_members_active(seg), 1);
    cr_assert_eq(seg_recovery_lock(seg, false), 0);
    seg_member_park(seg, 1);
    seg_recovery_unlock(seg);
    cr_assert_eq(seg_member_state(seg, 1, NULL), SEG_PARKED);
    cr_assert_eq(atomic_load(&seg_common(seg)->members_bits), 1);

    pid = member_child(2);
    uint32_t next;
    cr_assert_eq(seg_member_state(seg, 1, &next), SEG_ACTIVE);
    cr_assert_eq(next, incarnation + 1);
    seg_member_park(seg, 1); /* not FENCED: must not touch the living */
    cr_assert_eq(seg_member_state(seg, 1, NULL), SEG_ACTIVE);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    seg_member_leave(seg);
    seg_close(seg);
}

/* Goal:   a member that comes back before anybody fenced or recovered its last life takes its slot over.
 * Method: killed child, in state ACTIVE and then FENCED, comes back as a new child; its old epoch is gone. */
Test(seg_member, return_before_recovery)
{
    struct seg *seg = fixture_open(fixture_path(), 64);
    uint32_t    incarnation;
    int         status;

    fixture_join(seg, 1);
    for (uint32_t life = 1; life < 4; life++) {
        pid_t pid = member_child(2);
        cr_assert_eq(seg_member_state(seg, 1, &incarnation), SEG_ACTIVE);
        cr_assert_eq(incarnation, life);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        if (life == 2)
            cr_assert(seg_member_fence(seg, 1, incarnation));
    }
    struct seg *again = fixture_open(fixture_path(), 64);
    fixture_join(again, 2);
    cr_assert_eq(seg_self_slot(again), 1);
    cr_assert_eq(seg_self_incarnation(again), 4);
    cr_assert_eq(seg_epoch_oldest(seg), UINT64_MAX);
    cr_assert_not(seg_member_fence(seg, 1, 3)); /* a late fencer of the old life */
    cr_assert(seg_self_stands(again));
    seg_member_leave(again);
    seg_close(again);
    seg_member_leave(seg);
    seg_close(seg);
}

/* Goal:   a living member that was fenced notices, and its late leave does not undo the fence.
 * Method: fence from outside, ask, leave, park, join again. */
Test(seg_member, fenced_alive)
{
    struct seg *a = fixture_open(fixture_path(), 64), *b = fixture_open(fixture_path(), 64);
    char        err[SEG_ERR_BYTES];

    fixture_join(a, 1);
    fixture_join(b, 2);
    cr_assert(seg_member_fence(b, 0, 1));
    cr_assert_not(seg_self_stands(a));
    cr_assert_not(seg_member_is_dead(b, 0));
    struct seg *c = fixture_open(fixture_path(), 64);
    cr_assert_eq(fixture_join_as(c, 1, "other", -1, err), -EBUSY);
    cr_assert(strstr(err, "(fenced)"), "%s", err);
    seg_close(c);
    seg_member_leave(a);
    cr_assert_eq(seg_member_state(b, 0, NULL), SEG_FENCED);
    cr_assert(seg_member_is_dead(b, 0));
    seg_member_park(b, 0);
    fixture_join(a, 1);
    cr_assert_eq(seg_self_slot(a), 0);
    cr_assert_eq(seg_self_incarnation(a), 2);
    cr_assert(seg_self_stands(a));

    seg_member_leave(b); /* JOINING may be fenced as well, and activation then fails */
    cr_assert_eq(fixture_join_as(b, 2, "member2", -1, err), 0);
    cr_assert(seg_member_fence(a, 1, seg_self_incarnation(b)));
    seg_member_activate(b);
    cr_assert_not(seg_self_stands(b));
    cr_assert_eq(seg_member_state(a, 1, NULL), SEG_FENCED);
    seg_member_leave(b);
    seg_member_leave(a);
    seg_close(b);
    seg_close(a);
}

/* Goal:   the recovery lock excludes members and threads, and a dead holder's is free.
 * Method: two mappings; then a child that takes it and is killed. */
Test(seg_member, recovery_lock)
{
    struct seg *a = fixture_open(fixture_path(), 64), *b = fixture_open(fixture_path(), 64);
    int         ready[2], status;
    char        byte;

    cr_assert_eq(seg_recovery_lock(a, true), 0);
    cr_assert_eq(seg_recovery_lock(b, true), -EAGAIN);
    cr_assert_eq(seg_recovery_lock(a, true), -EAGAIN);
    seg_recovery_unlock(a);
    cr_assert_eq(seg_recovery_lock(b, true), 0);
    seg_recovery_unlock(b);

    cr_assert_eq(pipe(ready), 0);
    const char *path = fixture_path();
    pid_t       pid = fork();
    if (!pid) {
        struct seg *seg = fixture_open(path, 64);
        if (seg_recovery_lock(seg, false) == 0 && write(ready[1], "x", 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    cr_assert_eq(seg_recovery_lock(a, true), -EAGAIN);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    cr_assert_eq(seg_recovery_lock(a, false), 0);
    seg_recovery_unlock(a);
    seg_close(b);
    seg_close(a);
}

/* Goal:   many processes that join, leave and die at once never share a slot.
 * Method: 6 children, 100 lives each under two identities per child; each checks after joining that its slot bears
 *         its uuid, then writes its pid into the slot's heartbeat and finds it there later. */
Test(seg_member, churn)
{
    enum { CHILDREN = 6, LIVES = 100 };
    const char *path = fixture_path();

    seg_close(fixture_open(path, 64));
    for (uint8_t child = 0; child < CHILDREN; child++) {
        pid_t pid = fork();
        cr_assert_geq(pid, 0);
        if (pid)
            continue;
        for (int life = 0; life < LIVES; life++) {
            struct seg *seg = fixture_open(path, 64);
            uint8_t     id = (uint8_t)(child * 2 + 1 + life % 2);
            fixture_join(seg, id);
            struct seg_member *me = seg_member(seg, (unsigned)seg_self_slot(seg));
            atomic_store(&me->heartbeat, (uint64_t)getpid());
            for (int i = 0; i < 50; i++)
                if (atomic_load(&me->heartbeat) != (uint64_t)getpid() || me->uuid[0] != id || !seg_self_stands(seg))
                    _exit(1);
            if (life % 3)
                seg_member_leave(seg);
            seg_close(seg); /* without leave: as good as a death */
        }
        _exit(0);
    }
    for (int i = 0; i < CHILDREN; i++) {
        int status;
        wait(&status);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    struct seg *seg = fixture_open(path, 64);
    unsigned    used = 0;
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++)
        used += seg_member_state(seg, slot, NULL) != SEG_FREE;
    cr_assert_eq(used, 2 * CHILDREN);
    seg_close(seg);
}

/* Goal:   heartbeats move for members only.
 * Method: beat before, during, after. */
Test(seg_member, heartbeat)
{
    struct seg *seg = fixture_open(fixture_path(), 64);
    seg_heartbeat(seg);
    cr_assert_eq(atomic_load(&seg_member(seg, 0)->heartbeat), 0);
    fixture_join(seg, 1);
    seg_heartbeat(seg);
    seg_heartbeat(seg);
    cr_assert_eq(atomic_load(&seg_member(seg, 0)->heartbeat), 2);
    seg_member_leave(seg);
    seg_heartbeat(seg);
    cr_assert_eq(atomic_load(&seg_member(seg, 0)->heartbeat), 2);
    seg_close(seg);
}
