/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.pml - the ring of work_queue.c: 2 cells, two producers with two items each, one taker, recovery.
 *
 * Producer 0 may be killed at any step, or only be taken for dead (fenced) and wake up late; recovery skips the cell it has reserved, the taker does the
 * same when it meets it. Producer 1 merges its second item if it finds an equal one. A skipped cell is used again only when the
 * producer is proven gone. The payload is written in a step of its own between reserving and committing.
 *
 * Shown: an item is taken as often as it was posted less the merges, each exactly once, never with somebody else's payload; what
 * was committed is taken; a late commit fails; no deadlock; nothing stays in the ring; head and tail lag by one step at most.
 *
 * Mutants: 1 taking does not check that the word is unchanged (a merge is lost)     2 a late commit does not look at the word
 *          3 nobody skips the dead producer's cell    4 a skipped cell is free at once though the producer may still write
 *          5 the tail is moved before the cell is reserved, by the producer only
 */
#define CELLS 2
#define ROUND(p) ((p) / CELLS)
#define CELL(p) ((p) % CELLS)

mtype = { FREE, RESERVED, COMMITTED, SKIPPED };

typedef Cell { byte round; mtype state = FREE; byte slot; byte merged; byte payload };
Cell cell[CELLS];
byte head, tail;
bit  fenced;                 /* producer 0 does not stand any more */
bit  gone;                   /* and its process is proven gone */
byte posted[5], taken[5], merged[5];
byte done;                   /* producers that will post nothing more */

#ifdef MUTANT_3
#define SEEN_FENCED 0
#else
#define SEEN_FENCED fenced
#endif

/* One CAS on everything in the word. */
#define IS(i, r, s, p) (cell[i].round == r && cell[i].state == s && cell[i].slot == p)

inline push(hint, position)
{
    atomic {
        if
        :: hint == position -> hint++
        :: else
        fi
    }
}

/* item: 1 and 2 of producer 0, 3 and 4 of producer 1; died is set when producer 0 is killed */
inline post(who, what)
{
    do
    :: (who == 0 && fenced) -> break                                   /* it sees for itself: -EIO */
    :: else ->
        t = tail;
        atomic {
            if
#ifdef MUTANT_5
            :: cell[CELL(t)].round == ROUND(t) && cell[CELL(t)].state == FREE && tail == t -> tail++; mine = 1
#else
            :: cell[CELL(t)].round == ROUND(t) && cell[CELL(t)].state == FREE ->
                cell[CELL(t)].state = RESERVED; cell[CELL(t)].slot = who; mine = 1
#endif
            :: cell[CELL(t)].round == ROUND(t) && cell[CELL(t)].state != FREE -> mine = 2
            :: cell[CELL(t)].round > ROUND(t) -> mine = 2
            :: cell[CELL(t)].round < ROUND(t) && cell[CELL(t)].state == SKIPPED && head + CELLS > t ->
                /* quarantine: into this round, or free if the producer is gone */
                if
                :: gone -> cell[CELL(t)].state = FREE; cell[CELL(t)].slot = 0
                :: else
                fi;
                cell[CELL(t)].round++;
                mine = 3
            :: cell[CELL(t)].round < ROUND(t) && !(cell[CELL(t)].state == SKIPPED && head + CELLS > t) -> mine = 4 /* full */
            fi
        }
        if
        :: mine == 1 ->
#ifdef MUTANT_5
            atomic { cell[CELL(t)].state = RESERVED; cell[CELL(t)].slot = who };
#else
            push(tail, t);
#endif
            cell[CELL(t)].payload = what;
            atomic {
                if
#ifdef MUTANT_2
                :: true ->
#else
                :: IS(CELL(t), ROUND(t), RESERVED, who) ->
#endif
                    cell[CELL(t)].state = COMMITTED; posted[what]++; mine = 5
#ifndef MUTANT_2
                :: else -> mine = 6 /* skipped meanwhile */
#endif
                fi
            }
            if
            :: mine == 5 -> break
            :: else
            fi
        :: mine == 2 -> push(tail, t)
        :: mine == 3
        :: mine == 4 -> (tail != t || head + CELLS > t || cell[CELL(t)].round >= ROUND(t) || (who == 0 && fenced)) /* try again later */
        fi
    od;
    atomic { t = 0; mine = 0 }
}

