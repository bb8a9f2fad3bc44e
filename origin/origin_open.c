/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_open.c - the system calls that open something, and the descriptors for reading and writing of a node.
 *
 * Every descriptor of an origin is opened and closed here, so that all are counted (open_fds), a signal does not
 * interrupt, and a shortage of descriptors is met by closing idle ones. -ENFILE is what a caller sees if for 200 ms all
 * of them were in use.
 *
 * A node is opened with O_PATH first. Only then, when its type is known, regular files and directories are opened for
 * data, by way of /proc/self/fd, which leads to the very same node. Devices, fifos and sockets never are: opening one
 * may block, or move a tape. Reads do not touch the access time where the daemon may ask for that (O_NOATIME).
 *
 * One descriptor for reading, stable while the node is in use; one for writing, under node->lock with a count of its
 * users. They are apart because a descriptor open for writing makes execve() of the same file at the origin fail
 * (ETXTBSY): none is kept for a file with an execute bit, except where the daemon, without privilege, could not open it
 * again. A file just created brings its creator's descriptor along, which may write even if the mode says 0444.
 */
#include "origin_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void origin_fd_proc_name(char name[ORIGIN_PROC_NAME], int fd)
{
    snprintf(name, ORIGIN_PROC_NAME, "/proc/self/fd/%d", fd);
}

void origin_fd_close(struct origin *origin, int fd)
{
    if (fd < 0)
        return;
    close(fd); /* EINTR from close() on Linux: it is closed */
    atomic_fetch_sub_explicit(&origin->open_fds, 1, memory_order_relaxed);
}

static int opened(struct origin *origin, int fd)
{
    if (fd < 0)
        return errno == EMFILE ? -ENFILE : -errno; /* a shortage of ours is none of the user's process */
    atomic_fetch_add_explicit(&origin->open_fds, 1, memory_order_relaxed);
    return fd;
}

int origin_fd_open(struct origin *origin, int dir_fd, const char *name, int flags, uint32_t mode)
{
    unsigned tries = 0;
    int      fd;

    do
        fd = openat(dir_fd, name, flags | O_CLOEXEC | O_NOCTTY, (mode_t)mode);
    while (fd < 0 && origin_fd_relieve(origin, errno, &tries));
    return opened(origin, fd);
}

int origin_fd_open_beneath(struct origin *origin, int dir_fd, const char *name)
{
    struct open_how how = {
        .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    unsigned tries = 0;
    int      fd;

    do /* EAGAIN: a rename went on meanwhile, see openat2(2) */
        fd = (int)syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
    while (fd < 0 && ((errno == EAGAIN && tries++ < ORIGIN_RELIEVE_TRIES) || origin_fd_relieve(origin, errno, &tries)));
    if (fd < 0 && errno == ENOSYS) /* a sandbox without openat2: for a single component this is the same */
        return origin_fd_open(origin, dir_fd, name, O_PATH | O_NOFOLLOW, 0);
    return opened(origin, fd);
}

static bool creation_ends(int error, unsigned *tries)
{
    if (error != ENOMEM || (*tries)++ >= ORIGIN_RELIEVE_TRIES)
        return false;
    nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    return true;
}

int origin_fd_open_handle(struct origin *origin, const struct origin_ref *ref)
{
    struct {
        struct file_handle handle;
        unsigned char      bytes[ORIGIN_HANDLE_BYTES];
    } buffer = {.handle = {.handle_bytes = ref->handle_len, .handle_type = ref->handle_type}};
    unsigned tries = 0;
    int      fd;

    memcpy(buffer.handle.f_handle, ref->handle, ref->handle_len);
    do /* ENOMEM: ext4 also says so while the number of a removed inode is being given to a new one */
        fd = open_by_handle_at(origin->root_fd, &buffer.handle, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    while (fd < 0 && (creation_ends(errno, &tries) || origin_fd_relieve(origin, errno, &tries)));
    return opened(origin, fd);
}

/* ---- reading and writing descriptors ----------------------------------------------------------------------------- */

/* Opens an O_PATH node for data. Only regular files and directories: opening a device or a fifo has effects. */
static int node_open_data(struct origin *origin, const struct origin_node *node, int flags)
{
    char name[ORIGIN_PROC_NAME];

    origin_fd_proc_name(name, node->path_fd);
    if ((flags & O_ACCMODE) == O_WRONLY)
        return node->type == S_IFREG ? origin_fd_open(origin, AT_FDCWD, name, flags, 0) : -EINVAL;
    if (node->type == S_IFDIR)
        flags |= O_DIRECTORY;
    else if (node->type != S_IFREG)
        return -EINVAL;
    int fd = origin_fd_open(origin, AT_FDCWD, name, flags | O_NOATIME, 0);
    return fd == -EPERM ? origin_fd_open(origin, AT_FDCWD, name, flags, 0) : fd;
}

int origin_fd_read(struct origin *origin, struct origin_node *node, int *fd)
{
    int have = atomic_load_explicit(&node->read_fd, memory_order_acquire); /* pairs with the release below */

    if (have < 0) {
        pthread_mutex_lock(&node->lock);
        have = atomic_load_explicit(&node->read_fd, memory_order_relaxed);
        if (have < 0) {
            have = node_open_data(origin, node, O_RDONLY);
            if (have >= 0)
                atomic_store_explicit(&node->read_fd, have, memory_order_release);
        }
        pthread_mutex_unlock(&node->lock);
        origin_fd_trim(origin);
    }
    if (have < 0)
        return have;
    *fd = have;
    return 0;
}

static bool write_fd_may_stay(const struct origin *origin, const struct origin_node *node)
{
    uint32_t mode = atomic_load_explicit(&node->mode, memory_order_relaxed);

    return !(mode & 0111) || (origin->uid != 0 && !(mode & 0200));
}

int origin_fd_write_begin(struct origin *origin, struct origin_node *node, int *fd)
{
    pthread_mutex_lock(&node->lock);
    bool fresh = node->write_fd < 0;
    int  have = fresh ? node_open_data(origin, node, O_WRONLY) : node->write_fd;
    if (have >= 0) {
        node->write_fd = have;
        node->writers++;
    }
    pthread_mutex_unlock(&node->lock);
    if (fresh)
        origin_fd_trim(origin);
    if (have < 0)
        return have;
    *fd = have;
    return 0;
}

static void write_close_if_idle(struct origin *origin, struct origin_node *node, uint32_t leaving)
{
    int fd = -1;

    pthread_mutex_lock(&node->lock);
    node->writers -= leaving;
    if (node->writers == 0 && !write_fd_may_stay(origin, node)) {
        fd = node->write_fd;
        node->write_fd = -1;
    }
    pthread_mutex_unlock(&node->lock);
    origin_fd_close(origin, fd);
}

void origin_fd_write_end(struct origin *origin, struct origin_node *node)
{
    write_close_if_idle(origin, node, 1);
}

void origin_fd_write_settle(struct origin *origin, struct origin_node *node)
{
    write_close_if_idle(origin, node, 0);
}

void origin_fd_write_adopt(struct origin *origin, struct origin_node *node, int fd)
{
    pthread_mutex_lock(&node->lock);
    if (node->write_fd < 0) {
        node->write_fd = fd;
        fd = -1;
    }
    pthread_mutex_unlock(&node->lock);
    origin_fd_close(origin, fd);
    origin_fd_write_settle(origin, node);
    origin_fd_trim(origin);
}
