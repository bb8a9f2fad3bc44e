/* SPDX-License-Identifier: Apache-2.0 */
/* test_cache_stress.c - threads at work on the same pages: versions that readers see, fetches against changes, chunks that come and go, members that are killed. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "cache_data_tools.h"

TestSuite(cache_stress, .fini = fixture_remove);

enum {
    MIB = 1 << 20,
    FILE_PAGES = 48,
    READERS = 2,
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    ROUNDS = 400,
#else
    ROUNDS = 3000,
#endif
};

struct stress {
    struct fixture  *f;
    uint64_t         id, seed;
    uint64_t         pages;
    pthread_mutex_t  write_lock;                /* stands for the inode's write lock               */
    _Atomic uint64_t origin[FILE_PAGES * 4];    /* what the origin has: the stamp of each page      */
    _Atomic uint64_t committed[FILE_PAGES * 4]; /* stamps of changes that have returned            */
    _Atomic uint64_t sequence, reads, fills;
    _Atomic bool     stop;
};

static struct stress *stress_open(struct fixture *f, uint64_t pages)
{
    struct stress *s = calloc(1, sizeof *s);
    cr_assert_not_null(s);
    s->f = f;
    s->pages = pages;
    s->id = fixture_file(f->cache, 9, pages * CACHE_PAGE);
    s->seed = 0x9e3779b97f4a7c15ull ^ (uint64_t)getpid();
    fprintf(stderr, "seed %lx\n", s->seed);
    pthread_mutex_init(&s->write_lock, NULL);
    return s;
}

/* Fetches what is missing from `page` on: each page is stamped with what the origin has at that moment. */
static void origin_fetch(struct stress *s, uint64_t page, uint32_t count)
{
    struct cache_fill fill;
    if (count > s->pages - page)
        count = (uint32_t)(s->pages - page);
    if (cache_fill_begin(s->f->cache, s->id, page, count, &fill) != 0)
        return;
    uint64_t at_page = fill.first;
    for (uint32_t i = 0; i < fill.iov_count; i++)
        for (size_t at = 0; at < fill.iov[i].iov_len; at += CACHE_PAGE, at_page++)
            page_stamp((unsigned char *)fill.iov[i].iov_base + at, atomic_load(&s->origin[at_page]));
    cache_fill_end(s->f->cache, &fill, (ssize_t)fill.count * CACHE_PAGE);
    cache_fill_release(s->f->cache, &fill);
    atomic_fetch_add(&s->fills, 1);
}

/* What fs/ does after a read that was no hit. */
static void read_help(struct stress *s, int rc, uint64_t missing, uint32_t count)
{
    if (rc == -ENODATA)
        origin_fetch(s, missing, count);
    else if (rc == -EBUSY)
        cache_claim_wait(s->f->cache, s->id, missing, 100, NULL, NULL);
    else
        cr_assert_eq(rc, -EAGAIN, "cache_read: %d", rc);
}

static void *evictor(void *arg)
{
    struct stress *s = arg;
    while (!atomic_load(&s->stop)) {
        cache_evict(s->f->cache, 4);
        sched_yield();
    }
    return NULL;
}

/* ---- versions ---- */

static void *whole_file_reader(void *arg)
{
    struct stress *s = arg;
    struct iovec   iov[FILE_PAGES];
    while (!atomic_load(&s->stop)) {
        unsigned iov_count;
        size_t   bytes;
        uint64_t missing;
        seg_epoch_enter(s->f->seg);
        int rc =
            cache_read(s->f->cache, s->id, 0, FILE_PAGES * CACHE_PAGE, iov, FILE_PAGES, &iov_count, &bytes, &missing);
        if (rc == 0) {
            cr_assert_eq(bytes, FILE_PAGES * CACHE_PAGE);
            uint64_t stamp = page_stamp_get(iov[0].iov_base);
            for (unsigned i = 0; i < iov_count; i++)
                for (size_t at = 0; at < iov[i].iov_len; at += CACHE_PAGE)
                    cr_assert_eq(page_stamp_get((char *)iov[i].iov_base + at), stamp,
                                 "pages of two versions in one read");
            atomic_fetch_add(&s->reads, 1);
        }
        seg_epoch_exit(s->f->seg);
        if (rc)
            read_help(s, rc, missing, FILE_PAGES);
    }
    return NULL;
}