inline merge(what, result)
{
    byte i, seen_round, seen_merged;
    result = 0;
    i = 0;
    do
    :: i < CELLS ->
        atomic { seen_round = cell[i].round; seen_merged = cell[i].merged; result = cell[i].state == COMMITTED }
        if
        :: result && cell[i].payload == what ->
            atomic {
                if
                :: cell[i].round == seen_round && cell[i].state == COMMITTED && cell[i].merged == seen_merged ->
                    cell[i].merged++; merged[what]++
                :: else -> result = 0
                fi
            }
        :: else -> result = 0
        fi;
        if
        :: result -> break
        :: else -> i++
        fi
    :: else -> break
    od
}

proctype producer0()
{
    byte t, mine;
    {
        post(0, 1);
        post(0, 2);
        done++
    } unless {
        atomic { gone && done < 2 -> done++ }                           /* killed, at any step */
    }
}

proctype producer1()
{
    byte t, mine;
    bit result;
    post(1, 3);
    merge(3, result);
    if
    :: result
    :: else -> post(1, 3)
    fi;
    post(1, 4);
    done++
}

/* Fences producer 0, rightly or not, at some time; its cell is skipped; some time later it is proven gone (or not before the end). */
proctype recovery()
{
    byte i;
    fenced = 1;
#ifndef MUTANT_3
    do
    :: i < CELLS ->
        atomic {
            if
            :: cell[i].state == RESERVED && cell[i].slot == 0 ->
                cell[i].state = SKIPPED
#ifdef MUTANT_4
                ; cell[i].state = FREE; cell[i].round++
#endif
            :: else
            fi
        }
        i++
    :: else -> break
    od;
#endif
    if
    :: gone = 1
    :: true
    fi
}

proctype taker()
{
    byte h, seen_merged, item;
    mtype state;
    byte round, slot;
end:
    do
    :: (cell[CELL(head)].round > ROUND(head) || (cell[CELL(head)].round == ROUND(head) && (cell[CELL(head)].state == COMMITTED ||
        cell[CELL(head)].state == SKIPPED || (cell[CELL(head)].state == RESERVED && cell[CELL(head)].slot == 0 && SEEN_FENCED)))) ->
        h = head;
        atomic { state = cell[CELL(h)].state; round = cell[CELL(h)].round; slot = cell[CELL(h)].slot; seen_merged = cell[CELL(h)].merged }
        if
        :: round > ROUND(h) -> push(head, h)
        :: round == ROUND(h) && state == COMMITTED ->
            item = cell[CELL(h)].payload;
            atomic {
                if
#ifdef MUTANT_1
                :: true ->
#else
                :: cell[CELL(h)].round == round && cell[CELL(h)].state == COMMITTED && cell[CELL(h)].merged == seen_merged ->
#endif
                    taken[item]++;
                    merged[item] = merged[item] - seen_merged; /* known to the taker */
                    cell[CELL(h)].state = FREE; cell[CELL(h)].round++; cell[CELL(h)].merged = 0; cell[CELL(h)].slot = 0
                :: else -> h = 255
                fi
            }
            if
            :: h != 255 -> push(head, h)
            :: else
            fi
#ifndef MUTANT_3
        :: round == ROUND(h) && state == RESERVED && slot == 0 && fenced ->
            atomic {
                if
                :: IS(CELL(h), round, RESERVED, 0) -> cell[CELL(h)].state = SKIPPED
                :: else
                fi
            }
#endif
        :: round == ROUND(h) && state == SKIPPED ->
            atomic {
                if
                :: gone && IS(CELL(h), round, SKIPPED, 0) -> cell[CELL(h)].state = FREE; cell[CELL(h)].round++
                :: else
                fi
            }
            push(head, h)
        :: else
        fi;
        assert(head <= tail + 1 && tail <= head + CELLS + 1);
        atomic { h = 0; seen_merged = 0; item = 0; state = FREE; round = 0; slot = 0 }
    od
}

proctype judge()
{
    (done == 2);
    (timeout); /* nothing moves any more */
    assert(taken[1] == posted[1] && taken[2] == posted[2] && taken[3] == posted[3] && taken[4] == posted[4]);
    assert(posted[4] == 1 && posted[3] >= 1 && taken[0] == 0);
    assert(merged[3] == 0)
}

init { atomic { run producer0(); run producer1(); run recovery(); run taker(); run judge() } }
