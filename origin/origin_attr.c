/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_attr.c - attributes, symlink targets, and what the file system says of itself.
 *
 * All calls work on the O_PATH descriptor, so that nothing needs to be opened for them, and devices and fifos stay
 * closed. Where a system call does not take such a descriptor, /proc/self/fd/N leads to the very node, also if it is a
 * symlink, as nothing follows what a magic link has led to.
 *
 * Changes are made as the caller, in the order owner, mode, size, times: a change of owner clears set-id bits that the
 * mode may set again, and a new size moves the time that may be set afterwards. The size alone is changed as the daemon:
 * the kernel that sent the request has checked the right when the file was opened. Set-id bits that the kernel would have
 * taken from the caller's file are then taken here.
 */
#include "origin_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int origin_getattr(struct origin *origin, const struct origin_ref *ref, struct origin_attr *attr)
{
    struct origin_node *node;

    origin_count(&origin->meta_ops, 1);
    int err = origin_resolve(origin, ref, &node);
    if (err)
        return err;
    err = origin_node_describe(origin, node, attr);
    origin_fd_put(origin, node);
    return err;
}

/* ---- setattr ----------------------------------------------------------------------------------------------------- */

static int set_owner_and_mode(const struct origin_node *node, uint32_t set, const struct origin_attr *want)
{
    char proc[ORIGIN_PROC_NAME];

    if ((set & (ORIGIN_SET_UID | ORIGIN_SET_GID)) || !set) {
        uid_t uid = set & ORIGIN_SET_UID ? want->uid : (uid_t)-1;
        gid_t gid = set & ORIGIN_SET_GID ? want->gid : (gid_t)-1;
        if (fchownat(node->path_fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
            return -errno;
    }
    if (set & ORIGIN_SET_MODE) {
        if (node->type == S_IFLNK)
            return -EOPNOTSUPP;
        origin_fd_proc_name(proc, node->path_fd);
        if (fchmodat(AT_FDCWD, proc, want->mode & 07777, 0) < 0)
            return -errno;
    }
    return 0;
}

static struct timespec time_wanted(uint32_t set, uint32_t bit, uint32_t bit_now, const struct origin_time *want)
{
    if (set & bit_now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    if (set & bit)
        return (struct timespec){.tv_sec = (time_t)want->sec, .tv_nsec = (long)want->nsec};
    return (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int set_times(const struct origin_node *node, uint32_t set, const struct origin_attr *want)
{
    struct timespec times[2] = {
        time_wanted(set, ORIGIN_SET_ATIME, ORIGIN_SET_ATIME_NOW, &want->atime),
        time_wanted(set, ORIGIN_SET_MTIME, ORIGIN_SET_MTIME_NOW, &want->mtime),
    };
    char proc[ORIGIN_PROC_NAME];

    if (utimensat(node->path_fd, "", times, AT_EMPTY_PATH) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOENT) /* what kernels before 5.8 answer to an empty name */
        return -errno;
    origin_fd_proc_name(proc, node->path_fd);
    return utimensat(AT_FDCWD, proc, times, 0) < 0 ? -errno : 0;
}

static int as_caller(struct origin *origin, const struct origin_node *node, const struct origin_cred *cred,
                     uint32_t set, const struct origin_attr *want,
                     int (*change)(const struct origin_node *, uint32_t, const struct origin_attr *))
{
    struct origin_cred_held held;
    int                     err = origin_cred_take(origin, cred, false, &held);

    if (err)
        return err;
    do
        err = change(node, set, want);
    while (err == -EINTR);
    origin_cred_restore(origin, &held);
    return err;
}

bool origin_cred_in_group(const struct origin_cred *cred, uint32_t gid)
{
    if (cred->uid == 0 || cred->gid == gid)
        return true;
    for (uint32_t i = 0; i < cred->group_count; i++)
        if (cred->groups[i] == gid)
            return true;
    return false;
}

int origin_setid_clear(int fd, enum origin_clear clear)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    mode_t mode = st.st_mode & 07777 & (mode_t)~S_ISUID;
    if ((mode & S_IXGRP) || clear == ORIGIN_CLEAR_SGID_TOO) /* without it, the bit once meant mandatory locking, and stays for the group's members */
        mode &= (mode_t)~S_ISGID;
    if (!S_ISREG(st.st_mode) || mode == (st.st_mode & 07777))
        return 0;
    return fchmod(fd, mode) < 0 ? -errno : 0;
}

static int clear_for(int fd, const struct origin_cred *cred)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    return origin_setid_clear(fd, origin_cred_in_group(cred, st.st_gid) ? ORIGIN_CLEAR_SETID : ORIGIN_CLEAR_SGID_TOO);
}

static int set_size(struct origin *origin, struct origin_node *node, uint64_t size, const struct origin_cred *cred,
                    bool keep_setid)
{
    int fd, err;

    if (node->type != S_IFREG)
        return node->type == S_IFDIR ? -EISDIR : -EINVAL;
    if (size > INT64_MAX)
        return -EFBIG;
    err = origin_fd_write_begin(origin, node, &fd);
    if (err)
        return err;
    while (ftruncate(fd, (off_t)size) < 0 && !err)
        err = errno == EINTR ? 0 : -errno;
    if (!err && cred && cred->uid != 0 && !keep_setid)
        err = clear_for(fd, cred);
    origin_fd_write_end(origin, node);
    return err;
}

int origin_setattr(struct origin *origin, const struct origin_ref *ref, uint32_t set, const struct origin_attr *want,
                   const struct origin_cred *cred, struct origin_attr *attr)
{
    const uint32_t      owner_mode = ORIGIN_SET_MODE | ORIGIN_SET_UID | ORIGIN_SET_GID;
    const uint32_t      times = ORIGIN_SET_ATIME | ORIGIN_SET_MTIME | ORIGIN_SET_ATIME_NOW | ORIGIN_SET_MTIME_NOW;
    struct origin_node *node;

    origin_count(&origin->meta_ops, 1);
    int err = origin->read_only ? -EROFS : origin_resolve(origin, ref, &node);
    if (err)
        return err;
    /* A new size moves mtime by itself, and that needs the right to write only; setting one time and not the other needs
     * the owner. */
    if ((set & ORIGIN_SET_SIZE) && (set & times) == ORIGIN_SET_MTIME_NOW)
        set &= ~(uint32_t)ORIGIN_SET_MTIME_NOW;
    if ((set & owner_mode) || !set)
        err = as_caller(origin, node, cred, set, want, set_owner_and_mode);
    if (!err && (set & ORIGIN_SET_SIZE))
        err = set_size(origin, node, want->size_bytes, cred, set & ORIGIN_SET_MODE);
    if (!err && (set & times))
        err = as_caller(origin, node, cred, set, want, set_times);
    if (!err)
        err = origin_node_describe(origin, node, attr);
    if (!err && (set & ORIGIN_SET_MODE))
        origin_fd_write_settle(origin, node); /* it may have become executable */
    origin_fd_put(origin, node);
    return err;
}

/* ---- accesses ----------------------------------------------------------------------------------------------------- */

/* A descriptor of its own: the one that is kept for reading has O_NOATIME. A read at the end of the file notes an access and moves no data. */
static int access_by_reading(struct origin *origin, const struct origin_node *node)
{
    char        name[ORIGIN_PROC_NAME], buffer[1024];
    struct stat st;
    int         err = 0;

    origin_fd_proc_name(name, node->path_fd);
    int fd = origin_fd_open(origin, AT_FDCWD, name, O_RDONLY | (node->type == S_IFDIR ? O_DIRECTORY : 0), 0);
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        err = -errno;
    else if ((node->type == S_IFDIR ? syscall(SYS_getdents64, fd, buffer, sizeof buffer) : pread(fd, buffer, 1, st.st_size)) < 0)
        err = -errno;
    origin_fd_close(origin, fd);
    return err;
}

int origin_access(struct origin *origin, const struct origin_ref *ref, struct origin_attr *attr)
{
    struct origin_node *node;
    char                target[1];

    origin_count(&origin->meta_ops, 1);
    int err = origin->read_only ? -EROFS : origin_resolve(origin, ref, &node);
    if (err)
        return err;
    if (node->type == S_IFREG || node->type == S_IFDIR)
        err = access_by_reading(origin, node);
    else if (node->type == S_IFLNK && readlinkat(node->path_fd, "", target, sizeof target) < 0)
        err = -errno;
    if (!err)
        err = origin_node_describe(origin, node, attr);
    origin_fd_put(origin, node);
    return err;
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

int origin_readlink(struct origin *origin, const struct origin_ref *ref, char *target, size_t size)
{
    struct origin_node *node;
    char                text[PATH_MAX];

    origin_count(&origin->meta_ops, 1);
    int err = origin_resolve(origin, ref, &node);
    if (err)
        return err;
    ssize_t len = -1;
    if (node->type != S_IFLNK)
        err = -EINVAL;
    else if ((len = readlinkat(node->path_fd, "", text, sizeof text)) < 0)
        err = -errno;
    origin_fd_put(origin, node);
    if (err)
        return err;
    if ((size_t)len >= sizeof text || (size_t)len >= size)
        return -ERANGE;
    memcpy(target, text, (size_t)len);
    target[len] = '\0';
    return (int)len;
}

int origin_statfs(struct origin *origin, const struct origin_ref *ref, struct statvfs *out)
{
    struct origin_node *node;
    struct statvfs      found;

    origin_count(&origin->meta_ops, 1);
    int err = origin_resolve(origin, ref, &node);
    if (err)
        return err;
    while (fstatvfs(node->path_fd, &found) < 0 && !err)
        err = errno == EINTR ? 0 : -errno;
    origin_fd_put(origin, node);
    if (!err)
        *out = found;
    return err;
}
