/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_mount.c - hearthfs mount: arguments, then the life of a daemon from the origin to the end.
 *
 *   check the place (cli_place.c)  ->  into the background (cli_daemon.c)  ->  origin_posix_open  ->  persist_session_open  ->  fs_serve  ->  close
 *
 * What fails before the mount is up is undone (persist_session_abandon): no segment, record or folder of ours is left behind. Afterwards an error goes to the
 * log, and the segment stays, warm.
 *
 * locate, through which the origin asks the cache for names, needs the cache, which needs the session, which needs the origin's identity: so the origin is given
 * a pointer to the session, whose cache is there before the first request.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static const char mount_doc[] =
    "Mount the directory SOURCE at MOUNTPOINT through the host's shared cache.\v"
    "Returns when the mount is up; a daemon goes on in the background. The first mount of a directory makes the cache (a segment of shared memory); "
    "further mounts with the same name= share it, and find warm what the others have read.\n"
    "\n"
    "Options behind -o, separated by commas:\n"
    "  name=NAME            the segment: /dev/shm/hearthfs/NAME (default: made\n"
    "                       of SOURCE's last component and a hash of its path)\n"
    "  segment=file:PATH    keep the segment in a file of your choice instead\n"
    "  size=SIZE            memory for a new segment, like 512M or 4G, reserved\n"
    "                       at once (default: 1/8 of memory, 64M to 4G)\n"
    "  member=NAME          this mount's own name, by which it finds its place\n"
    "                       again (default: made of machine and MOUNTPOINT)\n"
    "  locks=shared|none    none: nobody locks files here; opens are cheaper\n"
    "  ro                   read-only\n"
    "  recall_timeout=SEC   a member that is silent for so long is cut off (30)\n"
    "  state_dir=DIR        where members remember their place\n"
    "                       (default " CLI_STATE_DIR ")\n"
    "  revalidate=open|never|SEC\n"
    "                       look at each open (default), or when SEC seconds have\n"
    "                       passed, whether SOURCE was changed from outside\n"
    "  watch[=fanotify|inotify]\n"
    "                       see changes of SOURCE from outside within 0.1 s, in\n"
    "                       all members; one member that does so is enough\n"
    "  uring, nouring       insist on FUSE over io_uring, or do without\n"
    "                       (default: use it where it is there)\n"
    "  noepoch              no epoch notification, as on kernels before 6.16\n"
    "  workers=N            threads for requests that may wait\n"
    "  debug                print every FUSE message (implies -f)\n"
    "  noatime, nodiratime, relatime, strictatime\n"
    "                       when reading moves access times (default: noatime)\n"
    "  cache=kernel|shared  shared: file data is kept once per host, in the\n"
    "                       segment, and not in this mount's kernel as well\n"
    "  write=through        writes reach SOURCE at once; the only way yet\n"
    "  and as for any file system: suid nosuid dev nodev exec noexec sync dirsync\n"
    "  max_read= fsname=\n"
    "\n"
    "Examples:\n"
    "  hearthfs mount /srv/tree /mnt/a -o name=tree,size=1G\n"
    "  hearthfs mount /srv/tree /mnt/b -o name=tree\n"
    "  fstab:  /srv/tree /mnt/a fuse.hearthfs name=tree,size=1G,nofail 0 0\n"
    "\n"
    "Exit codes: 0 the mount is up, 1 it is not (one line says why), 2 wrong call.";

struct mount_args {
    const char              *source, *mountpoint;
    bool                     foreground, fake, is_helper;
    struct cli_mount_options options;
    char                     err[SEG_ERR_BYTES];
};

enum { KEY_STATE_DIR = 'S' + 256 };

