/* SPDX-License-Identifier: Apache-2.0 */
/* times.c - which times each operation moves, and which not; setting them; access times. */
#include "posix.h"

#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>

static int close_of(int fd)
{
    return fd < 0 ? -1 : close(fd);
}

static void of_data(void)
{
    put("f", "some text");
    int fd = T_OK(open("f", O_RDWR | O_CLOEXEC));
    MOVES(pwrite(fd, "x", 1, 0), "f", "mc", ".", "");
    MOVES(pwrite(fd, "x", 0, 0), "f", "");
    MOVES(pwrite(fd, "x", 1, 10000), "f", "mc");
    MOVES(ftruncate(fd, 5), "f", "mc", ".", "");
    MOVES(ftruncate(fd, 5), "f", "mc");
    MOVES(truncate("f", 5), "f", "mc");
    MOVES(truncate("f", 500), "f", "mc");
    MOVES(close_of(open("f", O_WRONLY | O_TRUNC | O_CLOEXEC)), "f", "mc", ".", "");
    MOVES(close_of(open("f", O_WRONLY | O_TRUNC | O_CLOEXEC)), "f", "mc");
    MOVES(close_of(open("f", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), "f", "", ".", "");
    MOVES(fallocate(fd, 0, 0, 9000), "f", "?");
    MOVES(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 90000), "f", "?");
    MOVES(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 4096), "f", "mc");
    MOVES(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096), "f", "mc");
    MOVES(fsync(fd), "f", "");
    MOVES(close(fd), "f", "");
    fd = T_OK(open("f", O_RDWR | O_APPEND | O_CLOEXEC));
    MOVES(write(fd, "x", 1), "f", "mc");
    close(fd);
    put("g", "source");
    int from = T_OK(open("g", O_RDONLY | O_CLOEXEC));
    fd = T_OK(open("f", O_RDWR | O_CLOEXEC));
    MOVES(sendfile(fd, from, NULL, 3), "f", "mc");
    loff_t a = 0, b = 0;
    MOVES(copy_file_range(from, &a, fd, &b, 3, 0), "f", "mc");
    void *block = aligned_alloc(BLOCK, BLOCK);
    memset(block, 1, BLOCK);
    int direct = T_OK(open("f", O_RDWR | O_DIRECT | O_CLOEXEC));
    MOVES(pwrite(direct, block, BLOCK, 0), "f", "mc");
    char *map = T_OK(mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    MOVES((map[0] = 'm', msync(map, BLOCK, MS_SYNC)), "f", "mc");
    MOVES(msync(map, BLOCK, MS_SYNC), "f", "");
}

static void of_attributes(void)
{
    put("f", "x");
    T_OK(symlink("f", "s"));
    T_OK(mkdir("d", 0755));
    MOVES(chmod("f", 0600), "f", "c", ".", "");
    MOVES(chmod("f", 0600), "f", "c");
    MOVES(chmod("s", 0640), "f", "c"); /* through the link, which is read: its access is noted in a moment */
    posix_nap_ms(150);
    MOVES(chmod("d", 0700), "d", "c", ".", "");
    MOVES(chown("f", ALICE, STAFF), "f", "c", ".", "");
    MOVES(chown("f", ALICE, STAFF), "f", "c");
    MOVES(chown("f", (uid_t)-1, (gid_t)-1), "f", "?");
    MOVES(lchown("s", ALICE, STAFF), "s", "c", "f", "");
    MOVES(setxattr("f", "user.a", "1", 1, 0), "f", "c", ".", "");
    MOVES(setxattr("f", "user.a", "2", 1, 0), "f", "c");
    MOVES(getxattr("f", "user.a", NULL, 0), "f", "");
    MOVES(removexattr("f", "user.a"), "f", "c");
    MOVES(removexattr("f", "user.a"), "f", "");
    MOVES(setxattr("d", "user.a", "1", 1, 0), "d", "c", ".", "");
    MOVES(utimensat(AT_FDCWD, "f", NULL, 0), "f", "amc", ".", "");
    struct stat st;
    MOVES(stat("f", &st), "f", "", ".", "");
    MOVES(access("f", R_OK), "f", "");
    AS(BOB, GUESTS) {
        MOVES(chmod("f", 0777), "f", "");
        MOVES(truncate("f", 0), "f", "");
        MOVES(unlink("d/none"), "d", "");
    }
}

