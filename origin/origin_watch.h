/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_watch.h - being told when the origin's tree changes, by whomever.
 *
 * Two kinds. fanotify: one mark on the whole file system; needs CAP_SYS_ADMIN and a file system with handles; changes by this very process are left out; a file is named by its
 * reference, so changes through names outside the directory are told, too. inotify: one watch for each directory; changes by this process are told as any others.
 * Neither tells of stores through a mapping before the file is closed, nor of what another machine does to a network file system. fanotify does not see file systems mounted
 * beneath the directory.
 *
 * What is told is where to look, never what has happened: look at the node or the name. Something may be told that is outside the directory, or of which
 * nothing has changed. When the kernel's
 * queue ran over, or the watch cannot tell, everything may have changed (ORIGIN_WATCH_ALL).
 */
#ifndef HEARTH_ORIGIN_WATCH_H
#define HEARTH_ORIGIN_WATCH_H

#include "origin.h"

enum origin_watch_kind { ORIGIN_WATCH_AUTO = 0, ORIGIN_WATCH_FANOTIFY = 1, ORIGIN_WATCH_INOTIFY = 2 };

enum origin_watch_what {
    ORIGIN_WATCH_NODE, /* data or attributes: of `node`, or where that is NULL, of what `name` in `dir` stands for */
    ORIGIN_WATCH_NAME, /* `name` in `dir` stands for something else, or may                                        */
    ORIGIN_WATCH_ALL,  /* anything                                                                               */
};

struct origin_watch_event {
    enum origin_watch_what   what;
    const struct origin_ref *dir, *node; /* NULL: see above */
    const char              *name;
};
/* Called by origin_watch_read() and origin_watch_open(), in their thread; what it is given is good during the call. */
typedef void (*origin_watch_fn)(void *arg, const struct origin_watch_event *event);

struct origin_watch;

/*
 * From its return on, changes are kept for origin_watch_read(). AUTO: fanotify, else inotify. With inotify it goes through the whole tree, and may call fn.
 * -EPERM or -EOPNOTSUPP: fanotify cannot be had here;
 * -ENOSPC, -EMFILE: fs.inotify.max_user_watches or max_user_instances is too low; -ENOMEM.
 */
int  origin_watch_open(struct origin *origin, enum origin_watch_kind kind, origin_watch_fn fn, void *arg, struct origin_watch **out);
void origin_watch_close(struct origin_watch *watch); /* before origin_close(); no thread reads any more */
enum origin_watch_kind origin_watch_kind(const struct origin_watch *watch);
/* Waits for events up to timeout_ms, tells what is there, and returns how many events that were, also those left out; 0 after the time, or -errno. One thread at a time. */
int origin_watch_read(struct origin_watch *watch, int timeout_ms);

#endif
