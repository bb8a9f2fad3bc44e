/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_name.c - operations on names: lookup, create, remove, rename, list.
 *
 * Each change is one system call on the directory's descriptor and a single name, made as the caller, so that the origin
 * itself decides on rights, owner, group (SGID directories), default ACLs and quotas, and so that no moment exists in
 * which a new node belongs to somebody else. What is needed before and after it (resolving, looking at the result) is
 * done as the daemon.
 *
 * Nodes that lose their last name live on for whoever has them open. This process may be the only one that keeps them:
 * so before a name is removed its node is opened, and if it has no name afterwards, it is kept until origin_forget().
 *
 * Between creating a name and looking at it, somebody outside may have replaced it. The type is compared, no more: the
 * caller gets whatever bears the name now.
 *
 * If we die here: every change is atomic at the origin; a caller that got no answer looks again.
 */
#include "origin_posix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
    CREATE_TRIES = 1000, /* somebody creates and removes the same name all the time */
    LIST_BUFFER = 64 * 1024,
};

static int begin_change(struct origin *origin, const char *name)
{
    origin_count(&origin->meta_ops, 1);
    return origin->read_only ? -EROFS : origin_name_check(name);
}

int origin_lookup(struct origin *origin, const struct origin_ref *dir, const char *name, struct origin_ref *ref,
                  struct origin_attr *attr)
{
    struct origin_node *dir_node, *node;

    origin_count(&origin->meta_ops, 1);
    int err = origin_name_check(name);
    if (!err)
        err = origin_resolve(origin, dir, &dir_node);
    if (err)
        return err;
    err = origin_child(origin, dir_node, name, &node, ref, attr);
    if (!err)
        origin_fd_put(origin, node);
    origin_fd_put(origin, dir_node);
    return err;
}

/* ---- new nodes --------------------------------------------------------------------------------------------------- */

/* What mkdir, mknod and symlink have in common: a system call that makes a name, then a look at it. */
struct make {
    const char *name;
    uint32_t    type; /* S_IFMT bits of what is made */
    uint32_t    mode; /* permissions */
    uint64_t    rdev;
    const char *target; /* of a symlink */
};

static int make_call(int dir_fd, const struct make *make, uint32_t mode)
{
    if (make->type == S_IFDIR)
        return mkdirat(dir_fd, make->name, (mode_t)mode);
    if (make->type == S_IFLNK)
        return symlinkat(make->target, dir_fd, make->name);
    return mknodat(dir_fd, make->name, (mode_t)(make->type | mode), (dev_t)make->rdev);
}

static int make_node(struct origin *origin, const struct origin_ref *dir, const struct make *make,
                     const struct origin_cred *cred, struct origin_ref *ref, struct origin_attr *attr)
{
    struct origin_cred_held held;
    struct origin_node     *dir_node, *node;
    struct origin_ref       made_ref;
    struct origin_attr      made_attr;

    int err = begin_change(origin, make->name);
    if (!err)
        err = origin_resolve(origin, dir, &dir_node);
    if (err)
        return err;
    err = origin_cred_take(origin, cred, true, &held);
    if (!err) {
        while (make_call(dir_node->path_fd, make, origin_cred_mode(cred, &held, make->mode)) < 0 && !err)
            err = errno == EINTR ? 0 : -errno;
        origin_cred_restore(origin, &held);
    }
    if (!err)
        err = origin_child(origin, dir_node, make->name, &node, &made_ref, &made_attr);
    if (!err) {
        origin_fd_put(origin, node);
        if ((made_attr.mode & S_IFMT) != make->type)
            err = -ESTALE; /* replaced from outside in between */
    }
    origin_fd_put(origin, dir_node);
    if (err)
        return err;
    *ref = made_ref;
    *attr = made_attr;
    return 0;
}

