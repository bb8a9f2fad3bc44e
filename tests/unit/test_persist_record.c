/* SPDX-License-Identifier: Apache-2.0 */
/* Goal:   an identity record comes back as it was stored, or is known to be damaged; there is never half of one.
 * Method: round trips, every byte of a record changed and every length cut, a writer that is killed again and again. */
#include "persist_fixture.h"

TestSuite(persist_record, .init = place_begin, .fini = place_end, .timeout = 60);

static struct persist_record sample(uint32_t incarnation)
{
    struct persist_record record;
    memset(&record, 0, sizeof record);
    strcpy(record.segment_path, "/dev/shm/hearthfs/\"tree\"");
    strcpy(record.member, "mem-1");
    record.signature = 0xfedcba9876543210ull;
    record.slot = 63;
    record.incarnation = incarnation;
    for (unsigned i = 0; i < 64; i++)
        record.origin_id[i] = (uint8_t)(i * 5 + 3);
    for (unsigned i = 0; i < 16; i++) {
        record.segment_uuid[i] = (uint8_t)(200 + i);
        record.member_uuid[i] = (uint8_t)(i * 16);
    }
    return record;
}

static void path_of(char path[256], const char *member)
{
    snprintf(path, 256, "%s/%s", place.records, member);
}

static size_t file_get(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    size_t length = fread(text, 1, size, file);
    fclose(file);
    return length;
}

static void file_put(const char *path, const char *text, size_t length)
{
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(text, 1, length, file), length);
    fclose(file);
}

Test(persist_record, comes_back_as_it_was)
{
    char                  err[SEG_ERR_BYTES] = "", path[256];
    struct persist_record in = sample(UINT32_MAX), out;
    struct stat           st;
    memset(&out, 0xee, sizeof out);
    cr_expect_eq(persist_record_load(place.state, "tree", "mem-1", &out, err), -ENOENT);
    cr_assert_eq(persist_record_store(place.state, "tree", &in, err), 0, "%s", err);
    cr_assert_eq(persist_record_load(place.state, "tree", "mem-1", &out, err), 0, "%s", err);
    cr_expect_eq(memcmp(&in, &out, sizeof in), 0);
    path_of(path, "mem-1");
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_mode & 07777, 0600);
    cr_assert_eq(stat(place.records, &st), 0);
    cr_expect_eq(st.st_mode & 07777, 0700);
    cr_assert_eq(stat(place.state, &st), 0);
    cr_expect_eq(st.st_mode & 07777, 0700);
}

Test(persist_record, any_changed_byte_is_noticed)
{
    char                  err[SEG_ERR_BYTES], path[256], text[8192];
    struct persist_record in = sample(7), out;
    cr_assert_eq(persist_record_store(place.state, "tree", &in, err), 0);
    path_of(path, "mem-1");
    size_t length = file_get(path, text, sizeof text);
    cr_assert(length > 200 && length < sizeof text);
    for (size_t i = 0; i < length; i++) {
        char was = text[i];
        text[i] = was == 'x' ? 'y' : was == ' ' || was == '\n' ? 'q' : (char)(was ^ 1);
        file_put(path, text, length);
        int rc = persist_record_load(place.state, "tree", "mem-1", &out, err);
        /* what stays valid JSON must stay the same record (a blank is not part of it) */
        cr_expect(rc == -EBADMSG || (rc == 0 && memcmp(&in, &out, sizeof in) == 0), "byte %zu ('%c'): %d", i, was, rc);
        cr_expect(rc == 0 || strstr(err, "damaged"), "%s", err);
        text[i] = was;
    }
}

Test(persist_record, a_cut_record_is_noticed)
{
    char                  err[SEG_ERR_BYTES], path[256], text[8192];
    struct persist_record in = sample(7), out;
    cr_assert_eq(persist_record_store(place.state, "tree", &in, err), 0);
    path_of(path, "mem-1");
    size_t length = file_get(path, text, sizeof text);
    while (length > 0 && text[length - 1] != '}')
        length--;
    for (size_t cut = 0; cut < length; cut++) {
        file_put(path, text, cut);
        cr_expect_eq(persist_record_load(place.state, "tree", "mem-1", &out, err), -EBADMSG, "cut at %zu", cut);
    }
    memset(text, 'z', sizeof text);
    file_put(path, text, sizeof text);
    cr_expect_eq(persist_record_load(place.state, "tree", "mem-1", &out, err), -EBADMSG);
}