static error_t mount_option(int key, char *arg, struct argp_state *state)
{
    struct mount_args *args = state->input;
    switch (key) {
    case 'o':
        if (!args->err[0])
            cli_options_parse(arg, &args->options, args->err); /* mount_main() looks at err */
        return 0;
    case 'f':
        if (args->is_helper)
            args->fake = true;
        else
            args->foreground = true;
        return 0;
    case 'n':
    case 's':
    case 'v':
    case 't':
        return 0;
    case 'N':
        snprintf(args->err, sizeof args->err, "another mount namespace (-N) is not supported; use nsenter");
        return 0;
    case KEY_STATE_DIR:
        if (strlen(arg) >= sizeof args->options.state_dir)
            return EINVAL;
        strcpy(args->options.state_dir, arg);
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 1)
            return EINVAL;
        *(state->arg_num ? &args->mountpoint : &args->source) = arg;
        return 0;
    case ARGP_KEY_END:
        return state->arg_num < 2 ? ENODATA : 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option mount_options[] = {
    {.name = "options", .key = 'o', .arg = "OPTION,...", .doc = "Mount options, see below"},
    {.name = "foreground", .key = 'f', .doc = "Stay in the foreground; messages go to standard error"},
    {.name = "state-dir", .key = KEY_STATE_DIR, .arg = "DIR", .doc = "Same as -o state_dir=DIR"},
    {.key = 'n', .flags = OPTION_HIDDEN}, /* mount(8) passes these on */
    {.key = 's', .flags = OPTION_HIDDEN},
    {.key = 'v', .flags = OPTION_HIDDEN},
    {.key = 't', .arg = "TYPE", .flags = OPTION_HIDDEN},
    {.key = 'N', .arg = "NAMESPACE", .flags = OPTION_HIDDEN},
    {0},
};

/* ---- the daemon ---- */

struct mounting {
    const struct mount_args *args;
    struct cli_daemon       *daemon;
    struct persist_session   session;
    struct origin           *origin;
    bool                     is_up;
    char                     source[CLI_PATH_MAX], mountpoint[CLI_PATH_MAX];
    char                     name[SEG_NAME_MAX], spec[CLI_PATH_MAX];
    char                     err[SEG_ERR_BYTES];
};

static int locate(void *arg, const struct origin_ref *node, struct origin_ref *parent, char *name, size_t name_size)
{
    struct persist_session *session = arg;
    return session->cache ? fs_locate(session->cache, node, parent, name, name_size) : -ESTALE;
}

static int origin_begin(struct mounting *mounting, uint8_t id[64])
{
    struct origin_options options = {.read_only = mounting->args->options.read_only, .locate = locate, .locate_arg = &mounting->session};
    struct origin_ref     root;
    struct origin_attr    attr;
    enum { IDENTITY_BYTES = 24 }; /* dev, ino, birth: what the cache takes for its key, too */

    int rc = origin_posix_open(mounting->source, &options, &mounting->origin);
    if (rc == 0)
        rc = origin_root(mounting->origin, &root, &attr);
    if (rc) {
        snprintf(mounting->err, sizeof mounting->err, "source %.200s: cannot be opened: %s", mounting->source, strerror(-rc));
        return rc;
    }
    memcpy(id, &root, IDENTITY_BYTES);
    return 0;
}

static int session_begin(struct mounting *mounting, const uint8_t id[64])
{
    const struct cli_mount_options *options = &mounting->args->options;
    char                            member[SEG_NAME_MAX];
    if (options->member[0])
        snprintf(member, sizeof member, "%s", options->member);
    else
        persist_member_name(mounting->mountpoint, member);
    struct persist_config config = {
        .spec = mounting->spec, .name = mounting->name, .member = member, .mountpoint = mounting->mountpoint,
        .state_dir = options->state_dir[0] ? options->state_dir : CLI_STATE_DIR, .size_bytes = options->size_bytes,
        .has_origin = true, .may_create = true, .recall_timeout_ms = options->recall_timeout_ms,
    };
    memcpy(config.origin_id, id, sizeof config.origin_id);
    return persist_session_open(&config, &mounting->session, mounting->err);
}

/* What a person names it by: the shell's word for `hearthfs status`. */
static const char *spoken_name(const struct mounting *mounting)
{
    return strncmp(mounting->spec, "shm:", 4) == 0 ? mounting->spec + 4 : mounting->spec;
}

static void say_up(struct mounting *mounting)
{
    const struct persist_session *session = &mounting->session;
    const struct seg_member      *member = seg_member(session->seg, (unsigned)seg_self_slot(session->seg));
    char                          line[1500];
    struct persist_frames         frames;
    persist_frames_count(session->seg, &frames);
    bool is_warm = frames.clean > 0;
    snprintf(line, sizeof line, "%.400s is mounted at %.400s: %s segment %.400s of %.1f MiB, member %.63s in slot %d, life %u", mounting->source,
             mounting->mountpoint, session->created ? "new" : is_warm ? "warm" : "empty", spoken_name(mounting), (double)seg_size(session->seg) / (1 << 20),
             member->name, seg_self_slot(session->seg), seg_self_incarnation(session->seg));
    cli_daemon_say(mounting->daemon, line);
    snprintf(line, sizeof line, "see it work:    hearthfs status %.400s", spoken_name(mounting));
    cli_daemon_say(mounting->daemon, line);
    bool is_named = mounting->args->options.name[0] || mounting->args->options.segment[0];
    snprintf(line, sizeof line, "unmount:        umount %.400s       mount again, sharing the cache:  hearthfs mount %.400s ANOTHER_DIR%s%.400s", mounting->mountpoint,
             mounting->source, !is_named ? "" : mounting->args->options.segment[0] ? " -o segment=" : " -o name=",
             !is_named ? "" : mounting->args->options.segment[0] ? mounting->args->options.segment : mounting->name);
    cli_daemon_say(mounting->daemon, line);
}

static void ready(void *arg, const char *note)
{
    struct mounting *mounting = arg;
    mounting->is_up = true;
    if (mounting->session.note[0])
        cli_daemon_note(mounting->daemon, mounting->session.note);
    if (note && note[0])
        cli_daemon_note(mounting->daemon, note);
    say_up(mounting);
    cli_daemon_up(mounting->daemon);
}

/* It becomes one of several options with commas between: libfuse reads "\," as a comma of the value. */
static void fsname_escape(const char *from, char *to, size_t size)
{
    size_t used = 0;
    for (; *from && used + 3 < size; from++) {
        if (*from == ',' || *from == '\\')
            to[used++] = '\\';
        to[used++] = *from;
    }
    to[used] = 0;
}

static int serve(struct mounting *mounting)
{
    const struct cli_mount_options *options = &mounting->args->options;
    char                            fsname[2 * CLI_PATH_MAX];
    fsname_escape(options->fsname[0] ? options->fsname : mounting->source, fsname, sizeof fsname);
    struct fs_config config = {
        .mountpoint = mounting->mountpoint, .fuse_options = options->fuse[0] ? options->fuse : NULL,
        .fsname = fsname, .read_only = options->read_only, .locks_none = options->locks_none, .cache_shared = options->cache_shared,
        .names_plain = options->names_plain, .foreground = mounting->args->foreground, .debug = options->debug, .atime = options->atime, .uring = options->uring,
        .recall_timeout_ms = options->recall_timeout_ms, .workers_max = options->workers, .revalidate_ms = options->revalidate_ms, .watch = options->watch,
    };
    return fs_serve(&config, &mounting->session, mounting->origin, ready, mounting, mounting->err);
}

/* From the origin to the end; 0 or CLI_FAILED. */
static int live(struct mounting *mounting)
{
    uint8_t id[64] = {0};
    int     rc = origin_begin(mounting, id);
    if (rc == 0)
        rc = session_begin(mounting, id);
    bool has_session = rc == 0;
    if (rc == 0)
        rc = serve(mounting);
    if (has_session && mounting->is_up)
        persist_session_close(&mounting->session);
    else if (has_session)
        persist_session_abandon(&mounting->session);
    if (mounting->origin)
        origin_close(mounting->origin);
    if (rc || !mounting->is_up) /* after the clean-up: whoever waits for the word may look at once for what is left */
        cli_daemon_fail(mounting->daemon, mounting->err[0] ? mounting->err : rc ? strerror(-rc) : "ended by a signal before the mount was up");
    return rc || !mounting->is_up ? CLI_FAILED : CLI_OK;
}

/* ---- the command ---- */

static int segment_name(struct mounting *mounting)
{
    const struct cli_mount_options *options = &mounting->args->options;
    const char                     *spec = options->segment;
    const char                     *plain = strncmp(spec, "shm:", 4) == 0 ? spec + 4 : strncmp(spec, "file:", 5) == 0 || !*spec ? NULL : spec;

    if (plain && options->name[0] && strcmp(plain, options->name) != 0)
        return cli_error(CLI_USAGE, "mount: name=%s and segment=%s name two segments; give one of them", options->name, spec);
    if (plain && !persist_name_ok(plain))
        return cli_error(CLI_USAGE, "mount: segment=%.80s: write segment=file:PATH, or name=NAME for one in /dev/shm/hearthfs", spec);
    if (strncmp(spec, "file:", 5) == 0 && spec[5] != '/')
        return cli_error(CLI_USAGE, "mount: segment=%.80s: the path must begin with a slash", spec);
    if (plain)
        snprintf(mounting->name, sizeof mounting->name, "%.63s", plain);
    else if (options->name[0])
        snprintf(mounting->name, sizeof mounting->name, "%s", options->name);
    else
        cli_name_default(mounting->source, mounting->name);
    if (*spec && !plain)
        snprintf(mounting->spec, sizeof mounting->spec, "%s", spec);
    else
        snprintf(mounting->spec, sizeof mounting->spec, "shm:%s", mounting->name);
    return 0;
}

/* A relative state directory is meant from here; the daemon runs in "/". */
static int state_dir_absolute(struct cli_mount_options *options)
{
    char here[CLI_PATH_MAX], whole[2 * CLI_PATH_MAX];
    if (!options->state_dir[0] || options->state_dir[0] == '/')
        return 0;
    if (!getcwd(here, sizeof here) || (size_t)snprintf(whole, sizeof whole, "%s/%s", here, options->state_dir) >= sizeof options->state_dir)
        return cli_error(CLI_FAILED, "mount: the path of the state directory is too long");
    strcpy(options->state_dir, whole);
    return 0;
}

static int mount_run(struct mount_args *args)
{
    struct mounting mounting = {.args = args};
    struct seg_plan plan;
    uint8_t         no_id[64] = {0};
    int             code;

    if (cli_place_check(args->source, args->mountpoint, mounting.source, mounting.mountpoint, mounting.err) != 0)
        return cli_error(CLI_FAILED, "mount: %s", mounting.err);
    if (args->options.cache_shared && args->options.locks_none)
        return cli_error(CLI_USAGE, "mount: cache=shared needs to be told of opens, and locks=none keeps them from being sent; give one of the two");
    code = segment_name(&mounting);
    if (code == 0)
        code = state_dir_absolute(&args->options);
    if (code)
        return code;
    if (args->options.size_bytes && persist_plan(args->options.size_bytes, mounting.name, no_id, &plan, mounting.err) != 0)
        return cli_error(CLI_FAILED, "mount: %s", mounting.err);
    if (args->fake)
        return CLI_OK;
    int rc = cli_daemon_start(args->foreground, &mounting.daemon, &code);
    if (rc < 0)
        return cli_error(CLI_FAILED, "mount: no daemon can be started: %s", strerror(-rc));
    if (rc == 1)
        return code;
    code = live(&mounting);
    free(mounting.daemon);
    return code;
}

static int mount_main(int argc, char **argv, bool is_helper)
{
    static const struct argp argp = {.options = mount_options, .parser = mount_option, .args_doc = "SOURCE MOUNTPOINT", .doc = mount_doc};
    struct mount_args       *args = calloc(1, sizeof *args);
    if (!args)
        return cli_error(CLI_FAILED, "out of memory");
    args->is_helper = is_helper;
    int code = cli_args_parse(&argp, argc, argv, args);
    if (code == 0 && args->err[0])
        code = cli_error(CLI_USAGE, "mount: %s", args->err);
    if (code == 0) {
        args->foreground |= args->options.debug;
        code = mount_run(args);
    }
    free(args);
    return code;
}

int cli_mount(int argc, char **argv)
{
    return mount_main(argc, argv, false);
}

int cli_mount_helper(int argc, char **argv)
{
    return mount_main(argc, argv, true);
}
