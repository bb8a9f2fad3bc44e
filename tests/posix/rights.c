/* SPDX-License-Identifier: Apache-2.0 */
/* rights.c - who may do what, whose new files are, and when set-id bits go. */
#include "posix.h"

#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/xattr.h>

static void file(const char *name, mode_t mode, uid_t uid, gid_t gid)
{
    put(name, "text");
    T_OK(chown(name, uid, gid));
    T_OK(chmod(name, mode));
}

static void directory(const char *name, mode_t mode, uid_t uid, gid_t gid)
{
    T_OK(mkdir(name, 0700));
    T_OK(chown(name, uid, gid));
    T_OK(chmod(name, mode));
}

/* Every combination of mode bits, for owner, group and others: what access() says and open() does. */
static void modes(void)
{
    for (mode_t mode = 0; mode < 8; mode++) {
        char name[20];
        snprintf(name, sizeof name, "u%o", mode);
        file(name, mode << 6, ALICE, STAFF);
        snprintf(name, sizeof name, "g%o", mode);
        file(name, mode << 3, BOB, STAFF);
        snprintf(name, sizeof name, "o%o", mode);
        file(name, mode, BOB, GUESTS);
        snprintf(name, sizeof name, "d%o", mode);
        directory(name, mode << 6, ALICE, STAFF);
    }
    static const char *const kinds[] = {"u", "g", "o", "d"};
    AS(ALICE, STAFF) {
        for (int kind = 0; kind < 4; kind++) {
            for (int mode = 0; mode < 8; mode++) {
                char name[20], deep[40], text[200];
                snprintf(name, sizeof name, "%s%o", kinds[kind], mode);
                snprintf(deep, sizeof deep, "%s/new", name);
                int can = (access(name, R_OK) == 0) << 2 | (access(name, W_OK) == 0) << 1 | (access(name, X_OK) == 0);
                int far = (access(B(name), R_OK) == 0) << 2 | (access(B(name), W_OK) == 0) << 1 | (access(B(name), X_OK) == 0);
                int rd = open(name, O_RDONLY | O_CLOEXEC), wr = kind == 3 ? open(deep, O_CREAT | O_WRONLY | O_CLOEXEC, 0644) : open(name, O_WRONLY | O_CLOEXEC);
                snprintf(text, sizeof text, "access %o, other side %o, open r %d w %d, B r %d", can, far, rd >= 0, wr >= 0, open(B(name), O_RDONLY) >= 0);
                VALUE(name, "%s", text);
                IS(can == mode && far == mode);
            }
        }
    }
    DO(access("u0", R_OK | W_OK));
    FAILS(EACCES, access("u0", X_OK));
    DO(access("u1", X_OK));
    see_names(".");
}

static void owner(void)
{
    file("f", 0644, ALICE, STAFF);
    AS(ALICE, STAFF, AUDIO) {
        DO(chmod("f", 0600));
        FAILS(EPERM, chown("f", BOB, (gid_t)-1));
        FAILS(EPERM, chown("f", (uid_t)-1, GUESTS));
        DO(chown("f", (uid_t)-1, AUDIO));
        DO(chown("f", ALICE, STAFF));
        DO(chown("f", (uid_t)-1, (gid_t)-1));
    }
    see("f");
    AS(BOB, STAFF) {
        FAILS(EPERM, chmod("f", 0666));
        FAILS(EPERM, chown("f", BOB, (gid_t)-1));
        FAILS(EPERM, chown("f", (uid_t)-1, STAFF));
        FAILS(EACCES, truncate("f", 0));
        FAILS(EACCES, open("f", O_RDONLY));
    }
    DO(chown("f", BOB, GUESTS));
    see("f");
    DO(chown("f", (uid_t)-1, AUDIO));
    DO(chown("f", ALICE, (gid_t)-1));
    see("f");
    T_OK(symlink("f", "s"));
    DO(lchown("s", BOB, BOB));
    see("s");
    see("f");
    DO(chown("s", BOB, (gid_t)-1));
    see("s");
    see("f");
    FAILS(EOPNOTSUPP, fchmodat(AT_FDCWD, "s", 0600, AT_SYMLINK_NOFOLLOW));
    DO(fchmodat(AT_FDCWD, "s", 0640, 0));
    see("f");
    FAILS(ENOENT, chmod("none", 0600));
    FAILS(ENOENT, chown("none", 0, 0));
    FAILS(ENOTDIR, chmod("f/x", 0600));
}

