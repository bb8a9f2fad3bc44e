/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_lock_stress.c - the recall protocol against an oracle: four members, each with a simulated kernel, two readers, a writer and the thread that answers recalls.
 *
 * A kernel caches versions of two pages and of the attributes of each of two inodes, and has the properties that the protocol leans on:
 *   page        locked from the miss until the answer is installed; an invalidation waits for it, unless its READ waits for a writer (held)
 *   attributes  an answer to a request that was sent before the last invalidation is not installed
 *   forget      drops an inode that nothing is in flight for, now and then; reclaim drops a page now and then
 * A write moves the version of a page and of the attributes; a recall names the page, and drops the attributes, too.
 *
 * The oracle: what a read gets, from its kernel or from the cache, is no older than what had been written when it began; when a write has returned, no kernel holds
 * anything older; and in the end every kernel that holds something holds the newest. The same run with a mistake in it (enum mistake) must be caught, or the
 * oracle is worth nothing.
 */
#include "lock_fixture.h"

TestSuite(lock_stress, .fini = fixture_remove, .timeout = 240);

enum { MEMBERS = 4, READERS = 2, INODES = 2, PAGES = 2, ATTR = PAGES, THINGS = PAGES + 1 };
enum mistake { NONE, ACKNOWLEDGE_BEFORE_DROP, CLEAR_AFTER_DROP, READ_WITHOUT_INTEREST, LOSE_INTEREST_IN_THE_REST, WRITE_WITHOUT_RECALL, HELD_DURING_THE_ANSWER };

struct thing { /* what a kernel caches; 0: nothing */
    uint64_t version, generation;
    bool     locked; /* a page: a READ has been sent                                     */
    bool     held;   /* and waits for a writer: nobody waits for it but who wants its page */
};
struct kernel { /* one inode's part of it */
    pthread_mutex_t mutex;
    pthread_cond_t  unlocked;
    struct thing    thing[THINGS];
    unsigned        in_flight;
};
struct actor {
    unsigned  member;
    uint64_t  seed;
    pthread_t thread;
};

static struct kernel    kernels[MEMBERS][INODES];
static _Atomic uint64_t current[INODES][THINGS];  /* what the segment holds; moved by the owner in WRITING */
static _Atomic uint64_t returned[INODES][THINGS]; /* the newest version whose write has returned */
static _Atomic unsigned writers_left, readers_left;
static unsigned         writes_each;
static enum mistake     mistake;

static struct lock_mgr *mgr_of(unsigned member)
{
    return fixture.member[member].mgr;
}

/* ---- reading ---- */

static void expect_new(const char *where, unsigned member, unsigned inode, unsigned thing, uint64_t version, uint64_t floor)
{
    if (version < floor && mistake != NONE)
        atomic_fetch_add(&fixture.wrong, 1); /* as wanted */
    else if (version < floor)
        fixture_wrong("stale %s: member %u, inode %u, thing %u: %llu, older than %llu", where, member, inode, thing, (unsigned long long)version,
                      (unsigned long long)floor);
}

static void held_set(unsigned member, unsigned inode, unsigned page, bool held)
{
    struct kernel *kernel = &kernels[member][inode];
    pthread_mutex_lock(&kernel->mutex);
    kernel->thing[page].held = held;
    pthread_cond_broadcast(&kernel->unlocked);
    pthread_mutex_unlock(&kernel->mutex);
}

/* A READ of a page that has to wait is held, and is not any more before it takes an interest. */
static uint64_t ask(unsigned member, unsigned inode, unsigned thing)
{
    struct lock_ref ref = fixture_ref(inode);
    bool            page = thing != ATTR, held = false;
    enum lock_read (*begin)(struct lock_mgr *, struct lock_shared *) =
        mistake == READ_WITHOUT_INTEREST ? lock_read_peek : page ? lock_read_begin_page : lock_read_begin;

    while (begin(mgr_of(member), ref.words) == LOCK_READ_WAIT) {
        if (page)
            held_set(member, inode, thing, held = true);
        lock_read_wait(mgr_of(member), &ref, page, NULL, NULL);
        if (page && mistake != HELD_DURING_THE_ANSWER)
            held_set(member, inode, thing, held = false);
    }
    uint64_t version = atomic_load(&current[inode][thing]);
    if (held) {
        sched_yield();
        held_set(member, inode, thing, false);
    }
    return version;
}

