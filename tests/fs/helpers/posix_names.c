/* SPDX-License-Identifier: Apache-2.0 */
/* posix_names.c - all that a program does with names, once each, in the directory it is started in: special files,
 * links, rename with its flags, exclusive creation, open files without a name, names of any bytes and of the longest
 * length, deep directories, a large directory read in pieces. Output as told in probe.h; for comparison with the same
 * in a plain directory. */
#include "probe.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

static void special_files(void)
{
    char               buffer[8] = {0};
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    TRY("mknod fifo", mkfifo("fifo", 0640));
    show("fifo", "fifo");
    int fd = T_OK(open("fifo", O_RDWR | O_CLOEXEC));
    T_THAT(write(fd, "pipe", 4) == 4 && read(fd, buffer, 4) == 4 && memcmp(buffer, "pipe", 4) == 0,
           "the fifo does not carry bytes");
    close(fd);
    TRY("mknod socket", mknod("node", S_IFSOCK | 0600, 0));
    show("socket node", "node");
    int server = T_OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
        client = T_OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    TRY("bind", bind(server, (struct sockaddr *)&address, sizeof address));
    TRY("listen", listen(server, 1));
    TRY("connect", connect(client, (struct sockaddr *)&address, sizeof address));
    show("bound socket", "socket");
    close(client);
    close(server);
    TRY("mknod device", mknod("device", S_IFCHR | 0600, makedev(1, 3)));
    VALUE("device number", "%u:%u", major(probe_stat("device").st_rdev), minor(probe_stat("device").st_rdev));
    TRY("mknod regular", mknod("regular", S_IFREG | 0644, 0));
    show("mknod regular", "regular");
}

static void links(void)
{
    char target[4096], got[4200];
    make_file("one", "one");
    TRY("link", link("one", "two"));
    show("linked", "two");
    T_THAT(probe_stat("one").st_ino == probe_stat("two").st_ino, "hard links with two inode numbers");
    REFUSED("link over a name", link("one", "two"), EEXIST);
    TRY("mkdir", mkdir("dir", 0755));
    REFUSED("link a directory", link("dir", "dir2"), EPERM);
    make_file("two", "changed");
    show_text("one after a write to two", "one");
    TRY("unlink one of two", unlink("one"));
    show("the other", "two");
    TRY("symlink", symlink("two", "sym"));
    show("symlink", "sym");
    show_text("through the symlink", "sym");
    TRY("link a symlink", linkat(AT_FDCWD, "sym", AT_FDCWD, "sym2", 0));
    TRY("symlink to nowhere", symlink("no/such/place", "dangling"));
    REFUSED("open through it", open("dangling", O_RDONLY), ENOENT);
    REFUSED("O_NOFOLLOW", open("sym", O_RDONLY | O_NOFOLLOW), ELOOP);
    TRY("symlink to itself", symlink("loop", "loop"));
    REFUSED("open a loop", open("loop", O_RDONLY), ELOOP);
    memset(target, 'x', sizeof target - 1);
    target[sizeof target - 1] = 0;
    TRY("symlink of 4095 bytes", symlink(target, "longlink"));
    ssize_t n = readlink("longlink", got, sizeof got);
    VALUE("readlink of it", "%zd, %s", n, n == 4095 && memcmp(got, target, 4095) == 0 ? "same" : "different");
}

