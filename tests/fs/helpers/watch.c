/* SPDX-License-Identifier: Apache-2.0 */
/* watch.c - how soon mounts show what was changed in the origin's directory.
 *
 *   watch ORIGIN DIR_A DIR_B ROUNDS          each kind of change, ROUNDS times
 *
 * All three are the same directory. A change is made in ORIGIN; then both mounts are looked at again and again, so that their kernels hold
 * the old state until it is taken from them, until both show the new one. Never within two seconds: failure. For each kind the
 * median and the longest time are printed, for people. */
#include "t.h"

#include <dirent.h>
#include <time.h>

enum { LIMIT_MS = 2000, ROUNDS_MAX = 1000, PAGE = 4096 };

static const char *origin, *mount_at[2];
static uint8_t    *map[2];
static int         held[2];

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static const char *at(const char *dir, const char *name)
{
    static char path[4][4096];
    static int  turn;
    char       *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void put(const char *name, const char *text, int flags)
{
    int fd = T_OK(open(at(origin, name), O_WRONLY | O_CREAT | flags, 0644));
    T_THAT(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write: %s", strerror(errno));
    close(fd);
}

static bool has(int m, const char *name)
{
    struct stat st;
    return stat(at(mount_at[m], name), &st) == 0;
}

static bool lists(int m, const char *name)
{
    DIR                 *dir = opendir(mount_at[m]);
    const struct dirent *entry;
    bool                 found = false;
    T_THAT(dir, "opendir: %s", strerror(errno));
    while ((entry = readdir(dir)))
        found |= strcmp(entry->d_name, name) == 0;
    closedir(dir);
    return found;
}

/* make: the change of that round, in the origin. shown: does mount m show it? */
static char text[64];
static long number;

static void make_write(void) { snprintf(text, sizeof text, "number %08ld", number); put("file", text, 0); }
static bool shown_write(int m)
{
    char got[64] = "";
    return pread(held[m], got, 15, 0) == 15 && strcmp(got, text) == 0;
}
static bool shown_map(int m) { return memcmp(map[m], text, 15) == 0; }
static void make_append(void) { put("grows", "more\n", O_APPEND); }
static bool shown_append(int m)
{
    struct stat st, want;
    return stat(at(origin, "grows"), &want) == 0 && stat(at(mount_at[m], "grows"), &st) == 0 && st.st_size == want.st_size;
}
static void make_truncate(void) { T_OK(truncate(at(origin, "cut"), number % 7)); }
static bool shown_truncate(int m)
{
    struct stat st;
    return stat(at(mount_at[m], "cut"), &st) == 0 && st.st_size == number % 7;
}
static void make_chmod(void) { T_OK(chmod(at(origin, "mode"), number % 2 ? 0600 : 0644)); }
static bool shown_chmod(int m)
{
    struct stat st;
    return stat(at(mount_at[m], "mode"), &st) == 0 && (st.st_mode & 0777) == (number % 2 ? 0600 : 0644);
}
static void make_replace(void)
{
    snprintf(text, sizeof text, "number %08ld", number);
    put("tmp", text, O_TRUNC);
    T_OK(rename(at(origin, "tmp"), at(origin, "replaced")));
}
static bool shown_replace(int m)
{
    char got[64] = "";
    int  fd = open(at(mount_at[m], "replaced"), O_RDONLY);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, got, 15);
    close(fd);
    return n == 15 && strcmp(got, text) == 0;
}
static void make_toggle(void)
{
    if (number % 2)
        put("comes", "x", 0);
    else
        T_OK(unlink(at(origin, "comes")));
}
static bool shown_toggle(int m) { return has(m, "comes") == (number % 2); }
static bool shown_listing(int m) { return lists(m, "comes") == (number % 2); }
static void make_rename(void)
{
    T_OK(rename(at(origin, number % 2 ? "tree" : "moved"), at(origin, number % 2 ? "moved" : "tree")));
}
static bool shown_rename(int m)
{
    return has(m, "moved/deep/file") == (number % 2) && has(m, "tree/deep/file") == !(number % 2) && lists(m, "moved") == (number % 2);
}
static void make_tree(void)
{
    char name[64];
    snprintf(name, sizeof name, "new%ld", number);
    T_OK(mkdir(at(origin, name), 0755));
    snprintf(name, sizeof name, "new%ld/file", number);
    put(name, "one", 0);
    snprintf(text, sizeof text, "new%ld/file", number);
}
static bool shown_tree(int m) { return has(m, text); }
static void make_in_tree(void)
{
    char name[64];
    snprintf(name, sizeof name, "new%ld/file", number);
    put(name, "and two", O_APPEND);
    snprintf(text, sizeof text, "%s", name);
}
static bool shown_in_tree(int m)
{
    struct stat st;
    return stat(at(mount_at[m], text), &st) == 0 && st.st_size == 10;
}

static const struct kind {
    const char *name;
    void (*make)(void);
    bool (*shown)(int m);
} kinds[] = {
    {"write, open file", make_write, shown_write}, {"write, mapped page", make_write, shown_map}, {"append", make_append, shown_append},
    {"truncate", make_truncate, shown_truncate},   {"chmod", make_chmod, shown_chmod},            {"replace by rename", make_replace, shown_replace},
    {"create and unlink", make_toggle, shown_toggle}, {"listing", make_toggle, shown_listing},    {"rename of a tree", make_rename, shown_rename},
    {"new tree", make_tree, shown_tree},           {"write in a new tree", make_in_tree, shown_in_tree},
};

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void run(const struct kind *kind, long rounds)
{
    static double took[ROUNDS_MAX];
    for (long i = 0; i < rounds; i++) {
        number = i + 1;
        for (int m = 0; m < 2; m++)
            kind->shown(m); /* the kernels hold the old state */
        kind->make();
        double start = now_ms();
        for (int m = 0; m < 2; m++)
            while (!kind->shown(m)) {
                T_THAT(now_ms() - start < LIMIT_MS, "%s, round %ld: not seen on %c after %d ms", kind->name, i, "AB"[m], LIMIT_MS);
                usleep(200);
            }
        took[i] = now_ms() - start;
    }
    qsort(took, (size_t)rounds, sizeof *took, by_size);
    printf("  %-20s median %6.1f ms   longest %6.1f ms\n", kind->name, took[rounds / 2], took[rounds - 1]);
}

int main(int argc, char **argv)
{
    T_THAT(argc == 5, "usage: watch ORIGIN DIR_A DIR_B ROUNDS");
    long rounds = atol(argv[4]);
    T_THAT(rounds > 0 && rounds <= ROUNDS_MAX && rounds % 2 == 0, "rounds: even, at most %d", ROUNDS_MAX);
    origin = argv[1];
    for (int m = 0; m < 2; m++) {
        mount_at[m] = argv[2 + m];
        held[m] = T_OK(open(at(mount_at[m], "file"), O_RDONLY));
        map[m] = T_OK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, held[m], 0));
    }
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        run(&kinds[k], rounds);
    return 0;
}
