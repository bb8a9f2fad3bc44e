/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_map.c - from a name to a mapped segment: paths, creation, attaching, resolving.
 *
 * Creation is one atomic step for everyone else:
 *
 *   unnamed file (O_TMPFILE) -> memory reserved -> mapped -> epoch, hints, superblock -> magic -> named (linkat)
 *
 * Until the last arrow nobody can open the object, and if we die before it the kernel removes it. linkat() does not
 * replace, so of several creators one wins; the others close theirs and attach the winner's. Where the file system
 * has no O_TMPFILE, a file under a temporary name takes its place and renameat2(RENAME_NOREPLACE), or link and
 * unlink, names it; dying there leaves a file named .NAME.XXXXXX behind, which no attach ever looks at.
 *
 * Attaching judges before it maps: the superblock is read into private memory and checked there (seg_super.c), and
 * the section table used from then on is that private copy. What peers write into page 0 later changes nothing here.
 *
 * struct seg is written by the opening thread only, but for the fields that seg_internal.h marks atomic.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "seg_internal.h"

#define SEG_FOLDER "/dev/shm/hearthfs"
enum { NAMING_ATTEMPTS = 16, ATTACH_ATTEMPTS = 64 };

int seg_fail(char *err, int rc, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err, SEG_ERR_BYTES, format, args);
        va_end(args);
    }
    return rc;
}

/* ---- paths ---- */

static bool name_is_valid(const char *name)
{
    size_t length = strlen(name);
    if (!length || length >= SEG_NAME_MAX || name[0] == '.')
        return false;
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            return false;
    return true;
}