static void renames(void)
{
    make_file("a", "a");
    make_file("b", "b");
    T_OK(mkdir("d1", 0755));
    T_OK(mkdir("d2", 0755));
    T_OK(mkdir("d2/sub", 0755));
    REFUSED("rename NOREPLACE over a name", renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    TRY("rename NOREPLACE", renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
    TRY("rename EXCHANGE", renameat2(AT_FDCWD, "c", AT_FDCWD, "b", RENAME_EXCHANGE));
    show_text("b after the exchange", "b");
    show_text("c after the exchange", "c");
    TRY("rename EXCHANGE file and directory", renameat2(AT_FDCWD, "c", AT_FDCWD, "d1", RENAME_EXCHANGE));
    show("c is the directory now", "c");
    show_text("d1 is the file now", "d1");
    REFUSED("rename EXCHANGE with nothing", renameat2(AT_FDCWD, "b", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
    REFUSED("rename of nothing", rename("none", "some"), ENOENT);
    REFUSED("rename a directory into itself", rename("d2", "d2/sub/x"), EINVAL);
    REFUSED("rename over a full directory", rename("c", "d2"), ENOTEMPTY);
    REFUSED("rename a file over a directory", rename("b", "c"), EISDIR);
    REFUSED("rename a directory over a file", rename("c", "b"), ENOTDIR);
    TRY("rename to another directory", rename("d2/sub", "c/moved"));
    TRY("rename over an empty directory", rename("c/moved", "d2"));
    show("d2", "d2");
    T_OK(link("b", "b2"));
    TRY("rename over a link of the same file", rename("b", "b2"));
    show("b is still there", "b");
    T_OK(mkdir("d2/x", 0755));
    REFUSED("rmdir of a full directory", rmdir("d2"), ENOTEMPTY);
    REFUSED("unlink a directory", unlink("d2"), EISDIR);
    REFUSED("rmdir a file", rmdir("b"), ENOTDIR);
    REFUSED("open a directory for writing", open("d2", O_WRONLY), EISDIR);
    REFUSED("a file used as a directory", open("b/x", O_RDONLY), ENOTDIR);
    struct stat before = probe_stat("d2/x/..");
    T_OK(rename("d2/x", "x"));
    T_THAT(probe_stat("x/..").st_ino != before.st_ino, "dot-dot of a moved directory leads to its old parent");
}

/* Files that are open live on without a name, also under another file's rename. */
static void nameless(void)
{
    char buffer[16] = {0};
    make_file("gone", "still here");
    int fd = T_OK(open("gone", O_RDWR | O_CLOEXEC));
    TRY("unlink an open file", unlink("gone"));
    t_pwrite(fd, "STILL", 5, 0);
    t_pread(fd, buffer, 10, 0);
    VALUE("its text", "%s", buffer);
    struct stat st;
    T_OK(fstat(fd, &st));
    VALUE("its links", "%lu", (unsigned long)st.st_nlink);
    TRY("ftruncate it", ftruncate(fd, 3));
    TRY("fchmod it", fchmod(fd, 0600));
    T_OK(fstat(fd, &st));
    VALUE("its mode and size", "%o %lld", st.st_mode, (long long)st.st_size);
    REFUSED("its name", open("gone", O_RDONLY), ENOENT);
    make_file("gone", "another");
    show_text("a new file of that name", "gone");
    T_THAT(t_pread(fd, buffer, 16, 0) == 3, "the old file was touched");
    close(fd);

    make_file("target", "old");
    make_file("source", "new");
    fd = T_OK(open("target", O_RDONLY | O_CLOEXEC));
    TRY("rename over an open file", rename("source", "target"));
    memset(buffer, 0, sizeof buffer);
    t_pread(fd, buffer, 3, 0);
    VALUE("the open one has", "%s", buffer);
    show_text("the name has", "target");
    close(fd);

    T_OK(mkdir("emptied", 0755));
    fd = T_OK(open("emptied", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    TRY("rmdir an open directory", rmdir("emptied"));
    REFUSED("create in it", openat(fd, "x", O_CREAT | O_WRONLY, 0644), ENOENT);
    close(fd);

    fd = (int)TRY("O_TMPFILE", open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640));
    if (fd >= 0) {
        t_pwrite(fd, "temporary", 9, 0);
        TRY("give it a name", linkat(fd, "", AT_FDCWD, "named", AT_EMPTY_PATH));
        show("named", "named");
        show_text("its text", "named");
        close(fd);
    }
}

static void exclusive(void)
{
    int fd = (int)TRY("O_EXCL", open("excl", O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0444));
    T_THAT(write(fd, "x", 1) == 1, "a file made read-only must be writable by its maker");
    close(fd);
    REFUSED("O_EXCL again", open("excl", O_CREAT | O_EXCL | O_RDWR, 0644), EEXIST);
    T_OK(symlink("nowhere", "excllink"));
    REFUSED("O_EXCL over a symlink", open("excllink", O_CREAT | O_EXCL | O_RDWR, 0644), EEXIST);
    fd = (int)TRY("O_CREAT through a symlink", open("excllink", O_CREAT | O_RDWR | O_CLOEXEC, 0644));
    close(fd);
    show("what that made", "nowhere");
    make_file("full", "text");
    fd = (int)TRY("O_TRUNC", open("full", O_WRONLY | O_TRUNC | O_CLOEXEC));
    close(fd);
    show("after O_TRUNC", "full");
    REFUSED("mkdir over a name", mkdir("full", 0755), EEXIST);
    REFUSED("O_DIRECTORY on a file", open("full", O_RDONLY | O_DIRECTORY), ENOTDIR);
}

static void odd_names(void)
{
    char name[300];
    int  made = 0, seen = 0;
    T_OK(mkdir("odd", 0755));
    T_OK(chdir("odd"));
    for (int byte = 1; byte < 256; byte++) {
        if (byte == '/')
            continue;
        snprintf(name, sizeof name, "n%c%c", byte, byte);
        make_file(name, "odd");
        made++;
    }
    DIR *stream = opendir(".");
    for (struct dirent *entry; (entry = readdir(stream));)
        if (entry->d_name[0] == 'n') {
            T_THAT(strlen(entry->d_name) == 3 && entry->d_name[1] == entry->d_name[2], "a name was changed");
            T_THAT(probe_stat(entry->d_name).st_size == 3, "a name leads nowhere");
            seen++;
        }
    closedir(stream);
    VALUE("names of any bytes", "%d made, %d seen", made, seen);
    T_THAT(made == seen, "names lost");
    memset(name, 'L', 255);
    name[255] = 0;
    make_file(name, "long");
    show("a name of 255 bytes", name);
    name[0] = 'M';
    TRY("mkdir of 255 bytes", mkdir(name, 0755));
    memset(name, 'L', 256);
    name[256] = 0;
    REFUSED("create a name of 256 bytes", open(name, O_CREAT | O_WRONLY, 0644), ENAMETOOLONG);
    REFUSED("stat it", access(name, F_OK), ENAMETOOLONG);
    REFUSED("mkdir it", mkdir(name, 0755), ENAMETOOLONG);
    REFUSED("symlink it", symlink("x", name), ENAMETOOLONG);
    T_OK(chdir(".."));
}

static void deep(void)
{
    enum { DEPTH = 100 };
    char name[101];
    int  top = T_OK(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    memset(name, 'd', 100);
    name[100] = 0;
    for (int i = 0; i < DEPTH; i++) {
        T_OK(mkdir(name, 0755));
        T_OK(chdir(name));
    }
    make_file("bottom", "deep down");
    show_text("below 10,000 bytes of path", "bottom");
    T_OK(unlink("bottom"));
    for (int i = 0; i < DEPTH; i++) {
        T_OK(chdir(".."));
        T_OK(rmdir(name));
    }
    struct stat here = probe_stat("."), there;
    T_OK(fstat(top, &there));
    T_THAT(here.st_ino == there.st_ino, "a hundred steps down and up do not lead back");
    close(top);
}

/* 5,000 names: all seen once; telldir places lead back; names removed while reading do no harm to the others. */
static void large_directory(void)
{
    enum { COUNT = 5000 };
    static bool seen[COUNT];
    static long place[COUNT];
    static int  at[COUNT];
    char        name[32];
    int         n = 0, wrong = 0, left = 0;
    T_OK(mkdir("large", 0755));
    T_OK(chdir("large"));
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof name, "entry-%d", i);
        T_OK(symlink("x", name));
    }
    DIR *stream = opendir(".");
    T_THAT(stream, "opendir");
    for (;;) {
        long           here = telldir(stream);
        struct dirent *entry = readdir(stream);
        int            i;
        if (!entry)
            break;
        if (sscanf(entry->d_name, "entry-%d", &i) != 1)
            continue;
        T_THAT(i >= 0 && i < COUNT && !seen[i], "entry-%d twice", i);
        seen[i] = true;
        place[n] = here;
        at[n++] = i;
    }
    VALUE("readdir of 5,000 names", "%d", n);
    T_THAT(n == COUNT, "names lost");
    for (int k = 0; k < 200; k++) {
        int i = (k * 2711) % n, got = -1;
        seekdir(stream, place[i]);
        struct dirent *entry = readdir(stream);
        if (!entry || sscanf(entry->d_name, "entry-%d", &got) != 1 || got != at[i])
            wrong++;
    }
    VALUE("seekdir to 200 places", "%d wrong", wrong);
    T_THAT(wrong == 0, "seekdir leads astray");
    rewinddir(stream);
    memset(seen, 0, sizeof seen);
    for (struct dirent *entry; (entry = readdir(stream));) {
        int i;
        if (sscanf(entry->d_name, "entry-%d", &i) != 1)
            continue;
        T_THAT(!seen[i], "entry-%d twice while removing", i);
        seen[i] = true;
        if (i % 2)
            T_OK(unlink(entry->d_name));
    }
    rewinddir(stream);
    for (struct dirent *entry; (entry = readdir(stream));)
        left += entry->d_name[0] == 'e';
    VALUE("left after removing every other while reading", "%d", left);
    T_THAT(left == COUNT / 2, "readdir skipped names while others were removed");
    closedir(stream);
    T_OK(chdir(".."));
    for (int i = 0; i < 4; i++)
        T_OK(mkdir((const char *[]){"p", "p/1", "p/2", "p/3"}[i], 0755));
    VALUE("links of a directory with three directories", "%lu", (unsigned long)probe_stat("p").st_nlink);
}

int main(void)
{
    umask(022);
    setvbuf(stdout, NULL, _IOLBF, 0);
    special_files();
    links();
    renames();
    nameless();
    exclusive();
    odd_names();
    deep();
    large_directory();
    return 0;
}
