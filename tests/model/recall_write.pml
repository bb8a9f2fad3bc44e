/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recall_write.pml - partial writes: the kernel of the writer may hold its page locked until the WRITE is answered.
 *
 * One page of two halves. Member m's writer writes half m; two members, each with a writer, a reader, a notifier and a thread in which the
 * notifier has the kernel invalidate. When the page is not in the kernel's cache, the kernel locks it, sends the WRITE, and unlocks it (still
 * not up to date) with the answer; when it is there, the kernel changes the half in place and unlocks at once. The daemon sees no difference.
 *
 * An invalidation waits for the page's lock, so it may wait for a WRITE that waits for the lock of the inode, whose owner waits for the
 * acknowledgement, or for a READ that waits for that owner. Hence the acknowledgement waits until
 *     the invalidation has returned, OR
 *     a READ of the own kernel for this page is held (recall.pml), whether the invalidation is blocked by it already or not, OR
 *     a WRITE of the own kernel for this page is registered (it may arrive at any time: look again and again, not once) and may be what holds it, AND THEN no READ of the own
 *     kernel is in flight, AND THEN the invalidation is seen to be blocked (not merely not yet run), AND all this is seen a second time.
 * The invalidation that was left behind drops the page when it can.
 *
 * Is it the WRITE that holds the page? A READ is answered, and later the answer is in its page, which is locked until then; the daemon does not see that. So:
 *   - a READ in flight together with the WRITE had the page locked: the WRITE does not, it is `loose`, and the invalidation is simply waited for. This is marked when the
 *     READ is answered; until then it is in flight. The mark may be set between a look at the WRITE and the look at the READs: hence the second time.
 *   - of a READ that was answered before the WRITE came it is assumed that it is in its page when the acknowledger decides (`unsettled`): the code lets some time pass first.
 *
 * A READ that has waited long may take the lock itself and be answered under it. It recalls nobody. It ceases to be held before it takes its interest, as all others do.
 *
 * Own pages: as in recall.pml, but a read marks itself only if a recall has dropped something, and the writer looks once, after W1: later own reads wait for it.
 *
 * One page, so one bitmap; see recall.pml for two. Labels as there.
 *
 * Mutants: 1 the invalidation is always waited for        2 own WRITEs are looked for only before the invalidation
 *          3 "not yet run" passes for "blocked"           4 READs in flight are not looked at
 *          5 all is looked at only once                   6 own reads during an own write are not noticed
 *          7 own reads do not wait while the own member owns the lock
 *          8 a READ that waits is not known as held       9 it is held while it is answered
 *          10 a READ that takes the lock takes no interest    11 it is held while it is answered
 *          12 no WRITE is loose                           13 nobody waits for READs that were answered before the WRITE came
 *          14 a READ that is held only when it blocks the invalidation is waited for
 */
#define N 2
#define BIT(m) (1 << (m))
#define H(m, h) ((m) * 2 + (h))

mtype = { IDLE, RECALLING, WRITING };
mtype = { FREE, BY_READ, BY_WRITE };
mtype = { NONE, ASKED, INSIDE };

byte  owner;
mtype phase = IDLE;
byte  interest, owed;
bit   data[2];               /* by half: written yet? */

bit   present[N];            /* the page is in the kernel's cache, up to date */
bit   cached[4];             /* its halves, H(member, half) */
mtype lock[N] = FREE;        /* the page's lock */
mtype invalidation[N] = NONE;

bit   inbox[N];
byte  reads[N];              /* own READs between their arrival and their answer, but for those that are held */
bit   held[N];               /* an own READ of the page waits */
bit   writes[N];             /* own WRITE registered */
bit   loose[N];              /* a READ has been in flight together with it: it does not hold the page */
bit   unsettled[N];          /* a READ was answered before the own WRITE came, and the answer is not in the page yet */
bit   dropped[N], suspect[N];
bit   returned[2];           /* by half: has its write returned? */

#ifdef MUTANT_7
#define MAY_ANSWER(m) (owner == 0 || owner == m + 1)
#else
#define MAY_ANSWER(m) (owner == 0)
#endif

#define FRESH(m, f0, f1) ((cached[H(m, 0)] || !(f0)) && (cached[H(m, 1)] || !(f1)))

inline grant_mark(m)
{
    if
#ifndef MUTANT_6
    :: dropped[m] -> suspect[m] = 1
#endif
    :: else
    fi
}

proctype reader(byte m; byte count)
{
    bit floor0, floor1, value0, value1, owns;

    do
    :: count > 0 ->
        count--;
        atomic {
            floor0 = returned[0];
            floor1 = returned[1];
            (present[m] || lock[m] == FREE);
            if
            :: present[m] -> assert(FRESH(m, floor0, floor1)); goto done
            :: else -> lock[m] = BY_READ
            fi
        }
        reads[m]++;                                                     /* arrival */
again:
        atomic {
            grant_mark(m);                                              /* before any look */
            if
            :: MAY_ANSWER(m)
            :: true -> goto waits /* also for a change of something else, which is not in the model */
            fi
        }
        interest = interest | BIT(m);                                   /* (R1) */
        if
        :: MAY_ANSWER(m)                                                /* (R2) */
        :: else ->
waits:
            atomic {
#ifndef MUTANT_8
                held[m] = 1;
#endif
                reads[m]--
            }
            if
            :: MAY_ANSWER(m) ->
                atomic {
#ifndef MUTANT_9
                    held[m] = 0;
#endif
                    reads[m]++
                }
                goto again
            :: atomic { owner == 0 -> owner = m + 1; phase = RECALLING; owns = 1 } /* it has waited long */
                atomic {
#ifndef MUTANT_11
                    held[m] = 0;
#endif
                    reads[m]++
                }
#ifndef MUTANT_10
                interest = interest | BIT(m);
#endif
                grant_mark(m)
            fi
        fi;
        atomic { value0 = data[0]; value1 = data[1] }
        atomic { /* the answer is sent */
            assert((value0 || !floor0) && (value1 || !floor1));
            reads[m]--;
            if
            :: writes[m] -> loose[m] = 1
            :: else -> unsettled[m] = 1
            fi
        }
        if
        :: owns -> atomic { phase = IDLE; owner = 0 }
        :: else
        fi;
        atomic { /* it is in the page */
            cached[H(m, 0)] = value0;
            cached[H(m, 1)] = value1;
            present[m] = 1;
            lock[m] = FREE;
            unsettled[m] = 0;
            held[m] = 0
        }
done:   atomic { floor0 = 0; floor1 = 0; value0 = 0; value1 = 0; owns = 0 }
    :: else -> break
    od
}

