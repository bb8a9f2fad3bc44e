/* SPDX-License-Identifier: Apache-2.0 */
/* names.c - names of any bytes and lengths, links and their counts, symbolic links, special files. */
#include "posix.h"

#include <limits.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/vfs.h>

static void any_bytes(void)
{
    T_OK(mkdir("d", 0755));
    for (int c = 1; c < 256; c++) {
        char name[10] = "d/x", one[4] = "d/";
        if (c == '/')
            continue;
        name[3] = (char)c;
        put(name, "x");
        one[2] = (char)c;
        if (c != '.')
            put(one, "y");
        T_THAT(access(B(name), F_OK) == 0, "byte %d is lost", c);
    }
    see_names("d");
    put("d/\xf0\x9f\x98\x80 \xc3\xa4 \xff\xfe\x80", "x");
    put("d/ -rf *\n\t\\\"'`$(x)", "x");
    put("d/...", "x");
    see_names("d");
    DO(unlink(B("d/\xf0\x9f\x98\x80 \xc3\xa4 \xff\xfe\x80")));
    DO(access("d/\xf0\x9f\x98\x80 \xc3\xa4 \xff\xfe\x80", F_OK));
    DO(access("d/A", F_OK)); /* names are not folded */
    DO(unlink("d/A"));
    DO(access(B("d/a"), F_OK));
    DO(access(B("d/A"), F_OK));
    FAILS(ENOENT, open("", O_RDONLY));
    FAILS(ENOENT, mkdir("", 0755));
    DO(access("d/../d/./a", F_OK));
    FAILS(EEXIST, mkdir("d/.", 0755));
    FAILS(EEXIST, mkdir("d/..", 0755));
    FAILS(EINVAL, rmdir("d/."));
    FAILS(ENOTEMPTY, rmdir("d/.."));
    DO(access("d/", F_OK));
    FAILS(ENOTDIR, access("d/a/", F_OK));
    FAILS(EISDIR, open("d/new/", O_CREAT | O_WRONLY, 0644));
    DO(mkdir("e/", 0755));
    DO(rmdir("e/"));
}

static void lengths(void)
{
    static char name[PATH_MAX + 10];
    for (size_t n = 254; n <= 257; n++) {
        char step[40];
        memset(name, 'n', n);
        name[n] = 0;
        snprintf(step, sizeof step, "a name of %zu", n);
        STEP(step, open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644) < 0 ? -1 : 0);
        STEP(step, access(B(name), F_OK));
        STEP(step, mkdir(name, 0755));
        STEP(step, unlink(name));
        STEP(step, mkdir(name, 0755));
        STEP(step, rmdir(name));
        STEP(step, symlink("x", name));
        STEP(step, rename(name, "short"));
        STEP(step, rename("short", name));
        STEP(step, link(name, "other"));
        STEP(step, unlink("other"));
        STEP(step, mkfifo(name, 0644));
        STEP(step, unlink(name));
    }
    for (size_t n = PATH_MAX - 2; n <= PATH_MAX + 1; n++) {
        char step[40];
        memset(name, '/', n);
        memcpy(name, "./", 2);
        name[n - 1] = 'f';
        name[n] = 0;
        snprintf(step, sizeof step, "a path of %zu", n);
        STEP(step, open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644) < 0 ? -1 : 0);
        STEP(step, unlink(name));
    }
    see_names(".");
    char deep[256];
    memset(deep, 'd', 255);
    deep[255] = 0;
    int dir = T_OK(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)), far = T_OK(open(B("."), O_PATH | O_DIRECTORY | O_CLOEXEC));
    for (int i = 0; i < 40; i++) { /* much deeper than PATH_MAX */
        T_OK(mkdirat(dir, deep, 0755));
        dir = T_OK(openat(dir, deep, O_PATH | O_DIRECTORY | O_CLOEXEC));
        far = T_OK(openat(far, deep, O_PATH | O_DIRECTORY | O_CLOEXEC));
    }
    DO(close((int)T_OK(openat(dir, "bottom", O_CREAT | O_WRONLY | O_CLOEXEC, 0644))));
    DO(faccessat(far, "bottom", F_OK, 0));
    DO(unlinkat(far, "bottom", 0));
    FAILS(ENOENT, faccessat(dir, "bottom", F_OK, 0));
}

