/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history self SEED ROUNDS: can the checker of histories fail, and does it fail only where it should?
 *
 *   by hand    legal and illegal histories of each class, with the verdict that they must get
 *   by force   random histories of up to 7 operations, each judged by trying all orders as well: both must agree
 *   planted    a legal history of 2,000 operations, made by carrying out operations at one instant within their intervals; with one result
 *              falsified it must be found and shrunk to a handful
 */
#include "run.h"
#include "t.h"

static unsigned failures;

static struct hist_op op(unsigned thread, uint64_t start, uint64_t end, enum hist_kind kind, unsigned x, unsigned y, uint64_t a, uint64_t b,
                         int err)
{
    return (struct hist_op){.start = start, .end = end, .call_ns = start, .return_ns = end, .a = a, .b = b, .kind = (uint8_t)kind,
                            .x = (uint8_t)x, .y = (uint8_t)y, .err = (uint8_t)err, .member = (uint8_t)(thread % 2), .thread = (uint8_t)thread};
}

static void expect(const char *name, enum hist_class class, enum hist_verdict want, const struct hist_op *ops, size_t count)
{
    struct hist_object object = {.class = class, .name = name};
    struct hist_states states = {.count = 1};
    struct hist_op     copy[16];
    memcpy(copy, ops, count * sizeof *ops);
    enum hist_verdict verdict = hist_check(&object, copy, count, &states, NULL);
    if (verdict == want)
        return;
    fprintf(stderr, "FAIL: %s: judged %s\n", name, verdict == HIST_LEGAL ? "legal" : "illegal");
    failures++;
}

#define LEGAL(name, class, ...)   expect(name, class, HIST_LEGAL, (struct hist_op[]){__VA_ARGS__}, sizeof((struct hist_op[]){__VA_ARGS__}) / sizeof(struct hist_op))
#define ILLEGAL(name, class, ...) expect(name, class, HIST_ILLEGAL, (struct hist_op[]){__VA_ARGS__}, sizeof((struct hist_op[]){__VA_ARGS__}) / sizeof(struct hist_op))
#define W(t, s, e, v)             op(t, s, e, HIST_WRITE, 0, 0, v, 0, 0)
#define R(t, s, e, v)             op(t, s, e, HIST_READ, 0, 0, v, 0, 0)

static void registers(void)
{
    LEGAL("a read before any write", HIST_REGISTER, R(0, 0, 1, 0));
    ILLEGAL("a value out of nowhere", HIST_REGISTER, R(0, 0, 1, 9));
    LEGAL("a read during a write, old", HIST_REGISTER, W(0, 0, 10, 1), R(1, 2, 3, 0), R(1, 4, 5, 1));
    ILLEGAL("new, then old", HIST_REGISTER, W(0, 0, 10, 1), R(1, 2, 3, 1), R(2, 4, 5, 0));
    ILLEGAL("stale after the write returned", HIST_REGISTER, W(0, 0, 10, 1), W(0, 11, 12, 2), R(1, 13, 14, 1));
    LEGAL("at the same instant", HIST_REGISTER, W(0, 0, 10, 1), R(1, 10, 12, 0));
    LEGAL("two writes in either order", HIST_REGISTER, W(0, 0, 10, 1), W(1, 0, 10, 2), R(2, 11, 12, 1));
    ILLEGAL("two orders for two readers", HIST_REGISTER, W(0, 0, 10, 1), W(1, 0, 10, 2), R(2, 11, 12, 1), R(3, 13, 14, 2));
    ILLEGAL("a value seen before it was written", HIST_REGISTER, R(1, 0, 1, 1), W(0, 2, 3, 1));
    LEGAL("a counter", HIST_REGISTER, op(0, 0, 5, HIST_SWAP, 0, 0, 0, 1, 0), op(1, 0, 5, HIST_SWAP, 0, 0, 1, 2, 0), R(0, 6, 7, 2));
    ILLEGAL("a lost update", HIST_REGISTER, op(0, 0, 5, HIST_SWAP, 0, 0, 0, 1, 0), op(1, 0, 5, HIST_SWAP, 0, 0, 0, 1, 0));
}

