/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recall_mmap.pml - pages dirtied through a shared mapping, written back by the kernel that is being recalled.
 *
 * One page of four slots, a bit each: 1 and 2 are written by write() of members 0 and 1, 4 and 8 stored through mappings at members 0 and 1.
 * Per member: a writer, a reader that then stores through the mapping, the kernel's ordinary writeback, a notifier and the thread in which it
 * has the kernel invalidate. (Kernels >= 6.16: a page stays under writeback until the answer. WRITEs of writeback carry the whole page.)
 *
 * A WRITE of writeback "slips" when its own member owes an acknowledgement, whoever owns the inode's lock, the own member included: it does not wait for the
 * lock, claims the page, writes, and sets `slipped`. The owner is RECALLING then and has changed nothing. It slips through a gate: the
 * acknowledgement (A3) waits for slips that have begun, so that none of them publishes after the owner went on. When all is acknowledged and `slipped`
 * is set, the owner recalls everybody once more, its own kernel too, and looks at `slipped` again together with W4.
 *
 * The own kernel may be recalled while it waits for the very WRITE whose owner recalls it: a partial page locked (recall_write.pml), or a page under writeback
 * whose WRITE owns the inode's lock. The acknowledgement does not wait for that invalidation; hence the owner sets its own interest bit again afterwards.
 *
 * READs wait, are held, and may take the lock, as in recall_write.pml. A writeback that owns the lock is held, too, from then on: invalidations go round its page, and it does not count as
 * in flight, so that it does not hide that another page is blocked by a WRITE. Its page stays up to date; so it ceases to be held, and counts again, before
 * the lock is released: the next owner's recall must wait for the page.
 * A truncation that owns the lock and finds `slipped` recalls the others only: its kernel holds back writeback until the SETATTR is answered, so it cannot drop what is dirty. The own kernel
 * is made to invalidate after the answer.
 * "Seen to be blocked" is what a daemon can see: with a WRITE of write() registered, no READ and no writeback in flight, the call sleeps; and all this a second time.
 *
 * Shown: no deadlock; no write() that has returned is lost or missing in any kernel; with ONE_STORER also: what a store wrote back is in every clean
 * page when the next write() returns. (Two members that store into one page at the same time overwrite each other, as nothing
 * tells a daemon of a store: a limit, stated in the manual.)
 * Variants: none: 2 writers, 2 storers, 2 ordinary writebacks; READERS: 2 writers, 2 readers, 1 storer with ordinary writeback; ONE_STORER: 2 writers, 1 storer with ordinary writeback, 1 reader;
 * TRUNCATE: 1 writer, 2 storers with ordinary writeback, one of whose kernels also truncates: it holds back all writeback of the inode until its SETATTR is answered;
 * OTHER_PAGE: 2 storers, member 0's with ordinary writeback, while member 0's kernel holds another page of the file locked by a partial write().
 *
 * Mutants: 1 writeback never slips                         2 it slips only if another member owns the lock
 *          3 no gate                                       4 the owner does not look at `slipped`
 *          5 a page whose own writeback owns the lock is waited for     6 the own interest bit is not set again
 *          7 (TRUNCATE) SETATTR waits for the lock although its member owes
 *          8 (READERS) writeback takes `suspect` away from write()
 *          9 (TRUNCATE) no gate: SETATTR sets `slipped`, looks whether it still owes, and then does its work
 *          10 writeback that owns the lock is held until after the release
 *          11 a READ that waits is not known as held       12 it is held while it is answered
 *          13 (OTHER_PAGE) writeback that owns the lock counts as in flight meanwhile
 *          14 it does not count again when it is held no more
 *          15 READs, writeback and the sleeping call are looked at only once
 *          16 (TRUNCATE) a truncation that owns the lock waits for its own kernel
 */
#define N 2
#define BIT(m) (1 << (m))

mtype = { IDLE, RECALLING, WRITING };
mtype = { FREE, BY_READ, BY_WRITE, BY_COPY, BY_INVALIDATION };
mtype = { NONE, ASKED, INSIDE, LAUNDERING };

byte  owner;
mtype phase = IDLE;
byte  interest, owed;
bit   slipped;
bit   claim;
byte  data;

bit   present[N], dirty[N], writeback[N];
byte  cached[N];
mtype lock[N] = FREE;
mtype invalidation[N] = NONE;
bit   nowrite[N];            /* a truncating SETATTR holds back writeback */

