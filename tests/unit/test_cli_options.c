/* SPDX-License-Identifier: Apache-2.0 */
/* Goal:   -o takes what is ours, passes on what is FUSE's, drops what fstab and mount(8) add, and refuses the rest in one line.
 * Method: tables of options with what must come of them. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "cli.h"

TestSuite(cli_options, .timeout = 10);

static struct cli_mount_options options;
static char                     err[SEG_ERR_BYTES];

static int parse(const char *text)
{
    memset(&options, 0, sizeof options);
    err[0] = 0;
    return cli_options_parse(text, &options, err);
}

Test(cli_options, ours)
{
    cr_assert_eq(parse("name=tree,size=64M,member=m-1,locks=none,cache=kernel,write=through,ro,recall_timeout=5,state_dir=/x/y,nouring,"
                       "noepoch,segment=file:/a\\,b,debug,workers=7,fsname=my,,"), 0, "%s", err);
    cr_expect_str_eq(options.name, "tree");
    cr_expect_eq(options.size_bytes, 64ull << 20);
    cr_expect_str_eq(options.member, "m-1");
    cr_expect_str_eq(options.state_dir, "/x/y");
    cr_expect_str_eq(options.segment, "file:/a,b");
    cr_expect_str_eq(options.fsname, "my");
    cr_expect_str_eq(options.fuse, "");
    cr_expect_eq(options.recall_timeout_ms, 5000);
    cr_expect_eq(options.workers, 7);
    cr_expect_eq(options.uring, FS_URING_OFF);
    cr_expect(options.locks_none && options.read_only && options.names_plain && options.debug);
    cr_assert_eq(parse("ro,rw,locks=none,locks=shared,uring"), 0);
    cr_expect(!options.read_only && !options.locks_none && !options.cache_shared);
    cr_expect_eq(options.uring, FS_URING_ON);
    cr_assert_eq(parse("cache=shared"), 0);
    cr_expect(options.cache_shared);
    cr_assert_eq(parse("watch,revalidate=never"), 0);
    cr_expect(options.watch == FS_WATCH_AUTO && options.revalidate_ms == FS_REVALIDATE_NEVER);
    cr_assert_eq(parse("watch=inotify,revalidate=7"), 0);
    cr_expect(options.watch == FS_WATCH_INOTIFY && options.revalidate_ms == 7000);
    cr_assert_eq(parse("revalidate=never,revalidate=open"), 0);
    cr_expect(options.watch == FS_WATCH_NONE && options.revalidate_ms == 0);
    cr_expect_eq(parse(""), 0);
}

Test(cli_options, fuse_and_fstab)
{
    cr_assert_eq(parse("rw,defaults,noauto,nofail,_netdev,user,user=joe,x-systemd.automount,comment=a b,relatime,allow_other,default_permissions,subtype=hearthfs"), 0,
                 "%s", err);
    cr_expect_str_eq(options.fuse, "");
    cr_assert_eq(parse("suid,nodev,noexec,noatime,dirsync,max_read=131072"), 0, "%s", err);
    cr_expect_str_eq(options.fuse, "suid,nodev,noexec,noatime,dirsync,max_read=131072");
    cr_expect_eq(options.atime, FS_ATIME_NEVER);
}

Test(cli_options, what_is_wrong_is_said_in_one_line)
{
    static const char *const bad[] = {
        "frobnicate", "name", "name=", "name=a/b", "name=.a", "size=", "size=0", "size=12Q", "size=-1", "size=99999999999999999999", "size=16777216T",
        "member=a b", "locks=some", "cache=none", "watch=", "watch=dnotify", "revalidate=", "revalidate=0", "revalidate=always", "write=back", "recall_timeout=0", "recall_timeout=x", "recall_timeout=4000",
        "state_dir=", "auto_unmount", "remount", "allow_root", "workers=0", "workers=1000", "ro=1", "=", "nonsense=1",
        "name=0123456789012345678901234567890123456789012345678901234567890123",
    };
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_expect_eq(parse(bad[i]), -EINVAL, "%s", bad[i]);
        cr_expect(strlen(err) > 15 && !strchr(err, '\n'), "%s: \"%s\"", bad[i], err);
    }
}

Test(cli_options, sizes)
{
    static const struct {
        const char *text;
        uint64_t    bytes; /* 0: refused */
    } table[] = {{"4096", 4096}, {"64K", 65536}, {"64k", 65536}, {"64M", 64ull << 20}, {"4G", 4ull << 30}, {"1T", 1ull << 40}, {"2MiB", 2ull << 20},
                 {"1.5G", 0}, {"M", 0}, {"", 0}, {"1MB", 0}, {"1MM", 0}, {" 1M", 0}, {"0x10", 0}, {"18446744073709551615", UINT64_MAX}};
    for (unsigned i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint64_t bytes = 0;
        int      rc = cli_size_parse(table[i].text, &bytes);
        cr_expect_eq(rc, table[i].bytes ? 0 : -EINVAL, "%s", table[i].text);
        cr_expect_eq(bytes, table[i].bytes, "%s", table[i].text);
    }
}

Test(cli_options, default_names_tell_directories_apart)
{
    char a[SEG_NAME_MAX], b[SEG_NAME_MAX], wide[600];
    cli_name_default("/home/a/src", a);
    cli_name_default("/home/b/src", b);
    cr_expect_str_neq(a, b);
    cr_expect(strncmp(a, "src-", 4) == 0 && persist_name_ok(a));
    cli_name_default("/", a);
    cr_expect(persist_name_ok(a), "%s", a);
    cli_name_default("/x/.hidden \xc3\xa9", a);
    cr_expect(persist_name_ok(a), "%s", a);
    memset(wide, 'w', sizeof wide - 1);
    wide[0] = '/';
    wide[sizeof wide - 1] = 0;
    cli_name_default(wide, a);
    cr_expect(persist_name_ok(a), "%s", a);
}
