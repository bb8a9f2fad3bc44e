/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs_dir.c - OPENDIR, READDIR, READDIRPLUS, FSYNCDIR.
 *
 * OPENDIR answers ENOSYS once: from then on the kernel opens directories by itself and caches listings. (Where names cannot be recalled without waiting,
 * on kernels without the epoch notification, OPENDIR is answered and listings are not cached by the kernel.)
 *
 * A listing lies in the cache as one stream in the origin's order with the origin's cookies (cache_listing.c). A hit is answered inline; READDIRPLUS then gives those
 * children that the cache knows, the others as plain names. A miss lists the origin and, for READDIRPLUS, looks each child up, so that the stat calls that follow find
 * everything there. Attributes in READDIRPLUS are granted no time (fs_attr.c).
 */
#include <stdlib.h>
#include <string.h>

#include "fs_internal.h"

enum { DIR_TRIES_MAX = 20 };

struct reply { /* one READDIR answer being put together */
    struct fs *fs;
    fuse_req_t req;
    uint64_t   dir;
    char      *buf;
    size_t     size, used;
    bool       plus, fetch; /* fetch: children that are not known may be looked up */
    double     name_seconds;
    uint64_t  *taken; /* node references given in this answer: returned if it cannot be sent */
    unsigned   taken_count, taken_max;
    /* entries are collected inside an epoch and looked up outside of it */
    struct cache_dirent *entry;
    unsigned             entry_count, entry_max;
    uint64_t             cookie;
    bool                 full;
    int                  error;
};