static void classic_errors(void)
{
    put("f", "x");
    T_OK(mkdir("d", 0755));
    put("d/x", "x");
    T_OK(symlink("none", "dangling"));
    FAILS(ENOENT, open("none", O_RDONLY));
    FAILS(ENOENT, open("none/x", O_CREAT | O_WRONLY, 0644));
    FAILS(ENOTDIR, open("f/x", O_CREAT | O_WRONLY, 0644));
    FAILS(ENOTDIR, mkdir("f/x", 0755));
    FAILS(ENOTDIR, rmdir("f"));
    FAILS(EISDIR, unlink("d"));
    FAILS(ENOTEMPTY, rmdir("d"));
    FAILS(ENOTEMPTY, rmdir(B("d")));
    FAILS(EEXIST, mkdir("d", 0755));
    FAILS(EEXIST, mkdir("f", 0755));
    FAILS(EEXIST, mkdir("dangling", 0755));
    FAILS(EEXIST, symlink("x", "f"));
    FAILS(EEXIST, symlink("x", B("d")));
    FAILS(EEXIST, mkfifo("f", 0644));
    FAILS(EEXIST, link("f", "d"));
    FAILS(EPERM, link("d", "d2"));
    FAILS(ENOENT, link("none", "f2"));
    FAILS(EXDEV, link("f", "/dev/shm/hearthfs-none"));
    FAILS(EXDEV, rename("f", "/dev/shm/hearthfs-none"));
    FAILS(EISDIR, open("d", O_WRONLY));
    FAILS(EISDIR, open("d", O_RDWR));
    FAILS(EISDIR, open("d", O_CREAT | O_RDONLY, 0644));
    FAILS(EISDIR, truncate("d", 0));
    FAILS(ENOTDIR, open("f", O_RDONLY | O_DIRECTORY));
    FAILS(ENOTDIR, chdir("f"));
    FAILS(ENOENT, unlink("none"));
    FAILS(ENOENT, rmdir("none"));
    FAILS(ENOENT, truncate("none", 0));
    FAILS(ENOTDIR, unlink("f/x"));
    FAILS(EINVAL, truncate("f", -1));
    FAILS(ENOENT, open("dangling", O_RDONLY));
    DO(close((int)T_OK(open("dangling", O_CREAT | O_WRONLY | O_CLOEXEC, 0644))));
    see("none");
    int fd = T_OK(open("d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    char byte;
    FAILS(EISDIR, read(fd, &byte, 1));
    FAILS(EBADF, write(fd, &byte, 1));
    FAILS(EINVAL, ftruncate(fd, 0));
    T_OK(unlink("d/x"));
    DO(rmdir(B("d")));
    FAILS(ENOENT, openat(fd, "new", O_CREAT | O_WRONLY, 0644)); /* removed, and still open */
    FAILS(ENOENT, mkdirat(fd, "new", 0755));
    see_fd("a removed directory", fd);
    char buffer[1024];
    VALUE("its entries", "%d", (int)getdents64(fd, buffer, sizeof buffer));
    close(fd);
}

static void cwd_removed(void)
{
    struct stat st;
    char        path[PATH_MAX];
    T_OK(mkdir("d", 0755));
    T_OK(chdir("d"));
    T_OK(rmdir("../d"));
    FAILS(ENOENT, open("x", O_CREAT | O_WRONLY, 0644));
    FAILS(ENOENT, mkdir("x", 0755));
    DO(stat(".", &st));
    VALUE("links", "%lu", (unsigned long)st.st_nlink);
    FAILS(ENOENT, getcwd(path, sizeof path) ? 0 : -1);
}

static int bind_to(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int                fd = T_OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return -1;
    T_OK(listen(fd, 1));
    return fd;
}

static int connect_to(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int                fd = T_OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}

static void special(void)
{
    char byte = 0;
    DO(mkfifo("p", 0644));
    see("p");
    CHILD {
        if (fork() == 0) {
            int out = T_OK(open("p", O_WRONLY | O_CLOEXEC));
            T_OK(write(out, "!", 1));
            _exit(0);
        }
        int in = T_OK(open("p", O_RDONLY | O_CLOEXEC));
        IS(read(in, &byte, 1) == 1 && byte == '!');
    }
    DO(bind_to("s"));
    see("s");
    DO(connect_to("s"));
    FAILS(EADDRINUSE, bind_to("s"));
    FAILS(ENXIO, open("s", O_RDONLY));
    FAILS(ECONNREFUSED, ({ T_OK(mknod("s2", S_IFSOCK | 0644, 0)); connect_to("s2"); }));
    DO(mknod("r", S_IFREG | 0600, 0));
    see("r");
    FAILS(EINVAL, mknod("bad", S_IFLNK | 0600, 0));
    see_names(".");
    DO(unlink(B("p")));
    DO(unlink("s"));
    see_names(".");
}

static void statistics(void)
{
    struct statvfs one, two;
    struct statfs  fs;
    T_OK(statvfs(".", &one));
    T_OK(statvfs(B("."), &two));
    VALUE("statvfs", "block %lu fragment %lu names %lu, same: %d", one.f_bsize, one.f_frsize, one.f_namemax, one.f_blocks == two.f_blocks && one.f_files == two.f_files);
    T_OK(statfs(".", &fs));
    IS(fs.f_blocks > 0 && fs.f_bfree > 0 && fs.f_files > 0 && fs.f_bavail <= fs.f_bfree);
    put("f", "x");
    int fd = T_OK(open("f", O_RDONLY | O_CLOEXEC));
    DO(fstatvfs(fd, &one));
    VALUE("PC_NAME_MAX", "%ld, PC_LINK_MAX %ld, PC_PATH_MAX %ld", pathconf(".", _PC_NAME_MAX), pathconf(".", _PC_LINK_MAX), pathconf(".", _PC_PATH_MAX));
}

const struct posix_case posix_names[] = {
    {"bytes", any_bytes}, {"lengths", lengths}, {"errors", classic_errors}, {"cwd", cwd_removed}, {"special", special}, {"statfs", statistics}, {0},
};

/* ---- links ---- */
static void hard(void)
{
    put("f", "text");
    T_OK(mkdir("d", 0755));
    DO(link("f", "g"));
    DO(link(B("f"), B("d/h")));
    see("f"), see("g"), see("d/h");
    struct stat a, b;
    T_OK(stat("f", &a));
    T_OK(stat(B("d/h"), &b));
    IS(a.st_ino == b.st_ino);
    DO(chmod("g", 0600));
    see("f"), see("d/h");
    put("d/h", "changed by another name");
    VALUE("text", "%s", text_at_b("f"));
    DO(unlink("f"));
    see("g"), see("f");
    DO(unlink(B("g")));
    see("d/h");
    T_OK(symlink("d/h", "s"));
    DO(link("s", "s2")); /* the link itself */
    see("s"), see("s2");
    DO(linkat(AT_FDCWD, "s", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW));
    see("followed");
    T_OK(mkfifo("p", 0644));
    DO(link("p", "p2"));
    see("p2");
    int fd = T_OK(open("d/h", O_RDONLY | O_CLOEXEC));
    DO(linkat(fd, "", AT_FDCWD, "empty", AT_EMPTY_PATH));
    see("empty");
    FAILS(ENOENT, linkat(fd, "", AT_FDCWD, "empty2", 0));
    AS(BOB, GUESTS) {
        DO(link("d/h", "bobs")); /* depends on fs.protected_hardlinks */
        DO(link("d/h", "d/bobs"));
    }
}

static void counts(void)
{
    T_OK(mkdir("d", 0755));
    see("d");
    DO(mkdir("d/1", 0755));
    DO(mkdir(B("d/2"), 0755));
    put("d/f", "x");
    see("d");
    DO(mkdir("d/1/x", 0755));
    see("d"), see("d/1");
    DO(rename("d/1/x", "d/2/x"));
    see("d/1"), see("d/2");
    DO(rename(B("d/2/x"), B("x")));
    see("d/2"), see(".");
    DO(rmdir("x"));
    see(".");
    DO(rmdir("d/1"));
    DO(rmdir("d/2"));
    see("d");
    T_OK(mkdir("e", 0755));
    T_OK(mkdir("e/sub", 0755));
    T_OK(mkdir("gone", 0755));
    int fd = T_OK(open("gone", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    DO(rename("e", "gone"));
    see_fd("a directory that was renamed over", fd);
    see("gone"), see(".");
    DO(renameat2(AT_FDCWD, "gone/sub", AT_FDCWD, "d/f", RENAME_EXCHANGE));
    see("gone"), see("d");
}

/* ext4 has 65,000 links of one file. */
static void many(void)
{
    char name[40];
    int  made = 0;
    struct stat st;
    put("f", "x");
    T_OK(mkdir("d", 0755));
    for (; made < (getenv("POSIX_LONG") ? 70000 : 1500); made++) {
        snprintf(name, sizeof name, "d/%d", made);
        if (link("f", name) < 0)
            break;
    }
    if (getenv("POSIX_LONG"))
        FAILS(EMLINK, link("f", "more"));
    T_OK(stat(B("f"), &st));
    VALUE("links", "%d, counted %lu", made, (unsigned long)st.st_nlink);
    see_names("d");
    for (int i = 0; i < made; i++) {
        snprintf(name, sizeof name, "d/%d", i);
        T_OK(unlink(i & 1 ? B(name) : name));
    }
    see("f");
    see_names("d");
}

static void loops(void)
{
    static char target[PATH_MAX + 2];
    T_OK(symlink("self", "self"));
    T_OK(symlink("b", "a"));
    T_OK(symlink("a", "b"));
    FAILS(ELOOP, open("self", O_RDONLY));
    FAILS(ELOOP, open("a", O_RDONLY));
    FAILS(ELOOP, open(B("a/x"), O_CREAT | O_WRONLY, 0644));
    FAILS(ELOOP, chdir("b"));
    FAILS(ELOOP, truncate("self", 0));
    FAILS(ELOOP, chmod("a", 0600));
    put("end", "x");
    T_OK(symlink("end", "l0"));
    for (int i = 1; i <= 41; i++) {
        char from[20], to[20];
        snprintf(from, sizeof from, "l%d", i - 1);
        snprintf(to, sizeof to, "l%d", i);
        T_OK(symlink(from, to));
    }
    DO(access("l39", F_OK));
    FAILS(ELOOP, access("l40", F_OK));
    DO(access(B("l39"), F_OK));
    for (size_t n = PATH_MAX - 3; n <= PATH_MAX; n++) {
        char step[40], name[20];
        memset(target, 't', n);
        target[n] = 0;
        snprintf(step, sizeof step, "a target of %zu", n);
        snprintf(name, sizeof name, "t%zu", n);
        STEP(step, symlink(target, name));
        see(name);
        see_target(name);
    }
    FAILS(ENOENT, symlink("", "empty"));
    T_OK(symlink("\xff\x01 any bytes/", "bytes"));
    see_target("bytes");
    FAILS(EINVAL, readlink("end", target, 10));
    VALUE("a short buffer", "%zd", readlink("t4094", target, 10));
    FAILS(ENOENT, readlink("none", target, 10));
    DO(rename("bytes", "moved"));
    see_target("moved");
    DO(unlink(B("moved")));
    see_target("moved");
    T_OK(symlink("one", "again"));
    see_target("again");
    T_OK(unlink("again"));
    T_OK(symlink("another", "again"));
    see_target("again");
}

const struct posix_case posix_links[] = {{"hard", hard}, {"counts", counts}, {"many", many}, {"loops", loops}, {0}};
