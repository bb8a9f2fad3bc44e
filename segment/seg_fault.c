/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_fault.c - faults on request, for builds in which tests prove that they would notice (seg_fault.h). Empty in all others.
 *
 * The plan is read from the environment once and never changes; only the counters move. Nothing here is shared with other members.
 */
#include "seg_fault.h"

#ifdef HEARTH_FAULTS
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLAN_MAX = 16 };

static struct fault {
    char             name[64];
    uint64_t         each;
    _Atomic uint64_t passed;
} plan[PLAN_MAX];
static unsigned       plan_count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void plan_read(void)
{
    const char *text = getenv("HEARTHFS_FAULT");
    char       *copy = text ? strdup(text) : NULL, *rest = NULL;
    for (char *part = copy ? strtok_r(copy, ",", &rest) : NULL; part && plan_count < PLAN_MAX; part = strtok_r(NULL, ",", &rest)) {
        struct fault *fault = &plan[plan_count];
        char         *colon = strrchr(part, ':');
        fault->each = colon ? strtoull(colon + 1, NULL, 10) : 1;
        if (colon)
            *colon = 0;
        snprintf(fault->name, sizeof fault->name, "%s", part);
        plan_count += fault->each > 0;
    }
    free(copy);
}

bool seg_fault_here(const char *name)
{
    pthread_once(&once, plan_read);
    for (unsigned i = 0; i < plan_count; i++)
        if (!strcmp(plan[i].name, name))
            return (atomic_fetch_add(&plan[i].passed, 1) + 1) % plan[i].each == 0;
    return false;
}
#endif
