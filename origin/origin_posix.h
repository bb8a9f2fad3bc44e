/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_posix.h - what the files of the posix origin share. Nobody outside this folder includes it.
 *
 * Locks: node->lock, then ring_lock, both leaves: no other lock is taken and the locate callback is not called under
 * them. Everything that opens a node (origin_resolve, origin_fd_*) runs as the daemon, before origin_cred_take().
 */
#ifndef HEARTH_ORIGIN_POSIX_H
#define HEARTH_ORIGIN_POSIX_H

#include "origin.h"

#include <pthread.h>
#include <stdatomic.h>

#include <urcu/urcu-bp.h>

#include <urcu/rculfhash.h>

enum {
    ORIGIN_NAME_MAX = 255,
    ORIGIN_DEPTH_MAX = 4096,       /* directories above a PATH node                        */
    ORIGIN_FD_MAX_DEFAULT = 65536, /* bounds what the origin's kernel must keep for us     */
    ORIGIN_FD_MAX_LEAST = 8,
    ORIGIN_PROC_NAME = 32,      /* "/proc/self/fd/N"                                    */
    ORIGIN_RELIEVE_TRIES = 200, /* milliseconds to wait for others to let go of a descriptor */
};

/* Why a node's descriptor stays although nobody uses it; the sweep takes the lower ones first. */
enum origin_keep {
    ORIGIN_KEEP_NO = 0,     /* can be opened again by its reference                                            */
    ORIGIN_KEEP_PIN = 1,    /* a PATH node that was looked up here: can be found again only while its name lasts */
    ORIGIN_KEEP_ORPHAN = 2, /* has no name: the node is gone for good when the last descriptor is closed       */
};

/* One open node. Lives in the hash table (found under RCU) and in the clock's ring (ring_lock).
 * (c) constant after insertion  (a) atomic  (l) node->lock  (r) ring_lock */
struct origin_node {
    struct cds_lfht_node hash;
    struct origin_node  *ring_next; /* (r) */
    struct origin_node  *ring_prev; /* (r) */
    struct origin_ref    ref;       /* (c) the key */
    uint32_t             type;      /* (c) S_IFMT bits */
    int                  path_fd;   /* (c) O_PATH */
    _Atomic uint32_t     mode;      /* (a) as last seen; decides whether write_fd may stay open */
    _Atomic uint32_t     users;     /* (a) threads that use it, or NODE_DEAD / NODE_STRIP, see origin_fd.c */
    _Atomic uint8_t      touched;   /* (a) used since the hand came by */
    _Atomic uint8_t      keep;      /* (a) enum origin_keep */
    _Atomic uint8_t      doomed;    /* (a) forgotten while in use: the last user closes it */
    _Atomic int          read_fd;   /* (a) -1 or open; closed only while nobody uses the node */
    int                  write_fd;  /* (l) -1 or open */
    uint32_t             writers;   /* (l) users of write_fd */
    pthread_mutex_t      lock;
};

struct origin {
    int               root_fd; /* O_RDONLY, also the mount descriptor of open_by_handle_at */
    struct origin_ref root;
    bool              read_only;
    bool              handles;  /* the probe said that the file system has usable ones */
    bool              no_birth; /* its birth time is not a lasting property of a node (overlayfs) */
    _Atomic bool      all_handles;
    uint32_t          fd_max;
    origin_locate_fn  locate;
    void             *locate_arg;

    /* whom to go back to after acting as somebody else */
    uint32_t uid, gid;
    gid_t   *groups;
    uint32_t group_count;

    struct cds_lfht    *table;
    struct origin_node *root_node;
    pthread_mutex_t     ring_lock;
    struct origin_node  ring;        /* (r) sentinel */
    struct origin_node *hand;        /* (r) */
    struct origin_node *grave;       /* (r) closed nodes that a reader may still look at, linked by ring_next */
    uint32_t            grave_count; /* (r) */
    uint32_t            node_count;  /* (r) */
    _Atomic uint32_t    orphan_count;
    _Atomic uint32_t    open_fds;
    _Atomic uint64_t    reader_exits; /* only for TSan, which does not see the library's fences */

    _Atomic uint64_t reads, read_bytes, writes, write_bytes, meta_ops;
};

