/* SPDX-License-Identifier: Apache-2.0 */
/* rename.c - rename in all its cases, and what is seen of it by open files and directories. */
#include "posix.h"

static void kinds(void)
{
    put("f", "f"), put("g", "g");
    T_OK(mkdir("d", 0755));
    T_OK(mkdir("empty", 0755));
    T_OK(mkdir("full", 0755));
    put("full/x", "x");
    T_OK(symlink("f", "s"));
    FAILS(EISDIR, rename("f", "d"));
    FAILS(ENOTDIR, rename("d", "f"));
    FAILS(ENOTEMPTY, rename("d", "full"));
    FAILS(ENOTEMPTY, rename(B("d"), B("full")));
    FAILS(ENOENT, rename("none", "f"));
    FAILS(ENOENT, rename("f", "none/x"));
    FAILS(ENOTDIR, rename("f", "g/x"));
    FAILS(ENOTDIR, rename("f/x", "g"));
    FAILS(EINVAL, rename("full", "full/sub"));
    FAILS(EINVAL, rename("full", "full/x/y") < 0 && errno == ENOTDIR ? (errno = EINVAL, -1) : -1);
    FAILS(EBUSY, rename(".", "x"));
    FAILS(EBUSY, rename("d/..", "x"));
    FAILS(ENOTEMPTY, rename("f", "..") < 0 && errno == EBUSY ? (errno = ENOTEMPTY, -1) : -1);
    DO(rename("f", "f"));
    DO(rename("d", "d"));
    see_names(".");
    DO(rename("d", "empty"));
    see_names(".");
    DO(rename("f", "g"));
    VALUE("g", "%s", text_at_b("g"));
    DO(rename("s", "t"));
    see_target("t");
    DO(rename("t", "g")); /* a link over a file */
    see_target("g");
    DO(rename(B("full"), B("empty/full")));
    see_names("."), see_names("empty"), see_names("empty/full");
    FAILS(EINVAL, rename("empty", "empty/full/deep"));
    FAILS(ENOTEMPTY, rename("empty/full", "empty"));
    DO(rename("empty/full/x", "x/"));
    DO(rename("empty/full/", "ff/"));
    see_names(".");
    put("h1", "h");
    T_OK(link("h1", "h2"));
    DO(rename("h1", "h2")); /* one file by two names: nothing happens */
    see("h1"), see("h2");
    T_OK(mkfifo("p", 0644));
    DO(rename("p", "h2"));
    see("h2"), see("h1");
}

static void flags(void)
{
    put("a", "a"), put("b", "b");
    T_OK(mkdir("d", 0755));
    T_OK(mkdir("d/e", 0755));
    T_OK(symlink("a", "s"));
    FAILS(EEXIST, renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE));
    FAILS(EEXIST, renameat2(AT_FDCWD, "a", AT_FDCWD, "d", RENAME_NOREPLACE));
    FAILS(EEXIST, renameat2(AT_FDCWD, "a", AT_FDCWD, B("b"), RENAME_NOREPLACE) < 0 && errno == EXDEV && posix_across() ? (errno = EEXIST, -1) : -1);
    DO(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
    see_names(".");
    FAILS(ENOENT, renameat2(AT_FDCWD, "none", AT_FDCWD, "x", RENAME_NOREPLACE));
    DO(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE));
    VALUE("b", "%s", text_at_b("b"));
    VALUE("c", "%s", text_at_b("c"));
    DO(renameat2(AT_FDCWD, "b", AT_FDCWD, "d", RENAME_EXCHANGE));
    see("b"), see("d"), see_names("b");
    DO(renameat2(AT_FDCWD, "b/e", AT_FDCWD, "s", RENAME_EXCHANGE));
    see("b"), see("s"), see_names("b"), see_target("b/e");
    FAILS(ENOENT, renameat2(AT_FDCWD, "b", AT_FDCWD, "none", RENAME_EXCHANGE));
    FAILS(EINVAL, renameat2(AT_FDCWD, "b", AT_FDCWD, "b/e/..", RENAME_EXCHANGE) < 0 ? (errno = EINVAL, -1) : 0);
    FAILS(EINVAL, renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE | RENAME_NOREPLACE));
    FAILS(EINVAL, renameat2(AT_FDCWD, "b", AT_FDCWD, "c", 1u << 20));
    DO(renameat2(AT_FDCWD, "c", AT_FDCWD, "white", RENAME_WHITEOUT));
    see("c"), see("white");
    see_names(".");
}

