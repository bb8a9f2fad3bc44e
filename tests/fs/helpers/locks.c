/* SPDX-License-Identifier: Apache-2.0 */
/* locks.c - random lock operations on a file of the mounts and on a file of a local file system: every result must be the same.
 *
 *   locks SEED OPERATIONS PLAIN_DIR DIR...
 *
 * Processes on all mounts, each with several descriptors, are told what to do one after the other, so each result is
 * determined; each does it on the mount first and then at once on the local file. Compared are errno, the type that F_GETLK gives, and
 * range and process where only one lock can be meant (who writes byte n?). The kernel tells of the last close of a file
 * a moment after close(2) has returned. So a refusal where the local file system grants is looked at again for a second,
 * and counted; what is late oftener than one in a thousand fails. */
#include "lock_actor.h"

enum { PROCESSES = 6, OPEN = SLOTS / 2, BYTES = 40, LATE_MS = 1000 };

static uint64_t      rng;
static struct actor  actors[PROCESSES];
static bool          is_open[PROCESSES][OPEN];
static const char   *dirs[8], *plain;
static unsigned      dir_count, late;
static unsigned long counts[4]; /* granted, refused, found, not found */

static uint64_t pick(uint64_t n)
{
    return (t_random(&rng) >> 20) % n;
}

/* Slots 0 to OPEN - 1 are of the mount, the others their twins. */
static struct result twin(unsigned p, struct command c)
{
    if (c.act == ACT_OPEN)
        t_path(c.path, sizeof c.path, plain, "locked");
    c.slot += OPEN;
    c.from += OPEN;
    return actor_do(&actors[p], c);
}

static bool is_try(const struct command *c)
{
    return (c->act == ACT_FCNTL && c->type != F_UNLCK) || c->act == ACT_FLOCK;
}

static bool is_refusal(const struct command *c, const struct result *r)
{
    return c->act == ACT_FCNTL && (c->how == F_GETLK || c->how == F_OFD_GETLK) ? r->lock.l_type != F_UNLCK : r->error == EAGAIN;
}

static bool is_same(const struct command *c, const struct result *a, const struct result *b)
{
    if (a->error != b->error)
        return false;
    if (c->act != ACT_FCNTL || (c->how != F_GETLK && c->how != F_OFD_GETLK) || a->error)
        return true;
    if ((a->lock.l_type == F_UNLCK) != (b->lock.l_type == F_UNLCK))
        return false;
    if (b->lock.l_type == F_UNLCK || c->type != F_RDLCK || c->len != 1)
        return true;
    return a->lock.l_type == b->lock.l_type && a->lock.l_whence == b->lock.l_whence && a->lock.l_start == b->lock.l_start &&
           a->lock.l_len == b->lock.l_len && (b->lock.l_pid <= 0 || a->lock.l_pid == b->lock.l_pid ||
                                            (c->how == F_OFD_GETLK && a->lock.l_pid == -1)); /* the kernel's answer for any FUSE */
}

static void both(unsigned long n, unsigned p, struct command c)
{
    struct result a = actor_do(&actors[p], c), b = twin(p, c);
    if (is_try(&c) && is_refusal(&c, &a) && !is_refusal(&c, &b)) {
        int64_t end_ns = actor_now_ns() + LATE_MS * 1000000ll;
        for (late++; is_refusal(&c, &a) && actor_now_ns() < end_ns; usleep(2000))
            a = actor_do(&actors[p], c);
    }
    if (!is_same(&c, &a, &b))
        t_die("operation %lu, process %u on %s: act %d how %d type %d start %lld len %lld%s: errno %d and %d at home; lock %d %lld+%lld of %d and %d %lld+%lld of %d",
              n, p, dirs[p % dir_count], c.act, c.how, c.type, (long long)c.start, (long long)c.len, c.forked ? " in a child" : "", a.error, b.error,
              a.lock.l_type, (long long)a.lock.l_start, (long long)a.lock.l_len, a.lock.l_pid, b.lock.l_type, (long long)b.lock.l_start,
              (long long)b.lock.l_len, b.lock.l_pid);
    if (c.act == ACT_FCNTL && (c.how == F_GETLK || c.how == F_OFD_GETLK))
        counts[a.lock.l_type == F_UNLCK ? 3 : 2]++;
    else if (is_try(&c))
        counts[a.error == EAGAIN]++;
}