bit   inbox[N];
byte  reads[N];
bit   writes[N];             /* a WRITE of write() is registered */
bit   held[N];               /* an own READ of the page waits */
bit   backs[N];              /* an own WRITE of writeback is in flight: received, or certain to be before the next look */
bit   back_held[N];          /* an own WRITE of writeback owns the lock */
byte  slips[N];
bit   dropped[N], suspect[N];
byte  returned;
#ifdef OTHER_PAGE
bit   other_locked, other_write; /* the other page of the file, in member 0's kernel: held by a WRITE, which is registered */
#endif

/*
 * ---- daemon: the recall, as in recall_write.pml ----
 * own: the own bit, or 0 when the own kernel is not to be asked although something has slipped.
 * minds: 1 for WRITEs of write(), which mind `suspect`. Writeback must not answer for it: its own page is not dropped, and the mark is not for it.
 */
inline recall_all(m, minds, own)
{
    interest = interest | BIT(m);
    todo = interest & ~BIT(m);                                          /* (W2) */
    if
    :: minds && suspect[m] -> suspect[m] = 0; todo = todo | BIT(m)
    :: else
    fi;
    do
    :: if
       :: todo ->
           owed = owed | todo;
           if
           :: todo & 1 -> inbox[0] = 1
           :: else
           fi;
           if
           :: todo & 2 -> inbox[1] = 1
           :: else
           fi;
           owed == 0
       :: else
       fi;
#ifndef MUTANT_6
       interest = interest | BIT(m);
#endif
       phase = WRITING;                                                 /* (W3) */
       todo = interest & ~BIT(m);                                       /* (W4) */
#ifndef MUTANT_4
       if
       :: slipped -> slipped = 0; todo = ((todo | interest) & ~BIT(m)) | (own)
       :: else
       fi;
#endif
       if
       :: todo == 0 -> break
       :: else -> phase = RECALLING
       fi
    od
}

/* ---- daemon: a WRITE of writeback with the whole page ---- */
#ifdef MUTANT_8
#define WRITEBACK_MINDS 1
#else
#define WRITEBACK_MINDS 0
#endif

inline write_back(m, page)
{
    do
#ifndef MUTANT_1
    :: atomic {
#ifdef MUTANT_2
        (owed & BIT(m)) && owner != m + 1 ->
#else
        (owed & BIT(m)) ->
#endif
        slips[m]++ }
        atomic { claim == 0; claim = 1 }
        assert(!(returned & ~page));
        atomic { data = page; claim = 0 }
        slipped = 1;
        slips[m]--;
        break
#endif
    :: atomic { owner == 0 -> owner = m + 1; phase = RECALLING }
#ifndef MUTANT_5
        back_held[m] = 1;
#endif
#ifndef MUTANT_13
        backs[m] = 0;
#endif
        recall_all(m, WRITEBACK_MINDS, BIT(m));
        atomic { claim == 0; claim = 1 }
        assert(!(returned & ~page));
        atomic { data = page; claim = 0 }
#ifdef MUTANT_10
        atomic { phase = IDLE; owner = 0 }
        back_held[m] = 0;
#else
#ifndef MUTANT_14
        backs[m] = 1;
#endif
        back_held[m] = 0;
        atomic { phase = IDLE; owner = 0 }
#endif
        break
    od
}

