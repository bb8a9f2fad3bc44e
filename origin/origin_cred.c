/* SPDX-License-Identifier: Apache-2.0 */
/*
 * origin_cred.c - acting as the caller, on this thread only.
 *
 * The C library's setuid family changes all threads of a process; the system calls themselves change the calling thread.
 * So they are made raw. It is the effective uid that changes, not only the one for file access: the kernel then takes
 * all effective capabilities away, not only those for files, so that a user's request can neither set trusted.*
 * attributes (CAP_SYS_ADMIN) nor eat the blocks reserved for root (CAP_SYS_RESOURCE). Real and saved uid stay the
 * daemon's: the way back is always open, and users cannot send signals to the daemon. Going back to uid 0 restores the
 * capabilities.
 *
 * Order: groups and gid while there is still the right to set them, then the uid; back in the opposite order. A way back
 * that fails would leave a thread with the wrong rights: that is the end of the process.
 *
 * The umask belongs to what threads share (fs_struct), so a thread takes one of its own with unshare(CLONE_FS) before it
 * creates something. Where a sandbox forbids unshare, the umask is applied here instead, on top of the daemon's own,
 * which is the same except under default ACLs if the daemon's is 0. Side effect known: the kernel clears a thread's PR_SET_PDEATHSIG when its credentials change.
 *
 * If we die here, nothing is left: credentials die with the thread.
 */
#include "origin_posix.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef SYS_setresuid32
enum { CALL_SETRESUID = SYS_setresuid32, CALL_SETRESGID = SYS_setresgid32, CALL_SETGROUPS = SYS_setgroups32 };
#else
enum { CALL_SETRESUID = SYS_setresuid, CALL_SETRESGID = SYS_setresgid, CALL_SETGROUPS = SYS_setgroups };
#endif

static int set_groups(uint32_t count, const gid_t *groups)
{
    return syscall(CALL_SETGROUPS, (size_t)count, groups) < 0 ? -errno : 0;
}

static int set_gid(uint32_t gid)
{
    return syscall(CALL_SETRESGID, (gid_t)-1, (gid_t)gid, (gid_t)-1) < 0 ? -errno : 0;
}

static int set_uid(uint32_t uid)
{
    return syscall(CALL_SETRESUID, (uid_t)-1, (uid_t)uid, (uid_t)-1) < 0 ? -errno : 0;
}

static bool same_groups(const struct origin *origin, const struct origin_cred *cred)
{
    return origin->group_count == cred->group_count &&
           (cred->group_count == 0 || memcmp(origin->groups, cred->groups, cred->group_count * sizeof(gid_t)) == 0);
}

/* unshare() each time: it costs nothing where nothing is shared, and threads that this one has started meanwhile share
 * its umask again. */
static void mask_take(const struct origin_cred *cred, struct origin_cred_held *held)
{
    if (unshare(CLONE_FS) < 0)
        return; /* origin_cred_mode() */
    held->umask = umask((mode_t)(cred->umask & 0777));
    held->mask = true;
}

int origin_cred_take(const struct origin *origin, const struct origin_cred *cred, bool creates,
                     struct origin_cred_held *held)
{
    int err = 0;

    *held = (struct origin_cred_held){0};
    if (!cred)
        return 0;
    if (cred->group_count > ORIGIN_GROUPS_MAX || (cred->group_count && !cred->groups) || cred->uid == (uint32_t)-1 ||
        cred->gid == (uint32_t)-1)
        return -EINVAL;
    if (creates)
        mask_take(cred, held);
    if (cred->uid == origin->uid && origin->uid != 0)
        return 0; /* an unprivileged daemon, for its own user */
    if (cred->uid != origin->uid && !same_groups(origin, cred)) {
        err = set_groups(cred->group_count, cred->groups);
        held->groups = !err;
    }
    if (!err && cred->gid != origin->gid) {
        err = set_gid(cred->gid);
        held->gid = !err;
    }
    if (!err && cred->uid != origin->uid) {
        err = set_uid(cred->uid);
        held->uid = !err;
    }
    if (err)
        origin_cred_restore(origin, held);
    return err;
}

void origin_cred_restore(const struct origin *origin, const struct origin_cred_held *held)
{
    int keep = errno;

    if ((held->uid && set_uid(origin->uid) != 0) || (held->gid && set_gid(origin->gid) != 0) ||
        (held->groups && set_groups(origin->group_count, origin->groups) != 0)) {
        fputs("hearthfs: a thread cannot go back to the daemon's own rights; giving up\n", stderr);
        abort();
    }
    if (held->mask)
        umask((mode_t)held->umask);
    errno = keep;
}

uint32_t origin_cred_mode(const struct origin_cred *cred, const struct origin_cred_held *held, uint32_t mode)
{
    return cred && !held->mask ? mode & ~(cred->umask & 0777) : mode;
}