static void umasks(void)
{
    static const mode_t masks[] = {0, 022, 027, 077, 0777, 0111};
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        char name[40];
        AS(ALICE, STAFF) {
            umask(masks[i]);
            snprintf(name, sizeof name, "file%03o", masks[i]);
            close(DO(open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0666)));
            see(name);
            snprintf(name, sizeof name, "dir%03o", masks[i]);
            DO(mkdir(name, 0777));
            see(name);
            snprintf(name, sizeof name, "fifo%03o", masks[i]);
            DO(mkfifo(name, 0666));
            see(name);
            snprintf(name, sizeof name, "sticky%03o", masks[i]);
            DO(mkdir(name, 01777));
            see(name);
            int fd = (int)DO(open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0777));
            see_fd("O_TMPFILE", fd);
        }
    }
    umask(0);
    close(DO(open("suid", O_CREAT | O_WRONLY | O_CLOEXEC, 06777)));
    see("suid");
    AS(ALICE, STAFF) {
        umask(0);
        close(DO(open("usuid", O_CREAT | O_WRONLY | O_CLOEXEC, 07777)));
        see("usuid");
        DO(mkdir("udir", 07777));
        see("udir");
        DO(open("rofile", O_CREAT | O_RDWR | O_CLOEXEC, 0444));
        FAILS(EACCES, open("rofile", O_RDWR));
        int fd = (int)DO(open("wfile", O_CREAT | O_WRONLY | O_EXCL | O_CLOEXEC, 0));
        VALUE("write into a file of mode 0", "%zd", write(fd, "hello", 5));
        see("wfile");
        close(fd);
    }
    VALUE("text", "%s", text_at_b("wfile"));
}

static void sticky(void)
{
    directory("st", 01777, 0, 0);
    directory("mine", 01777, BOB, GUESTS);
    file("st/alice", 0666, ALICE, STAFF);
    file("st/alice2", 0666, ALICE, STAFF);
    file("mine/alice", 0666, ALICE, STAFF);
    directory("st/alicedir", 0777, ALICE, STAFF);
    AS(BOB, GUESTS) {
        FAILS(EPERM, unlink("st/alice"));
        FAILS(EPERM, rmdir("st/alicedir"));
        FAILS(EPERM, rename("st/alice", "st/bob"));
        FAILS(EPERM, rename("st/alice", "mine/bob"));
        put("st/bob", "b");
        FAILS(EPERM, rename("st/bob", "st/alice"));
        FAILS(EPERM, rename(B("st/alicedir"), B("st/bobdir")));
        DO(rename("st/bob", "st/bob2"));
        DO(unlink("mine/alice")); /* the directory is his */
        DO(unlink("st/bob2"));
        int fd = (int)DO(open("st/alice", O_WRONLY | O_CLOEXEC));
        VALUE("write", "%zd", write(fd, "x", 1));
        close(fd);
    }
    AS(ALICE, STAFF) {
        DO(unlink("st/alice"));
        DO(rename("st/alice2", "mine/a"));
    }
    see_names("st");
    see_names("mine");
}

static void groups(void)
{
    directory("sg", 02777, 0, GUESTS);
    directory("au", 0770, 0, AUDIO);
    file("shared", 0660, 0, AUDIO);
    AS(ALICE, STAFF, 42077, AUDIO) {
        int fd = (int)DO(open("shared", O_RDWR | O_CLOEXEC));
        VALUE("write", "%zd", write(fd, "group", 5));
        close(fd);
        DO(mkdir("au/x", 0755));
        see("au/x");
        put("sg/file", "x");
        see("sg/file");
        DO(mkdir("sg/dir", 0755));
        see("sg/dir");
        DO(mkdir("sg/dir/deep", 0700));
        see("sg/dir/deep");
        DO(symlink("x", "sg/sym"));
        see("sg/sym");
        DO(mkfifo("sg/fifo", 0644));
        see("sg/fifo");
        umask(0);
        close(DO(open("sg/exec", O_CREAT | O_WRONLY | O_CLOEXEC, 02775))); /* not of that group: the bit goes */
        see("sg/exec");
        DO(chmod("sg/file", 02755));
        see("sg/file");
        int tmp = (int)DO(open("sg", O_TMPFILE | O_RDWR | O_CLOEXEC, 02775));
        see_fd("O_TMPFILE", tmp);
    }
    AS(ALICE, STAFF, GUESTS) {
        umask(0);
        close(DO(open("sg/exec2", O_CREAT | O_WRONLY | O_CLOEXEC, 02775))); /* of that group */
        see("sg/exec2");
        FAILS(EACCES, open("shared", O_RDONLY));
    }
    AS(BOB, GUESTS) FAILS(EACCES, open(B("shared"), O_RDONLY));
    VALUE("shared", "%s", text_at_b("shared"));
    gid_t many[60];
    for (int i = 0; i < 59; i++)
        many[i] = 50000 + (gid_t)i;
    many[0] = STAFF, many[58] = AUDIO, many[59] = 0;
    for (pid_t pid = posix_as_begin(BOB, many); pid == 0; pid = posix_as_end())
        DO(mkdir("au/many", 0755));
    see("au/many");
}