static void logs_and_files(void)
{
#define A(t, s, e, at) op(t, s, e, HIST_APPEND, 0, 0, 77, at, 0)
#define N(t, s, e, n)  op(t, s, e, HIST_COUNT, 0, 0, n, 0, 0)
#define G(t, s, e, there, at) op(t, s, e, HIST_GET, 0, 0, there, at, 0)
    LEGAL("appends in the order of the file", HIST_LOG, A(0, 0, 9, 1), A(1, 0, 9, 0), N(0, 10, 11, 2));
    ILLEGAL("appends against real time", HIST_LOG, A(0, 0, 3, 1), A(1, 4, 9, 0));
    ILLEGAL("a size that forgets an append", HIST_LOG, A(0, 0, 3, 0), N(1, 4, 5, 0));
    ILLEGAL("a size that shrinks", HIST_LOG, A(0, 0, 9, 0), N(1, 1, 2, 1), N(2, 3, 4, 0));
    LEGAL("a record read early", HIST_LOG, A(0, 0, 9, 0), G(1, 1, 2, 1, 0), N(1, 3, 4, 1));
    ILLEGAL("a record that is gone", HIST_LOG, A(0, 0, 3, 0), G(1, 4, 5, 0, 0));

#define TW(t, s, e, cell, v) op(t, s, e, HIST_T_WRITE, cell, 0, v, 0, 0)
#define TR(t, s, e, cell, v) op(t, s, e, HIST_T_READ, cell, 0, v, 0, 0)
#define TE(t, s, e, cell)    op(t, s, e, HIST_T_READ, cell, 0, 0, 0, 1)
#define TT(t, s, e, size)    op(t, s, e, HIST_T_RESIZE, 0, 0, size, 0, 0)
#define TS(t, s, e, size)    op(t, s, e, HIST_T_SIZE, 0, 0, size, 0, 0)
    LEGAL("a write makes the file longer", HIST_TFILE, TE(0, 0, 1, 1), TW(0, 2, 3, 1, 5), TS(0, 4, 5, 4104), TR(0, 6, 7, 0, 0), TR(0, 8, 9, 1, 5));
    LEGAL("down and up leaves zeros", HIST_TFILE, TW(0, 0, 1, 1, 5), TT(0, 2, 3, 0), TT(0, 4, 5, 8192), TR(1, 6, 7, 1, 0));
    ILLEGAL("down and up leaves old data", HIST_TFILE, TW(0, 0, 1, 1, 5), TT(0, 2, 3, 0), TT(0, 4, 5, 8192), TR(1, 6, 7, 1, 5));
    ILLEGAL("data behind the end", HIST_TFILE, TW(0, 0, 1, 1, 5), TT(0, 2, 3, 4096), TR(1, 4, 5, 1, 0));
    ILLEGAL("an old size", HIST_TFILE, TT(0, 2, 3, 4096), TT(0, 4, 5, 8192), TS(1, 6, 7, 4096));
    ILLEGAL("a hole that is not", HIST_TFILE, TW(0, 0, 1, 0, 5), op(0, 2, 3, HIST_T_PUNCH, 0, 0, 0, 0, 0), TR(1, 4, 5, 0, 5));
}

