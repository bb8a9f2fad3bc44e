/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_super.c - the superblock: laying out a new one, judging one that was found.
 *
 * seg_super_check() decides alone whether bytes are a segment that this program may map. It works on any copy
 * (seg_map.c gives it one that it read before mapping), trusts no field before the checks it depends on, and says
 * what is wrong in words that stand behind "segment PATH: ". Order of the checks:
 *
 *   magic and byte order   are these our bytes at all, and readable here
 *   version                before the checksum: another version may cover other bytes
 *   checksum               XXH3-64 of bytes [16, 4096): everything but magic and checksum
 *   size                   is the object as long as it was made
 *   signature              same structs in all folders
 *   section table          each inside, aligned, no overlap, no kind twice, the member table as this version has it
 *
 * A plan is judged by the same function: seg_super_plan() fills a superblock, seg_super_seal() closes it, and the
 * creator checks its own work before anyone can see it. The page is constant after the magic is stored; nobody dies
 * here with a lock.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include <xxhash.h>

#include "seg_internal.h"

enum { CHECKSUM_FROM = 16, SECTION_ALIGN_MIN = 64 };
static_assert(offsetof(struct seg_super, byte_order) == CHECKSUM_FROM, "layout v1");

static uint64_t super_checksum(const struct seg_super *super)
{
    return XXH3_64bits((const unsigned char *)super + CHECKSUM_FROM, sizeof *super - CHECKSUM_FROM);
}

static bool is_power_of_two(uint64_t n)
{
    return n && !(n & (n - 1));
}

/* End of a section, or false when the figures overflow. */
static bool section_end(const struct seg_section *section, uint64_t *end)
{
    uint64_t size;
    return !__builtin_mul_overflow(section->stride, section->count, &size) &&
           !__builtin_add_overflow(section->off, size, end);
}

static int section_check(const struct seg_super *super, uint32_t index, char *err)
{
    const struct seg_section *section = &super->section[index];
    uint64_t                  end, other_end;

    if (section->kind == SEG_SECTION_NONE || section->kind >= SEG_SECTION_KINDS)
        return seg_fail(err, -EBADMSG, "section %u is of the unknown kind %u", index, section->kind);
    if (!is_power_of_two(section->align) || section->align < SECTION_ALIGN_MIN || section->off % section->align)
        return seg_fail(err, -EBADMSG, "section %u (kind %u) is not aligned", index, section->kind);
    if (!section->stride || !section->count || !section_end(section, &end) || section->off < 2 * SEG_PAGE ||
        end > super->size_bytes)
        return seg_fail(err, -EBADMSG, "section %u (kind %u) lies outside", index, section->kind);
    if (section->kind == SEG_SECTION_MEMBERS &&
        (section->stride != sizeof(struct seg_member) || section->count != SEG_MEMBERS_MAX))
        return seg_fail(err, -EBADMSG, "the member table has the wrong shape");

    for (uint32_t i = 0; i < index; i++) { /* those before were checked */
        const struct seg_section *other = &super->section[i];
        if (other->kind == section->kind)
            return seg_fail(err, -EBADMSG, "sections %u and %u are of the same kind %u", i, index, section->kind);
        if (section_end(other, &other_end) && section->off < other_end && other->off < end)
            return seg_fail(err, -EBADMSG, "sections %u and %u overlap", i, index);
    }
    return 0;
}

static int sections_check(const struct seg_super *super, char *err)
{
    bool has_members = false;

    if (super->section_count > SEG_SECTIONS_MAX)
        return seg_fail(err, -EBADMSG, "%u sections, at most %d are possible", super->section_count, SEG_SECTIONS_MAX);
    for (uint32_t i = 0; i < super->section_count; i++) {
        int rc = section_check(super, i, err);
        if (rc)
            return rc;
        has_members |= super->section[i].kind == SEG_SECTION_MEMBERS;
    }
    if (!has_members)
        return seg_fail(err, -EBADMSG, "the member table is missing");
    return 0;
}

