/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_look.c - the figures of one segment, as JSON for programs and as tables for people.
 *
 * Fields of the JSON are added, never renamed (docs of `hearthfs status`). Texts that come out of the segment are a peer's word: bounded, and what is not printable
 * UTF-8 becomes '?'.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <json-c/json.h>

#include "cli.h"
#include "seg_counter.h"

enum { UUID_TEXT = 37 };

static void uuid_text(const uint8_t uuid[16], char text[UUID_TEXT])
{
    size_t used = 0;
    for (unsigned i = 0; i < 16; i++)
        used += (size_t)sprintf(text + used, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

/* Bytes of the UTF-8 sequence that begins at `c`, or 0 when it is none. */
static unsigned utf8_length(const unsigned char *c, size_t left)
{
    unsigned length = *c < 0x80 ? 1 : *c >= 0xc2 && *c < 0xe0 ? 2 : *c >= 0xe0 && *c < 0xf0 ? 3 : *c >= 0xf0 && *c < 0xf5 ? 4 : 0;
    if (!length || length > left || *c < 0x20 || *c == 0x7f)
        return 0;
    for (unsigned i = 1; i < length; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

void cli_text_copy(char *to, const char *from, size_t size)
{
    size_t length = strnlen(from, size - 1);
    memcpy(to, from, length);
    to[length] = 0;
    for (size_t i = 0; i < length;) {
        unsigned step = utf8_length((unsigned char *)to + i, length - i);
        if (!step)
            to[i] = '?';
        i += step ? step : 1;
    }
}

/* ---- members ---- */

struct look {
    char        name[SEG_NAME_MAX], mountpoint[256], uuid[UUID_TEXT];
    const char *state;
    uint32_t    incarnation, pid;
    const char *watch; /* fanotify, inotify, none */
    bool        has_origin, is_alive;
    int64_t     joined_sec;
};

static bool member_look(const struct seg *seg, unsigned slot, struct look *look)
{
    static const char *const names[] = {"free", "joining", "active", "fenced", "parked"};
    const struct seg_member *member = seg_member(seg, slot);
    enum seg_member_state    state = seg_member_state(seg, slot, &look->incarnation);
    if (state == SEG_FREE)
        return false;
    look->state = names[state];
    look->is_alive = state != SEG_PARKED && !seg_member_is_dead(seg, slot);
    look->pid = member->pid;
    look->has_origin = member->flags & SEG_MEMBER_HAS_ORIGIN;
    look->watch = !look->is_alive ? "none" : member->flags & SEG_MEMBER_WATCH_FANOTIFY ? "fanotify" : member->flags & SEG_MEMBER_WATCH_INOTIFY ? "inotify" : "none";
    look->joined_sec = (int64_t)member->joined_sec;
    cli_text_copy(look->name, member->name, sizeof look->name);
    cli_text_copy(look->mountpoint, member->mountpoint, sizeof look->mountpoint);
    uuid_text(member->uuid, look->uuid);
    return true;
}

static struct json_object *number(uint64_t value)
{
    return json_object_new_uint64(value);
}

static struct json_object *counters_of(const struct seg *seg, unsigned from, unsigned to)
{
    struct json_object *counters = json_object_new_object();
    for (unsigned c = 0; c < SEG_COUNTER_COUNT; c++) {
        uint64_t sum = 0;
        for (unsigned slot = from; slot < to; slot++)
            sum += seg_counter_read(seg, slot, (enum seg_counter)c);
        json_object_object_add(counters, seg_counter_name[c], number(sum));
    }
    return counters;
}

struct json_object *cli_look_members(const struct seg *seg)
{
    struct json_object *members = json_object_new_array();
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        struct look look;
        if (!member_look(seg, slot, &look))
            continue;
        struct json_object *member = json_object_new_object();
        json_object_object_add(member, "slot", json_object_new_int((int)slot));
        json_object_object_add(member, "name", json_object_new_string(look.name));
        json_object_object_add(member, "incarnation", number(look.incarnation));
        json_object_object_add(member, "state", json_object_new_string(look.state));
        json_object_object_add(member, "alive", json_object_new_boolean(look.is_alive));
        json_object_object_add(member, "origin", json_object_new_boolean(look.has_origin));
        json_object_object_add(member, "watch", json_object_new_string(look.watch));
        json_object_object_add(member, "mountpoint", json_object_new_string(look.mountpoint));
        json_object_object_add(member, "pid", number(look.pid));
        json_object_object_add(member, "uuid", json_object_new_string(look.uuid));
        json_object_object_add(member, "joined", json_object_new_int64(look.joined_sec));
        json_object_object_add(member, "inbox_depth", number(persist_inbox_depth(seg, slot)));
        json_object_object_add(member, "counters", counters_of(seg, slot, slot + 1));
        json_object_array_add(members, member);
    }
    return members;
}

/* What a person calls it: an active member whose process has gone is dead, whatever its word says. */
static const char *state_said(const struct look *look)
{
    bool at_work = strcmp(look->state, "active") == 0 || strcmp(look->state, "joining") == 0;
    return at_work && !look->is_alive ? "dead" : look->state;
}

void cli_look_members_print(const struct seg *seg)
{
    unsigned count = 0;
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        struct look look;
        if (!member_look(seg, slot, &look))
            continue;
        if (count++ == 0)
            printf("%4s  %-24s %-8s %5s  %8s  %-6s  %s\n", "slot", "member", "state", "life", "process", "origin", "mounted at");
        char process[16] = "-";
        if (look.is_alive)
            snprintf(process, sizeof process, "%" PRIu32, look.pid);
        printf("%4u  %-24s %-8s %5" PRIu32 "  %8s  %-6s  %s\n", slot, look.name, state_said(&look), look.incarnation, process,
               look.has_origin ? "yes" : "no", look.is_alive ? look.mountpoint : "-");
    }
    if (count == 0)
        puts("no members yet");
}

/* ---- status ---- */

static struct json_object *pool_of(uint64_t total, uint64_t unused)
{
    struct json_object *pool = json_object_new_object();
    json_object_object_add(pool, "total", number(total));
    json_object_object_add(pool, "free", number(unused));
    return pool;
}

/* The watch of the origin: of the members that have one, those of the better kind are named. */
static const char *watch_of(const struct seg *seg, uint64_t *events, uint64_t *overflows)
{
    const char *kind = "none";
    *events = *overflows = 0;
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        struct look look;
        *events += seg_counter_read(seg, slot, SEG_COUNTER_watch_events);
        *overflows += seg_counter_read(seg, slot, SEG_COUNTER_watch_overflows);
        if (member_look(seg, slot, &look) && strcmp(look.watch, "none") != 0 && strcmp(kind, "fanotify") != 0)
            kind = look.watch;
    }
    return kind;
}

struct json_object *cli_look_status(const struct seg *seg, const struct cache *cache)
{
    const struct seg_super *super = seg_super(seg);
    struct cache_usage      usage;
    struct persist_frames   frames;
    char                    name[SEG_NAME_MAX], uuid[UUID_TEXT];
    cli_text_copy(name, super->name, sizeof name);
    uuid_text(super->uuid, uuid);
    cache_usage_get(cache, &usage);
    persist_frames_count(seg, &frames);

    struct json_object *segment = json_object_new_object();
    json_object_object_add(segment, "name", json_object_new_string(name));
    json_object_object_add(segment, "uuid", json_object_new_string(uuid));
    json_object_object_add(segment, "path", json_object_new_string(seg_file_path(seg)));
    json_object_object_add(segment, "generation", number(super->generation));
    json_object_object_add(segment, "created", json_object_new_int64((int64_t)super->created_sec));
    json_object_object_add(segment, "size", number(super->size_bytes));
    json_object_object_add(segment, "index_permyriad", number(persist_index_permyriad(seg)));
    struct json_object *counted = pool_of(frames.total, frames.free);
    json_object_object_add(counted, "clean", number(frames.clean));
    json_object_object_add(counted, "dirty", number(frames.dirty));
    json_object_object_add(counted, "pinned", number(frames.pinned));
    json_object_object_add(counted, "busy", number(frames.busy));
    json_object_object_add(segment, "frames", counted);
    json_object_object_add(segment, "inodes", pool_of(usage.inodes, usage.inodes_free));
    json_object_object_add(segment, "names", pool_of(usage.names, usage.names_free));
    json_object_object_add(segment, "chunks", pool_of(usage.chunks, usage.chunks_free));

    struct json_object *status = json_object_new_object();
    json_object_object_add(status, "segment", segment);
    json_object_object_add(status, "members", cli_look_members(seg));
    uint64_t            events, overflows;
    struct json_object *watch = json_object_new_object();
    json_object_object_add(watch, "kind", json_object_new_string(watch_of(seg, &events, &overflows)));
    json_object_object_add(watch, "events", number(events));
    json_object_object_add(watch, "overflows", number(overflows));
    json_object_object_add(status, "watch", watch);
    json_object_object_add(status, "counters", counters_of(seg, 0, SEG_MEMBERS_MAX));
    return status;
}

static void pool_print(const char *what, uint64_t total, uint64_t unused)
{
    printf("  %-10s %12" PRIu64 " used of %12" PRIu64 "  %5.1f %%\n", what, total - unused, total,
           total ? 100.0 * (double)(total - unused) / (double)total : 0.0);
}

static void counters_print(const struct seg *seg)
{
    unsigned column = 0;
    puts("\ncounters, all members together (those that are 0 are left out)");
    for (unsigned c = 0; c < SEG_COUNTER_COUNT; c++) {
        uint64_t sum = 0;
        for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++)
            sum += seg_counter_read(seg, slot, (enum seg_counter)c);
        if (!sum)
            continue;
        printf("  %-20s %14" PRIu64 "%s", seg_counter_name[c], sum, column % 2 ? "\n" : "   ");
        column++;
    }
    if (column % 2)
        putchar('\n');
}

