/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_watch.c - the watch by fanotify, and what both kinds share. inotify is in origin_inotify.c.
 *
 * One mark on the file system brings the events of everything on it, so what has nothing to do with us must cost little. An event names nodes by handles; a
 * reference is a handle and an identity, which
 * costs an open and a statx. A node's handle never comes to mean another node, so handles and their references are remembered (`memo`, a table in which newer
 * ones overwrite older ones), and whoever listens finds by the
 * reference whether it knows the node. A handle that leads nowhere any more, and is not remembered, is told by its name only.
 *
 * If we die here, the kernel closes the queue; nothing of this is shared.
 */
#include "origin_watch_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <unistd.h>

static const uint64_t node_mask = FAN_MODIFY | FAN_ATTRIB | FAN_CLOSE_WRITE;
static const uint64_t name_mask = FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO;

void origin_watch_tell(struct origin_watch *watch, enum origin_watch_what what, const struct origin_ref *dir, const char *name, const struct origin_ref *node)
{
    const struct origin_watch_event event = {.what = what, .dir = dir, .node = node, .name = name};
    watch->fn(watch->arg, &event);
}

/* ---- handles ---- */

/* The reference of the node with this handle: from memory, or by opening it. */
static bool ref_of_handle(struct origin_watch *watch, const struct file_handle *handle, struct origin_ref *ref)
{
    struct origin_ref  want = {.kind = ORIGIN_REF_HANDLE};
    struct origin_attr attr;
    uint32_t           hash = 2166136261u;

    if (handle->handle_bytes == 0 || handle->handle_bytes > ORIGIN_HANDLE_BYTES || handle->handle_type < 0 || handle->handle_type > UINT16_MAX)
        return false;
    want.handle_len = (uint8_t)handle->handle_bytes;
    want.handle_type = (uint16_t)handle->handle_type;
    memcpy(want.handle, handle->f_handle, want.handle_len);
    for (unsigned i = 0; i < want.handle_len; i++)
        hash = (hash ^ want.handle[i]) * 16777619u;
    struct origin_ref *seen = &watch->memo[(hash ^ hash >> 15) % ORIGIN_WATCH_MEMO];
    if (seen->handle_len == want.handle_len && seen->handle_type == want.handle_type && memcmp(seen->handle, want.handle, sizeof want.handle) == 0) {
        *ref = *seen;
        return true;
    }
    int fd = origin_fd_open_handle(watch->origin, &want);
    if (fd < 0)
        return false;
    int err = origin_describe(watch->origin, fd, ref, &attr);
    origin_fd_close(watch->origin, fd);
    if (err || ref->kind != ORIGIN_REF_HANDLE)
        return false;
    *seen = *ref;
    return true;
}

/* ---- events ---- */

struct heard { /* of one event */
    struct origin_ref dir, node;
    bool              has_dir, has_node;
    const char       *name;
};

static void info_hear(struct origin_watch *watch, const struct fanotify_event_info_fid *info, struct heard *heard)
{
    const struct file_handle *handle = (const struct file_handle *)info->handle;
    uint8_t                   type = info->hdr.info_type;

    if (type == FAN_EVENT_INFO_TYPE_FID) {
        heard->has_node = ref_of_handle(watch, handle, &heard->node);
    } else if (type == FAN_EVENT_INFO_TYPE_DFID || type == FAN_EVENT_INFO_TYPE_DFID_NAME) {
        heard->has_dir = ref_of_handle(watch, handle, &heard->dir);
        if (type == FAN_EVENT_INFO_TYPE_DFID_NAME)
            heard->name = (const char *)handle->f_handle + handle->handle_bytes;
    }
}