static int make_socket(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int                fd = T_OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}

static void of_names(void)
{
    T_OK(mkdir("d", 0755));
    T_OK(mkdir("e", 0755));
    put("f", "x");
    MOVES(close_of(open("d/new", O_CREAT | O_WRONLY | O_CLOEXEC, 0644)), "d", "mc", ".", "");
    MOVES(close_of(open("d/new", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644)), "d", "");
    MOVES(mkdir("d/sub", 0755), "d", "mc", ".", "");
    MOVES(mkdir("d/sub", 0755), "d", "");
    MOVES(mkfifo("d/fifo", 0644), "d", "mc");
    MOVES(make_socket("d/sock"), "d", "mc");
    MOVES(symlink("x", "d/sym"), "d", "mc");
    MOVES(link("f", "d/link"), "d", "mc", "f", "c", ".", "");
    MOVES(link("f", "d/link"), "d", "", "f", "");
    MOVES(unlink("d/link"), "d", "mc", "f", "c", ".", "");
    MOVES(unlink("d/none"), "d", "");
    MOVES(rmdir("d/sub"), "d", "mc", ".", "");
    MOVES(rmdir("d"), "d", "", ".", "");
    MOVES(rename("f", "d/f"), ".", "mc", "d", "mc");
    MOVES(rename("d/f", "d/g"), "d", "mc", ".", "", "d/new", "");
    MOVES(rename("d/g", "d/g"), "d", "", "d/g", "");
    MOVES(rename("d/none", "d/g"), "d", "", "d/g", "");
    MOVES(rename("d/g", "e/g"), "d", "mc", "e", "mc", ".", "");
    put("d/old", "x");
    MOVES(rename("e/g", "d/old"), "d", "mc", "e", "mc");
    put("d/h1", "x");
    T_OK(link("d/h1", "d/h2"));
    MOVES(rename("d/h1", "d/h2"), "d", "", "d/h1", "");
    T_OK(mkdir("d/sub", 0755));
    MOVES(rename("d/sub", "e/sub"), "d", "mc", "e", "mc", ".", "");
    MOVES(renameat2(AT_FDCWD, "d/new", AT_FDCWD, "e/sub", RENAME_EXCHANGE), "d", "mc", "e", "mc");
    MOVES(renameat2(AT_FDCWD, "d/new", AT_FDCWD, "e/sub", RENAME_NOREPLACE), "d", "", "e", "");
    int fd = T_OK(open("d", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    MOVES(linkat(AT_FDCWD, path, AT_FDCWD, "d/tmp", AT_SYMLINK_FOLLOW), "d", "mc");
    MOVES(close_of(open("d", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644)), "d", "");
}

/* The ctime of what a name stood for moves with the name. */
static void of_the_moved(void)
{
    struct stat before, after;
    put("f", "x");
    T_OK(mkdir("d", 0755));
    T_OK(mkdir("e", 0755));
    T_OK(stat("f", &before));
    posix_nap_ms(11);
    T_OK(rename("f", "g"));
    T_OK(stat(B("g"), &after));
    VALUE("rename of a file moves its ctime", "%d, mtime %d", before.st_ctim.tv_nsec != after.st_ctim.tv_nsec, before.st_mtim.tv_nsec != after.st_mtim.tv_nsec);
    T_OK(stat("d", &before));
    posix_nap_ms(11);
    T_OK(rename("d", "e/d"));
    T_OK(stat(B("e/d"), &after));
    VALUE("rename of a directory moves its ctime", "%d, mtime %d", before.st_ctim.tv_nsec != after.st_ctim.tv_nsec, before.st_mtim.tv_nsec != after.st_mtim.tv_nsec);
    T_OK(link("g", "h"));
    int fd = T_OK(open("g", O_RDONLY | O_CLOEXEC)), far = T_OK(open(B("g"), O_RDONLY | O_CLOEXEC));
    T_OK(fstat(far, &before));
    posix_nap_ms(11);
    put("i", "y");
    T_OK(rename("i", "g"));
    T_OK(fstat(fd, &after));
    IS(after.st_nlink == 1 && after.st_ctim.tv_nsec != before.st_ctim.tv_nsec);
    T_OK(fstat(far, &after));
    IS(after.st_nlink == 1 && after.st_ctim.tv_nsec != before.st_ctim.tv_nsec);
    posix_nap_ms(11);
    T_OK(unlink("h"));
    before = after;
    T_OK(fstat(far, &after));
    IS(after.st_nlink == 0 && after.st_ctim.tv_nsec != before.st_ctim.tv_nsec);
}

static void show_times(const char *name)
{
    struct stat st, far;
    T_OK(lstat(name, &st));
    T_OK(lstat(B(name), &far));
    VALUE("times", "%s: atime %lld.%09ld mtime %lld.%09ld, the other side: %lld.%09ld %lld.%09ld", name, (long long)st.st_atim.tv_sec, st.st_atim.tv_nsec,
          (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (long long)far.st_atim.tv_sec, far.st_atim.tv_nsec, (long long)far.st_mtim.tv_sec, far.st_mtim.tv_nsec);
}

static void setting(void)
{
    static const struct timespec some[][2] = {
        {{1, 1}, {2, 2}}, {{0, 0}, {0, 0}}, {{-1, 5}, {-1000, 999999999}}, {{2147483648, 7}, {4294967296, 8}}, {{1000000000, 123456789}, {1500000000, 987654321}},
        {{15032385535, 999999999}, {15032385535, 0}}, {{20000000000, 1}, {-3000000000, 1}},
    };
    put("f", "x");
    T_OK(symlink("f", "s"));
    T_OK(mkdir("d", 0755));
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        DO(utimensat(AT_FDCWD, "f", some[i], 0));
        show_times("f");
    }
    const struct timespec keep_m[2] = {{5, 5}, {0, UTIME_OMIT}}, keep_a[2] = {{0, UTIME_OMIT}, {6, 6}}, keep[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}},
                          now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}}, now_a[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}}, now_m[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}},
                          bad[2] = {{0, 1000000000}, {0, 0}};
    DO(utimensat(AT_FDCWD, "f", keep_m, 0));
    show_times("f");
    DO(utimensat(AT_FDCWD, "f", keep_a, 0));
    show_times("f");
    MOVES(utimensat(AT_FDCWD, "f", keep, 0), "f", "");
    FAILS(EINVAL, utimensat(AT_FDCWD, "f", bad, 0));
    DO(utimensat(AT_FDCWD, "s", some[0], AT_SYMLINK_NOFOLLOW));
    show_times("s");
    show_times("f");
    DO(utimensat(AT_FDCWD, "d", some[0], 0));
    show_times("d");
    int fd = T_OK(open("f", O_RDONLY | O_CLOEXEC));
    DO(futimens(fd, some[4]));
    show_times("f");
    MOVES(utimensat(AT_FDCWD, "f", now, 0), "f", "amc", ".", "");
    MOVES(utimensat(AT_FDCWD, "f", now_a, 0), "f", "ac");
    MOVES(utimensat(AT_FDCWD, "f", now_m, 0), "f", "mc");
    MOVES(utimensat(AT_FDCWD, "f", keep, 0), "f", "");
    MOVES(utimensat(AT_FDCWD, "d", now, 0), "d", "amc", ".", "");
    T_OK(chown("f", ALICE, STAFF));
    T_OK(chmod("f", 0666));
    AS(BOB, GUESTS) {
        DO(utimensat(AT_FDCWD, "f", NULL, 0)); /* who may write may say now */
        DO(utimensat(AT_FDCWD, "f", now, 0));
        FAILS(EPERM, utimensat(AT_FDCWD, "f", some[0], 0));
        FAILS(EPERM, utimensat(AT_FDCWD, "f", now_a, 0));
        DO(utimensat(AT_FDCWD, "f", keep, 0));
    }
    T_OK(chmod("f", 0644));
    AS(BOB, GUESTS) FAILS(EACCES, utimensat(AT_FDCWD, "f", NULL, 0));
    AS(ALICE, STAFF) {
        DO(utimensat(AT_FDCWD, "f", some[0], 0));
        show_times("f");
    }
    FAILS(ENOENT, utimensat(AT_FDCWD, "none", NULL, 0));
}

