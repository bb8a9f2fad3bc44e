/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_data.c - bytes of regular files.
 *
 * As the daemon: the kernel that sent the request has checked the right when the file was opened, and a file stays
 * readable through a descriptor whatever happens to its mode. Reading and writing have descriptors of their own
 * (origin_fd.c says why), never with O_DIRECT, O_APPEND or a file position that means something.
 *
 * A call goes on after short counts and signals until all is done, the file ends, or an error comes; an error after some
 * bytes is not told: the next call will meet it again.
 *
 * If we die in a write: some prefix of it is at the origin, as with any write.
 */
#include "origin_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

enum { IOV_BATCH = 64, COPY_BUFFER = 1 << 20 };

/* Kinds of nodes that have no bytes: what read(2) and write(2) would say. */
static int regular_check(const struct origin_node *node)
{
    if (node->type == S_IFREG)
        return 0;
    return node->type == S_IFDIR ? -EISDIR : -EINVAL;
}

static int read_begin(struct origin *origin, const struct origin_ref *ref, struct origin_node **node, int *fd)
{
    int err = origin_resolve(origin, ref, node);

    if (err)
        return err;
    err = regular_check(*node);
    if (!err)
        err = origin_fd_read(origin, *node, fd);
    if (err)
        origin_fd_put(origin, *node);
    return err;
}

ssize_t origin_read(struct origin *origin, const struct origin_ref *ref, void *buf, size_t size, uint64_t off)
{
    return origin_readv(origin, ref, &(struct iovec){.iov_base = buf, .iov_len = size}, 1, off);
}

/* Fills `part` from the vector, leaving out its first `skip` bytes; returns how many parts. */
static int iov_slice(const struct iovec *iov, int iov_count, size_t skip, struct iovec part[IOV_BATCH])
{
    int count = 0;

    for (int i = 0; i < iov_count && count < IOV_BATCH; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        part[count++] = (struct iovec){.iov_base = (char *)iov[i].iov_base + skip, .iov_len = iov[i].iov_len - skip};
        skip = 0;
    }
    return count;
}

