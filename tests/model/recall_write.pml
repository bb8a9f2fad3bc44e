/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recall_write.pml - partial writes: the kernel of the writer may hold its page locked until the WRITE is answered.
 *
 * One page of two halves. Member m's writer writes half m; two members, each with a writer, a reader, a notifier and a thread in which the
 * notifier has the kernel invalidate. When the page is not in the kernel's cache, the kernel locks it, sends the WRITE, and unlocks it (still
 * not up to date) with the answer; when it is there, the kernel changes the half in place and unlocks at once. The daemon sees no difference.
 *
 * An invalidation waits for the page's lock, so it may wait for a WRITE that waits for the lock of the inode, whose owner waits for the
 * acknowledgement. Hence the acknowledgement waits until
 *     the invalidation has returned, OR
 *     a WRITE of the own kernel for this page is registered (it may arrive at any time: look again and again, not once), AND THEN no READ of the own
 *     kernel stands between (R1) and its installed answer, AND THEN the invalidation is seen to be blocked (not merely not yet run).
 * The invalidation that was left behind drops the page when it can.
 *
 * One page, so one bitmap; see recall.pml for two. Labels as there.
 *
 * Mutants: 1 the invalidation is always waited for        2 own WRITEs are looked for only before the invalidation
 *          3 "not yet run" passes for "blocked"           4 READs in flight are not looked at
 *          5 blocked is looked at before READs in flight  6 own reads during an own write are not noticed
 *          7 own reads do not wait while the own member is WRITING
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
byte  reads[N];              /* own READs between (R1) and the installed answer */
bit   writes[N];             /* own WRITE registered */
bit   dropped[N], suspect[N];
bit   returned[2];           /* by half: has its write returned? */

#ifdef MUTANT_7
#define MAY_ANSWER(m, who, ph, owes) (who == 0 || who == m + 1 || (ph == RECALLING && (owes)))
#else
#define MAY_ANSWER(m, who, ph, owes) (who == 0 || (ph == RECALLING && (who == m + 1 || (owes))))
#endif

#define FRESH(m, f0, f1) ((cached[H(m, 0)] || !(f0)) && (cached[H(m, 1)] || !(f1)))

#ifdef MUTANT_4
#define NO_READ(m) (writes[m])
#else
#define NO_READ(m) (writes[m] && reads[m] == 0)
#endif

proctype reader(byte m; byte count)
{
    bit floor0, floor1, value0, value1, may;
    byte seen_owner;
    mtype seen_phase;

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
        interest = interest | BIT(m);                                   /* (R1) */
#ifndef MUTANT_6
        if
        :: writes[m] || dropped[m] -> suspect[m] = 1                    /* (R1) for an own writer */
        :: else
        fi;
#endif
        atomic { seen_owner = owner; seen_phase = phase }               /* (R2) */
        may = MAY_ANSWER(m, seen_owner, seen_phase, owed & BIT(m));
        if
        :: may
        :: else ->
            MAY_ANSWER(m, owner, phase, owed & BIT(m));
            goto again
        fi;
        atomic { value0 = data[0]; value1 = data[1] }
        atomic {
            assert((value0 || !floor0) && (value1 || !floor1));
            cached[H(m, 0)] = value0;
            cached[H(m, 1)] = value1;
            present[m] = 1;
            lock[m] = FREE;
            reads[m]--
        }
done:   atomic { floor0 = 0; floor1 = 0; value0 = 0; value1 = 0; may = 0; seen_owner = 0; seen_phase = IDLE }
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

inline invalidate(m)
{
    atomic {
        if
        :: invalidation[m] == NONE -> invalidation[m] = ASKED
        :: else /* one that was left behind is as good: the page was locked all the time */
        fi
    }
#ifdef MUTANT_2
    if
    :: writes[m]
    :: else -> invalidation[m] == NONE
    fi;
#endif
    do
    :: invalidation[m] == NONE -> break
#ifndef MUTANT_1
#ifdef MUTANT_5
    :: writes[m] && invalidation[m] == INSIDE && lock[m] != FREE ->
        if
        :: reads[m] == 0 -> break
        :: else
        fi
#else
    :: NO_READ(m) ->
        if
#ifdef MUTANT_3
        :: true -> break
#else
        :: invalidation[m] == INSIDE && lock[m] != FREE -> break
        :: else
#endif
        fi
#endif
#endif
    od
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
        :: else -> lock[m] = BY_WRITE
        fi
    }
    writes[m] = 1;                                                      /* arrival */
    atomic { owner == 0; owner = m + 1; phase = RECALLING }             /* (W1) */
    interest = interest | BIT(m);
    do
    :: todo = interest & ~BIT(m);                                       /* (W2), (W4) */
       if
       :: suspect[m] -> suspect[m] = 0; todo = todo | BIT(m)
       :: else
       fi;
       if
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
       :: todo == 0 && phase == WRITING -> break
       :: else
       fi;
       phase = WRITING                                                  /* (W3) */
    od;
    data[m] = 1;
    atomic { phase = IDLE; owner = 0 }
    atomic { /* the answer */
        writes[m] = 0;
        if
        :: lock[m] == BY_WRITE -> lock[m] = FREE
        :: else
        fi;
        returned[m] = 1;
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
