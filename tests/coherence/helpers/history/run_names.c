/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_names.c - operations on names, each recorded with its interval and its result.
 *
 *   files     6 names in two directories: create (O_EXCL), link, unlink, rename with all flags, stat, listing; an inode is known by its number, which is not
 *             used twice in one window, because what was created stays open until the window ends. Link counts of inodes with several names.
 *   symlinks  4 names; the target is a tag, so that readlink tells which symlink it was
 *   dirs      4 names: mkdir, rmdir, rename, stat; only that a directory is there can be told
 *
 * Each set of names is one object, for a rename changes two of them at one point.
 */
#include <dirent.h>

#include "run.h"
#include "t.h"

static const char *const file_words[HIST_WORDS] = {"d0/a", "d0/b", "d0/c", "d1/a", "d1/b", "d1/c", "", ""};
static const char *const symlink_words[HIST_WORDS] = {"d0/s", "d0/t", "d1/s", "d1/t", "", "", "", ""};
static const char *const dir_words[HIST_WORDS] = {"d0/x", "d0/y", "d1/x", "d1/y", "", "", "", ""};
const struct hist_object names_object[3] = {
    {.class = HIST_NAMES, .name = "names of files", .words = file_words},
    {.class = HIST_NAMES, .name = "names of symlinks", .words = symlink_words},
    {.class = HIST_DIRS, .name = "names of directories", .words = dir_words},
};
enum { FILES, SYMLINKS, DIRS };
static const unsigned slots_of[3] = {SLOTS, 4, 4};

