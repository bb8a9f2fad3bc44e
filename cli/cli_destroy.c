/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_destroy.c - hearthfs destroy: removes a segment and what its members remember of it.
 *
 * The name must always be given. Nothing is lost but warmth: writes have reached the source directory when they returned.
 */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "cli.h"

enum { LEAVE_TRIES = 250 }; /* of 20 ms */

static const struct argp_option destroy_options[] = {
    {.name = "force", .key = 'F', .doc = "Also while it is mounted: those mounts fail from then on (EIO) until they are unmounted and mounted again"},
    {.name = "state-dir", .key = 'S', .arg = "DIR", .doc = "Where members remember their place (default " CLI_STATE_DIR ")"},
    {0},
};

/* Is nothing mounted any more, and those who have it are only on their way out? */
static bool members_are_leaving(const char *name)
{
    char          err[SEG_ERR_BYTES], mountpoint[256];
    struct seg   *seg;
    struct cache *cache;
    bool          leaving = true;
    if (persist_inspect_open(name, &seg, &cache, err) != 0)
        return false;
    for (uint64_t left = seg_members_active(seg); left && leaving; left &= left - 1) {
        const struct seg_member *member = seg_member(seg, (unsigned)__builtin_ctzll(left));
        snprintf(mountpoint, sizeof mountpoint, "%.255s", member->mountpoint);
        leaving = !cli_place_is_mounted(mountpoint);
    }
    persist_inspect_close(seg, cache);
    return leaving;
}

/* umount returns before the daemon has left: `umount DIR && hearthfs destroy NAME` must work. */
static int destroy_patiently(const struct cli_args *args, char err[SEG_ERR_BYTES])
{
    const struct timespec pause = {.tv_nsec = 20000000};
    int                   rc = persist_destroy(args->name, args->state_dir, args->force, err);
    for (unsigned tries = 0; rc == -EBUSY && tries < LEAVE_TRIES && members_are_leaving(args->name); tries++) {
        nanosleep(&pause, NULL);
        rc = persist_destroy(args->name, args->state_dir, args->force, err);
    }
    return rc;
}

int cli_destroy(int argc, char **argv)
{
    static const struct argp argp = {
        .options = destroy_options, .parser = cli_args_option, .args_doc = "NAME",
        .doc = "Remove a segment and give its memory back. The files are safe: the source directory has them all.\v"
               "NAME is the segment's name (see hearthfs status), or file:PATH. A segment that is mounted is not removed.\n"
               "\n"
               "Example: umount /mnt/a && hearthfs destroy tree",
    };
    struct cli_args args = {.state_dir = CLI_STATE_DIR};
    char            err[SEG_ERR_BYTES] = "";
    int             code = cli_args_parse(&argp, argc, argv, &args);
    if (code)
        return code;
    if (!args.name)
        return cli_error(CLI_USAGE, "destroy: the name is missing; usage: hearthfs destroy NAME (hearthfs status lists them)");
    int rc = destroy_patiently(&args, err);
    if (rc == -ENOENT)
        return cli_error(CLI_FAILED, "destroy: %s: there is no such segment; hearthfs status lists those that are there", args.name);
    if (rc)
        return cli_error(CLI_FAILED, "destroy: %s", err);
    printf("%s: removed\n", args.name);
    return CLI_OK;
}
