/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bell.pml - the sleep and wake-up protocol of work_bell.c: two senders, one receiver. Letters as there.
 *
 * An item is a count in the queue (queue.pml has the queue itself). A sender may die between its CAS and the ring; then, and only then, the receiver
 * may have to wait for the end of its bounded sleep, or for recovery, which rings every bell it finds WOKEN.
 *
 * Shown: the receiver never sleeps for ever over an item (without a bounded sleep unless a sender died); one sender rings per
 * sleep; a BUSY receiver is not rung: rings <= sleeps announced; no deadlock.
 *
 * Mutants: 1 the receiver looks at the queue before it announces sleep   2 the sender looks at the bell before it commits
 *          3 everybody who sees ASLEEP rings                             4 a sender rings whatever the bell says
 *          5 no bounded sleep and no recovery                            6 the kernel does not compare the bell before it sleeps
 */
#define SENDERS 2
#define ITEMS 2

mtype = { BUSY, ASLEEP, WOKEN };
mtype bell = BUSY;
byte  queue, taken, committed;
byte  rings, announced;
bit   sleeping;               /* the receiver is in the kernel */
bit   sender_died;
byte  left = SENDERS;

inline ring()
{
    rings++;
    assert(rings <= announced);
    sleeping = 0
}

proctype sender(bit may_die)
{
    byte n;
    mtype seen;
    do
    :: n < ITEMS ->
        n++;
#ifdef MUTANT_2
        seen = bell;
        atomic { queue++; committed++ }
#else
        atomic { queue++; committed++ }                                 /* (A) */
        seen = bell;                                                    /* (B) */
#endif
        if
#ifdef MUTANT_4
        :: true -> atomic { ring() }
#elif defined(MUTANT_3)
        :: seen == ASLEEP -> bell = WOKEN; atomic { ring() }
        :: else
#else
        :: seen == ASLEEP ->
            atomic {
                if
                :: bell == ASLEEP -> bell = WOKEN
                :: else -> seen = BUSY
                fi
            }
            if
            :: seen == ASLEEP && may_die -> sender_died = 1; break      /* the bell says WOKEN and nobody rings */
            :: seen == ASLEEP -> atomic { ring() }
            :: else
            fi
        :: else
#endif
        fi;
        seen = BUSY
    :: else -> break
    od;
    left--
}

proctype receiver()
{
end:
    do
    :: queue > 0 -> atomic { queue--; taken++ }
    :: queue == 0 ->
#ifdef MUTANT_1
        atomic { bell = ASLEEP; announced++ };                          /* looked before */
#else
        atomic { bell = ASLEEP; announced++ };                          /* (C) */
        if
        :: queue > 0 -> goto awake                                      /* (D) */
        :: queue == 0
        fi;
#endif
        /* the kernel compares and sleeps in one step */
        atomic {
            if
#ifdef MUTANT_6
            :: true -> sleeping = 1
#else
            :: bell == ASLEEP -> sleeping = 1
            :: else
#endif
            fi
        }
end_asleep:
        if
        :: !sleeping
#ifndef MUTANT_5
        :: sender_died && queue > 0 -> sleeping = 0                     /* timeout, or recovery rings */
#endif
        fi;
awake:
        bell = BUSY
    od
}

/* When nothing moves any more, everything committed has been taken. */
proctype judge()
{
    left == 0;
    timeout;
    assert(taken == committed && queue == 0)
}

init { atomic { run sender(1); run sender(0); run receiver(); run judge() } }
