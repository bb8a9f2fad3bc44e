/* SPDX-License-Identifier: Apache-2.0 */
/* fs_internal.h - what the files of fs/ share among themselves; not for other folders. */
#ifndef HEARTH_FS_INTERNAL_H
#define HEARTH_FS_INTERNAL_H

#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fs.h"
#include "seg_counter.h"

#define FS_FOREVER 1e8 /* seconds: what a kernel may keep until it is recalled */

enum { FS_IOV_MAX = 264, FS_LOCKS = 6, FS_STRIPES = 64, FS_READERS = 4, FS_IN_PLACE_MAX = 2, FS_REQUEST_MAX = 1 << 20 };

/*
 * Lanes: which threads a request that may wait is given to. A lane never holds requests that others need in order to move:
 *   FETCH  asks the origin for what is missing; waits for nobody but the origin and other fetches
 *   TURN   readers that wait for a writer of another member (it needs nothing more of this one)
 *   CHANGE writes and changes of names: may wait for locks and for recalls of others
 *   BACK   write-back of mapped pages, truncates: a recall may be waiting for them, so they slip past a lock they cannot have, and none waits behind
 *          another for long
 */
enum fs_lane { FS_LANE_FETCH, FS_LANE_TURN, FS_LANE_CHANGE, FS_LANE_BACK, FS_LANES };

struct fs_node { /* what this daemon knows of an inode, by index; the kernel's count of references */
    _Atomic uint64_t lookups;
    _Atomic uint16_t reads;  /* READs between their arrival and the end of their reply               */
    _Atomic uint16_t backs;  /* WRITEs of mapped pages, likewise                                     */
    _Atomic uint16_t slips;  /* requests that are being carried out past somebody's lock             */
    _Atomic uint16_t shared; /* its pages have been recalled from this kernel at least once          */
    _Atomic uint16_t writes; /* WRITEs of write() between their arrival and just before their reply  */
    _Atomic uint64_t reread; /* regions READ since then: bit fs_region_bit(); see fs_write.c, "Own pages" */
};

/* Regions of a file: 64 KiB each, 64 bits, so the bits of a file over 4 MiB wrap round. */
enum { FS_REGION_PAGES = 16, FS_REGIONS = 64 };
static inline uint64_t fs_region_mask(uint64_t first_page, uint64_t last_page)
{
    uint64_t first = first_page / FS_REGION_PAGES, count = last_page / FS_REGION_PAGES - first + 1;
    if (count >= FS_REGIONS)
        return UINT64_MAX;
    uint64_t mask = (1ull << count) - 1;
    unsigned turn = first % FS_REGIONS;
    return turn ? mask << turn | mask >> (FS_REGIONS - turn) : mask;
}

struct fs_lanes;
struct fs_notify;

struct fs {
    struct fs_config        config;
    struct persist_session *session;
    struct seg             *seg;
    struct cache           *cache;
    struct lock_mgr        *lock;
    struct work            *work;
    struct origin          *origin;
    struct fuse_session    *se;
    struct fs_node         *node;
    uint32_t                node_count;
    pthread_mutex_t         node_stripe[FS_STRIPES];
    struct fs_lanes        *lanes;
    struct fs_notify       *notify;
    bool                    epoch_ok; /* the kernel knows FUSE_NOTIFY_INC_EPOCH */
    bool                    prune_ok; /* and FUSE_NOTIFY_PRUNE                  */
    bool                    uring_on;
    pthread_t               reader[FS_READERS];
    struct fs_reader {
        _Atomic pid_t    thread;
        _Atomic uint64_t loops;   /* requests dealt with                 */
        _Atomic bool     in_read;  /* in the kernel for the next one     */
        _Atomic bool     in_place; /* carrying out a change itself       */
    } reader_state[FS_READERS];
    _Atomic unsigned        reader_next, in_place; /* in_place: receivers that are carrying out a change */
    unsigned                reader_count;
};

/* ---- requests (fs_call.c) ---- */
/*
 * A request that was not answered at once. Pointers stay good until the reply: they lie in the receive buffer, which the call has taken over (or in the
 * ring entry, which is not reused before the reply).
 */
