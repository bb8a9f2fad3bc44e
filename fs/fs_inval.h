/* SPDX-License-Identifier: Apache-2.0 */
/* fs_inval.h - jobs of the notifier, shared by fs_notify.c and fs_inval.c. */
#ifndef HEARTH_FS_INVAL_H
#define HEARTH_FS_INVAL_H

#include "fs_internal.h"

enum fs_job_kind { FS_JOB_DATA, FS_JOB_NAMES };

/* One invalidation under way. Fields but `finished`, `refs`, `next` (under the notifier's mutex) are constant once it runs. */
struct fs_job {
    struct fs_job   *next;
    enum fs_job_kind kind;
    unsigned         refs;
    bool             finished, acknowledge, rescued;
    uint32_t         round;       /* of the item, for the answer    */
    uint64_t         since_ms; /* when it was published */
    uint64_t         id;          /* inode, or directory            */
    uint64_t         first, last; /* DATA: pages, UINT64_MAX: end   */
    char             name[256];   /* NAMES                          */
    size_t           length;      /* 0: all names of the directory  */
};

struct fs_job *fs_job_new(enum fs_job_kind kind, uint64_t id); /* one reference */
void           fs_job_publish(struct fs *fs, struct fs_job *job);
void           fs_job_release(struct fs *fs, struct fs_job *job);
bool           fs_job_finished(struct fs *fs, struct fs_job *job);
void           fs_job_finish(struct fs *fs, struct fs_job *job); /* the first call acknowledges */
void           fs_job_run_data(struct fs *fs, struct fs_job *job);
void           fs_job_rescue_data(struct fs *fs, void *job); /* a task: runs it again with the WRITE that arrived in mind; releases it */

#endif
