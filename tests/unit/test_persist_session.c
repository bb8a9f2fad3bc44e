/* SPDX-License-Identifier: Apache-2.0 */
/* Goal:   a member finds its place again, refuses what is not its own, and leaves nothing half-made when it cannot begin.
 * Method: sessions over a segment file in /dev/shm, in this process one after another and in many processes at once. */
#include "persist_fixture.h"

TestSuite(persist_session, .init = place_begin, .fini = place_end, .timeout = 60);

Test(persist_session, returns_to_its_slot_with_the_next_incarnation)
{
    struct persist_session first, second, third;
    uint8_t                uuid[16];
    session_open(&first, "a");
    cr_expect(first.created && !first.returned);
    cr_expect(seg_self_stands(first.seg));
    cr_expect_eq(seg_member_state(first.seg, (unsigned)seg_self_slot(first.seg), NULL), SEG_ACTIVE);
    session_open(&second, "b");
    cr_expect(!second.created && !second.returned);
    int slot_a = seg_self_slot(first.seg), slot_b = seg_self_slot(second.seg);
    cr_expect_neq(slot_a, slot_b);
    cr_expect_eq(seg_self_incarnation(second.seg), 1);
    memcpy(uuid, seg_super(first.seg)->uuid, sizeof uuid);
    persist_session_close(&first);
    persist_session_close(&second);
    place_check();

    session_open(&third, "b");
    cr_expect(!third.created && third.returned);
    cr_expect_eq(seg_self_slot(third.seg), slot_b);
    cr_expect_eq(seg_self_incarnation(third.seg), 2);
    cr_expect_eq(memcmp(uuid, seg_super(third.seg)->uuid, sizeof uuid), 0);
    cr_expect_str_eq(third.note, "");
    persist_session_close(&third);
    place_check();
}

Test(persist_session, what_was_read_is_still_there)
{
    struct persist_session session;
    struct cache_attr      attr = file_attr(5, 3 * CACHE_PAGE), got;
    session_open(&session, "a");
    uint64_t           id = file_inode(&session, 5);
    struct cache_fill *fill = calloc(1, sizeof *fill);
    cr_assert_eq(cache_attr_publish(session.cache, id, &attr), 0);
    cr_assert_eq(cache_fill_begin(session.cache, id, 0, 3, fill), 0);
    for (uint32_t i = 0; i < fill->iov_count; i++)
        memset(fill->iov[i].iov_base, 'w', fill->iov[i].iov_len);
    cache_fill_end(session.cache, fill, 3 * CACHE_PAGE);
    cache_fill_release(session.cache, fill);
    free(fill);
    persist_session_close(&session);
    cr_expect_eq(place_frames().clean, 3);
    cr_expect_eq(place_frames().busy, 0);

    session_open(&session, "a");
    cr_expect_eq(file_inode(&session, 5), id, "the inode is found again");
    struct iovec iov[4];
    unsigned     count = 0;
    size_t       bytes = 0;
    uint64_t     missing = 0;
    seg_epoch_enter(session.seg);
    cr_expect_eq(cache_attr_get(session.cache, id, &got), 0);
    cr_expect_eq(cache_read(session.cache, id, 0, 3 * CACHE_PAGE, iov, 4, &count, &bytes, &missing), 0);
    cr_expect(bytes == 3 * CACHE_PAGE && ((char *)iov[0].iov_base)[0] == 'w');
    seg_epoch_exit(session.seg);
    persist_session_close(&session);
    place_check();
}

Test(persist_session, a_second_life_of_the_same_name_is_refused)
{
    struct persist_session first, second;
    char                   err[SEG_ERR_BYTES] = "", pid[16];
    struct persist_config  config = place_config("a");
    session_open(&first, "a");
    cr_expect_eq(persist_session_open(&config, &second, err), -EBUSY);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    cr_expect(strstr(err, pid) && strstr(err, "member=") && !strchr(err, '\n'), "%s", err);
    cr_expect(seg_self_stands(first.seg), "the first one goes on");
    persist_session_close(&first);
    session_open(&first, "a");
    cr_expect_eq(seg_self_incarnation(first.seg), 2, "its record has survived the refusal");
    cr_expect(first.returned);
    persist_session_close(&first);
}

Test(persist_session, a_lost_record_costs_nothing)
{
    struct persist_session session;
    char                   path[256];
    session_open(&session, "b");
    persist_session_close(&session);
    session_open(&session, "a");
    int slot = seg_self_slot(session.seg);
    persist_session_close(&session);
    snprintf(path, sizeof path, "%s/a", place.records);
    cr_assert_eq(unlink(path), 0);
    session_open(&session, "a");
    cr_expect_eq(seg_self_slot(session.seg), slot);
    cr_expect_eq(seg_self_incarnation(session.seg), 2);
    persist_session_close(&session);
    cr_expect(exists(path));
}

