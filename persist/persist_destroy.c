/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist_destroy.c - removing a segment.
 *
 * The decision and the unlink are made under the recovery lock, under which members join too: so either we see a member, or it finds that the path does not
 * lead to its segment any more and starts over (persist_session.c).
 *
 * force: members that are running are fenced first. Without that they would go on with a segment that nobody can find, and the next mount would make a second
 * one for the same directory: two caches that do not know of each other's writes. Fenced, they fail with EIO until they are mounted again.
 *
 * A segment that cannot be read (another version, damaged) can be destroyed too, as long as nobody holds a liveness lock on it; but a file outside
 * /dev/shm/hearthfs that does not even begin like one only with force: it may be anything. If we die half-way, records are left that name a segment which
 * has gone; the next mount says so and writes a new one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "persist_internal.h"

/* Any member's liveness lock on a file whose contents we cannot read? The answer comes from the kernel alone. */
static bool someone_holds(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)SEG_LIVENESS_OFF, .l_len = SEG_MEMBERS_MAX};
    return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

/* Does it begin like a segment, of any version and byte order? */
static bool looks_like_one(int fd)
{
    uint64_t magic = 0;
    return pread(fd, &magic, sizeof magic, 0) == (ssize_t)sizeof magic && (magic == SEG_MAGIC || magic == __builtin_bswap64(SEG_MAGIC));
}

static int destroy_unreadable(const char *path, bool force, char err[SEG_ERR_BYTES])
{
    struct stat st;
    int         fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return persist_fail(err, -errno, "segment %.150s: %s", path, strerror(errno));
    int rc = 0;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = persist_fail(err, -EINVAL, "segment %.150s: is not a file; nothing was removed", path);
    else if (!force && strncmp(path, "/dev/shm/hearthfs/", 18) != 0 && !looks_like_one(fd))
        rc = persist_fail(err, -EBADMSG, "%.150s: is not a hearthfs segment; nothing was removed (--force removes it all the same)", path);
    else if (!force && someone_holds(fd))
        rc = persist_fail(err, -EBUSY, "segment %.150s: is in use by another version of this program; unmount there first, or add --force", path);
    else if (unlink(path) != 0)
        rc = persist_fail(err, -errno, "segment %.150s: cannot be removed: %s", path, strerror(errno));
    close(fd);
    return rc;
}

/* Under the recovery lock. */
static int destroy_locked(struct seg *seg, const char *path, bool force, char err[SEG_ERR_BYTES])
{
    char who[SEG_ERR_BYTES];
    if (!persist_path_leads_to(path, seg))
        return persist_fail(err, -ENOENT, "segment %.150s: somebody else has destroyed it just now", path);
    if (persist_someone_lives(seg, who)) {
        if (!force)
            return persist_fail(err, -EBUSY, "%.200s; unmount first, or add --force", who);
        for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
            uint32_t incarnation;
            seg_member_state(seg, slot, &incarnation);
            seg_member_fence(seg, slot, incarnation); /* does nothing to those who are at rest */
        }
    }
    if (unlink(path) != 0)
        return persist_fail(err, -errno, "segment %.150s: cannot be removed: %s", path, strerror(errno));
    return 0;
}

static int destroy_segment(const char *path, bool force, char name[SEG_NAME_MAX], char err[SEG_ERR_BYTES])
{
    struct seg_plan plan = {.signature = cache_layout_signature()};
    struct seg     *seg;
    int             rc = seg_open(path, &plan, 0, &seg, NULL, err);
    if (rc == -EBADMSG || rc == -EPROTO)
        return destroy_unreadable(path, force, err);
    if (rc)
        return rc;
    memcpy(name, seg_super(seg)->name, SEG_NAME_MAX);
    name[SEG_NAME_MAX - 1] = 0;
    rc = seg_recovery_lock(seg, false);
    if (rc == 0) {
        rc = destroy_locked(seg, path, force, err);
        seg_recovery_unlock(seg);
    } else {
        persist_fail(err, rc, "segment %.150s: cannot be locked: %s", path, strerror(-rc));
    }
    seg_close(seg);
    return rc;
}

int persist_destroy(const char *spec, const char *state_dir, bool force, char err[SEG_ERR_BYTES])
{
    char path[PERSIST_PATH_MAX], name[SEG_NAME_MAX];
    int  rc = persist_path_of(spec, path, err);
    if (rc)
        return rc;
    const char *base = strrchr(path, '/');
    snprintf(name, sizeof name, "%.63s", base ? base + 1 : path);
    rc = destroy_segment(path, force, name, err);
    if (rc && rc != -ENOENT)
        return rc;
    int removed = persist_record_remove_all(state_dir, name);
    if (rc == -ENOENT && removed == 0)
        return 0; /* after a reboot: the memory has gone by itself, the records are what is left */
    if (rc == 0 && removed && removed != -ENOENT && removed != -EINVAL)
        return persist_fail(err, removed, "the segment is removed, its records in %.100s/%.63s are not: %s", state_dir, name, strerror(-removed));
    return rc;
}
