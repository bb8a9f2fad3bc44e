/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of seg_super.c: each way in which a file is not a segment of ours, with the line that people read. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "seg_fixture.h"
#include "seg_internal.h"

TestSuite(seg_super, .fini = fixture_remove, .timeout = 20);

/* Writes a sound segment's file and closes it; what is done to it then is the test. */
static int sound_file(void)
{
    seg_close(fixture_open(fixture_path(), 1000));
    int fd = open(fixture_path(), O_RDWR | O_CLOEXEC);
    cr_assert_geq(fd, 0);
    return fd;
}

static void super_load(int fd, struct seg_super *super)
{
    cr_assert_eq(pread(fd, super, sizeof *super, 0), (ssize_t)sizeof *super);
}

static void super_store(int fd, struct seg_super *super, bool seal)
{
    if (seal)
        seg_super_seal(super);
    cr_assert_eq(pwrite(fd, super, sizeof *super, 0), (ssize_t)sizeof *super);
}

static void expect_refusal(int want_rc, const char *want_words, const char *want_advice)
{
    struct seg_plan plan = fixture_plan(1000);
    struct seg     *seg = NULL;
    char            err[SEG_ERR_BYTES] = "", before[SEG_PAGE], after[SEG_PAGE];
    int             fd = open(fixture_path(), O_RDONLY | O_CLOEXEC);
    ssize_t         size = pread(fd, before, sizeof before, 0);

    int rc = seg_open(fixture_path(), &plan, SEG_OPEN_CREATE, &seg, NULL, err);
    cr_expect_eq(rc, want_rc, "%d instead of %d: %s", rc, want_rc, err);
    cr_expect_null(seg);
    cr_expect(strstr(err, fixture_path()), "no path in: %s", err);
    cr_expect(strstr(err, want_words), "no '%s' in: %s", want_words, err);
    cr_expect(strstr(err, want_advice), "no '%s' in: %s", want_advice, err);
    cr_expect_null(strchr(err, '\n'));
    cr_expect_eq(pread(fd, after, sizeof after, 0), size); /* never "fixed" */
    cr_expect(size <= 0 || !memcmp(before, after, (size_t)size));
    close(fd);
}

/* Goal:   foreign bytes, an empty file and a truncated one are refused and left alone.
 * Method: text, zeros, nothing, a segment cut at three places. */
Test(seg_super, foreign_and_truncated)
{
    int fd = sound_file();
    cr_assert_eq(ftruncate(fd, FIXTURE_SIZE - 1), 0);
    expect_refusal(-EBADMSG, "truncated: 8388607 of 8388608 bytes", "hearthfs destroy file:/dev/shm/hearthfs-test");
    cr_assert_eq(ftruncate(fd, SEG_PAGE), 0);
    expect_refusal(-EBADMSG, "truncated: 4096", "destroy");
    cr_assert_eq(ftruncate(fd, 100), 0);
    expect_refusal(-EBADMSG, "truncated to 100 bytes", "destroy");
    cr_assert_eq(ftruncate(fd, 0), 0);
    expect_refusal(-EBADMSG, "not a hearthfs segment", "destroy");
    cr_assert_eq(ftruncate(fd, FIXTURE_SIZE), 0);
    expect_refusal(-EBADMSG, "not a hearthfs segment", "destroy");
    cr_assert_eq(pwrite(fd, "a letter to a friend", 20, 0), 20);
    expect_refusal(-EBADMSG, "not a hearthfs segment", "another name");
    close(fd);
}

/* Goal:   another layout, other structs and the other byte order are called by their names.
 * Method: one field changed each, checksum right. */
Test(seg_super, other_layouts)
{
    struct seg_super good, bad;
    int              fd = sound_file();
    super_load(fd, &good);

    bad = good;
    bad.major = SEG_LAYOUT_MAJOR + 1;
    super_store(fd, &bad, true);
    expect_refusal(-EPROTO, "layout 3.0, this program knows 2.0",
                   "use the matching program or `hearthfs destroy file:");
    bad = good;
    bad.minor = 1;
    super_store(fd, &bad, true);
    expect_refusal(-EPROTO, "layout 2.1, this program knows 2.0", "matching program");
    bad = good;
    bad.signature++;
    super_store(fd, &bad, true);
    expect_refusal(-EPROTO, "signature 0000000000001268, this program has 0000000000001267", "matching program");
    bad = good;
    bad.byte_order = __builtin_bswap64(bad.byte_order);
    super_store(fd, &bad, true);
    expect_refusal(-EPROTO, "byte-order", "matching program");
    bad = good;
    atomic_store(&bad.magic, __builtin_bswap64(SEG_MAGIC));
    super_store(fd, &bad, false);
    expect_refusal(-EPROTO, "other byte order", "matching program");
    close(fd);
}

