/* SPDX-License-Identifier: Apache-2.0 */
/* posix_data.c - all that a program does with a file's bytes and attributes, once each, in the directory it is
 * started in: fallocate and holes, files beyond 4 GiB, append, vectors, direct and mapped I/O, copies inside the
 * kernel, xattrs, times, locks, statfs. Output as told in probe.h; for comparison with the same in a plain directory.
 */
#include "probe.h"

#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <utime.h>

enum { BLOCK = 4096 };
static const long long GIB = 1LL << 30;

static int make_pattern(const char *name, size_t size, int flags)
{
    int      fd = T_OK(open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0644));
    uint8_t *bytes = malloc(size + 1);
    uint64_t rng = 42;
    t_random_fill(&rng, bytes, size);
    t_pwrite(fd, bytes, size, 0);
    free(bytes);
    return fd;
}

/* A sum of all bytes of a file and its size: enough to compare two runs of the same steps. */
static void show_bytes(const char *what, int fd)
{
    struct stat st;
    uint8_t     buffer[BLOCK];
    uint64_t    sum = 14695981039346656037ULL;
    size_t      n;
    T_OK(fstat(fd, &st));
    for (uint64_t at = 0; (n = t_pread(fd, buffer, sizeof buffer, at)) > 0; at += n)
        for (size_t i = 0; i < n; i++)
            sum = (sum ^ buffer[i]) * 1099511628211ULL;
    VALUE(what, "size %lld, bytes %016llx", (long long)st.st_size, (unsigned long long)sum);
}

static void show_holes(const char *what, int fd)
{
    off_t at = 0;
    T_OK(fsync(fd));
    for (int i = 0; i < 20; i++) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0) {
            VALUE(what, "no data after %lld: %s", (long long)at, strerrorname_np(errno));
            return;
        }
        at = T_OK(lseek(fd, data, SEEK_HOLE));
        VALUE(what, "data %lld .. %lld", (long long)data, (long long)at);
    }
}