static void read_thing(unsigned member, unsigned inode, unsigned number)
{
    struct kernel *kernel = &kernels[member][inode];
    struct thing  *thing = &kernel->thing[number];
    uint64_t       floor = atomic_load(&returned[inode][number]);

    pthread_mutex_lock(&kernel->mutex);
    while (thing->locked)
        pthread_cond_wait(&kernel->unlocked, &kernel->mutex);
    uint64_t version = thing->version, generation = thing->generation;
    if (version) {
        pthread_mutex_unlock(&kernel->mutex);
        expect_new("in the kernel", member, inode, number, version, floor);
        return;
    }
    thing->locked = number != ATTR;
    kernel->in_flight++;
    pthread_mutex_unlock(&kernel->mutex);

    version = ask(member, inode, number);
    expect_new("answer", member, inode, number, version, floor);

    pthread_mutex_lock(&kernel->mutex);
    kernel->in_flight--;
    if (number != ATTR || thing->generation == generation)
        thing->version = version;
    if (number != ATTR)
        thing->locked = false;
    pthread_cond_broadcast(&kernel->unlocked);
    pthread_mutex_unlock(&kernel->mutex);
}

static void reclaim(unsigned member, unsigned inode, bool forget)
{
    struct kernel *kernel = &kernels[member][inode];
    pthread_mutex_lock(&kernel->mutex);
    for (unsigned i = 0; i < THINGS && !kernel->in_flight; i++)
        kernel->thing[i].version = 0;
    if (!kernel->in_flight && forget)
        lock_interest_drop(mgr_of(member), fixture_ref(inode).words);
    pthread_mutex_unlock(&kernel->mutex);
}

static void *reader_run(void *arg)
{
    struct actor *actor = arg;
    while (atomic_load(&writers_left)) {
        uint64_t random = fixture_random(&actor->seed) >> 20;
        read_thing(actor->member, random % INODES, (unsigned)(random >> 8) % THINGS);
        if (random >> 16 & 1)
            sched_yield();
        if ((random >> 20) % 8 == 0)
            reclaim(actor->member, (unsigned)(random >> 24) % INODES, random >> 28 & 1);
        if ((random >> 32) % 16 == 0)
            fixture_nap();
    }
    atomic_fetch_sub(&readers_left, 1);
    return NULL;
}

/* ---- writing ---- */

/* The own kernel holds what it has written; it asks anew for the attributes. */
static void own_kernel_update(unsigned member, unsigned inode, unsigned page, uint64_t version)
{
    struct kernel *kernel = &kernels[member][inode];
    pthread_mutex_lock(&kernel->mutex);
    while (kernel->thing[page].locked && !kernel->thing[page].held)
        pthread_cond_wait(&kernel->unlocked, &kernel->mutex);
    if (!kernel->thing[page].locked) /* else its READ is answered after this write */
        kernel->thing[page].version = version;
    kernel->thing[ATTR].version = 0;
    kernel->thing[ATTR].generation++;
    pthread_mutex_unlock(&kernel->mutex);
}

static void in_flight(unsigned member, unsigned inode, int change)
{
    struct kernel *kernel = &kernels[member][inode];
    pthread_mutex_lock(&kernel->mutex);
    kernel->in_flight += (unsigned)change;
    pthread_mutex_unlock(&kernel->mutex);
}

/* No kernel holds anything older: called when the write has returned. */
static void expect_gone(unsigned inode, unsigned number, uint64_t version)
{
    for (unsigned m = 0; m < MEMBERS; m++) {
        struct kernel *kernel = &kernels[m][inode];
        pthread_mutex_lock(&kernel->mutex);
        uint64_t held = kernel->thing[number].version;
        pthread_mutex_unlock(&kernel->mutex);
        if (held)
            expect_new("after the write", m, inode, number, held, version);
    }
}

static void returned_raise(unsigned inode, unsigned number, uint64_t version)
{
    uint64_t seen = atomic_load(&returned[inode][number]);
    while (seen < version && !atomic_compare_exchange_weak(&returned[inode][number], &seen, version))
        ;
}