static void birth(void)
{
    struct statx one, two, far;
    put("f", "x");
    DO(statx(AT_FDCWD, "f", 0, STATX_BTIME | STATX_BASIC_STATS, &one));
    VALUE("birth time", "%s", one.stx_mask & STATX_BTIME ? "there" : "not there");
    posix_nap_ms(11);
    put("f", "more");
    T_OK(chmod("f", 0600));
    T_OK(statx(AT_FDCWD, "f", 0, STATX_BTIME, &two));
    T_OK(statx(AT_FDCWD, B("f"), 0, STATX_BTIME, &far));
    VALUE("birth time stays", "%d %d", memcmp(&one.stx_btime, &two.stx_btime, sizeof one.stx_btime) == 0, memcmp(&one.stx_btime, &far.stx_btime, sizeof far.stx_btime) == 0);
    VALUE("nanoseconds", "%s", one.stx_mtime.tv_nsec % 1000 || one.stx_ctime.tv_nsec % 1000 || one.stx_mtime.tv_nsec % 1000000 ? "there" : "perhaps");
}

/* Times never run backwards, also where the two sides write in turn. */
static void order(void)
{
    struct stat st;
    int64_t     last = 0;
    bool        grows = true;
    put("f", "x");
    for (int i = 0; i < 40; i++) {
        int fd = T_OK(open(i & 1 ? B("f") : "f", O_WRONLY | O_CLOEXEC));
        T_OK(pwrite(fd, "y", 1, i));
        close(fd);
        T_OK(stat(i & 2 ? B("f") : "f", &st));
        int64_t now = st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
        grows &= now >= last;
        last = now;
    }
    IS(grows);
    IS(st.st_size == 40);
}