static void holes(void)
{
    int fd = make_pattern("holes", 20 * BLOCK, 0);
    show_bytes("20 blocks", fd);
    TRY("fallocate KEEP_SIZE", fallocate(fd, FALLOC_FL_KEEP_SIZE, 16 * BLOCK, 16 * BLOCK));
    show_bytes("after KEEP_SIZE", fd);
    TRY("fallocate", fallocate(fd, 0, 30 * BLOCK, 2 * BLOCK));
    show_bytes("after fallocate", fd);
    TRY("PUNCH_HOLE of blocks", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * BLOCK, 4 * BLOCK));
    show_bytes("after PUNCH_HOLE", fd);
    show_holes("holes", fd);
    TRY("PUNCH_HOLE of odd bytes", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10 * BLOCK + 100, 5000));
    show_bytes("after odd PUNCH_HOLE", fd);
    TRY("ZERO_RANGE", fallocate(fd, FALLOC_FL_ZERO_RANGE, 14 * BLOCK + 7, 9001));
    show_bytes("after ZERO_RANGE", fd);
    TRY("ZERO_RANGE that extends", fallocate(fd, FALLOC_FL_ZERO_RANGE, 31 * BLOCK, 3 * BLOCK + 5));
    show_bytes("after extending ZERO_RANGE", fd);
    REFUSED("PUNCH_HOLE without KEEP_SIZE", fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, BLOCK), EOPNOTSUPP);
    REFUSED("fallocate of nothing", fallocate(fd, 0, 0, 0), EINVAL);
    close(fd);
    fd = T_OK(open("large", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    t_pwrite(fd, "far", 3, (uint64_t)(5 * GIB + 1234));
    t_pwrite(fd, "near", 4, 100);
    VALUE("size of a file beyond 4 GiB", "%lld", (long long)probe_stat("large").st_size);
    T_THAT(probe_stat("large").st_blocks < 1000, "the sparse file takes space");
    show_holes("sparse", fd);
    char buffer[8] = {0};
    T_THAT(t_pread(fd, buffer, 8, (uint64_t)(5 * GIB + 1234)) == 3 && memcmp(buffer, "far", 3) == 0,
           "bytes beyond 4 GiB are lost");
    T_THAT(t_pread(fd, buffer, 8, (uint64_t)(4 * GIB)) == 8 && memcmp(buffer, "\0\0\0\0\0\0\0\0", 8) == 0,
           "a hole that is not zero");
    TRY("ftruncate to 6 GiB", ftruncate(fd, 6 * GIB));
    T_THAT(lseek(fd, 0, SEEK_END) == 6 * GIB, "SEEK_END");
    REFUSED("SEEK_DATA behind the end", lseek(fd, 7 * GIB, SEEK_DATA), ENXIO);
    close(fd);
}

static void ways_to_write(void)
{
    char         text[64] = {0};
    struct iovec out[3] = {{"one ", 4}, {"two ", 4}, {"three", 5}}, in[2] = {{text, 6}, {text + 6, 50}};
    int          fd = T_OK(open("ways", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    VALUE("writev", "%zd", writev(fd, out, 3));
    VALUE("preadv", "%zd %s", preadv(fd, in, 2, 2), text);
    VALUE("read at the end", "%zd", read(fd, text, 10));
    REFUSED("lseek before the start", lseek(fd, -1, SEEK_SET), EINVAL);
    close(fd);
    fd = T_OK(open("ways", O_RDWR | O_APPEND | O_CLOEXEC));
    VALUE("append", "%zd", write(fd, " four", 5));
    VALUE("offset after it", "%lld", (long long)lseek(fd, 0, SEEK_CUR));
    show_text("text", "ways");
    close(fd);
    fd = T_OK(open("ways", O_RDONLY | O_CLOEXEC));
    REFUSED("write to a read-only descriptor", write(fd, "x", 1), EBADF);
    REFUSED("ftruncate through one", ftruncate(fd, 1), EINVAL);
    close(fd);
    TRY("truncate shorter", truncate("ways", 5));
    TRY("truncate longer", truncate("ways", 9000));
    fd = T_OK(open("ways", O_RDONLY | O_CLOEXEC));
    show_bytes("after the truncations", fd);
    close(fd);

    uint8_t *aligned = aligned_alloc(BLOCK, 3 * BLOCK);
    fd = (int)TRY("O_DIRECT", open("direct", O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0644));
    memset(aligned, 'D', 3 * BLOCK);
    VALUE("direct write", "%zd", pwrite(fd, aligned, 3 * BLOCK, BLOCK));
    VALUE("direct read", "%zd", pread(fd, aligned, 2 * BLOCK, 0));
    T_THAT(aligned[BLOCK - 1] == 0 && aligned[BLOCK] == 'D', "direct I/O gives the wrong bytes");
    TRY("fsync", fsync(fd));
    TRY("fdatasync", fdatasync(fd));
    close(fd);
    fd = T_OK(open("direct", O_RDONLY | O_CLOEXEC));
    show_bytes("read without O_DIRECT", fd);
    close(fd);
    free(aligned);
    fd = T_OK(open("sync", O_WRONLY | O_CREAT | O_SYNC | O_CLOEXEC, 0644));
    VALUE("O_SYNC write", "%zd", write(fd, "sync", 4));
    close(fd);
    fd = T_OK(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    TRY("fsync of a directory", fsync(fd));
    TRY("syncfs", syncfs(fd));
    close(fd);
}

static void mapped(void)
{
    int      fd = make_pattern("mapped", 3 * BLOCK + 10, 0);
    uint8_t *map = T_OK(mmap(NULL, 4 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)), got[16];
    memcpy(map + BLOCK - 4, "crosses", 7);
    T_THAT(t_pread(fd, got, 7, BLOCK - 4) == 7 && memcmp(got, "crosses", 7) == 0,
           "read does not see the mapping's store");
    t_pwrite(fd, "written", 7, 2 * BLOCK);
    T_THAT(memcmp(map + 2 * BLOCK, "written", 7) == 0, "the mapping does not see the write");
    map[3 * BLOCK + 9] = 'E';
    TRY("msync", msync(map, 4 * BLOCK, MS_SYNC));
    munmap(map, 4 * BLOCK);
    show_bytes("after mapped stores", fd);
    map = T_OK(mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
    map[0] = '?';
    munmap(map, BLOCK);
    close(fd);
    fd = T_OK(open("mapped", O_RDONLY | O_CLOEXEC));
    show_bytes("opened again", fd);
    close(fd);
}

static void copies(void)
{
    int   in = make_pattern("copy-in", 100000, 0), out = T_OK(open("copy-out", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    off_t from = 1000, to = 77;
    VALUE("copy_file_range", "%zd", copy_file_range(in, &from, out, &to, 50000, 0));
    show_bytes("its bytes", out);
    from = 5;
    T_OK(lseek(out, 60000, SEEK_SET));
    VALUE("sendfile", "%zd", sendfile(out, in, &from, 30000));
    show_bytes("its bytes", out);
    close(in);
    close(out);
}

static void attributes(void)
{
    char            value[4096], list[4096];
    struct timespec both[2] = {{1000000001, 111111111}, {1500000002, 999999999}},
                    now[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};
    make_file("attr", "attributes");
    TRY("utimensat", utimensat(AT_FDCWD, "attr", both, 0));
    struct stat st = probe_stat("attr");
    VALUE("times", "%lld.%09ld %lld.%09ld", (long long)st.st_atim.tv_sec, st.st_atim.tv_nsec,
          (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    TRY("utimensat NOW and OMIT", utimensat(AT_FDCWD, "attr", now, 0));
    VALUE("mtime is later, atime is not", "%d %lld", probe_stat("attr").st_mtim.tv_sec > 1500000002,
          (long long)probe_stat("attr").st_atim.tv_sec);
    T_OK(utimensat(AT_FDCWD, "attr", both, 0));
    int fd = T_OK(open("attr", O_WRONLY | O_CLOEXEC));
    t_pwrite(fd, "A", 1, 0);
    close(fd);
    T_THAT(probe_stat("attr").st_mtim.tv_sec > 1500000002, "a write does not move the mtime");
    both[1].tv_sec = -86400;
    TRY("a time before 1970", utimensat(AT_FDCWD, "attr", both, 0));
    VALUE("is", "%lld", (long long)probe_stat("attr").st_mtim.tv_sec);
    T_OK(symlink("attr", "attr-link"));
    TRY("times of a symlink", utimensat(AT_FDCWD, "attr-link", both, AT_SYMLINK_NOFOLLOW));
    VALUE("are", "%lld", (long long)probe_stat("attr-link").st_mtim.tv_sec);
    TRY("chmod", chmod("attr", 06751));
    TRY("chown", chown("attr", 1234, 4321));
    show("after chmod and chown by root", "attr");
    TRY("lchown", lchown("attr-link", 12, 34));
    show("the link", "attr-link");

    TRY("setxattr", setxattr("attr", "user.one", "first", 5, XATTR_CREATE));
    REFUSED("setxattr CREATE again", setxattr("attr", "user.one", "x", 1, XATTR_CREATE), EEXIST);
    REFUSED("setxattr REPLACE of nothing", setxattr("attr", "user.two", "x", 1, XATTR_REPLACE), ENODATA);
    TRY("setxattr empty", setxattr("attr", "user.empty", "", 0, 0));
    memset(value, 'v', 1000);
    TRY("setxattr of 1000 bytes", setxattr("attr", "user.long", value, 1000, 0));
    VALUE("getxattr", "%zd %.5s", getxattr("attr", "user.one", value, sizeof value), value);
    VALUE("getxattr size", "%zd %zd", getxattr("attr", "user.long", NULL, 0),
          getxattr("attr", "user.empty", value, 10));
    REFUSED("getxattr into too little room", getxattr("attr", "user.long", value, 10), ERANGE);
    REFUSED("getxattr of nothing", getxattr("attr", "user.none", value, 10), ENODATA);
    ssize_t n = listxattr("attr", list, sizeof list), names = 0;
    for (ssize_t i = 0; i < n; i++)
        names += memcmp(list + i, "user.", i + 5 <= n ? 5 : 0) == 0 && i + 5 <= n;
    VALUE("listxattr", "%zd user names in %zd bytes", names, n);
    TRY("removexattr", removexattr("attr", "user.one"));
    REFUSED("getxattr after it", getxattr("attr", "user.one", value, 10), ENODATA);
    TRY("trusted xattr", setxattr("attr", "trusted.t", "t", 1, 0));
    T_OK(mkdir("attr-dir", 0755));
    TRY("xattr of a directory", setxattr("attr-dir", "user.d", "d", 1, 0));
    VALUE("is", "%zd", getxattr("attr-dir", "user.d", value, 10));

    struct statvfs fs;
    TRY("statvfs", statvfs(".", &fs));
    VALUE("statvfs", "block %lu fragment %lu name %lu", fs.f_bsize, fs.f_frsize, fs.f_namemax);
    T_THAT(fs.f_blocks > 0 && fs.f_bfree <= fs.f_blocks && fs.f_bavail <= fs.f_bfree && fs.f_files > 0,
           "statvfs gives nonsense");
}

/* 1 if another process is refused the lock; it works on a descriptor of its own. */
static int other_is_refused(int kind)
{
    fflush(stdout);
    pid_t child = T_OK(fork());
    if (child == 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 50, .l_len = 10};
        int          fd = open("locked", O_RDWR | O_CLOEXEC);
        int result = kind == 0 ? flock(fd, LOCK_EX | LOCK_NB) : fcntl(fd, kind == 1 ? F_SETLK : F_OFD_SETLK, &lock);
        _exit(result == 0 ? 0 : errno == EAGAIN || errno == EACCES ? 1 : 2);
    }
    int status;
    T_OK(waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}

static void locks(void)
{
    static const char *const kinds[] = {"flock", "POSIX lock", "OFD lock"};
    make_file("locked", "locked");
    for (int kind = 0; kind < 3; kind++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 100};
        int          fd = T_OK(open("locked", O_RDWR | O_CLOEXEC));
        TRY(kinds[kind], kind == 0 ? flock(fd, LOCK_EX) : fcntl(fd, kind == 1 ? F_SETLK : F_OFD_SETLK, &lock));
        int held = other_is_refused(kind);
        VALUE("another process", "%s", held == 1 ? "is refused" : "gets it");
        T_THAT(held == 1, "the lock does not exclude");
        close(fd);
        int left = other_is_refused(kind);
        VALUE("after close", "%s", left == 0 ? "gets it" : "is refused");
        T_THAT(left == 0, "the lock outlives close()");
    }
}

int main(void)
{
    umask(022);
    setvbuf(stdout, NULL, _IOLBF, 0);
    holes();
    ways_to_write();
    mapped();
    copies();
    attributes();
    locks();
    return 0;
}
