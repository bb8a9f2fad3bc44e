/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trees.c - what needs a tree that is prepared for it.
 *   readonly  a tree in which readonly.prepare has run, mounted read-only since: every call that changes something
 *   errors    a small file system behind the tree: ENOSPC, EDQUOT, and errors that come when dirty pages are written
 */
#include "posix.h"

#include <sys/xattr.h>

/* Run on the tree before it becomes read-only, as case readonly.prepare; in a directory that has that name. */
static void prepare(void)
{
    put("f", "text");
    T_OK(mkdir("d", 0755));
    put("d/x", "x");
    T_OK(symlink("f", "s"));
    T_OK(setxattr("f", "user.x", "1", 1, 0));
    T_OK(mkfifo("p", 0644));
}

static void all_calls(void)
{
    char text[10];
    T_OK(chdir("../readonly.prepare"));
    FAILS(EROFS, open("f", O_WRONLY));
    FAILS(EROFS, open("f", O_RDWR));
    FAILS(EROFS, open("f", O_RDONLY | O_TRUNC));
    FAILS(EROFS, open("new", O_CREAT | O_WRONLY, 0644));
    FAILS(EEXIST, open("f", O_CREAT | O_EXCL | O_WRONLY, 0644));
    DO(close(open("f", O_CREAT | O_RDONLY | O_CLOEXEC, 0644)));
    FAILS(EROFS, open(".", O_TMPFILE | O_RDWR, 0644));
    FAILS(EROFS, truncate("f", 0));
    FAILS(EROFS, mkdir("new", 0755));
    FAILS(EEXIST, mkdir("d", 0755));
    FAILS(EROFS, rmdir("d"));
    FAILS(EROFS, unlink("f"));
    FAILS(EROFS, unlink("none"));
    FAILS(EROFS, rename("f", "g"));
    FAILS(EROFS, rename("f", "d/x"));
    FAILS(EROFS, link("f", "g"));
    FAILS(EROFS, symlink("f", "new"));
    FAILS(EROFS, mkfifo("new", 0644));
    FAILS(EROFS, mknod("new", S_IFREG | 0644, 0));
    FAILS(EROFS, chmod("f", 0600));
    FAILS(EROFS, chown("f", 1, 1));
    FAILS(EROFS, lchown("s", 1, 1));
    FAILS(EROFS, utimensat(AT_FDCWD, "f", NULL, 0));
    FAILS(EROFS, setxattr("f", "user.y", "1", 1, 0));
    FAILS(EROFS, removexattr("f", "user.x"));
    FAILS(EROFS, access("f", W_OK));
    DO(access("f", R_OK));
    DO(getxattr("f", "user.x", text, sizeof text));
    int fd = (int)DO(open("f", O_RDONLY | O_CLOEXEC));
    IS(read(fd, text, 10) == 4);
    DO(fsync(fd));
    FAILS(EROFS, fchmod(fd, 0600));
    FAILS(EROFS, futimens(fd, NULL));
    uint8_t *map = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    IS(map != MAP_FAILED && map[0] == 't' && (map[0] = 'X') == 'X');
    IS(readlink("s", text, sizeof text) == 1);
    DO(open("p", O_RDONLY | O_NONBLOCK));
    see("f"), see_names("."), see_target("s"), see_bytes("f");
}

const struct posix_case posix_readonly[] = {{"prepare", prepare}, {"calls", all_calls}, {0}};

/* ---- errors of the file system behind ---- */
static long write_all(int fd, size_t size)
{
    static uint8_t bytes[1 << 16];
    memset(bytes, 'n', sizeof bytes);
    for (size_t done = 0; done < size;) {
        size_t  now = size - done < sizeof bytes ? size - done : sizeof bytes;
        ssize_t n = write(fd, bytes, now);
        if (n < 0)
            return -1;
        if (n == 0)
            return -2;
        done += (size_t)n;
    }
    return 0;
}

