/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist_inspect.c - looking at a segment from outside: a mapping for reading only, no membership, no lock, nothing made.
 *
 * What is looked at may be in use: every figure is a snapshot of words that move, and may be off by what happens meanwhile. persist_check() says
 * `quiet` when no member lives; only then must nothing be held, claimed or in limbo.
 *
 * Liveness is asked of the kernel (OFD locks), which works through a descriptor for reading too. If we die here nobody notices.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "persist_internal.h"

#define SHM_FOLDER "/dev/shm/hearthfs"

int persist_path_of(const char *spec, char path[PERSIST_PATH_MAX], char err[SEG_ERR_BYTES])
{
    int length;
    if (strncmp(spec, "file:", 5) == 0) {
        length = snprintf(path, PERSIST_PATH_MAX, "%s", spec + 5);
    } else {
        const char *name = strncmp(spec, "shm:", 4) == 0 ? spec + 4 : spec;
        if (!persist_name_ok(name))
            return persist_fail(err, -EINVAL, "\"%.80s\" is no segment's name; name one of /dev/shm/hearthfs, or file:PATH", name);
        length = snprintf(path, PERSIST_PATH_MAX, SHM_FOLDER "/%s", name);
    }
    if (length <= 0 || length >= PERSIST_PATH_MAX)
        return persist_fail(err, -EINVAL, "\"%.80s\": the path is missing or too long", spec);
    return 0;
}

bool persist_path_leads_to(const char *path, const struct seg *seg)
{
    struct stat at, mapped;
    return stat(path, &at) == 0 && fstat(seg_fd(seg), &mapped) == 0 && at.st_dev == mapped.st_dev && at.st_ino == mapped.st_ino;
}

bool persist_someone_lives(const struct seg *seg, char err[SEG_ERR_BYTES])
{
    unsigned                 count = 0;
    const struct seg_member *first = NULL;
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        enum seg_member_state state = seg_member_state(seg, slot, NULL);
        if (state == SEG_FREE || state == SEG_PARKED || (int)slot == seg_self_slot(seg) || seg_member_is_dead(seg, slot))
            continue;
        if (count++ == 0)
            first = seg_member(seg, slot);
    }
    if (count)
        persist_fail(err, 0, "%u member%s running: %.63s, process %u, at %.120s%s", count, count == 1 ? " is" : "s are", first->name,
                     (unsigned)first->pid, first->mountpoint, count > 1 ? ", ..." : "");
    return count > 0;
}

/* ---- open and close ---- */

int persist_inspect_open(const char *spec, struct seg **seg, struct cache **cache, char err[SEG_ERR_BYTES])
{
    char            path[PERSIST_PATH_MAX];
    struct seg_plan plan = {.signature = cache_layout_signature()};

    int rc = persist_path_of(spec, path, err);
    if (rc)
        return rc;
    rc = seg_open(path, &plan, SEG_OPEN_RDONLY, seg, NULL, err);
    if (rc)
        return rc;
    rc = cache_open(*seg, NULL, NULL, cache);
    if (rc) {
        seg_close(*seg);
        return persist_fail(err, rc, "segment %.150s: its sections make no sense: %s", path, strerror(-rc));
    }
    return 0;
}

void persist_inspect_close(struct seg *seg, struct cache *cache)
{
    cache_close(cache);
    seg_close(seg);
}

/* ---- figures ---- */

void persist_frames_count(const struct seg *seg, struct persist_frames *frames)
{
    struct seg_array array = seg_section(seg, SEG_SECTION_FRAMES);
    *frames = (struct persist_frames){0};
    if (!array.base || array.stride != sizeof(struct cache_frame))
        return;
    frames->total = array.count - 1;
    for (uint64_t i = 1; i < array.count; i++) { /* index 0 stands for "none" and is never used */
        const struct cache_frame *frame = seg_elem(&array, i);
        switch (seg_pool_word_state(atomic_load_explicit(&frame->pool, memory_order_relaxed))) {
        case SEG_POOL_FREE:
            frames->free++;
            break;
        case SEG_POOL_LIVE:
            frames->clean++;
            break;
        default:
            frames->busy++;
        }
    }
}

