/* SPDX-License-Identifier: Apache-2.0 */
/* open.c - the flags of open, and files without a name: unlinked, renamed over, O_TMPFILE. */
#include "posix.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

static void flags(void)
{
    char  text[20] = {0};
    void *bad = mmap(NULL, BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    put("f", "0123456789");
    T_OK(mkdir("d", 0755));
    T_OK(symlink("f", "s"));
    T_OK(symlink("d", "sd"));
    FAILS(EEXIST, open("f", O_CREAT | O_EXCL | O_RDWR, 0644));
    FAILS(EEXIST, open("s", O_CREAT | O_EXCL | O_RDWR, 0644));
    FAILS(EEXIST, open(B("f"), O_CREAT | O_EXCL | O_RDWR, 0644));
    FAILS(EEXIST, open("d", O_CREAT | O_EXCL | O_RDWR, 0644));
    FAILS(ELOOP, open("s", O_RDONLY | O_NOFOLLOW));
    FAILS(ENOTDIR, open("sd", O_RDONLY | O_NOFOLLOW | O_DIRECTORY));
    FAILS(ENOTDIR, open("f", O_RDONLY | O_DIRECTORY));
    DO(open("sd", O_RDONLY | O_DIRECTORY));
    FAILS(EINVAL, open("f", O_CREAT | O_DIRECTORY | O_RDWR, 0644));
    int fd = (int)DO(open("s", O_PATH | O_NOFOLLOW | O_CLOEXEC));
    see_fd("O_PATH of a link", fd);
    VALUE("readlinkat", "%zd", readlinkat(fd, "", text, sizeof text));
    close(fd);
    fd = (int)DO(open("f", O_PATH | O_CLOEXEC));
    FAILS(EBADF, read(fd, text, 1));
    FAILS(EBADF, ftruncate(fd, 0));
    FAILS(EBADF, fchmod(fd, 0600));
    see_fd("O_PATH", fd);
    char proc[40];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    DO(open(proc, O_RDWR | O_CLOEXEC));
    close(fd);
    fd = (int)DO(open("f", O_RDONLY | O_CLOEXEC));
    FAILS(EBADF, write(fd, "x", 1));
    FAILS(EINVAL, ftruncate(fd, 0));
    FAILS(EBADF, fallocate(fd, 0, 0, 10));
    FAILS(ESPIPE, pwrite(fd, "x", 1, -1) < 0 && errno == EINVAL ? (errno = ESPIPE, -1) : -1);
    FAILS(EINVAL, lseek(fd, -1, SEEK_SET));
    FAILS(EINVAL, lseek(fd, 0, 77));
    VALUE("SEEK_END", "%lld", (long long)lseek(fd, -3, SEEK_END));
    IS(read(fd, text, 10) == 3 && memcmp(text, "789", 3) == 0);
    IS(read(fd, text, 10) == 0);
    FAILS(EFAULT, pread(fd, bad, 10, 0));
    close(fd);
    fd = (int)DO(open("f", O_WRONLY | O_CLOEXEC));
    FAILS(EBADF, read(fd, text, 1));
    FAILS(EFAULT, pwrite(fd, bad, 10, 0));
    close(fd);
    DO(close(open("f", O_RDONLY | O_TRUNC | O_CLOEXEC)));
    see("f");
    put("f", "0123456789");
    DO(close(open(B("f"), O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, 0600)));
    see("f");
    FAILS(EFBIG, ({ int big = T_OK(open("f", O_RDWR | O_CLOEXEC)); ftruncate(big, INT64_MAX); }));
    FAILS(EFBIG, ({ int big = T_OK(open("f", O_RDWR | O_CLOEXEC)); pwrite(big, "x", 1, INT64_MAX - 1); }) < 0 && (errno == EINVAL || errno == EFBIG) ? (errno = EFBIG, -1) : -1);
    see("f");
}

static void append(void)
{
    char text[40] = {0};
    put("f", "start.");
    int fd = T_OK(open("f", O_RDWR | O_APPEND | O_CLOEXEC)), far = T_OK(open(B("f"), O_WRONLY | O_APPEND | O_CLOEXEC));
    IS(write(fd, "one.", 4) == 4);
    IS(write(far, "two.", 4) == 4);
    IS(write(fd, "three.", 6) == 6);
    IS(pwrite(far, "four.", 5, 0) == 5); /* Linux appends that, too */
    VALUE("text", "%s", text_at_b("f"));
    see("f");
    VALUE("position after an append", "%lld", (long long)lseek(far, 0, SEEK_CUR));
    IS(lseek(fd, 0, SEEK_SET) == 0);
    IS(read(fd, text, 6) == 6 && memcmp(text, "start.", 6) == 0);
    IS(write(fd, "five.", 5) == 5);
    T_OK(ftruncate(fd, 3));
    IS(write(far, "END", 3) == 3);
    VALUE("text", "%s", text_at_b("f"));
    int plain = T_OK(open("f", O_RDWR | O_CLOEXEC));
    T_OK(fcntl(plain, F_SETFL, O_APPEND));
    IS(write(plain, "+", 1) == 1);
    T_OK(fcntl(plain, F_SETFL, 0));
    IS(pwrite(plain, "!", 1, 0) == 1);
    VALUE("text", "%s", text_at_b("f"));
    FAILS(EINVAL, ({ loff_t in = 0, out = 0; (void)in; copy_file_range(plain, &in, fd, &out, 2, 0); }) < 0 && errno == EBADF ? (errno = EINVAL, -1) : -1);
    char *map = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    DO(map == MAP_FAILED ? -1 : 0);
    IS(map != MAP_FAILED && map[1] == 't');
    if (map != MAP_FAILED) {
        map[1] = 'M';
        T_OK(msync(map, BLOCK, MS_SYNC));
    }
    VALUE("text", "%s", text_at_b("f"));
}

static void tmpfile_links(void)
{
    char proc[40], text[10] = {0};
    T_OK(mkdir("d", 0755));
    int fd = (int)DO(open("d", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640));
    see_fd("unnamed", fd);
    see_names("d");
    IS(write(fd, "hello", 5) == 5);
    DO(fchmod(fd, 0604));
    DO(ftruncate(fd, 4));
    see_fd("unnamed", fd);
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    FAILS(EEXIST, ({ put("there", "x"); linkat(AT_FDCWD, proc, AT_FDCWD, "there", AT_SYMLINK_FOLLOW); }));
    DO(linkat(AT_FDCWD, proc, AT_FDCWD, "d/named", AT_SYMLINK_FOLLOW));
    see("d/named");
    VALUE("text", "%s", text_at_b("d/named"));
    DO(linkat(fd, "", AT_FDCWD, "second", AT_EMPTY_PATH));
    see("second");
    IS(pread(fd, text, 9, 0) == 4);
    close(fd);
    see_names("d");
    VALUE("text", "%s", text_at_b("second"));
    fd = (int)DO(open("d", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0640));
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    FAILS(ENOENT, linkat(AT_FDCWD, proc, AT_FDCWD, "d/never", AT_SYMLINK_FOLLOW));
    close(fd);
    FAILS(EINVAL, open("d", O_TMPFILE | O_RDONLY, 0640));
    FAILS(ENOTDIR, open("second", O_TMPFILE | O_RDWR, 0640));
    FAILS(ENOENT, open("none", O_TMPFILE | O_RDWR, 0640));
    AS(ALICE, STAFF) {
        FAILS(EACCES, open("d", O_TMPFILE | O_RDWR, 0640));
        fd = (int)DO(open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640));
        see_fd("unnamed", fd);
        snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
        DO(linkat(AT_FDCWD, proc, AT_FDCWD, "alices", AT_SYMLINK_FOLLOW));
        see("alices");
    }
    fd = (int)DO(open("d", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0));
    see_fd("unnamed, mode 0", fd);
    IS(write(fd, "x", 1) == 1);
}

