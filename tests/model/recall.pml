/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recall.pml - one inode of two pages, two members, each with one writer (whole pages), one reader and one notifier.
 * Variants: (none) both members write page 0; RANGES: member 0 writes page 0, then page 1, and member 1 reads them;
 * WHOLE: member 0 writes page 0 twice, member 1 reads it; recalls name the whole file, so A1 gives up the interest, too;
 * NAMES: readers ask for what is not a page (attributes, names): one whose member owes is answered at once, with what is there;
 * LOOK_FIRST: NAMES, and a reader that would have to wait does so without taking an interest first (so that hot readers delay a writer less).
 *
 * A READ of pages waits as long as anybody, its own member too, is RECALLING or WRITING, and takes no interest before it would be answered. While it waits it is
 * `held`: the invalidation goes round its page, which is locked and not up to date. It ceases to be held before it takes its interest: what is answered
 * must be waited for. So a page is never granted between W1 and the release, and W4 finds nothing; NAMES needs it.
 * One that has waited long may take the lock itself and be answered under it. It recalls nobody, and ceases to be held before it takes its interest, like the others: what
 * is owed to a dead owner may be acknowledged at any time, and a page that was gone round must not lose the interest afterwards (A1).
 *
 * Shown: when a write has returned, no member's kernel holds an older version of the page, and no later read returns one; no deadlock.
 * A recall names the page that is written, so the recalled kernel keeps its other pages, and its interest in the inode with them. Hence two bitmaps:
 *   interest  the kernel may hold something      set by every grant, cleared only when everything is dropped
 *   fresh     granted since the last recall      set by every grant, cleared by A1
 * The first round of a writer recalls interest | fresh, the later ones only fresh.
 *
 * A writer's own kernel holds the new data before the WRITE arrives (whole page: up to date and unlocked at once). If it is dropped and read again
 * before the publish, old data would stand in the writer's own kernel. Such a read marks itself (`suspect`) before it looks at the lock, and waits
 * like all others (NAMES: when the phase is WRITING); the writer looks at `suspect` where it looks at the bits and recalls its own kernel, too.
 *
 * Mutants: 1 clear the bit after the invalidation   2 look before the bit is set   3 no second look at the bits (W4)
 *          4 acknowledge before the invalidation     5 a reader that owes waits     6 one bitmap: A1 clears interest for a range
 *          7 own reads during an own write are not noticed                         8 nor those between recall and arrival of the own WRITE
 *          9 own reads do not wait while the own member is WRITING  10 any recall item acknowledges
 *          11 recovery of a dead owner clears what others owe to it
 *          12 a READ that waits is not known as held           13 it is held while it is answered
 *          14 (WHOLE) a READ that takes the lock takes its interest while it is still held    15 (WHOLE) it takes none
 *          Those of 1, 3 and 5 show in NAMES only.
 *
 * Member 0's first write may die right after it has posted its recall (RANGES, WHOLE): recovery frees the lock, the item stays
 * in the inbox or is being handled. So that it does not acknowledge the next recall: an owed bit is cleared by its own member only; the next owner
 * waits for what is still owed (and posts again, as the dead owner may not have) before it begins a new round; items bear the number of their
 * round; a notifier looks at its owed bit, then at the round, drops what does not fit, and handles the recalls of one inode one at a time.
 */
#define N 2
#define BIT(m) (1 << (m))
#ifdef WHOLE
#define RANGES
#endif
#define K(m, p) ((m) * 2 + (p))
#ifdef LOOK_FIRST
#define NAMES
#endif
#ifndef NAMES
#ifdef MUTANT_9
#define MAY_ANSWER(m, who, ph, owes) (who == 0 || who == m + 1)
#else
#define MAY_ANSWER(m, who, ph, owes) (who == 0)
#endif
#elif defined(MUTANT_9)
#define MAY_ANSWER(m, who, ph, owes) (who == 0 || who == m + 1 || (ph == RECALLING && (owes)))
#elif defined(MUTANT_5)
#define MAY_ANSWER(m, who, ph, owes) (who == 0 || (ph == RECALLING && who == m + 1))
#else
#define MAY_ANSWER(m, who, ph, owes) (who == 0 || (ph == RECALLING && (who == m + 1 || (owes))))
#endif
#define ABSENT 255

mtype = { IDLE, RECALLING, WRITING };