void cli_look_status_print(const struct seg *seg, const struct cache *cache)
{
    const struct seg_super *super = seg_super(seg);
    struct cache_usage      usage;
    struct persist_frames   frames;
    char                    name[SEG_NAME_MAX], uuid[UUID_TEXT], made[32] = "";
    time_t                  created = (time_t)super->created_sec;
    struct tm               local;
    cli_text_copy(name, super->name, sizeof name);
    uuid_text(super->uuid, uuid);
    cache_usage_get(cache, &usage);
    persist_frames_count(seg, &frames);
    if (localtime_r(&created, &local))
        strftime(made, sizeof made, "%Y-%m-%d %H:%M", &local);

    unsigned permyriad = persist_index_permyriad(seg);
    printf("segment %s\n  %s, made %s, generation %" PRIu64 "\n  %s\n", name, uuid, made, super->generation, seg_file_path(seg));
    printf("  %.1f MiB, %u.%02u %% of it index\n", (double)super->size_bytes / (1 << 20), permyriad / 100, permyriad % 100);
    pool_print("frames", frames.total, frames.free);
    pool_print("inodes", usage.inodes, usage.inodes_free);
    pool_print("names", usage.names, usage.names_free);
    pool_print("chunks", usage.chunks, usage.chunks_free);
    uint64_t    events, overflows;
    const char *kind = watch_of(seg, &events, &overflows);
    printf("  watch of the origin: %s, %" PRIu64 " events, %" PRIu64 " overflows\n", kind, events, overflows);
    putchar('\n');
    cli_look_members_print(seg);
    counters_print(seg);
}

int cli_json_print(struct json_object *object)
{
    int bad = puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE)) < 0;
    json_object_put(object);
    return bad || fflush(stdout) != 0 ? cli_error(CLI_FAILED, "cannot write the output") : CLI_OK;
}
