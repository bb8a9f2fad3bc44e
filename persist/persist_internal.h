/* SPDX-License-Identifier: Apache-2.0 */
/* persist_internal.h - what the files of persist/ share among themselves; not for other folders. */
#ifndef HEARTH_PERSIST_INTERNAL_H
#define HEARTH_PERSIST_INTERNAL_H

#include <pthread.h>

#include "lock_app.h"
#include "persist.h"

enum { PERSIST_PATH_MAX = 1024 };

/* The private half of a session. */
struct persist_life {
    struct persist_record record;
    char            path[512];                   /* of the segment; as long as the record has room           */
    char            state_dir[PERSIST_PATH_MAX];
    char            name[SEG_NAME_MAX];          /* folder of the records                                     */
    unsigned        state_levels;                /* folders above and with STATE_DIR/NAME that this call made */
    bool            shm_dir_made;
    bool            record_made;                 /* no record lay there before                                */
    uint64_t        quarantined_ms[SEG_MEMBERS_MAX]; /* when a slot that is fenced but alive was last settled (recovery lock) */
};

/* Fills err (cut to fit) and returns rc. */
int persist_fail(char err[SEG_ERR_BYTES], int rc, const char *format, ...) __attribute__((format(printf, 3, 4)));
uint64_t persist_clock_ms(void);

/* ---- persist_record.c ---- */
/* Makes `path` and what is missing above it, 0700 each; *made counts the folders it made. undo removes that many again, from the deepest up, as long as they are empty. */
enum { PERSIST_DIR_TRIES = 100 }; /* `hearthfs destroy` of an older segment may remove the folder that has just been made */
int  persist_dirs_make(const char *path, unsigned *made);
void persist_dirs_undo(const char *path, unsigned made);
int  persist_record_remove(const char *state_dir, const char *name, const char *member);

/* ---- persist_recover.c ---- */
/* All floors formatted? If not, formats. Under the recovery lock, which it takes. Any number of attachers may call it at once. */
int  persist_format_once(struct seg *seg);
/* Settles the former lives of the own slot (state JOINING), or all that the own life holds before it leaves (ACTIVE, no thread at work any more). */
int  persist_settle_self(struct persist_session *session);
/* Settles everybody who is dead. try: passes when the recovery lock is not to be had at once (-EAGAIN). */
int  persist_settle_dead(struct persist_session *session, bool try);
/* lock_config.dead; arg is the session. */
void persist_dead(void *arg, seg_who who);

/* ---- persist_quarantine.c ---- */
/* Settles what others wait for of a member that is fenced but whose process lives. Under the recovery lock. 0 or -EUCLEAN. */
int  persist_quarantine(struct persist_session *session, unsigned slot);

/* ---- persist_watch.c ---- */
/* Hands `who` to the watch thread and waits a little; false when there is no such thread or the caller is it: then the caller does it. */
bool persist_watch_settle(struct persist_watch *watch, seg_who who);

/* ---- persist_inspect.c ---- */
/* As seg_path(), but makes nothing. -EINVAL. */
int  persist_path_of(const char *spec, char path[PERSIST_PATH_MAX], char err[SEG_ERR_BYTES]);
/* Does `path` still lead to the object that `seg` maps? */
bool persist_path_leads_to(const char *path, const struct seg *seg);
/* Somebody alive in the segment, the own slot apart? Fills err with who. */
bool persist_someone_lives(const struct seg *seg, char err[SEG_ERR_BYTES]);

#endif
