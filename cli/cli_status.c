/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_status.c - hearthfs status and hearthfs members: looks at a segment without becoming a member.
 *
 * Without a name: the only segment of this host, or a list when there are several.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <json-c/json.h>

#include "cli.h"

static const struct argp_option look_options[] = {
    {.name = "json", .key = 'j', .doc = "One JSON object, for programs; fields are added, never renamed"},
    {0},
};

static unsigned living_members(const struct seg *seg)
{
    unsigned count = 0;
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        enum seg_member_state state = seg_member_state(seg, slot, NULL);
        count += state != SEG_FREE && state != SEG_PARKED && !seg_member_is_dead(seg, slot);
    }
    return count;
}

struct listing {
    struct json_object *segments; /* NULL: for people */
    unsigned            count;
};

/* One segment of the list; one that cannot be read is listed too, with the reason. */
static int list_one(void *arg, const char *name, const char *path)
{
    struct listing     *listing = arg;
    struct json_object *entry = listing->segments ? json_object_new_object() : NULL;
    struct seg         *seg;
    struct cache       *cache;
    char                err[SEG_ERR_BYTES] = "";
    int                 rc = persist_inspect_open(name, &seg, &cache, err);
    listing->count++;
    if (entry) {
        json_object_object_add(entry, "name", json_object_new_string(name));
        json_object_object_add(entry, "path", json_object_new_string(path));
        if (rc == 0) {
            json_object_object_add(entry, "size", json_object_new_uint64(seg_size(seg)));
            json_object_object_add(entry, "members_alive", json_object_new_int((int)living_members(seg)));
        } else {
            json_object_object_add(entry, "error", json_object_new_string(err));
        }
        json_object_array_add(listing->segments, entry);
    } else if (rc == 0) {
        printf("%-40s %10.1f MiB  %u mounted\n", name, (double)seg_size(seg) / (1 << 20), living_members(seg));
    } else {
        printf("%-40s %s\n", name, err);
    }
    if (rc == 0)
        persist_inspect_close(seg, cache);
    return 0;
}

static int list_all(const char *command, bool json)
{
    struct listing listing = {.segments = json ? json_object_new_array() : NULL};
    int rc = persist_list(list_one, &listing);
    if (rc) {
        json_object_put(listing.segments);
        return cli_error(CLI_FAILED, "%s: cannot read /dev/shm/hearthfs: %s%s", command, strerror(-rc), rc == -EACCES ? "; try as root" : "");
    }
    if (!json && listing.count == 0)
        puts("no segment on this host; make one with: hearthfs mount DIR MOUNTPOINT");
    if (!json)
        return CLI_OK;
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "segments", listing.segments);
    return cli_json_print(object);
}

static int look(const struct cli_args *args, const char *command, bool members_only)
{
    char          spec[CLI_PATH_MAX], err[SEG_ERR_BYTES];
    struct seg   *seg;
    struct cache *cache;
    if (!args->name && cli_segment_count() != 1)
        return list_all(command, args->json);
    int code = cli_segment_choose(args, command, spec);
    if (code)
        return code;
    if (persist_inspect_open(spec, &seg, &cache, err) != 0)
        return cli_error(CLI_FAILED, "%s: %s", command, err);
    if (!args->json && members_only) {
        cli_look_members_print(seg);
    } else if (!args->json) {
        cli_look_status_print(seg, cache);
    } else if (members_only) {
        struct json_object *object = json_object_new_object();
        json_object_object_add(object, "members", cli_look_members(seg));
        code = cli_json_print(object);
    } else {
        code = cli_json_print(cli_look_status(seg, cache));
    }
    persist_inspect_close(seg, cache);
    return code;
}

int cli_status(int argc, char **argv)
{
    static const struct argp argp = {
        .options = look_options, .parser = cli_args_option, .args_doc = "[NAME]",
        .doc = "Show a segment: how full it is, who has it mounted, and what the cache has done.\v"
               "NAME is the segment's name, or file:PATH. Without it: the only segment of this host, or a list when there are several.\n"
               "\n"
               "What to look at: origin_read_bytes stands still while reads are served from the cache; hits and misses count READ requests that "
               "the guest's kernel asked for (what its own page cache answers costs nothing and is not counted).\n"
               "\n"
               "Examples:\n"
               "  hearthfs status tree\n"
               "  hearthfs status tree --json | jq .counters.origin_read_bytes",
    };
    struct cli_args args = {0};
    int             code = cli_args_parse(&argp, argc, argv, &args);
    return code ? code : look(&args, "status", false);
}

int cli_members(int argc, char **argv)
{
    static const struct argp argp = {
        .options = look_options, .parser = cli_args_option, .args_doc = "[NAME]",
        .doc = "Show the members of a segment: one line for each mount that is or was there.\v"
               "States: active (mounted), parked (left or dead and settled; its place waits for it), fenced (cut off, not yet gone), joining, "
               "dead (killed; the next member to notice settles it). \"life\" counts how often the slot has been joined.\n"
               "\n"
               "Example: hearthfs members tree",
    };
    struct cli_args args = {0};
    int             code = cli_args_parse(&argp, argc, argv, &args);
    return code ? code : look(&args, "members", true);
}
