/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of seg_map.c: names, creation, attaching, resolving. What is wrong with a superblock: test_seg_super.c. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "seg_fixture.h"
#include "seg_internal.h"

TestSuite(seg_map, .fini = fixture_remove, .timeout = 30);

enum { CREATORS = 8 };

struct finding {
    uint8_t uuid[16];
    bool    created;
};

static void create_and_report(const char *path, int start_fd, int report_fd)
{
    struct seg_plan plan = fixture_plan(1000);
    struct seg     *seg = NULL;
    struct finding  finding;
    char            err[SEG_ERR_BYTES], go;

    if (read(start_fd, &go, 1) != 0) /* ends when the parent lets all start */
        _exit(2);
    if (seg_open(path, &plan, SEG_OPEN_CREATE, &seg, &finding.created, err))
        _exit(1);
    memcpy(finding.uuid, seg_super(seg)->uuid, 16);
    if (write(report_fd, &finding, sizeof finding) != sizeof finding)
        _exit(3);
    _exit(0);
}

/* Goal:   processes that start at the same instant make one segment.
 * Method: 8 children wait at a pipe, then create; all report one uuid, exactly one says that it was the maker. 20
 *         rounds. */
Test(seg_map, many_creators_make_one)
{
    for (int round = 0; round < 20; round++) {
        int            start[2], report[2], status, makers = 0;
        struct finding finding, first = {.created = false};
        const char    *path = fixture_path();

        unlink(path);
        cr_assert_eq(pipe(start) | pipe(report), 0);
        for (int i = 0; i < CREATORS; i++) {
            pid_t pid = fork();
            cr_assert_geq(pid, 0);
            if (!pid) {
                close(start[1]);
                create_and_report(path, start[0], report[1]);
            }
        }
        close(start[1]);
        close(report[1]);
        for (int i = 0; i < CREATORS; i++) {
            cr_assert_eq(read(report[0], &finding, sizeof finding), (ssize_t)sizeof finding);
            if (!i)
                first = finding;
            cr_assert_eq(memcmp(first.uuid, finding.uuid, 16), 0);
            makers += finding.created;
        }
        for (int i = 0; i < CREATORS; i++) {
            wait(&status);
            cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        }
        cr_assert_eq(makers, 1);
        close(start[0]);
        close(report[0]);
    }
}

/* Goal:   a new segment has all that its plan says, its memory reserved, and a second open finds the same.
 * Method: create, look, write, attach twice (one to look only). */
Test(seg_map, create_then_attach)
{
    struct seg_plan plan = fixture_plan(1000);
    struct seg     *a, *b, *c;
    struct stat     st;
    bool            created;
    char            err[SEG_ERR_BYTES];

    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &a, &created, err), 0, "%s", err);
    cr_assert(created);
    cr_assert_eq(fstat(seg_fd(a), &st), 0);
    cr_assert_eq(st.st_size, FIXTURE_SIZE);
    cr_assert_geq(st.st_blocks * 512, FIXTURE_SIZE);
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert_eq(seg_size(a), FIXTURE_SIZE);
    cr_assert_str_eq(seg_file_path(a), fixture_path());
    cr_assert_str_eq(seg_super(a)->name, "fixture");
    cr_assert_eq(seg_super(a)->uuid[6] >> 4, 4);
    cr_assert_eq(seg_super(a)->uuid[8] >> 6, 2);
    cr_assert_eq(atomic_load(&seg_common(a)->epoch), 1);

    struct seg_array chunks = seg_section(a, SEG_SECTION_CHUNKS);
    cr_assert_eq(chunks.count, 1000);
    cr_assert_eq(chunks.stride, sizeof(struct fixture_element));
    cr_assert_null(seg_section(a, SEG_SECTION_FRAMES).base);
    cr_assert_null(seg_section(a, (enum seg_section_kind)99).base);
    cr_assert_not_null(seg_elem(&chunks, 999));
    cr_assert_null(seg_elem(&chunks, 1000));

    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &b, &created, err), 0, "%s", err);
    cr_assert_not(created);
    cr_assert_eq(seg_open(fixture_path(), NULL, SEG_OPEN_RDONLY, &c, NULL, err), 0, "%s", err);
    cr_assert_eq(memcmp(seg_super(a), seg_super(c), SEG_PAGE), 0);
    atomic_store(&seg_common(b)->epoch, 77);
    cr_assert_eq(atomic_load(&seg_common(c)->epoch), 77);
    seg_close(c);
    seg_close(b);
    seg_close(a);
}

