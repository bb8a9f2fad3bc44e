/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs.h - the tree as a FUSE file system: the one entry point of fs/.
 *
 * fs_serve() mounts, answers requests until the file system is unmounted or a signal ends it, and unmounts. The session (persist/) and the origin are
 * the caller's and outlive the call.
 */
#ifndef HEARTH_FS_H
#define HEARTH_FS_H

#include "origin.h"
#include "persist.h"

/* When reading moves access times: never; as relatime does; likewise, but not those of directories; at every read that is seen. */
enum fs_atime_policy { FS_ATIME_NEVER = 0, FS_ATIME_RELATIVE = 1, FS_ATIME_NOT_OF_DIRS = 2, FS_ATIME_STRICT = 3 };
enum fs_watch_kind { FS_WATCH_NONE = 0, FS_WATCH_AUTO = 1, FS_WATCH_FANOTIFY = 2, FS_WATCH_INOTIFY = 3 };
enum fs_uring { FS_URING_AUTO = 0, FS_URING_OFF = 1, FS_URING_ON = 2 };

#define FS_REVALIDATE_NEVER UINT32_MAX

struct fs_config {
    const char   *mountpoint;    /* absolute                                                     */
    const char   *fuse_options;  /* further -o options for FUSE itself (fsname=, subtype=, suid, dev, max_read...), or NULL */
    const char   *fsname;        /* shown by mount(8)                                            */
    bool          read_only;
    bool          locks_none;    /* -o locks=none: open and close cost no message                */
    bool          cache_shared;  /* -o cache=shared: direct I/O, the kernel keeps no file data but what is mapped; not with locks_none */
    bool          names_plain;   /* -o noepoch: never use the epoch notification (as on kernels before 6.16) */
    bool          foreground;
    bool          debug;         /* FUSE messages to stderr                                      */
    enum fs_atime_policy atime;
    enum fs_uring uring;
    enum fs_watch_kind watch;    /* be told of changes of the origin from outside                */
    uint32_t      revalidate_ms; /* OPEN asks the origin unless it did so less than this ago; 0: always, FS_REVALIDATE_NEVER */
    unsigned      recall_timeout_ms;
    unsigned      workers_max;   /* 0: default                                                   */
};

struct fs; /* opaque */

/*
 * Mounts and serves. `ready` is called once, when the mount is up (err NULL), or not at all: then the result is -errno and err holds one line for people:
 * -ENODEV /dev/fuse missing, -ENOENT/-ENOTDIR/-EBUSY/-EACCES of the mount point, ... Blocks until the end; 0 after a clean unmount or SIGTERM/SIGINT/SIGHUP.
 */
int fs_serve(const struct fs_config *config, struct persist_session *session, struct origin *origin,
             void (*ready)(void *arg, const char *note), void *arg, char err[SEG_ERR_BYTES]);

/* For origin_options.locate: where the cache last saw a node; arg is the struct cache. */
int fs_locate(void *arg, const struct origin_ref *node, struct origin_ref *parent, char *name, size_t name_size);

#endif
