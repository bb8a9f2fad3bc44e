/* SPDX-License-Identifier: Apache-2.0 */
/* dir.c - listings: stable positions while names come and go, none missed, none twice, rewinding, many names. */
#include "posix.h"

#include <sys/inotify.h>

enum { STAYING = 700, GOING = 300 };

static void fill(const char *dir, const char *prefix, int count)
{
    for (int i = 0; i < count; i++) {
        char name[60];
        snprintf(name, sizeof name, "%s/%s-%04d", dir, prefix, i);
        int fd = T_OK(open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
        close(fd);
    }
}

/* Counts "stay" names in seen[]; anything unknown is wrong. */
static void note(const char *name, int *seen)
{
    if (strncmp(name, "stay-", 5) == 0)
        seen[atoi(name + 5)]++;
}

static void tally(const char *what, const int *seen)
{
    int missed = 0, twice = 0;
    for (int i = 0; i < STAYING; i++) {
        missed += seen[i] == 0;
        twice += seen[i] > 1;
    }
    VALUE(what, "%d missed, %d twice%s", missed, twice, missed || twice ? " NO" : "");
    posix_is(what, !missed && !twice);
}

/* Names are added and removed, on both sides, between the reads of one listing. */
static void changing(void)
{
    for (int side = 0; side < 2; side++) {
        char        dir[10];
        static int  seen[STAYING];
        struct dirent *entry;
        snprintf(dir, sizeof dir, "d%d", side);
        T_OK(mkdir(dir, 0755));
        fill(dir, "stay", STAYING);
        fill(dir, "gone", GOING);
        memset(seen, 0, sizeof seen);
        DIR *list = opendir(side ? B(dir) : dir);
        for (int n = 0; (entry = readdir(list)) != NULL; n++) {
            char name[60];
            note(entry->d_name, seen);
            if (n % 3 == 0 && n / 3 < GOING) {
                snprintf(name, sizeof name, "%s/gone-%04d", dir, n / 3);
                T_OK(unlink(n & 1 ? B(name) : name));
                snprintf(name, sizeof name, "%s/new-%04d", dir, n / 3);
                close(T_OK(open(n & 2 ? B(name) : name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644)));
            }
        }
        closedir(list);
        tally(side ? "listing on the other side, changing" : "listing, changing", seen);
    }
}

/* Positions taken before names came and went lead to the same names afterwards. */
static void positions(void)
{
    static long at[STAYING + GOING + 10];
    static char was[STAYING + GOING + 10][40];
    int         count = 0, wrong = 0;
    struct dirent *entry;
    T_OK(mkdir("d", 0755));
    fill("d", "stay", STAYING);
    fill("d", "gone", GOING);
    DIR *list = opendir("d");
    for (;;) {
        long here = telldir(list);
        if (!(entry = readdir(list)))
            break;
        at[count] = here;
        snprintf(was[count++], sizeof was[0], "%.30s", entry->d_name);
    }
    VALUE("entries", "%d", count);
    for (int i = 0; i < count; i += 7) {
        seekdir(list, at[i]);
        entry = readdir(list);
        wrong += !entry || strcmp(entry->d_name, was[i]) != 0;
    }
    IS(wrong == 0);
    for (int i = 0; i < GOING; i++) {
        char name[60];
        snprintf(name, sizeof name, "d/gone-%04d", i);
        T_OK(unlink(i & 1 ? B(name) : name));
    }
    fill("d", "new", GOING);
    for (int i = 0; i < count; i += 5) {
        static int seen[STAYING];
        if (strncmp(was[i], "stay-", 5) != 0)
            continue;
        seekdir(list, at[i]); /* the names from here on, in their order; new ones may be among them */
        memset(seen, 0, sizeof seen);
        while ((entry = readdir(list)) != NULL)
            note(entry->d_name, seen);
        for (int k = 0; k < count; k++)
            if (strncmp(was[k], "stay-", 5) == 0)
                wrong += seen[atoi(was[k] + 5)] != (k >= i);
    }
    VALUE("wrong after the change", "%d", wrong);
    IS(wrong == 0);
    rewinddir(list);
    static int seen[STAYING];
    memset(seen, 0, sizeof seen);
    int news = 0;
    while ((entry = readdir(list)) != NULL) {
        note(entry->d_name, seen);
        news += strncmp(entry->d_name, "new-", 4) == 0;
    }
    tally("after rewinddir", seen);
    IS(news == GOING);
    closedir(list);
}

/* rm -r: removing what a listing has just told, to the end. */
static void remove_all(void)
{
    for (int side = 0; side < 2; side++) {
        char dir[10];
        int  removed = 0;
        snprintf(dir, sizeof dir, "d%d", side);
        T_OK(mkdir(dir, 0755));
        fill(dir, "stay", STAYING);
        DIR           *list = opendir(dir);
        struct dirent *entry;
        while ((entry = readdir(list)) != NULL) {
            if (entry->d_name[0] == '.')
                continue;
            removed += unlinkat(side ? T_OK(open(B(dir), O_PATH | O_CLOEXEC)) : dirfd(list), entry->d_name, 0) == 0;
            if (side && removed % 200 == 0)
                for (int fd = 10; fd < 1000; fd++)
                    close(fd);
        }
        closedir(list);
        VALUE("removed", "%d", removed);
        DO(rmdir(dir));
    }
}

static void plain(void)
{
    struct dirent *entry;
    T_OK(mkdir("d", 0755));
    see_names("d");
    put("d/f", "x");
    T_OK(mkdir("d/d", 0755));
    T_OK(symlink("x", "d/s"));
    T_OK(mkfifo("d/p", 0644));
    T_OK(mknod("d/c", S_IFCHR | 0600, 0x103));
    T_OK(mknod("d/sock", S_IFSOCK | 0600, 0));
    see_names("d");
    T_OK(unlink(B("d/f")));
    see_names("d");
    T_OK(rename("d/s", B("d/t")) < 0 ? rename("d/s", "d/t") : 0);
    see_names("d");
    DIR *list = opendir(B("d"));
    while ((entry = readdir(list)) != NULL) {
        struct stat st;
        T_OK(fstatat(dirfd(list), entry->d_name, &st, AT_SYMLINK_NOFOLLOW));
        if (strcmp(entry->d_name, "..") != 0)
            T_THAT(entry->d_ino == st.st_ino, "the number of %s is not the listed one", entry->d_name);
    }
    IS(true);
    T_OK(mkdir("d/late", 0755)); /* a listing that has come to its end stays there, or tells more; after rewinding it tells all */
    rewinddir(list);
    int late = 0;
    while ((entry = readdir(list)) != NULL)
        late += strcmp(entry->d_name, "late") == 0;
    IS(late == 1);
    closedir(list);
}

static void many_names(void)
{
    T_OK(mkdir("d", 0755));
    fill("d", "stay", 3000);
    see_names("d");
    for (int i = 0; i < 3000; i += 2) {
        char name[60];
        snprintf(name, sizeof name, "d/stay-%04d", i);
        T_OK(unlink(i & 2 ? B(name) : name));
    }
    see_names("d");
}

/* A small buffer: the listing in many requests, with a position that the program keeps itself. */
static void small_buffer(void)
{
    char       buffer[300];
    static int seen[STAYING];
    T_OK(mkdir("d", 0755));
    fill("d", "stay", STAYING);
    int64_t at = 0;
    for (int rounds = 0; rounds < 2000; rounds++) {
        int     fd = T_OK(open(rounds & 1 ? B("d") : "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC)); /* each time another descriptor */
        T_OK(lseek(fd, at, SEEK_SET));
        ssize_t n = T_OK(getdents64(fd, buffer, sizeof buffer));
        for (ssize_t pos = 0; pos < n;) {
            const struct dirent64 *entry = (const void *)(buffer + pos);
            note(entry->d_name, seen);
            at = entry->d_off;
            pos += entry->d_reclen;
        }
        close(fd);
        if (n == 0)
            break;
    }
    tally("in small pieces, by both sides in turn", seen);
    int fd = T_OK(open("d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    FAILS(EINVAL, getdents64(fd, buffer, 10));
}

/* A kernel tells of what passes through its own mount (see deliberate.txt). */
static void notification(void)
{
    char buffer[4096];
    int  watch = T_OK(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    T_OK(mkdir("d", 0755));
    T_OK(inotify_add_watch(watch, B("d"), IN_CREATE | IN_DELETE));
    put("d/f", "x");
    T_OK(unlink("d/f"));
    VALUE("events", "%s", read(watch, buffer, sizeof buffer) > 0 ? "told" : "not told");
}

const struct posix_case posix_dir[] = {
    {"plain", plain}, {"changing", changing}, {"positions", positions}, {"remove", remove_all}, {"many", many_names}, {"small", small_buffer}, {"inotify", notification}, {0},
};
