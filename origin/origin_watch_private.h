/* SPDX-License-Identifier: Apache-2.0 */
/* origin_watch_private.h - what origin_watch.c and origin_inotify.c share. */
#ifndef HEARTH_ORIGIN_WATCH_PRIVATE_H
#define HEARTH_ORIGIN_WATCH_PRIVATE_H

#include "origin_posix.h"
#include "origin_watch.h"

enum { ORIGIN_WATCH_MEMO = 8192, ORIGIN_WATCH_BUFFER = 64 << 10, ORIGIN_WATCH_BUCKETS = 16384 };

struct origin_watched { /* one directory under inotify */
    struct origin_watched *next;
    int                    wd;
    struct origin_ref      ref;
};

struct origin_watch {
    struct origin         *origin;
    origin_watch_fn        fn;
    void                  *arg;
    enum origin_watch_kind kind;
    int                    fd;
    pid_t                  self;
    struct origin_ref     *memo;  /* fanotify: references by handle         */
    struct origin_watched **dirs; /* inotify: directories by wd, in buckets */
    _Alignas(8) char       buffer[ORIGIN_WATCH_BUFFER];
};

void origin_watch_tell(struct origin_watch *watch, enum origin_watch_what what, const struct origin_ref *dir, const char *name, const struct origin_ref *node);

int  origin_inotify_open(struct origin_watch *watch);
int  origin_inotify_read(struct origin_watch *watch, ssize_t size); /* what is in the buffer */
void origin_inotify_free(struct origin_watch *watch);

#endif
