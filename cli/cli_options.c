/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli_options.c - what stands behind -o.
 *
 * Options come from people, from fstab and from mount(8), which passes on a good deal that is meant for others. So there are four sorts: ours; those for FUSE
 * itself; those that are known and mean nothing here; all others are an error. A comma inside a value is written "\,".
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "cli.h"

enum { RECALL_TIMEOUT_MAX_S = 3600, REVALIDATE_MAX_S = 86400, WORKERS_MAX = 48 /* each thread needs an epoch slot, see SEG_THREADS_MAX */ };

/* Known and without a meaning here: mount(8), fstab(5), systemd, or what is so anyway. */
static const char *const ignored[] = {
    "rw", "defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "nouser", "owner", "group", "allow_other",
    "default_permissions", "lazytime", "nolazytime", "silent", "loud", "mand", "nomand", "iversion", "noiversion", "nonempty", NULL,
};
static const char *const ignored_starts[] = {"x-", "X-", "comment=", "user=", "uhelper=", "helper=", "subtype=", NULL};
/* For FUSE, as they stand. */
static const char *const passed[] = {"suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "noatime", NULL};
static const char *const passed_starts[] = {"max_read=", NULL};

static int fail(char err[SEG_ERR_BYTES], const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail(char err[SEG_ERR_BYTES], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(err, SEG_ERR_BYTES, format, args);
    va_end(args);
    return -EINVAL;
}

static bool is_one_of(const char *const *list, const char *word)
{
    for (; *list; list++)
        if (strcmp(*list, word) == 0)
            return true;
    return false;
}

static bool starts_with_one_of(const char *const *list, const char *word)
{
    for (; *list; list++)
        if (strncmp(*list, word, strlen(*list)) == 0)
            return true;
    return false;
}

int cli_size_parse(const char *text, uint64_t *bytes)
{
    char *end;
    if (*text < '0' || *text > '9')
        return -EINVAL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno)
        return -EINVAL;
    static const char units[] = "KMGT";
    const char       *unit = *end ? strchr(units, *end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end) : NULL;
    unsigned          shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (unit)
        end++;
    if (*end && !(unit && strcmp(end, "iB") == 0))
        return -EINVAL;
    if (shift && number >> (64 - shift))
        return -EINVAL;
    *bytes = number << shift;
    return 0;
}

static int number_parse(const char *text, unsigned least, unsigned most, unsigned *number)
{
    char *end;
    if (*text < '0' || *text > '9')
        return -EINVAL;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || *end || value < least || value > most)
        return -EINVAL;
    *number = (unsigned)value;
    return 0;
}

static int name_take(const char *key, const char *value, char name[SEG_NAME_MAX], char *err)
{
    if (!persist_name_ok(value))
        return fail(err, "%s=%.80s%s: is no name; use 1 to %d letters, digits, dots, underscores or hyphens, not a dot first", key, value,
                    strlen(value) > 80 ? "..." : "", SEG_NAME_MAX - 1);
    strcpy(name, value);
    return 0;
}

static int path_take(const char *key, const char *value, char *path, char *err)
{
    if (!*value || strlen(value) >= CLI_PATH_MAX)
        return fail(err, "%s=: the path is %s", key, *value ? "too long" : "missing");
    strcpy(path, value);
    return 0;
}

static int fuse_add(struct cli_mount_options *options, const char *option, char *err)
{
    size_t used = strlen(options->fuse);
    if (used + strlen(option) + 2 > sizeof options->fuse)
        return fail(err, "-o: too many options");
    sprintf(options->fuse + used, "%s%s", used ? "," : "", option);
    return 0;
}

static int cache_take(const char *value, struct cli_mount_options *options, char *err)
{
    if (strcmp(value, "kernel") != 0 && strcmp(value, "shared") != 0)
        return fail(err, "cache=%.40s: choose cache=kernel (default) or cache=shared (file data only in the segment, once per host)", value);
    options->cache_shared = strcmp(value, "shared") == 0;
    return 0;
}

static int watch_take(const char *value, struct cli_mount_options *options, char *err)
{
    if (strcmp(value, "fanotify") != 0 && strcmp(value, "inotify") != 0)
        return fail(err, "watch=%.40s: write watch (the better of both), watch=fanotify or watch=inotify", value);
    options->watch = strcmp(value, "fanotify") == 0 ? FS_WATCH_FANOTIFY : FS_WATCH_INOTIFY;
    return 0;
}

static int revalidate_take(const char *value, struct cli_mount_options *options, char *err)
{
    unsigned seconds = 0;
    if (strcmp(value, "never") != 0 && strcmp(value, "open") != 0 && number_parse(value, 1, REVALIDATE_MAX_S, &seconds) != 0)
        return fail(err, "revalidate=%.40s: choose revalidate=open (default), revalidate=never, or seconds, 1 to %d", value, REVALIDATE_MAX_S);
    options->revalidate_ms = strcmp(value, "never") == 0 ? FS_REVALIDATE_NEVER : seconds * 1000;
    return 0;
}