/* /dev/shm is open to all: use the folder only when nobody else could have put things there. */
static int folder_prepare(char *err)
{
    struct stat st;

    if (mkdir(SEG_FOLDER, 0700) && errno != EEXIST)
        return seg_fail(err, -errno, "folder " SEG_FOLDER ": cannot be made: %s; is a tmpfs mounted on /dev/shm?",
                        strerror(errno));
    if (lstat(SEG_FOLDER, &st))
        return seg_fail(err, -errno, "folder " SEG_FOLDER ": %s", strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return seg_fail(err, -ENOTDIR, "folder " SEG_FOLDER ": is not a folder; remove it");
    if ((st.st_uid != geteuid() && st.st_uid != 0) || st.st_mode & 022)
        return seg_fail(err, -EACCES,
                        "folder " SEG_FOLDER ": belongs to uid %u with mode %o, others could write there; "
                        "remove it, or chown and chmod 700",
                        (unsigned)st.st_uid, (unsigned)st.st_mode & 07777);
    return 0;
}

int seg_path(const char *spec, char *path, size_t path_size, char err[SEG_ERR_BYTES])
{
    int length;

    if (!strncmp(spec, "file:", 5)) {
        if (!spec[5])
            return seg_fail(err, -EINVAL, "segment 'file:': the path is missing");
        length = snprintf(path, path_size, "%s", spec + 5);
    } else {
        const char *name = strncmp(spec, "shm:", 4) ? spec : spec + 4;
        if (!name_is_valid(name))
            return seg_fail(err, -EINVAL,
                            "segment name '%.80s': use 1 to %d letters, digits, '.', '_' or '-', not starting "
                            "with '.'; file:PATH names any file",
                            name, SEG_NAME_MAX - 1);
        int rc = folder_prepare(err);
        if (rc)
            return rc;
        length = snprintf(path, path_size, SEG_FOLDER "/%s", name);
    }
    if (length < 0 || (size_t)length >= path_size)
        return seg_fail(err, -EINVAL, "segment '%.80s...': the path is too long", spec);
    return 0;
}

/* "NAME" or "file:PATH": what a user types to name this segment. */
static const char *path_spec(const char *path, char *buffer, size_t size)
{
    const char *name = strncmp(path, SEG_FOLDER "/", sizeof SEG_FOLDER) ? NULL : path + sizeof SEG_FOLDER;
    if (name && name_is_valid(name))
        snprintf(buffer, size, "%s", name);
    else
        snprintf(buffer, size, "file:%.80s", path);
    return buffer;
}

/* ---- mapping ---- */

/* Maps what `super` (checked, private) describes. Takes fd over when it succeeds. */
static int map_checked(int fd, const char *path, const struct seg_super *super, bool rdonly, struct seg **out)
{
    struct seg *seg = aligned_alloc(64, sizeof *seg);
    int         rc = -ENOMEM;

    if (!seg)
        return rc;
    memset(seg, 0, sizeof *seg);
    seg->path = strdup(path);
    if (!seg->path)
        goto fail;
    seg->size_bytes = super->size_bytes;
    seg->fd = fd;
    seg->rdonly = rdonly;
    pthread_mutex_init(&seg->recovery_mutex, NULL);
    rc = seg_epoch_open(seg);
    if (rc)
        goto fail;
    void *base = mmap(NULL, seg->size_bytes, rdonly ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        rc = -errno;
        seg_epoch_close(seg);
        goto fail;
    }
    seg->base = base;
    for (uint32_t i = 0; i < super->section_count; i++) {
        const struct seg_section *section = &super->section[i];
        seg->section[section->kind] = (struct seg_array){seg->base + section->off, section->stride, section->count};
    }
    seg->members = (struct seg_member *)(void *)seg->section[SEG_SECTION_MEMBERS].base;
    *out = seg;
    return 0;
fail:
    free(seg->path);
    free(seg);
    return rc;
}

void seg_close(struct seg *seg)
{
    if (!seg)
        return;
    munmap(seg->base, seg->size_bytes);
    close(seg->fd);
    seg_epoch_close(seg);
    pthread_mutex_destroy(&seg->recovery_mutex);
    free(seg->path);
    free(seg);
}

/* ---- creation ---- */

struct creation {
    const char *path;
    char        folder[4096];
    char        temporary[4096]; /* "" while the file has no name */
    int         fd;
};

static int creation_open(struct creation *creation, bool unnamed, char *err)
{
    const char *slash = strrchr(creation->path, '/');
    int         length = slash ? (int)(slash - creation->path) : 1;

    creation->temporary[0] = 0;
    snprintf(creation->folder, sizeof creation->folder, "%.*s", length ? length : 1, slash ? creation->path : ".");
    if (unnamed) {
        creation->fd = open(creation->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (creation->fd >= 0)
            return 0;
        if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
            return seg_fail(err, -errno, "cannot be made in %s: %s", creation->folder, strerror(errno));
    }
    length = snprintf(creation->temporary, sizeof creation->temporary, "%s/.%s.XXXXXX", creation->folder,
                      slash ? slash + 1 : creation->path);
    if (length < 0 || (size_t)length >= sizeof creation->temporary)
        return seg_fail(err, -ENAMETOOLONG, "the path is too long");
    creation->fd = mkostemp(creation->temporary, O_CLOEXEC);
    if (creation->fd >= 0)
        return 0;
    creation->temporary[0] = 0;
    return seg_fail(err, -errno, "cannot be made in %s: %s", creation->folder, strerror(errno));
}

/* Gives the object its name; -EEXIST when somebody else was first. */
static int creation_name(struct creation *creation)
{
    char proc[64];

    if (!creation->temporary[0]) {
        snprintf(proc, sizeof proc, "/proc/self/fd/%d", creation->fd);
        if (linkat(AT_FDCWD, proc, AT_FDCWD, creation->path, AT_SYMLINK_FOLLOW) == 0)
            return 0;
        if (errno != ENOENT)
            return -errno;
        /* no /proc: by the descriptor itself, which needs CAP_DAC_READ_SEARCH */
        return linkat(creation->fd, "", AT_FDCWD, creation->path, AT_EMPTY_PATH) ? -errno : 0;
    }
    if (renameat2(AT_FDCWD, creation->temporary, AT_FDCWD, creation->path, RENAME_NOREPLACE) == 0) {
        creation->temporary[0] = 0;
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    return link(creation->temporary, creation->path) ? -errno : 0; /* creation_end() removes the temporary name */
}

static void creation_end(struct creation *creation)
{
    if (creation->temporary[0])
        unlink(creation->temporary);
}

static int memory_reserve(const struct creation *creation, uint64_t size_bytes, char *err)
{
    struct statvfs fs;
    uint64_t       free_bytes = UINT64_MAX;
    int            rc = 0;

    if (fstatvfs(creation->fd, &fs) == 0)
        free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (size_bytes > free_bytes || size_bytes > INT64_MAX) {
        rc = ENOSPC;
    } else if (ftruncate(creation->fd, (off_t)size_bytes)) {
        rc = errno;
    } else {
        do
            rc = posix_fallocate(creation->fd, 0, (off_t)size_bytes);
        while (rc == EINTR);
    }
    if (rc == ENOSPC || rc == EDQUOT || rc == EFBIG || rc == ENOMEM)
        return seg_fail(err, -ENOSPC,
                        "no space: %" PRIu64 " MiB wanted, %" PRIu64 " MiB free in %s; choose a smaller -o size, "
                        "or make room there (df %s)",
                        (size_bytes + (1u << 20) - 1) >> 20, free_bytes >> 20, creation->folder, creation->folder);
    if (rc)
        return seg_fail(err, -rc, "memory cannot be reserved: %s", strerror(rc));
    return 0;
}

/* Random, version 4, variant 1 (RFC 9562). */
static int uuid_make(uint8_t uuid[16])
{
    size_t got = 0;
    while (got < 16) {
        ssize_t n = getrandom(uuid + got, 16 - got, 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            got += (size_t)n;
    }
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
    return 0;
}

/* Fills a fresh object, all zero so far. Nobody else can see it yet. */
static void segment_format(struct seg *seg, const struct seg_super *super)
{
    static const enum seg_section_kind pools[][2] = {
        {SEG_SECTION_INODES, SEG_SECTION_INODE_HINTS},
        {SEG_SECTION_NAMES, SEG_SECTION_NAME_HINTS},
        {SEG_SECTION_CHUNKS, SEG_SECTION_CHUNK_HINTS},
        {SEG_SECTION_FRAMES, SEG_SECTION_FRAME_HINTS},
    };
    struct seg_super *mapped = (struct seg_super *)(void *)seg->base;

    atomic_store_explicit(&seg_common(seg)->epoch, 1, memory_order_relaxed);
    for (size_t i = 0; i < sizeof pools / sizeof pools[0]; i++)
        if (seg->section[pools[i][1]].base)
            seg_pool_format(seg, pools[i][0], pools[i][1]);
    memcpy((unsigned char *)mapped + sizeof mapped->magic, (const unsigned char *)super + sizeof super->magic,
           sizeof *super - sizeof super->magic);
    atomic_store_explicit(&mapped->magic, SEG_MAGIC, memory_order_release); /* MAGIC: after all else */
}

static int segment_create(const char *path, const struct seg_plan *plan, bool unnamed, struct seg **out, char *err)
{
    struct seg_super *super = NULL;
    struct creation   creation = {.path = path, .fd = -1};
    struct seg       *seg = NULL;
    int               rc = creation_open(&creation, unnamed, err);

    if (rc)
        return rc;
    super = calloc(1, sizeof *super);
    rc = super ? seg_super_plan(plan, super, err) : seg_fail(err, -ENOMEM, "out of memory");
    if (rc)
        goto end;
    rc = uuid_make(super->uuid);
    if (rc) {
        seg_fail(err, rc, "no random numbers: %s", strerror(-rc));
        goto end;
    }
    seg_super_seal(super);
    rc = seg_super_check(super, plan->size_bytes, plan->signature, false, err);
    if (rc) {
        rc = -EINVAL; /* a bad plan, not bad bytes */
        goto end;
    }
    rc = memory_reserve(&creation, plan->size_bytes, err);
    if (rc)
        goto end;
    rc = map_checked(creation.fd, path, super, false, &seg);
    if (rc) {
        seg_fail(err, rc, "cannot be mapped: %s", strerror(-rc));
        goto end;
    }
    segment_format(seg, super);
    rc = creation_name(&creation);
    if (rc)
        seg_fail(err, rc, "cannot be named: %s", strerror(-rc));
end:
    creation_end(&creation);
    free(super);
    if (rc && seg)
        seg_close(seg);
    else if (rc)
        close(creation.fd);
    else
        *out = seg;
    return rc;
}

int seg_create_named(const char *path, const struct seg_plan *plan, struct seg **out, char *err)
{
    return segment_create(path, plan, false, out, err);
}

/* ---- attaching ---- */

static int super_read(int fd, struct seg_super *super)
{
    size_t got = 0;
    memset(super, 0, sizeof *super); /* a short file reads as zeros */
    while (got < sizeof *super) {
        ssize_t n = pread(fd, (unsigned char *)super + got, sizeof *super - got, (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return 0;
}

static int segment_attach(const char *path, const struct seg_plan *plan, bool rdonly, struct seg **out, char *err)
{
    struct seg_super *super = NULL;
    struct stat       st;
    int               rc;

    int fd = open(path, (rdonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        rc = errno == EISDIR ? -EBADMSG : -errno;
        return seg_fail(err, rc, "%s", errno == ENOENT ? "does not exist" : strerror(errno));
    }
    if (fstat(fd, &st)) {
        rc = seg_fail(err, -errno, "%s", strerror(errno));
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = seg_fail(err, -EBADMSG, "not a hearthfs segment but a special file or folder");
        goto fail;
    }
    super = calloc(1, sizeof *super);
    rc = super ? super_read(fd, super) : -ENOMEM;
    if (rc) {
        seg_fail(err, rc, "cannot be read: %s", strerror(-rc));
        goto fail;
    }
    rc = seg_super_check(super, (uint64_t)st.st_size, plan ? plan->signature : 0, !plan, err);
    if (rc)
        goto fail;
    rc = map_checked(fd, path, super, rdonly, out);
    if (rc) {
        seg_fail(err, rc, "cannot be mapped: %s", strerror(-rc));
        goto fail;
    }
    free(super);
    return 0;
fail:
    free(super);
    close(fd);
    return rc;
}

/* Puts the path before the reason and, where there is one, the way out behind it. */
static int open_fail(const char *path, int rc, const char *reason, char *err)
{
    char        spec[96];
    const char *way_out = "";

    path_spec(path, spec, sizeof spec);
    if (rc == -EPROTO)
        way_out = "; use the matching program or `hearthfs destroy ";
    else if (rc == -EBADMSG)
        way_out = "; choose another name, or remove it with `hearthfs destroy ";
    return seg_fail(err, rc, "segment %.100s: %.140s%s%.60s%s", path, reason, way_out, *way_out ? spec : "",
                    *way_out ? "`" : "");
}

int seg_open(const char *path, const struct seg_plan *plan, unsigned flags, struct seg **out, bool *created,
             char err[SEG_ERR_BYTES])
{
    char reason[SEG_ERR_BYTES] = "";
    bool rdonly = flags & SEG_OPEN_RDONLY, made = false;
    int  rc = -ENOENT;

    if ((flags & SEG_OPEN_CREATE && (rdonly || !plan)) || (!plan && !rdonly))
        return seg_fail(err, -EINVAL, "segment %.100s: creating and joining need a plan and write access", path);

    /* Others may create between our looks, or destroy; each round is a fresh look. */
    for (int i = 0; i < ATTACH_ATTEMPTS; i++) {
        rc = segment_attach(path, plan, rdonly, out, reason);
        if (rc != -ENOENT || !(flags & SEG_OPEN_CREATE))
            break;
        rc = segment_create(path, plan, true, out, reason);
        made = rc == 0;
        if (rc != -EEXIST)
            break;
    }
    if (rc)
        return open_fail(path, rc, reason, err);
    if (created)
        *created = made;
    return 0;
}

/* ---- resolving ---- */

const struct seg_super *seg_super(const struct seg *seg)
{
    return (const struct seg_super *)(const void *)seg->base;
}

struct seg_common *seg_common(const struct seg *seg)
{
    return (struct seg_common *)(void *)(seg->base + SEG_PAGE);
}

uint64_t seg_size(const struct seg *seg)
{
    return seg->size_bytes;
}

const char *seg_file_path(const struct seg *seg)
{
    return seg->path;
}

int seg_fd(const struct seg *seg)
{
    return seg->fd;
}

void *seg_at(const struct seg *seg, uint64_t off, uint64_t size, uint64_t align)
{
    uint64_t end;
    if (!align || align & (align - 1) || off & (align - 1) || __builtin_add_overflow(off, size, &end) ||
        end > seg->size_bytes)
        return NULL;
    return seg->base + off;
}

struct seg_array seg_section(const struct seg *seg, enum seg_section_kind kind)
{
    return (unsigned)kind < SEG_SECTION_KINDS ? seg->section[kind] : (struct seg_array){0};
}
