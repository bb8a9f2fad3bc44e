/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_shared.h - what the segment looks like from byte 0: superblock, section table, member areas, pool headers.
 *
 * Only fixed-width fields, little-endian, explicitly padded; positions are byte offsets from the segment's base or slot
 * indexes, never pointers. Each struct says who alone may write each field:
 *   (c) constant after creation  (o) the member that owns the slot  (a) anyone, by atomic step  (r) recovery under its lock
 * Changing anything here changes the layout signature and needs a new SEG_LAYOUT_MAJOR and an edit of docs/format.md.
 */
#ifndef HEARTH_SEG_SHARED_H
#define HEARTH_SEG_SHARED_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { SEG_LAYOUT_MAJOR = 2, SEG_LAYOUT_MINOR = 0 };
#define SEG_MAGIC 0x31534648545241FEull      /* "\xfe" "ARTHFS1": first byte is not text; written last */
#define SEG_BYTE_ORDER 0x0102030405060708ull /* reads otherwise on a machine of the other byte order     */

enum {
    SEG_PAGE = 4096,
    SEG_MEMBERS_MAX = 64,   /* one bit each in 64-bit bitmaps            */
    SEG_SECTIONS_MAX = 24,
    SEG_NAME_MAX = 64,      /* bytes of a member's or a segment's name, with the final 0 */
    SEG_THREADS_MAX = 64,   /* epoch slots of one member                 */
    SEG_COUNTERS_MAX = 64,
};

/* Sections. `hints` sections hold one bit per element of the pool of the same name (1: perhaps free). */
enum seg_section_kind {
    SEG_SECTION_NONE = 0,
    SEG_SECTION_MEMBERS = 1,      /* struct seg_member[SEG_MEMBERS_MAX]           */
    SEG_SECTION_INBOXES = 2,      /* one inbox per member, see work_shared.h      */
    SEG_SECTION_SHARED_QUEUE = 3, /* see work_shared.h                            */
    SEG_SECTION_INODES = 4,
    SEG_SECTION_INODE_HINTS = 5,
    SEG_SECTION_INODE_BUCKETS = 6,
    SEG_SECTION_NAMES = 7,
    SEG_SECTION_NAME_HINTS = 8,
    SEG_SECTION_NAME_BUCKETS = 9,
    SEG_SECTION_CHUNKS = 10,
    SEG_SECTION_CHUNK_HINTS = 11,
    SEG_SECTION_CHUNK_BUCKETS = 12,
    SEG_SECTION_FRAMES = 13,      /* descriptors                                  */
    SEG_SECTION_FRAME_HINTS = 14,
    SEG_SECTION_DATA = 15,        /* the 4 KiB frames themselves                  */
    SEG_SECTION_INTENTS = 16,     /* struct of cache/, one page per member        */
    SEG_SECTION_APP_LOCKS = 17,       /* see lock_app_shared.h                        */
    SEG_SECTION_APP_LOCK_HINTS = 18,
    SEG_SECTION_APP_LOCK_BUCKETS = 19,
    SEG_SECTION_APP_WAIT_BUCKETS = 20,
    SEG_SECTION_KINDS = 21,
};

struct seg_section { /* SHARED (c) */
    uint32_t kind;
    uint32_t align;  /* bytes; `off` is a multiple of it */
    uint64_t off;    /* bytes from the segment's base    */
    uint64_t stride; /* bytes per element                */
    uint64_t count;  /* elements                         */
};
static_assert(sizeof(struct seg_section) == 32, "layout v1");

/* Page 0: constant after creation but for `magic`, which is written last. `checksum` is XXH3-64 of bytes [16, 4096). */
struct seg_super { /* SHARED (c) */
    _Atomic uint64_t   magic;
    uint64_t           checksum;
    uint64_t           byte_order;
    uint32_t           major, minor;
    uint64_t           signature; /* of all shared structs of all folders, given by the creator */
    uint64_t           size_bytes;
    uint64_t           generation;
    uint64_t           created_sec; /* since 1970, for people */
    uint8_t            uuid[16];
    char               name[SEG_NAME_MAX];
    uint8_t            origin_id[64]; /* what the segment caches: opaque to segment/ */
    uint32_t           section_count;
    uint32_t           zero0;
    struct seg_section section[SEG_SECTIONS_MAX];
    uint8_t            zero1[SEG_PAGE - 16 - 8 - 8 - 8 - 8 - 8 - 8 - 16 - SEG_NAME_MAX - 64 - 8 - 32 * SEG_SECTIONS_MAX];
};
static_assert(sizeof(struct seg_super) == SEG_PAGE, "layout v1");