int origin_mknod(struct origin *origin, const struct origin_ref *dir, const char *name, uint32_t mode, uint64_t rdev,
                 const struct origin_cred *cred, struct origin_ref *ref, struct origin_attr *attr)
{
    struct make make = {.name = name, .type = mode & S_IFMT, .mode = mode & 07777, .rdev = rdev};

    if (make.type == 0)
        make.type = S_IFREG;
    if (make.type == S_IFDIR || make.type == S_IFLNK)
        return -EINVAL;
    return make_node(origin, dir, &make, cred, ref, attr);
}

int origin_mkdir(struct origin *origin, const struct origin_ref *dir, const char *name, uint32_t mode,
                 const struct origin_cred *cred, struct origin_ref *ref, struct origin_attr *attr)
{
    return make_node(origin, dir, &(struct make){.name = name, .type = S_IFDIR, .mode = mode & 07777}, cred, ref, attr);
}

int origin_symlink(struct origin *origin, const struct origin_ref *dir, const char *name, const char *target,
                   const struct origin_cred *cred, struct origin_ref *ref, struct origin_attr *attr)
{
    return make_node(origin, dir, &(struct make){.name = name, .type = S_IFLNK, .target = target}, cred, ref, attr);
}

/* Takes over the descriptor of a regular file that was just created, and makes it a node that is ready for writing. */
static int adopt_file(struct origin *origin, int fd, enum origin_keep keep, struct origin_ref *ref,
                      struct origin_attr *attr)
{
    struct origin_ref   made_ref;
    struct origin_attr  made_attr;
    struct origin_node *node;
    char                name[ORIGIN_PROC_NAME];

    int err = origin_describe(origin, fd, &made_ref, &made_attr);
    if (!err) {
        origin_fd_proc_name(name, fd);
        int path_fd = origin_fd_open(origin, AT_FDCWD, name, O_PATH, 0);
        if (keep == ORIGIN_KEEP_NO && made_ref.kind == ORIGIN_REF_PATH)
            keep = ORIGIN_KEEP_PIN;
        err = path_fd < 0 ? path_fd : origin_fd_insert(origin, &made_ref, made_attr.mode, path_fd, keep, &node);
    }
    if (err) {
        origin_fd_close(origin, fd);
        return err;
    }
    origin_fd_write_adopt(origin, node, fd);
    origin_fd_put(origin, node);
    *ref = made_ref;
    *attr = made_attr;
    return 0;
}

int origin_create(struct origin *origin, const struct origin_ref *dir, const char *name, uint32_t mode, int flags,
                  const struct origin_cred *cred, struct origin_ref *ref, struct origin_attr *attr, bool *created)
{
    struct origin_cred_held held;
    struct origin_node     *dir_node, *node;

    int err = begin_change(origin, name);
    if (!err && (flags & O_TRUNC))
        err = -EINVAL;
    if (!err)
        err = origin_resolve(origin, dir, &dir_node);
    if (err)
        return err;
    for (int tries = 0;; tries++) {
        int fd = origin_cred_take(origin, cred, true, &held);
        if (fd == 0) {
            fd = origin_fd_open(origin, dir_node->path_fd, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR,
                                origin_cred_mode(cred, &held, mode & 07777));
            origin_cred_restore(origin, &held);
        }
        if (fd >= 0) {
            err = adopt_file(origin, fd, ORIGIN_KEEP_NO, ref, attr);
            if (!err)
                *created = true;
            break;
        }
        err = fd;
        if (err != -EEXIST || (flags & O_EXCL))
            break;
        err = origin_child(origin, dir_node, name, &node, ref, attr);
        if (!err) {
            origin_fd_put(origin, node);
            *created = false;
        }
        if (err != -ENOENT || tries == CREATE_TRIES) /* removed in between: create it after all */
            break;
    }
    origin_fd_put(origin, dir_node);
    return err;
}

int origin_tmpfile(struct origin *origin, const struct origin_ref *dir, uint32_t mode, const struct origin_cred *cred,
                   struct origin_ref *ref, struct origin_attr *attr)
{
    struct origin_cred_held held;
    struct origin_node     *dir_node;

