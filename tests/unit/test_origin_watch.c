/* SPDX-License-Identifier: Apache-2.0 */
/* test_origin_watch.c - being told of changes: each kind of change by each kind of watch, and what must not be told. */
#include "origin_watch.h"
#include "support_origin.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOLD_MAX = 4096, WAIT_MS = 2000 };

struct told {
    enum origin_watch_what what;
    bool                   has_dir, has_node;
    struct origin_ref      dir, node;
    char                   name[256];
};
static struct told told[TOLD_MAX];
static unsigned    told_count;

static void hear(void *arg, const struct origin_watch_event *event)
{
    (void)arg;
    if (told_count == TOLD_MAX)
        return;
    struct told *t = &told[told_count++];
    memset(t, 0, sizeof *t);
    t->what = event->what;
    t->has_dir = event->dir;
    t->has_node = event->node;
    if (event->dir)
        t->dir = *event->dir;
    if (event->node)
        t->node = *event->node;
    snprintf(t->name, sizeof t->name, "%s", event->name ? event->name : "");
}

/* By another process: fanotify leaves out what this one does. */
static void outside(const struct scene *scene, const char *script)
{
    pid_t child = fork();
    if (child == 0) {
        if (chdir(scene->dir) != 0)
            _exit(2);
        execl("/bin/sh", "sh", "-ec", script, (char *)NULL);
        _exit(3);
    }
    int status = -1;
    cr_assert(child > 0 && waitpid(child, &status, 0) == child && status == 0, "%s: '%s' ended with %d", scene->label, script, status);
}

static bool same_ref(const struct origin_ref *a, const struct origin_ref *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* Reads until something was told that fits: the node itself, or the name in that directory. */
static bool is_told(struct origin_watch *watch, enum origin_watch_what what, const struct origin_ref *dir, const char *name, const struct origin_ref *node)
{
    for (int left = WAIT_MS; left > 0; left -= 50) {
        for (unsigned i = 0; i < told_count; i++) {
            const struct told *t = &told[i];
            if (t->what != what)
                continue;
            if (node && t->has_node && same_ref(&t->node, node))
                return true;
            if (dir && t->has_dir && same_ref(&t->dir, dir) && strcmp(t->name, name) == 0)
                return true;
        }
        origin_watch_read(watch, 50);
    }
    return false;
}

static enum origin_watch_kind kind_now;
static unsigned               watched;

static void each_change(struct scene *scene, struct origin_watch *watch)
{
    struct origin_ref file = scene_lookup(scene, &scene->root, "file"), sub = scene_lookup(scene, &scene->root, "sub"), deep = scene_lookup(scene, &sub, "deep");
    static const char *const changes[] = {"echo 1 >>file", "chmod 600 file", "touch -d 2001-01-01 file", ": >file"};

    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        told_count = 0;
        outside(scene, changes[i]);
        cr_expect(is_told(watch, ORIGIN_WATCH_NODE, &scene->root, "file", &file), "%s: '%s' was not told", scene->label, changes[i]);
    }
    told_count = 0;
    outside(scene, "echo 2 >>sub/deep; echo x >sub/made; mv sub/made moved; rm moved; chmod 700 sub");
    cr_expect(is_told(watch, ORIGIN_WATCH_NODE, &sub, "deep", &deep), "%s: a write in a subdirectory", scene->label);
    cr_expect(is_told(watch, ORIGIN_WATCH_NAME, &sub, "made", NULL), "%s: a new name", scene->label);
    cr_expect(is_told(watch, ORIGIN_WATCH_NAME, &scene->root, "moved", NULL), "%s: a name moved there", scene->label);
    cr_expect(is_told(watch, ORIGIN_WATCH_NODE, &scene->root, "sub", &sub), "%s: the mode of a directory", scene->label);
}

/* Directories that come after the watch, moved ones too. */
static void new_directories(struct scene *scene, struct origin_watch *watch)
{
    told_count = 0;
    outside(scene, "mkdir -p new/er && echo 1 >new/er/f");
    cr_expect(is_told(watch, ORIGIN_WATCH_NAME, &scene->root, "new", NULL), "%s: a new directory", scene->label);
    origin_watch_read(watch, 100);
    struct origin_ref first = scene_lookup(scene, &scene->root, "new"), er = scene_lookup(scene, &first, "er"), f = scene_lookup(scene, &er, "f");
    told_count = 0;
    outside(scene, "echo 2 >>new/er/f");
    cr_expect(is_told(watch, ORIGIN_WATCH_NODE, &er, "f", &f), "%s: a write below a new directory", scene->label);
    outside(scene, "mv new/er sub/er");
    struct origin_ref sub = scene_lookup(scene, &scene->root, "sub");
    cr_expect(is_told(watch, ORIGIN_WATCH_NAME, &first, "er", NULL) && is_told(watch, ORIGIN_WATCH_NAME, &sub, "er", NULL), "%s: a directory that moves",
              scene->label);
    told_count = 0;
    outside(scene, "echo 3 >>sub/er/f");
    cr_expect(is_told(watch, ORIGIN_WATCH_NODE, &er, "f", &f), "%s: a write below a moved directory", scene->label);
}