static void names(void)
{
#define C(t, s, e, n, id)     op(t, s, e, HIST_CREATE, n, 0, id, 0, 0)
#define CX(t, s, e, n)        op(t, s, e, HIST_CREATE, n, 0, 0, 0, EEXIST)
#define U(t, s, e, n)         op(t, s, e, HIST_REMOVE, n, 0, 0, 0, 0)
#define UX(t, s, e, n)        op(t, s, e, HIST_REMOVE, n, 0, 0, 0, ENOENT)
#define M(t, s, e, n, m)      op(t, s, e, HIST_RENAME, n, m, 0, 0, 0)
#define L(t, s, e, n, id)     op(t, s, e, HIST_LOOKUP, n, 0, id, 0, 0)
#define K(t, s, e, id, count) op(t, s, e, HIST_LINKS, 0, 0, id, count, 0)
    LEGAL("one of two wins", HIST_NAMES, C(0, 0, 9, 0, 5), CX(1, 0, 9, 0));
    ILLEGAL("both win", HIST_NAMES, C(0, 0, 9, 0, 5), C(1, 0, 9, 0, 6));
    ILLEGAL("none wins", HIST_NAMES, CX(0, 0, 9, 0), CX(1, 0, 9, 0));
    ILLEGAL("removed twice", HIST_NAMES, C(0, 0, 1, 0, 5), U(0, 2, 9, 0), U(1, 2, 9, 0));
    ILLEGAL("a name that stays", HIST_NAMES, C(0, 0, 1, 0, 5), U(0, 2, 3, 0), L(1, 4, 5, 0, 5));
    ILLEGAL("a name that is not there yet", HIST_NAMES, C(0, 0, 1, 0, 5), L(1, 2, 3, 0, 0));
    ILLEGAL("refused for no reason", HIST_NAMES, C(0, 0, 1, 0, 5), UX(1, 2, 3, 0));
    LEGAL("both names change at once", HIST_NAMES, C(0, 0, 1, 0, 5), M(0, 2, 9, 0, 1), L(1, 3, 4, 0, 5), L(1, 5, 6, 1, 5), L(1, 7, 8, 0, 0));
    ILLEGAL("both names gone during a rename", HIST_NAMES, C(0, 0, 1, 0, 5), M(0, 2, 9, 0, 1), L(1, 3, 4, 0, 0), L(1, 5, 6, 1, 0));
    ILLEGAL("both names there during a rename", HIST_NAMES, C(0, 0, 1, 0, 5), M(0, 2, 9, 0, 1), L(1, 3, 4, 1, 5), L(1, 5, 6, 0, 5));
    LEGAL("a rename to another name of the inode", HIST_NAMES, C(0, 0, 1, 0, 5), C(0, 2, 3, 1, 5), M(0, 4, 5, 0, 1), L(1, 6, 7, 0, 5), K(1, 8, 9, 5, 2));
    ILLEGAL("a link too many", HIST_NAMES, C(0, 0, 1, 0, 5), C(0, 2, 3, 1, 5), U(0, 4, 5, 1), K(1, 6, 7, 5, 2));
    LEGAL("exchanged", HIST_NAMES, C(0, 0, 1, 0, 5), C(0, 2, 3, 1, 6), op(0, 4, 5, HIST_EXCHANGE, 0, 1, 0, 0, 0), L(1, 6, 7, 0, 6), L(1, 8, 9, 1, 5));
    ILLEGAL("replaced all the same", HIST_NAMES, C(0, 0, 1, 0, 5), C(0, 2, 3, 1, 6), op(0, 4, 5, HIST_NOREPLACE, 0, 1, 0, 0, 0));
    LEGAL("a directory over another", HIST_DIRS, C(0, 0, 1, 0, 1), C(0, 2, 3, 1, 1), M(0, 4, 5, 0, 1), L(1, 6, 7, 0, 0), L(1, 8, 9, 1, 1));
    LEGAL("a lock handed over", HIST_LOCK, op(0, 0, 1, HIST_ACQUIRE, 0, 0, 1, 0, 0), op(1, 0, 9, HIST_ACQUIRE, 0, 0, 2, 0, 0),
          op(0, 2, 5, HIST_RELEASE, 0, 0, 1, 0, 0));
    ILLEGAL("two holders", HIST_LOCK, op(0, 0, 1, HIST_ACQUIRE, 0, 0, 1, 0, 0), op(1, 0, 3, HIST_ACQUIRE, 0, 0, 2, 0, 0),
            op(0, 4, 5, HIST_RELEASE, 0, 0, 1, 0, 0));
}

/* An early or late view of a change of one's own member is no violation; the same of another's is. */
static void widening(void)
{
    struct hist_object object = {.class = HIST_REGISTER, .name = "widened"};
    for (unsigned reader = 1; reader <= 2; reader++) {
        struct hist_op     ops[] = {W(0, 0, 100, 1), R(reader, 10, 11, 1), R(3, 20, 21, 0)};
        struct hist_states states = {.count = 1};
        ops[0].member = 0;
        ops[1].member = reader == 2 ? 0 : 1; /* thread 2 sits on the writer's mount */
        ops[2].member = 1;
        size_t            count = hist_widen(&object, ops, 3);
        enum hist_verdict verdict = hist_check(&object, ops, count, &states, NULL);
        if (verdict != (reader == 2 ? HIST_LEGAL : HIST_ILLEGAL))
            fprintf(stderr, "FAIL: widening, reader %u\n", reader), failures++;
    }
}