static void event_tell(struct origin_watch *watch, const struct fanotify_event_metadata *event, const char *begin)
{
    struct heard heard = {.has_dir = false};

    if (event->mask & FAN_Q_OVERFLOW) {
        origin_watch_tell(watch, ORIGIN_WATCH_ALL, NULL, NULL, NULL);
        return;
    }
    if (event->pid == watch->self)
        return;
    const char *end = begin + event->event_len;
    for (const char *at = begin + event->metadata_len; at + sizeof(struct fanotify_event_info_header) <= end;) {
        const struct fanotify_event_info_header *header = (const void *)at;
        if (header->len < sizeof *header || at + header->len > end)
            break;
        info_hear(watch, (const void *)at, &heard);
        at += header->len;
    }
    bool is_self = !heard.name || strcmp(heard.name, ".") == 0; /* an event of the directory itself */
    if ((event->mask & name_mask) && heard.has_dir && !is_self)
        origin_watch_tell(watch, ORIGIN_WATCH_NAME, &heard.dir, heard.name, NULL);
    if (!(event->mask & node_mask))
        return;
    if (heard.has_node)
        origin_watch_tell(watch, ORIGIN_WATCH_NODE, NULL, NULL, &heard.node);
    else if (heard.has_dir)
        origin_watch_tell(watch, ORIGIN_WATCH_NODE, &heard.dir, is_self ? NULL : heard.name, is_self ? &heard.dir : NULL);
}

static int fanotify_read(struct origin_watch *watch, ssize_t size)
{
    int count = 0;
    for (const char *at = watch->buffer, *end = at + size; at + sizeof(struct fanotify_event_metadata) <= end; count++) {
        struct fanotify_event_metadata event; /* a copy: they come one behind the other, four bytes aligned */
        memcpy(&event, at, sizeof event);
        if (event.vers != FANOTIFY_METADATA_VERSION)
            return -EPROTO;
        if (event.event_len < sizeof event || at + event.event_len > end)
            break;
        event_tell(watch, &event, at);
        at += event.event_len;
    }
    return count;
}

static int fanotify_open(struct origin_watch *watch)
{
    if (!watch->origin->handles)
        return -EOPNOTSUPP;
    watch->fd = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID | FAN_REPORT_DFID_NAME, O_RDONLY | O_CLOEXEC);
    if (watch->fd < 0)
        return -errno;
    if (fanotify_mark(watch->fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, node_mask | name_mask | FAN_ONDIR, watch->origin->root_fd, NULL) < 0) {
        int err = errno == ENODEV || errno == EXDEV || errno == EINVAL ? -EOPNOTSUPP : -errno;
        close(watch->fd);
        watch->fd = -1;
        return err;
    }
    watch->memo = calloc(ORIGIN_WATCH_MEMO, sizeof *watch->memo);
    return watch->memo ? 0 : -ENOMEM;
}

/* ---- both ---- */

int origin_watch_open(struct origin *origin, enum origin_watch_kind kind, origin_watch_fn fn, void *arg, struct origin_watch **out)
{
    struct origin_watch *watch = calloc(1, sizeof *watch);
    int                  err = watch ? -EOPNOTSUPP : -ENOMEM;

    if (!watch)
        return err;
    *watch = (struct origin_watch){.origin = origin, .fn = fn, .arg = arg, .fd = -1, .self = getpid(), .kind = ORIGIN_WATCH_FANOTIFY};
    if (kind != ORIGIN_WATCH_INOTIFY)
        err = fanotify_open(watch);
    if (kind == ORIGIN_WATCH_INOTIFY || (kind == ORIGIN_WATCH_AUTO && err && err != -ENOMEM)) {
        watch->kind = ORIGIN_WATCH_INOTIFY;
        err = origin_inotify_open(watch);
    }
    if (err) {
        origin_watch_close(watch);
        return err;
    }
    *out = watch;
    return 0;
}

void origin_watch_close(struct origin_watch *watch)
{
    if (!watch)
        return;
    if (watch->fd >= 0)
        close(watch->fd);
    origin_inotify_free(watch);
    free(watch->memo);
    free(watch);
}

enum origin_watch_kind origin_watch_kind(const struct origin_watch *watch)
{
    return watch->kind;
}

int origin_watch_read(struct origin_watch *watch, int timeout_ms)
{
    struct pollfd ready = {.fd = watch->fd, .events = POLLIN};
    int           count = poll(&ready, 1, timeout_ms);

    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    if (count == 0)
        return 0;
    ssize_t size = read(watch->fd, watch->buffer, sizeof watch->buffer);
    if (size < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : -errno;
    return watch->kind == ORIGIN_WATCH_FANOTIFY ? fanotify_read(watch, size) : origin_inotify_read(watch, size);
}