/* Goal:   offsets from peers become memory only when they are inside and aligned.
 * Method: the borders, overflow, odd alignment. */
Test(seg_map, offsets_are_checked)
{
    struct seg *seg = fixture_open(fixture_path(), 1000);
    cr_assert_not_null(seg_at(seg, 0, FIXTURE_SIZE, 4096));
    cr_assert_not_null(seg_at(seg, FIXTURE_SIZE - 8, 8, 8));
    cr_assert_null(seg_at(seg, FIXTURE_SIZE - 8, 16, 8));
    cr_assert_null(seg_at(seg, FIXTURE_SIZE, 8, 8));
    cr_assert_null(seg_at(seg, UINT64_MAX - 7, 16, 8));
    cr_assert_null(seg_at(seg, 8, UINT64_MAX, 8));
    cr_assert_null(seg_at(seg, 12, 8, 8));
    cr_assert_null(seg_at(seg, 16, 8, 3));
    cr_assert_null(seg_at(seg, 16, 8, 0));
    seg_close(seg);
}

/* Goal:   names that lead elsewhere are refused, the three ways to name a segment work.
 * Method: a table. */
Test(seg_map, names)
{
    static const char *const bad[] = {"",
                                      "shm:",
                                      ".",
                                      "..",
                                      ".x",
                                      "a/b",
                                      "a b",
                                      "shm:../x",
                                      "x\n",
                                      "file:",
                                      "1234567890123456789012345678901234567890123456789012345678901234"};
    char                     path[128], err[SEG_ERR_BYTES];

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err[0] = 0;
        cr_assert_eq(seg_path(bad[i], path, sizeof path, err), -EINVAL, "'%s'", bad[i]);
        cr_assert(strstr(err, "segment"), "'%s': %s", bad[i], err);
    }
    cr_assert_eq(seg_path("file:/x/y", path, 4, err), -EINVAL);
    cr_assert_eq(seg_path("file:/x/y", path, sizeof path, err), 0);
    cr_assert_str_eq(path, "/x/y");
    cr_assert_eq(seg_path("a.B-9_", path, sizeof path, err), 0, "%s", err);
    cr_assert_str_eq(path, "/dev/shm/hearthfs/a.B-9_");
    cr_assert_eq(seg_path("shm:x", path, sizeof path, err), 0, "%s", err);
    cr_assert_str_eq(path, "/dev/shm/hearthfs/x");
}

/* Files of the test's folder that a failed creation could have left. */
static bool left_behind(const char *path)
{
    char command[256];
    snprintf(command, sizeof command, "ls -A /dev/shm | grep -q %s", strrchr(path, '/') + 1);
    return system(command) == 0;
}

/* Goal:   impossible sizes and plans are refused with the size that is needed, and nothing is left behind.
 * Method: too small, odd, larger than the file system, a plan without members, a bad alignment. */