    origin_count(&origin->meta_ops, 1);
    int err = origin->read_only ? -EROFS : origin_resolve(origin, dir, &dir_node);
    if (err)
        return err;
    int fd = origin_cred_take(origin, cred, true, &held);
    if (fd == 0) {
        fd = origin_fd_open(origin, dir_node->path_fd, ".", O_TMPFILE | O_RDWR,
                            origin_cred_mode(cred, &held, mode & 07777));
        origin_cred_restore(origin, &held);
    }
    origin_fd_put(origin, dir_node);
    return fd < 0 ? fd : adopt_file(origin, fd, ORIGIN_KEEP_ORPHAN, ref, attr);
}

int origin_link(struct origin *origin, const struct origin_ref *node_ref, const struct origin_ref *dir,
                const char *name, const struct origin_cred *cred, struct origin_attr *attr)
{
    struct origin_cred_held held;
    struct origin_node     *dir_node, *node;
    char                    proc[ORIGIN_PROC_NAME];

    int err = begin_change(origin, name);
    if (!err)
        err = origin_resolve(origin, node_ref, &node);
    if (err)
        return err;
    err = origin_resolve(origin, dir, &dir_node);
    if (err) {
        origin_fd_put(origin, node);
        return err;
    }
    err = origin_cred_take(origin, cred, false, &held);
    if (!err) {
        /* through /proc: AT_EMPTY_PATH would need a capability that the caller has not */
        origin_fd_proc_name(proc, node->path_fd);
        while (linkat(AT_FDCWD, proc, dir_node->path_fd, name, AT_SYMLINK_FOLLOW) < 0 && !err)
            err = errno == EINTR ? 0 : -errno;
        origin_cred_restore(origin, &held);
    }
    if (!err && atomic_load_explicit(&node->keep, memory_order_relaxed) == ORIGIN_KEEP_ORPHAN)
        origin_fd_keep_set(origin, node, ORIGIN_KEEP_PIN); /* an unnamed file has got a name */
    if (!err)
        err = origin_node_describe(origin, node, attr);
    origin_fd_put(origin, dir_node);
    origin_fd_put(origin, node);
    return err;
}

/* ---- names that go ----------------------------------------------------------------------------------------------- */

/* The node that is about to lose the name, or NULL: then the operation itself will say what is wrong. */
static struct origin_node *victim_open(struct origin *origin, struct origin_node *dir, const char *name)
{
    struct origin_node *victim;

    return origin_child(origin, dir, name, &victim, NULL, NULL) == 0 ? victim : NULL;
}

static void victim_put(struct origin *origin, struct origin_node *victim)
{
    struct stat st;

    if (!victim)
        return;
    if ((victim->type == S_IFREG || victim->type == S_IFDIR) && fstat(victim->path_fd, &st) == 0 && st.st_nlink == 0)
        origin_fd_keep_set(origin, victim, ORIGIN_KEEP_ORPHAN);
    origin_fd_put(origin, victim);
}

static int remove_name(struct origin *origin, const struct origin_ref *dir, const char *name,
                       const struct origin_cred *cred, int flags)
{
    struct origin_cred_held held;
    struct origin_node     *dir_node;

    int err = begin_change(origin, name);
    if (!err)
        err = origin_resolve(origin, dir, &dir_node);
    if (err)
        return err;
    struct origin_node *victim = victim_open(origin, dir_node, name);
    err = origin_cred_take(origin, cred, false, &held);
    if (!err) {
        while (unlinkat(dir_node->path_fd, name, flags) < 0 && !err)
            err = errno == EINTR ? 0 : -errno;
        origin_cred_restore(origin, &held);
    }
    victim_put(origin, victim);
    origin_fd_put(origin, dir_node);
    return err;
}

int origin_unlink(struct origin *origin, const struct origin_ref *dir, const char *name, const struct origin_cred *cred)
{
    return remove_name(origin, dir, name, cred, 0);
}

