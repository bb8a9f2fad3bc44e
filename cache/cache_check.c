/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_check.c - walks every invariant of the cache and says in one line each which are broken.
 *
 * Writes nothing, so it works on a mapping that may not be written and by a process that is no member. It takes no lock
 * either: others may go on working, and then what looks broken may be a step that is just being made. So unless the caller
 * says that all is quiet, a finding counts only when it shows again and again, with pauses; these have a budget, so that a
 * segment full of faults does not keep the checker for hours.
 *
 * Invariants, by kind of element (the number in a line of output is its index):
 *   all     state is one of four; PRIVATE and LIMBO name a member at work, and when quiet there are none; what is FREE has its hint;
 *           element 0 is LIVE; a chain leads through elements that are not FREE, and ends
 *   inode   found by its own reference, alone; version not 0, and even unless somebody publishes; flags, hints and lock words make sense;
 *           known by members at work only
 *   chunk   its inode stands and its end is behind it; found by its own key; the words of pages that hang on the inode are empty
 *   word    FRAME leads to a frame; CLAIM is of a member at work, CLOSE only in chunks; when quiet there are no claims
 *   frame   LIVE hangs on as many pages as it has references, FREE on none; its checksum is that of its bytes (`verify`)
 *   name    length and hash are those of its bytes; found by them; child makes sense; when quiet not pinned. A part's name leads to it
 *   intent  op makes sense; only of members at work, and when quiet none
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache_internal.h"

enum { LINE = 256, RETRIES = 8, PAUSE_MS = 2, PAUSES_MAX = 1000, SUSPECTS_MAX = 4096 };

struct suspect {
    uint32_t index;
    uint64_t word;
};
struct check {
    struct cache   *cache;
    bool            quiet, verify;
    cache_report_fn report;
    void           *arg;
    int             broken;
    unsigned        pauses;
    uint64_t        members; /* at work: ACTIVE or JOINING */
    uint8_t        *links;   /* [frames] page words that lead to it, at most 255 */
};

/* Fills line and returns true: broken. */
__attribute__((format(printf, 2, 3))) static bool fault(char line[LINE], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(line, LINE, format, args);
    va_end(args);
    return true;
}

static void members_look(struct check *c)
{
    c->members = 0;
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        enum seg_member_state state = seg_member_state(c->cache->seg, slot, NULL);
        if (state == SEG_ACTIVE || state == SEG_JOINING)
            c->members |= 1ull << slot;
    }
}

/* False: no use in looking once more. */
static bool pause_and_retry(struct check *c)
{
    if (c->quiet || c->pauses >= PAUSES_MAX)
        return false;
    c->pauses++;
    nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000l}, NULL);
    members_look(c);
    return true;
}

static void report(struct check *c, const char *line)
{
    c->broken++;
    if (c->report)
        c->report(c->arg, line);
}

typedef bool (*fault_fn)(struct check *c, uint32_t index, char line[LINE]);

/* Reports when fn finds a fault every time. */
static void one_check(struct check *c, fault_fn fn, uint32_t index)
{
    char line[LINE];

    for (unsigned tries = 0;; tries++) {
        seg_epoch_enter(c->cache->seg);
        bool is_fault = fn(c, index, line);
        seg_epoch_exit(c->cache->seg);
        if (!is_fault)
            return;
        if (tries >= RETRIES || !pause_and_retry(c))
            break;
    }
    report(c, line);
}

/* ---- pool words ---- */

static bool hint_missing(struct check *c, enum seg_section_kind hints, uint32_t index)
{
    struct seg_array  array = seg_section(c->cache->seg, hints);
    _Atomic uint64_t *hint = seg_elem(&array, 0);
    return hint && !(atomic_load_explicit(&hint[index / 64], memory_order_relaxed) >> index % 64 & 1);
}