/* the segment */
byte  owner;            /* 0 nobody, else member + 1; one word with phase: they change together */
mtype phase = IDLE;
byte  interest, fresh, owed;
byte  round;            /* of recalls, moved by the owner before it sets owed */
byte  data[2];          /* value of each page: 0 at first, 1 and 2 written  */
byte  order[N + 1];     /* of a value: when it was published; 0 for the first, 255 not yet */
byte  published;
/* the kernels */
byte  cached[4] = ABSENT; /* value by K(member, page) */
bit   locked[4];
bit   held[4];            /* the daemon knows that a READ of it waits */
/* what each daemon knows */
byte  inbox[N];         /* pages to drop: equal recalls merge */
byte  item_round[4];    /* by K(member, page) */
byte  writes[N];        /* own WRITEs that have arrived and are not answered */
bit   dropped[N];       /* a recall has dropped something of the inode lately */
bit   suspect[N];       /* old data may have been granted to the own kernel under an own WRITE */
/* for the properties */
byte  returned[2];      /* order of the newest write to the page that has returned */

inline grant_mark(m)
{
    if
#ifndef MUTANT_7
    :: writes[m] > 0 -> suspect[m] = 1
#endif
#if !defined(MUTANT_8) && !defined(MUTANT_7)
    :: dropped[m] -> suspect[m] = 1
#endif
    :: else
    fi
}

proctype reader(byte m; byte reads)
{
    byte page, floor, value;
    mtype seen_phase;
    byte seen_owner;
    bit seen_owed, owns;

    do
    :: reads > 0 ->
        reads--;
#if defined(RANGES) && !defined(WHOLE)
        select (page : 0 .. 1);
#endif
        atomic {
            floor = returned[page];
            (!locked[K(m, page)] || cached[K(m, page)] != ABSENT);
            if
            :: cached[K(m, page)] != ABSENT -> assert(order[cached[K(m, page)]] >= floor); goto done /* answered by the kernel */
            :: else -> locked[K(m, page)] = 1
            fi
        }
again:
#ifdef LOOK_FIRST
        MAY_ANSWER(m, owner, phase, owed & BIT(m));
#endif
#ifndef NAMES
        grant_mark(m);                                                  /* before any look */
        if
        :: MAY_ANSWER(m, owner, phase, 0)
        :: else -> goto waits
        fi;
#endif
#ifdef MUTANT_2
        atomic { seen_owner = owner; seen_phase = phase }
        seen_owed = (owed & BIT(m)) != 0;
        atomic { interest = interest | BIT(m); fresh = fresh | BIT(m) }
#else
        interest = interest | BIT(m);                                   /* (R1) */
        fresh = fresh | BIT(m);                                         /* (R1) */
#ifdef NAMES
        grant_mark(m);                                                  /* (R1) for an own writer */
#endif
        atomic { seen_owner = owner; seen_phase = phase }               /* (R2) */
        seen_owed = (owed & BIT(m)) != 0;                               /* (R2) */
#endif
        if
        :: MAY_ANSWER(m, seen_owner, seen_phase, seen_owed)
        :: else ->
waits:
#if !defined(NAMES) && !defined(MUTANT_12)
            held[K(m, page)] = 1;
#endif
            if
            :: MAY_ANSWER(m, owner, phase, owed & BIT(m)) -> /* woken by event; every sleep is bounded */
#ifndef MUTANT_13
                held[K(m, page)] = 0;
#endif
                goto again
#ifndef NAMES
            :: atomic { owner == 0 -> owner = m + 1; phase = RECALLING; owns = 1 } /* it has waited long */
#ifndef MUTANT_14
                held[K(m, page)] = 0;
#endif
#ifndef MUTANT_15
                interest = interest | BIT(m);
                fresh = fresh | BIT(m);
#endif
#ifdef MUTANT_14
                held[K(m, page)] = 0;
#endif
                grant_mark(m)
#endif
            fi
        fi;
        value = data[page];
        atomic { assert(order[value] >= floor); cached[K(m, page)] = value; locked[K(m, page)] = 0; held[K(m, page)] = 0 }
#ifndef NAMES
        if
        :: owns -> atomic { phase = IDLE; owner = 0 }
        :: else
        fi;
#endif
done:   atomic { owns = 0; value = 0; page = 0; floor = 0; seen_owner = 0; seen_phase = IDLE; seen_owed = 0 }
    :: else -> break
    od
}

/* Kernel reclaim: while an own WRITE waits, which may be long. */
proctype reclaim(byte m)
{
end:
    atomic {
        (writes[m] > 0 && cached[K(m, 0)] != ABSENT && !locked[K(m, 0)]);
        cached[K(m, 0)] = ABSENT
    }
}