/* One of N makers wins. */
static void exclusive(void)
{
    int pipes[2];
    T_OK(pipe(pipes));
    for (int round = 0; round < 10; round++) {
        char  name[20];
        pid_t child[6];
        int   won = 0, status;
        snprintf(name, sizeof name, "e%d", round);
        for (int i = 0; i < 6; i++) {
            if ((child[i] = T_OK(fork())) == 0)
                _exit(open(i & 1 ? B(name) : name, O_CREAT | O_EXCL | O_WRONLY, 0644) >= 0 ? 1 : errno == EEXIST ? 0 : 2);
        }
        for (int i = 0; i < 6; i++) {
            T_OK(waitpid(child[i], &status, 0));
            won += WIFEXITED(status) ? WEXITSTATUS(status) : 100;
        }
        IS(won == 1);
    }
}

/* Inode flags and extents are not passed on by FUSE to a daemon that has no ioctl (see deliberate.txt). */
static void ioctls(void)
{
    int flags = 0, waiting = -1;
    put("f", "0123456789");
    int fd = T_OK(open("f", O_RDWR | O_CLOEXEC));
    VALUE("FS_IOC_GETFLAGS", "%s", ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 ? strerrorname_np(errno) : "ok");
    VALUE("FIONREAD", "%s %d", ioctl(fd, FIONREAD, &waiting) < 0 ? strerrorname_np(errno) : "ok", waiting);
    FAILS(ENOTTY, ioctl(fd, TIOCGWINSZ, &flags));
}

/* RLIMIT_FSIZE */
static void limit(void)
{
    put("f", "0123456789");
    signal(SIGXFSZ, SIG_IGN);
    T_OK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){5000, 5000}));
    int fd = T_OK(open("f", O_RDWR | O_CLOEXEC));
    static char bytes[8000];
    VALUE("write across the limit", "%zd", pwrite(fd, bytes, sizeof bytes, 0));
    FAILS(EFBIG, pwrite(fd, bytes, 1, 5000));
    FAILS(EFBIG, ftruncate(fd, 5001));
    FAILS(EFBIG, fallocate(fd, 0, 0, 5001));
    DO(ftruncate(fd, 5000));
    int app = T_OK(open("f", O_WRONLY | O_APPEND | O_CLOEXEC));
    FAILS(EFBIG, write(app, bytes, 1));
    see("f");
}