static bool pool_fault(struct check *c, const char *what, enum seg_section_kind hints, const struct seg_pool *pool, uint32_t index,
                       unsigned *state, char line[LINE])
{
    uint64_t word = seg_pool_load(pool, index);
    unsigned slot = seg_pool_word_slot(word);

    *state = seg_pool_word_state(word);
    if (*state > SEG_POOL_LIMBO)
        return fault(line, "%s %u: state %u makes no sense", what, index, *state);
    if (index == 0)
        return *state == SEG_POOL_LIVE ? false : fault(line, "%s 0 is not reserved", what);
    if (*state == SEG_POOL_FREE)
        return hint_missing(c, hints, index) ? fault(line, "%s %u is free and has no hint: lost", what, index) : false;
    if (*state == SEG_POOL_LIVE)
        return false;
    const char *name = *state == SEG_POOL_PRIVATE ? "private" : "limbo";
    if (c->quiet)
        return fault(line, "%s %u is in state %s of slot %u though nobody is at work", what, index, name, slot);
    if (!cache_member_alive(c->cache, slot, (uint32_t)(word >> 16 & 0xffff), false))
        return fault(line, "%s %u is in state %s of slot %u, which is not at work", what, index, name, slot);
    return false;
}

/* ---- page words ---- */

static bool word_fault(struct check *c, const char *what, uint32_t index, unsigned page, uint64_t w, bool in_chunk, char line[LINE])
{
    uint32_t value = cache_word_value(w);
    unsigned kind = cache_claim_of_kind(value);

    switch (cache_word_tag(w)) {
    case CACHE_EMPTY:
        return value ? fault(line, "%s %u, page word %u: empty, with value %u", what, index, page, value) : false;
    case CACHE_FRAME:
        if (value == 0 || value >= seg_pool_count(c->cache->frames))
            return fault(line, "%s %u, page word %u: frame %u is out of range", what, index, page, value);
        if (seg_pool_word_state(seg_pool_load(c->cache->frames, value)) == SEG_POOL_FREE)
            return fault(line, "%s %u, page word %u: frame %u is free", what, index, page, value);
        return false;
    case CACHE_CLAIM:
        if (kind < CACHE_CLAIM_FILL || kind > (in_chunk ? CACHE_CLAIM_CLOSE : CACHE_CLAIM_WRITE))
            return fault(line, "%s %u, page word %u: claim of kind %u", what, index, page, kind);
        if (c->quiet)
            return fault(line, "%s %u, page word %u: claimed by slot %u though nobody is at work", what, index, page,
                         cache_claim_slot(value));
        if (!cache_claim_alive(c->cache, w, false))
            return fault(line, "%s %u, page word %u: claimed by slot %u, which is not at work", what, index, page,
                         cache_claim_slot(value));
        return false;
    default:
        return fault(line, "%s %u, page word %u: %#llx makes no sense", what, index, page, (unsigned long long)w);
    }
}

/* ---- inodes ---- */

static bool ref_is_at(const void *e, const void *key)
{
    return memcmp(((const struct cache_inode *)e)->ref, key, CACHE_REF_BYTES) == 0;
}

static bool ref_fault(struct check *c, uint32_t index, const struct cache_inode *inode, uint32_t flags, char line[LINE])
{
    if (index == cache_id_index(CACHE_ROOT_ID) && !(flags & CACHE_REF_SET))
        return false;
    uint32_t found = seg_chain_find(&c->cache->inode_chain, cache_ref_hash(inode->ref), ref_is_at, inode->ref);
    if (found == SEG_INDEX_NONE)
        return fault(line, "inode %u cannot be found by its reference", index);
    return found == index ? false : fault(line, "inode %u has the same reference as inode %u", index, found);
}

static bool inode_words_fault(struct check *c, uint32_t index, struct cache_inode *inode, char line[LINE])
{
    char err[LINE - 64] = "";

    if (lock_check(c->cache->seg, &inode->lock, c->quiet, err, sizeof err))
        return fault(line, "inode %u: %s", index, err);
    for (unsigned page = 0; page < CACHE_DIRECT_PAGES; page++)
        if (word_fault(c, "inode", index, page, atomic_load_explicit(&inode->direct[page], memory_order_acquire), false, line))
            return true;
    return false;
}