static void lookups(void)
{
    directory("closed", 0700, ALICE, STAFF);
    directory("closed/in", 0777, ALICE, STAFF);
    file("closed/f", 0666, ALICE, STAFF);
    directory("execonly", 0711, ALICE, STAFF);
    file("execonly/f", 0666, ALICE, STAFF);
    directory("readonly", 0744, ALICE, STAFF);
    file("readonly/f", 0666, ALICE, STAFF);
    struct stat st;
    AS(BOB, GUESTS) {
        FAILS(EACCES, stat("closed/f", &st));
        FAILS(EACCES, stat(B("closed/f"), &st));
        FAILS(EACCES, open("closed/f", O_RDONLY));
        FAILS(EACCES, open("closed/in/x", O_CREAT | O_WRONLY, 0644));
        FAILS(EACCES, open("closed", O_RDONLY | O_DIRECTORY));
        DO(open("closed", O_PATH | O_DIRECTORY));
        DO(stat("execonly/f", &st));
        FAILS(EACCES, open("execonly", O_RDONLY | O_DIRECTORY));
        FAILS(EACCES, stat("readonly/f", &st));
        FAILS(EACCES, stat("readonly/none", &st));
        DO(open("readonly", O_RDONLY | O_DIRECTORY));
        FAILS(EACCES, unlink("execonly/f"));
        FAILS(EACCES, mkdir("readonly/x", 0755));
        FAILS(EACCES, rename("execonly/f", "f"));
        FAILS(EACCES, link("execonly/f", "execonly/g"));
        FAILS(EACCES, chdir("closed"));
    }
    T_OK(chmod("closed", 0755)); /* and what the other side's kernel had said no to, it must allow */
    AS(BOB, GUESTS) {
        DO(stat(B("closed/f"), &st));
        DO(open(B("closed/f"), O_RDWR));
    }
    T_OK(chmod(B("closed"), 0700));
    AS(BOB, GUESTS) FAILS(EACCES, stat("closed/f", &st));
}

static void devices(void)
{
    AS(ALICE, STAFF) {
        FAILS(EPERM, mknod("c", S_IFCHR | 0666, 0x103));
        FAILS(EPERM, mknod("b", S_IFBLK | 0666, 0x700));
        DO(mknod("r", S_IFREG | 0644, 0));
        DO(mknod("p", S_IFIFO | 0644, 0));
        DO(mknod("s", S_IFSOCK | 0644, 0));
    }
    DO(mknod("c", S_IFCHR | 0666, 0x103));
    DO(mknod("b", S_IFBLK | 0660, 0x700));
    see("c"), see("b"), see("r"), see("p"), see("s");
    int fd = (int)DO(open("c", O_RDWR | O_CLOEXEC)); /* /dev/null */
    VALUE("write to it", "%zd", write(fd, "x", 1));
    fd = (int)DO(open(B("c"), O_RDONLY | O_CLOEXEC));
    char byte;
    VALUE("read from it", "%zd", read(fd, &byte, 1));
    FAILS(ENXIO, open("s", O_RDWR));
    FAILS(ENXIO, open("p", O_WRONLY | O_NONBLOCK));
}

const struct posix_case posix_rights[] = {
    {"modes", modes}, {"owner", owner}, {"umask", umasks}, {"sticky", sticky}, {"groups", groups}, {"lookups", lookups}, {"devices", devices}, {0},
};

