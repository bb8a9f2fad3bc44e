/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_locks.c - hearthfs locks: who holds and who waits for locks of applications, and who waits in a circle.
 *
 * A snapshot taken without a lock, sorted by age. A circle is looked for among owners and processes: an edge leads from each waiter to whoever holds what it wants. Record locks cannot
 * stay in one (EDEADLK), OFD locks and flock(2) can.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <json-c/json.h>

#include "cli.h"
#include "lock_app.h"

enum { PATH_DEPTH_MAX = 256 };

struct table {
    struct seg             *seg;
    struct cache           *cache;
    struct lock_app_record *lock;
    size_t                  count, room;
    size_t                 *circle; /* a list of positions, each of which waits for the next, and the last for the first */
    size_t                  circle_count;
};

static int table_add(void *arg, const struct lock_app_record *record)
{
    struct table *table = arg;
    if (table->count == table->room) {
        size_t                  room = table->room ? table->room * 2 : 64;
        struct lock_app_record *more = aligned_alloc(64, room * sizeof *more);
        if (!more)
            return -1;
        if (table->count)
            memcpy(more, table->lock, table->count * sizeof *more);
        free(table->lock);
        table->lock = more;
        table->room = room;
    }
    table->lock[table->count++] = *record;
    return 0;
}

static int by_age(const void *a, const void *b)
{
    const struct lock_app_record *one = a, *other = b;
    if (one->since_ns != other->since_ns)
        return one->since_ns < other->since_ns ? -1 : 1;
    return one->ticket < other->ticket ? -1 : one->ticket > other->ticket;
}

static bool waits(const struct lock_app_record *lock)
{
    return atomic_load(&lock->state) == LOCK_APP_WAITING;
}

/* An open file owns a flock, but it is the process that waits. */
static bool same_owner(const struct lock_app_record *a, const struct lock_app_record *b)
{
    return a->who == b->who && (a->owner == b->owner || (a->pid && a->pid == b->pid));
}

/* ---- circles ---- */

/* Depth first from waiter `at`; path holds the waiters on the way. */
static bool circle_from(struct table *table, size_t at, size_t *path, size_t depth, bool *seen)
{
    path[depth] = at;
    seen[at] = true;
    for (size_t h = 0; h < table->count; h++) {
        if (!lock_app_blocks(&table->lock[at], &table->lock[h]))
            continue;
        for (size_t i = 0; i <= depth; i++) {
            if (same_owner(&table->lock[path[i]], &table->lock[h])) { /* back to one on the way */
                table->circle_count = depth + 1 - i;
                memcpy(table->circle, path + i, table->circle_count * sizeof *path);
                return true;
            }
        }
        for (size_t w = 0; w < table->count; w++)
            if (!seen[w] && waits(&table->lock[w]) && same_owner(&table->lock[w], &table->lock[h]) &&
                circle_from(table, w, path, depth + 1, seen))
                return true;
    }
    return false;
}

static int circle_find(struct table *table)
{
    size_t *path = calloc(table->count + 1, sizeof *path);
    bool   *seen = calloc(table->count + 1, sizeof *seen);
    table->circle = calloc(table->count + 1, sizeof *table->circle);
    int rc = path && seen && table->circle ? 0 : -1;
    for (size_t w = 0; rc == 0 && w < table->count && !table->circle_count; w++)
        if (waits(&table->lock[w]) && !seen[w])
            circle_from(table, w, path, 0, seen);
    free(path);
    free(seen);
    return rc;
}

/* ---- words ---- */

/* The path of a node as far as the cache knows names; else "node N". */
static void path_of(const struct table *table, uint64_t id, char path[CLI_PATH_MAX])
{
    char   text[CLI_PATH_MAX], name[256];
    size_t at = sizeof text - 1, length;
    text[at] = 0;
    uint64_t node = id;
    for (unsigned depth = 0; node != CACHE_ROOT_ID; depth++) {
        uint64_t dir;
        if (depth == PATH_DEPTH_MAX || cache_name_of(table->cache, node, &dir, name, &length) != 0 || length + 1 > at) {
            snprintf(path, CLI_PATH_MAX, "node %" PRIu64, id & UINT32_MAX);
            return;
        }
        at -= length;
        memcpy(text + at, name, length);
        text[--at] = '/';
        node = dir;
    }
    cli_text_copy(path, text[at] ? text + at : "/", CLI_PATH_MAX);
}

static void member_of(const struct table *table, const struct lock_app_record *lock, char name[SEG_NAME_MAX])
{
    const struct seg_member *member = seg_member(table->seg, seg_who_slot(lock->who));
    cli_text_copy(name, member ? member->name : "?", SEG_NAME_MAX);
}

static double seconds_of(const struct lock_app_record *lock)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double seconds = (double)now.tv_sec - (double)lock->since_ns / 1e9 + (double)now.tv_nsec / 1e9;
    return seconds > 0 ? seconds : 0;
}

static const char *kind_said(const struct lock_app_record *lock)
{
    return lock->kind == LOCK_APP_FLOCK ? "flock" : "record";
}

static const char *type_said(const struct lock_app_record *lock)
{
    return lock->type == LOCK_APP_WRITE ? "write" : "read";
}

static bool is_to_end(const struct lock_app_record *lock)
{
    return lock->last >= INT64_MAX;
}

/* ---- output ---- */

static struct json_object *lock_json(const struct table *table, size_t n)
{
    const struct lock_app_record *lock = &table->lock[n];
    struct json_object           *object = json_object_new_object(), *blockers = json_object_new_array();
    char                          path[CLI_PATH_MAX], member[SEG_NAME_MAX], owner[20];