int seg_super_check(const struct seg_super *super, uint64_t file_size, uint64_t signature, bool any_signature,
                    char err[SEG_ERR_BYTES])
{
    /* acquire: pairs with the store of the magic in seg_map.c (label: MAGIC) where both map the object */
    uint64_t magic = atomic_load_explicit(&super->magic, memory_order_acquire);

    if (magic == __builtin_bswap64(SEG_MAGIC))
        return seg_fail(err, -EPROTO, "made on a machine of the other byte order");
    if (magic != SEG_MAGIC)
        return seg_fail(err, -EBADMSG, "not a hearthfs segment");
    if (file_size < sizeof *super)
        return seg_fail(err, -EBADMSG, "truncated to %" PRIu64 " bytes", file_size);
    if (super->byte_order != SEG_BYTE_ORDER)
        return seg_fail(err, super->byte_order == __builtin_bswap64(SEG_BYTE_ORDER) ? -EPROTO : -EBADMSG,
                        "the byte-order mark does not read as this machine's");
    if (super->major != SEG_LAYOUT_MAJOR || super->minor > SEG_LAYOUT_MINOR)
        return seg_fail(err, -EPROTO, "layout %u.%u, this program knows %d.%d", super->major, super->minor,
                        SEG_LAYOUT_MAJOR, SEG_LAYOUT_MINOR);
    if (super->checksum != super_checksum(super))
        return seg_fail(err, -EBADMSG, "bad checksum of the superblock");
    if (super->size_bytes > file_size)
        return seg_fail(err, -EBADMSG, "truncated: %" PRIu64 " of %" PRIu64 " bytes are there", file_size,
                        super->size_bytes);
    if (super->size_bytes % SEG_PAGE || super->size_bytes < 2 * SEG_PAGE)
        return seg_fail(err, -EBADMSG, "impossible size of %" PRIu64 " bytes", super->size_bytes);
    if (!any_signature && super->signature != signature)
        return seg_fail(err, -EPROTO,
                        "structs of another build (signature %016" PRIx64 ", this program has %016" PRIx64 ")",
                        super->signature, signature);
    return sections_check(super, err);
}

static int plan_section(const struct seg_plan_section *from, uint64_t *off, struct seg_section *to, char *err)
{
    uint64_t end;

    if (!is_power_of_two(from->align) || from->align < SECTION_ALIGN_MIN || !from->stride || !from->count)
        return seg_fail(err, -EINVAL, "the plan's section of kind %u has a bad shape", from->kind);
    *to = (struct seg_section){.kind = from->kind, .align = from->align, .stride = from->stride, .count = from->count};
    if (__builtin_add_overflow(*off, from->align - 1ull, &to->off))
        return seg_fail(err, -EINVAL, "the plan is too large");
    to->off &= ~(from->align - 1ull);
    if (!section_end(to, &end))
        return seg_fail(err, -EINVAL, "the plan is too large");
    *off = end;
    return 0;
}

int seg_super_plan(const struct seg_plan *plan, struct seg_super *super, char err[SEG_ERR_BYTES])
{
    uint64_t off = 2 * SEG_PAGE, needed;
    int      rc;

    if (plan->section_count > SEG_SECTIONS_MAX)
        return seg_fail(err, -EINVAL, "the plan has %u sections, at most %d are possible", plan->section_count,
                        SEG_SECTIONS_MAX);
    memset(super, 0, sizeof *super);
    for (uint32_t i = 0; i < plan->section_count; i++) {
        rc = plan_section(&plan->section[i], &off, &super->section[i], err);
        if (rc)
            return rc;
    }
    if (__builtin_add_overflow(off, SEG_PAGE - 1ull, &needed))
        return seg_fail(err, -EINVAL, "the plan is too large");
    needed &= ~(SEG_PAGE - 1ull);
    if (plan->size_bytes < needed)
        return seg_fail(err, -EINVAL,
                        "a size of %" PRIu64 " bytes is too small, at least %" PRIu64 " bytes (%" PRIu64
                        " MiB) are needed; raise -o size",
                        plan->size_bytes, needed, (needed + (1u << 20) - 1) >> 20);
    if (plan->size_bytes % SEG_PAGE)
        return seg_fail(err, -EINVAL, "a size of %" PRIu64 " bytes is not a multiple of %d", plan->size_bytes,
                        SEG_PAGE);

    super->byte_order = SEG_BYTE_ORDER;
    super->major = SEG_LAYOUT_MAJOR;
    super->minor = SEG_LAYOUT_MINOR;
    super->signature = plan->signature;
    super->size_bytes = plan->size_bytes;
    super->generation = 1;
    super->created_sec = (uint64_t)time(NULL);
    memcpy(super->name, plan->name, sizeof super->name);
    super->name[sizeof super->name - 1] = 0;
    memcpy(super->origin_id, plan->origin_id, sizeof super->origin_id);
    super->section_count = plan->section_count;
    return 0;
}

void seg_super_seal(struct seg_super *super)
{
    super->checksum = super_checksum(super);
    atomic_store_explicit(&super->magic, SEG_MAGIC, memory_order_relaxed); /* a private copy: no label */
}
