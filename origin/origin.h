/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin.h - where the bytes come from: one interface, several kinds of origin.
 *
 * An origin is a tree of nodes behind the cache. Everything above (fs/) reaches it through the functions below and
 * nothing else; nothing here knows of FUSE, of frames or of the segment. All functions may block (they do I/O), all are
 * safe to call from any thread, and all return 0 or -errno unless they say otherwise. Results by out-parameter are
 * untouched on failure.
 *
 * Naming a node. A node is named by a `struct origin_ref`: a value without pointers, small enough to live in the
 * segment, that any member who reaches the same origin can resolve, also after a restart. Two kinds:
 *   ORIGIN_REF_HANDLE  a file handle of the file system (name_to_handle_at); survives renames, unlinks and restarts.
 *   ORIGIN_REF_PATH    the file system gives no usable handle (FUSE, overlayfs without index, ...): the reference holds
 *                      the identity only, and the origin finds the node by asking `origin_locate_fn` for its parent and
 *                      name, checks the identity, and keeps a descriptor from then on.
 * A reference never leads out of the shared directory: PATH references are walked with openat2(RESOLVE_BENEATH |
 * RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS), and handles are only accepted for the file system of the root and after
 * the identity {dev, ino} has been compared.
 *
 * Whose rights. Calls that create, remove, rename, change attributes or xattrs carry `struct origin_cred` and are made
 * with that uid, gid and supplementary groups on the calling thread only; reads and writes of data are made as the
 * daemon, because the kernel has checked them when the file was opened.
 *
 * Descriptors. The origin keeps a bounded cache of open descriptors (an RCU hash table keyed by identity, in-use count
 * each, clock eviction); EMFILE is answered by closing idle ones and trying again, never passed to the user.
 * Devices, sockets and fifos are never opened except with O_PATH.
 */
#ifndef HEARTH_ORIGIN_H
#define HEARTH_ORIGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

struct origin;

enum { ORIGIN_HANDLE_BYTES = 20, ORIGIN_GROUPS_MAX = 256 };

enum origin_ref_kind { ORIGIN_REF_NONE = 0, ORIGIN_REF_HANDLE = 1, ORIGIN_REF_PATH = 2 };

/* Identity of a node at its origin. Fixed width, no pointers: it is stored in the segment as it is. 48 bytes. */
struct origin_ref {
    uint64_t dev;         /* st_dev of the node as the origin sees it                                  */
    uint64_t ino;         /* st_ino                                                                    */
    uint64_t birth_ns;    /* btime in ns (0 where the file system has none): tells a reused inode number */
    uint8_t  kind;        /* enum origin_ref_kind                                                      */
    uint8_t  handle_len;  /* bytes used in handle[]                                                    */
    uint16_t handle_type; /* handle_type of name_to_handle_at                                          */
    uint8_t  handle[ORIGIN_HANDLE_BYTES];
};
_Static_assert(sizeof(struct origin_ref) == 48, "lives in the segment");

/* Attributes of a node: what statx gives. Times are seconds and nanoseconds. */
struct origin_time {
    int64_t  sec;
    uint32_t nsec;
    uint32_t zero;
};
struct origin_attr {
    uint64_t           ino;
    uint64_t           size_bytes;
    uint64_t           blocks; /* of 512 bytes */
    uint64_t           rdev;   /* as makedev() gives it */
    uint32_t           mode, nlink, uid, gid;
    uint32_t           blksize;
    uint32_t           zero;
    struct origin_time atime, mtime, ctime, btime;
};

/* Who asks. groups may be NULL with group_count 0 (then only uid and gid are taken on). uid 0 acts as the daemon itself
 * (but with gid, so that new nodes belong to that group). A NULL cred, where a call takes one, acts as the daemon.
 * Modes of new nodes are handed over unmasked: the origin's file system takes `umask` away, or applies the directory's
 * default ACL instead. A mode that was masked before comes out the same except under a default ACL. */
struct origin_cred {
    uint32_t     uid, gid;
    uint32_t     umask;
    uint32_t     group_count;
    const gid_t *groups;
};

/* Set-id bits that go with a change of the data: none; S_ISUID, and S_ISGID where the group may execute; or S_ISGID in any case, which is what the kernel
 * does to callers who do not belong to the file's group. */
enum origin_clear { ORIGIN_CLEAR_NONE, ORIGIN_CLEAR_SETID, ORIGIN_CLEAR_SGID_TOO };