static struct command random_range(int slot, int how, short type)
{
    static const int64_t far[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX - 10, 1ll << 40};
    struct command       c = cmd_fcntl(slot, how, type, (int64_t)pick(BYTES), (int64_t)pick(BYTES / 2) + 1);
    if (pick(12) == 0)
        c.len = 0;
    if (pick(30) == 0) {
        c.start = far[pick(4)];
        c.len = (int64_t)pick(4);
    } else if (pick(30) == 0) {
        c.len = INT64_MAX - c.start + (int64_t)pick(2); /* to the last byte; one more is EOVERFLOW */
    } else if (pick(30) == 0) {
        c.len = -(int64_t)pick(10); /* what is before start */
    }
    return c;
}

static struct command random_lock(int slot)
{
    static const short types[] = {F_RDLCK, F_WRLCK, F_UNLCK, F_RDLCK, F_WRLCK};
    static const int   flocks[] = {LOCK_SH | LOCK_NB, LOCK_EX | LOCK_NB, LOCK_UN};
    uint64_t           what = pick(20);
    if (what < 7)
        return random_range(slot, F_SETLK, types[pick(5)]);
    if (what < 13)
        return random_range(slot, F_OFD_SETLK, types[pick(5)]);
    if (what < 16)
        return cmd_flock(slot, flocks[pick(3)]);
    if (what < 18)
        return random_range(slot, pick(2) ? F_GETLK : F_OFD_GETLK, types[pick(2)]);
    return cmd_fcntl(slot, pick(2) ? F_GETLK : F_OFD_GETLK, F_RDLCK, (int64_t)pick(BYTES + 10), 1);
}

static void operate(unsigned long n)
{
    unsigned       p = (unsigned)pick(PROCESSES);
    int            slot = (int)pick(OPEN), other = (int)pick(OPEN);
    struct command c = {.slot = slot};
    if (!is_open[p][slot]) {
        c.act = is_open[p][other] && pick(2) ? ACT_DUP : ACT_OPEN;
        c.from = other;
        t_path(c.path, sizeof c.path, dirs[p % dir_count], "locked");
        is_open[p][slot] = true;
    } else if (pick(8) == 0) {
        c.act = ACT_CLOSE;
        c.forked = pick(4) == 0; /* closed in the child only */
        is_open[p][slot] = c.forked;
    } else {
        c = random_lock(slot);
        c.forked = pick(10) == 0;
    }
    both(n, p, c);
    if (pick(400) == 0) { /* its end, by a signal: all that it holds goes */
        T_THAT(actor_kill(&actors[p], 20000), "operation %lu: a killed process does not go", n);
        actors[p] = actor_new();
        memset(is_open[p], 0, sizeof is_open[p]);
    }
}

int main(int argc, char **argv)
{
    T_THAT(argc >= 5 && argc < 5 + 8, "usage: locks SEED OPERATIONS PLAIN_DIR DIR...");
    rng = t_seed(argv[1], 18);
    unsigned long operations = strtoul(argv[2], NULL, 0);
    plain = argv[3];
    for (int i = 4; i < argc; i++)
        dirs[dir_count++] = argv[i];
    for (unsigned p = 0; p < PROCESSES; p++)
        actors[p] = actor_new();
    for (unsigned long n = 0; n < operations; n++)
        operate(n);
    for (unsigned p = 0; p < PROCESSES; p++)
        actor_kill(&actors[p], 20000);
    T_THAT(counts[0] > operations / 20 && counts[1] > operations / 20 && counts[2] > operations / 100 && counts[3] > operations / 100,
           "granted %lu, refused %lu, found %lu, not found %lu: that tests too little", counts[0], counts[1], counts[2], counts[3]);
    T_THAT(late <= 1 + operations / 1000, "%u of %lu answers were late after a close", late, operations);
    printf("%lu operations: %lu granted, %lu refused; F_GETLK: %lu found, %lu none; %u late after a close\n", operations, counts[0], counts[1],
           counts[2], counts[3], late);
    return 0;
}