/* Page 1: the few words that all members change. */
struct seg_common { /* SHARED (a) */
    _Alignas(64) _Atomic uint64_t epoch;         /* only grows; starts at 1                                     */
    _Alignas(64) _Atomic uint64_t recovery_lock; /* seg_word of the member that recovers others; 0: nobody      */
    _Alignas(64) _Atomic uint64_t members_bits;  /* bit n: slot n may be JOINING, ACTIVE or FENCED; its state decides */
    uint8_t zero[SEG_PAGE - 128 - 8];
};
static_assert(sizeof(struct seg_common) == SEG_PAGE, "layout v1");

/*
 * A member slot's state word: state:8 | 24 zero | incarnation:32.
 *   FREE -> JOINING -> ACTIVE -> (PARKED | FENCED); FENCED -> recovery -> PARKED; PARKED -> JOINING (next incarnation)
 * PARKED keeps the identity of a member that left or died, so that it gets its slot back.
 */
enum seg_member_state { SEG_FREE = 0, SEG_JOINING = 1, SEG_ACTIVE = 2, SEG_FENCED = 3, SEG_PARKED = 4 };

struct seg_epoch_slot { /* SHARED (o) one thread of the member */
    _Alignas(64) _Atomic uint64_t epoch; /* 0: outside                            */
    uint8_t zero[56];
};

/* One member: three pages, written by the slot's owner but for `state` (anyone fences by CAS). */
struct seg_member { /* SHARED */
    _Alignas(64) _Atomic uint64_t state;     /* (a) */
    _Atomic uint64_t heartbeat;              /* (o) grows while the member lives */
    uint8_t          uuid[16];               /* (o) the member's own, from its identity record */
    char             name[SEG_NAME_MAX];     /* (o) */
    uint32_t         pid;                    /* (o) for people only */
    uint32_t         flags;                  /* (o) SEG_MEMBER_HAS_ORIGIN ... */
    uint64_t         joined_sec;             /* (o) for people */
    char             mountpoint[256];        /* (o) for people, terminated */
    _Atomic uint64_t parked_stamp;           /* (o/r) grows with each parking: the oldest identity goes first */
    uint8_t          zero0[SEG_PAGE - 376 - 0];
    _Atomic uint64_t counter[SEG_COUNTERS_MAX]; /* (o) see seg_counter.h; survive incarnations */
    uint8_t          zero1[SEG_PAGE - 8 * SEG_COUNTERS_MAX];
    struct seg_epoch_slot thread[SEG_THREADS_MAX]; /* (o) */
};
enum { SEG_MEMBER_HAS_ORIGIN = 1, SEG_MEMBER_OTHER_KERNEL = 2, SEG_MEMBER_WATCH_FANOTIFY = 4, SEG_MEMBER_WATCH_INOTIFY = 8 };
static_assert(sizeof(struct seg_member) == 3 * SEG_PAGE, "layout v1");

/*
 * The first word of every pool element (frame descriptor, inode, name, chunk).
 *   state:8 | slot:8 | incarnation:16 (low bits) | aux:32
 * aux is the generation of nodes (moves when the element is freed) and the reference count of frames. Life:
 *   FREE -> PRIVATE(slot) -> LIVE -> LIMBO(slot) -> FREE. PRIVATE and LIMBO name the member that must finish the step.
 */
enum seg_pool_state { SEG_POOL_FREE = 0, SEG_POOL_PRIVATE = 1, SEG_POOL_LIVE = 2, SEG_POOL_LIMBO = 3 };

#endif