proctype notifier(byte m)
{
    byte page, number;
end:
    do
    :: atomic {
        inbox[m] != 0 ->
        if
        :: inbox[m] & 1 -> page = 0
        :: else -> page = 1
        fi;
        inbox[m] = inbox[m] & ~(1 << page);
        number = item_round[K(m, page)]
       }
#ifndef MUTANT_10
        if
        :: !(owed & BIT(m)) -> goto end
        :: else
        fi;
        if
        :: number != round -> goto end
        :: else
        fi;
#endif
#ifndef MUTANT_1
        fresh = fresh & ~BIT(m);                                        /* (A1) */
#endif
#if defined(WHOLE) || defined(MUTANT_6)
        interest = interest & ~BIT(m);
#endif
#ifdef MUTANT_4
        owed = owed & ~BIT(m);
#endif
        dropped[m] = 1;
        atomic { (!locked[K(m, page)] || held[K(m, page)]); cached[K(m, page)] = ABSENT } /* (A2) */
#ifdef MUTANT_1
        fresh = fresh & ~BIT(m);
#endif
        atomic { owed = owed & ~BIT(m); page = 0 }                      /* (A3) */
    od
}

inline suspect_todo(m)
{
    if
    :: suspect[m] -> suspect[m] = 0; todo = todo | BIT(m)
    :: else
    fi
}

/* Writes `value` to `page`; both are the caller's. */
inline write_page(m, page, value)
{
    /* the kernel: the whole page, up to date and unlocked at once; the WRITE is sent a moment later */
    atomic { !locked[K(m, page)]; cached[K(m, page)] = value }
    writes[m]++;                                                        /* arrival */
    atomic { owner == 0; owner = m + 1; phase = RECALLING }             /* (W1) */
    interest = interest | BIT(m);
#ifdef RANGES
    if
    :: owed & 1 -> atomic { inbox[0] = inbox[0] | 1; item_round[K(0, 0)] = round }
    :: else
    fi;
    if
    :: owed & 2 -> atomic { inbox[1] = inbox[1] | 1; item_round[K(1, 0)] = round }
    :: else
    fi;
    owed == 0;
#endif
    round++; /* here once per write, which keeps the state space finite: a repeated recall of the same range may take the older one's answer */
    todo = (interest | fresh) & ~BIT(m);                                /* (W2) */
    suspect_todo(m);
    do
    :: if
       :: todo ->
           owed = owed | todo;
           if
           :: todo & 1 -> atomic { inbox[0] = inbox[0] | (1 << page); item_round[K(0, page)] = round }
           :: else
           fi;
           if
           :: todo & 2 -> atomic { inbox[1] = inbox[1] | (1 << page); item_round[K(1, page)] = round }
           :: else
           fi;
#ifdef RANGES
           if
           :: value == 1 -> goto dies
           :: true
           fi;
#endif
           owed == 0
       :: else
       fi;
       phase = WRITING;                                                 /* (W3) */
#ifdef MUTANT_3
       break
#else
       todo = fresh & ~BIT(m);                                          /* (W4) */
       suspect_todo(m);
       if
       :: todo -> phase = RECALLING
       :: else -> break
       fi
#endif
    od;
    atomic { published++; order[value] = published; data[page] = value }
    atomic { phase = IDLE; owner = 0 }
    atomic {
        writes[m]--;
        assert(cached[K(0, page)] == ABSENT || order[cached[K(0, page)]] >= order[value]);
        assert(cached[K(1, page)] == ABSENT || order[cached[K(1, page)]] >= order[value]);
        if
        :: returned[page] < order[value] -> returned[page] = order[value]
        :: else
        fi
    }
}

proctype writer(byte m)
{
    byte todo;
#ifdef RANGES
    write_page(m, 0, 1);
    goto second;
dies:
    /* its request is answered with an error: the page is not up to date any more */
    atomic { !locked[K(m, 0)]; cached[K(m, 0)] = ABSENT; writes[m]--; 
#ifdef MUTANT_11
        owed = 0;
#endif
        owner = 0; phase = IDLE }
second:
#ifdef WHOLE
    write_page(m, 0, 2)
#else
    write_page(m, 1, 2)
#endif
#else
    write_page(m, 0, m + 1)
#endif
}

init
{
    atomic {
        order[1] = 255;
        order[2] = 255;
        run notifier(0); run notifier(1);
        run writer(0);
#ifdef RANGES
        run reader(1, 2)
#else
        run reclaim(0);
        run writer(1);
        run reader(0, 1); run reader(1, 2)
#endif
    }
}
