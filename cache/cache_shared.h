/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_shared.h - what the cache keeps in the segment: frames, chunks, inodes, names, intents.
 *
 * (w) holder of the inode's write lock  (p) holder of its publish lock  (a) anyone, by one atomic step  (c) constant while LIVE
 * The first word of frames, chunks, inodes and names is the pool word of seg_shared.h.
 */
#ifndef HEARTH_CACHE_SHARED_H
#define HEARTH_CACHE_SHARED_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "lock_shared.h"

enum {
    CACHE_PAGE = 4096,
    CACHE_CHUNK_PAGES = 16,  /* 64 KiB of a file: small files waste little, 1 MiB reads find 16 chunks */
    CACHE_DIRECT_PAGES = 4,  /* the first pages hang on the inode itself, as ext2's direct blocks      */
    CACHE_NAME_INLINE = 72,  /* name bytes in the first part                                           */
    CACHE_NAME_PART = 96,    /* name bytes in each further part; at most two                           */
    CACHE_REF_BYTES = 48,    /* the origin's reference, opaque here: the key */
    CACHE_INTENTS = 16,      /* of one member                                                          */
};

/*
 * Page word: tag:2 | value:32 | sequence:30. Every change is a CAS on the exact word that was read and moves the sequence.
 *   EMPTY  nothing is cached    FRAME  value: frame index    CLAIM  value: slot:8 | incarnation:16 (low bits) | kind:8
 */
enum cache_tag { CACHE_EMPTY = 0, CACHE_FRAME = 1, CACHE_CLAIM = 2 };
enum cache_claim_kind {
    CACHE_CLAIM_FILL = 1,
    CACHE_CLAIM_WRITE = 2,
    CACHE_CLAIM_CLOSE = 3, /* the chunk is being freed: look it up again. Only recovery voids it, and only in a chunk that is still linked */
};

struct cache_frame { /* SHARED descriptor of one 4 KiB frame of the data section. Immutable contents while LIVE. */
    _Atomic uint64_t pool;     /* aux: references                                    */
    _Atomic uint64_t checksum; /* XXH3-64 of the 4096 bytes, set before it is linked */
};
static_assert(sizeof(struct cache_frame) == 16, "layout v1");

struct cache_chunk { /* SHARED 16 pages of one file; chunk n holds pages [n * 16, n * 16 + 16), also those that hang on the inode (unused there) */
    _Alignas(64) _Atomic uint64_t pool;
    uint64_t         inode_id;    /* (c) */
    uint64_t         number;      /* (c) */
    _Atomic uint32_t link;        /* seg_chain */
    _Atomic uint32_t used;        /* (a) bit per page: touched since the clock's hand came by; a hint */
    uint8_t          zero[32];
    _Atomic uint64_t page[CACHE_CHUNK_PAGES]; /* (a) */
};
static_assert(sizeof(struct cache_chunk) == 192, "layout v1");

struct cache_time { /* SHARED */
    int64_t  sec;
    uint32_t nsec;
    uint32_t zero;
};
struct cache_attr { /* SHARED 120 bytes; same shape as origin's attributes */
    uint64_t          ino, size_bytes, blocks, rdev;
    uint32_t          mode, nlink, uid, gid, blksize, zero;
    struct cache_time atime, mtime, ctime, btime;
};
static_assert(sizeof(struct cache_attr) == 120, "layout v1");

enum cache_inode_flags {
    CACHE_ATTR_VALID = 1,   /* attr holds what the origin said under `version`             */
    CACHE_UNLINKED = 2,     /* no name left at the origin as far as members know           */
    CACHE_WRITE_SHARED = 4, /* directory: names are granted no time (old kernels, see fs/) */
    CACHE_REF_SET = 8,      /* root only: its ref has been stored (cache_root_set)         */
};

/* In `known` of a LIMBO inode: the evictor has won, nobody can pin it any more. (64 members that all know it make the same word, but of a LIVE inode.) */
#define CACHE_KNOWN_DYING UINT64_MAX

