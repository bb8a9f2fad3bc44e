/* SPDX-License-Identifier: Apache-2.0 */
/* Goal:   destroy removes a segment and its records, never one that is in use (unless forced: then its members are fenced), never a foreign file.
 * Method: segments at rest, in use, damaged, and files that are none. */
#include "persist_fixture.h"

TestSuite(persist_destroy, .init = place_begin, .fini = place_end, .timeout = 30);

static char err[SEG_ERR_BYTES];

Test(persist_destroy, removes_segment_and_records)
{
    struct persist_session session;
    session_open(&session, "a");
    persist_session_close(&session);
    cr_assert(exists(place.path) && exists(place.records));
    cr_expect_eq(persist_destroy(place.spec, place.state, false, err), 0, "%s", err);
    cr_expect(!exists(place.path) && !exists(place.records));
    cr_expect_eq(persist_destroy(place.spec, place.state, false, err), -ENOENT);
    session_open(&session, "a");
    cr_expect(session.created && session.note[0] == 0);
    persist_session_close(&session);
}

Test(persist_destroy, one_in_use_is_kept)
{
    struct persist_session session;
    session_open(&session, "a");
    cr_expect_eq(persist_destroy(place.spec, place.state, false, err), -EBUSY);
    cr_expect(strstr(err, "/mnt/tree") && strstr(err, "unmount") && !strchr(err, '\n'), "%s", err);
    cr_expect(exists(place.path) && exists(place.records) && seg_self_stands(session.seg));
    persist_session_close(&session);
    place_check();
}

Test(persist_destroy, force_fences_the_living)
{
    struct persist_session session;
    session_open(&session, "a");
    cr_expect_eq(persist_destroy(place.spec, place.state, true, err), 0, "%s", err);
    cr_expect(!exists(place.path) && !exists(place.records));
    cr_expect(!seg_self_stands(session.seg));
    persist_session_close(&session);
    cr_expect(!exists(place.path));
}

static void child_joins(void)
{
    static struct persist_session session;
    session_open(&session, "b");
}

Test(persist_destroy, the_dead_do_not_count)
{
    struct child child = child_start(child_joins);
    cr_expect_eq(persist_destroy(place.spec, place.state, false, err), -EBUSY);
    child_kill(&child);
    cr_expect_eq(persist_destroy(place.spec, place.state, false, err), 0, "%s", err);
    cr_expect(!exists(place.path) && !exists(place.records));
}

Test(persist_destroy, a_damaged_one_goes_a_foreign_file_stays)
{
    struct persist_session session;
    session_open(&session, "a");
    persist_session_close(&session);
    cr_assert_eq(truncate(place.path, 100000), 0);
    cr_expect_eq(persist_destroy(place.spec, place.state, false, err), 0, "%s", err);
    cr_expect(!exists(place.path));

    FILE *file = fopen(place.path, "w");
    fputs("my thesis\n", file);
    fclose(file);
    cr_expect_eq(persist_destroy(place.spec, place.state, false, err), -EBADMSG);
    cr_expect(strstr(err, "not a hearthfs segment"), "%s", err);
    cr_expect(exists(place.path));
    cr_assert_eq(unlink(place.path), 0);
    cr_assert_eq(mkdir(place.path, 0700), 0);
    cr_expect_lt(persist_destroy(place.spec, place.state, true, err), 0);
    cr_expect(exists(place.path));
}

Test(persist_destroy, a_damaged_one_in_use_is_kept)
{
    struct child child = child_start(child_joins);
    int          fd = open(place.path, O_RDWR);
    uint64_t     bad = 1;
    cr_assert_eq(pwrite(fd, &bad, sizeof bad, offsetof(struct seg_super, checksum)), (ssize_t)sizeof bad);
    close(fd);
    cr_expect_eq(persist_destroy(place.spec, place.state, false, err), -EBUSY, "%s", err);
    cr_expect(exists(place.path));
    child_kill(&child);
    cr_expect_eq(persist_destroy(place.spec, place.state, false, err), 0, "%s", err);
}

Test(persist_destroy, records_alone_go_too)
{
    char                  spec[64], name[48];
    struct persist_record record = {.member = "a"};
    snprintf(name, sizeof name, "hearthfs-test-%d", (int)getpid()); /* its memory has gone with a reboot */
    snprintf(spec, sizeof spec, "shm:%s", name);
    cr_assert_eq(persist_record_store(place.state, name, &record, err), 0);
    cr_expect_eq(persist_destroy(spec, place.state, false, err), 0, "%s", err);
    cr_expect_eq(persist_destroy(spec, place.state, false, err), -ENOENT);
}