/* Goal:   no bit of the superblock may change unnoticed.
 * Method: every bit of the page flipped in turn, in memory; plus one flip in the file. */
Test(seg_super, every_bit_counts)
{
    static struct seg_super super;
    unsigned char          *bytes = (unsigned char *)&super;
    char                    err[SEG_ERR_BYTES];
    int                     fd = sound_file();

    super_load(fd, &super);
    cr_assert_eq(seg_super_check(&super, FIXTURE_SIZE, FIXTURE_SIGNATURE, false, err), 0, "%s", err);
    cr_assert_eq(seg_super_check(&super, FIXTURE_SIZE, 1, true, err), 0, "%s", err);
    for (size_t bit = 0; bit < 8 * sizeof super; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        cr_assert_neq(seg_super_check(&super, FIXTURE_SIZE, FIXTURE_SIGNATURE, false, err), 0, "bit %zu", bit);
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    bytes[600] ^= 1;
    super_store(fd, &super, false);
    expect_refusal(-EBADMSG, "bad checksum", "destroy");
    close(fd);
}

/* Goal:   a section table that is nonsense is refused although its checksum is right.
 * Method: one fault each. */
Test(seg_super, section_tables)
{
    struct seg_super good, bad;
    int              fd = sound_file();
    super_load(fd, &good);

#define FAULT(change, words)                        \
    do {                                            \
        bad = good;                                 \
        change;                                     \
        super_store(fd, &bad, true);                \
        expect_refusal(-EBADMSG, words, "destroy"); \
    } while (0)
    FAULT(bad.section_count = 25, "25 sections");
    FAULT(bad.section_count = 0, "member table is missing");
    FAULT(bad.section[1].kind = 0, "unknown kind 0");
    FAULT(bad.section[1].kind = 1000, "unknown kind 1000");
    FAULT(bad.section[1].kind = SEG_SECTION_CHUNK_HINTS, "same kind");
    FAULT(bad.section[1].align = 96, "not aligned");
    FAULT(bad.section[1].align = 8, "not aligned");
    FAULT(bad.section[1].off += 8, "not aligned");
    FAULT(bad.section[1].off = 0, "lies outside");
    FAULT(bad.section[1].off = FIXTURE_SIZE, "lies outside");
    FAULT(bad.section[1].off = UINT64_MAX & ~63ull, "lies outside");
    FAULT(bad.section[1].count = UINT64_MAX / 2, "lies outside");
    FAULT(bad.section[1].count = 0, "lies outside");
    FAULT(bad.section[1].stride = 0, "lies outside");
    FAULT(bad.section[2].off = bad.section[1].off, "overlap");
    FAULT(bad.section[1].count += 64, "overlap");
    FAULT(bad.section[0].count = 63, "wrong shape");
    FAULT(bad.size_bytes = SEG_PAGE, "impossible size");
    FAULT(bad.size_bytes = FIXTURE_SIZE - 8, "impossible size");
    FAULT(bad.size_bytes = FIXTURE_SIZE + SEG_PAGE, "truncated");
#undef FAULT
    super_store(fd, &good, true);
    seg_close(fixture_open(fixture_path(), 1000));
    close(fd);
}

/* Goal:   arbitrary bytes behind a right magic and checksum never lead outside of the segment.
 * Method: 20,000 random superblocks (seed printed); those that pass have every section inside. */
Test(seg_super, random_tables)
{
    static struct seg_super good, super;
    uint64_t                seed = (uint64_t)time(NULL) | 1, accepted = 0;
    char                    err[SEG_ERR_BYTES];
    int                     fd = sound_file();

    super_load(fd, &good);
    close(fd);
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 20000; i++) {
        super = good;
        for (int change = 0; change < 2; change++) {
            uint64_t       r = fixture_random(&seed);
            unsigned char *section = (unsigned char *)&super.section[r % 4];
            section[(r >> 8) % sizeof super.section[0]] = (unsigned char)(r >> 32);
        }
        seg_super_seal(&super);
        if (seg_super_check(&super, FIXTURE_SIZE, FIXTURE_SIGNATURE, false, err))
            continue;
        accepted++;
        for (uint32_t s = 0; s < super.section_count; s++)
            cr_assert_leq(super.section[s].off + super.section[s].stride * super.section[s].count, FIXTURE_SIZE);
    }
    cr_assert_gt(accepted, 0); /* some changes are harmless: else the test looks at nothing */
    cr_assert_lt(accepted, 15000);
}