unsigned persist_inbox_depth(const struct seg *seg, unsigned slot)
{
    struct seg_array   array = seg_section(seg, SEG_SECTION_INBOXES);
    struct work_queue *inbox = array.base && array.stride == work_inbox_stride() ? seg_elem(&array, slot) : NULL;
    if (!inbox)
        return 0;
    uint64_t head = atomic_load_explicit(&inbox->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&inbox->tail, memory_order_relaxed);
    if (tail <= head)
        return 0;
    return tail - head > WORK_INBOX_CELLS ? WORK_INBOX_CELLS : (unsigned)(tail - head);
}

int persist_list(int (*fn)(void *arg, const char *name, const char *path), void *arg)
{
    DIR *dir = opendir(SHM_FOLDER);
    if (!dir)
        return errno == ENOENT ? 0 : -errno;
    int            rc = 0;
    struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir))) {
        char path[PERSIST_PATH_MAX];
        if (!persist_name_ok(entry->d_name))
            continue; /* a creation that has no name yet */
        snprintf(path, sizeof path, SHM_FOLDER "/%s", entry->d_name);
        rc = fn(arg, entry->d_name, path);
    }
    closedir(dir);
    return rc;
}

/* ---- check ---- */

struct checking {
    cache_report_fn report;
    void           *arg;
    int             broken;
};

static void broken(struct checking *checking, const char *line)
{
    checking->broken++;
    if (checking->report)
        checking->report(checking->arg, line);
}

static void check_members(const struct seg *seg, struct checking *checking)
{
    char     line[SEG_ERR_BYTES];
    uint64_t bits = atomic_load_explicit(&seg_common(seg)->members_bits, memory_order_acquire);
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        const struct seg_member *member = seg_member(seg, slot);
        uint64_t                 word = atomic_load_explicit(&member->state, memory_order_acquire);
        enum seg_member_state    state = seg_member_state(seg, slot, NULL);
        bool                     at_work = state == SEG_JOINING || state == SEG_ACTIVE;
        if ((word & 0xff) > SEG_PARKED || (word & 0xffffff00)) {
            persist_fail(line, 0, "member slot %u: its state word %#llx makes no sense", slot, (unsigned long long)word);
            broken(checking, line);
        }
        if (state != SEG_FREE && !(word >> 32)) {
            persist_fail(line, 0, "member slot %u: taken, but incarnation 0", slot);
            broken(checking, line);
        }
        if (at_work && !(bits >> slot & 1) && atomic_load_explicit(&member->state, memory_order_acquire) == word) {
            persist_fail(line, 0, "member slot %u: at work, but its bit is not set", slot);
            broken(checking, line);
        }
        if (state != SEG_FREE && (memchr(member->name, 0, sizeof member->name) == NULL ||
                                  memchr(member->mountpoint, 0, sizeof member->mountpoint) == NULL)) {
            persist_fail(line, 0, "member slot %u: its name or mount point is not terminated", slot);
            broken(checking, line);
        }
    }
}

int persist_check(struct seg *seg, struct cache *cache, bool verify, cache_report_fn report, void *arg)
{
    struct checking         checking = {.report = report, .arg = arg};
    char                    line[SEG_ERR_BYTES] = "";
    struct stat             st;
    const struct seg_super *super = seg_super(seg);

    bool quiet = !persist_someone_lives(seg, line);
    if (fstat(seg_fd(seg), &st) != 0)
        return -errno;
    if (seg_super_check(super, (uint64_t)st.st_size, cache_layout_signature(), false, line) != 0)
        broken(&checking, line);
    unsigned permyriad = persist_index_permyriad(seg);
    if (permyriad > 250) {
        persist_fail(line, 0, "the index takes %u.%02u %% of the segment, more than 2.5 %%", permyriad / 100, permyriad % 100);
        broken(&checking, line);
    }
    check_members(seg, &checking);
    if (work_check(seg, line, sizeof line) != 0)
        broken(&checking, line);
    if (lock_app_check(seg, quiet, line, sizeof line) != 0)
        broken(&checking, line);
    int found = cache_check(cache, quiet, verify, report, arg);
    return found < 0 ? found : checking.broken + found;
}
