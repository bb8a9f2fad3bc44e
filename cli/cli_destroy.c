/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_destroy.c - hearthfs destroy: removes a segment and what its members remember of it.
 *
 * The name must always be given. Nothing is lost but warmth: writes have reached the source directory when they returned.
 */
#include <errno.h>
#include <stdio.h>

#include "cli.h"

static const struct argp_option destroy_options[] = {
    {.name = "force", .key = 'F', .doc = "Also while it is mounted: those mounts fail from then on (EIO) until they are unmounted and mounted again"},
    {.name = "state-dir", .key = 'S', .arg = "DIR", .doc = "Where members remember their place (default " CLI_STATE_DIR ")"},
    {0},
};

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
    int rc = persist_destroy(args.name, args.state_dir, args.force, err);
    if (rc == -ENOENT)
        return cli_error(CLI_FAILED, "destroy: %s: there is no such segment; hearthfs status lists those that are there", args.name);
    if (rc)
        return cli_error(CLI_FAILED, "destroy: %s", err);
    printf("%s: removed\n", args.name);
    return CLI_OK;
}
