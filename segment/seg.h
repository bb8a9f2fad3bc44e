/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg.h - the segment: one object of fixed size that all members map. The manual of segment/'s entry points:
 *   seg.h          create, attach, resolve offsets and sections          (this page)
 *   seg_member.h   join, leave, heartbeats, liveness, fencing
 *   seg_epoch.h    readers without locks: enter, exit, when may memory be used again
 *   seg_pool.h     arrays of elements that are allocated, published, retired (frames, inodes, names, chunks)
 *   seg_chain.h    hash chains over pool elements; each change is one atomic store
 *   seg_counter.h  the counters of a member
 *   lock_rank.h    the only statement of lock order
 *
 * Everything read from the segment is a peer's word: load once, check range, then use. seg_at() and seg_elem() are the
 * only ways from an offset or an index to memory; they return NULL for nonsense, and the caller answers -EUCLEAN.
 */
#ifndef HEARTH_SEG_H
#define HEARTH_SEG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "seg_shared.h"

struct seg; /* one mapping; private twin of the segment; made by seg_open(), one per process and segment */

/* What a new segment is to contain. Sections are laid out in the order given, each aligned to `align` (>= 64). */
struct seg_plan_section {
    uint32_t kind, align;
    uint64_t stride, count;
};
struct seg_plan {
    uint64_t                size_bytes; /* multiple of SEG_PAGE                     */
    uint64_t                signature;  /* of the shared structs of all folders     */
    char                    name[SEG_NAME_MAX];
    uint8_t                 origin_id[64];
    uint32_t                section_count;
    struct seg_plan_section section[SEG_SECTIONS_MAX];
};

enum { SEG_ERR_BYTES = 320 };
enum seg_open_flags { SEG_OPEN_CREATE = 1 /* create when absent */, SEG_OPEN_RDONLY = 2 /* inspect only, no join */ };

/*
 * Path of a segment: "NAME" and "shm:NAME" stand for /dev/shm/hearthfs/NAME (the folder is made, 0700), "file:PATH" for PATH.
 * NAME: 1..63 of [A-Za-z0-9._-], not starting with '.'. -EINVAL with err filled otherwise.
 */
int seg_path(const char *spec, char *path, size_t path_size, char err[SEG_ERR_BYTES]);

/*
 * Opens the segment at `path`; with SEG_OPEN_CREATE makes it when it is absent. Creation is atomic: the object is filled
 * as an unnamed file (O_TMPFILE), its memory reserved (fallocate; -ENOSPC), the magic written last, then linked into
 * place; whoever loses that race attaches the winner's. `plan` gives contents and, for attach, the expected signature
 * (plan may be NULL with SEG_OPEN_RDONLY: then the signature is not compared).
 * On failure err holds one line for people: what is wrong and what to do, and nothing half-made is left.
 * -ENOENT absent; -EBADMSG foreign bytes, bad checksum, truncated; -EPROTO another layout (version or signature) or byte order;
 * -ENOSPC, -EACCES, -EINVAL (size), -ENOMEM. May block for the time it takes to reserve the memory.
 * *created (may be NULL) tells whether this call made it.
 */
int  seg_open(const char *path, const struct seg_plan *plan, unsigned flags, struct seg **out, bool *created,
              char err[SEG_ERR_BYTES]);
void seg_close(struct seg *seg); /* unmaps; a member must have left before */

const struct seg_super *seg_super(const struct seg *seg);
struct seg_common      *seg_common(const struct seg *seg);
uint64_t                seg_size(const struct seg *seg);
const char             *seg_file_path(const struct seg *seg);
int                     seg_fd(const struct seg *seg);

/* Memory of [off, off+size) or NULL when it is not inside the segment or not aligned. */
void *seg_at(const struct seg *seg, uint64_t off, uint64_t size, uint64_t align);

/* A section as found and checked at attach: base pointer, stride, count. NULL base when the kind is absent. */
struct seg_array {
    unsigned char *base;
    uint64_t       stride, count;
};
struct seg_array seg_section(const struct seg *seg, enum seg_section_kind kind);

/* Element `index` of an array or NULL when out of range. */
static inline void *seg_elem(const struct seg_array *array, uint64_t index)
{
    return index < array->count ? array->base + index * array->stride : NULL;
}

/* Reserved for checks and tools: verifies the superblock again; 0 or -EBADMSG/-EPROTO with err filled. */
int seg_super_check(const struct seg_super *super, uint64_t file_size, uint64_t signature, bool any_signature,
                    char err[SEG_ERR_BYTES]);

#endif