    path_of(table, lock->id, path);
    member_of(table, lock, member);
    snprintf(owner, sizeof owner, "%016" PRIx64, lock->owner);
    json_object_object_add(object, "path", json_object_new_string(path));
    json_object_object_add(object, "node", json_object_new_uint64(lock->id));
    json_object_object_add(object, "state", json_object_new_string(waits(lock) ? "waiting" : "held"));
    json_object_object_add(object, "kind", json_object_new_string(kind_said(lock)));
    json_object_object_add(object, "type", json_object_new_string(type_said(lock)));
    json_object_object_add(object, "first", json_object_new_uint64(lock->first));
    json_object_object_add(object, "last", is_to_end(lock) ? NULL : json_object_new_uint64(lock->last));
    json_object_object_add(object, "member", json_object_new_string(member));
    json_object_object_add(object, "slot", json_object_new_int((int)seg_who_slot(lock->who)));
    json_object_object_add(object, "pid", json_object_new_int64(lock->pid));
    json_object_object_add(object, "owner", json_object_new_string(owner));
    json_object_object_add(object, "since", json_object_new_double((double)lock->since_ns / 1e9));
    json_object_object_add(object, "seconds", json_object_new_double(seconds_of(lock)));
    for (size_t h = 0; waits(lock) && h < table->count; h++)
        if (lock_app_blocks(lock, &table->lock[h]))
            json_object_array_add(blockers, json_object_new_int64((int64_t)h));
    json_object_object_add(object, "waits_for", blockers);
    return object;
}

static int print_json(const struct table *table)
{
    struct json_object *object = json_object_new_object(), *locks = json_object_new_array(), *circle = json_object_new_array();
    for (size_t n = 0; n < table->count; n++)
        json_object_array_add(locks, lock_json(table, n));
    for (size_t i = 0; i < table->circle_count; i++)
        json_object_array_add(circle, json_object_new_int64((int64_t)table->circle[i]));
    json_object_object_add(object, "locks", locks);
    json_object_object_add(object, "circle", circle);
    return cli_json_print(object);
}

static void print_text(const struct table *table)
{
    char path[CLI_PATH_MAX], member[SEG_NAME_MAX], range[48];
    if (!table->count) {
        puts("no locks are held");
        return;
    }
    printf("%4s  %-7s  %9s  %-6s  %-5s  %-24s  %-16s  %8s  %s\n", "no.", "state", "seconds", "kind", "type", "bytes", "member", "process",
           "file");
    for (size_t n = 0; n < table->count; n++) {
        const struct lock_app_record *lock = &table->lock[n];
        path_of(table, lock->id, path);
        member_of(table, lock, member);
        if (lock->first == 0 && is_to_end(lock))
            snprintf(range, sizeof range, "all");
        else if (is_to_end(lock))
            snprintf(range, sizeof range, "%" PRIu64 " to the end", lock->first);
        else
            snprintf(range, sizeof range, "%" PRIu64 "-%" PRIu64, lock->first, lock->last);
        printf("%4zu  %-7s  %9.3f  %-6s  %-5s  %-24s  %-16s  %8" PRIu32 "  %s", n, waits(lock) ? "waiting" : "held", seconds_of(lock), kind_said(lock),
               type_said(lock), range, member, lock->pid, path);
        const char *comma = waits(lock) ? "  (waits for " : NULL;
        for (size_t h = 0; comma && h < table->count; h++) {
            if (lock_app_blocks(lock, &table->lock[h])) {
                printf("%s%zu", comma, h);
                comma = ", ";
            }
        }
        puts(waits(lock) ? comma[0] == ',' ? ")" : "  (its turn)" : "");
    }
    if (table->circle_count) {
        fputs("circle: ", stdout);
        for (size_t i = 0; i < table->circle_count; i++)
            printf("%zu waits for the owner of %zu%s", table->circle[i], table->circle[(i + 1) % table->circle_count],
                   i + 1 < table->circle_count ? ", " : "; none of them can go on: end one of these processes\n");
    }
}

int cli_locks(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {.name = "json", .key = 'j', .doc = "One JSON object, for programs; fields are added, never renamed"},
        {0},
    };
    static const struct argp argp = {
        .options = options, .parser = cli_args_option, .args_doc = "[NAME]",
        .doc = "Show the locks of applications (fcntl, OFD, flock) of all members: who holds, who waits and for whom, the oldest first, and any circle of waiters.\v"
               "\"record\" is a lock by fcntl(2), of a process or (OFD) of an open file. Seconds: since it was asked for. Processes are numbered as on their own machine.\n"
               "\n"
               "Example: hearthfs locks tree --json | jq '.locks[] | select(.state == \"waiting\")'",
    };
    struct cli_args args = {0};
    struct table    table = {0};
    char            spec[CLI_PATH_MAX], err[SEG_ERR_BYTES];
    int             code = cli_args_parse(&argp, argc, argv, &args);
    if (!code)
        code = cli_segment_choose(&args, "locks", spec);
    if (code)
        return code;
    if (persist_inspect_open(spec, &table.seg, &table.cache, err) != 0)
        return cli_error(CLI_FAILED, "locks: %s", err);
    if (lock_app_list(table.seg, table_add, &table) != 0)
        code = cli_error(CLI_FAILED, "locks: the segment's locks cannot be read");
    if (!code && table.count)
        qsort(table.lock, table.count, sizeof *table.lock, by_age);
    if (!code && circle_find(&table) != 0)
        code = cli_error(CLI_FAILED, "out of memory");
    if (!code && args.json)
        code = print_json(&table);
    else if (!code)
        print_text(&table);
    persist_inspect_close(table.seg, table.cache);
    free(table.lock);
    free(table.circle);
    return code;
}