/* ---- by force ---- */
static bool any_order(const struct hist_object *object, const struct hist_op *ops, unsigned count, unsigned done, const struct hist_state *state)
{
    if (done == (1u << count) - 1)
        return true;
    for (unsigned i = 0; i < count; i++) {
        struct hist_state next;
        bool              may = !(done >> i & 1);
        for (unsigned j = 0; may && j < count; j++) /* what ended before it began must have been */
            may = done >> j & 1 || ops[j].end >= ops[i].start;
        if (may && hist_apply(object, &ops[i], state, &next) && any_order(object, ops, count, done | 1u << i, &next))
            return true;
    }
    return false;
}

static struct hist_op random_op(enum hist_class class, uint64_t *seed)
{
    static const enum hist_kind kinds[][8] = {
        [HIST_REGISTER] = {HIST_WRITE, HIST_READ, HIST_READ, HIST_READ, HIST_WRITE, HIST_SWAP, HIST_READ, HIST_READ},
        [HIST_LOG] = {HIST_APPEND, HIST_APPEND, HIST_COUNT, HIST_GET, HIST_COUNT, HIST_GET, HIST_APPEND, HIST_APPEND},
        [HIST_TFILE] = {HIST_T_WRITE, HIST_T_READ, HIST_T_RESIZE, HIST_T_SIZE, HIST_T_PUNCH, HIST_T_READ, HIST_T_READ, HIST_T_SIZE},
        [HIST_NAMES] = {HIST_CREATE, HIST_REMOVE, HIST_RENAME, HIST_NOREPLACE, HIST_EXCHANGE, HIST_LOOKUP, HIST_LINKS, HIST_CREATE},
        [HIST_DIRS] = {HIST_CREATE, HIST_REMOVE, HIST_RENAME, HIST_NOREPLACE, HIST_EXCHANGE, HIST_LOOKUP, HIST_CREATE, HIST_CREATE},
        [HIST_LOCK] = {HIST_ACQUIRE, HIST_ACQUIRE, HIST_RELEASE, HIST_RELEASE, HIST_ACQUIRE, HIST_RELEASE, HIST_ACQUIRE, HIST_RELEASE},
    };
    uint64_t       start = t_random(seed) >> 8, kind = t_random(seed) >> 61, x = t_random(seed) >> 63, value = t_random(seed) >> 62;
    struct hist_op made = op((unsigned)value, start % 12, start % 12 + (t_random(seed) >> 61), kinds[class][kind], (unsigned)x, (unsigned)!x, value,
                             t_random(seed) >> 63, 0);
    if (class == HIST_DIRS)
        made.a = made.kind == HIST_LOOKUP ? x : 1;
    if (class == HIST_TFILE && (made.kind == HIST_T_SIZE || made.kind == HIST_T_RESIZE))
        made.a = value * 4096;
    if (class == HIST_NAMES && !hist_observes(&made) && t_random(seed) >> 62 == 0)
        made.err = made.kind == HIST_CREATE ? EEXIST : ENOENT;
    return made;
}

static void by_force(uint64_t *seed, unsigned rounds)
{
    unsigned legal = 0;
    for (unsigned i = 0; i < rounds; i++) {
        struct hist_object object = {.class = (enum hist_class)(i % 6), .name = "random"};
        struct hist_states states = {.count = 1};
        struct hist_op     ops[7], sorted[7];
        unsigned           count = 2 + (unsigned)((t_random(seed) >> 8) % 6);
        for (unsigned j = 0; j < count; j++)
            ops[j] = random_op(object.class, seed);
        memcpy(sorted, ops, sizeof ops);
        bool want = any_order(&object, ops, count, 0, &(struct hist_state){0});
        bool got = hist_check(&object, sorted, count, &states, NULL) == HIST_LEGAL;
        legal += want;
        if (want == got)
            continue;
        fprintf(stderr, "FAIL: all orders say %s, the checker %s\n", want ? "legal" : "illegal", got ? "legal" : "illegal");
        for (unsigned j = 0; j < count; j++)
            hist_print_op(&object, &sorted[j], 0);
        failures++;
    }
    printf("%u random histories judged like all their orders, %u of them legal\n", rounds, legal);
    T_THAT(legal > rounds / 50 && legal < rounds - rounds / 50, "the random histories are of one kind only");
}