static bool inode_fault(struct check *c, uint32_t index, char line[LINE])
{
    struct cache_inode *inode = seg_pool_at(c->cache->inodes, index);
    unsigned            state;

    if (pool_fault(c, "inode", SEG_SECTION_INODE_HINTS, c->cache->inodes, index, &state, line))
        return true;
    if (index == cache_id_index(CACHE_ROOT_ID) && state != SEG_POOL_LIVE)
        return fault(line, "inode %u is the root and not live", index);
    if (index == 0 || state != SEG_POOL_LIVE)
        return false;
    uint64_t version = atomic_load_explicit(&inode->version, memory_order_acquire);
    uint32_t flags = atomic_load_explicit(&inode->flags, memory_order_relaxed);
    uint64_t known = atomic_load_explicit(&inode->known, memory_order_relaxed);
    uint32_t name = atomic_load_explicit(&inode->name, memory_order_relaxed);
    uint32_t parent = cache_id_index(atomic_load_explicit(&inode->parent, memory_order_relaxed));
    uint32_t known_flags = CACHE_ATTR_VALID | CACHE_UNLINKED | CACHE_WRITE_SHARED | CACHE_REF_SET;
    if (version < 2)
        return fault(line, "inode %u: version %llu", index, (unsigned long long)version);
    if (version & 1 && (c->quiet || atomic_load_explicit(&inode->lock.publish, memory_order_relaxed) == 0))
        return fault(line, "inode %u: version %llu is odd though nobody publishes", index, (unsigned long long)version);
    if (flags & ~known_flags || (index != cache_id_index(CACHE_ROOT_ID) && flags & CACHE_REF_SET))
        return fault(line, "inode %u: flags %#x", index, flags);
    if (flags & CACHE_ATTR_VALID && __atomic_load_n(&inode->attr.size_bytes, __ATOMIC_RELAXED) > INT64_MAX)
        return fault(line, "inode %u: size %#llx", index, (unsigned long long)inode->attr.size_bytes);
    if (known & ~c->members)
        return fault(line, "inode %u is known by members that are not at work: %#llx", index,
                     (unsigned long long)(known & ~c->members));
    if (parent >= seg_pool_count(c->cache->inodes) || (name != SEG_INDEX_NONE && name >= seg_pool_count(c->cache->names)))
        return fault(line, "inode %u: last seen in inode %u as name %u, out of range", index, parent, name);
    return ref_fault(c, index, inode, flags, line) || inode_words_fault(c, index, inode, line);
}

/* ---- chunks ---- */

static bool chunk_fault(struct check *c, uint32_t index, char line[LINE])
{
    struct cache_chunk *chunk = seg_pool_at(c->cache->chunks, index);
    unsigned            state;

    if (pool_fault(c, "chunk", SEG_SECTION_CHUNK_HINTS, c->cache->chunks, index, &state, line))
        return true;
    if (index == 0 || state != SEG_POOL_LIVE)
        return false;
    uint64_t                  id = __atomic_load_n(&chunk->inode_id, __ATOMIC_RELAXED);
    uint64_t                  number = __atomic_load_n(&chunk->number, __ATOMIC_RELAXED);
    const struct cache_inode *inode = cache_inode_at(c->cache, id);
    if (!inode)
        return fault(line, "chunk %u: its inode %u (generation %u) is gone", index, cache_id_index(id), (uint32_t)(id >> 32));
    if (number >= atomic_load_explicit(&inode->chunk_end, memory_order_relaxed))
        return fault(line, "chunk %u: number %llu is behind the end of inode %u", index, (unsigned long long)number,
                     cache_id_index(id));
    if (!cache_chunk_linked(c->cache, index))
        return fault(line, "chunk %u (inode %u, number %llu) cannot be found", index, cache_id_index(id),
                     (unsigned long long)number);
    for (unsigned page = 0; page < CACHE_CHUNK_PAGES; page++) {
        uint64_t w = atomic_load_explicit(&chunk->page[page], memory_order_acquire);
        if (number == 0 && page < CACHE_DIRECT_PAGES && cache_word_tag(w) == CACHE_FRAME)
            return fault(line, "chunk %u, page word %u: used, though that page hangs on the inode", index, page);
        if (word_fault(c, "chunk", index, page, w, true, line))
            return true;
    }
    return false;
}

/* ---- names ---- */

static bool is_element(const void *e, const void *key)
{
    return e == key;
}

static bool part_fault(struct check *c, uint32_t index, const struct cache_name_part *part, char line[LINE])
{
    const struct cache_name *head = seg_pool_at(c->cache->names, part->head);
    uint32_t                 next = head && head->parent ? head->part : 0;

    for (unsigned i = 0; i < 2 && next; i++) {
        if (next - 1 == index)
            return false;
        const struct cache_name_part *other = seg_pool_at(c->cache->names, next - 1);
        next = other ? other->part : 0;
    }
    return fault(line, "name %u is a part of name %u, which does not lead to it", index, part->head);
}