proctype storer(byte m; byte count; bit stores)
{
    byte floor, value;
    bit owns;

    do
    :: count > 0 ->
        count--;
        atomic {
            floor = returned;
            (present[m] || lock[m] == FREE);
            if
            :: present[m] -> assert(!(floor & ~cached[m])); goto store
            :: else -> lock[m] = BY_READ
            fi
        }
        reads[m]++;                                                     /* arrival */
again:
        atomic {
            if
            :: dropped[m] -> suspect[m] = 1                             /* before any look */
            :: else
            fi;
            if
            :: owner == 0
            :: else -> goto waits
            fi
        }
        interest = interest | BIT(m);                                   /* (R1) */
        if
        :: owner == 0                                                   /* (R2) */
        :: else ->
waits:
            atomic {
#ifndef MUTANT_11
                held[m] = 1;
#endif
                reads[m]--
            }
            if
            :: owner == 0 ->
                atomic {
#ifndef MUTANT_12
                    held[m] = 0;
#endif
                    reads[m]++
                }
                goto again
            :: atomic { owner == 0 -> owner = m + 1; phase = RECALLING; owns = 1 } /* it has waited long */
                atomic { reads[m]++; held[m] = 0 }
                interest = interest | BIT(m);
                if
                :: dropped[m] -> suspect[m] = 1
                :: else
                fi
            fi
        fi;
        value = data;
        atomic {
            assert(!(floor & ~value));
            cached[m] = value;
            present[m] = 1;
            lock[m] = FREE;
            held[m] = 0;
            reads[m]--
        }
        if
        :: owns -> atomic { phase = IDLE; owner = 0 }
        :: else
        fi;
store:
        if
        :: stores ->
            atomic {
                if
                :: present[m] && lock[m] == FREE && !writeback[m] -> cached[m] = cached[m] | (4 << m); dirty[m] = 1
                :: else /* dropped meanwhile, or busy: the program does something else */
                fi
            }
        :: else
        fi;
        atomic { floor = 0; value = 0; owns = 0 }
    :: else -> break
    od
}

/* The kernel's ordinary writeback. */
proctype flusher(byte m)
{
    byte page, todo;
end:
    do
    :: atomic { dirty[m] && lock[m] == FREE && !writeback[m] && !nowrite[m] -> dirty[m] = 0; writeback[m] = 1; backs[m] = 1; page = cached[m] }
        write_back(m, page);
        atomic { writeback[m] = 0; backs[m] = 0; page = 0; todo = 0 }
    od
}

proctype invalidator(byte m)
{
    byte page, todo;
end:
    do
    :: invalidation[m] == ASKED -> invalidation[m] = INSIDE
    :: atomic { invalidation[m] == INSIDE && lock[m] == FREE && !writeback[m] && !dirty[m] -> present[m] = 0; invalidation[m] = NONE }
    :: atomic { invalidation[m] == INSIDE && lock[m] == FREE && writeback[m] -> lock[m] = BY_INVALIDATION }
        atomic { !writeback[m]; assert(!dirty[m]); present[m] = 0; lock[m] = FREE; invalidation[m] = NONE }
    :: atomic { invalidation[m] == INSIDE && lock[m] == FREE && !writeback[m] && dirty[m] ->
            lock[m] = BY_INVALIDATION; invalidation[m] = LAUNDERING; dirty[m] = 0; page = cached[m] }
        atomic { !nowrite[m]; backs[m] = 1 }
        write_back(m, page);
        atomic { backs[m] = 0; present[m] = 0; lock[m] = FREE; invalidation[m] = NONE; page = 0; todo = 0 }
    od
}

#define GO_ROUND(m) (held[m] || back_held[m])
/* The call sleeps: for the page's lock, with it for the page's writeback, or laundering. That sleeps once its WRITE is sent; before that it runs, unless writeback is held back. */
#define ASLEEP(m) ((invalidation[m] == INSIDE && lock[m] != FREE && (lock[m] != BY_INVALIDATION || writeback[m])) || \
                   (invalidation[m] == LAUNDERING && (backs[m] || nowrite[m])))

#define QUIET(m) (reads[m] == 0 && !backs[m])
#define OR_LOOK_AGAIN(what) if :: what :: else -> goto look fi
/* The first time it is waited for, so that a wait without end is a deadlock. */
#define UNTIL(what) if :: what :: invalidation[m] == NONE || GO_ROUND(m) || !writes[m] -> goto look fi

inline invalidate(m)
{
    if
    :: GO_ROUND(m) -> goto gone_round
    :: else
    fi;
    atomic {
        if
        :: invalidation[m] == NONE -> invalidation[m] = ASKED
        :: else
        fi
    }
look:
    do
    :: invalidation[m] == NONE -> break
    :: GO_ROUND(m) -> break
    :: writes[m] ->
#ifndef MUTANT_15
        UNTIL(QUIET(m));
        UNTIL(ASLEEP(m));
        OR_LOOK_AGAIN(writes[m]);
#endif
        OR_LOOK_AGAIN(QUIET(m));
        OR_LOOK_AGAIN(ASLEEP(m));
        break
    od;
gone_round:
#ifdef OTHER_PAGE
    if
    :: m == 1 || !other_locked
    :: other_write && QUIET(m) /* and the other call sleeps */
    fi
#else
    skip
#endif
}

