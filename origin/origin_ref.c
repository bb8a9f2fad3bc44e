/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_ref.c - from a reference to an open node, and back.
 *
 * Making a reference: one statx gives identity and attributes; name_to_handle_at gives the handle. A node gets no
 * handle, and is named by PATH, when the probe at open failed (no CAP_DAC_READ_SEARCH, FUSE, a file system without
 * handles), when it lies on another file system than the root (a mount or a subvolume beneath it), or when its handle
 * is longer than ORIGIN_HANDLE_BYTES.
 *
 * Resolving one: the table of open nodes first; then the handle; then, for PATH, upward through the locate callback
 * until a node is found that is open or has a handle, and down again one component at a time, each compared with the
 * identity that the cache claimed for it.
 *
 * References and names come out of the segment, which others write: everything is checked before use, and a node that
 * was opened is compared with {dev, ino, birth} before anybody else sees it. So a PATH reference cannot lead out of the
 * shared directory at all. A handle is a capability of the whole file system: whoever may write the segment can forge
 * one for a node outside the directory, if it also knows the node's inode number, generation and time of birth. The
 * README says what follows from that.
 *
 * No lock is held here at any time, so the locate callback may take whatever it likes.
 */
#include "origin_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define MAGIC_FUSE    0x65735546u
#define MAGIC_OVERLAY 0x794c7630u