/* What origin_setattr changes; bits of `set`. Times with *_NOW take the origin's clock. */
enum {
    ORIGIN_SET_MODE = 1,
    ORIGIN_SET_UID = 2,
    ORIGIN_SET_GID = 4,
    ORIGIN_SET_SIZE = 8,
    ORIGIN_SET_ATIME = 16,
    ORIGIN_SET_MTIME = 32,
    ORIGIN_SET_ATIME_NOW = 64,
    ORIGIN_SET_MTIME_NOW = 128,
};

/* A directory entry of a listing. `cookie` is the origin's own d_off: where to go on after this entry. */
struct origin_dirent {
    uint64_t    ino;
    uint64_t    cookie;
    uint8_t     type; /* DT_* */
    uint16_t    name_len;
    const char *name; /* not terminated by contract; valid during the call only */
};
/* Called for each entry ("." and ".." too) in the origin's order; returns 0 to go on, 1 to stop, or -errno. */
typedef int (*origin_dirent_fn)(void *arg, const struct origin_dirent *entry);

/* For PATH references: gives parent and name of a node as the cache knows them now. Returns 0 with *parent and
 * name (terminated, name_size >= 256), or -ESTALE. Called without any lock of the origin held; the root is never asked for. */
typedef int (*origin_locate_fn)(void *arg, const struct origin_ref *node, struct origin_ref *parent, char *name,
                                size_t name_size);

/* Counts of what the origin was asked for, monotonic, read without a lock. */
struct origin_stats {
    uint64_t reads, read_bytes, writes, write_bytes, meta_ops, open_fds;
};

struct origin_options {
    bool             no_handles; /* pretend that the file system has none (tests)         */
    bool             read_only;  /* every change answers -EROFS                            */
    uint32_t         fd_max;     /* descriptors to keep open; 0: half of RLIMIT_NOFILE, at most 65536 */
    origin_locate_fn locate;
    void            *locate_arg;
};

/* Opens the directory at `path` as an origin. The descriptor opened here is the only way to the tree from then on.
 * -ENOENT, -ENOTDIR, -EACCES, -ENOMEM, -ENXIO (no /proc). Raises RLIMIT_NOFILE to its hard limit. Call it after the
 * daemon has forked. `path` may be followed through symlinks; nothing later is. */
int  origin_posix_open(const char *path, const struct origin_options *options, struct origin **out);
void origin_close(struct origin *origin);

/* The root's reference and attributes. */
int  origin_root(struct origin *origin, struct origin_ref *ref, struct origin_attr *attr);
void origin_stats_get(const struct origin *origin, struct origin_stats *stats);
/* True if every node so far could be named by a handle (the file system supports them). */
bool origin_has_handles(const struct origin *origin);

/* ---- names: the directory is a reference, names are single components (1..255 bytes, no '/', not "." or "..") ---- */
int origin_lookup(struct origin *origin, const struct origin_ref *dir, const char *name, struct origin_ref *ref,
                  struct origin_attr *attr); /* never follows a symlink; -ENOENT, -ESTALE, -ENAMETOOLONG */
/* Creates a regular file exclusively or not (O_EXCL in flags; O_TRUNC is refused with -EINVAL); *created says which. */
int origin_create(struct origin *origin, const struct origin_ref *dir, const char *name, uint32_t mode, int flags,
                  const struct origin_cred *cred, struct origin_ref *ref, struct origin_attr *attr, bool *created);
int origin_mknod(struct origin *origin, const struct origin_ref *dir, const char *name, uint32_t mode, uint64_t rdev,
                 const struct origin_cred *cred, struct origin_ref *ref, struct origin_attr *attr);
int origin_mkdir(struct origin *origin, const struct origin_ref *dir, const char *name, uint32_t mode,
                 const struct origin_cred *cred, struct origin_ref *ref, struct origin_attr *attr);
int origin_symlink(struct origin *origin, const struct origin_ref *dir, const char *name, const char *target,
                   const struct origin_cred *cred, struct origin_ref *ref, struct origin_attr *attr);
int origin_link(struct origin *origin, const struct origin_ref *node, const struct origin_ref *dir, const char *name,
                const struct origin_cred *cred, struct origin_attr *attr);
int origin_unlink(struct origin *origin, const struct origin_ref *dir, const char *name,
                  const struct origin_cred *cred);
int origin_rmdir(struct origin *origin, const struct origin_ref *dir, const char *name, const struct origin_cred *cred);
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT as renameat2 knows them. */
int origin_rename(struct origin *origin, const struct origin_ref *old_dir, const char *old_name,
                  const struct origin_ref *new_dir, const char *new_name, unsigned flags,
                  const struct origin_cred *cred);
