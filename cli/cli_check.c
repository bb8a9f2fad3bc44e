/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_check.c - hearthfs check: every invariant of a segment, in use or not. Changes nothing.
 *
 * A superblock that does not hold is damage like any other (exit code 3); a segment that is not there, or of another version, is a failure (1).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <json-c/json.h>

#include "cli.h"

static const struct argp_option check_options[] = {
    {.name = "json", .key = 'j', .doc = "One JSON object, for programs"},
    {.name = "verify", .key = 'V', .doc = "Compare the checksum of every cached page, too"},
    {0},
};

static void report_line(void *arg, const char *line)
{
    struct json_object *lines = arg;
    if (lines)
        json_object_array_add(lines, json_object_new_string(line));
    else
        printf("damage: %s\n", line);
}

static int check(const struct cli_args *args, const char *spec)
{
    char          err[SEG_ERR_BYTES];
    struct seg   *seg;
    struct cache *cache;
    int           rc = persist_inspect_open(spec, &seg, &cache, err);
    if (rc)
        return cli_error(rc == -EBADMSG || rc == -EUCLEAN ? CLI_DAMAGED : CLI_FAILED, "check: %s", err);

    struct json_object *lines = args->json ? json_object_new_array() : NULL;
    int                 broken = persist_check(seg, cache, args->verify, report_line, lines);
    char                name[SEG_NAME_MAX];
    snprintf(name, sizeof name, "%.63s", seg_super(seg)->name);
    persist_inspect_close(seg, cache);
    if (broken < 0) {
        json_object_put(lines);
        return cli_error(CLI_FAILED, "check: %s: %s", spec, strerror(-broken));
    }
    int code = broken ? CLI_DAMAGED : CLI_OK;
    if (args->json) {
        struct json_object *object = json_object_new_object();
        json_object_object_add(object, "segment", json_object_new_string(name));
        json_object_object_add(object, "clean", json_object_new_boolean(!broken));
        json_object_object_add(object, "broken", json_object_new_int(broken));
        json_object_object_add(object, "lines", lines);
        int printed = cli_json_print(object);
        return printed ? printed : code;
    }
    if (broken)
        printf("%s: %d invariants do not hold; the files are safe in the source directory: unmount all, and hearthfs destroy %s\n", spec, broken, spec);
    else
        printf("%s: clean\n", spec);
    return code;
}

int cli_check(int argc, char **argv)
{
    static const struct argp argp = {
        .options = check_options, .parser = cli_args_option, .args_doc = "[NAME]",
        .doc = "Walk every invariant of a segment and list those that do not hold. Changes nothing, and may run while it is mounted.\v"
               "NAME is the segment's name, or file:PATH; it may be left out when there is only one.\n"
               "\n"
               "Exit codes: 0 clean, 1 cannot be checked, 2 wrong call, 3 damage was found.\n"
               "\n"
               "Example: hearthfs check tree --verify",
    };
    struct cli_args args = {0};
    char            spec[CLI_PATH_MAX];
    int             code = cli_args_parse(&argp, argc, argv, &args);
    if (code == 0)
        code = cli_segment_choose(&args, "check", spec);
    return code ? code : check(&args, spec);
}