Test(persist_session, a_damaged_record_is_said_and_replaced)
{
    struct persist_session session;
    char                   path[256];
    session_open(&session, "a");
    persist_session_close(&session);
    snprintf(path, sizeof path, "%s/a", place.records);
    cr_assert_eq(truncate(path, 40), 0);
    session_open(&session, "a");
    cr_expect(strstr(session.note, "damaged"), "%s", session.note);
    persist_session_close(&session);
    session_open(&session, "a");
    cr_expect_str_eq(session.note, "");
    cr_expect(session.returned);
    persist_session_close(&session);
}

Test(persist_session, a_segment_that_has_gone_is_made_anew_and_said)
{
    struct persist_session session;
    session_open(&session, "a");
    persist_session_close(&session);
    cr_assert_eq(unlink(place.path), 0);
    session_open(&session, "a");
    cr_expect(session.created && !session.returned);
    cr_expect(strstr(session.note, "gone"), "%s", session.note);
    cr_expect_eq(seg_self_incarnation(session.seg), 1);
    persist_session_close(&session);
}

Test(persist_session, another_origin_is_refused)
{
    struct persist_session session;
    struct persist_config  config = place_config("b");
    char                   err[SEG_ERR_BYTES] = "", path[256];
    session_open(&session, "a");
    config.origin_id[0] ^= 1;
    struct persist_session other;
    cr_expect_eq(persist_session_open(&config, &other, err), -EXDEV);
    cr_expect(strstr(err, "another directory"), "%s", err);
    cr_expect(exists(place.path));
    snprintf(path, sizeof path, "%s/b", place.records);
    cr_expect(!exists(path));
    persist_session_close(&session);
    place_check();
}

Test(persist_session, nothing_half_made_is_left)
{
    struct persist_session session;
    struct persist_config  config = place_config("a");
    char                   err[SEG_ERR_BYTES] = "";

    config.size_bytes = 4 << 20;
    cr_expect_eq(persist_session_open(&config, &session, err), -EINVAL);
    cr_expect(strstr(err, "size"), "%s", err);
    cr_expect(!exists(place.path) && !exists(place.state));

    config = place_config("a");
    config.size_bytes = 400ull << 30; /* more than there is */
    cr_expect_eq(persist_session_open(&config, &session, err), -ENOSPC, "%s", err);
    cr_expect(!exists(place.path) && !exists(place.state));

    config = place_config("a");
    config.may_create = false;
    cr_expect_eq(persist_session_open(&config, &session, err), -ENOENT);
    cr_expect(!exists(place.path) && !exists(place.state));

    config = place_config("a");
    config.state_dir = "/proc/hearthfs-cannot-be-here";
    cr_expect_lt(persist_session_open(&config, &session, err), 0);
    cr_expect(strstr(err, "state_dir"), "%s", err);
    cr_expect(!exists(place.path));

    config = place_config("a/../b");
    cr_expect_eq(persist_session_open(&config, &session, err), -EINVAL);
    cr_expect(!exists(place.path) && !exists(place.state));
}

Test(persist_session, abandon_takes_back_what_it_made)
{
    struct persist_session first, second;
    char                   path[256];
    session_open(&first, "a");
    persist_session_abandon(&first);
    cr_expect(!exists(place.path) && !exists(place.state));

    session_open(&first, "a");
    session_open(&second, "b");
    persist_session_abandon(&second); /* it made its record only */
    snprintf(path, sizeof path, "%s/b", place.records);
    cr_expect(exists(place.path) && !exists(path));
    session_open(&second, "b");
    persist_session_abandon(&first); /* the segment is in use by another now */
    cr_expect(exists(place.path) && seg_self_stands(second.seg));
    persist_session_close(&second);
    place_check();
}

Test(persist_session, a_file_that_is_no_segment_is_left_alone)
{
    struct persist_session session;
    struct persist_config  config = place_config("a");
    char                   err[SEG_ERR_BYTES] = "";
    FILE                  *file = fopen(place.path, "w");
    fputs("not a segment\n", file);
    fclose(file);
    cr_expect_eq(persist_session_open(&config, &session, err), -EBADMSG);
    cr_expect(err[0] && !strchr(err, '\n'));
    cr_expect(exists(place.path) && !exists(place.state));
}

/* ---- many at once ---- */