/* KEY=VALUE of ours; 1: not ours. */
static int value_take(const char *key, const char *value, struct cli_mount_options *options, char *err)
{
    unsigned seconds;
    if (strcmp(key, "name") == 0)
        return name_take(key, value, options->name, err);
    if (strcmp(key, "member") == 0)
        return name_take(key, value, options->member, err);
    if (strcmp(key, "state_dir") == 0)
        return path_take(key, value, options->state_dir, err);
    if (strcmp(key, "segment") == 0)
        return path_take(key, value, options->segment, err);
    if (strcmp(key, "fsname") == 0)
        return path_take(key, value, options->fsname, err);
    if (strcmp(key, "size") == 0)
        return cli_size_parse(value, &options->size_bytes) == 0 && options->size_bytes
                   ? 0 : fail(err, "size=%.40s: is no size; write it like size=512M or size=4G", value);
    if (strcmp(key, "recall_timeout") == 0) {
        if (number_parse(value, 1, RECALL_TIMEOUT_MAX_S, &seconds) != 0)
            return fail(err, "recall_timeout=%.40s: give seconds, 1 to %d", value, RECALL_TIMEOUT_MAX_S);
        options->recall_timeout_ms = seconds * 1000;
        return 0;
    }
    if (strcmp(key, "revalidate") == 0)
        return revalidate_take(value, options, err);
    if (strcmp(key, "watch") == 0)
        return watch_take(value, options, err);
    if (strcmp(key, "workers") == 0)
        return number_parse(value, 1, WORKERS_MAX, &options->workers) == 0 ? 0 : fail(err, "workers=%.40s: give a number, 1 to %d", value, WORKERS_MAX);
    if (strcmp(key, "locks") == 0) {
        if (strcmp(value, "shared") != 0 && strcmp(value, "none") != 0)
            return fail(err, "locks=%.40s: choose locks=shared (default) or locks=none (nobody locks files; opens are cheaper)", value);
        options->locks_none = strcmp(value, "none") == 0;
        return 0;
    }
    if (strcmp(key, "cache") == 0)
        return cache_take(value, options, err);
    if (strcmp(key, "write") == 0)
        return strcmp(value, "through") == 0 ? 0 : fail(err, "write=%.40s: only write=through exists yet; leave the option out", value);
    return 1;
}

/* A word of ours; 1: not ours. */
static int word_take(const char *word, struct cli_mount_options *options, char *err)
{
    if (strcmp(word, "noatime") == 0) {
        options->atime = FS_ATIME_NEVER;
        options->noatime = true;
        return 1; /* and shown by mount(8) */
    }
    if (strcmp(word, "ro") == 0)
        options->read_only = true;
    else if (strcmp(word, "rw") == 0)
        options->read_only = false;
    else if (strcmp(word, "uring") == 0)
        options->uring = FS_URING_ON;
    else if (strcmp(word, "nouring") == 0)
        options->uring = FS_URING_OFF;
    else if (strcmp(word, "noepoch") == 0)
        options->names_plain = true;
    else if (strcmp(word, "strictatime") == 0)
        options->atime = FS_ATIME_STRICT;
    else if (strcmp(word, "nodiratime") == 0)
        options->atime = options->noatime ? FS_ATIME_NEVER : FS_ATIME_NOT_OF_DIRS;
    else if (strcmp(word, "relatime") == 0 || strcmp(word, "atime") == 0 || strcmp(word, "diratime") == 0 || strcmp(word, "norelatime") == 0 ||
             strcmp(word, "nostrictatime") == 0)
        options->atime = FS_ATIME_RELATIVE;
    else if (strcmp(word, "watch") == 0)
        options->watch = FS_WATCH_AUTO;
    else if (strcmp(word, "debug") == 0)
        options->debug = true;
    else if (strcmp(word, "auto_unmount") == 0)
        return fail(err, "auto_unmount: is not supported; end the mount with umount, and a dead one with umount -l");
    else if (strcmp(word, "remount") == 0)
        return fail(err, "remount: is not supported; umount and mount again (the cache stays warm)");
    else if (strcmp(word, "allow_root") == 0)
        return fail(err, "allow_root: is not supported; the mount is open to all, as its files' modes allow");
    else
        return 1;
    return 0;
}

static int option_take(char *option, struct cli_mount_options *options, char *err)
{
    int   rc = 1;
    char *equals = strchr(option, '=');
    if (!equals) {
        rc = word_take(option, options, err);
    } else {
        *equals = 0;
        rc = value_take(option, equals + 1, options, err);
        *equals = '=';
    }
    if (rc != 1)
        return rc;
    if (is_one_of(passed, option) || starts_with_one_of(passed_starts, option))
        return fuse_add(options, option, err);
    if (is_one_of(ignored, option) || starts_with_one_of(ignored_starts, option))
        return 0;
    return fail(err, "unknown option \"%.80s\"; see hearthfs mount --help", option);
}

int cli_options_parse(const char *text, struct cli_mount_options *options, char err[SEG_ERR_BYTES])
{
    char  *option = malloc(strlen(text) + 1);
    int    rc = 0;
    size_t used = 0;
    if (!option)
        return fail(err, "out of memory");
    for (const char *c = text; rc == 0; c++) {
        if (*c == '\\' && (c[1] == ',' || c[1] == '\\')) {
            option[used++] = *++c;
            continue;
        }
        if (*c && *c != ',') {
            option[used++] = *c;
            continue;
        }
        option[used] = 0;
        if (used)
            rc = option_take(option, options, err);
        used = 0;
        if (!*c)
            break;
    }
    free(option);
    return rc;
}

void cli_name_default(const char *real_path, char name[SEG_NAME_MAX])
{
    enum { BASE_MAX = 40 };
    char        word[BASE_MAX + 1];
    size_t      length = 0;
    const char *base = strrchr(real_path, '/');
    for (base = base ? base + 1 : real_path; *base && length < BASE_MAX; base++) {
        bool plain = (*base >= 'a' && *base <= 'z') || (*base >= 'A' && *base <= 'Z') || (*base >= '0' && *base <= '9') ||
                     *base == '_' || *base == '-' || (*base == '.' && length);
        word[length++] = plain ? *base : '_';
    }
    word[length] = 0;
    snprintf(name, SEG_NAME_MAX, "%s-%06x", length ? word : "root",
             (unsigned)(XXH3_64bits(real_path, strlen(real_path)) & 0xffffff));
}