ssize_t origin_readv(struct origin *origin, const struct origin_ref *ref, const struct iovec *iov, int iov_count,
                     uint64_t off)
{
    struct iovec        part[IOV_BATCH];
    struct origin_node *node;
    size_t              done = 0;
    int                 fd, count;

    origin_count(&origin->reads, 1);
    if (off > INT64_MAX)
        return -EINVAL;
    int err = read_begin(origin, ref, &node, &fd);
    if (err)
        return err;
    while ((count = iov_slice(iov, iov_count, done, part)) > 0) {
        ssize_t got = preadv(fd, part, count, (off_t)(off + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            err = -errno;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    origin_fd_put(origin, node);
    origin_count(&origin->read_bytes, done);
    return done || !err ? (ssize_t)done : err;
}

static int write_all(int fd, const char *buf, size_t size, uint64_t off, int flags, size_t *done)
{
    *done = 0;
    while (*done < size) {
        struct iovec part = {.iov_base = (void *)(buf + *done), .iov_len = size - *done};
        ssize_t      put = pwritev2(fd, &part, 1, (off_t)(off + *done), flags);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        if (put == 0)
            return -EIO;
        *done += (size_t)put;
    }
    return 0;
}

ssize_t origin_write(struct origin *origin, const struct origin_ref *ref, const void *buf, size_t size, uint64_t off,
                     unsigned sync, enum origin_clear clear, struct origin_attr *attr)
{
    struct origin_node *node;
    size_t              done = 0;
    int                 fd, err;

    origin_count(&origin->writes, 1);
    if (origin->read_only)
        return -EROFS;
    if (off > INT64_MAX)
        return -EFBIG;
    err = origin_resolve(origin, ref, &node);
    if (err)
        return err;
    err = regular_check(node);
    if (!err)
        err = origin_fd_write_begin(origin, node, &fd);
    if (!err) {
        if (clear)
            err = origin_setid_clear(fd, clear); /* first: what was written must not run with the owner's rights even once */
        if (!err)
            err = write_all(fd, buf, size, off, sync & 1 ? RWF_DSYNC : 0, &done);
        if (done)
            err = 0;
        if (!err && attr)
            err = origin_node_describe(origin, node, attr);
        origin_fd_write_end(origin, node);
    }
    origin_fd_put(origin, node);
    origin_count(&origin->write_bytes, done);
    return err ? err : (ssize_t)done;
}

int origin_fsync(struct origin *origin, const struct origin_ref *ref, bool data_only)
{
    struct origin_node *node;
    int                 fd;

    origin_count(&origin->meta_ops, 1);
    int err = origin_resolve(origin, ref, &node);
    if (err)
        return err;
    bool writing = false;
    err = origin_fd_read(origin, node, &fd);
    if (err == -EACCES && node->type == S_IFREG) { /* an unprivileged daemon and a file that may only be written */
        err = origin_fd_write_begin(origin, node, &fd);
        writing = !err;
    }
    while (!err && (data_only ? fdatasync(fd) : fsync(fd)) < 0) {
        if (errno != EINTR)
            err = -errno;
    }
    if (writing)
        origin_fd_write_end(origin, node);
    origin_fd_put(origin, node);
    return err;
}

int origin_fallocate(struct origin *origin, const struct origin_ref *ref, int mode, uint64_t off, uint64_t len,
                     struct origin_attr *attr)
{
    struct origin_node *node;
    int                 fd;

    origin_count(&origin->meta_ops, 1);
    if (origin->read_only)
        return -EROFS;
    if (off > INT64_MAX || len > INT64_MAX - off)
        return -EFBIG;
    int err = origin_resolve(origin, ref, &node);
    if (err)
        return err;
    err = regular_check(node);
    if (!err)
        err = origin_fd_write_begin(origin, node, &fd);
    if (!err) {
        while (fallocate(fd, mode, (off_t)off, (off_t)len) < 0 && !err)
            err = errno == EINTR ? 0 : -errno;
        if (!err && attr)
            err = origin_node_describe(origin, node, attr);
        origin_fd_write_end(origin, node);
    }
    origin_fd_put(origin, node);
    return err;
}

/* Between file systems that do not know each other. */
static ssize_t copy_by_hand(int in, int out, off_t from_off, off_t to_off, size_t size)
{
    char   *buf = malloc(COPY_BUFFER);
    size_t  done = 0;
    ssize_t got = buf ? 0 : -ENOMEM;

    while (buf && done < size) {
        size_t want = size - done < COPY_BUFFER ? size - done : COPY_BUFFER;
        got = pread(in, buf, want, from_off + (off_t)done);
        if (got > 0)
            got = pwrite(out, buf, (size_t)got, to_off + (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            got = got < 0 ? -errno : 0;
            break;
        }
        done += (size_t)got;
    }
    free(buf);
    return done ? (ssize_t)done : got;
}

static ssize_t copy_range(int in, int out, off_t from_off, off_t to_off, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t got = copy_file_range(in, &from_off, out, &to_off, size - done, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && done == 0)
            return errno == EXDEV || errno == ENOSYS || errno == EOPNOTSUPP || errno == EINVAL
                       ? copy_by_hand(in, out, from_off, to_off, size)
                       : -errno;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

ssize_t origin_copy(struct origin *origin, const struct origin_ref *from, uint64_t from_off, const struct origin_ref *to, uint64_t to_off,
                    size_t size, struct origin_attr *attr)
{
    struct origin_node *source, *target;
    int                 in, out;

    origin_count(&origin->meta_ops, 1);
    if (origin->read_only)
        return -EROFS;
    if (from_off > INT64_MAX || to_off > INT64_MAX || size > INT64_MAX - to_off || size > INT64_MAX - from_off)
        return -EFBIG;
    int err = read_begin(origin, from, &source, &in);
    if (err)
        return err;
    err = origin_resolve(origin, to, &target);
    if (err) {
        origin_fd_put(origin, source);
        return err;
    }
    ssize_t done = regular_check(target);
    if (!done)
        done = origin_fd_write_begin(origin, target, &out);
    if (!done) {
        done = copy_range(in, out, (off_t)from_off, (off_t)to_off, size);
        if (done >= 0 && attr && (err = origin_node_describe(origin, target, attr)) != 0)
            done = err;
        origin_fd_write_end(origin, target);
    }
    origin_fd_put(origin, target);
    origin_fd_put(origin, source);
    return done;
}

int64_t origin_lseek(struct origin *origin, const struct origin_ref *ref, uint64_t off, int whence)
{
    struct origin_node *node;
    int                 fd;

    origin_count(&origin->meta_ops, 1);
    if (whence != SEEK_HOLE && whence != SEEK_DATA)
        return -EINVAL;
    if (off > INT64_MAX)
        return -ENXIO;
    int err = read_begin(origin, ref, &node, &fd);
    if (err)
        return err;
    off_t   at = lseek(fd, (off_t)off, whence); /* moves the position too, which nobody uses */
    int64_t answer = at < 0 ? -errno : at;
    origin_fd_put(origin, node);
    return answer;
}
