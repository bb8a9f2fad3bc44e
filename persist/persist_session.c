/* SPDX-License-Identifier: Apache-2.0 */
/*
 * persist_session.c - one member's whole standing in a segment, from the record to the first request and back.
 *
 * Order of open, and what lies there if we die after each step:
 *   1  folders of the record     empty folders
 *   2  segment                   made and linked in one step by seg_open(), or attached
 *   3  format                    under the recovery lock; whoever attaches finishes what the maker did not (persist_format_once)
 *   4  join                      a slot with our identity, JOINING, its liveness lock free: anyone settles and parks it, we take it back by name
 *   5  handles of the floors     nothing shared
 *   6  settle                    own former lives, then every dead member; idempotent, repeated by the next one
 *   7  activate                  as 4, but ACTIVE
 *   8  record                    as 7: the slot is found again by the member's name
 * Two daemons that start at the same instant meet in 2 (one links, one attaches), 3 and 4 (the recovery lock).
 *
 * A segment may be destroyed between 2 and 4. destroy looks for members and unlinks under the recovery lock, join runs under it too; so after the
 * join either destroy saw us, or the path does not lead to our segment any more: then we start over.
 *
 * Who we are: the uuid of the record, if it is of this segment or of none that is there; else that of the slot which bears our name;
 * else a new one. A living member of the same name is refused.
 *
 * Close settles what the own life holds (interest and known bits, limbo) as if it were dead, while it still has its slot; then parks. A kernel that
 * unmounted caches nothing, so nobody may wait for this member from then on.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "persist_internal.h"

enum { ATTEMPTS = 8, RECALL_TIMEOUT_MS = 30000 };
#define SHM_FOLDER "/dev/shm/hearthfs"

static const uint8_t no_uuid[16];

/* ---- the parts of open ---- */

static int life_make(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES])
{
    if (!persist_name_ok(config->name) || !persist_name_ok(config->member))
        return persist_fail(err, -EINVAL, "\"%s\" is not a name: 1 to 63 letters, digits, dots, underscores or hyphens, not a dot first",
                            persist_name_ok(config->name) ? config->member : config->name);
    struct persist_life *life = calloc(1, sizeof *life);
    if (!life)
        return persist_fail(err, -ENOMEM, "out of memory");
    session->life = life;
    snprintf(life->state_dir, sizeof life->state_dir, "%s", config->state_dir);
    snprintf(life->name, sizeof life->name, "%s", config->name);

    char dir[PERSIST_PATH_MAX + SEG_NAME_MAX];
    if ((size_t)snprintf(dir, sizeof dir, "%s/%s", config->state_dir, config->name) >= PERSIST_PATH_MAX)
        return persist_fail(err, -ENAMETOOLONG, "the state directory's path is too long; give a shorter one with -o state_dir=");
    int rc = -ENOENT;
    for (unsigned tries = 0; rc == -ENOENT && tries < PERSIST_DIR_TRIES; tries++) {
        rc = persist_dirs_make(dir, &life->state_levels);
        if (rc == 0 && access(dir, W_OK | X_OK) != 0)
            rc = -errno;
    }
    if (rc)
        return persist_fail(err, rc == -EROFS || rc == -EPERM ? -EACCES : rc,
                            "the state directory %s cannot be written: %s; give another one with -o state_dir=", config->state_dir,
                            strerror(-rc));
    return 0;
}

/* The record if there is a good one. A damaged one is as good as none, but said. */
static int record_find(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES])
{
    struct persist_life *life = session->life;
    int rc = persist_record_load(config->state_dir, config->name, config->member, &life->record, err);
    if (rc == -EBADMSG) {
        persist_fail(session->note, 0, "%.200s; starting with a new identity", err);
        rc = -ENOENT;
    }
    if (rc == -ENOENT) {
        life->record_made = true;
        memset(&life->record, 0, sizeof life->record);
        life->record.slot = -1;
        rc = 0;
    }
    return rc;
}

static int segment_find(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES])
{
    struct persist_life *life = session->life;
    struct stat          st;
    struct seg_plan      plan = {.signature = cache_layout_signature()};

    bool shm_dir_was = stat(SHM_FOLDER, &st) == 0;
    int  rc = seg_path(config->spec, life->path, sizeof life->path, err);
    if (rc)
        return rc;
    life->shm_dir_made = !shm_dir_was && stat(SHM_FOLDER, &st) == 0;

    rc = seg_open(life->path, &plan, 0, &session->seg, NULL, err);
    if (rc != -ENOENT || !config->may_create)
        return rc;
    rc = persist_plan(config->size_bytes ? config->size_bytes : persist_default_size(), config->name, config->origin_id, &plan, err);
    if (rc)
        return rc;
    rc = seg_open(life->path, &plan, SEG_OPEN_CREATE, &session->seg, &session->created, err);
    return rc == -ENOENT ? -EAGAIN : rc; /* the folder has gone again: somebody undid a mount that failed */
}

