/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_posix.c - a directory as an origin: opening, closing, the root, the counts.
 *
 * The directory is opened once, by path, as the daemon; from then on only its descriptor is used, so a rename of the
 * directory or a mount over it changes nothing. The root's node is in use for as long as the origin is open: it is
 * never evicted and never looked for.
 *
 * What the process must offer: /proc mounted (an O_PATH descriptor is turned into one for data through /proc/self/fd),
 * and CAP_DAC_READ_SEARCH for references by handle. To act as its callers it must be root. Open an origin after the
 * daemon has forked: liburcu's registry of threads does not survive a fork of several.
 */
#include "origin_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* Raises the limit of descriptors as far as it goes, and returns how many an origin may keep by default. */
static uint32_t raise_fd_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return ORIGIN_FD_MAX_LEAST;
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit raised = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
            limit = raised;
    }
    rlim_t half = limit.rlim_cur / 2;
    return half < ORIGIN_FD_MAX_DEFAULT ? (uint32_t)half : ORIGIN_FD_MAX_DEFAULT;
}

/* Notes the daemon's own rights, which every change of credentials goes back to. */
static int own_rights_note(struct origin *origin)
{
    int count = getgroups(0, NULL);

    origin->uid = geteuid();
    origin->gid = getegid();
    if (count <= 0)
        return count < 0 ? -errno : 0;
    origin->groups = calloc((size_t)count, sizeof *origin->groups);
    if (!origin->groups)
        return -ENOMEM;
    count = getgroups(count, origin->groups);
    if (count < 0)
        return -errno;
    origin->group_count = (uint32_t)count;
    return 0;
}

/* Makes the root's reference and its node, which stays in use. */
static int root_open(struct origin *origin)
{
    struct origin_ref  ref;
    struct origin_attr attr;
    char               name[ORIGIN_PROC_NAME];

    int err = origin_describe(origin, origin->root_fd, &ref, &attr);
    if (err)
        return err;
    origin->root = ref;
    origin_fd_proc_name(name, origin->root_fd);
    int fd = origin_fd_open(origin, AT_FDCWD, name, O_PATH | O_DIRECTORY, 0);
    if (fd < 0)
        return fd == -ENOENT ? -ENXIO : fd; /* no /proc */
    return origin_fd_insert(origin, &ref, attr.mode, fd, ORIGIN_KEEP_NO, &origin->root_node);
}

int origin_posix_open(const char *path, const struct origin_options *options, struct origin **out)
{
    struct origin *origin = calloc(1, sizeof *origin);
    int            err;

    if (!origin)
        return -ENOMEM;
    uint32_t half_limit = raise_fd_limit();
    origin->fd_max = options && options->fd_max ? options->fd_max : half_limit;
    if (origin->fd_max < ORIGIN_FD_MAX_LEAST)
        origin->fd_max = ORIGIN_FD_MAX_LEAST;
    origin->handles = !(options && options->no_handles);
    origin->read_only = options && options->read_only;
    origin->locate = options ? options->locate : NULL;
    origin->locate_arg = options ? options->locate_arg : NULL;
    atomic_store_explicit(&origin->all_handles, true, memory_order_relaxed);

    err = origin_fd_table_open(origin);
    if (err) {
        free(origin);
        return err;
    }
    origin->root_fd = origin_fd_open(origin, AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    err = origin->root_fd < 0 ? origin->root_fd : own_rights_note(origin);
    if (!err) {
        origin_handles_probe(origin);
        err = root_open(origin);
    }
    if (err) {
        origin_close(origin);
        return err;
    }
    *out = origin;
    return 0;
}

void origin_close(struct origin *origin)
{
    if (!origin)
        return;
    origin_fd_table_close(origin);
    origin_fd_close(origin, origin->root_fd);
    free(origin->groups);
    free(origin);
}

int origin_root(struct origin *origin, struct origin_ref *ref, struct origin_attr *attr)
{
    struct origin_attr now;

    origin_count(&origin->meta_ops, 1);
    int err = origin_node_describe(origin, origin->root_node, &now);
    if (err)
        return err;
    *ref = origin->root;
    *attr = now;
    return 0;
}

void origin_stats_get(const struct origin *origin, struct origin_stats *stats)
{
    *stats = (struct origin_stats){
        .reads = atomic_load_explicit(&origin->reads, memory_order_relaxed),
        .read_bytes = atomic_load_explicit(&origin->read_bytes, memory_order_relaxed),
        .writes = atomic_load_explicit(&origin->writes, memory_order_relaxed),
        .write_bytes = atomic_load_explicit(&origin->write_bytes, memory_order_relaxed),
        .meta_ops = atomic_load_explicit(&origin->meta_ops, memory_order_relaxed),
        .open_fds = atomic_load_explicit(&origin->open_fds, memory_order_relaxed),
    };
}

bool origin_has_handles(const struct origin *origin)
{
    return atomic_load_explicit(&origin->all_handles, memory_order_relaxed);
}