/* Goal: a read of many pages is of one version, whatever is published, evicted and fetched meanwhile.
 * Method: one thread replaces the whole file again and again with a new stamp, one evicts, two read it all and compare stamps. */
Test(cache_stress, reads_are_of_one_version, .timeout = 120)
{
    struct fixture   *f = fixture_open(2 * MIB);
    struct stress    *s = stress_open(f, FILE_PAGES);
    struct cache_attr attr = attr_of_size(FILE_PAGES * CACHE_PAGE);
    pthread_t         reader[READERS], evicting;

    for (unsigned i = 0; i < READERS; i++)
        thread_start(&reader[i], whole_file_reader, s);
    thread_start(&evicting, evictor, s);
    for (uint64_t round = 1; round <= ROUNDS || (atomic_load(&s->reads) < 50 && round < 100 * ROUNDS); round++) {
        struct cache_write write;
        cr_assert_eq(cache_write_begin(f->cache, s->id, 0, FILE_PAGES, &write), 0);
        for (unsigned i = 0; i < FILE_PAGES; i++) {
            atomic_store(&s->origin[i], round);
            if (write.data[i])
                page_stamp(write.data[i], round);
        }
        cache_write_end(f->cache, &write, FILE_PAGES, &attr);
        if (round % 8 == 0)
            sched_yield();
    }
    atomic_store(&s->stop, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(reader[i], NULL);
    pthread_join(evicting, NULL);
    cr_assert_geq(atomic_load(&s->reads), 50);
    frames_return(f->cache);
    fixture_close(f);
    free(s);
}

/* The size belongs to the page's stamp: both change in one step, with the pages swapped first and the attributes last. */
static uint64_t size_of(uint64_t stamp)
{
    return 8 + stamp % 4000;
}

static void *size_reader(void *arg)
{
    struct stress *s = arg;
    while (!atomic_load(&s->stop)) {
        struct iovec iov[1];
        unsigned     iov_count;
        size_t       bytes;
        uint64_t     missing, stamp;
        seg_epoch_enter(s->f->seg);
        if (cache_read(s->f->cache, s->id, 0, CACHE_PAGE, iov, 1, &iov_count, &bytes, &missing) == 0) {
            memcpy(&stamp, iov[0].iov_base, sizeof stamp);
            cr_assert_eq(bytes, size_of(stamp), "a page of one version with the size of another");
            atomic_fetch_add(&s->reads, 1);
        }
        seg_epoch_exit(s->f->seg);
    }
    return NULL;
}

/* Goal: a page and the size that the read is cut at are of one version.
 * Method: a writer changes both all the time; readers compare them without ever waiting. */
Test(cache_stress, size_and_page_are_of_one_version, .timeout = 120)
{
    enum { PAGES = 16 };
    struct fixture *f = fixture_open(2 * MIB);
    struct stress  *s = stress_open(f, PAGES);
    pthread_t       reader[READERS];

    for (unsigned i = 0; i < READERS; i++)
        thread_start(&reader[i], size_reader, s);
    for (uint64_t round = 1; round <= ROUNDS * 3; round++) {
        struct cache_attr  attr = attr_of_size(size_of(round));
        struct cache_write write;
        cr_assert_eq(cache_write_begin(f->cache, s->id, 0, PAGES, &write), 0);
        if (write.data[0])
            page_stamp(write.data[0], round);
        cache_write_end(f->cache, &write, PAGES, &attr);
    }
    atomic_store(&s->stop, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(reader[i], NULL);
    cr_assert_gt(atomic_load(&s->reads), 0);
    frames_return(f->cache);
    fixture_close(f);
    free(s);
}

/* ---- fetches against changes ---- */

/* One change under the write lock; sometimes a drop (the pages then have no content of their own in the cache). */
static void change(struct stress *s, uint64_t *random)
{
    uint32_t          first = tools_random(random) % s->pages, count = 1 + tools_random(random) % 6;
    struct cache_attr attr = attr_of_size(s->pages * CACHE_PAGE);
    bool              drop = tools_random(random) % 8 == 0;
    uint64_t          stamp[8];

    if (first + count > s->pages)
        count = (uint32_t)s->pages - first;
    pthread_mutex_lock(&s->write_lock);
    struct cache_write write;
    if (!drop)
        cr_assert_eq(cache_write_begin(s->f->cache, s->id, first, count, &write), 0);
    for (uint32_t i = 0; i < count; i++) {
        stamp[i] = atomic_fetch_add(&s->sequence, 1) + 1;
        if (tools_random(random) % 4 == 0)
            sched_yield();
        atomic_store(&s->origin[first + i], stamp[i]);
        if (!drop && write.data[i])
            page_stamp(write.data[i], stamp[i]);
    }
    if (drop)
        cr_assert_eq(cache_drop(s->f->cache, s->id, first, tools_random(random) % 4 ? count : UINT64_MAX, &attr), 0);
    else
        cache_write_end(s->f->cache, &write, count, &attr);
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&s->committed[first + i], stamp[i]);
    pthread_mutex_unlock(&s->write_lock);
}

static void *changer(void *arg)
{
    struct stress *s = arg;
    uint64_t       random = s->seed ^ 0x5555;
    for (unsigned i = 0; i < ROUNDS * 2; i++)
        change(s, &random);
    return NULL;
}

static void *page_reader(void *arg)
{
    struct stress *s = arg;
    uint64_t       random = s->seed ^ (uint64_t)(uintptr_t)&random;
    while (!atomic_load(&s->stop)) {
        uint64_t     page = tools_random(&random) % s->pages, floor = atomic_load(&s->committed[page]), missing;
        struct iovec iov[1];
        unsigned     iov_count;
        size_t       bytes;
        seg_epoch_enter(s->f->seg);
        int rc = cache_read(s->f->cache, s->id, page * CACHE_PAGE, CACHE_PAGE, iov, 1, &iov_count, &bytes, &missing);
        if (rc == 0) {
            uint64_t stamp = page_stamp_get(iov[0].iov_base);
            cr_assert_geq(stamp, floor, "page %lu: stamp %lu is older than %lu, whose change had returned", page, stamp,
                          floor);
            atomic_fetch_add(&s->reads, 1);
        }
        seg_epoch_exit(s->f->seg);
        if (rc)
            read_help(s, rc, missing, 1 + tools_random(&random) % 8);
    }
    return NULL;
}

static void fetches_against_changes(const struct fixture_shape *shape, uint64_t pages)
{
    struct fixture *f = fixture_open_shape(shape);
    struct stress  *s = stress_open(f, pages);
    pthread_t       reader[READERS], evicting, changing;

    for (unsigned i = 0; i < READERS; i++)
        thread_start(&reader[i], page_reader, s);
    thread_start(&evicting, evictor, s);
    thread_start(&changing, changer, s);
    pthread_join(changing, NULL);
    for (unsigned ms = 0; atomic_load(&s->reads) == 0 && ms < 10000; ms++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    atomic_store(&s->stop, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(reader[i], NULL);
    pthread_join(evicting, NULL);
    cr_assert_gt(atomic_load(&s->reads), 0);
    cr_assert_gt(atomic_load(&s->fills), 0);
    for (uint64_t page = 0; page < pages; page++) {
        uint64_t stamp;
        if (page_read(f->cache, s->id, page, &stamp) == 0)
            cr_assert_eq(stamp, atomic_load(&s->origin[page]));
    }
    frames_return(f->cache);
    fixture_close(f);
    free(s);
}

/* Goal: a fetch never covers a newer change: no reader finds a stamp older than the last change that had returned when it began.
 * Method: a writer (and dropper), an evictor and two readers that fetch, on the same 48 pages. */
Test(cache_stress, fetches_against_changes, .timeout = 120)
{
    struct fixture_shape shape = {.frames = 256, .inodes = 64, .names = 64, .chunks = 64};
    fetches_against_changes(&shape, FILE_PAGES);
}

/* Goal: the same when chunks are so few that pages are changed without a claim and chunks are closed under everybody's hands.
 * Method: as above with 192 pages in 12 chunks, of which 5 can be had. */
Test(cache_stress, fetches_against_changes_with_few_chunks, .timeout = 120)
{
    struct fixture_shape shape = {.frames = 128, .inodes = 64, .names = 64, .chunks = 6};
    fetches_against_changes(&shape, FILE_PAGES * 4);
}

/* ---- slipping writers ---- */

static void *slipping_writer(void *arg)
{
    struct stress    *s = arg;
    uint64_t          random = s->seed ^ (uint64_t)(uintptr_t)&random;
    struct cache_attr attr = attr_of_size(s->pages * CACHE_PAGE);
    for (unsigned n = 0; n < ROUNDS; n++) {
        uint32_t           first = tools_random(&random) % (s->pages - 4);
        struct cache_write write;
        cr_assert_eq(cache_write_begin(s->f->cache, s->id, first, 4, &write), 0);
        for (uint32_t i = 0; i < 4; i++) {
            uint64_t stamp = atomic_fetch_add(&s->sequence, 1) + 1;
            atomic_store(&s->origin[first + i], stamp);
            if (write.data[i])
                page_stamp(write.data[i], stamp);
        }
        cache_write_end(s->f->cache, &write, 4, &attr);
    }
    return NULL;
}

/* Goal: writers that exclude each other by claims alone leave in the cache what they left at the origin.
 * Method: three threads write overlapping ranges of 24 pages without a write lock; cache and origin are compared at the end. */
Test(cache_stress, claims_alone_exclude_writers, .timeout = 120)
{
    struct fixture *f = fixture_open(MIB);
    struct stress  *s = stress_open(f, FILE_PAGES / 2);
    pthread_t       writer[3], evicting;
    unsigned        cached = 0;

    thread_start(&evicting, evictor, s);
    for (unsigned i = 0; i < 3; i++)
        thread_start(&writer[i], slipping_writer, s);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(writer[i], NULL);
    atomic_store(&s->stop, true);
    pthread_join(evicting, NULL);
    for (uint64_t page = 0; page < s->pages; page++) {
        uint64_t stamp;
        int      rc = page_read(f->cache, s->id, page, &stamp);
        cr_assert(rc == 0 || rc == -ENODATA, "page %lu: %d", page, rc);
        if (rc == 0) {
            cr_assert_eq(stamp, atomic_load(&s->origin[page]), "page %lu", page);
            cached++;
        }
    }
    fprintf(stderr, "%u pages cached at the end\n", cached);
    frames_return(f->cache);
    fixture_close(f);
    free(s);
}

/* ---- a model ---- */

/* Goal: any sequence of operations leaves in the cache only what the origin has.
 * Method: one thread, 20,000 random operations on three files, each compared with an array of stamps. */
Test(cache_stress, random_operations_against_a_model, .timeout = 120)
{
    enum { FILES = 3, PAGES = 70, STEPS = ROUNDS * 5 };
    struct fixture_shape shape = {.frames = 100, .inodes = 64, .names = 64, .chunks = 9};
    struct fixture      *f = fixture_open_shape(&shape);
    static uint64_t      origin[FILES][PAGES];
    uint64_t             id[FILES], random = 0x1234567 ^ (uint64_t)getpid(), stamp, next = 1;
    unsigned             hits = 0;
    struct cache_attr    attr = attr_of_size(PAGES * CACHE_PAGE);

    fprintf(stderr, "seed %lx\n", random);
    for (unsigned i = 0; i < FILES; i++)
        id[i] = fixture_file(f->cache, 20 + i, PAGES * CACHE_PAGE);
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned file = tools_random(&random) % FILES;
        uint64_t page = tools_random(&random) % PAGES;
        uint32_t count = 1 + tools_random(&random) % 5, good = count;
        if (page + count > PAGES)
            good = count = (uint32_t)(PAGES - page);
        switch (tools_random(&random) % 12) {
        case 0:
        case 1:
        case 2: { /* a change, sometimes short */
            struct cache_write write;
            cr_assert_eq(cache_write_begin(f->cache, id[file], page, count, &write), 0);
            if (tools_random(&random) % 4 == 0)
                good = tools_random(&random) % (count + 1);
            for (uint32_t i = 0; i < count; i++) {
                if (write.old[i])
                    cr_assert_eq(page_stamp_get(write.old[i]), origin[file][page + i]);
                origin[file][page + i] = next;
                if (write.data[i])
                    page_stamp(write.data[i], i < good ? next : 0xbad);
                next++;
            }
            cache_write_end(f->cache, &write, good, &attr);
            break;
        }
        case 3:
            for (uint32_t i = 0; i < count; i++)
                origin[file][page + i] = next++;
            cr_assert_eq(cache_drop(f->cache, id[file], page, count, &attr), 0);
            break;
        case 4:
            cache_evict(f->cache, tools_random(&random) % 10);
            break;
        case 5:
            cache_chunks_evict(f->cache, tools_random(&random) % 3);
            break;
        default: {
            int rc = page_read(f->cache, id[file], page, &stamp);
            if (rc == 0) {
                cr_assert_eq(stamp, origin[file][page], "step %u: file %u, page %lu", step, file, page);
                hits++;
                break;
            }
            cr_assert_eq(rc, -ENODATA);
            struct cache_fill fill;
            rc = cache_fill_begin(f->cache, id[file], page, count, &fill);
            cr_assert(rc == 0 || rc == -ENOMEM, "fill_begin: %d", rc);
            if (rc)
                break;
            uint64_t at_page = page;
            for (uint32_t i = 0; i < fill.iov_count; i++)
                for (size_t at = 0; at < fill.iov[i].iov_len; at += CACHE_PAGE)
                    page_stamp((char *)fill.iov[i].iov_base + at, origin[file][at_page++]);
            cache_fill_end(f->cache, &fill, (ssize_t)fill.count * CACHE_PAGE);
            cr_assert(fill.stood);
            cache_fill_release(f->cache, &fill);
        }
        }
    }
    cr_assert_gt(hits, STEPS / 50);
    frames_return(f->cache);
    fixture_close(f);
}

#ifndef __SANITIZE_THREAD__ /* two mappings, and threads in a forked child */
/* ---- members that are killed ---- */

enum { HAMMER_PAGES = 150, HAMMER_KILLS = 40 };
struct hammer { /* shared with the children */
    _Atomic uint64_t origin[HAMMER_PAGES], sequence, steps;
    _Atomic bool     stop;
};
struct hammer_thread {
    struct hammer *h;
    struct cache  *cache;
    uint64_t       id, random;
};

static void hammer_write(struct hammer_thread *t, uint64_t page, uint32_t count)
{
    struct cache_attr  attr = attr_of_size(HAMMER_PAGES * CACHE_PAGE);
    struct cache_write write;
    if (cache_write_begin(t->cache, t->id, page, count, &write) != 0)
        abort();
    for (uint32_t i = 0; i < count; i++) {
        uint64_t stamp = atomic_fetch_add(&t->h->sequence, 1) + 1;
        atomic_store(&t->h->origin[page + i], stamp);
        if (write.data[i])
            page_stamp(write.data[i], stamp);
    }
    cache_write_end(t->cache, &write, count, &attr);
}

static void hammer_fill(struct hammer_thread *t, uint64_t page, uint32_t count)
{
    struct cache_fill fill;
    if (cache_fill_begin(t->cache, t->id, page, count, &fill) != 0)
        return;
    uint64_t at_page = page;
    for (uint32_t i = 0; i < fill.iov_count; i++)
        for (size_t at = 0; at < fill.iov[i].iov_len; at += CACHE_PAGE, at_page++)
            page_stamp((char *)fill.iov[i].iov_base + at, atomic_load(&t->h->origin[at_page]));
    cache_fill_end(t->cache, &fill, (ssize_t)fill.count * CACHE_PAGE);
    cache_fill_release(t->cache, &fill);
}

/* As fs/ truncates: under the write lock, so that recovery knows what a dead member may have changed. */
static void hammer_drop(struct hammer_thread *t, uint64_t page, uint32_t count)
{
    struct cache_attr  attr = attr_of_size(HAMMER_PAGES * CACHE_PAGE);
    struct lock_ref    ref = cache_lock_ref(t->cache, t->id);
    struct lock_recall recall = {.ref = ref, .kind = WORK_RECALL_DATA, .arg = UINT32_MAX};
    if (lock_write_acquire(cache_lock(t->cache), &ref, 0, NULL, NULL) != 0 ||
        lock_recall_all(cache_lock(t->cache), &recall, 1, 0) != 0)
        abort();
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&t->h->origin[page + i], atomic_fetch_add(&t->h->sequence, 1) + 1);
    if (cache_drop(t->cache, t->id, page, count, &attr) != 0)
        abort();
    lock_write_release(cache_lock(t->cache), &ref);
}

static void *hammer(void *arg)
{
    struct hammer_thread *t = arg;
    while (!atomic_load(&t->h->stop)) {
        uint64_t page = tools_random(&t->random) % (HAMMER_PAGES - 4), stamp;
        uint32_t count = 1 + tools_random(&t->random) % 4;
        switch (tools_random(&t->random) % 8) {
        case 0:
        case 1:
            hammer_write(t, page, count);
            break;
        case 2:
            hammer_drop(t, page, count);
            break;
        case 3:
            cache_evict(t->cache, 3);
            break;
        case 4:
            page_read(t->cache, t->id, page, &stamp);
            break;
        default:
            hammer_fill(t, page, count);
        }
        atomic_fetch_add(&t->h->steps, 1);
    }
    return NULL;
}

static pid_t hammer_child(struct fixture *f, struct hammer *h, uint64_t id, uint64_t seed)
{
    int ready[2];
    cr_assert_eq(pipe(ready), 0);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct fixture_member *me = fixture_join(f);
        struct hammer_thread   t[2] = {{h, me->cache, id, seed}, {h, me->cache, id, seed ^ 0xabcdef}};
        pthread_t              thread;
        if (pthread_create(&thread, NULL, hammer, &t[1]) != 0 || write(ready[1], "", 1) != 1)
            abort();
        hammer(&t[0]);
        abort();
    }
    char byte;
    close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1, "the child did not join");
    close(ready[0]);
    return child;
}