Test(seg_map, bad_plans)
{
    struct seg_plan plan = fixture_plan(1000);
    struct seg     *seg = NULL;
    struct statvfs  fs;
    char            err[SEG_ERR_BYTES];

    plan.size_bytes = 65536;
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &seg, NULL, err), -EINVAL);
    /* 2 pages + 64 * 3 pages + 64000 + 128 + 128 bytes, rounded up */
    cr_assert(strstr(err, "too small") && strstr(err, "860160 bytes"), "%s", err);

    plan.size_bytes = 860160;
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &seg, NULL, err), 0, "%s", err);
    seg_close(seg);
    unlink(fixture_path());

    plan.size_bytes = FIXTURE_SIZE + 1;
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &seg, NULL, err), -EINVAL);

    cr_assert_eq(statvfs("/dev/shm", &fs), 0);
    plan.size_bytes = ((uint64_t)fs.f_blocks * fs.f_frsize / SEG_PAGE + 1024) * SEG_PAGE;
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &seg, NULL, err), -ENOSPC);
    cr_assert(strstr(err, "MiB free in /dev/shm") && strstr(err, "smaller -o size"), "%s", err);

    plan = fixture_plan(1000);
    plan.section[1].align = 48;
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &seg, NULL, err), -EINVAL);
    plan = fixture_plan(1000);
    plan.section[1].count = UINT64_MAX / 2;
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &seg, NULL, err), -EINVAL);
    plan = fixture_plan(1000);
    plan.section[0].kind = SEG_SECTION_INBOXES;
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &seg, NULL, err), -EINVAL);
    cr_assert(strstr(err, "member table"), "%s", err);
    plan = fixture_plan(1000);
    plan.section[2].kind = SEG_SECTION_CHUNKS;
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &seg, NULL, err), -EINVAL);
    cr_assert(strstr(err, "same kind"), "%s", err);
    cr_assert_not(left_behind(fixture_path()));
}

/* Goal:   absent, forbidden and misused paths are told apart.
 * Method: no CREATE; no such folder; a folder; CREATE without a plan. */
Test(seg_map, bad_paths)
{
    struct seg_plan plan = fixture_plan(1000);
    struct seg     *seg = NULL;
    char            err[SEG_ERR_BYTES];

    cr_assert_eq(seg_open(fixture_path(), &plan, 0, &seg, NULL, err), -ENOENT);
    cr_assert(strstr(err, fixture_path()) && strstr(err, "does not exist"), "%s", err);
    cr_assert_eq(seg_open("/dev/shm/no-such-folder/x", &plan, SEG_OPEN_CREATE, &seg, NULL, err), -ENOENT);
    cr_assert(strstr(err, "no-such-folder"), "%s", err);
    cr_assert_eq(seg_open("/dev/shm", &plan, 0, &seg, NULL, err), -EBADMSG);
    cr_assert_eq(seg_open("/dev/null", &plan, 0, &seg, NULL, err), -EBADMSG);
    cr_assert_eq(seg_open(fixture_path(), NULL, SEG_OPEN_CREATE, &seg, NULL, err), -EINVAL);
    cr_assert_eq(seg_open(fixture_path(), &plan, SEG_OPEN_CREATE | SEG_OPEN_RDONLY, &seg, NULL, err), -EINVAL);
    cr_assert_null(seg);
}

/* Goal:   where O_TMPFILE does not exist, the other way makes the same segment and leaves nothing else.
 * Method: the folder-internal entry that chooses the way; then again over an existing name. */
Test(seg_map, create_without_tmpfile)
{
    struct seg_plan plan = fixture_plan(1000);
    struct seg     *seg = NULL, *other = NULL;
    char            err[SEG_ERR_BYTES] = "";

    cr_assert_eq(seg_create_named(fixture_path(), &plan, &seg, err), 0, "%s", err);
    cr_assert_eq(seg_create_named(fixture_path(), &plan, &other, err), -EEXIST);
    cr_assert_eq(seg_open(fixture_path(), &plan, 0, &other, NULL, err), 0, "%s", err);
    cr_assert_eq(memcmp(seg_super(seg), seg_super(other), SEG_PAGE), 0);
    seg_close(other);
    seg_close(seg);
    unlink(fixture_path());
    cr_assert_not(left_behind(fixture_path()));
}
