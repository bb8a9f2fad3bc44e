/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_main.c - the command hearthfs: finds the subcommand, or teaches.
 *
 * Called as mount.hearthfs or mount.fuse.hearthfs it is the helper of mount(8).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

const char *argp_program_version = "hearthfs " HEARTHFS_VERSION;

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"mount", cli_mount}, {"status", cli_status}, {"members", cli_members}, {"locks", cli_locks}, {"check", cli_check}, {"destroy", cli_destroy},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0], SUGGEST_DISTANCE = 2, WORD_MAX = 31 };

static const char help[] =
    "hearthfs - one warm cache per host, shared by all its mounts\n"
    "\n"
    "  hearthfs mount DIR MOUNTPOINT [-o OPTION,...] [-f]\n"
    "                                            mount DIR through the shared cache\n"
    "  hearthfs status  [NAME] [--json]          what it holds and how well it does\n"
    "  hearthfs members [NAME] [--json]          who has it mounted\n"
    "  hearthfs locks   [NAME] [--json]          who holds and who waits for locks\n"
    "  hearthfs check   [NAME] [--json] [--verify]   walk every invariant\n"
    "  hearthfs destroy NAME [--force]           remove it (DIR has all the files)\n"
    "  hearthfs COMMAND --help                   more about one command\n"
    "\n"
    "Try it, as root:\n"
    "  hearthfs mount /srv/tree /mnt/a -o name=tree,size=1G\n"
    "                                the first mount reads from the directory\n"
    "  hearthfs mount /srv/tree /mnt/b -o name=tree\n"
    "                                the second finds everything warm\n"
    "  hearthfs status tree          see it happen: hits, misses, origin reads\n"
    "  umount /mnt/a /mnt/b          the cache stays warm for the next mount\n"
    "  hearthfs destroy tree         give the memory back\n"
    "\n"
    "The cache is a segment of shared memory, /dev/shm/hearthfs/NAME. What one\n"
    "mount has fetched, all have; what one changes, all see at once.\n"
    "\n"
    "Exit codes: 0 done; 1 failed, one line on standard error says why and what\n"
    "to do; 2 wrong call; 3 check found damage.\n";

/* Edit distance (Wagner and Fischer, 1974), for "did you mean". */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[WORD_MAX + 1];
    size_t   a_length = strlen(a), b_length = strlen(b);
    if (a_length > WORD_MAX || b_length > WORD_MAX)
        return UINT32_MAX;
    for (unsigned j = 0; j <= b_length; j++)
        row[j] = j;
    for (unsigned i = 1; i <= a_length; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= b_length; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[b_length];
}

static int unknown_command(const char *word)
{
    unsigned    best = SUGGEST_DISTANCE + 1;
    const char *meant = NULL;
    for (unsigned i = 0; i < COMMAND_COUNT; i++) {
        unsigned d = distance(word, commands[i].name);
        if (d < best) {
            best = d;
            meant = commands[i].name;
        }
    }
    if (meant)
        return cli_error(CLI_USAGE, "\"%.80s\" is no command; did you mean \"hearthfs %s\"?", word, meant);
    return cli_error(CLI_USAGE, "\"%.80s\" is no command; see hearthfs --help", word);
}

static int run(const struct command *command, int argc, char **argv)
{
    char title[64];
    snprintf(title, sizeof title, "hearthfs %s", command->name); /* argp's usage lines begin with argv[0] */
    char **own = calloc((size_t)argc + 1, sizeof *own);
    if (!own)
        return cli_error(CLI_FAILED, "out of memory");
    own[0] = title;
    for (int i = 1; i < argc; i++)
        own[i] = argv[i];
    int code = command->run(argc, own);
    free(own);
    return code;
}

int main(int argc, char **argv)
{
    const char *self = argc > 0 && strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argc > 0 ? argv[0] : "hearthfs";
    if (strcmp(self, "mount.hearthfs") == 0 || strcmp(self, "mount.fuse.hearthfs") == 0)
        return cli_mount_helper(argc, argv);
    if (argc < 2) {
        fputs(help, stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        fputs(help, stdout);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        puts(argp_program_version);
        return CLI_OK;
    }
    for (unsigned i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return run(&commands[i], argc - 1, argv + 1);
    return unknown_command(argv[1]);
}
