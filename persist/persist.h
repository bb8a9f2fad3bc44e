/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist.h - identity, joining and returning, recovery of the dead, checking.
 *
 * A session is one member's whole standing in a segment: mapping, queues, locks, cache. persist_session_open() finds the segment by the
 * identity record (or makes it), takes the member's slot back with the next incarnation, cleans what its last life left, and then serves from the warm
 * cache. The record lies in STATE_DIR/NAME/MEMBER (JSON with a checksum, written to a temporary name, synced, renamed).
 *
 * Recovery (persist_settle) is one procedure for every death: fence, wait until the process is proven gone, settle what it held in the order queues,
 * cache (intents, claims, pools), locks, epochs; park the slot. Idempotent; whoever runs it may die and another starts over. Serialised by the segment's
 * recovery lock.
 */
#ifndef HEARTH_PERSIST_H
#define HEARTH_PERSIST_H

#include "cache.h"
#include "lock.h"
#include "seg.h"
#include "work.h"

enum { PERSIST_NAME_MAX = SEG_NAME_MAX, PERSIST_SIZE_MIN = 16 << 20 };

/* ---- geometry (persist_geometry.c) ---- */
/* The plan of a segment of size_bytes: index memory (inodes, names, chunks, descriptors, buckets, hints) at most 2.5 % of it. Per frame: 1/10 inode, 1/8 name, 1/9 chunk.
 * -EINVAL with err when too small (the least is PERSIST_SIZE_MIN) or not a multiple of 4096 after rounding. */
int persist_plan(uint64_t size_bytes, const char *name, const uint8_t origin_id[64], struct seg_plan *plan, char err[SEG_ERR_BYTES]);
/* Index bytes over all bytes of an existing segment, for status and tests (percent * 100). */
unsigned persist_index_permyriad(const struct seg *seg);
/* Default size of a new segment: 1/8 of memory, at least 64 MiB, at most 4 GiB, at most half of what is free in /dev/shm. */
uint64_t persist_default_size(void);

/* ---- identity record (persist_record.c) ---- */
struct persist_record {
    char     segment_path[512];
    uint8_t  segment_uuid[16];
    uint64_t signature;
    uint8_t  origin_id[64];
    uint8_t  member_uuid[16];
    char     member[SEG_NAME_MAX];
    int32_t  slot;
    uint32_t incarnation; /* of the last life */
};
/* -ENOENT none yet; -EBADMSG damaged (err says so; the caller starts a new identity and says it in one line). */
int persist_record_load(const char *state_dir, const char *name, const char *member, struct persist_record *record, char err[SEG_ERR_BYTES]);
int persist_record_store(const char *state_dir, const char *name, const struct persist_record *record, char err[SEG_ERR_BYTES]);
int persist_record_remove_all(const char *state_dir, const char *name); /* destroy: all members' records of a segment */
/* Is it a name of a segment or a member: 1..63 of [A-Za-z0-9._-], not starting with a dot? */
bool persist_name_ok(const char *name);
/* The default member name: made of the machine's id and the mount point, [a-z0-9-], < SEG_NAME_MAX. */
void persist_member_name(const char *mountpoint, char name[SEG_NAME_MAX]);

/* ---- session (persist_session.c) ---- */
struct persist_config {
    const char *spec;       /* segment as the user names it: NAME, shm:NAME, file:PATH        */
    const char *name;       /* segment name for the record's folder                            */
    const char *member;     /* member name                                                     */
    const char *mountpoint; /* for people                                                      */
    const char *state_dir;  /* /var/lib/hearthfs                                               */
    uint64_t    size_bytes; /* of a new segment; 0: the default                                */
    uint8_t     origin_id[64]; /* of the directory: compared with the segment's (all zero: none here) */
    bool        has_origin;
    bool        may_create;
    unsigned    recall_timeout_ms;
};
struct persist_session {
    struct seg      *seg;
    struct work     *work;
    struct lock_mgr *lock;
    struct cache    *cache;
    bool             created;  /* this call made the segment          */
    bool             returned; /* the member had been here before     */
    char             note[SEG_ERR_BYTES]; /* a line for people that is no error (the recorded segment has gone ...); empty: none */
    struct persist_watch *watch;
    struct persist_life  *life; /* private */
};
/* err: one line for people. Errors of seg_open and seg_member_join; -EXDEV when the segment caches another origin. If it created the segment and a later step
 * fails, the segment is removed again. A state directory that cannot be written is an error (-EACCES), said plainly. */
int  persist_session_open(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES]);
/* Leaves the segment warm. Every thread that uses it has ended (the watch is stopped here). `session` must stay where it is from open to close. */
void persist_session_close(struct persist_session *session);
/* Instead of close, when the mount did not come up: closes, and removes what open made (segment if nobody else has joined, record, folders). */
void persist_session_abandon(struct persist_session *session);

/* The watch thread: heartbeat each 100 ms; looks for members that died (OFD lock) and settles them; calls fenced(arg) once when this member itself no longer stands. */
/* Start and stop in one thread; stop returns when the thread has ended, and no other thread may use the session's locks meanwhile. */
int  persist_watch_start(struct persist_session *session, void (*fenced)(void *), void *arg);
void persist_watch_stop(struct persist_session *session);
/* Settles member `who`: fences it if it is still ACTIVE, and recovers its slot when its process is gone (0), or -EBUSY when it is fenced but its process still lives
 * (its lock words and owed bits are settled so that nobody waits for it; its slot stays quarantined until it is gone). */
int  persist_settle(struct persist_session *session, seg_who who);

/* ---- looking from outside (persist_inspect.c): no membership, mapping read-only ---- */
int  persist_inspect_open(const char *spec, struct seg **seg, struct cache **cache, char err[SEG_ERR_BYTES]);
void persist_inspect_close(struct seg *seg, struct cache *cache);
/* Frames by state, counted one by one. clean: published and the same as at the origin; busy: private or in limbo. dirty and pinned: none yet. */
struct persist_frames {
    uint64_t total, free, clean, dirty, pinned, busy;
};
void     persist_frames_count(const struct seg *seg, struct persist_frames *frames);
unsigned persist_inbox_depth(const struct seg *seg, unsigned slot); /* items that wait in a member's inbox */
/* All invariants of all floors; returns the number broken, or -errno. */
int  persist_check(struct seg *seg, struct cache *cache, bool verify, cache_report_fn report, void *arg);
/* Names in /dev/shm/hearthfs; fn for each. */
int  persist_list(int (*fn)(void *arg, const char *name, const char *path), void *arg);
/* Removes a segment and its records; -EBUSY when members are mounted (err names them) unless force. */
int  persist_destroy(const char *spec, const char *state_dir, bool force, char err[SEG_ERR_BYTES]);

#endif