static int origin_compare(const struct persist_config *config, const struct persist_session *session, char err[SEG_ERR_BYTES])
{
    const struct seg_super *super = seg_super(session->seg);
    const char             *spoken = strncmp(config->spec, "shm:", 4) == 0 ? config->spec + 4 : config->spec;
    if (!config->has_origin || memcmp(super->origin_id, config->origin_id, sizeof super->origin_id) == 0)
        return 0;
    return persist_fail(err, -EXDEV, "segment %.100s caches another directory; choose another name with -o name=, or remove it with `hearthfs destroy %.100s`",
                        spoken, spoken);
}

/* Fills in uuid and slot to ask for. */
static int identity_find(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES])
{
    struct persist_record  *record = &session->life->record;
    const struct seg_super *super = seg_super(session->seg);
    if (!session->life->record_made && memcmp(record->segment_uuid, super->uuid, sizeof super->uuid) == 0)
        return 0; /* a return */

    record->slot = -1;
    record->incarnation = 0;
    if (!session->life->record_made)
        persist_fail(session->note, 0, "the segment that %.63s was a member of has gone; %s", config->member,
                     session->created ? "this one is new and fills as files are read" : "this is another one of that name");
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        const struct seg_member *member = seg_member(session->seg, slot);
        if (seg_member_state(session->seg, slot, NULL) == SEG_FREE || memcmp(member->uuid, no_uuid, sizeof no_uuid) == 0 ||
            strncmp(member->name, config->member, sizeof member->name) != 0)
            continue;
        memcpy(record->member_uuid, member->uuid, sizeof record->member_uuid);
        return 0;
    }
    if (memcmp(record->member_uuid, no_uuid, sizeof no_uuid) != 0)
        return 0;
    if (getrandom(record->member_uuid, sizeof record->member_uuid, 0) != (ssize_t)sizeof record->member_uuid)
        return persist_fail(err, -EIO, "no random numbers to be had for the member's identity");
    record->member_uuid[6] = (uint8_t)((record->member_uuid[6] & 0x0f) | 0x40); /* version 4, RFC 9562 */
    record->member_uuid[8] = (uint8_t)((record->member_uuid[8] & 0x3f) | 0x80);
    return 0;
}

static int member_join(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES])
{
    struct persist_record *record = &session->life->record;
    struct seg_join join = {.name = config->member, .mountpoint = config->mountpoint,
                            .flags = config->has_origin ? SEG_MEMBER_HAS_ORIGIN : 0, .slot_wanted = record->slot};
    memcpy(join.uuid, record->member_uuid, sizeof join.uuid);

    int rc = seg_member_join(session->seg, &join, err);
    if (rc)
        return rc;
    session->returned = seg_self_incarnation(session->seg) > 1 && !session->created && record->slot == seg_self_slot(session->seg);
    return 0;
}

static struct lock_shared *words_resolve(void *arg, uint64_t id)
{
    struct persist_session *session = arg;
    return session->cache ? cache_lock_ref(session->cache, id).words : NULL;
}

static int floors_open(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES])
{
    struct lock_config lock_config = {
        .recall_timeout_ms = config->recall_timeout_ms ? config->recall_timeout_ms : RECALL_TIMEOUT_MS,
        .dead = persist_dead, .dead_arg = session, .resolve = words_resolve, .resolve_arg = session,
    };
    int rc = work_open(session->seg, &session->work);
    if (rc == 0)
        rc = lock_mgr_open(session->seg, session->work, &lock_config, &session->lock);
    if (rc == 0)
        rc = cache_open(session->seg, session->lock, session->work, &session->cache);
    if (rc == 0)
        rc = persist_settle_self(session);
    if (rc == 0)
        persist_settle_dead(session, false); /* what is left over is taken up by the watch */
    if (rc)
        return persist_fail(err, rc, "segment %.150s: cannot be taken into use: %s; look with `hearthfs check`", session->life->path,
                            strerror(-rc));
    return 0;
}