/* ---- origin_fd.c ---- */
int  origin_fd_table_open(struct origin *origin);
void origin_fd_table_close(struct origin *origin);
/* The node of that reference if it is open, counted as used, else NULL. */
struct origin_node *origin_fd_find(struct origin *origin, const struct origin_ref *ref);
/* Takes path_fd over, also on failure. *out is counted as used; it may be one that somebody else has just inserted. */
int  origin_fd_insert(struct origin *origin, const struct origin_ref *ref, uint32_t mode, int path_fd,
                      enum origin_keep keep, struct origin_node **out);
void origin_fd_put(struct origin *origin, struct origin_node *node);
void origin_fd_keep_set(struct origin *origin, struct origin_node *node, enum origin_keep keep);
/* After a descriptor was opened, with no lock held: keeps to fd_max as well as a bounded number of steps can. */
void origin_fd_trim(struct origin *origin);
/* Is it worth trying again to open after this errno? Makes room if there was no descriptor left. */
bool origin_fd_relieve(struct origin *origin, int error, unsigned *tries);

/* ---- origin_open.c ---- */
/* A descriptor for reading a regular file or directory, good as long as the node is counted as used. */
int origin_fd_read(struct origin *origin, struct origin_node *node, int *fd);
/* One for writing, good until write_end. */
int  origin_fd_write_begin(struct origin *origin, struct origin_node *node, int *fd);
void origin_fd_write_end(struct origin *origin, struct origin_node *node);
/* Gives the node a descriptor for writing that its creator holds already. */
void origin_fd_write_adopt(struct origin *origin, struct origin_node *node, int fd);
/* node->mode has changed: closes an idle descriptor for writing that may not stay. */
void origin_fd_write_settle(struct origin *origin, struct origin_node *node);
/* Opens that count, start again after EINTR, and make room when there is no descriptor left. fd or -errno. */
int  origin_fd_open(struct origin *origin, int dir_fd, const char *name, int flags, uint32_t mode);
int  origin_fd_open_beneath(struct origin *origin, int dir_fd, const char *name);
int  origin_fd_open_handle(struct origin *origin, const struct origin_ref *ref);
void origin_fd_close(struct origin *origin, int fd);
void origin_fd_proc_name(char name[ORIGIN_PROC_NAME], int fd);

/* ---- origin_ref.c ---- */
int origin_name_check(const char *name);
/* Attributes and, if ref is not NULL, the reference of an open node. */
int origin_describe(struct origin *origin, int fd, struct origin_ref *ref, struct origin_attr *attr);
/* The same for a node, whose mode is noted. */
int origin_node_describe(struct origin *origin, struct origin_node *node, struct origin_attr *attr);
/* The open node of a reference, counted as used. -ESTALE if it is gone or another one, -EUCLEAN if ref is nonsense. */
int origin_resolve(struct origin *origin, const struct origin_ref *ref, struct origin_node **out);
/* The child of that name, not following a symlink; ref and attr may be NULL. */
int  origin_child(struct origin *origin, struct origin_node *dir, const char *name, struct origin_node **out,
                  struct origin_ref *ref, struct origin_attr *attr);
void origin_handles_probe(struct origin *origin);

/* ---- origin_attr.c ---- */
/* Takes the set-id bits of a regular file away as a write by an unprivileged user does. */
int origin_setid_clear(int fd, enum origin_clear clear);

/* ---- origin_cred.c ---- */
struct origin_cred_held {
    bool     uid, gid, groups, mask;
    uint32_t umask;
};
/* Makes the calling thread act for `cred` (NULL: as the daemon); with `creates` also with its umask. Each success is
 * followed by origin_cred_restore() on the same thread, which keeps errno. */
int  origin_cred_take(const struct origin *origin, const struct origin_cred *cred, bool creates,
                      struct origin_cred_held *held);
void origin_cred_restore(const struct origin *origin, const struct origin_cred_held *held);
/* The mode to create with after a take with `creates`: less the umask where the thread could not get one of its own. */
uint32_t origin_cred_mode(const struct origin_cred *cred, const struct origin_cred_held *held, uint32_t mode);

static inline void origin_count(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

#endif