static bool name_fault(struct check *c, uint32_t index, char line[LINE])
{
    struct cache_name *record = seg_pool_at(c->cache->names, index);
    unsigned           state;
    char               name[256];

    if (pool_fault(c, "name", SEG_SECTION_NAME_HINTS, c->cache->names, index, &state, line))
        return true;
    if (index == 0 || state != SEG_POOL_LIVE)
        return false;
    uint64_t dir = __atomic_load_n(&record->parent, __ATOMIC_RELAXED);
    if (dir == 0)
        return part_fault(c, index, (const struct cache_name_part *)record, line);
    uint64_t child = atomic_load_explicit(&record->child, memory_order_relaxed);
    uint32_t pins = atomic_load_explicit(&record->pins, memory_order_relaxed);
    int      length = cache_name_bytes(c->cache, record, name);
    if (length < 0)
        return fault(line, "name %u: length %u, or its parts, make no sense", index, record->length);
    if (memchr(name, 0, (size_t)length) || memchr(name, '/', (size_t)length))
        return fault(line, "name %u: no name of a file", index);
    if (cache_id_index(dir) == 0 || cache_id_index(dir) >= seg_pool_count(c->cache->inodes))
        return fault(line, "name %u: its directory %#llx is out of range", index, (unsigned long long)dir);
    if (record->hash != cache_name_hash(dir, name, (size_t)length))
        return fault(line, "name %u: its hash is not that of its bytes", index);
    if (seg_chain_find(&c->cache->name_chain, record->hash, is_element, record) != index)
        return fault(line, "name %u (%.64s) cannot be found", index, name);
    if (child != CACHE_NAME_NEGATIVE && child != CACHE_NAME_UNKNOWN &&
        (cache_id_index(child) == 0 || cache_id_index(child) >= seg_pool_count(c->cache->inodes)))
        return fault(line, "name %u: its node %#llx is out of range", index, (unsigned long long)child);
    if (c->quiet && pins)
        return fault(line, "name %u is pinned %u times though nobody is at work", index, pins);
    return false;
}

/* ---- frames ---- */

static bool frame_fault(struct check *c, uint32_t index, char line[LINE])
{
    struct cache_frame *frame = seg_pool_at(c->cache->frames, index);
    unsigned            state;

    if (pool_fault(c, "frame", SEG_SECTION_FRAME_HINTS, c->cache->frames, index, &state, line))
        return true;
    if (index == 0 || state != SEG_POOL_LIVE || !c->verify)
        return false;
    uint64_t sum = cache_frame_sum(cache_frame_data(c->cache, index));
    return sum == atomic_load_explicit(&frame->checksum, memory_order_relaxed) ? false
                                                                              : fault(line, "frame %u: wrong checksum", index);
}

static void links_count(struct check *c, _Atomic uint64_t *word, unsigned words)
{
    for (unsigned i = 0; i < words; i++) {
        uint64_t w = atomic_load_explicit(&word[i], memory_order_acquire);
        uint32_t frame = cache_word_value(w);
        if (cache_word_tag(w) == CACHE_FRAME && frame < seg_pool_count(c->cache->frames) && c->links[frame] < UINT8_MAX)
            c->links[frame]++;
    }
}

static void links_recount(struct check *c)
{
    const struct cache *cache = c->cache;

    memset(c->links, 0, seg_pool_count(cache->frames));
    for (uint32_t i = 1; i < seg_pool_count(cache->inodes); i++)
        if (seg_pool_word_state(seg_pool_load(cache->inodes, i)) != SEG_POOL_FREE)
            links_count(c, ((struct cache_inode *)seg_pool_at(cache->inodes, i))->direct, CACHE_DIRECT_PAGES);
    for (uint32_t i = 1; i < seg_pool_count(cache->chunks); i++)
        if (seg_pool_word_state(seg_pool_load(cache->chunks, i)) != SEG_POOL_FREE)
            links_count(c, ((struct cache_chunk *)seg_pool_at(cache->chunks, i))->page, CACHE_CHUNK_PAGES);
}

static bool links_fault(const struct check *c, uint32_t frame, uint64_t word, char line[LINE])
{
    uint32_t references = seg_pool_word_aux(word);
    if (seg_pool_word_state(word) == SEG_POOL_LIVE && (!references || c->links[frame] != references))
        return fault(line, "frame %u is live, has %u references and hangs on %u pages", frame, references, c->links[frame]);
    if (seg_pool_word_state(word) == SEG_POOL_FREE && c->links[frame])
        return fault(line, "frame %u is free and hangs on %u pages", frame, c->links[frame]);
    return false;
}