Test(persist_record, a_killed_writer_leaves_a_whole_record)
{
    char                  err[SEG_ERR_BYTES];
    struct persist_record record = sample(1), out;
    cr_assert_eq(persist_record_store(place.state, "tree", &record, err), 0);
    unsigned seed = (unsigned)getpid();
    fprintf(stderr, "seed %u\n", seed);
    uint32_t newest = 1;
    for (unsigned round = 0; round < 30; round++) {
        pid_t pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0)
            for (uint32_t n = newest + 1;; n++) {
                record.incarnation = n;
                persist_record_store(place.state, "tree", &record, err);
            }
        for (unsigned look = 0; look < 20; look++) {
            cr_assert_eq(persist_record_load(place.state, "tree", "mem-1", &out, err), 0, "%s", err);
            cr_assert_geq(out.incarnation, newest);
            newest = out.incarnation;
        }
        usleep((useconds_t)(rand_r(&seed) % 3000));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        cr_assert_eq(persist_record_load(place.state, "tree", "mem-1", &out, err), 0, "%s", err);
        cr_assert_geq(out.incarnation, newest);
        newest = out.incarnation;
    }
    cr_expect_gt(newest, 1);
}

Test(persist_record, remove_all_takes_leftovers_too)
{
    char                  err[SEG_ERR_BYTES], path[256];
    struct persist_record record = sample(1);
    cr_assert_eq(persist_record_store(place.state, "tree", &record, err), 0);
    strcpy(record.member, "mem-2");
    cr_assert_eq(persist_record_store(place.state, "tree", &record, err), 0);
    path_of(path, ".mem-1.new");
    file_put(path, "half", 4);
    cr_expect_eq(persist_record_remove_all(place.state, "tree"), 0);
    cr_expect(!exists(place.records));
    cr_expect_eq(persist_record_remove_all(place.state, "tree"), -ENOENT);
    cr_expect_eq(persist_record_remove_all(place.state, "../x"), -EINVAL);
}

Test(persist_record, names_do_not_lead_out)
{
    static const char *const bad[] = {"", ".", "..", "a/b", "../a", ".hidden", "a b",
                                      "0123456789012345678901234567890123456789012345678901234567890123"};
    struct persist_record    record = sample(1), out;
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char err[SEG_ERR_BYTES] = "";
        cr_expect_not(persist_name_ok(bad[i]), "%s", bad[i]);
        cr_expect_eq(persist_record_load(place.state, "tree", bad[i], &out, err), -EINVAL, "%s", bad[i]);
        cr_expect_eq(persist_record_store(place.state, bad[i], &record, err), -EINVAL, "%s", bad[i]);
        cr_expect(err[0] && !strchr(err, '\n'));
    }
    cr_expect(!exists(place.state));
}

Test(persist_record, a_folder_that_cannot_be_written_is_said)
{
    char                  err[SEG_ERR_BYTES] = "";
    struct persist_record record = sample(1);
    file_put(place.state, "", 0); /* a file where the folder should be */
    cr_expect_eq(persist_record_store(place.state, "tree", &record, err), -ENOTDIR);
    cr_expect(strstr(err, "state_dir"), "%s", err);
}

Test(persist_record, default_names_differ_by_mount_point)
{
    char a[SEG_NAME_MAX], b[SEG_NAME_MAX], again[SEG_NAME_MAX], root[SEG_NAME_MAX], odd[SEG_NAME_MAX], wide[512];
    persist_member_name("/mnt/a/tree", a);
    persist_member_name("/mnt/b/tree", b);
    persist_member_name("/mnt/a/tree", again);
    persist_member_name("/", root);
    persist_member_name("/mnt/\xc3\xa9 X_1", odd);
    memset(wide, 'w', sizeof wide - 1);
    wide[0] = '/';
    wide[sizeof wide - 1] = 0;
    cr_expect_str_eq(a, again);
    cr_expect_str_neq(a, b);
    cr_expect(strncmp(a, "tree-", 5) == 0);
    cr_expect(persist_name_ok(a) && persist_name_ok(root) && persist_name_ok(odd));
    cr_expect_eq(strspn(odd, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(odd), "%s", odd);
    persist_member_name(wide, a);
    cr_expect(persist_name_ok(a), "%s", a);
}
