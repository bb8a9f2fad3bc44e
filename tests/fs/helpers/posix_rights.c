/* SPDX-License-Identifier: Apache-2.0 */
/* posix_rights.c - who may do what, and whose the new files are. Started as root in an empty directory; each step
 * runs in a child with the uid, gid and groups that it names. Set-id bits, set-gid and sticky directories, umask,
 * supplementary groups, access without rights. Output as told in probe.h; for comparison with the same in a plain
 * directory. */
#include "probe.h"

#include <grp.h>
#include <sys/wait.h>
#include <sys/xattr.h>

enum { ALICE = 41001, BOB = 41002, STAFF = 42001, GUESTS = 42002, AUDIO = 42003, BLOCK = 4096 };

/* Runs a step as somebody: uid, primary group, and up to two supplementary groups (0: none). */
static void as(uid_t uid, gid_t gid, gid_t extra1, gid_t extra2, void (*step)(void))
{
    fflush(stdout);
    pid_t child = T_OK(fork());
    if (child == 0) {
        gid_t groups[2] = {extra1, extra2};
        T_OK(setgroups(extra2 ? 2 : extra1 ? 1 : 0, groups));
        T_OK(setresgid(gid, gid, gid));
        T_OK(setresuid(uid, uid, uid));
        step();
        fflush(stdout);
        _exit(0);
    }
    int status;
    T_OK(waitpid(child, &status, 0));
    T_THAT(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a step did not end well");
}

static void create_all_kinds(void)
{
    umask(027);
    make_file("open/file", "x");
    T_OK(mkdir("open/dir", 0777));
    T_OK(mkfifo("open/fifo", 0666));
    T_OK(symlink("file", "open/sym"));
    show("umask 027, file", "open/file");
    show("umask 027, dir", "open/dir");
    show("umask 027, fifo", "open/fifo");
    show("symlink", "open/sym");
    struct stat st = probe_stat("open/file");
    T_THAT(st.st_uid == ALICE && st.st_gid == STAFF && (st.st_mode & 07777) == 0640,
           "a new file does not belong to its maker");
    int fd = (int)TRY("O_TMPFILE of a user", open("open", O_TMPFILE | O_RDWR | O_CLOEXEC, 0666));
    if (fd >= 0) {
        T_OK(fstat(fd, &st));
        VALUE("is", "%o %u:%u", st.st_mode, st.st_uid, st.st_gid);
        close(fd);
    }
}

static void create_in_setgid(void)
{
    umask(022);
    make_file("setgid/file", "x");
    T_OK(mkdir("setgid/dir", 0755));
    T_OK(mkdir("setgid/dir/deeper", 0755));
    show("file in a set-gid directory", "setgid/file");
    show("directory in it", "setgid/dir");
    show("one deeper", "setgid/dir/deeper");
    int fd = T_OK(open("setgid/exec", O_CREAT | O_WRONLY | O_CLOEXEC, 02775));
    close(fd);
    show("02775 made by a stranger to the group", "setgid/exec");
    T_THAT(probe_stat("setgid/file").st_gid == GUESTS && (probe_stat("setgid/dir").st_mode & S_ISGID),
           "the group is not passed on");
}

static void stranger(void)
{
    REFUSED("read a file of mode 0640", open("open/file", O_RDONLY), EACCES);
    REFUSED("write it", open("open/file", O_WRONLY), EACCES);
    REFUSED("truncate it", truncate("open/file", 0), EACCES);
    REFUSED("chmod it", chmod("open/file", 0777), EPERM);
    REFUSED("chown it", chown("open/file", BOB, (gid_t)-1), EPERM);
    REFUSED("set its times", utimensat(AT_FDCWD, "open/file", (struct timespec[2]){{1, 0}, {1, 0}}, 0), EPERM);
    REFUSED("set an xattr", setxattr("open/file", "user.x", "x", 1, 0), EACCES);
    REFUSED("enter a directory of mode 0750", access("open/dir/x", F_OK), EACCES);
    REFUSED("create in it", open("open/dir/x", O_CREAT | O_WRONLY, 0644), EACCES);
    REFUSED("create in a directory of root", mkdir("roots/x", 0755), EACCES);
    TRY("link a file of another", link("open/file", "open/link")); /* depends on fs.protected_hardlinks */
    REFUSED("unlink in a sticky directory", unlink("sticky/alice"), EPERM);
    REFUSED("rename in it", rename("sticky/alice", "sticky/mine"), EPERM);
    make_file("sticky/bob", "b");
    TRY("unlink the own file in it", unlink("sticky/bob"));
    TRY("unlink in an open directory", unlink("open/fifo"));
    REFUSED("mknod of a device", mknod("open/device", S_IFCHR | 0666, 0x103), EPERM);
    REFUSED("a trusted xattr", setxattr("sticky", "trusted.x", "x", 1, 0), EPERM);
}

static void use_groups(void)
{
    show_text("read through a supplementary group", "open/shared");
    int fd = (int)TRY("write through one", open("open/shared", O_WRONLY | O_CLOEXEC));
    close(fd);
    TRY("create in a directory of a supplementary group", mkdir("audio/x", 0755));
    show("is", "audio/x");
    make_file("open/alices", "x");
    TRY("give it to a supplementary group", chown("open/alices", (uid_t)-1, AUDIO));
    show("is", "open/alices");
    REFUSED("give it to a foreign group", chown("open/alices", (uid_t)-1, GUESTS), EPERM);
    REFUSED("give it away", chown("open/alices", BOB, (gid_t)-1), EPERM);
    TRY("chmod set-gid with an own group", chmod("open/alices", 02755));
    show("is", "open/alices");
    T_THAT(probe_stat("open/alices").st_gid == AUDIO && (probe_stat("open/alices").st_mode & S_ISGID),
           "a supplementary group does not count");
    TRY("chmod set-gid with a foreign group", chmod("open/foreign", 02755));
    show("is", "open/foreign");
}

static void write_byte(void)
{
    int fd = T_OK(open("open/suid", O_WRONLY | O_CLOEXEC));
    T_THAT(write(fd, "x", 1) == 1, "write");
    close(fd);
}
static void write_direct(void)
{
    void *block = aligned_alloc(BLOCK, BLOCK);
    int   fd = T_OK(open("open/suid", O_WRONLY | O_DIRECT | O_CLOEXEC));
    memset(block, 'x', BLOCK);
    T_THAT(write(fd, block, BLOCK) == BLOCK, "direct write");
    close(fd);
}
static void truncate_it(void)
{
    T_OK(truncate("open/suid", 1));
}
static void open_trunc(void)
{
    close(T_OK(open("open/suid", O_WRONLY | O_TRUNC | O_CLOEXEC)));
}
static void chown_it(void)
{
    T_OK(chown("open/suid", (uid_t)-1, STAFF));
}
static void fallocate_it(void)
{
    int fd = T_OK(open("open/suid", O_WRONLY | O_CLOEXEC));
    T_OK(fallocate(fd, 0, 0, 100000));
    close(fd);
}

/* The set-id bits go when an unprivileged user changes the file; not when root writes. */
static void set_id_bits(void)
{
    static const struct {
        const char *what;
        void (*step)(void);
        uid_t uid;
        bool  goes; /* what must be; chown by the owner is left to the comparison */
    } steps[] = {{"write by a user", write_byte, BOB, true},       {"direct write by a user", write_direct, BOB, true},
                 {"truncate by a user", truncate_it, BOB, true},   {"O_TRUNC by a user", open_trunc, BOB, true},
                 {"fallocate by a user", fallocate_it, BOB, true}, {"chown by the owner", chown_it, ALICE, true},
                 {"write by root", write_byte, 0, false}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        make_file("open/suid", "program");
        T_OK(chown("open/suid", ALICE, STAFF));
        T_OK(chmod("open/suid", 06777));
        T_THAT((probe_stat("open/suid").st_mode & 07777) == 06777, "chmod 06777 by root");
        as(steps[i].uid, steps[i].uid ? STAFF : 0, 0, 0, steps[i].step);
        show(steps[i].what, "open/suid");
        T_THAT(!(probe_stat("open/suid").st_mode & S_ISUID) == steps[i].goes, "%s: the set-uid bit is wrong",
               steps[i].what);
    }
}

static void directory(const char *name, mode_t mode, uid_t uid, gid_t gid)
{
    T_OK(mkdir(name, 0700));
    T_OK(chown(name, uid, gid));
    T_OK(chmod(name, mode));
}

static void file(const char *name, mode_t mode, uid_t uid, gid_t gid)
{
    make_file(name, "text");
    T_OK(chown(name, uid, gid));
    T_OK(chmod(name, mode));
}

int main(void)
{
    umask(022);
    setvbuf(stdout, NULL, _IOLBF, 0);
    directory("open", 0777, 0, 0);
    directory("roots", 0755, 0, 0);
    directory("sticky", 01777, 0, 0);
    directory("setgid", 02777, 0, GUESTS);
    directory("audio", 0770, 0, AUDIO);
    file("sticky/alice", 0666, ALICE, STAFF);
    file("open/shared", 0660, 0, AUDIO);
    file("open/foreign", 0644, ALICE, GUESTS);
    as(ALICE, STAFF, 0, 0, create_all_kinds);
    as(ALICE, STAFF, 0, 0, create_in_setgid);
    as(BOB, GUESTS, 0, 0, stranger);
    as(ALICE, STAFF, 42009, AUDIO, use_groups);
    set_id_bits();
    return 0;
}