proctype notifier(byte m)
{
end:
    do
    :: atomic { inbox[m] -> inbox[m] = 0 }
        interest = interest & ~BIT(m);                                  /* (A1) */
        dropped[m] = 1;
        invalidate(m);                                                  /* (A2) */
#ifdef MUTANT_3
        owed = owed & ~BIT(m)
#else
        atomic { slips[m] == 0; owed = owed & ~BIT(m) }                 /* (A3), through the gate */
#endif
    od
}

proctype writer(byte m)
{
    byte todo, seen;
    /* the kernel */
    atomic { lock[m] == FREE; lock[m] = BY_COPY }
    atomic {
        !writeback[m];
        if
        :: present[m] -> cached[m] = cached[m] | BIT(m); lock[m] = FREE
        :: else -> lock[m] = BY_WRITE
        fi
    }
    writes[m] = 1;                                                      /* arrival */
    atomic { owner == 0; owner = m + 1; phase = RECALLING }             /* (W1) */
    recall_all(m, 1, BIT(m));
    atomic { claim == 0; claim = 1 }
    atomic { data = data | BIT(m); seen = data }
    claim = 0;
    atomic { phase = IDLE; owner = 0 }
    atomic { /* the answer */
        writes[m] = 0;
        if
        :: lock[m] == BY_WRITE -> lock[m] = FREE
        :: else
        fi;
        returned = returned | BIT(m);
        assert(data & BIT(m));
        assert(!present[0] || (cached[0] & BIT(m)));
        assert(!present[1] || (cached[1] & BIT(m)));
#ifdef ONE_STORER
        assert(!present[0] || dirty[0] || writeback[0] || !(seen & ~cached[0]));
        assert(!present[1] || dirty[1] || writeback[1] || !(seen & ~cached[1]));
#endif
        todo = 0;
        seen = 0
    }
}

#ifdef OTHER_PAGE
/* write() of a part of another page. */
proctype other_writer(byte m)
{
    byte todo;
    other_locked = 1;
    other_write = 1;                                                    /* arrival */
    atomic { owner == 0; owner = m + 1; phase = RECALLING }             /* (W1) */
    recall_all(m, 1, BIT(m));
    atomic { phase = IDLE; owner = 0 }
    atomic { other_write = 0; other_locked = 0; todo = 0 }
}
#endif

proctype truncater(byte m)
{
    byte todo;
    bit again;
    atomic { !writeback[m] && invalidation[m] != LAUNDERING; nowrite[m] = 1 }
    do
#ifdef MUTANT_9
    :: (owed & BIT(m)) ->
        slipped = 1;
        if
        :: owed & BIT(m) -> assert(owner && phase == RECALLING); break /* the truncation */
        :: else
        fi
#elif !defined(MUTANT_7)
    :: atomic { (owed & BIT(m)) -> slips[m]++ }
        assert(owner && phase == RECALLING); /* the truncation */
        atomic { assert(owner && phase == RECALLING); slipped = 1 }
        slips[m]--;
        break
#endif
    :: atomic { owner == 0 -> owner = m + 1; phase = RECALLING }
#ifdef MUTANT_16
        recall_all(m, 0, BIT(m));
#else
        recall_all(m, 0, 0);
        again = 1;
#endif
        atomic { phase = IDLE; owner = 0 }
        break
    od;
    nowrite[m] = 0;
    if
    :: again -> atomic { invalidation[m] == NONE -> invalidation[m] = ASKED }
    :: else
    fi
}

init
{
    atomic {
        run invalidator(0); run invalidator(1);
        run notifier(0); run notifier(1);
#if defined(TRUNCATE)
        run writer(0);
        run storer(1, 1, 1); run truncater(1);
        run storer(0, 1, 1); run flusher(0);
        run flusher(1)
#elif defined(OTHER_PAGE)
        run other_writer(0);
        run storer(0, 1, 1); run flusher(0);
        run storer(1, 1, 1)
#elif defined(ONE_STORER)
        run writer(0); run writer(1);
        run storer(1, 2, 1); run storer(0, 1, 0);
        run flusher(1)
#else
        run writer(0); run writer(1);
        run storer(0, 1, 1);
        run flusher(0);
#ifdef READERS
        run storer(0, 1, 0); run storer(1, 1, 0)
#else
        run storer(1, 1, 1); run flusher(1)
#endif
#endif
    }
}