struct fs_call;
typedef void (*fs_call_fn)(struct fs *fs, struct fs_call *call);
struct fs_call {
    fs_call_fn            run;
    fuse_req_t            req;
    uint64_t              ino, other;   /* `other`: the second directory, or the inode to link         */
    const char           *name, *name2; /* name2: new name, symlink target, xattr name is in `name`    */
    const void           *data;
    size_t                size;
    uint64_t              off, len;
    uint32_t              mode, flags, set;
    uint64_t              rdev;
    struct fuse_file_info fi;
    struct stat           attr;
    bool                  plus, sync;
    void                 *inflight; /* fs_inflight.c: what is registered for this request */
    void                 *buf;      /* receive buffer taken over; freed with the call     */
    struct fs_call       *next;
    enum fs_lane          lane;
    fs_call_fn            after;   /* what to run when its turn has come                               */
    bool                  wait_page; /* it waits as a READ of pages does                               */
    uint64_t              wait_id; /* whose writer it waits for                                        */
    unsigned              tries;
};

/* A call filled with zeros; the receive buffer goes with it when `keep_buffer`. NULL: out of memory, -ENOMEM has been replied. */
struct fs_call *fs_call_new(fuse_req_t req, fs_call_fn run, uint64_t ino, bool keep_buffer);
/* Gives it to a lane. The call is freed after run() unless run() has called fs_call_again(). */
void fs_call_queue(struct fs *fs, struct fs_call *call, enum fs_lane lane);
void fs_call_again(struct fs *fs, struct fs_call *call, enum fs_lane lane); /* to the end of a lane, from inside run() */
/* Waits in lane TURN until readers of `id` may go on, then runs the call in lane FETCH. From inside run(), or for a new call. */
void fs_call_turn(struct fs *fs, struct fs_call *call, uint64_t id);
/* To the end of the call's own lane after a moment: others wait behind whose turn may come sooner. From inside run(). */
void fs_call_round(struct fs *fs, struct fs_call *call);
bool fs_lane_crowded(struct fs *fs, enum fs_lane lane); /* others wait behind, and no thread can be added */
bool fs_back_crowded(void *fs);                         /* the same of lane BACK, as a stop function */
int  fs_lanes_start(struct fs *fs, unsigned workers_max);
void fs_lanes_stop(struct fs *fs);
void fs_lanes_free(struct fs *fs); /* when no thread can queue a call any more */
/* Receiving threads: reads requests until the session ends. */
void *fs_receive(void *arg);
/*
 * Has everything the kernel had sent when `drain` was started (zeroed) been received and registered? Asked again and again: true once one receiver was seen asleep at an empty
 * queue, and each has been seen there or come back to it. Under io_uring, whose threads are libfuse's: after DRAIN_URING_MS.
 */
struct fs_drain {
    bool     started, empty;
    uint64_t seen, loops[FS_READERS], start_ms, now_ms;
};
bool fs_drained(struct fs *fs, struct fs_drain *drain);
uint64_t fs_now_ms(void); /* monotonic, coarse */
bool fs_thread_in_state(pid_t thread, char state); /* of this process, as /proc has it: 'S', 'D', ... */
static inline struct fs *fs_of(fuse_req_t req) { return fuse_req_userdata(req); }

/* ---- nodes (fs_node.c) ---- */
int  fs_node_get(struct fs *fs, uint64_t id);             /* one more reference of the kernel; -ESTALE */
void fs_node_put(struct fs *fs, uint64_t id, uint64_t n); /* FORGET */
void fs_node_forgotten(struct fs *fs, uint64_t id);       /* no kernel knows it, it has no name: the origin lets it go */
int  fs_notify_task(struct fs *fs, void (*run)(struct fs *fs, void *arg), void *arg); /* in a notifier thread; -ENOMEM */
void fs_node_drop_all(struct fs *fs);                     /* the mount has ended */
static inline struct fs_node *fs_node_at(struct fs *fs, uint64_t id)
{
    uint32_t index = cache_id_index(id);
    return index < fs->node_count ? &fs->node[index] : NULL;
}

/* ---- requests in flight that a recall must know of (fs_inflight.c) ---- */
/*
 * The gate between slipping and acknowledging: begin is true if this member owes an acknowledgement for `id` now, and then none is given until end. So whoever
 * recalls stays in RECALLING while something slips past, finds the slipped mark afterwards, and recalls once more.
 */
bool fs_slip_begin(struct fs *fs, uint64_t id, struct lock_shared *words);
void fs_slip_end(struct fs *fs, uint64_t id, struct lock_shared *words);
void fs_slip_gate(struct fs *fs, const struct lock_ref *ref, uint32_t round); /* acknowledges when nothing slips */

void *fs_inflight_write(struct fs *fs, uint64_t id, uint64_t off, size_t size);
void *fs_inflight_dirs(struct fs *fs, const uint64_t *id, unsigned count, bool victim_unknown);
void  fs_inflight_done(struct fs *fs, void *inflight); /* NULL is allowed */
bool  fs_inflight_dir_busy(struct fs *fs, uint64_t dir);
/* May `page` be locked by a WRITE in flight whose first or last page it is? Not if a READ of that page has been in flight together with it. *quiet_us: how long ago, at
 * least, a READ of that page alone was answered that the WRITE may have followed. */