static bool is_dots(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* The child's inode and attributes if they are in the cache (or can be fetched); takes a reference. 0 child: give the plain name. */
static uint64_t child_of(struct reply *reply, const char *name, struct cache_attr *attr)
{
    struct fs *fs = reply->fs;
    uint64_t   child = 0;
    if (is_dots(name))
        return 0;
    if (reply->fetch)
        return fs_lookup_now(fs, reply->dir, name, true, &child, attr) == 0 ? child : 0;
    seg_epoch_enter(fs->seg);
    if (cache_name_find(fs->cache, reply->dir, name, strlen(name), &child) != 0 || child == CACHE_NAME_UNKNOWN)
        child = 0;
    if (child && cache_attr_get(fs->cache, child, attr) != 0)
        child = 0;
    if (child && fs_node_get(fs, child) != 0)
        child = 0;
    seg_epoch_exit(fs->seg);
    return child;
}

/* Adds one entry; 1 when it does not fit any more. */
static int add_entry(struct reply *reply, const struct cache_dirent *entry)
{
    struct fuse_entry_param param = {.ino = 0};
    struct cache_attr       attr;
    struct stat             st = {.st_ino = entry->ino, .st_mode = (mode_t)entry->type << 12};
    size_t                  left = reply->size - reply->used, need;
    char                   *at = reply->buf + reply->used;

    if (!reply->plus) {
        need = fuse_add_direntry(reply->req, at, left, entry->name, &st, (off_t)entry->cookie);
    } else {
        uint64_t child = 0;
        if (fuse_add_direntry_plus(reply->req, NULL, 0, entry->name, NULL, 0) > left)
            return 1;
        if (reply->taken_count < reply->taken_max)
            child = child_of(reply, entry->name, &attr);
        if (child) {
            reply->taken[reply->taken_count++] = child;
            fs_entry_fill(child, &attr, reply->name_seconds, &param);
        } else {
            param.attr = st;
        }
        need = fuse_add_direntry_plus(reply->req, at, left, entry->name, &param, (off_t)entry->cookie);
    }
    if (need > left)
        return 1;
    reply->used += need;
    return 0;
}

/* Inside the epoch: only collects. */
static int collect(void *arg, const struct cache_dirent *entry)
{
    struct reply *reply = arg;
    if (reply->entry_count == reply->entry_max)
        return 1;
    reply->entry[reply->entry_count++] = *entry;
    return 0;
}

static int answer_from_cache(struct reply *reply, uint64_t cookie)
{
    struct fs *fs = reply->fs;
    for (;;) {
        reply->entry_count = 0;
        seg_epoch_enter(fs->seg);
        int result = cache_listing_read(fs->cache, reply->dir, cookie, collect, reply);
        seg_epoch_exit(fs->seg);
        if (result != 0)
            return reply->used ? 0 : result; /* what we have is an answer; the rest is asked for next */
        for (unsigned i = 0; i < reply->entry_count; i++) {
            if (add_entry(reply, &reply->entry[i]))
                return 0;
            cookie = reply->entry[i].cookie;
        }
        if (reply->entry_count < reply->entry_max)
            return 0;
    }
}

static int reply_open(struct reply *reply, struct fs *fs, fuse_req_t req, uint64_t dir, size_t size, bool plus, bool fetch)
{
    size = size > 256 << 10 ? 256 << 10 : size;
    *reply = (struct reply){.fs = fs, .req = req, .dir = dir, .size = size, .plus = plus, .fetch = fetch, .entry_max = 64};
    reply->taken_max = (unsigned)(size / 128) + 1;
    reply->buf = malloc(size);
    reply->entry = malloc(reply->entry_max * sizeof *reply->entry);
    reply->taken = malloc(reply->taken_max * sizeof *reply->taken);
    reply->name_seconds = fs_name_seconds(fs, dir);
    return reply->buf && reply->entry && reply->taken ? 0 : -ENOMEM;
}

static void reply_close(struct reply *reply, bool send)
{
    if (!send || fuse_reply_buf(reply->req, reply->buf, reply->used) != 0)
        for (unsigned i = 0; i < reply->taken_count; i++)
            fs_node_put(reply->fs, reply->taken[i], 1);
    free(reply->buf);
    free(reply->entry);
    free(reply->taken);
}

/* Takes an interest in the directory: 0, -EINPROGRESS: wait for a turn, -ESTALE. */
static int dir_turn(struct fs *fs, uint64_t dir)
{
    int result = -ESTALE;
    seg_epoch_enter(fs->seg);
    struct cache_inode *inode = cache_inode_at(fs->cache, dir);
    if (inode)
        result = lock_read_begin(fs->lock, &inode->lock) == LOCK_READ_WAIT ? -EINPROGRESS : 0;
    seg_epoch_exit(fs->seg);
    return result;
}

/* 0 replied, -EINPROGRESS, -ENODATA. */
static int try_readdir(struct fs *fs, fuse_req_t req, uint64_t dir, size_t size, uint64_t cookie, bool plus)
{
    struct reply reply;
    int          result = dir_turn(fs, dir);
    if (result == 0)
        result = reply_open(&reply, fs, req, dir, size, plus, false);
    else if (result == -EINPROGRESS)
        return result;
    if (result == 0) {
        result = answer_from_cache(&reply, cookie);
        if (result == 0 && !fs_stands(fs))
            result = -EIO;
        reply_close(&reply, result == 0);
        if (result == -ENODATA || result == -EUCLEAN)
            return -ENODATA;
    }
    if (result != 0)
        fs_reply_error(req, result);
    return 0;
}

/* ---- misses ---- */
struct fetch {
    struct cache_listing *listing;
    int                   error;
};

static struct cache_dirent *dirent_of(const struct origin_dirent *from, struct cache_dirent *to)
{
    if (from->name_len == 0 || from->name_len > 255)
        return NULL;
    to->ino = from->ino;
    to->cookie = from->cookie;
    to->type = from->type;
    to->length = from->name_len;
    memcpy(to->name, from->name, from->name_len);
    to->name[from->name_len] = 0;
    return to;
}

static int keep_entry(void *arg, const struct origin_dirent *from)
{
    struct fetch       *fetch = arg;
    struct cache_dirent entry;
    if (dirent_of(from, &entry))
        fetch->error = cache_listing_add(fetch->listing, &entry);
    return fetch->error ? 1 : 0;
}

static int fetch_listing(struct fs *fs, uint64_t dir)
{
    struct origin_ref ref;
    struct fetch      fetch = {.listing = NULL};
    int               result = fs_ref(fs, dir, &ref);
    if (result != 0)
        return result;
    fetch.listing = cache_listing_begin(fs->cache, dir);
    if (!fetch.listing)
        return -ENOMEM;
    seg_count(fs->seg, SEG_COUNTER_origin_meta_ops, 1);
    result = origin_readdir(fs->origin, &ref, 0, keep_entry, &fetch);
    int ended = cache_listing_end(fetch.listing, result == 0 && fetch.error == 0);
    return result < 0 ? result : ended;
}

static int pass_entry(void *arg, const struct origin_dirent *from)
{
    struct reply       *reply = arg;
    struct cache_dirent entry;
    if (!dirent_of(from, &entry))
        return 0;
    return add_entry(reply, &entry);
}

/* Past the cache: the cookie is not in the listing any more, or the directory changes too fast, or is too large. */
static void readdir_around(struct fs *fs, struct fs_call *call)
{
    struct reply      reply;
    struct origin_ref ref;
    int               result = reply_open(&reply, fs, call->req, call->ino, call->size, false, false);
    reply.plus = call->plus; /* as plain names: children are not looked up while the origin's directory is open */
    if (result == 0)
        result = fs_ref(fs, call->ino, &ref);
    if (result == 0)
        result = origin_readdir(fs->origin, &ref, call->off, pass_entry, &reply);
    reply_close(&reply, result >= 0);
    if (result < 0)
        fs_reply_error(call->req, result);
}

static void fetch_counted(struct fs *fs, struct fs_call *call)
{
    struct reply reply;
    for (;;) {
        int result = reply_open(&reply, fs, call->req, call->ino, call->size, call->plus, call->plus);
        if (result == 0)
            result = answer_from_cache(&reply, call->off);
        reply_close(&reply, result == 0);
        if (result == 0)
            return;
        if (++call->tries > DIR_TRIES_MAX)
            break;
        result = fetch_listing(fs, call->ino);
        if (result == 0 || result == -EAGAIN) {
            if (call->off && call->tries > 1)
                break; /* listed anew, and the cookie is not in it */
            continue;
        }
        if (result == -ENOMEM || result == -ENOSPC || result == -EFBIG)
            break;
        fs_reply_error(call->req, result);
        return;
    }
    readdir_around(fs, call);
}

static void fetch_readdir(struct fs *fs, struct fs_call *call)
{
    struct fs_node *node = fs_node_at(fs, call->ino);
    if (dir_turn(fs, call->ino) == -EINPROGRESS) {
        fs_call_turn(fs, call, call->ino);
        return;
    }
    if (node)
        atomic_fetch_add(&node->reads, 1); /* recalls of names wait for it (fs_notify.c) */
    fetch_counted(fs, call);
    if (node)
        atomic_fetch_sub(&node->reads, 1);
}

static void readdir_any(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
    struct fs *fs = fs_of(req);
    int        result = try_readdir(fs, req, ino, size, (uint64_t)off, plus);
    if (result == 0) {
        return;
    }
    struct fs_call *call = fs_call_new(req, fetch_readdir, ino, false);
    if (!call)
        return;
    call->size = size;
    call->off = (uint64_t)off;
    call->plus = plus;
    if (result == -EINPROGRESS)
        fs_call_turn(fs, call, ino);
    else
        fs_call_queue(fs, call, FS_LANE_FETCH);
}

void fs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    readdir_any(req, ino, size, off, false);
}

void fs_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    readdir_any(req, ino, size, off, true);
}

void fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fs *fs = fs_of(req);
    (void)ino;
    if (fs->epoch_ok) {
        fuse_reply_err(req, ENOSYS);
        return;
    }
    fi->cache_readdir = 0;
    fuse_reply_open(req, fi);
}

void fs_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    fs_op_fsync(req, ino, datasync, fi);
}