struct cache_inode { /* SHARED one node of the tree, as all members see it. 384 bytes */
    /* line 0 */
    _Alignas(64) _Atomic uint64_t pool;    /* aux: generation; node id = generation << 32 | index                      */
    _Atomic uint32_t link;    /* seg_chain over the key                                                   */
    _Atomic uint32_t flags;   /* (p) enum cache_inode_flags                                               */
    _Atomic uint64_t version; /* (p) odd while words or attributes are swapped; +2 with each change       */
    _Atomic uint64_t known;   /* (a) bit n: member n's kernel has this node id; CACHE_KNOWN_DYING: being evicted, see cache_inode.c */
    _Atomic uint64_t parent;  /* (p) a directory it was last seen in: node id, a hint; 0: none            */
    _Atomic uint32_t name;    /* (p) name index there, a hint; SEG_INDEX_NONE                             */
    _Atomic uint32_t used;    /* (a) touched since the clock's hand came by: bit 0 node, bits 1..4 direct pages */
    _Atomic uint64_t chunk_end; /* (a) one more than the highest chunk number ever linked; never too low, also when the inode is used anew */
    uint64_t         zero0;
    /* line 1 */
    struct lock_shared lock;  /* lockmgr/                                                                 */
    /* lines 2, 3 */
    struct cache_attr attr;   /* (p) read under `version`                                                 */
    uint64_t          zero1;
    /* lines 4, 5 */
    uint8_t          ref[CACHE_REF_BYTES];     /* (c) */
    _Atomic uint64_t direct[CACHE_DIRECT_PAGES]; /* (a) page words of pages 0..3                          */
    uint8_t          zero2[48];
};
static_assert(sizeof(struct cache_inode) == 384 && offsetof(struct cache_inode, pool) == 0 && offsetof(struct cache_inode, lock) == 64, "layout v1");

/* A name in a directory. child: node id, CACHE_NAME_NEGATIVE (the origin has no such name) or CACHE_NAME_UNKNOWN (not known; the record is there to
 * carry the name's bytes through a recall). */
#define CACHE_NAME_NEGATIVE 0ull
#define CACHE_NAME_UNKNOWN UINT64_MAX
struct cache_name { /* SHARED */
    _Alignas(64) _Atomic uint64_t pool;
    _Atomic uint32_t link;
    uint32_t         part;       /* (c) index + 1 of the next part; 0: none                */
    uint64_t         parent;     /* (c) node id of the directory                           */
    _Atomic uint64_t child;      /* (p of the directory)                                   */
    uint64_t         hash;       /* (c) of parent and name                                 */
    uint16_t         length;     /* (c) bytes of the whole name, 1..255                    */
    uint8_t          zero[2];
    _Atomic uint32_t pins;       /* (a) recalls that name this record; a hint to eviction: a pin lost by a death is cleared by recovery */
    _Atomic uint32_t used;       /* (a) touched since the clock's hand came by             */
    uint8_t          zero1[4];
    char             bytes[CACHE_NAME_INLINE];
};
static_assert(sizeof(struct cache_name) == 128, "layout v1");
struct cache_name_part { /* SHARED in the same pool; LIVE while its name is */
    _Alignas(64) _Atomic uint64_t pool;
    uint32_t head;       /* (c) index of the name                                          */
    uint32_t part;       /* (c) as in cache_name, at the same place                        */
    uint64_t parent;     /* (c) 0: this is a part (a name has a directory), same place     */
    uint64_t zero;
    char     bytes[CACHE_NAME_PART];
};
static_assert(offsetof(struct cache_name_part, parent) == offsetof(struct cache_name, parent), "tells parts from names");
static_assert(offsetof(struct cache_name_part, part) == offsetof(struct cache_name, part), "same walk for both");
static_assert(sizeof(struct cache_name_part) == 128, "layout v1");

/* What a member is about to change; recovery of a dead member drops what these name. One page per member. */
enum cache_intent_op { CACHE_INTENT_NONE = 0, CACHE_INTENT_DATA = 1, CACHE_INTENT_NAMES = 2 };
struct cache_intent { /* SHARED (o) */
    _Alignas(64) _Atomic uint64_t op; /* enum, stored last when set, first when cleared */
    uint64_t id[4];                   /* inodes concerned; 0: none */
    uint64_t first_page, page_count;  /* DATA: of id[0] */
    uint64_t zero[9];
};
static_assert(sizeof(struct cache_intent) == 128, "layout v1");
struct cache_intents { /* SHARED */
    struct cache_intent intent[CACHE_INTENTS];
    uint8_t             zero[2048];
};
static_assert(sizeof(struct cache_intents) == 4096, "layout v1");

/* A directory's pages hold its listing (cache_listing.c): each page starts with this; entries follow, none crosses a page. */
struct cache_listing_page { /* SHARED */
    uint64_t listing;      /* the same in all pages of one listing, never again in another one */
    uint32_t page, page_count;
    uint32_t bytes;        /* used, this header included */
    uint32_t zero;
    uint64_t first_cookie; /* of the entry before the first one here; 0: none */
};
static_assert(sizeof(struct cache_listing_page) == 32, "layout v1");
struct cache_listing_entry { /* SHARED the name follows; the next one starts at the next multiple of 8 */
    uint64_t ino, cookie;
    uint16_t length; /* 1..255 */
    uint8_t  type, zero;
    char     name[4];
};
static_assert(offsetof(struct cache_listing_entry, name) == 20, "layout v1");

#endif