static void dead_settle(struct fixture *f)
{
    for (unsigned slot = 0; slot < SEG_MEMBERS_MAX; slot++) {
        uint32_t incarnation;
        if (slot != f->member[0].slot && seg_member_state(f->seg, slot, &incarnation) == SEG_ACTIVE) {
            cr_assert(seg_member_is_dead(f->seg, slot));
            fixture_settle(&f->member[0], slot, incarnation);
            cr_assert_eq(seg_member_state(f->seg, slot, NULL), SEG_PARKED);
        }
    }
}

/* Goal: a member that is killed anywhere leaves no frame, chunk or claim behind and no page that is not the origin's.
 * Method: a child with two threads is killed after a random time, 40 times, while this process works on the same pages; after recovery all is counted and compared. */
Test(cache_stress, killed_members_leave_nothing, .timeout = 120)
{
    struct fixture_shape shape = {.frames = 120, .inodes = 64, .names = 64, .chunks = 9};
    struct fixture      *f = fixture_open_shape(&shape);
    struct hammer       *h = mmap(NULL, sizeof *h, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t id = fixture_file(f->cache, 9, HAMMER_PAGES * CACHE_PAGE), random = 0xfeed ^ (uint64_t)getpid(), stamp;
    struct cache_attr attr = attr_of_size(HAMMER_PAGES * CACHE_PAGE);

    cr_assert_neq(h, MAP_FAILED);
    fprintf(stderr, "seed %lx\n", random);
    for (unsigned round = 0; round < HAMMER_KILLS; round++) {
        struct hammer_thread t = {h, f->cache, id, random ^ round};
        pthread_t            thread;
        int                  status;
        atomic_store(&h->stop, false);
        pid_t child = hammer_child(f, h, id, random + round);
        thread_start(&thread, hammer, &t);
        nanosleep(&(struct timespec){.tv_nsec = 1000000 + tools_random(&random) % 8000000}, NULL);
        kill(child, SIGKILL);
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child ended by itself");
        dead_settle(f);
        atomic_store(&h->stop, true);
        pthread_join(thread, NULL);

        cr_assert_eq(cache_attr_publish(f->cache, id, &attr), 0);
        frames_account(f->cache);
        for (uint64_t page = 0; page < HAMMER_PAGES; page++)
            if (page_read(f->cache, id, page, &stamp) == 0)
                cr_assert_eq(stamp, atomic_load(&h->origin[page]), "round %u: page %lu", round, page);
    }
    fprintf(stderr, "%lu steps\n", atomic_load(&h->steps));
    frames_return(f->cache);
    fixture_close(f);
}
#endif