/* Writes `page` of each inode in `mask`, all of them as one change. */
static void write_pages(unsigned member, unsigned mask, unsigned page)
{
    struct lock_mgr   *mgr = mgr_of(member);
    struct lock_ref    refs[INODES] = {0};
    struct lock_recall recalls[INODES];
    uint64_t           version[INODES][THINGS];
    unsigned           count = 0;

    for (unsigned i = 0; i < INODES; i++) {
        if (!(mask >> i & 1))
            continue;
        in_flight(member, i, 1);
        refs[count] = fixture_ref(i);
        recalls[count++] = (struct lock_recall){.ref = fixture_ref(i), .kind = WORK_RECALL_DATA, .arg = (uint64_t)page << 32 | 1};
    }
    if (lock_write_acquire_set(mgr, refs, count, NULL, NULL) != 0)
        fixture_wrong("not acquired");
    for (unsigned n = 0; n < count; n++)
        lock_interest_take(mgr, refs[n].words); /* own interest: this kernel keeps what it writes */
    int result = mistake == WRITE_WITHOUT_RECALL ? 0 : lock_recall_all(mgr, recalls, count, 0);
    if (result)
        fixture_wrong("recall: %d", result);
    for (unsigned i = 0; i < INODES; i++) {
        if (!(mask >> i & 1))
            continue;
        version[i][page] = atomic_fetch_add(&current[i][page], 1) + 1;
        version[i][ATTR] = atomic_fetch_add(&current[i][ATTR], 1) + 1;
        own_kernel_update(member, i, page, version[i][page]);
    }
    lock_write_release_set(mgr, refs, count);
    for (unsigned i = 0; i < INODES; i++) {
        if (!(mask >> i & 1))
            continue;
        in_flight(member, i, -1);
        returned_raise(i, page, version[i][page]);
        returned_raise(i, ATTR, version[i][ATTR]);
        expect_gone(i, page, version[i][page]);
        expect_gone(i, ATTR, version[i][ATTR]);
    }
}

static void *writer_run(void *arg)
{
    struct actor *actor = arg;
    for (unsigned n = 0; n < writes_each && !atomic_load(&fixture.wrong); n++) {
        uint64_t random = fixture_random(&actor->seed) >> 20;
        write_pages(actor->member, (random & 7) == 7 ? 3 : 1u << (random >> 3) % INODES, (unsigned)(random >> 8) % PAGES);
        if ((random >> 16) % 4 == 0)
            fixture_nap();
    }
    atomic_fetch_sub(&writers_left, 1);
    return NULL;
}

/* ---- answering ---- */

static void drop(struct kernel *kernel, unsigned first, unsigned count)
{
    pthread_mutex_lock(&kernel->mutex);
    kernel->thing[ATTR].version = 0;
    kernel->thing[ATTR].generation++;
    for (unsigned page = first; page < PAGES && page - first < count; page++) {
        while (kernel->thing[page].locked && !kernel->thing[page].held)
            pthread_cond_wait(&kernel->unlocked, &kernel->mutex);
        kernel->thing[page].version = 0; /* a held page has none */
    }
    pthread_mutex_unlock(&kernel->mutex);
}

static void answer(unsigned member, const struct work_item *item)
{
    unsigned        inode = (uint32_t)item->key - 1, first = (unsigned)(item->arg >> 32), count = (uint32_t)item->arg;
    struct lock_ref ref = fixture_ref(inode);
    struct kernel  *kernel = &kernels[member][inode];

    if (!lock_recall_owed(mgr_of(member), ref.words) || lock_recall_round(ref.words) != item->round)
        return; /* nobody waits for it any more */
    if (mistake == CLEAR_AFTER_DROP) {
        drop(kernel, 0, PAGES);
        sched_yield();
        lock_recall_begin(mgr_of(member), &ref, LOCK_SCOPE_ALL);
        lock_recall_ack(mgr_of(member), &ref, item->round);
        return;
    }
    if (lock_recall_begin(mgr_of(member), &ref, first == 0 && count == UINT32_MAX ? LOCK_SCOPE_ALL : LOCK_SCOPE_SHRINK)) {
        first = 0;
        count = PAGES;
    }
    if (mistake == LOSE_INTEREST_IN_THE_REST)
        lock_interest_drop(mgr_of(member), ref.words);
    if (mistake == ACKNOWLEDGE_BEFORE_DROP) {
        lock_recall_ack(mgr_of(member), &ref, item->round);
        sched_yield();
    }
    drop(kernel, first, count);
    if (mistake != ACKNOWLEDGE_BEFORE_DROP)
        lock_recall_ack(mgr_of(member), &ref, item->round);
}

static void *dispatcher_run(void *arg)
{
    struct actor    *actor = arg;
    struct work     *work = fixture.member[actor->member].work;
    struct work_item item;
    while (atomic_load(&writers_left) || atomic_load(&readers_left)) {
        if (work_take(work, &item) == 1)
            answer(actor->member, &item);
        else
            work_sleep(work, 5);
    }
    return NULL;
}

/* ---- a run ---- */