/* The kernel's side of an invalidation, in a thread of its own. */
proctype invalidator(byte m)
{
end:
    do
    :: invalidation[m] == ASKED -> invalidation[m] = INSIDE
    :: atomic { invalidation[m] == INSIDE && lock[m] == FREE -> present[m] = 0; invalidation[m] = NONE }
    od
}

#ifdef MUTANT_12
#define LOOSE(m) 0
#else
#define LOOSE(m) loose[m]
#endif
#ifdef MUTANT_13
#define UNSETTLED(m) 0
#else
#define UNSETTLED(m) unsettled[m]
#endif
#ifdef MUTANT_4
#define NO_READ(m) 1
#else
#define NO_READ(m) (reads[m] == 0)
#endif
#define EDGE(m) (writes[m] && !LOOSE(m) && !UNSETTLED(m))
#ifdef MUTANT_3
#define BLOCKED(m) 1
#else
#define BLOCKED(m) (invalidation[m] == INSIDE && lock[m] != FREE)
#endif

#define OR_LOOK_AGAIN(what) if :: what :: else -> goto look fi
/* The first time it is waited for, so that a wait without end is a deadlock. */
#ifdef MUTANT_14
#define UNTIL(what) if :: what :: invalidation[m] == NONE || !EDGE(m) -> goto look fi
#else
#define UNTIL(what) if :: what :: invalidation[m] == NONE || held[m] || !EDGE(m) -> goto look fi
#endif

inline invalidate(m)
{
    if
    :: held[m] -> goto gone_round
    :: else
    fi;
    atomic {
        if
        :: invalidation[m] == NONE -> invalidation[m] = ASKED
        :: else /* one that was left behind is as good: the page was locked all the time */
        fi
    }
#ifdef MUTANT_2
    if
    :: writes[m]
    :: else -> (invalidation[m] == NONE || held[m])
    fi;
#endif
look:
    do
    :: invalidation[m] == NONE -> break
#ifndef MUTANT_14
    :: held[m] -> break
#endif
#ifndef MUTANT_1
    :: EDGE(m) ->
#ifndef MUTANT_5
        UNTIL(NO_READ(m));
        UNTIL(BLOCKED(m));
        OR_LOOK_AGAIN(EDGE(m));
#endif
        OR_LOOK_AGAIN(NO_READ(m));
        OR_LOOK_AGAIN(BLOCKED(m));
        break
#endif
    od;
gone_round:
    skip
}

proctype notifier(byte m)
{
end:
    do
    :: atomic { inbox[m] -> inbox[m] = 0 }
        interest = interest & ~BIT(m);                                  /* (A1) */
        dropped[m] = 1;
        invalidate(m);                                                  /* (A2) */
        owed = owed & ~BIT(m)                                           /* (A3) */
    od
}

proctype writer(byte m)
{
    byte todo;
    atomic { /* the kernel */
        lock[m] == FREE;
        if
        :: present[m] -> cached[H(m, m)] = 1
        :: true -> present[m] = 0; lock[m] = BY_WRITE /* not there, or reclaimed a moment ago */
        fi
    }
    writes[m] = 1;                                                      /* arrival */
    atomic { owner == 0; owner = m + 1; phase = RECALLING }             /* (W1) */
    interest = interest | BIT(m);
    todo = interest & ~BIT(m);                                          /* (W2) */
    if
    :: suspect[m] -> suspect[m] = 0; todo = todo | BIT(m)
    :: else
    fi;
    do
    :: if
       :: todo ->
           phase = RECALLING;
           owed = owed | todo;
           if
           :: todo & 1 -> inbox[0] = 1
           :: else
           fi;
           if
           :: todo & 2 -> inbox[1] = 1
           :: else
           fi;
           owed == 0;
           interest = interest | BIT(m) /* the recall of the own kernel has cleared it */
       :: else
       fi;
       phase = WRITING;                                                 /* (W3) */
       todo = interest & ~BIT(m);                                       /* (W4) */
       if
       :: todo == 0 -> break
       :: else
       fi
    od;
    data[m] = 1;
    atomic { phase = IDLE; owner = 0 }
    atomic { /* the answer */
        writes[m] = 0;
        loose[m] = 0;
        if
        :: lock[m] == BY_WRITE -> lock[m] = FREE
        :: else
        fi;
        returned[m] = 1;
        todo = 0;
        assert(!present[0] || cached[H(0, m)]);
        assert(!present[1] || cached[H(1, m)])
    }
}

init
{
    atomic {
        run invalidator(0); run invalidator(1);
        run notifier(0); run notifier(1);
        run reader(0, 2); run reader(1, 2);
        run writer(0); run writer(1)
    }
}
