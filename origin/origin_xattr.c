/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_xattr.c - extended attributes, ACLs among them.
 *
 * The calls go to /proc/self/fd/N of the O_PATH descriptor: that leads to the node itself, be it a symlink or a device,
 * without opening it (the f-variants refuse O_PATH, the l-variants would read the magic link). They are made as the
 * caller, who then has no capabilities: trusted.* is neither shown to nor taken from a user, security.capability needs
 * CAP_SETFCAP, user.* needs the mode bits.
 */
#include "origin_posix.h"

#include <errno.h>
#include <sys/xattr.h>

struct xattr_call {
    enum { XATTR_GET, XATTR_LIST, XATTR_SET, XATTR_REMOVE } kind;
    const char *name;
    void       *out;
    const void *in;
    size_t      size;
    int         flags;
};

static ssize_t call_once(const char *path, const struct xattr_call *call)
{
    switch (call->kind) {
    case XATTR_GET:
        return getxattr(path, call->name, call->out, call->size);
    case XATTR_LIST:
        return listxattr(path, call->out, call->size);
    case XATTR_SET:
        return setxattr(path, call->name, call->in, call->size, call->flags);
    case XATTR_REMOVE:
        return removexattr(path, call->name);
    }
    errno = EINVAL;
    return -1;
}

static ssize_t xattr_call(struct origin *origin, const struct origin_ref *ref, const struct xattr_call *call,
                          const struct origin_cred *cred)
{
    struct origin_cred_held held;
    struct origin_node     *node;
    char                    path[ORIGIN_PROC_NAME];
    ssize_t                 got;

    origin_count(&origin->meta_ops, 1);
    if (origin->read_only && (call->kind == XATTR_SET || call->kind == XATTR_REMOVE))
        return -EROFS;
    int err = origin_resolve(origin, ref, &node);
    if (err)
        return err;
    got = origin_cred_take(origin, cred, false, &held);
    if (got == 0) {
        origin_fd_proc_name(path, node->path_fd);
        do
            got = call_once(path, call);
        while (got < 0 && errno == EINTR);
        if (got < 0)
            got = -errno;
        origin_cred_restore(origin, &held);
    }
    origin_fd_put(origin, node);
    return got;
}

ssize_t origin_getxattr(struct origin *origin, const struct origin_ref *ref, const char *name, void *value, size_t size,
                        const struct origin_cred *cred)
{
    return xattr_call(origin, ref, &(struct xattr_call){.kind = XATTR_GET, .name = name, .out = value, .size = size},
                      cred);
}

ssize_t origin_listxattr(struct origin *origin, const struct origin_ref *ref, char *list, size_t size,
                         const struct origin_cred *cred)
{
    return xattr_call(origin, ref, &(struct xattr_call){.kind = XATTR_LIST, .out = list, .size = size}, cred);
}

int origin_setxattr(struct origin *origin, const struct origin_ref *ref, const char *name, const void *value,
                    size_t size, int flags, const struct origin_cred *cred)
{
    struct xattr_call call = {.kind = XATTR_SET, .name = name, .in = value, .size = size, .flags = flags};

    return (int)xattr_call(origin, ref, &call, cred);
}

int origin_removexattr(struct origin *origin, const struct origin_ref *ref, const char *name,
                       const struct origin_cred *cred)
{
    return (int)xattr_call(origin, ref, &(struct xattr_call){.kind = XATTR_REMOVE, .name = name}, cred);
}