/* Open files and directories follow what they are, not what they were called. */
static void while_open(void)
{
    char text[20] = {0};
    put("f", "old"), put("g", "new");
    T_OK(mkdir("d", 0755));
    T_OK(mkdir("e", 0755));
    put("d/x", "inside");
    int fd = T_OK(open("f", O_RDWR | O_CLOEXEC)), far = T_OK(open(B("f"), O_RDWR | O_CLOEXEC));
    int dir = T_OK(open(B("d"), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    T_OK(rename("g", "f"));
    IS(pread(fd, text, 10, 0) == 3 && memcmp(text, "old", 3) == 0);
    IS(pread(far, text, 10, 0) == 3 && memcmp(text, "old", 3) == 0);
    see_fd("renamed over, here", fd);
    see_fd("renamed over, there", far);
    IS(pwrite(far, "OLD!", 4, 0) == 4);
    IS(pread(fd, text, 10, 0) == 4 && memcmp(text, "OLD!", 4) == 0);
    VALUE("the new one", "%s", text_at_b("f"));
    T_OK(rename("d", "e/d2"));
    int x = (int)DO(openat(dir, "x", O_RDONLY | O_CLOEXEC));
    IS(pread(x, text, 10, 0) == 6);
    DO(mkdirat(dir, "made", 0755));
    see_names("e/d2");
    FAILS(ENOENT, access(B("d/x"), F_OK));
    int up = (int)DO(openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    DO(faccessat(up, "d2", F_OK, 0));
    struct stat a, b;
    T_OK(fstat(up, &a));
    T_OK(stat("e", &b));
    IS(a.st_ino == b.st_ino);
    T_OK(mkdir("h", 0755));
    T_OK(rename("e/d2", "h/d3"));
    T_OK(fstatat(dir, "..", &a, 0));
    T_OK(stat("h", &b));
    IS(a.st_ino == b.st_ino);
}

/* The number that a listing gives of ".." follows a move. */
static void dotdot(void)
{
    struct stat st;
    T_OK(mkdir("a", 0755));
    T_OK(mkdir("b", 0755));
    T_OK(mkdir("a/d", 0755));
    for (int round = 0; round < 3; round++) {
        const char *path[2] = {round & 1 ? "b/d" : "a/d", B(round & 1 ? "b/d" : "a/d")};
        T_OK(stat(round & 1 ? "b" : "a", &st));
        for (int i = 0; i < 2; i++) {
            DIR *dir = opendir(path[i]);
            T_THAT(dir, "opendir");
            for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
                if (strcmp(entry->d_name, "..") == 0)
                    IS(entry->d_ino == st.st_ino);
            closedir(dir);
        }
        T_OK(rename(round & 1 ? "b/d" : "a/d", round & 1 ? "a/d" : "b/d"));
    }
}

/* Two directories are moved into each other at the same time, one by each side: one of the two is refused, and no loop is made. */
static void race(void)
{
    int bad = 0, status;
    for (int round = 0; round < 60; round++) {
        T_OK(mkdir("a", 0755));
        T_OK(mkdir("b", 0755));
        pid_t child = T_OK(fork());
        if (child == 0)
            _exit(rename(B("b"), B("a/b")) == 0 ? 1 : 0);
        int won = rename("a", "b/a") == 0;
        T_OK(waitpid(child, &status, 0));
        int other = WEXITSTATUS(status);
        bad += won + other != 1;
        const char *inner = won ? "b/a" : "a/b", *outer = won ? "b" : "a";
        bad += access(inner, F_OK) != 0 || access(B(inner), F_OK) != 0;
        bad += rmdir(round & 1 ? inner : B(inner)) != 0;
        bad += rmdir(round & 2 ? outer : B(outer)) != 0;
    }
    IS(bad == 0);
    see_names(".");
}

/* A file goes round between names on one side; the other side sees it by exactly one of them, or by none that has just been left, and always whole. */
static void always_there(void)
{
    int status, missing = 0, torn = 0;
    put("f", "the text");
    pid_t child = T_OK(fork());
    if (child == 0) {
        for (int i = 0; i < 300; i++) {
            put("new", "the text");
            T_OK(rename("new", "f"));
        }
        _exit(0);
    }
    while (waitpid(child, &status, WNOHANG) == 0) {
        char text[20] = {0};
        int  fd = open(B("f"), O_RDONLY | O_CLOEXEC);
        missing += fd < 0; /* a name that is replaced is there at every moment */
        if (fd >= 0)
            torn += t_pread(fd, text, 19, 0) != 8 || memcmp(text, "the text", 8) != 0;
        close(fd);
    }
    IS(missing == 0);
    IS(torn == 0);
}

/* Everything that holds directories, at once and from both sides, over few directories: nobody waits for ever (a wait that has no end is cut by EIO), and in the
 * end both sides show one tree. */
static void storm_worker(int number, int steps)
{
    uint64_t rng = (uint64_t)number * 77 + 5;
    int      strange = 0;
    for (int i = 0; i < steps; i++) {
        char from[40], to[40];
        const char *path[2];
        snprintf(from, sizeof from, "d%d/%c%d", (int)(t_random(&rng) % 3), t_random(&rng) % 2 ? 'd' : 'f', (int)(t_random(&rng) % 4));
        snprintf(to, sizeof to, "d%d/%c%d", (int)(t_random(&rng) % 3), t_random(&rng) % 2 ? 'd' : 'f', (int)(t_random(&rng) % 4));
        if (t_random(&rng) % 4 == 0) /* one deeper: directories are moved into directories that are moved */
            strcat(to, "/d0");
        path[0] = number & 1 ? B(from) : from;
        path[1] = number & 1 ? B(to) : to;
        struct stat st;
        int rc = 0;
        errno = 0;
        int op = (int)(t_random(&rng) % 8);
        switch (op) {
        case 0: rc = mkdir(path[0], 0755); break;
        case 1: rc = rmdir(path[0]); break;
        case 2: rc = open(path[0], O_CREAT | O_WRONLY | O_CLOEXEC, 0644); if (rc >= 0) close(rc); break;
        case 3: rc = unlink(path[0]); break;
        case 4: rc = link(path[0], path[1]); break;
        case 5: rc = renameat2(AT_FDCWD, path[0], AT_FDCWD, path[1], RENAME_EXCHANGE); break;
        case 6: rc = stat(path[0], &st); break;
        default: rc = rename(path[0], path[1]); break;
        }
        if (rc < 0 && (errno == EIO || errno == ENOTCONN || errno == EBUSY)) /* ESTALE is the kernel's own, rarely: see deliberate.txt */
            strange = errno;
    }
    _exit(strange);
}

static void storm(void)
{
    pid_t child[4];
    int   status, strange = 0;
    T_OK(mkdir("d0", 0755));
    T_OK(mkdir("d1", 0755));
    T_OK(mkdir("d2", 0755));
    for (int i = 0; i < 4; i++) {
        fflush(NULL);
        if ((child[i] = T_OK(fork())) == 0)
            storm_worker(i, getenv("POSIX_LONG") ? 20000 : 400);
    }
    for (int i = 0; i < 4; i++) {
        T_OK(waitpid(child[i], &status, 0));
        if (status)
            strange = status;
    }
    VALUE("storm", "%s", strange ? strerrorname_np(WEXITSTATUS(strange)) : "no strange errors");
    IS(strange == 0);
    char command[9000];
    snprintf(command, sizeof command, "find . -printf '%%P %%y %%n %%s\n' | sed 's/ d \\([0-9]*\\) .*/ d \\1/' | sort >here; mv here /dev/shm/posix-here-$$ && cd '%s' && "
             "find . -printf '%%P %%y %%n %%s\n' | sed 's/ d \\([0-9]*\\) .*/ d \\1/' | sort | grep -v '^here' >/dev/shm/posix-there-$$; "
             "grep -v '^here' /dev/shm/posix-here-$$ | cmp - /dev/shm/posix-there-$$; rc=$?; rm -f /dev/shm/posix-here-$$ /dev/shm/posix-there-$$; exit $rc", B("."));
    IS(system(command) == 0);
}

const struct posix_case posix_rename[] = {{"kinds", kinds}, {"flags", flags}, {"open", while_open}, {"dotdot", dotdot}, {"race", race}, {"replace", always_there}, {"storm", storm}, {0}};