const struct posix_case posix_times[] = {
    {"data", of_data}, {"attributes", of_attributes}, {"names", of_names}, {"moved", of_the_moved}, {"setting", setting}, {"birth", birth}, {"order", order}, {0},
};

/* ---- access times: the origin's policy, for what reaches the daemon; it may take a moment ---- */
static struct timespec atime_of(const char *name)
{
    struct stat st;
    T_OK(lstat(name, &st));
    return st.st_atim;
}

static bool moves_soon(const char *name, struct timespec old)
{
    for (int i = 0; i < 200; i++) {
        struct timespec now = atime_of(name), far = atime_of(B(name));
        if ((now.tv_sec != old.tv_sec || now.tv_nsec != old.tv_nsec) && now.tv_sec == far.tv_sec && now.tv_nsec == far.tv_nsec)
            return true;
        posix_nap_ms(10);
    }
    return false;
}

static void stays(const char *step, const char *name, struct timespec old)
{
    posix_nap_ms(60);
    struct timespec now = atime_of(name), far = atime_of(B(name));
    VALUE(step, "%s", now.tv_sec == old.tv_sec && now.tv_nsec == old.tv_nsec && far.tv_nsec == now.tv_nsec ? "stays" : "moves");
}

static void old_times(const char *name, time_t atime, time_t mtime)
{
    const struct timespec times[2] = {{atime, 0}, {mtime, 0}};
    T_OK(utimensat(AT_FDCWD, name, times, AT_SYMLINK_NOFOLLOW));
}

