/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli.h - what the files of the command share.
 *
 * Each subcommand is one function that gets its own argument vector (argv[0] is "hearthfs NAME", for usage texts) and returns the exit code. An error is one line on
 * standard error, "hearthfs: what: what is wrong; what to do", and cli_error() is the only way to print it.
 */
#ifndef HEARTH_CLI_H
#define HEARTH_CLI_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs.h"
#include "persist.h"

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_DAMAGED = 3 };
enum { CLI_PATH_MAX = 1024 };
#define CLI_STATE_DIR "/var/lib/hearthfs"

/* Prints "hearthfs: " and the line; returns code. */
int cli_error(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

int cli_mount(int argc, char **argv);        /* hearthfs mount ...                                  */
int cli_mount_helper(int argc, char **argv); /* mount.hearthfs SOURCE MOUNTPOINT -o ..., by mount(8) */
int cli_status(int argc, char **argv);
int cli_members(int argc, char **argv);
int cli_locks(int argc, char **argv);
int cli_check(int argc, char **argv);
int cli_destroy(int argc, char **argv);

/* ---- cli_args.c: the command lines of status, members, locks, check, destroy ---- */
struct cli_args {
    const char *name; /* NULL: not given */
    const char *state_dir;
    bool        json, verify, force;
};
/* argp without its two-line complaints: 0, or CLI_USAGE after one line. --help and --usage print and exit. */
int cli_args_parse(const struct argp *argp, int argc, char **argv, void *input);
/* The parser for struct cli_args. */
error_t cli_args_option(int key, char *arg, struct argp_state *state);
/* The one segment that is meant: args->name, or the only one of this host. 0 with spec filled; else the exit code, after one line. */
int cli_segment_choose(const struct cli_args *args, const char *command, char spec[CLI_PATH_MAX]);
unsigned cli_segment_count(void); /* of this host */

/* ---- cli_options.c: -o ---- */
struct cli_mount_options {
    char          name[SEG_NAME_MAX];    /* "": not given */
    char          member[SEG_NAME_MAX];
    char          segment[CLI_PATH_MAX]; /* spec; "": shm:NAME */
    char          state_dir[CLI_PATH_MAX];
    char          fsname[CLI_PATH_MAX];
    char          fuse[CLI_PATH_MAX];    /* for FUSE itself, with commas between */
    uint64_t      size_bytes;            /* 0: default */
    unsigned      recall_timeout_ms;     /* 0: default */
    unsigned      workers;
    uint32_t      revalidate_ms;         /* 0: at each open; FS_REVALIDATE_NEVER */
    enum fs_atime_policy atime;
    bool          noatime;               /* was said: nodiratime beside it says nothing more */
    bool          read_only, locks_none, cache_shared, names_plain, debug;
    enum fs_uring uring;
    enum fs_watch_kind watch;
};
/* Takes the options of one -o. 0, or -EINVAL with one line in err. */
int cli_options_parse(const char *text, struct cli_mount_options *options, char err[SEG_ERR_BYTES]);
/* "4096", "64K", "64M", "4G", "1T"; also "64MiB". 0 or -EINVAL. */
int cli_size_parse(const char *text, uint64_t *bytes);
/* Segment name for a directory: its last component and a short hash of the whole path. */
void cli_name_default(const char *real_path, char name[SEG_NAME_MAX]);

/* ---- cli_place.c: is the mount possible at all? ---- */
bool cli_place_is_mounted(const char *path); /* is a hearthfs mounted exactly there? Looks into the mount table, never at the path itself */
/* Real paths of both; 0, or -errno with one line in err. Makes nothing, and does not touch a mount that may hang. */
int cli_place_check(const char *source, const char *mountpoint, char source_real[CLI_PATH_MAX], char mountpoint_real[CLI_PATH_MAX],
                    char err[SEG_ERR_BYTES]);

/* ---- cli_daemon.c: into the background, with a word back ---- */
struct cli_daemon; /* the child's end */
/* Forks. In the parent: waits for the child's word, prints it and sets *code; returns 1. In the child: 0. -errno: nothing was forked. foreground: no fork, 0. */
int cli_daemon_start(bool foreground, struct cli_daemon **daemon, int *code);
/* The child's words; the first two may come often, then exactly one of the last two. In the foreground they go straight to where they belong. */
void cli_daemon_say(struct cli_daemon *daemon, const char *line);  /* standard output */
void cli_daemon_note(struct cli_daemon *daemon, const char *line); /* standard error, "hearthfs: note: " */
void cli_daemon_up(struct cli_daemon *daemon);                     /* the parent ends with 0 */
void cli_daemon_fail(struct cli_daemon *daemon, const char *line); /* the parent prints it and ends with 1; after _up it is logged */

/* ---- cli_look.c: figures of one segment, for people and programs ---- */
struct json_object;
struct json_object *cli_look_status(const struct seg *seg, const struct cache *cache);
struct json_object *cli_look_members(const struct seg *seg);
void cli_look_members_print(const struct seg *seg);
void cli_look_status_print(const struct seg *seg, const struct cache *cache);
/* A peer's text: bounded (size > 0), terminated, and what is not printable UTF-8 becomes '?'. */
void cli_text_copy(char *to, const char *from, size_t size);
int  cli_json_print(struct json_object *object); /* prints and puts it; returns the exit code */

#endif