/* ---- set-id bits: every way to change a file, by its owner, by another, by root ---- */
static int do_write(const char *f)
{
    int fd = open(f, O_WRONLY | O_CLOEXEC);
    int rc = fd < 0 || write(fd, "x", 1) != 1 ? -1 : 0;
    close(fd);
    return rc;
}
static int do_append(const char *f)
{
    int fd = open(f, O_WRONLY | O_APPEND | O_CLOEXEC);
    int rc = fd < 0 || write(fd, "x", 1) != 1 ? -1 : 0;
    close(fd);
    return rc;
}
static int do_direct(const char *f)
{
    void *block = aligned_alloc(BLOCK, BLOCK);
    int   fd = open(f, O_WRONLY | O_DIRECT | O_CLOEXEC);
    memset(block, 'x', BLOCK);
    int rc = fd < 0 || write(fd, block, BLOCK) != BLOCK ? -1 : 0;
    close(fd);
    free(block);
    return rc;
}
static int do_write_nothing(const char *f)
{
    int fd = open(f, O_WRONLY | O_CLOEXEC);
    int rc = fd < 0 || write(fd, "x", 0) != 0 ? -1 : 0;
    close(fd);
    return rc;
}
static int do_truncate(const char *f) { return truncate(f, 2); }
static int do_truncate_same(const char *f) { return truncate(f, 4); }
static int do_truncate_longer(const char *f) { return truncate(f, 9000); }
static int do_open_trunc(const char *f)
{
    int fd = open(f, O_WRONLY | O_TRUNC | O_CLOEXEC);
    close(fd);
    return fd < 0 ? -1 : 0;
}
static int do_ftruncate(const char *f)
{
    int fd = open(f, O_WRONLY | O_CLOEXEC), rc = ftruncate(fd, 1);
    close(fd);
    return rc;
}
static int falloc(const char *f, int mode)
{
    int fd = open(f, O_WRONLY | O_CLOEXEC), rc = fallocate(fd, mode, 0, 8192);
    close(fd);
    return rc;
}
static int do_falloc(const char *f) { return falloc(f, 0); }
static int do_falloc_keep(const char *f) { return falloc(f, FALLOC_FL_KEEP_SIZE); }
static int do_punch(const char *f) { return falloc(f, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE); }
static int do_zero(const char *f) { return falloc(f, FALLOC_FL_ZERO_RANGE); }
static int do_map(const char *f)
{
    int fd = open(f, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    char *map = T_OK(mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    map[0] = 'm';
    T_OK(msync(map, BLOCK, MS_SYNC));
    munmap(map, BLOCK);
    close(fd);
    return 0;
}
static int do_copy(const char *f)
{
    loff_t from = 0, to = 0;
    int    in = open("source", O_RDONLY | O_CLOEXEC), fd = open(f, O_WRONLY | O_CLOEXEC);
    int    rc = copy_file_range(in, &from, fd, &to, 3, 0) == 3 ? 0 : -1;
    close(in), close(fd);
    return rc;
}
static int do_sendfile(const char *f)
{
    int in = open("source", O_RDONLY | O_CLOEXEC), fd = open(f, O_WRONLY | O_CLOEXEC);
    int rc = sendfile(fd, in, NULL, 3) == 3 ? 0 : -1;
    close(in), close(fd);
    return rc;
}
static int do_chown_same(const char *f) { return chown(f, ALICE, STAFF); }
static int do_chown_group(const char *f) { return chown(f, (uid_t)-1, AUDIO); }
static int do_chown_none(const char *f) { return chown(f, (uid_t)-1, (gid_t)-1); }
static int do_chmod(const char *f) { return chmod(f, 06755); }
static int do_utimes(const char *f) { return utimensat(AT_FDCWD, f, NULL, 0); }
static int do_xattr(const char *f) { return setxattr(f, "user.x", "1", 1, 0); }
static int do_rename(const char *f) { return rename(f, "moved") || rename("moved", f) ? -1 : 0; }
static int do_link(const char *f) { return link(f, "second") || unlink("second") ? -1 : 0; }
static int do_read(const char *f)
{
    char byte;
    int  fd = open(f, O_RDONLY | O_CLOEXEC), rc = read(fd, &byte, 1) == 1 ? 0 : -1;
    close(fd);
    return rc;
}

struct way {
    const char *what;
    int (*change)(const char *f);
};
static const struct way ways[] = {
    {"write", do_write}, {"append", do_append}, {"direct write", do_direct}, {"write of nothing", do_write_nothing}, {"truncate", do_truncate},
    {"truncate to the same size", do_truncate_same}, {"truncate longer", do_truncate_longer}, {"O_TRUNC", do_open_trunc}, {"ftruncate", do_ftruncate},
    {"fallocate", do_falloc}, {"fallocate KEEP_SIZE", do_falloc_keep}, {"PUNCH_HOLE", do_punch}, {"ZERO_RANGE", do_zero}, {"mapped store", do_map},
    {"copy_file_range", do_copy}, {"sendfile", do_sendfile}, {"chown to the same", do_chown_same}, {"chown of the group", do_chown_group},
    {"chown -1 -1", do_chown_none}, {"chmod", do_chmod}, {"utimensat", do_utimes}, {"setxattr", do_xattr}, {"rename", do_rename}, {"link", do_link}, {"read", do_read},
};

static void ways_as(uid_t uid, gid_t gid, mode_t mode, const char *who)
{
    put("source", "source");
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char step[100];
        struct stat st, far;
        put("f", "text");
        T_OK(chown("f", ALICE, STAFF));
        T_OK(chmod("f", mode));
        T_OK(stat(B("f"), &far));
        snprintf(step, sizeof step, "%s %04o: %s", who, mode, ways[i].what);
        AS(uid, gid, AUDIO) {
            int rc = ways[i].change("f");
            posix_do(step, rc, errno);
        }
        T_OK(stat("f", &st));
        T_OK(stat(B("f"), &far));
        VALUE(step, "leaves %04o, seen as %04o", st.st_mode & 07777, far.st_mode & 07777);
        T_OK(unlink("f"));
    }
}

static void setid_owner(void) { ways_as(ALICE, STAFF, 06777, "owner"); }
static void setid_other(void) { ways_as(BOB, GUESTS, 06777, "other"); }
static void setid_root(void) { ways_as(0, 0, 06777, "root"); }
static void setid_noexec(void)
{
    ways_as(ALICE, STAFF, 06666, "owner");
    ways_as(BOB, GUESTS, 02666, "other");
    ways_as(ALICE, STAFF, 02757, "owner");
}

/* A directory's bits stay; a hard truth for each kind of node. */
static void setid_dirs(void)
{
    T_OK(mkdir("d", 0755));
    T_OK(chmod("d", 06777));
    DO(chown("d", ALICE, STAFF));
    see("d");
    AS(ALICE, STAFF, AUDIO) {
        DO(chown("d", (uid_t)-1, AUDIO));
        see("d");
        DO(chmod("d", 02755));
        see("d");
        DO(chown("d", (uid_t)-1, STAFF));
    }
    see("d");
    AS(ALICE, GUESTS) {
        DO(chmod("d", 02775)); /* not a member of the group: the bit goes */
        see("d");
    }
    see("d");
}

/* What root writes keeps the bits; a thread that is root but for file access (setfsuid) is nobody special. */
static void setid_fsuid(void)
{
    put("f", "text");
    T_OK(chown("f", ALICE, STAFF));
    T_OK(chmod("f", 06777));
    CHILD {
        setfsuid(ALICE);
        DO(do_write("f"));
    }
    see("f");
    T_OK(chmod("f", 06777));
    T_OK(setxattr("f", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
    char value[40];
    VALUE("capability", "%zd", getxattr(B("f"), "security.capability", value, sizeof value));
    DO(do_write("f"));
    VALUE("capability after a write of root", "%s", getxattr("f", "security.capability", value, sizeof value) < 0 ? strerrorname_np(errno) : "there");
    T_OK(setxattr("f", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
    AS(BOB, GUESTS) DO(do_write("f"));
    VALUE("capability after a write of a user", "%s", getxattr(B("f"), "security.capability", value, sizeof value) < 0 ? strerrorname_np(errno) : "there");
    T_OK(setxattr("f", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
    AS(BOB, GUESTS) DO(do_truncate("f"));
    VALUE("capability after a truncate", "%s", getxattr("f", "security.capability", value, sizeof value) < 0 ? strerrorname_np(errno) : "there");
    T_OK(setxattr("f", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
    DO(chown("f", BOB, BOB));
    VALUE("capability after a chown", "%s", getxattr("f", "security.capability", value, sizeof value) < 0 ? strerrorname_np(errno) : "there");
    see("f");
}

const struct posix_case posix_setid[] = {
    {"owner", setid_owner}, {"other", setid_other}, {"root", setid_root}, {"noexec", setid_noexec}, {"dirs", setid_dirs}, {"fsuid", setid_fsuid}, {0},
};