/* A writer that fills everything learns of it from write, fsync or close; what it had written is there. */
static void full(void)
{
    put("kept", "text of a file that is there already");
    int  fd = T_OK(open("big", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    long wrote = write_all(fd, 256u << 20);
    int  first = errno;
    int  synced = fsync(fd), second = errno;
    IS(wrote < 0 || synced < 0);
    VALUE("told", "%s", strerrorname_np(wrote < 0 ? first : second));
    int other = (int)DO(open("small", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    FAILS(ENOSPC, write_all(other, 1 << 20) < 0 ? -1 : fsync(other));
    FAILS(ENOSPC, fallocate(other, 0, 0, 1 << 20));
    uint8_t *map;
    T_OK(ftruncate(other, 1 << 20));
    map = T_OK(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0));
    VALUE("the old file", "%s", text_at_b("kept"));
    int   status;
    pid_t child = T_OK(fork());
    if (child == 0) { /* a store for which there is no room: SIGBUS at the store, or an error at msync */
        for (size_t i = 0; i < 1 << 20; i += BLOCK)
            map[i] = 'm';
        _exit(msync(map, 1 << 20, MS_SYNC) < 0 ? 1 : 0);
    }
    T_OK(waitpid(child, &status, 0));
    IS((WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) || (WIFEXITED(status) && WEXITSTATUS(status) == 1));
    struct stat st;
    T_OK(fstat(fd, &st));
    char    byte = 0;
    ssize_t got = pread(fd, &byte, 1, st.st_size - 1);
    IS(got == 1 && byte == 'n');
    close(fd), close(other);
    munmap(map, 1 << 20);
    T_OK(unlink("big"));
    T_OK(unlink("small"));
    fd = (int)DO(open("after", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    long again = -1;
    for (int i = 0; i < 500 && again < 0; i++) { /* the room of a removed file comes back when nobody has it open any more */
        again = write_all(fd, 1 << 16);
        posix_nap_ms(10);
    }
    IS(again == 0);
    DO(fsync(fd));
    DO(close(fd));
    for (int i = 0, made = 1; made && i < 100000; i++) { /* names run out, too */
        char name[20];
        snprintf(name, sizeof name, "n%d", i);
        int node = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
        if (node < 0) {
            VALUE("no more names", "%s", strerrorname_np(errno));
            FAILS(ENOSPC, mkdir("dir", 0755));
            FAILS(ENOSPC, mkdir(B("dir"), 0755));
            made = 0;
        }
        close(node);
    }
    FAILS(ENOENT, access("dir", F_OK));
}

/* The quota of ALICE is 1 MiB. */
static void quota(void)
{
    AS(ALICE, STAFF) {
        int fd = T_OK(open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
        FAILS(EDQUOT, write_all(fd, 4 << 20) < 0 ? -1 : fsync(fd));
        FAILS(EDQUOT, fallocate(fd, 0, 0, 16 << 20));
        close(fd);
    }
    AS(BOB, STAFF) {
        int fd = T_OK(open("g", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
        DO(write_all(fd, 1 << 20));
        DO(fsync(fd));
        close(fd);
    }
}

/* Writes are taken and cannot reach the disk, because its store (POSIX_STORE) is full: fsync says so, once. */
static void lost(void)
{
    const char *store = getenv("POSIX_STORE");
    T_THAT(store, "POSIX_STORE is not set");
    put_pattern("f", 4 * BLOCK, 1);
    int fd = T_OK(open("f", O_RDWR | O_CLOEXEC)), same = T_OK(open("f", O_RDWR | O_CLOEXEC));
    DO(fsync(fd));
    int fill = T_OK(open(store, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    T_THAT(write_all(fill, 1u << 30) < 0 && errno == ENOSPC, "the store does not become full");
    close(fill);
    DO(write_all(fd, 4 << 20));
    FAILS(ENOSPC, fsync(fd));
    DO(fsync(fd)); /* told once */
    VALUE("another descriptor of it", "%s", fsync(same) < 0 ? strerrorname_np(errno) : "ok");
    DO(close(fd));
    T_OK(unlink(store)); /* room again: what is written from now on is safe */
    fd = T_OK(open("f", O_RDWR | O_CLOEXEC));
    DO(write_all(fd, 1 << 20));
    DO(fsync(fd));
    put("other", "x");
    int other = T_OK(open("other", O_RDWR | O_CLOEXEC));
    DO(fsync(other));
}

const struct posix_case posix_errors[] = {{"full", full}, {"quota", quota}, {"lost", lost}, {0}};
