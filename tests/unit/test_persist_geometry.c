/* SPDX-License-Identifier: Apache-2.0 */
/* Goal:   for every size from 16 MiB to 64 GiB the index takes at most 2.5 %, and nothing is wasted.
 * Method: plans over many sizes, added up here independently; one real segment measured by persist_index_permyriad(). */
#include "persist_fixture.h"

#define MIB (1ull << 20)

TestSuite(persist_geometry, .init = place_begin, .fini = place_end, .timeout = 30);

static bool is_index(uint32_t kind)
{
    return kind >= SEG_SECTION_INODES && kind <= SEG_SECTION_FRAME_HINTS;
}

static const struct seg_plan_section *section_of(const struct seg_plan *plan, uint32_t kind)
{
    for (uint32_t i = 0; i < plan->section_count; i++)
        if (plan->section[i].kind == kind)
            return &plan->section[i];
    return NULL;
}

static void plan_judge(uint64_t size)
{
    static const uint8_t no_id[64];
    struct seg_plan      plan;
    char                 err[SEG_ERR_BYTES];
    uint64_t             end = 2 * SEG_PAGE, index = 0;

    cr_assert_eq(persist_plan(size, "tree", no_id, &plan, err), 0, "%s", err);
    cr_expect_leq(plan.size_bytes, size);
    cr_expect_eq(plan.size_bytes, size / SEG_PAGE * SEG_PAGE);
    for (uint32_t i = 0; i < plan.section_count; i++) {
        const struct seg_plan_section *s = &plan.section[i];
        cr_expect(s->count > 0 && s->align >= 64 && !(s->align & (s->align - 1)));
        end = (end + s->align - 1) / s->align * s->align + s->stride * s->count;
        index += is_index(s->kind) ? s->stride * s->count : 0;
    }
    cr_expect_leq(end, plan.size_bytes, "size %llu: the sections end at %llu", (unsigned long long)size, (unsigned long long)end);
    cr_expect_leq(index * 1000, plan.size_bytes * 25, "size %llu: index %llu bytes", (unsigned long long)size, (unsigned long long)index);

    uint64_t frames = section_of(&plan, SEG_SECTION_DATA)->count;
    cr_expect_eq(section_of(&plan, SEG_SECTION_FRAMES)->count, frames);
    cr_expect_geq(section_of(&plan, SEG_SECTION_INODES)->count, frames / 10);
    cr_expect_geq(section_of(&plan, SEG_SECTION_NAMES)->count, frames / 8);
    cr_expect_geq(section_of(&plan, SEG_SECTION_CHUNKS)->count, frames / 9);
    cr_expect_geq(section_of(&plan, SEG_SECTION_FRAME_HINTS)->count * 64, frames);
    /* buckets may double where one frame more would have fitted: what is left over stays below that step */
    uint64_t locks = section_of(&plan, SEG_SECTION_APP_LOCKS)->count;
    cr_expect(locks == 65536 || locks >= frames / 4);
    uint64_t own = 64 * 12288ull + 64 * 4096 * 2 + 32768 + 12 * 4096 + locks * 128;
    cr_expect_geq(frames * CACHE_PAGE * 1000, (plan.size_bytes - own) * 974, "size %llu: only %llu frames", (unsigned long long)size,
                  (unsigned long long)frames);
}

Test(persist_geometry, index_is_small_for_every_size)
{
    for (uint64_t size = 16 * MIB; size <= 65536 * MIB; size += size / 7 + 12345)
        plan_judge(size);
    for (uint64_t size = 16 * MIB; size <= 65536 * MIB; size *= 2)
        plan_judge(size);
}

Test(persist_geometry, every_kind_once)
{
    static const uint8_t no_id[64];
    struct seg_plan      plan;
    char                 err[SEG_ERR_BYTES];
    cr_assert_eq(persist_plan(64 * MIB, "tree", no_id, &plan, err), 0);
    cr_expect_eq(plan.section_count, SEG_SECTION_KINDS - 1);
    for (uint32_t kind = 1; kind < SEG_SECTION_KINDS; kind++)
        cr_expect_not_null(section_of(&plan, kind), "kind %u is missing", kind);
    cr_expect_eq(plan.signature, cache_layout_signature());
    cr_expect_str_eq(plan.name, "tree");
}

Test(persist_geometry, bad_sizes_are_refused_with_a_line)
{
    static const uint8_t  no_id[64];
    static const uint64_t sizes[] = {0, 1, 4096, 16 * MIB - 1, 1ull << 40, UINT64_MAX};
    struct seg_plan       plan;
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char err[SEG_ERR_BYTES] = "";
        cr_expect_eq(persist_plan(sizes[i], "tree", no_id, &plan, err), -EINVAL);
        cr_expect(strlen(err) > 20 && !strchr(err, '\n'), "%s", err);
    }
}

Test(persist_geometry, a_real_segment_measures_the_same)
{
    struct persist_session session;
    session_open(&session, "a");
    cr_expect_leq(persist_index_permyriad(session.seg), 250);
    cr_expect_geq(persist_index_permyriad(session.seg), 150);
    persist_session_close(&session);
}

Test(persist_geometry, default_size_is_possible)
{
    static const uint8_t no_id[64];
    struct seg_plan      plan;
    char                 err[SEG_ERR_BYTES];
    uint64_t             size = persist_default_size();
    cr_expect_leq(size, 4096 * MIB);
    cr_expect_eq(persist_plan(size, "tree", no_id, &plan, err), 0, "%s", err);
}