int origin_rmdir(struct origin *origin, const struct origin_ref *dir, const char *name, const struct origin_cred *cred)
{
    return remove_name(origin, dir, name, cred, AT_REMOVEDIR);
}

int origin_rename(struct origin *origin, const struct origin_ref *old_dir, const char *old_name,
                  const struct origin_ref *new_dir, const char *new_name, unsigned flags,
                  const struct origin_cred *cred)
{
    struct origin_cred_held held;
    struct origin_node     *from, *to, *victim = NULL;

    int err = begin_change(origin, old_name);
    if (!err)
        err = origin_name_check(new_name);
    if (!err)
        err = origin_resolve(origin, old_dir, &from);
    if (err)
        return err;
    err = origin_resolve(origin, new_dir, &to);
    if (err) {
        origin_fd_put(origin, from);
        return err;
    }
    if (!(flags & (RENAME_NOREPLACE | RENAME_EXCHANGE)))
        victim = victim_open(origin, to, new_name);
    err = origin_cred_take(origin, cred, false, &held);
    if (!err) {
        while (renameat2(from->path_fd, old_name, to->path_fd, new_name, flags) < 0 && !err)
            err = errno == EINTR ? 0 : -errno;
        origin_cred_restore(origin, &held);
    }
    victim_put(origin, victim);
    origin_fd_put(origin, to);
    origin_fd_put(origin, from);
    return err;
}

/* ---- listing ----------------------------------------------------------------------------------------------------- */

/* Passes the entries of one buffer on: 0 all, 1 stop, or -errno. */
static int list_pass(const char *buffer, size_t size, origin_dirent_fn fn, void *arg)
{
    for (size_t at = 0; at < size;) {
        const struct dirent64 *entry = (const struct dirent64 *)(buffer + at);
        size_t                 len = strnlen(entry->d_name, ORIGIN_NAME_MAX + 1);

        at += entry->d_reclen;
        if (len == 0 || len > ORIGIN_NAME_MAX || memchr(entry->d_name, '/', len))
            return -EIO; /* a broken or hostile file system */
        int answer = fn(arg, &(struct origin_dirent){
                                 .ino = entry->d_ino,
                                 .cookie = (uint64_t)entry->d_off,
                                 .type = entry->d_type,
                                 .name_len = (uint16_t)len,
                                 .name = entry->d_name,
                             });
        if (answer)
            return answer;
    }
    return 0;
}

int origin_readdir(struct origin *origin, const struct origin_ref *dir, uint64_t cookie, origin_dirent_fn fn, void *arg)
{
    struct origin_node *node;
    long                got = 0;

    origin_count(&origin->meta_ops, 1);
    int err = origin_resolve(origin, dir, &node);
    if (err)
        return err;
    if (node->type != S_IFDIR) {
        origin_fd_put(origin, node);
        return -ENOTDIR;
    }
    /* A position belongs to an open file: a descriptor of its own lets several threads list at once. */
    int fd = origin_fd_open(origin, node->path_fd, ".", O_RDONLY | O_DIRECTORY | O_NOATIME, 0);
    if (fd == -EPERM)
        fd = origin_fd_open(origin, node->path_fd, ".", O_RDONLY | O_DIRECTORY, 0);
    origin_fd_put(origin, node);
    if (fd < 0)
        return fd;
    char *buffer = malloc(LIST_BUFFER);
    if (!buffer)
        err = -ENOMEM;
    else if (cookie && lseek(fd, (off_t)cookie, SEEK_SET) < 0)
        err = -errno;
    while (!err && (got = syscall(SYS_getdents64, fd, buffer, (size_t)LIST_BUFFER)) != 0) {
        if (got > 0)
            err = list_pass(buffer, (size_t)got, fn, arg);
        else if (errno != EINTR)
            err = -errno;
    }
    free(buffer);
    origin_fd_close(origin, fd);
    return err == 1 ? 0 : err;
}