static void floors_close(struct persist_session *session)
{
    if (session->cache)
        cache_close(session->cache);
    if (session->lock)
        lock_mgr_close(session->lock);
    if (session->work)
        work_close(session->work);
    session->cache = NULL;
    session->lock = NULL;
    session->work = NULL;
}

static int record_write(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES])
{
    struct persist_record  *record = &session->life->record;
    const struct seg_super *super = seg_super(session->seg);
    snprintf(record->segment_path, sizeof record->segment_path, "%s", session->life->path);
    memcpy(record->segment_uuid, super->uuid, sizeof record->segment_uuid);
    record->signature = super->signature;
    memcpy(record->origin_id, super->origin_id, sizeof record->origin_id);
    snprintf(record->member, sizeof record->member, "%s", config->member);
    record->slot = seg_self_slot(session->seg);
    record->incarnation = seg_self_incarnation(session->seg);
    return persist_record_store(config->state_dir, config->name, record, err);
}

/* ---- the end ---- */

/* Unlinks what `seg` maps if nobody else lives in it. The recovery lock keeps joiners out meanwhile. */
static void segment_remove(struct seg *seg, const char *path)
{
    char who[SEG_ERR_BYTES];
    if (seg_recovery_lock(seg, false) != 0)
        return;
    if (!persist_someone_lives(seg, who) && persist_path_leads_to(path, seg))
        unlink(path);
    seg_recovery_unlock(seg);
}

static void session_end(struct persist_session *session, bool undo)
{
    struct persist_life *life = session->life;
    char                 dir[PERSIST_PATH_MAX + SEG_NAME_MAX];

    persist_watch_stop(session);
    bool settled = session->seg && session->cache && seg_self_stands(session->seg) && persist_settle_self(session) == 0;
    floors_close(session);
    if (session->seg) {
        if (settled)
            seg_member_leave(session->seg); /* otherwise we go like the dead: whoever comes next settles the slot and parks it */
        if (undo && session->created)
            segment_remove(session->seg, life->path);
        seg_close(session->seg);
    }
    if (undo && life) {
        if (life->record_made)
            persist_record_remove(life->state_dir, life->name, life->record.member);
        snprintf(dir, sizeof dir, "%s/%s", life->state_dir, life->name);
        persist_dirs_undo(dir, life->state_levels);
        if (life->shm_dir_made)
            rmdir(SHM_FOLDER); /* fails when somebody uses it */
    }
    free(life);
    memset(session, 0, sizeof *session);
}

void persist_session_close(struct persist_session *session)
{
    session_end(session, false);
}

void persist_session_abandon(struct persist_session *session)
{
    session_end(session, true);
}

/* ---- open ---- */

/* Steps 2 to 4 once. -EAGAIN: the segment was destroyed under us. */
static int segment_enter(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES])
{
    bool was_created = session->created;
    int  rc = segment_find(config, session, err);
    session->created |= was_created;
    if (rc == 0)
        rc = origin_compare(config, session, err);
    if (rc == 0) {
        rc = persist_format_once(session->seg);
        if (rc)
            persist_fail(err, rc, "segment %.150s: cannot be formatted: %s", session->life->path, strerror(-rc));
    }
    if (rc == 0)
        rc = identity_find(config, session, err);
    if (rc == 0)
        rc = member_join(config, session, err);
    if (rc == 0 && !persist_path_leads_to(session->life->path, session->seg)) {
        seg_member_leave(session->seg);
        rc = persist_fail(err, -EAGAIN, "segment %.150s was destroyed again and again meanwhile; try again", session->life->path);
    }
    if (rc == -EAGAIN) {
        seg_close(session->seg);
        session->seg = NULL;
        session->created = false;
    }
    return rc;
}

int persist_session_open(const struct persist_config *config, struct persist_session *session, char err[SEG_ERR_BYTES])
{
    memset(session, 0, sizeof *session);
    err[0] = 0;
    int rc = life_make(config, session, err);
    if (rc == 0)
        rc = record_find(config, session, err);
    if (rc == 0) {
        snprintf(session->life->record.member, sizeof session->life->record.member, "%s", config->member);
        rc = -EAGAIN;
    }
    for (unsigned attempt = 0; rc == -EAGAIN && attempt < ATTEMPTS; attempt++)
        rc = segment_enter(config, session, err);
    if (rc == 0)
        rc = floors_open(config, session, err);
    if (rc == 0) {
        seg_member_activate(session->seg);
        rc = record_write(config, session, err);
    }
    if (rc)
        session_end(session, true);
    return rc;
}
