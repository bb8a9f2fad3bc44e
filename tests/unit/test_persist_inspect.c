/* SPDX-License-Identifier: Apache-2.0 */
/* Goal:   a look from outside changes nothing and makes nothing; the check finds what is broken.
 * Method: the segment's bytes compared before and after; words broken by hand. */
#include "persist_fixture.h"

TestSuite(persist_inspect, .init = place_begin, .fini = place_end, .timeout = 30);

static char *bytes_get(void)
{
    char *bytes = malloc(PLACE_SIZE);
    int   fd = open(place.path, O_RDONLY);
    cr_assert_not_null(bytes);
    cr_assert_eq(read(fd, bytes, PLACE_SIZE), PLACE_SIZE);
    close(fd);
    return bytes;
}

static unsigned reported;
static char     last[512];
static void     report(void *arg, const char *line)
{
    (void)arg;
    reported++;
    snprintf(last, sizeof last, "%s", line);
}

/* What a check says when `size` bytes at `off` are changed to `value`, for the time of the check. */
static int check_with(uint64_t off, const void *value, size_t size)
{
    char          err[SEG_ERR_BYTES] = "", was[64];
    struct seg   *seg;
    struct cache *cache;
    int           fd = open(place.path, O_RDWR);
    cr_assert_eq(pread(fd, was, size, (off_t)off), (ssize_t)size);
    cr_assert_eq(persist_inspect_open(place.spec, &seg, &cache, err), 0, "%s", err);
    cr_assert_eq(pwrite(fd, value, size, (off_t)off), (ssize_t)size);
    reported = 0;
    int broken = persist_check(seg, cache, false, report, NULL);
    cr_assert_eq(pwrite(fd, was, size, (off_t)off), (ssize_t)size);
    close(fd);
    persist_inspect_close(seg, cache);
    return broken;
}

static uint64_t section_off(uint32_t kind)
{
    struct seg_super super;
    int              fd = open(place.path, O_RDONLY);
    cr_assert_eq(read(fd, (void *)&super, sizeof super), (ssize_t)sizeof super);
    close(fd);
    for (uint32_t i = 0; i < super.section_count; i++)
        if (super.section[i].kind == kind)
            return super.section[i].off;
    cr_assert_fail("no section of kind %u", kind);
    return 0;
}

Test(persist_inspect, changes_nothing)
{
    struct persist_session session;
    session_open(&session, "a");
    file_inode(&session, 3);
    persist_session_close(&session);
    char *before = bytes_get();
    place_check();
    place_frames();
    char *after = bytes_get();
    cr_expect_eq(memcmp(before, after, PLACE_SIZE), 0);
    free(before);
    free(after);
}

Test(persist_inspect, an_absent_segment_is_not_made)
{
    struct seg   *seg;
    struct cache *cache;
    char          err[SEG_ERR_BYTES] = "", path[128];
    cr_expect_eq(persist_inspect_open(place.spec, &seg, &cache, err), -ENOENT);
    cr_expect(err[0] && !strchr(err, '\n'));
    cr_expect(!exists(place.path));
    snprintf(path, sizeof path, "hearthfs-test-%d-absent", (int)getpid());
    bool had_folder = exists("/dev/shm/hearthfs");
    cr_expect_eq(persist_inspect_open(path, &seg, &cache, err), -ENOENT);
    cr_expect_eq(exists("/dev/shm/hearthfs"), had_folder);
    cr_expect_eq(persist_inspect_open("../x", &seg, &cache, err), -EINVAL);
    cr_expect_eq(persist_inspect_open("file:", &seg, &cache, err), -EINVAL);
}

Test(persist_inspect, check_finds_what_is_broken)
{
    struct persist_session session;
    session_open(&session, "a");
    file_inode(&session, 3);
    persist_session_close(&session);
    uint64_t nonsense = 0x4711000000000099ull, active = (uint64_t)1 << 32 | SEG_ACTIVE, name_end = 0x4141414141414141ull;

    cr_expect_eq(check_with(SEG_PAGE, &(uint64_t){5}, 8), 0, "a moved epoch is no damage");
    cr_expect_gt(check_with(section_off(SEG_SECTION_MEMBERS), &nonsense, 8), 0);
    cr_expect(reported > 0 && strstr(last, "slot 0"), "%s", last);
    cr_expect_gt(check_with(section_off(SEG_SECTION_MEMBERS) + 5 * sizeof(struct seg_member), &active, 8), 0, "at work without a bit");
    char unterminated[SEG_NAME_MAX];
    memset(unterminated, 'A', sizeof unterminated);
    cr_expect_gt(check_with(section_off(SEG_SECTION_MEMBERS) + offsetof(struct seg_member, name), unterminated, sizeof unterminated), 0);
    cr_expect_gt(check_with(offsetof(struct seg_super, created_sec), &name_end, 8), 0, "the superblock's checksum");
    cr_expect_gt(check_with(section_off(SEG_SECTION_INODES) + 2 * sizeof(struct cache_inode), &active, 8), 0, "a write lock that nobody holds");
    cr_expect_gt(check_with(section_off(SEG_SECTION_INBOXES), &nonsense, 8), 0, "head beyond tail");
    place_check();
}

Test(persist_inspect, figures)
{
    struct persist_session session;
    session_open(&session, "a");
    struct persist_frames frames = place_frames();
    cr_expect_eq(frames.total, frames.free);
    cr_expect_eq(frames.total + 1, seg_section(session.seg, SEG_SECTION_DATA).count);
    cr_expect_eq(persist_inbox_depth(session.seg, 0), 0);
    cr_expect_eq(persist_inbox_depth(session.seg, 1000), 0);
    struct work_item item = {.kind = WORK_PING, .key = 1};
    unsigned         slot = (unsigned)seg_self_slot(session.seg);
    for (item.arg = 0; item.arg < 3; item.arg++)
        cr_assert_eq(work_post(session.work, slot, &item, false), 0);
    cr_expect_eq(persist_inbox_depth(session.seg, slot), 3);
    persist_session_close(&session);
}

static int find(void *arg, const char *name, const char *path)
{
    const char *wanted = arg;
    return strcmp(name, wanted) == 0 && strstr(path, wanted) ? 77 : 0;
}

Test(persist_inspect, list_has_the_segments_of_the_host)
{
    char                   name[64], spec[80], err[SEG_ERR_BYTES];
    struct persist_session session;
    snprintf(name, sizeof name, "hearthfs-test-%d", (int)getpid());
    snprintf(spec, sizeof spec, "shm:%s", name);
    struct persist_config config = place_config("a");
    config.spec = spec;
    cr_expect_eq(persist_list(find, name), 0);
    cr_assert_eq(persist_session_open(&config, &session, err), 0, "%s", err);
    cr_expect_eq(persist_list(find, name), 77);
    persist_session_abandon(&session);
    cr_expect_eq(persist_list(find, name), 0);
}