bool     fs_inflight_edge(struct fs *fs, uint64_t id, uint64_t page, uint32_t *quiet_us);
uint32_t fs_inflight_clock(void); /* microseconds, wrapping round, never 0 */
/* The kernel has dropped these pages, in a call that began at `started`. */
void fs_inflight_dropped(uint64_t id, uint64_t first, uint64_t last, uint32_t started);
/* A READ is about to be answered whose pages the kernel holds locked. */
void fs_inflight_read(struct fs *fs, uint64_t id, uint64_t off, size_t size);
/* READs that wait for a writer, and write-back that holds the lock itself: nobody waits for their pages. */
void *fs_inflight_held(struct fs *fs, uint64_t id, uint64_t off, size_t size);
/* The next thing in [page, last] that must not simply be waited for: its first page, or UINT64_MAX; *end its last page; *held: pages of fs_inflight_held, else one edge. */
uint64_t fs_inflight_next(struct fs *fs, uint64_t id, uint64_t page, uint64_t last, uint64_t *end, bool *held);

/* ---- recalls (fs_notify.c, fs_inval.c) ---- */
int  fs_notify_start(struct fs *fs);
void fs_notify_stop(struct fs *fs);
void fs_notify_arrived_write(struct fs *fs, uint64_t id); /* after registration: pending recalls look again */
void fs_notify_arrived_dir(struct fs *fs, uint64_t id);   /* id 0: any directory */
/* Drops pages [first, first + count) of the own kernel's cache (count UINT32_MAX: to the end) and its attributes; returns when they are gone, or locked by a WRITE
 * of this kernel that is still unanswered. */
void fs_inval_data(struct fs *fs, uint64_t id, uint32_t first, uint32_t count);
int  fs_kernel_notify(struct fs *fs, int code, const void *body, size_t size); /* raw notification; 0 or -errno */

/* ---- common steps ---- */
/* origin's and cache's shapes (fs_attr.c) */
void fs_attr_to_cache(const struct origin_attr *from, struct cache_attr *to);
void fs_attr_to_origin(const struct cache_attr *from, struct origin_attr *to);
void fs_attr_to_stat(const struct cache_attr *attr, struct stat *st);
int  fs_ref(struct fs *fs, uint64_t id, struct origin_ref *ref);
/* Attributes from the cache, or fetched; may ask the origin. */
int fs_attr_now(struct fs *fs, uint64_t id, struct cache_attr *attr);
/* Caller's identity for the origin; groups are read only for callers that are not root. */
struct fs_cred {
    struct origin_cred cred;
    gid_t              groups[ORIGIN_GROUPS_MAX];
};
void fs_cred_get(fuse_req_t req, struct fs_cred *cred);
/* Does a change of the data by this caller take set-id bits away? */
bool fs_clears_suid(fuse_req_t req, const struct cache_attr *attr);
/* Looks `name` up at the origin and in the cache; *child 0 when there is none. May ask the origin. pin: take a kernel reference (fs_node_get) for it. */
int fs_lookup_now(struct fs *fs, uint64_t dir, const char *name, bool pin, uint64_t *child, struct cache_attr *attr);
void fs_entry_fill(uint64_t id, const struct cache_attr *attr, double name_seconds, struct fuse_entry_param *entry);
double fs_name_seconds(struct fs *fs, uint64_t dir);
int  fs_intern(struct fs *fs, const struct origin_ref *ref, bool pin, uint64_t *id);
void fs_reply_error(fuse_req_t req, int result); /* -errno of ours to the errno the user sees (-EUCLEAN: EIO, ...) */
void fs_open_flags(struct fuse_file_info *fi); /* what OPEN and CREATE tell the kernel */
static inline bool fs_stands(struct fs *fs) { return seg_self_stands(fs->seg); }

/* ---- operations ---- */
void fs_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n);
void fs_op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void fs_op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi);
void fs_op_readlink(fuse_req_t req, fuse_ino_t ino);
void fs_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void fs_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void fs_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags);
void fs_op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name);
void fs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fs_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi);
void fs_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fs_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fs_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void fs_op_statfs(fuse_req_t req, fuse_ino_t ino);
void fs_op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags);
void fs_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void fs_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void fs_op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);
void fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);
void fs_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi);
void fs_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void fs_op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi);

#endif
