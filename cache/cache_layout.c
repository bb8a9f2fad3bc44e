/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_layout.c - the signature of everything that members share.
 *
 * One number made of the name, size and place of every field of every shared struct, and of the constants that size them. Two
 * builds whose numbers differ would read the segment differently, so the one that comes second is refused. A field that is
 * not listed here is not protected: whoever adds one to a struct tagged SHARED lists it here. cache/ is the highest floor
 * that lays anything out in the segment, so the table of all floors stands here.
 */
#include <string.h>
#include <xxhash.h>

#include "cache_internal.h"
#include "lock_app.h"

struct layout_line {
    const char *name;
    uint64_t    place, size;
};

#define K(constant) {#constant, (uint64_t)(constant), 0}
#define S(type) {#type, sizeof(struct type), _Alignof(struct type)}
#define F(type, field) {#type "." #field, offsetof(struct type, field), sizeof(((struct type *)0)->field)}

static const struct layout_line layout[] = {
    /* segment/ */
    K(SEG_LAYOUT_MAJOR), K(SEG_MEMBERS_MAX), K(SEG_SECTIONS_MAX), K(SEG_THREADS_MAX), K(SEG_COUNTERS_MAX),
    K(SEG_COUNTER_COUNT), K(SEG_SECTION_KINDS), K(SEG_PARKED), K(SEG_POOL_LIMBO), K(SEG_LIVENESS_OFF),
    K(SEG_RECOVERY_OFF),
    S(seg_section), F(seg_section, kind), F(seg_section, align), F(seg_section, off), F(seg_section, stride),
    F(seg_section, count),
    S(seg_super), F(seg_super, magic), F(seg_super, checksum), F(seg_super, byte_order), F(seg_super, major),
    F(seg_super, minor), F(seg_super, signature), F(seg_super, size_bytes), F(seg_super, generation),
    F(seg_super, created_sec), F(seg_super, uuid), F(seg_super, name), F(seg_super, origin_id), F(seg_super, section_count),
    F(seg_super, section),
    S(seg_common), F(seg_common, epoch), F(seg_common, recovery_lock), F(seg_common, members_bits),
    S(seg_epoch_slot), F(seg_epoch_slot, epoch),
    S(seg_member), F(seg_member, state), F(seg_member, heartbeat), F(seg_member, uuid), F(seg_member, name),
    F(seg_member, pid), F(seg_member, flags), F(seg_member, joined_sec), F(seg_member, mountpoint),
    F(seg_member, parked_stamp), F(seg_member, counter), F(seg_member, thread),
    /* work/ */
    K(WORK_INBOX_CELLS), K(WORK_SHARED_CELLS), K(WORK_SKIPPED), K(WORK_WOKEN),
    S(work_cell), F(work_cell, word), F(work_cell, kind), F(work_cell, from), F(work_cell, key), F(work_cell, arg),
    S(work_queue), F(work_queue, head), F(work_queue, tail), F(work_queue, bell), F(work_queue, cell_count),
    {"work_queue.cell", offsetof(struct work_queue, cell), 0},
    /* lockmgr/ */
    K(LOCK_RECALLING), K(LOCK_WRITING), K(LOCK_GRANTED),
    S(lock_shared), F(lock_shared, owner), F(lock_shared, interest), F(lock_shared, touched), F(lock_shared, owed), F(lock_shared, waiters),
    F(lock_shared, starving), F(lock_shared, publish), F(lock_shared, slipped), F(lock_shared, round), F(lock_shared, event),
    K(LOCK_APP_HELD), K(LOCK_APP_WAITING), K(LOCK_APP_GRANTED), K(LOCK_APP_FLOCK), K(LOCK_APP_WRITE),
    S(lock_app_record), F(lock_app_record, pool), F(lock_app_record, link), F(lock_app_record, state), F(lock_app_record, id),
    F(lock_app_record, first), F(lock_app_record, last), F(lock_app_record, owner), F(lock_app_record, who), F(lock_app_record, pid),
    F(lock_app_record, kind), F(lock_app_record, type), F(lock_app_record, wait_link), F(lock_app_record, waited), F(lock_app_record, file),
    F(lock_app_record, ticket), F(lock_app_record, since_ns),
    S(lock_app_common), F(lock_app_common, pool), F(lock_app_common, ticket), F(lock_app_common, line),
    /* cache/ */
    K(CACHE_PAGE), K(CACHE_CHUNK_PAGES), K(CACHE_DIRECT_PAGES), K(CACHE_NAME_INLINE), K(CACHE_NAME_PART),
    K(CACHE_REF_BYTES), K(CACHE_INTENTS), K(CACHE_FRAME), K(CACHE_CLAIM), K(CACHE_CLAIM_FILL), K(CACHE_CLAIM_WRITE),
    K(CACHE_CLAIM_CLOSE),
    K(CACHE_ATTR_VALID), K(CACHE_UNLINKED), K(CACHE_WRITE_SHARED), K(CACHE_REF_SET), K(CACHE_NAME_NEGATIVE),
    K(CACHE_NAME_UNKNOWN), K(CACHE_KNOWN_DYING), K(CACHE_INTENT_DATA), K(CACHE_INTENT_NAMES),
    S(cache_frame), F(cache_frame, pool), F(cache_frame, checksum),
    S(cache_chunk), F(cache_chunk, pool), F(cache_chunk, inode_id), F(cache_chunk, number), F(cache_chunk, link),
    F(cache_chunk, used), F(cache_chunk, page),
    S(cache_time), F(cache_time, sec), F(cache_time, nsec),
    S(cache_attr), F(cache_attr, ino), F(cache_attr, size_bytes), F(cache_attr, blocks), F(cache_attr, rdev),
    F(cache_attr, mode), F(cache_attr, nlink), F(cache_attr, uid), F(cache_attr, gid), F(cache_attr, blksize),
    F(cache_attr, atime), F(cache_attr, mtime), F(cache_attr, ctime), F(cache_attr, btime),
    S(cache_inode), F(cache_inode, lock), F(cache_inode, pool), F(cache_inode, link), F(cache_inode, flags),
    F(cache_inode, version), F(cache_inode, known), F(cache_inode, parent), F(cache_inode, name), F(cache_inode, used),
    F(cache_inode, chunk_end), F(cache_inode, attr), F(cache_inode, ref), F(cache_inode, direct),
    S(cache_name), F(cache_name, pool), F(cache_name, link), F(cache_name, part), F(cache_name, parent),
    F(cache_name, child), F(cache_name, hash), F(cache_name, length), F(cache_name, pins), F(cache_name, used),
    F(cache_name, bytes),
    S(cache_name_part), F(cache_name_part, pool), F(cache_name_part, head), F(cache_name_part, part),
    F(cache_name_part, parent), F(cache_name_part, bytes),
    S(cache_intent), F(cache_intent, op), F(cache_intent, id), F(cache_intent, first_page), F(cache_intent, page_count),
    S(cache_intents), F(cache_intents, intent),
    S(cache_listing_page), F(cache_listing_page, listing), F(cache_listing_page, page), F(cache_listing_page, page_count),
    F(cache_listing_page, bytes), F(cache_listing_page, first_cookie),
    S(cache_listing_entry), F(cache_listing_entry, ino), F(cache_listing_entry, cookie), F(cache_listing_entry, length),
    F(cache_listing_entry, type), F(cache_listing_entry, name),
};

uint64_t cache_layout_signature(void)
{
    uint64_t sum = SEG_LAYOUT_MINOR;

    for (size_t i = 0; i < sizeof layout / sizeof layout[0]; i++) {
        uint64_t numbers[2] = {layout[i].place, layout[i].size};
        sum = XXH3_64bits_withSeed(layout[i].name, strlen(layout[i].name), sum);
        sum = XXH3_64bits_withSeed(numbers, sizeof numbers, sum);
    }
    return sum;
}