static void read_file(const char *name, int flags)
{
    char byte[10];
    int  fd = T_OK(open(name, O_RDONLY | O_CLOEXEC | flags));
    T_OK(read(fd, byte, 10));
    close(fd);
}

static void read_dir(const char *name)
{
    DIR *dir = opendir(name);
    T_THAT(dir, "opendir %s", name);
    while (readdir(dir))
        ;
    closedir(dir);
}

static void access_times(void)
{
    if (getenv("POSIX_NOATIME"))
        return;
    char target[10];
    time_t now = time(NULL);
    put("f", "0123456789abcdef");
    T_OK(mkdir("d", 0755));
    put("d/f", "x");
    T_OK(symlink("f", "s"));
    old_times("f", 100, 200); /* atime before mtime: relatime moves it */
    struct timespec was = atime_of("f");
    read_file(B("f"), 0);
    IS(moves_soon("f", was));
    struct stat st;
    T_OK(stat("f", &st));
    IS(st.st_mtim.tv_sec == 200);
    struct timespec ctime_was = st.st_ctim;
    posix_nap_ms(11);
    was = atime_of("f");
    read_file(B("f"), 0); /* newer than mtime and ctime, and of today */
    read_file("f", 0);
    stays("a second read", "f", was);
    T_OK(stat("f", &st));
    IS(st.st_ctim.tv_sec == ctime_was.tv_sec && st.st_ctim.tv_nsec == ctime_was.tv_nsec);
    old_times("f", 100, 200);
    was = atime_of("f");
    read_file("f", O_NOATIME);
    stays("O_NOATIME", "f", was);
    old_times("d", 100, 200);
    was = atime_of("d");
    read_dir(B("d"));
    IS(moves_soon("d", was));
    posix_nap_ms(11);
    was = atime_of("d");
    read_dir(B("d"));
    read_dir("d");
    stays("a second listing", "d", was);
    old_times("s", 100, 200);
    was = atime_of("s");
    T_OK(readlink(B("s"), target, sizeof target));
    IS(moves_soon("s", was));
    put("old", "text");
    old_times("old", now + 1000, now + 900); /* atime ahead of all: stays */
    was = atime_of("old");
    read_file(B("old"), 0);
    stays("newer than all else", "old", was);
    put("m", "text");
    old_times("m", 100, 200);
    was = atime_of("m");
    int fd = T_OK(open(B("m"), O_RDONLY | O_CLOEXEC));
    volatile const char *map = T_OK(mmap(NULL, BLOCK, PROT_READ, MAP_SHARED, fd, 0));
    T_THAT(map[0] == 't', "mapping");
    IS(moves_soon("m", was));
    put("w", "text");
    old_times("w", 100, 200);
    was = atime_of("w");
    fd = T_OK(open("w", O_WRONLY | O_CLOEXEC));
    T_OK(write(fd, "x", 1));
    close(fd);
    stays("a write", "w", was);
    posix_nap_ms(11);
    read_file(B("w"), 0);
    IS(moves_soon("w", was));
}

/* What the kernel answers from pages it has is not seen by the daemon (see deliberate.txt). */
static void access_times_cached(void)
{
    if (getenv("POSIX_NOATIME")) {
        VALUE("read of pages that the kernel has", "not asked on %s", getenv("POSIX_VIEW") ? getenv("POSIX_VIEW") : "nothing");
        return;
    }
    put("f", "0123456789abcdef");
    read_file("f", 0);
    posix_nap_ms(150); /* that read's own access is noted by then */
    old_times("f", 100, 200);
    struct timespec was = atime_of("f");
    read_file("f", 0);
    VALUE("read of pages that the kernel has", "%s", moves_soon("f", was) ? "moves" : "stays");
}

const struct posix_case posix_atime[] = {{"read", access_times}, {"cached", access_times_cached}, {0}};
