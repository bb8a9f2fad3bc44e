/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.h - the warm cache: data pages, attributes, names and listings of one tree, shared by all members.
 *
 * Knows nothing of FUSE and nothing of where data comes from: callers fill what is missing (cache_fill_*) and carry out changes
 * between cache_write_begin and cache_write_end. All functions are safe from any thread; those marked [epoch] must be called inside
 * seg_epoch_enter/exit, take no lock and do not block; pointers they give are good until the epoch is left. -EUCLEAN: a word of the segment makes
 * no sense (a peer's fault). Node ids that no longer stand: -ESTALE.
 *
 * The discipline that keeps an old fetch from covering a newer change: take cache_version() (or a claim) BEFORE asking the origin, and give it back
 * with what was fetched; every change moves the version (or the word's sequence), and a late fetch is refused with -EAGAIN: start over.
 */
#ifndef HEARTH_CACHE_H
#define HEARTH_CACHE_H

#include <sys/uio.h>

#include "cache_shared.h"
#include "lock.h"
#include "seg.h"
#include "seg_chain.h"
#include "seg_counter.h"
#include "seg_epoch.h"
#include "seg_pool.h"

struct cache; /* one process's handle */

#define CACHE_ROOT_ID 1ull /* index 1, generation 0 */
static inline uint32_t cache_id_index(uint64_t id) { return (uint32_t)id; }

/* ---- the handle (cache.c) ---- */
/* Creation only (before others can attach, or under the recovery lock): reserves index 0 of all pools, makes the root inode LIVE with an empty ref. */
void cache_format(struct seg *seg);
/* lock: for publish locks and waiting. work: to post WORK_EVICT when free frames run low (below 1/32); may be NULL in tests. */
int  cache_open(struct seg *seg, struct lock_mgr *lock, struct work *work, struct cache **out);
void cache_close(struct cache *cache); /* gives back what it has retired; waits at most a second for readers of that */
/* Frees what this process has retired and nobody reads any more. Others cannot do that for it: to be called now and then also by an idle member (heartbeat). */
uint32_t cache_reap(struct cache *cache);
struct seg *cache_seg(const struct cache *cache);
struct lock_mgr *cache_lock(const struct cache *cache);

struct cache_usage {
    uint64_t frames, frames_free, inodes, inodes_free, names, names_free, chunks, chunks_free, limbo;
};
void cache_usage_get(const struct cache *cache, struct cache_usage *usage);

/* ---- inodes (cache_inode.c) ---- */
/* [epoch, or while the caller holds the inode by `known`] NULL when the id does not stand. All that changes an inode (fills, writes, publish, locks) wants it held by `known`. */
struct cache_inode *cache_inode_at(const struct cache *cache, uint64_t id);
/* Finds or makes the inode with this reference (the key: all of it); a new one has no valid attributes, known = 0. *created may be NULL.
 * When no inode is free, reclaims (cache_reclaim_inodes); -ENOSPC when all are in use. The root is found by its ref after cache_root_set(). The found inode may be
 * reclaimed by others unless pinned: pin_known sets the own bit in `known` before it returns (then cache_known_drop() when not needed). */
int  cache_inode_intern(struct cache *cache, const void *ref, bool pin_known, uint64_t *id, bool *created);
int  cache_inode_find(struct cache *cache, const void *ref, uint64_t *id); /* as intern, but makes none, and pins none: -ENODATA */
/* First member with the origin tells who the root is; later ones must agree: -EXDEV when another directory is cached here. */
int  cache_root_set(struct cache *cache, const void *ref);
int  cache_ref_get(const struct cache *cache, uint64_t id, void *ref); /* copies CACHE_REF_BYTES; -ESTALE */
int  cache_known_set(struct cache *cache, uint64_t id); /* pins, exactly: 0, or -ESTALE when it is gone or about to go */
void cache_known_drop(struct cache *cache, uint64_t id); /* own interest bit, then the own known bit; threads of one member that pin and drop one node order themselves */
struct lock_ref cache_lock_ref(const struct cache *cache, uint64_t id); /* words NULL when stale */
/* Removes an inode nobody knows with its pages and names of it as a child stay as stale ids (found to be misses). -EBUSY in use, -ESTALE. */
int  cache_inode_evict(struct cache *cache, uint64_t id);
/* Frees up to `want` inodes that no kernel knows (clock). Where too few are idle, calls prune(arg, id, known) for up to `want` idle ones that kernels know: the
 * caller has them forgotten and the next call finds them free. Returns how many were freed now. Set once with cache_prune_fn(). */
typedef void (*cache_prune_fn)(void *arg, uint64_t id, uint64_t known);
void     cache_prune_set(struct cache *cache, cache_prune_fn fn, void *arg);
uint32_t cache_reclaim_inodes(struct cache *cache, uint32_t want);

/* ---- attributes (cache_attr.c) ---- */
/* [epoch] A consistent copy; -ENODATA when not valid, -EAGAIN when a change is being published just now for too long (spin bound): start over. */
int      cache_attr_get(const struct cache *cache, uint64_t id, struct cache_attr *attr);
uint64_t cache_version(const struct cache *cache, uint64_t id); /* even; spins over odd; 0 when stale (versions start at 2) */
/* A fetch: installs attr if `version` still stands; -EAGAIN else (also when valid ones are there already under a newer version). */
int cache_attr_fill(struct cache *cache, uint64_t id, uint64_t version, const struct cache_attr *attr);
/* A change under the write lock: publishes new attributes (moves the version). NULL: the attributes are unknown from now on. */
int cache_attr_publish(struct cache *cache, uint64_t id, const struct cache_attr *attr);

/* ---- data (cache_read.c, cache_fill.c, cache_write.c) ---- */
/* [epoch] The hit: fills iov (runs of adjacent frames are one element) with the bytes of [off, off + size) cut at the file's size, all of one version. *bytes 0 at or behind
 * the end. -ENODATA: *missing is the first page that is not there (fetch it: cache_fill_begin), or attributes are not valid (*missing UINT64_MAX);
 * -EBUSY: *missing is claimed by somebody (cache_claim_wait); -E2BIG: more than iov_max runs (cannot be when iov_max >= pages). Marks pages used. */
int cache_read(struct cache *cache, uint64_t id, uint64_t off, size_t size, struct iovec *iov, unsigned iov_max, unsigned *iov_count,
               size_t *bytes, uint64_t *missing);

/* Single-flight fill. begin claims up to `count` (<= CACHE_FILL_MAX) adjacent EMPTY pages from `first` on, with a private frame each; stops early at a page that is there or
 * claimed. 0 with fill->count >= 1; -EEXIST the first page is there; -EBUSY it is claimed by another (cache_claim_wait); -ENOMEM no frame or
 * chunk to be had even after eviction: read past the cache. Then the caller reads from the origin into fill->iov and calls end with the bytes read (or
 * -errno): the tail of the last page is zeroed, pages wholly behind `bytes` are given back, checksums set, each page published by CAS on its own claim; a claim that was
 * overtaken is dropped. Waiters are woken. Memory of iov is private until end; it may be read (for the reply) until cache_fill_release, whether
 * or not it was published. */
enum { CACHE_FILL_MAX = 256 };
struct cache_fill {
    uint64_t     id, first;
    uint32_t     count;
    uint32_t     iov_count;
    bool         stood; /* after end: every claim stood (what was read was current at that moment) */
    struct iovec iov[CACHE_FILL_MAX];
    uint32_t     frame[CACHE_FILL_MAX];
    uint64_t     claim[CACHE_FILL_MAX];
};
int  cache_fill_begin(struct cache *cache, uint64_t id, uint64_t first, uint32_t count, struct cache_fill *fill);
void cache_fill_end(struct cache *cache, struct cache_fill *fill, ssize_t bytes); /* must follow begin, in the same thread, outside epochs */
/* Must follow end, in the same thread: between the two the thread is inside an epoch (so iov stays good, and nothing may block). */
void cache_fill_release(struct cache *cache, struct cache_fill *fill);
/* Waits until the page's word is no claim any more (a dead claimer's claim is voided). 0, -EINTR, -ETIMEDOUT. */
int  cache_claim_wait(struct cache *cache, uint64_t id, uint64_t page, unsigned timeout_ms, bool (*stop)(void *), void *stop_arg);

/* A change of [first, first + count) pages, under the write lock in phase WRITING (or slipping: claims alone exclude). begin records the intent and claims the pages: fill claims are
 * overtaken, another writer's are waited for; old frames stay readable through write->old until end. Pages get private frames where frames are to be had: a page without (frame SEG_INDEX_NONE)
 * is simply dropped from the cache at end. The caller merges old bytes and new ones into write->data[i] (4096 bytes or NULL), writes to the
 * origin, and calls end with attr (may be NULL: unknown) and how many pages from the first hold what the origin now has (fewer after a short write or error: the
 * rest is dropped). end swaps all words and the attributes under the publish lock in one version step, clears the intent, wakes waiters.
 * At most CACHE_WRITE_MAX pages a call (1 MiB unaligned). */
enum { CACHE_WRITE_MAX = 258 };
struct cache_write {
    uint64_t    id, first;
    uint32_t    count;
    uint32_t    intent;
    uint32_t    frame[CACHE_WRITE_MAX];     /* new, private                             */
    uint32_t    old_frame[CACHE_WRITE_MAX]; /* SEG_INDEX_NONE: was not cached           */
    const void *old[CACHE_WRITE_MAX];       /* its bytes or NULL; good until end         */
    void       *data[CACHE_WRITE_MAX];
    uint64_t    claim[CACHE_WRITE_MAX];
};
int  cache_write_begin(struct cache *cache, uint64_t id, uint64_t first, uint32_t count, struct cache_write *write);
void cache_write_end(struct cache *cache, struct cache_write *write, uint32_t good, const struct cache_attr *attr);

/*
 * A copy of a range by the origin (cache_share.c). Both inodes' write locks are held. begin: like cache_write_begin for `count` pages of dst from `first` on, without frames; src_first is the
 * page of the source that belongs to `first`, UINT64_MAX where pages do not fit each other. Then the origin copies. end: pages [from, to) of the range, counted from its first, share the frames of
 * the source where those are cached and have not changed; the others are dropped. Returns how many are shared.
 */
struct cache_copy {
    struct cache      *cache;
    uint64_t           src_id, src_first;
    uint32_t           from, to, shared;
    uint64_t           src_word[CACHE_WRITE_MAX];
    struct cache_write write;
};
int      cache_copy_begin(struct cache *cache, uint64_t dst_id, uint64_t first, uint32_t count, uint64_t src_id, uint64_t src_first,
                          struct cache_copy *copy);
uint32_t cache_copy_end(struct cache *cache, struct cache_copy *copy, uint32_t from, uint32_t to, const struct cache_attr *attr);

/* Drops pages [first, first + count) (count UINT64_MAX: to the end) and publishes attr (NULL: unknown from now on) in the same version step: truncate, punch, errors. Under
 * the write lock. Overtakes fill claims. */
int cache_drop(struct cache *cache, uint64_t id, uint64_t first, uint64_t count, const struct cache_attr *attr);

/* ---- intents (cache_write.c): a record in the own page of SEG_SECTION_INTENTS; DATA or NAMES, ids unused: 0. Waits while all 16 are in use by other threads. ---- */
uint32_t cache_intent_take(struct cache *cache, enum cache_intent_op op, const uint64_t id[4], uint64_t first_page, uint64_t page_count);
void     cache_intent_clear(struct cache *cache, uint32_t intent);

/* ---- names (cache_name.c) ---- */
/* [epoch] 0 with *child (node id or CACHE_NAME_NEGATIVE), -ENODATA when not known. A child id whose inode is gone counts as not known. */
int  cache_name_find(const struct cache *cache, uint64_t dir, const char *name, size_t length, uint64_t *child);
/* A fetch: installs it if the directory's version still stands; -EAGAIN else; -ENOMEM: not cached, which is no error to the user. */
int  cache_name_fill(struct cache *cache, uint64_t dir, uint64_t version, const char *name, size_t length, uint64_t child);
/* One change of names under the directory's (or both directories') write lock: up to four {dir, name, child} and new attributes of the directories, one version step each; listings of
 * the directories are dropped. */
struct cache_name_change {
    uint64_t    dir;
    const char *name;
    size_t      length;
    uint64_t    child; /* node id, CACHE_NAME_NEGATIVE, or CACHE_NAME_UNKNOWN: forget it */
};
int  cache_names_publish(struct cache *cache, const struct cache_name_change *change, unsigned count, const uint64_t dir[2],
                         const struct cache_attr *dir_attr[2]);
/* All names of a directory are not known from now on; goes through all names there are. Under the write lock, after its version was moved (cache_names_publish with no change). */
void cache_names_forget(struct cache *cache, uint64_t dir);
/* A record that carries the name through a recall: found or made (child UNKNOWN), pinned. *arg is for WORK_RECALL_NAME. -ENOMEM: recall all names instead. */
int  cache_name_pin(struct cache *cache, uint64_t dir, const char *name, size_t length, uint64_t *arg);
void cache_name_unpin(struct cache *cache, uint64_t arg);
/* The name behind a WORK_RECALL_NAME argument: copies it (terminated, >= 256 bytes) or -ESTALE/-EUCLEAN. */
int  cache_name_get(const struct cache *cache, uint64_t arg, uint64_t *dir, char name[256], size_t *length);
/* Where `id` was last seen: its parent and name, hints kept by fill and publish; -ENOENT. */
int  cache_name_of(const struct cache *cache, uint64_t id, uint64_t *dir, char name[256], size_t *length);

/* ---- listings (cache_listing.c): the origin's directory stream, kept in the directory's pages ---- */
struct cache_dirent {
    uint64_t ino, cookie;
    uint8_t  type;
    uint16_t length;
    char     name[256]; /* terminated; a copy: checked, never longer than 255 */
};
struct cache_listing; /* being built */
struct cache_listing *cache_listing_begin(struct cache *cache, uint64_t dir); /* takes the version; NULL: no memory */
int  cache_listing_add(struct cache_listing *listing, const struct cache_dirent *entry);
/* Publishes if the version still stands (else -EAGAIN; the listing is freed in any case). */
int  cache_listing_end(struct cache_listing *listing, bool complete);
/* [epoch] Entries that follow `cookie` (0: from the start), in order, until fn returns non-zero. 0; -ENODATA not cached (or the cookie is not in it: ask the origin). A small
 * per-process table remembers where cookies lie. */
int  cache_listing_read(struct cache *cache, uint64_t dir, uint64_t cookie, int (*fn)(void *arg, const struct cache_dirent *entry), void *arg);

/* ---- eviction (cache_evict.c) ---- */
uint32_t cache_evict(struct cache *cache, uint32_t want); /* clock over chunks and inodes' direct pages; returns frames freed or in limbo */
bool     cache_low(const struct cache *cache);            /* free frames below the low-water mark */

/* ---- recovery and checks (cache_recover.c, cache_check.c) ---- */
/* Settles everything member `slot` (proven dead, fenced) held: intents (ranges and names dropped), claims, known bits, pool elements, chains, pins, lock words. The caller
 * holds the recovery lock. Idempotent; may die anywhere and be run again by another. */
int cache_recover(struct cache *cache, unsigned slot);
/* Walks every invariant; calls report(arg, line) for each one broken; returns how many, or -errno. quiet: nobody is mounted, so nothing may be held or claimed
 * or in limbo. verify: compare the checksum of every frame, too. */
typedef void (*cache_report_fn)(void *arg, const char *line);
int cache_check(struct cache *cache, bool quiet, bool verify, cache_report_fn report, void *arg);

/* Element sizes for the plan of a new segment, and the signature of the shared structs of lockmgr/ and cache/ (and of work/ and segment/ below). */
uint64_t cache_layout_signature(void);

#endif