int origin_name_check(const char *name)
{
    size_t len = strnlen(name, ORIGIN_NAME_MAX + 1);

    if (len > ORIGIN_NAME_MAX)
        return -ENAMETOOLONG;
    if (len == 0 || memchr(name, '/', len) || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    return 0;
}

/* ---- making references ------------------------------------------------------------------------------------------- */

static struct origin_time time_of(const struct statx_timestamp *stamp)
{
    return (struct origin_time){.sec = stamp->tv_sec, .nsec = stamp->tv_nsec};
}

static void attr_fill(const struct statx *stx, struct origin_attr *attr)
{
    *attr = (struct origin_attr){
        .ino = stx->stx_ino,
        .size_bytes = stx->stx_size,
        .blocks = stx->stx_blocks,
        .rdev = makedev(stx->stx_rdev_major, stx->stx_rdev_minor),
        .mode = stx->stx_mode,
        .nlink = stx->stx_nlink,
        .uid = stx->stx_uid,
        .gid = stx->stx_gid,
        .blksize = stx->stx_blksize,
        .atime = time_of(&stx->stx_atime),
        .mtime = time_of(&stx->stx_mtime),
        .ctime = time_of(&stx->stx_ctime),
        .btime = stx->stx_mask & STATX_BTIME ? time_of(&stx->stx_btime) : (struct origin_time){0},
    };
}

static void identity_fill(const struct origin *origin, const struct statx *stx, struct origin_ref *ref)
{
    ref->dev = makedev(stx->stx_dev_major, stx->stx_dev_minor);
    ref->ino = stx->stx_ino;
    if ((stx->stx_mask & STATX_BTIME) && !origin->no_birth)
        ref->birth_ns = (uint64_t)stx->stx_btime.tv_sec * 1000000000u + stx->stx_btime.tv_nsec;
}

/* True if the node got a handle. */
static bool handle_fill(int fd, struct origin_ref *ref)
{
    struct {
        struct file_handle handle;
        unsigned char      bytes[ORIGIN_HANDLE_BYTES];
    } buffer = {.handle.handle_bytes = ORIGIN_HANDLE_BYTES};
    int mount_id;

    if (name_to_handle_at(fd, "", &buffer.handle, &mount_id, AT_EMPTY_PATH) < 0)
        return false;
    if (buffer.handle.handle_bytes == 0 || buffer.handle.handle_bytes > ORIGIN_HANDLE_BYTES ||
        buffer.handle.handle_type < 0 || buffer.handle.handle_type > UINT16_MAX)
        return false;
    ref->kind = ORIGIN_REF_HANDLE;
    ref->handle_len = (uint8_t)buffer.handle.handle_bytes;
    ref->handle_type = (uint16_t)buffer.handle.handle_type;
    memcpy(ref->handle, buffer.handle.f_handle, ref->handle_len);
    return true;
}

/* As the origin has it now: a FUSE or network file system is asked again, not its cache. */
static int stat_node(int fd, struct statx *stx)
{
    const int      flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_FORCE_SYNC;
    const unsigned mask = STATX_BASIC_STATS | STATX_BTIME;

    while (statx(fd, "", flags, mask, stx) < 0) {
        if (errno == ENOENT)
            return -ESTALE; /* gone from a file system that does not keep what is only open with O_PATH */
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

int origin_describe(struct origin *origin, int fd, struct origin_ref *ref, struct origin_attr *attr)
{
    struct statx stx;
    int          err = stat_node(fd, &stx);

    if (err)
        return err;
    if (ref) {
        *ref = (struct origin_ref){.kind = ORIGIN_REF_PATH};
        identity_fill(origin, &stx, ref);
        /* before the root is known (the probe), any device will do */
        if (!origin->handles || (origin->root.kind && ref->dev != origin->root.dev) || !handle_fill(fd, ref))
            atomic_store_explicit(&origin->all_handles, false, memory_order_relaxed);
    }
    attr_fill(&stx, attr);
    return 0;
}

int origin_node_describe(struct origin *origin, struct origin_node *node, struct origin_attr *attr)
{
    int err = origin_describe(origin, node->path_fd, NULL, attr);

    if (!err)
        atomic_store_explicit(&node->mode, attr->mode, memory_order_relaxed);
    return err;
}

/* ---- resolving them ---------------------------------------------------------------------------------------------- */

/* Takes fd over. Compares it with the reference and makes it a node. */
static int node_from_fd(struct origin *origin, const struct origin_ref *ref, int fd, enum origin_keep keep,
                        struct origin_node **out)
{
    struct origin_ref found = {0};
    struct statx      stx;
    int               err = stat_node(fd, &stx);

    if (!err) {
        /* the handle is compared too: some file systems overlook what they do not need in it, and a node must have one
         * reference only */
        identity_fill(origin, &stx, &found);
        found.kind = ORIGIN_REF_PATH;
        bool named = ref->kind == ORIGIN_REF_PATH || handle_fill(fd, &found);
        if (!named || memcmp(&found, ref, sizeof found) != 0)
            err = -ESTALE;
    }
    if (err) {
        origin_fd_close(origin, fd);
        return err;
    }
    return origin_fd_insert(origin, ref, stx.stx_mode, fd, keep, out);
}

static int ref_check(const struct origin *origin, const struct origin_ref *ref)
{
    static const uint8_t none[ORIGIN_HANDLE_BYTES];

    if (ref->kind != ORIGIN_REF_HANDLE && ref->kind != ORIGIN_REF_PATH)
        return -EUCLEAN;
    if (ref->handle_len > ORIGIN_HANDLE_BYTES || (ref->kind == ORIGIN_REF_HANDLE && ref->handle_len == 0) ||
        (ref->kind == ORIGIN_REF_PATH && (ref->handle_len || ref->handle_type)))
        return -EUCLEAN;
    if (memcmp(ref->handle + ref->handle_len, none, ORIGIN_HANDLE_BYTES - ref->handle_len) != 0)
        return -EUCLEAN;
    if (ref->kind == ORIGIN_REF_HANDLE && (!origin->handles || ref->dev != origin->root.dev))
        return -ESTALE; /* written by a member that reaches the origin in another way */
    return 0;
}

/* By the table or by the handle, without asking for names. -ENODATA: it has neither. */
static int resolve_direct(struct origin *origin, const struct origin_ref *ref, struct origin_node **out)
{
    int err = ref_check(origin, ref);

    if (err)
        return err;
    *out = origin_fd_find(origin, ref);
    if (*out)
        return 0;
    if (ref->kind != ORIGIN_REF_HANDLE)
        return -ENODATA;
    int fd = origin_fd_open_handle(origin, ref);
    if (fd < 0)
        return fd == -EINVAL || fd == -ENOENT ? -ESTALE : fd; /* -EINVAL: no handle of this file system */
    return node_from_fd(origin, ref, fd, ORIGIN_KEEP_NO, out);
}

/* One level of a walk: the node meant, and its name in the level above. */
struct walk_step {
    struct origin_ref ref;
    char              name[ORIGIN_NAME_MAX + 1];
};

struct walk {
    struct walk_step *steps;
    size_t            count, room;
};

static int walk_push(struct walk *walk, struct walk_step **step)
{
    if (walk->count == ORIGIN_DEPTH_MAX)
        return -ESTALE; /* deeper than any tree, or a ring: a peer's nonsense */
    if (walk->count == walk->room) {
        size_t            room = walk->room ? walk->room * 4 : 16;
        struct walk_step *more = reallocarray(walk->steps, room, sizeof *more);
        if (!more)
            return -ENOMEM;
        walk->steps = more;
        walk->room = room;
    }
    *step = &walk->steps[walk->count++];
    return 0;
}

/* Upward: collects names until a node that needs none; *base is that node. */
static int walk_up(struct origin *origin, const struct origin_ref *ref, struct walk *walk, struct origin_node **base)
{
    struct origin_ref at = *ref;
    int               err;

    while ((err = resolve_direct(origin, &at, base)) == -ENODATA) {
        struct walk_step *step;
        struct origin_ref parent = {0};

        if (!origin->locate)
            return -ESTALE;
        err = walk_push(walk, &step);
        if (err)
            return err;
        step->ref = at;
        if (origin->locate(origin->locate_arg, &at, &parent, step->name, sizeof step->name) != 0 ||
            origin_name_check(step->name) != 0)
            return -ESTALE;
        at = parent;
    }
    return err;
}

/* Downward from base, which is taken over. Directories on the way are found again as this one was; only the last node
 * is pinned. */
static int walk_down(struct origin *origin, struct walk *walk, struct origin_node *base, struct origin_node **out)
{
    while (walk->count > 0) {
        const struct walk_step *step = &walk->steps[--walk->count];
        struct origin_node     *next;
        int                     fd = origin_fd_open_beneath(origin, base->path_fd, step->name);

        origin_fd_put(origin, base);
        if (fd < 0)
            return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP || fd == -EXDEV ? -ESTALE : fd;
        int err = node_from_fd(origin, &step->ref, fd, walk->count ? ORIGIN_KEEP_NO : ORIGIN_KEEP_PIN, &next);
        if (err)
            return err;
        base = next;
    }
    *out = base;
    return 0;
}

int origin_resolve(struct origin *origin, const struct origin_ref *ref, struct origin_node **out)
{
    struct walk         walk = {0};
    struct origin_node *base;
    int                 err = walk_up(origin, ref, &walk, &base);

    if (!err)
        err = walk_down(origin, &walk, base, out);
    free(walk.steps);
    return err;
}

int origin_child(struct origin *origin, struct origin_node *dir, const char *name, struct origin_node **out,
                 struct origin_ref *ref, struct origin_attr *attr)
{
    struct origin_ref  found_ref;
    struct origin_attr found_attr;
    int                fd = origin_fd_open_beneath(origin, dir->path_fd, name);

    if (fd < 0)
        return fd;
    int err = origin_describe(origin, fd, &found_ref, &found_attr);
    if (err) {
        origin_fd_close(origin, fd);
        return err == -ESTALE ? -ENOENT : err; /* removed this moment */
    }
    err = origin_fd_insert(origin, &found_ref, found_attr.mode, fd,
                           found_ref.kind == ORIGIN_REF_PATH ? ORIGIN_KEEP_PIN : ORIGIN_KEEP_NO, out);
    if (err)
        return err;
    if (ref)
        *ref = found_ref;
    if (attr)
        *attr = found_attr;
    return 0;
}

/* Can nodes of the root's file system be named by handles? Tries with the root itself. */
void origin_handles_probe(struct origin *origin)
{
    struct origin_ref  ref;
    struct origin_attr attr;
    struct statx       stx;
    struct statfs      fs;

    if (fstatfs(origin->root_fd, &fs) == 0) {
        origin->no_birth = (uint32_t)fs.f_type == MAGIC_OVERLAY; /* copying up makes a new birth time */
        origin->handles = origin->handles && (uint32_t)fs.f_type != MAGIC_FUSE;
    }
    if (!origin->handles || origin_describe(origin, origin->root_fd, &ref, &attr) != 0)
        return;
    origin->handles = false;
    if (ref.kind != ORIGIN_REF_HANDLE)
        return;
    int fd = origin_fd_open_handle(origin, &ref);
    if (fd < 0)
        return;
    struct origin_ref found = {0};
    if (stat_node(fd, &stx) == 0) {
        identity_fill(origin, &stx, &found);
        origin->handles = found.dev == ref.dev && found.ino == ref.ino && found.birth_ns == ref.birth_ns;
    }
    origin_fd_close(origin, fd);
}