/* A suspect is acquitted when its word moves, or when it is in order in any later count. */
static void links_check(struct check *c, struct suspect *suspect)
{
    struct cache *cache = c->cache;
    uint32_t      count = 0;
    char          line[LINE];

    links_recount(c);
    for (uint32_t i = 1; i < seg_pool_count(cache->frames) && count < SUSPECTS_MAX; i++) {
        uint64_t word = seg_pool_load(cache->frames, i);
        if (links_fault(c, i, word, line))
            suspect[count++] = (struct suspect){i, word};
    }
    for (unsigned tries = 0; count && tries < RETRIES && pause_and_retry(c); tries++) {
        uint32_t left = 0;
        links_recount(c);
        for (uint32_t i = 0; i < count; i++)
            if (seg_pool_load(cache->frames, suspect[i].index) == suspect[i].word &&
                links_fault(c, suspect[i].index, suspect[i].word, line))
                suspect[left++] = suspect[i];
        count = left;
    }
    for (uint32_t i = 0; i < count; i++)
        if (links_fault(c, suspect[i].index, suspect[i].word, line))
            report(c, line);
}

/* ---- chains and intents ---- */

struct chain_look {
    const struct seg_pool *pool;
    uint32_t               bad; /* an element that is linked and free */
};

static int chain_element(void *arg, uint64_t bucket, uint32_t index)
{
    struct chain_look *look = arg;
    (void)bucket;
    if (seg_pool_word_state(seg_pool_load(look->pool, index)) == SEG_POOL_FREE)
        look->bad = index;
    return 0;
}

static bool chain_fault(struct check *c, uint32_t index, char line[LINE])
{
    struct {
        const char             *name;
        const struct seg_chain *chain;
    } chains[] = {{"inode", &c->cache->inode_chain}, {"chunk", &c->cache->chunk_chain}, {"name", &c->cache->name_chain}};
    struct chain_look look = {.pool = chains[index].chain->pool, .bad = SEG_INDEX_NONE};

    if (seg_chain_walk(chains[index].chain, chain_element, &look))
        return fault(line, "a chain of %ss is a ring or leads out of range", chains[index].name);
    return look.bad == SEG_INDEX_NONE ? false : fault(line, "%s %u is free and still in a chain", chains[index].name, look.bad);
}

static bool intent_fault(struct check *c, uint32_t index, char line[LINE])
{
    unsigned                    slot = index / CACHE_INTENTS, n = index % CACHE_INTENTS;
    const struct cache_intents *page = seg_elem(&c->cache->intents, slot);
    uint64_t                    op = atomic_load_explicit(&page->intent[n].op, memory_order_acquire);

    if (op == CACHE_INTENT_NONE)
        return false;
    if (op > CACHE_INTENT_NAMES)
        return fault(line, "intent %u of slot %u: %llu makes no sense", n, slot, (unsigned long long)op);
    if (c->quiet || !(c->members >> slot & 1))
        return fault(line, "intent %u of slot %u stands though that member is not at work", n, slot);
    return false;
}

/* ---- all of it ---- */

static void all_check(struct check *c, fault_fn fn, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        one_check(c, fn, i);
}

int cache_check(struct cache *cache, bool quiet, bool verify, cache_report_fn report_fn, void *arg)
{
    struct check    c = {.cache = cache, .quiet = quiet, .verify = verify, .report = report_fn, .arg = arg};
    struct suspect *suspect = calloc(SUSPECTS_MAX, sizeof *suspect);

    c.links = calloc(seg_pool_count(cache->frames), 1);
    if (!suspect || !c.links) {
        free(suspect);
        free(c.links);
        return -ENOMEM;
    }
    members_look(&c);
    all_check(&c, chain_fault, 3);
    all_check(&c, inode_fault, seg_pool_count(cache->inodes));
    all_check(&c, chunk_fault, seg_pool_count(cache->chunks));
    all_check(&c, name_fault, seg_pool_count(cache->names));
    all_check(&c, frame_fault, seg_pool_count(cache->frames));
    all_check(&c, intent_fault, SEG_MEMBERS_MAX * CACHE_INTENTS);
    links_check(&c, suspect);
    free(suspect);
    free(c.links);
    return c.broken;
}