void names_make(const char *dir, unsigned threads)
{
    int root = T_OK(open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    T_OK(mkdirat(root, "d0", 0700));
    T_OK(mkdirat(root, "d1", 0700));
    T_OK(mkdirat(root, "pool", 0700));
    for (unsigned i = 0; i < threads * POOL; i++) {
        char name[32];
        snprintf(name, sizeof name, "pool/%u", i);
        close(T_OK(openat(root, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600)));
    }
    close(root);
}

void names_open(struct runner *self)
{
    self->root = T_OK(open(self->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (unsigned i = 0; i < POOL; i++) {
        char        name[32];
        struct stat st;
        snprintf(name, sizeof name, "pool/%u", self->index * POOL + i);
        self->pool[i] = T_OK(openat(self->root, name, O_RDWR | O_CLOEXEC));
        T_OK(fstat(self->pool[i], &st));
        self->pool_inode[i] = st.st_ino;
    }
}

void names_window_ends(struct runner *self)
{
    while (self->held_count)
        close(self->held[--self->held_count]);
}

/* result < 0: the error is recorded if it is one that an order can explain. */
static struct hist_op *finish(struct runner *self, unsigned set, enum hist_kind kind, unsigned x, unsigned y, long result, uint64_t began)
{
    uint64_t ended = run_now();
    int      error = result < 0 ? errno : 0;
    static _Thread_local struct hist_op nowhere;
    if (error == ESTALE) { /* removed twice between a LOOKUP and what followed it: hearthfs-coherence(7) */
        self->stale++;
        nowhere.err = ESTALE;
        return &nowhere;
    }
    if (error && error != ENOENT && error != EEXIST)
        run_refused(self, names_object[set].words[x]);
    struct hist_op *op = run_record(self, O_FILES + set, kind, began, ended);
    op->x = (uint8_t)x;
    op->y = (uint8_t)y;
    op->err = (uint8_t)error;
    return op;
}

static void do_create(struct runner *self, unsigned set, unsigned x)
{
    const char *name = names_object[set].words[x];
    struct stat st;
    char        target[32];
    uint64_t    tag = run_tag(self), began;
    if (set == SYMLINKS) {
        run_doing(self, "symlink");
        snprintf(target, sizeof target, "%llx", (unsigned long long)tag);
        began = run_now();
        finish(self, set, HIST_CREATE, x, 0, symlinkat(target, self->root, name), began)->a = tag;
    } else if (set == DIRS) {
        run_doing(self, "mkdir");
        began = run_now();
        finish(self, set, HIST_CREATE, x, 0, mkdirat(self->root, name, 0700), began)->a = 1;
    } else if (self->held_count == HELD_MAX || run_pick(self, 2)) {
        unsigned which = (unsigned)run_pick(self, POOL);
        snprintf(target, sizeof target, "pool/%u", self->index * POOL + which);
        run_doing(self, "link");
        began = run_now();
        finish(self, set, HIST_CREATE, x, 0, linkat(self->root, target, self->root, name, 0), began)->a = self->pool_inode[which];
    } else {
        run_doing(self, "create");
        began = run_now();
        int             fd = openat(self->root, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
        struct hist_op *op = finish(self, set, HIST_CREATE, x, 0, fd, began);
        if (fd < 0)
            return;
        self->held[self->held_count++] = fd;
        if (fstat(fd, &st) != 0)
            run_refused(self, "fstat of what was just created");
        op->a = st.st_ino;
    }
}

static void do_remove(struct runner *self, unsigned set, unsigned x)
{
    run_doing(self, set == DIRS ? "rmdir" : "unlink");
    uint64_t began = run_now();
    finish(self, set, HIST_REMOVE, x, 0, unlinkat(self->root, names_object[set].words[x], set == DIRS ? AT_REMOVEDIR : 0), began);
}

static void do_rename(struct runner *self, unsigned set, unsigned x)
{
    static const struct {
        enum hist_kind kind;
        unsigned       flags;
        const char    *doing;
    } renames[4] = {{HIST_RENAME, 0, "rename"}, {HIST_RENAME, 0, "rename"}, {HIST_NOREPLACE, RENAME_NOREPLACE, "rename, no replace"},
                    {HIST_EXCHANGE, RENAME_EXCHANGE, "exchange"}};
    unsigned which = (unsigned)run_pick(self, 4), y = (unsigned)run_pick(self, slots_of[set] - 1);
    y += y >= x;
    run_doing(self, renames[which].doing);
    uint64_t began = run_now();
    finish(self, set, renames[which].kind, x, y,
           renameat2(self->root, names_object[set].words[x], self->root, names_object[set].words[y], renames[which].flags), began);
}

static void do_lookup(struct runner *self, unsigned set, unsigned x, bool only_there)
{
    const char     *name = names_object[set].words[x];
    struct stat     st = {0};
    char            target[64] = "";
    struct hist_op *op;
    run_doing(self, "look up");
    uint64_t began = run_now();
    if (set == SYMLINKS)
        op = finish(self, set, HIST_LOOKUP, x, 0, readlinkat(self->root, name, target, sizeof target - 1), began);
    else if (only_there)
        op = finish(self, set, HIST_LOOKUP, x, 0, faccessat(self->root, name, F_OK, 0), began);
    else
        op = finish(self, set, HIST_LOOKUP, x, 0, fstatat(self->root, name, &st, AT_SYMLINK_NOFOLLOW), began);
    op->way = set == SYMLINKS ? WAY_READ : WAY_STAT;
    op->a = set == SYMLINKS ? strtoull(target, NULL, 16) : set == DIRS ? 1 : only_there ? HIST_ANY : st.st_ino;
    if (op->err == EEXIST)
        run_refused(self, "look up");
    if (op->err)
        op->a = 0;
    op->err = 0; /* that it is absent is what was seen */
}

/* What a listing of one directory says of each name: it was there, or not, at some moment between open and close. */
static void do_list(struct runner *self, unsigned which)
{
    bool     seen[3][HIST_WORDS] = {{false}};
    char     dir[3] = {'d', (char)('0' + which), 0};
    uint64_t began = run_now();
    run_doing(self, "list");
    int  fd = openat(self->root, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (!stream)
        run_refused(self, "open of a directory");
    errno = 0;
    for (struct dirent *entry; (entry = readdir(stream));)
        for (unsigned set = 0; set < 3; set++)
            for (unsigned x = 0; x < slots_of[set]; x++)
                seen[set][x] |= names_object[set].words[x][1] == dir[1] && !strcmp(names_object[set].words[x] + 3, entry->d_name);
    if (errno)
        run_refused(self, "listing");
    uint64_t ended = run_now();
    closedir(stream);
    for (unsigned set = 0; set < 3; set++) {
        for (unsigned x = 0; x < slots_of[set]; x++) {
            if (names_object[set].words[x][1] != dir[1])
                continue;
            struct hist_op *op = run_record(self, O_FILES + set, HIST_LOOKUP, began, ended);
            op->x = (uint8_t)x;
            op->a = seen[set][x] ? HIST_ANY : 0;
            op->way = WAY_LIST;
        }
    }
}

static void do_links(struct runner *self)
{
    unsigned    which = (unsigned)run_pick(self, POOL);
    struct stat st;
    run_doing(self, "link count");
    uint64_t        began = run_now();
    int             result = fstat(self->pool[which], &st);
    struct hist_op *op = finish(self, FILES, HIST_LINKS, 0, 0, result, began);
    if (op->err)
        run_refused(self, "link count");
    op->a = self->pool_inode[which];
    op->b = (uint64_t)st.st_nlink - 1; /* one in pool/ */
    op->way = WAY_STAT;
}

void names_step(struct runner *self, bool change)
{
    unsigned set = (unsigned)run_pick(self, 4);
    set = set == 3 ? FILES : set;
    unsigned x = (unsigned)run_pick(self, slots_of[set]);
    if (change) {
        switch (run_pick(self, 3)) {
        case 0:
            do_create(self, set, x);
            return;
        case 1:
            do_remove(self, set, x);
            return;
        default:
            do_rename(self, set, x);
            return;
        }
    }
    switch (run_pick(self, 12)) {
    case 0:
        do_list(self, (unsigned)run_pick(self, 2));
        return;
    case 1:
    case 2:
        do_links(self);
        return;
    default:
        do_lookup(self, set, x, set != SYMLINKS && run_pick(self, 8) == 0);
    }
}

void names_sweep(struct runner *self)
{
    for (unsigned set = 0; set < 3; set++)
        for (unsigned x = 0; x < slots_of[set]; x++)
            do_lookup(self, set, x, false);
    do_list(self, 0);
    do_list(self, 1);
    for (unsigned i = 0; i < POOL; i++)
        do_links(self);
}