/* An unnamed regular file in `dir` (O_TMPFILE); kept open until origin_forget() of its reference. */
int origin_tmpfile(struct origin *origin, const struct origin_ref *dir, uint32_t mode, const struct origin_cred *cred,
                   struct origin_ref *ref, struct origin_attr *attr);
/* Lists from `cookie` (0: the start). */
int origin_readdir(struct origin *origin, const struct origin_ref *dir, uint64_t cookie, origin_dirent_fn fn,
                   void *arg);

/* ---- attributes ---- */
int origin_getattr(struct origin *origin, const struct origin_ref *ref, struct origin_attr *attr);
/* `want` holds the new values of what `set` names; *attr gets all attributes after the change. `set` 0 is chown(-1, -1), which moves ctime. chown clears set-id bits
 * as the kernel does; a truncate by someone without CAP_FSETID (uid != 0) clears them too. */
bool origin_cred_in_group(const struct origin_cred *cred, uint32_t gid);
int origin_setattr(struct origin *origin, const struct origin_ref *ref, uint32_t set, const struct origin_attr *want,
                   const struct origin_cred *cred, struct origin_attr *attr);
/* Lets the origin's file system note an access: it moves the access time as its own mount options say, and nothing else. *attr: all attributes after that.
 * -EROFS where this origin is read-only. Other kinds of nodes than files, directories and symlinks are left alone. */
int origin_access(struct origin *origin, const struct origin_ref *ref, struct origin_attr *attr);
/* The target, terminated; returns its length, or -errno: -EINVAL no symlink, -ERANGE `size` (>= 4096 always does) too small. */
int origin_readlink(struct origin *origin, const struct origin_ref *ref, char *target, size_t size);
int origin_statfs(struct origin *origin, const struct origin_ref *ref, struct statvfs *out);

/* ---- xattrs: return the length (size 0 asks for it) or -errno ---- */
ssize_t origin_getxattr(struct origin *origin, const struct origin_ref *ref, const char *name, void *value, size_t size,
                        const struct origin_cred *cred);
ssize_t origin_listxattr(struct origin *origin, const struct origin_ref *ref, char *list, size_t size,
                         const struct origin_cred *cred);
int     origin_setxattr(struct origin *origin, const struct origin_ref *ref, const char *name, const void *value,
                        size_t size, int flags, const struct origin_cred *cred);
int     origin_removexattr(struct origin *origin, const struct origin_ref *ref, const char *name,
                           const struct origin_cred *cred);

/* ---- data of regular files; short counts only at the end of the file or after an error that follows some bytes ---- */
ssize_t origin_read(struct origin *origin, const struct origin_ref *ref, void *buf, size_t size, uint64_t off);
struct iovec;
ssize_t origin_readv(struct origin *origin, const struct origin_ref *ref, const struct iovec *iov, int iov_count,
                     uint64_t off);
/* Writes, never with O_DIRECT or O_APPEND; *attr (may be NULL) gets the attributes after the write. sync: bit 0 O_DSYNC.
 * Returns bytes written (maybe short) or -errno if none. clear: set-id bits to take away as part of it. */
ssize_t origin_write(struct origin *origin, const struct origin_ref *ref, const void *buf, size_t size, uint64_t off,
                     unsigned sync, enum origin_clear clear, struct origin_attr *attr);
int     origin_fsync(struct origin *origin, const struct origin_ref *ref, bool data_only); /* files and directories */
int     origin_fallocate(struct origin *origin, const struct origin_ref *ref, int mode, uint64_t off, uint64_t len,
                         struct origin_attr *attr);
/* copy_file_range(2), where the origin's file systems have it by reference or in the kernel, else by reading and writing. Bytes copied: fewer at the end of the source, or when
 * something went wrong after the first. attr: of the destination, after it. */
ssize_t origin_copy(struct origin *origin, const struct origin_ref *from, uint64_t from_off, const struct origin_ref *to, uint64_t to_off,
                    size_t size, struct origin_attr *attr);
int64_t origin_lseek(struct origin *origin, const struct origin_ref *ref, uint64_t off,
                     int whence); /* SEEK_HOLE/DATA */

/* The cache has dropped the node: descriptors kept for it go (when the calls that use it have returned). Never fails.
 * Needed above all for nodes without a name: this origin keeps open what its own unlink, rmdir, rename or tmpfile left
 * nameless, because the content lives as long as that descriptor, until it is told to forget it (or has more than
 * fd_max / 2 of them: then the longest unused go). So forget such a node only when no member uses it any more. */
void origin_forget(struct origin *origin, const struct origin_ref *ref);

#endif
