/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seg_fault.h - places at which tests have the program do the wrong thing, in builds made for that (HEARTH_FAULTS, preset `faulty`). In all other builds
 * they are constants and the compiler drops them.
 *
 * The environment variable HEARTHFS_FAULT names them: "NAME:N[,NAME:N...]", where the fault strikes at each Nth passing of its place (1: always). A name that stands for nothing in
 * the program never strikes.
 *
 *   recall.drop.data    a recall of data or attributes is acknowledged, but the kernel is not told
 *   recall.drop.names   a recall of names, likewise
 */
#ifndef HEARTH_SEG_FAULT_H
#define HEARTH_SEG_FAULT_H

#include <stdbool.h>

#ifdef HEARTH_FAULTS
/* Does the fault strike this time? Any thread; the passings of all threads are counted together. */
bool seg_fault_here(const char *name);
#else
#define seg_fault_here(name) false
#endif

#endif