static void kinds_body(struct scene *scene)
{
    struct origin_watch *watch;
    scene_write_file(scene, "file", "one", 0644);
    outside(scene, "mkdir sub; echo 1 >sub/deep; mkdir ../beside 2>/dev/null || true");
    int rc = origin_watch_open(scene->origin, kind_now, hear, NULL, &watch);
    if (rc != 0 && kind_now == ORIGIN_WATCH_FANOTIFY) { /* no handles, or no right to */
        cr_expect(rc == -EOPNOTSUPP || rc == -EPERM || rc == -ENOSYS, "%s: %d", scene->label, rc);
        return;
    }
    cr_assert_eq(rc, 0, "%s: %d", scene->label, rc);
    cr_expect(kind_now == ORIGIN_WATCH_AUTO || origin_watch_kind(watch) == kind_now);
    watched++;
    each_change(scene, watch);
    new_directories(scene, watch);
    origin_watch_close(watch);
}

/* Goal:   whatever is changed in the tree is told, by node or by name, wherever it is and however new its directory.
 * Method: changes by another process; with and without handles, on two file systems, by each kind of watch. */
Test(origin_watch, tells_each_change, .timeout = 120)
{
    for (unsigned kind = ORIGIN_WATCH_AUTO; kind <= ORIGIN_WATCH_INOTIFY; kind++) {
        kind_now = (enum origin_watch_kind)kind;
        scene_each(kinds_body, NULL);
    }
    cr_expect(watched >= 8, "inotify and the automatic choice must work everywhere, %u did", watched);
}

static void own_body(struct scene *scene)
{
    struct origin_watch *watch;
    if (origin_watch_open(scene->origin, ORIGIN_WATCH_FANOTIFY, hear, NULL, &watch) != 0) {
        scene_note(scene, "no fanotify here");
        return;
    }
    told_count = 0;
    struct origin_ref file = scene_create(scene, &scene->root, "own", 0644);
    cr_expect_eq(origin_write(scene->origin, &file, "x", 1, 0, 0, false, NULL), 1);
    outside(scene, "echo mark >mark");
    cr_expect(is_told(watch, ORIGIN_WATCH_NAME, &scene->root, "mark", NULL));
    for (unsigned i = 0; i < told_count; i++)
        cr_expect(strcmp(told[i].name, "own") != 0 && !(told[i].has_node && same_ref(&told[i].node, &file)), "%s: an own change was told", scene->label);
    origin_watch_close(watch);
}

/* Goal:   fanotify does not tell a process of its own changes.
 * Method: changes through the origin, then one by another process, which is told. */
Test(origin_watch, leaves_out_own_changes, .timeout = 60)
{
    scene_each(own_body, NULL);
}

static void overflow_body(struct scene *scene)
{
    struct origin_watch *watch;
    unsigned             queue = 16384;
    FILE                *limit = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    if (limit) {
        if (fscanf(limit, "%u", &queue) != 1)
            queue = 16384;
        fclose(limit);
    }
    if (queue > 100000) {
        scene_note(scene, "the queue of inotify is too long to fill");
        return;
    }
    outside(scene, "echo 1 >a; echo 1 >b");
    cr_assert_eq(origin_watch_open(scene->origin, ORIGIN_WATCH_INOTIFY, hear, NULL, &watch), 0);
    told_count = 0;
    for (unsigned i = 0; i <= queue / 2; i++) { /* two files in turn: equal neighbours would be one event */
        cr_assert_eq(truncate(scene_path(scene, "a"), i % 5), 0);
        cr_assert_eq(truncate(scene_path(scene, "b"), i % 5), 0);
    }
    cr_assert_eq(mkdir(scene_path(scene, "unseen"), 0755), 0);
    cr_expect_eq(close(open(scene_path(scene, "unseen/f"), O_CREAT | O_WRONLY, 0644)), 0);
    bool all = false;
    for (unsigned reads = 0; reads < 1000 && !all; reads++) {
        told_count = 0;
        if (origin_watch_read(watch, 100) == 0)
            break;
        for (unsigned i = 0; i < told_count; i++)
            all |= told[i].what == ORIGIN_WATCH_ALL;
    }
    cr_expect(all, "%s: the overflow was not told", scene->label);
    struct origin_ref unseen = scene_lookup(scene, &scene->root, "unseen"), f = scene_lookup(scene, &unseen, "f");
    outside(scene, "echo 1 >unseen/f");
    cr_expect(is_told(watch, ORIGIN_WATCH_NODE, &unseen, "f", &f), "%s: a directory made during the overflow is not watched", scene->label);
    origin_watch_close(watch);
}

/* Goal:   an overflow is told, and loses no directory.
 * Method: more events than the queue holds, unread; a directory made behind them. */
Test(origin_watch, survives_an_overflow, .timeout = 120)
{
    scene_each(overflow_body, NULL);
}