const struct posix_case posix_open[] = {{"flags", flags}, {"append", append}, {"tmpfile", tmpfile_links}, {"exclusive", exclusive}, {"ioctl", ioctls}, {"limit", limit}, {0}};

/* ---- files without a name ---- */
static void use(const char *what, int fd, int far)
{
    char text[40] = {0}, step[60];
    snprintf(step, sizeof step, "%s here", what);
    see_fd(step, fd);
    snprintf(step, sizeof step, "%s there", what);
    see_fd(step, far);
    IS(pread(fd, text, 4, 0) == 4 && memcmp(text, "text", 4) == 0);
    IS(pread(far, text, 4, 0) == 4 && memcmp(text, "text", 4) == 0);
    IS(pwrite(fd, "written here", 12, 10) == 12);
    IS(pread(far, text, 12, 10) == 12 && memcmp(text, "written here", 12) == 0);
    IS(pwrite(far, "written there", 13, 10000) == 13);
    IS(pread(fd, text, 13, 10000) == 13 && memcmp(text, "written there", 13) == 0);
    DO(ftruncate(far, 8000));
    snprintf(step, sizeof step, "%s here, cut", what);
    see_fd(step, fd);
    IS(pread(fd, text, 13, 10000) == 0);
    DO(fallocate(fd, 0, 0, 20000));
    DO(fchmod(far, 0611));
    DO(fchown(fd, ALICE, STAFF));
    DO(fsync(fd));
    DO(fsync(far));
    snprintf(step, sizeof step, "%s there, changed", what);
    see_fd(step, far);
    char proc[40];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    int again = (int)DO(open(proc, O_RDWR | O_CLOEXEC));
    IS(pread(again, text, 4, 0) == 4 && memcmp(text, "text", 4) == 0);
    char *map = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
    IS(map != MAP_FAILED && memcmp(map, "text", 4) == 0);
    if (map != MAP_FAILED) {
        map[100] = 'm';
        T_OK(msync(map, BLOCK, MS_SYNC));
        IS(pread(far, text, 1, 100) == 1 && text[0] == 'm');
    }
    FAILS(ENOENT, linkat(AT_FDCWD, proc, AT_FDCWD, "revived", AT_SYMLINK_FOLLOW));
}

static void unlinked(void)
{
    put("f", "text of it");
    int fd = T_OK(open("f", O_RDWR | O_CLOEXEC)), far = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    DO(unlink("f"));
    FAILS(ENOENT, access(B("f"), F_OK));
    put("f", "another");
    use("unlinked", fd, far);
    VALUE("the new one", "%s", text_at_b("f"));
    put("g", "text of it");
    fd = T_OK(open("g", O_RDWR | O_CLOEXEC)), far = T_OK(open(B("g"), O_RDWR | O_CLOEXEC));
    DO(unlink(B("g")));
    use("unlinked there", fd, far);
}

static void renamed_over(void)
{
    put("f", "text of it"), put("g", "another");
    int fd = T_OK(open("f", O_RDWR | O_CLOEXEC)), far = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    DO(rename("g", "f"));
    use("renamed over", fd, far);
    VALUE("the new one", "%s", text_at_b("f"));
    see_names(".");
}

/* Only the other side has it open. */
static void open_elsewhere(void)
{
    char text[20] = {0};
    for (int i = 0; i < 20; i++) {
        char name[20];
        snprintf(name, sizeof name, "f%d", i);
        put_pattern(name, 100000, (uint64_t)i);
        int far = T_OK(open(B(name), O_RDWR | O_CLOEXEC));
        T_OK(unlink(name));
        T_THAT(pread(far, text, 10, 50000) == 10, "cannot be read: %s", strerror(errno));
        T_THAT(pwrite(far, text, 10, 90000) == 10, "cannot be written: %s", strerror(errno));
        struct stat st;
        T_OK(fstat(far, &st));
        T_THAT(st.st_nlink == 0 && st.st_size == 100000, "links %lu", (unsigned long)st.st_nlink);
        T_OK(close(far));
    }
    IS(true);
    see_names(".");
}

static void directory(void)
{
    struct stat st;
    T_OK(mkdir("d", 0755));
    int fd = T_OK(open("d", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), far = T_OK(open(B("d"), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    DO(rmdir("d"));
    T_OK(mkdir("d", 0700));
    see_fd("removed", fd);
    see_fd("removed, there", far);
    FAILS(ENOENT, fstatat(far, "x", &st, 0));
    FAILS(ENOENT, mkdirat(far, "x", 0755));
    FAILS(ENOENT, symlinkat("y", fd, "x"));
    DO(fchmod(fd, 0711));
    see_fd("removed, there", far);
    see("d");
}

const struct posix_case posix_orphan[] = {
    {"unlinked", unlinked}, {"renamed", renamed_over}, {"elsewhere", open_elsewhere}, {"directory", directory}, {0},
};