/* ---- planted ---- */
enum { PLANTED = 2000 };

/* Operations of 6 threads, carried out one after another at a point within their intervals. */
static size_t make_legal(const struct hist_object *object, struct hist_op *ops, uint64_t *seed)
{
    struct hist_state state = {0}, next;
    uint64_t          now = 1000, free_at[6] = {0};
    size_t            count = 0;
    for (uint64_t tag = 1; count < PLANTED;) {
        unsigned       thread = (unsigned)((t_random(seed) >> 8) % 6);
        struct hist_op made = random_op(object->class, seed);
        if (made.kind == HIST_SWAP) /* writes that are all different: a register is then shrunk further */
            made.kind = HIST_READ;
        now += 1 + (t_random(seed) >> 60);
        if (free_at[thread] >= now)
            continue;
        if (made.kind == HIST_WRITE || (made.kind == HIST_CREATE && object->class == HIST_NAMES))
            made.a = ++tag;
        else if (made.kind == HIST_READ || made.kind == HIST_LOOKUP || made.kind == HIST_COUNT)
            made.a = state.word[made.kind == HIST_LOOKUP ? made.x : 0];
        if (made.kind == HIST_APPEND)
            made.b = state.word[0];
        if (!hist_apply(object, &made, &state, &next))
            continue;
        state = next;
        made.thread = (uint8_t)thread;
        made.member = (uint8_t)(thread % 2);
        uint64_t before = now - free_at[thread] < 40 ? now - free_at[thread] - 1 : t_random(seed) >> 59;
        made.start = made.call_ns = now - before;
        made.end = made.return_ns = now + (t_random(seed) >> 58);
        free_at[thread] = made.end;
        ops[count++] = made;
    }
    return count;
}

static bool looks(const struct hist_op *made)
{
    return (made->kind == HIST_READ || made->kind == HIST_LOOKUP || made->kind == HIST_COUNT) && made->a;
}

static bool falsify(struct hist_op *ops, size_t bad)
{
    for (size_t old = bad / 2; looks(&ops[bad]) && old > 0; old--) {
        if (ops[old].kind == ops[bad].kind && ops[old].x == ops[bad].x && ops[old].a != ops[bad].a) {
            ops[bad].a = ops[old].a;
            return true;
        }
    }
    return false;
}

static void planted(enum hist_class class, uint64_t *seed, size_t small)
{
    struct hist_object object = {.class = class, .name = "planted"};
    struct hist_states states = {.count = 1}, begin = {.count = 1};
    struct hist_op    *ops = calloc(PLANTED, sizeof *ops);
    T_THAT(ops, "no memory");
    size_t count = make_legal(&object, ops, seed);
    if (hist_check(&object, ops, count, &states, NULL) != HIST_LEGAL) {
        fprintf(stderr, "FAIL: a legal history of %zu operations is refused\n", count);
        failures++;
    }
    enum hist_verdict verdict = HIST_LEGAL;
    for (size_t bad = count / 2; verdict == HIST_LEGAL && bad < count; bad++) { /* what was there long ago may by chance be there again */
        uint64_t right = ops[bad].a;
        if (!falsify(ops, bad))
            continue;
        states = begin;
        verdict = hist_check(&object, ops, count, &states, NULL);
        if (verdict == HIST_LEGAL)
            ops[bad].a = right;
    }
    size_t left = verdict == HIST_ILLEGAL ? hist_shrink(&object, ops, count, &begin) : 0;
    printf("%zu operations, one result falsified: %s, shrunk to %zu\n", count, verdict == HIST_ILLEGAL ? "found" : verdict == HIST_LEGAL ? "not found" : "undecided", left);
    if (!left || left > small) {
        fprintf(stderr, "FAIL: the planted violation\n");
        failures++;
    }
    free(ops);
}

int self_test(const char *text, unsigned rounds)
{
    uint64_t seed = t_seed(text, 0);
    registers();
    logs_and_files();
    names();
    widening();
    by_force(&seed, rounds);
    for (unsigned i = 0; i < 10; i++) {
        planted(HIST_REGISTER, &seed, 4);
        planted(HIST_LOG, &seed, 4);
        planted(HIST_NAMES, &seed, 100);
    }
    printf("%u failures, seed %s\n", failures, text);
    return failures != 0;
}
