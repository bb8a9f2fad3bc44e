/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_inotify.c - the watch where fanotify cannot be had: one inotify watch for each directory.
 *
 * A directory is watched first and read afterwards, so a directory that is made meanwhile is either read or told. A directory that comes in (made or moved
 * there) is walked when that is told; what it
 * holds may have been read, and changed, before it was watched: so all of it is told as changed. One that is moved keeps its watch, and its reference.
 * Directories that were moved out of the tree go on being watched; what is told of them concerns nobody.
 *
 * When the queue has run over, the whole tree is walked again: directories may have come in unseen. No watch left for a new directory (ENOSPC): from then on
 * that one is not watched, which is
 * said once, as ORIGIN_WATCH_ALL, and again with each walk.
 */
#include "origin_watch_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

enum { WALK_DEPTH_MAX = 512 };

static const uint32_t node_mask = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE;
static const uint32_t name_mask = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO;

/* ---- directories by wd ---- */

static struct origin_watched **bucket_of(struct origin_watch *watch, int wd)
{
    return &watch->dirs[(uint32_t)wd % ORIGIN_WATCH_BUCKETS];
}

static struct origin_watched *dir_find(struct origin_watch *watch, int wd)
{
    struct origin_watched *dir = *bucket_of(watch, wd);
    while (dir && dir->wd != wd)
        dir = dir->next;
    return dir;
}

static int dir_add(struct origin_watch *watch, int wd, const struct origin_ref *ref)
{
    struct origin_watched *dir = dir_find(watch, wd);
    if (!dir) {
        dir = calloc(1, sizeof *dir);
        if (!dir)
            return -ENOMEM;
        dir->wd = wd;
        dir->next = *bucket_of(watch, wd);
        *bucket_of(watch, wd) = dir;
    }
    dir->ref = *ref;
    return 0;
}

static void dir_remove(struct origin_watch *watch, int wd)
{
    for (struct origin_watched **at = bucket_of(watch, wd); *at; at = &(*at)->next) {
        struct origin_watched *dir = *at;
        if (dir->wd != wd)
            continue;
        *at = dir->next;
        free(dir);
        return;
    }
}

void origin_inotify_free(struct origin_watch *watch)
{
    for (unsigned i = 0; watch->dirs && i < ORIGIN_WATCH_BUCKETS; i++) {
        while (watch->dirs[i]) {
            struct origin_watched *dir = watch->dirs[i];
            watch->dirs[i] = dir->next;
            free(dir);
        }
    }
    free(watch->dirs);
    watch->dirs = NULL;
}

/* ---- walking ---- */

/* 0, also when it has gone meanwhile; -ENOSPC, -ENOMEM. */
static int walk(struct origin_watch *watch, int path_fd, const struct origin_ref *ref, bool tells, unsigned depth);

static int walk_child(struct origin_watch *watch, int dir_fd, const struct origin_ref *dir, const char *name, bool tells, unsigned depth)
{
    struct origin_ref  ref;
    struct origin_attr attr;
    int                fd = origin_fd_open_beneath(watch->origin, dir_fd, name);
    if (fd < 0)
        return 0;
    int err = origin_describe(watch->origin, fd, &ref, &attr);
    if (!err && tells)
        origin_watch_tell(watch, ORIGIN_WATCH_NODE, dir, name, &ref);
    err = !err && S_ISDIR(attr.mode) ? walk(watch, fd, &ref, tells, depth + 1) : 0;
    origin_fd_close(watch->origin, fd);
    return err;
}

static int walk(struct origin_watch *watch, int path_fd, const struct origin_ref *ref, bool tells, unsigned depth)
{
    char name[ORIGIN_PROC_NAME];

    if (depth > WALK_DEPTH_MAX)
        return -ENOSPC;
    origin_fd_proc_name(name, path_fd);
    int wd = inotify_add_watch(watch->fd, name, node_mask | name_mask | IN_ONLYDIR);
    int err = wd < 0 ? -errno : dir_add(watch, wd, ref);
    if (err)
        return err == -ENOENT || err == -ENOTDIR || err == -EACCES ? 0 : err;
    int fd = origin_fd_open(watch->origin, AT_FDCWD, name, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return 0;
    int  own_fd = dup(fd);
    DIR *stream = own_fd < 0 ? NULL : fdopendir(own_fd);
    if (!stream && own_fd >= 0)
        close(own_fd);
    for (const struct dirent *entry; stream && !err && (entry = readdir(stream));) {
        bool is_dots = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        if (!is_dots && (tells || entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN))
            err = walk_child(watch, path_fd, ref, entry->d_name, tells, depth);
    }
    if (stream)
        closedir(stream);
    else
        err = -EMFILE;
    origin_fd_close(watch->origin, fd);
    return err;
}

static int walk_all(struct origin_watch *watch)
{
    return walk(watch, watch->origin->root_node->path_fd, &watch->origin->root, false, 0);
}

int origin_inotify_open(struct origin_watch *watch)
{
    watch->dirs = calloc(ORIGIN_WATCH_BUCKETS, sizeof(struct origin_watched *));
    if (!watch->dirs)
        return -ENOMEM;
    watch->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    return watch->fd < 0 ? -errno : walk_all(watch);
}

/* ---- events ---- */

static void come_in(struct origin_watch *watch, const struct origin_ref *dir, const char *name)
{
    struct origin_node *node;
    int                 err = origin_resolve(watch->origin, dir, &node);
    if (!err) {
        err = walk_child(watch, node->path_fd, dir, name, true, 1);
        origin_fd_put(watch->origin, node);
    }
    if (err && err != -ESTALE)
        origin_watch_tell(watch, ORIGIN_WATCH_ALL, NULL, NULL, NULL);
}

static void event_tell(struct origin_watch *watch, const struct inotify_event *event)
{
    if (event->mask & IN_Q_OVERFLOW) {
        walk_all(watch);
        origin_watch_tell(watch, ORIGIN_WATCH_ALL, NULL, NULL, NULL);
        return;
    }
    const struct origin_watched *dir = dir_find(watch, event->wd);
    if (!dir)
        return;
    struct origin_ref ref = dir->ref; /* dir may go while we walk */
    if (event->mask & IN_IGNORED) {
        dir_remove(watch, event->wd);
        return;
    }
    const char *name = event->len && event->name[0] ? event->name : NULL;
    if ((event->mask & name_mask) && name)
        origin_watch_tell(watch, ORIGIN_WATCH_NAME, &ref, name, NULL);
    if ((event->mask & (IN_CREATE | IN_MOVED_TO)) && (event->mask & IN_ISDIR) && name)
        come_in(watch, &ref, name);
    if (event->mask & node_mask)
        origin_watch_tell(watch, ORIGIN_WATCH_NODE, &ref, name, name ? NULL : &ref);
}

int origin_inotify_read(struct origin_watch *watch, ssize_t size)
{
    int count = 0;
    for (const char *at = watch->buffer; at + sizeof(struct inotify_event) <= watch->buffer + size;) {
        const struct inotify_event *event = (const void *)at;
        at += sizeof *event + event->len;
        if (at > watch->buffer + size)
            break;
        event_tell(watch, event);
        count++;
    }
    return count;
}