static void actors_run(uint64_t seed)
{
    static struct actor actors[MEMBERS * (READERS + 2)];
    unsigned            count = 0;

    atomic_store(&writers_left, MEMBERS);
    atomic_store(&readers_left, MEMBERS * READERS);
    for (unsigned m = 0; m < MEMBERS; m++) {
        for (unsigned i = 0; i < READERS + 2; i++, count++) {
            actors[count] = (struct actor){.member = m, .seed = seed * 1000003 + count + 1};
            void *(*run)(void *) = i == 0 ? dispatcher_run : i == 1 ? writer_run : reader_run;
            cr_assert_eq(pthread_create(&actors[count].thread, NULL, run, &actors[count]), 0);
        }
    }
    for (unsigned i = 0; i < count; i++)
        pthread_join(actors[i].thread, NULL);
}

static void expect_newest_in_the_end(void)
{
    for (unsigned m = 0; m < MEMBERS; m++)
        for (unsigned i = 0; i < INODES; i++)
            for (unsigned t = 0; t < THINGS; t++)
                if (kernels[m][i].thing[t].version)
                    expect_new("in the end", m, i, t, kernels[m][i].thing[t].version, atomic_load(&current[i][t]));
}

/* How often the oracle found something wrong. Stops at the first seed for which it did. */
static unsigned run(enum mistake what, unsigned seeds, unsigned writes, uint64_t seed)
{
    uint64_t rounds = 0, sent = 0;
    mistake = what;
    writes_each = writes;
    for (unsigned n = 0; n < seeds; n++, seed++) {
        fprintf(stderr, "mistake %d, seed %llu\n", what, (unsigned long long)seed);
        fixture_open();
        for (unsigned m = 1; m < MEMBERS; m++)
            fixture_join(m);
        memset(kernels, 0, sizeof kernels);
        for (unsigned m = 0; m < MEMBERS * INODES; m++) {
            pthread_mutex_init(&kernels[m / INODES][m % INODES].mutex, NULL);
            pthread_cond_init(&kernels[m / INODES][m % INODES].unlocked, NULL);
        }
        for (unsigned i = 0; i < INODES * THINGS; i++) {
            atomic_store(&current[i / THINGS][i % THINGS], 1);
            atomic_store(&returned[i / THINGS][i % THINGS], 1);
        }
        actors_run(seed);
        expect_newest_in_the_end();
        for (unsigned m = 0; m < MEMBERS; m++) {
            rounds += seg_counter_read(fixture.member[0].seg, m, SEG_COUNTER_recall_rounds);
            sent += seg_counter_read(fixture.member[0].seg, m, SEG_COUNTER_recalls_sent);
        }
        unsigned wrong = atomic_exchange(&fixture.wrong, 0);
        if (what == NONE)
            fixture_check(true);
        fixture_close();
        if (wrong)
            return wrong;
    }
    fprintf(stderr, "%llu recalls in %llu rounds for %u writes\n", (unsigned long long)sent, (unsigned long long)rounds, seeds * writes * MEMBERS);
    return 0;
}

/* Goal:   no kernel holds, and no read gets, anything older than a write that has returned.
 * Method: as above; seeds from the clock. HEARTHFS_SEED=n begins with seed n. */
Test(lock_stress, nothing_is_stale)
{
    const char *wanted = getenv("HEARTHFS_SEED");
    uint64_t    seed = wanted ? strtoull(wanted, NULL, 10) : (uint64_t)time(NULL);
    unsigned    wrong = run(NONE, 6, 3000 / FIXTURE_SLOW, seed);
    cr_assert_eq(wrong, 0, "%u stale; seeds from %llu", wrong, (unsigned long long)seed);
}

/* Goal:   the oracle finds each mistake that the protocol is there to prevent.
 * Method: the same run with the mistake made, until it is found. */
static void expect_found(enum mistake what)
{
    cr_assert_gt(run(what, 20, 1000 / FIXTURE_SLOW, (uint64_t)time(NULL)), 0u, "mistake %d was not found", what);
}

Test(lock_stress, finds_an_early_acknowledgement)
{
    expect_found(ACKNOWLEDGE_BEFORE_DROP);
}

Test(lock_stress, finds_a_bit_cleared_too_late)
{
    expect_found(CLEAR_AFTER_DROP);
}

Test(lock_stress, finds_a_reader_without_interest)
{
    expect_found(READ_WITHOUT_INTEREST);
}

Test(lock_stress, finds_interest_lost_in_the_rest)
{
    expect_found(LOSE_INTEREST_IN_THE_REST);
}

Test(lock_stress, finds_a_page_held_during_the_answer)
{
    expect_found(HELD_DURING_THE_ANSWER);
}

Test(lock_stress, finds_a_write_without_recall)
{
    expect_found(WRITE_WITHOUT_RECALL);
}