enum { STARTERS = 6 };
struct report {
    _Atomic int ready, go, done;
    struct {
        int     rc, slot, created;
        uint8_t uuid[16];
        char    err[SEG_ERR_BYTES];
    } of[STARTERS];
};

static void starter(struct report *report, unsigned n, bool leaves)
{
    char                   name[8], err[SEG_ERR_BYTES] = "";
    struct persist_session session;
    snprintf(name, sizeof name, "m%u", n);
    struct persist_config config = place_config(name);
    report->ready++;
    while (!report->go)
        ;
    report->of[n].rc = persist_session_open(&config, &session, err);
    strcpy(report->of[n].err, err);
    if (report->of[n].rc == 0) {
        report->of[n].slot = seg_self_slot(session.seg);
        report->of[n].created = session.created;
        memcpy(report->of[n].uuid, seg_super(session.seg)->uuid, 16);
    }
    report->done++;
    while (report->done < STARTERS)
        sleep_ms(1);
    if (leaves && report->of[n].rc == 0)
        persist_session_close(&session);
    _exit(0);
}

static void starters_run(struct report *report, bool leave)
{
    memset(report, 0, sizeof *report);
    for (unsigned n = 0; n < STARTERS; n++) {
        pid_t pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0)
            starter(report, n, leave);
    }
    while (report->ready < STARTERS)
        sleep_ms(1);
    report->go = 1;
    for (unsigned n = 0; n < STARTERS; n++)
        cr_assert_geq(wait(NULL), 0);
}

Test(persist_session, six_at_once_come_up_on_one_segment)
{
    struct report *report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(report, MAP_FAILED);
    for (unsigned round = 0; round < 12; round++) {
        bool     leave = round % 2; /* or all of them just die */
        unsigned created = 0;
        uint64_t slots = 0;
        starters_run(report, leave);
        for (unsigned n = 0; n < STARTERS; n++) {
            cr_assert_eq(report->of[n].rc, 0, "round %u: %s", round, report->of[n].err);
            cr_expect_eq(memcmp(report->of[n].uuid, report->of[0].uuid, 16), 0);
            created += (unsigned)report->of[n].created;
            slots |= 1ull << report->of[n].slot;
        }
        cr_expect_eq(created, 1);
        cr_expect_eq(__builtin_popcountll(slots), STARTERS);
        struct persist_session after;
        session_open(&after, "after");
        cr_expect_eq(__builtin_popcountll(seg_members_active(after.seg)), 1, "the dead are settled by who comes next");
        persist_session_close(&after);
        place_check();
        cr_assert_eq(unlink(place.path), 0);
    }
}

/* Goal:   while somebody destroys the segment and its records again and again, whoever opens it comes up on the one that stands, and never fails otherwise
 *         than by -EAGAIN, after which trying again helps.
 * Method: two processes open and close 40 times each; the test destroys all the time, with a pause now and then. */
Test(persist_session, a_segment_destroyed_meanwhile_is_made_again)
{
    struct report *report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(report, MAP_FAILED);
    memset(report, 0, sizeof *report);
    for (unsigned n = 0; n < 2; n++) {
        pid_t pid = fork();
        cr_assert_geq(pid, 0);
        if (pid)
            continue;
        char name[8], err[SEG_ERR_BYTES];
        snprintf(name, sizeof name, "m%u", n);
        for (unsigned round = 0; round < 40; round++) {
            struct persist_session session;
            struct persist_config  config = place_config(name);
            struct stat            at, mapped;
            int                    rc;
            while ((rc = persist_session_open(&config, &session, err)) == -EAGAIN)
                sleep_ms(1);
            if (rc != 0) {
                strcpy(report->of[n].err, err);
                _exit(1);
            }
            /* nobody may destroy it while we are in it */
            if (stat(place.path, &at) != 0 || fstat(seg_fd(session.seg), &mapped) != 0 || at.st_ino != mapped.st_ino) {
                strcpy(report->of[n].err, "the path does not lead to the segment");
                _exit(2);
            }
            persist_session_close(&session);
        }
        _exit(0);
    }
    unsigned left = 2, destroyed = 0, calls = 0;
    while (left) {
        int   status = 0;
        char  err[SEG_ERR_BYTES];
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid > 0) {
            left--;
            cr_expect_eq(status, 0, "%s%s", report->of[0].err, report->of[1].err);
        }
        destroyed += persist_destroy(place.spec, place.state, false, err) == 0;
        if (++calls % 64 == 0)
            sleep_ms(2);
    }
    cr_expect_gt(destroyed, 0, "the test has not met the race at all");
}
