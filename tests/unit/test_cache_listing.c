/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cache_listing.c - directory listings: built, refused after a change, read on from every cookie, evicted in part, scribbled on.
 *
 * Goal of all: a reader gives the origin's entries in the origin's order, or says that it does not know; never anything else.
 */
#include <errno.h>
#include "cache_tree_tools.h"

TestSuite(cache_listing, .fini = fixture_remove);

static struct fixture *small(void)
{
    struct fixture_shape shape = {.frames = 2048, .inodes = 64, .names = 64, .chunks = 256};
    return fixture_open_shape(&shape);
}

/* Entry n of the made-up directory: cookies jump about, names are short and long. */
static void entry_make(uint64_t n, struct cache_dirent *entry)
{
    memset(entry, 0, sizeof *entry);
    entry->ino = 1000 + n;
    entry->cookie = (n + 1) * 0x9e3779b97f4a7c15ull;
    entry->type = n % 2 ? 8 : 4;
    unsigned width = n % 100 == 7 ? 255 : 5 + (unsigned)(n % 40);
    entry->length = (uint16_t)snprintf(entry->name, sizeof entry->name, "%0*lu", width, n);
}

static int listing_make(struct cache *cache, uint64_t dir, uint64_t count, uint64_t first)
{
    struct cache_listing *listing = cache_listing_begin(cache, dir);
    cr_assert_not_null(listing);
    for (uint64_t n = first; n < first + count; n++) {
        struct cache_dirent entry;
        entry_make(n, &entry);
        if (cache_listing_add(listing, &entry))
            break;
    }
    return cache_listing_end(listing, true);
}

struct expect {
    uint64_t next, limit, wrong;
};

static int entry_compare(void *arg, const struct cache_dirent *entry)
{
    struct expect      *expect = arg;
    struct cache_dirent want;
    if (expect->next == expect->limit)
        return 1;
    entry_make(expect->next++, &want);
    expect->wrong += want.ino != entry->ino || want.cookie != entry->cookie || want.type != entry->type ||
                     want.length != entry->length || strcmp(want.name, entry->name) != 0;
    return 0;
}

static int listing_read(struct cache *cache, uint64_t dir, uint64_t cookie, struct expect *expect)
{
    seg_epoch_enter(cache_seg(cache));
    int rc = cache_listing_read(cache, dir, cookie, entry_compare, expect);
    seg_epoch_exit(cache_seg(cache));
    return rc;
}

static uint64_t cookie_of(uint64_t n)
{
    struct cache_dirent entry;
    entry_make(n, &entry);
    return entry.cookie;
}

/* Goal: 10,000 entries come back in order, from the start and after every single cookie, with hints and without. */
Test(cache_listing, resumes_at_every_cookie, .timeout = 300)
{
    enum { COUNT = 10000 };
    struct fixture *f = small();
    uint64_t        dir = dir_make(f->cache, 1), version = cache_version(f->cache, dir);
    struct expect   expect = {.next = 0, .limit = UINT64_MAX};
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), -ENODATA);
    cr_assert_eq(listing_make(f->cache, dir, COUNT, 0), 0);
    cr_assert_eq(cache_version(f->cache, dir), version);
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), 0);
    cr_assert_eq(expect.next, COUNT);
    cr_assert_eq(expect.wrong, 0);
    for (uint64_t n = 0; n < COUNT; n++) { /* each stop leaves the hint that the next round uses */
        expect = (struct expect){.next = n + 1, .limit = n + 2};
        cr_assert_eq(listing_read(f->cache, dir, cookie_of(n), &expect), 0, "after entry %lu", n);
        cr_assert_eq(expect.next, n + 1 < COUNT ? n + 2 : n + 1);
        cr_assert_eq(expect.wrong, 0);
    }
    uint64_t at = 0, cookie = 0;
    while (at < COUNT) { /* as a kernel reads: some entries at a time */
        expect = (struct expect){.next = at, .limit = at + 37};
        cr_assert_eq(listing_read(f->cache, dir, cookie, &expect), 0);
        cr_assert_gt(expect.next, at);
        cr_assert_eq(expect.wrong, 0);
        at = expect.next;
        cookie = cookie_of(at - 1);
    }
    expect = (struct expect){.next = COUNT, .limit = UINT64_MAX};
    cr_assert_eq(listing_read(f->cache, dir, cookie, &expect), 0, "the end is the end");
    cr_assert_eq(expect.next, COUNT);
    memset(f->cache->cookie, 0x5a, sizeof f->cache->cookie);
    for (uint64_t n = 3; n < COUNT; n += 997) {
        expect = (struct expect){.next = n + 1, .limit = UINT64_MAX};
        cr_assert_eq(listing_read(f->cache, dir, cookie_of(n), &expect), 0);
        cr_assert_eq(expect.next, COUNT);
        cr_assert_eq(expect.wrong, 0);
    }
    cr_assert_eq(listing_read(f->cache, dir, 12345, &expect), -ENODATA, "a cookie of no entry");
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: an empty directory is known to be empty. */
Test(cache_listing, empty_directory, .timeout = 20)
{
    struct fixture *f = small();
    uint64_t        dir = dir_make(f->cache, 1);
    struct expect   expect = {.next = 5, .limit = UINT64_MAX};
    cr_assert_eq(listing_make(f->cache, dir, 0, 0), 0);
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), 0);
    cr_assert_eq(expect.next, 5);
    cr_assert_eq(listing_read(f->cache, dir + (1ull << 32), 0, &expect), -ESTALE);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: a listing that was fetched before a change is refused, an unfinished one is not kept, and none leaks a frame. */
Test(cache_listing, refused_after_a_change, .timeout = 20)
{
    struct fixture       *f = small();
    uint64_t              dir = dir_make(f->cache, 1);
    struct expect         expect = {.next = 0, .limit = UINT64_MAX};
    struct cache_dirent   entry;
    struct cache_listing *listing = cache_listing_begin(f->cache, dir);
    for (uint64_t n = 0; n < 500; n++) {
        entry_make(n, &entry);
        cr_assert_eq(cache_listing_add(listing, &entry), 0);
    }
    struct cache_name_change change = {.dir = dir, .name = "new", .length = 3, .child = CACHE_NAME_NEGATIVE};
    const uint64_t           dirs[2] = {dir, 0};
    cr_assert_eq(cache_names_publish(f->cache, &change, 1, dirs, NULL), 0);
    cr_assert_eq(cache_listing_end(listing, true), -EAGAIN);
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), -ENODATA);

    listing = cache_listing_begin(f->cache, dir);
    cr_assert_eq(cache_listing_add(listing, &entry), 0);
    entry.length = 0;
    cr_assert_eq(cache_listing_add(listing, &entry), -EINVAL);
    entry.length = 256;
    cr_assert_eq(cache_listing_add(listing, &entry), -EINVAL);
    cr_assert_eq(cache_listing_end(listing, false), 0);
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), -ENODATA);

    cr_assert_eq(listing_make(f->cache, dir, 500, 0), 0);
    cr_assert_eq(cache_names_publish(f->cache, &change, 1, dirs, NULL), 0);
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), -ENODATA, "a change drops what was there");
    frames_return(f->cache);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: a newer listing, longer or shorter, takes the place of the older one wholly. */
Test(cache_listing, replaces_the_older_one, .timeout = 60)
{
    struct fixture *f = small();
    uint64_t        dir = dir_make(f->cache, 1);
    const uint64_t  count[] = {3000, 10, 900, 0, 200};
    for (unsigned i = 0; i < 5; i++) {
        struct expect expect = {.next = i * 7, .limit = UINT64_MAX};
        cr_assert_eq(listing_make(f->cache, dir, count[i], i * 7), 0);
        cr_assert_eq(listing_read(f->cache, dir, 0, &expect), 0);
        cr_assert_eq(expect.next, i * 7 + count[i]);
        cr_assert_eq(expect.wrong, 0);
    }
    frames_return(f->cache);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: what is too large for the cache is not kept and leaves nothing behind. */
Test(cache_listing, too_large_is_not_kept, .timeout = 60)
{
    struct fixture *f = small();
    uint64_t        dir = dir_make(f->cache, 1);
    struct expect   expect = {.next = 0, .limit = UINT64_MAX};
    cr_assert_eq(listing_make(f->cache, dir, 100000, 0), -EFBIG);
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), -ENODATA);
    frames_return(f->cache);
    check_clean(f->cache);
    fixture_close(f);
}

/* Goal: with pages evicted a reader gives a true beginning, or says that it does not know; never a gap. */
Test(cache_listing, evicted_pages_are_no_gaps, .timeout = 60)
{
    enum { COUNT = 3000 };
    struct fixture *f = small();
    uint64_t        dir = dir_make(f->cache, 1);
    for (unsigned page = 0; page < 30; page += 3) {
        cr_assert_eq(listing_make(f->cache, dir, COUNT, 0), 0);
        seg_epoch_enter(f->seg);
        _Atomic uint64_t *word = cache_word(f->cache, cache_inode_at(f->cache, dir), dir, page);
        cr_assert_not_null(word);
        cache_word_drop(f->cache, word);
        seg_epoch_exit(f->seg);
        for (uint64_t n = 0; n < COUNT; n += 100) {
            struct expect expect = {.next = n + 1, .limit = UINT64_MAX};
            int           rc = listing_read(f->cache, dir, cookie_of(n), &expect);
            cr_assert(rc == 0 || rc == -ENODATA);
            cr_assert_eq(expect.wrong, 0);
            cr_assert(rc == -ENODATA || expect.next > n + 1, "a gap was taken for the end");
        }
        struct expect expect = {.next = 0, .limit = UINT64_MAX};
        cr_assert_eq(listing_read(f->cache, dir, 0, &expect), page ? 0 : -ENODATA);
        cr_assert_lt(expect.next, COUNT);
    }
    check_clean(f->cache);
    fixture_close(f);
}

static int entry_bounded(void *arg, const struct cache_dirent *entry)
{
    unsigned *seen = arg;
    cr_assert(entry->length >= 1 && entry->length <= 255);
    cr_assert_eq(strlen(entry->name), entry->length, "no byte 0 within, one at the end");
    cr_assert_null(strchr(entry->name, '/'));
    return ++*seen > 100000;
}

/* Goal: whatever a peer writes into the pages, a reader stays inside them and gives bounded names. Method: single fields, then 20,000 random scribbles. */
Test(cache_listing, corrupted_pages_are_bounded, .timeout = 120)
{
    struct fixture            *f = small();
    uint64_t                   dir = dir_make(f->cache, 1), random = 12345;
    struct cache_inode        *inode = cache_inode_at(f->cache, dir);
    struct cache_listing_page *page[2], head;
    struct expect              expect;
    unsigned                   seen = 0;
    unsigned char              good[2][CACHE_PAGE];
    printf("seed %lu\n", random);
    cr_assert_eq(listing_make(f->cache, dir, 150, 0), 0);
    for (unsigned i = 0; i < 2; i++) {
        page[i] = cache_frame_data(f->cache, cache_word_value(atomic_load(&inode->direct[i])));
        memcpy(good[i], page[i], CACHE_PAGE);
    }
    head = *page[0];
#define BROKEN(field, value, want)                                                                                     \
    do {                                                                                                               \
        page[0]->field = (value);                                                                                      \
        expect = (struct expect){.next = 0, .limit = UINT64_MAX};                                                      \
        cr_assert_eq(listing_read(f->cache, dir, 0, &expect), (want), #field);                                         \
        *page[0] = head;                                                                                               \
    } while (0)
    BROKEN(page, 1, -EUCLEAN);
    BROKEN(page_count, 0, -EUCLEAN);
    BROKEN(page_count, UINT32_MAX, -EUCLEAN);
    BROKEN(bytes, 31, -EUCLEAN);
    BROKEN(bytes, 4097, -EUCLEAN);
    BROKEN(bytes, UINT32_MAX, -EUCLEAN);
    BROKEN(zero, 1, -EUCLEAN);
    BROKEN(bytes, 40, -EUCLEAN);
    BROKEN(listing, head.listing + 1, 0); /* gives page 0, finds page 1 to be of another listing, stops */
    cr_assert_lt(expect.next, 150);
    struct cache_listing_entry *first = (void *)((unsigned char *)page[0] + sizeof head);
    first->length = 0;
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), -EUCLEAN);
    first->length = 65535;
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), -EUCLEAN);
    memcpy(page[0], good[0], CACHE_PAGE);
    first->name[0] = '/';
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), -EUCLEAN);

    memcpy(page[0], good[0], CACHE_PAGE);
    uint64_t last = 0, at = sizeof head, next = at; /* the last entry of the page says that it is longer than the page */
    for (; next < head.bytes; last++) {
        at = next;
        next += (offsetof(struct cache_listing_entry, name) + ((struct cache_listing_entry *)(void *)((unsigned char *)page[0] + at))->length + 7) & ~7ull;
    }
    ((struct cache_listing_entry *)(void *)((unsigned char *)page[0] + at))->length = 255;
    memset((unsigned char *)page[0] + at + offsetof(struct cache_listing_entry, name), 'x',
           CACHE_PAGE - at - offsetof(struct cache_listing_entry, name));
    expect = (struct expect){.next = 0, .limit = UINT64_MAX};
    cr_assert_eq(listing_read(f->cache, dir, 0, &expect), 0);
    cr_assert_eq(expect.next, last - 1);
    cr_assert_eq(listing_read(f->cache, dir, cookie_of(last - 2), &expect), -EUCLEAN);

    for (unsigned round = 0; round < 20000; round++) {
        memcpy(page[0], good[0], CACHE_PAGE);
        memcpy(page[1], good[1], CACHE_PAGE);
        for (unsigned i = tools_random(&random) % 8; i-- > 0;)
            ((unsigned char *)page[tools_random(&random) % 2])[tools_random(&random) % (round % 2 ? 64 : CACHE_PAGE)] =
                (unsigned char)tools_random(&random);
        seg_epoch_enter(f->seg);
        int rc = cache_listing_read(f->cache, dir, round % 3 ? 0 : cookie_of(round % 150), entry_bounded, &seen);
        seg_epoch_exit(f->seg);
        cr_assert(rc == 0 || rc == -EUCLEAN || rc == -ENODATA, "%d", rc);
    }
    memcpy(page[0], good[0], CACHE_PAGE);
    memcpy(page[1], good[1], CACHE_PAGE);
    check_clean(f->cache);
    fixture_close(f);
}

struct listing_race {
    struct cache *cache;
    uint64_t      dir;
    _Atomic bool  stop;
    _Atomic int   wrong, whole;
};

static int entry_in_row(void *arg, const struct cache_dirent *entry)
{
    struct expect      *expect = arg;
    struct cache_dirent want;
    if (expect->next == UINT64_MAX)
        expect->next = entry->ino - 1000;
    entry_make(expect->next++, &want);
    expect->wrong += want.cookie != entry->cookie || strcmp(want.name, entry->name) != 0;
    return 0;
}

static void *listing_racer(void *arg)
{
    struct listing_race *race = arg;
    while (!atomic_load(&race->stop)) {
        struct expect expect = {.next = UINT64_MAX};
        seg_epoch_enter(cache_seg(race->cache));
        int rc = cache_listing_read(race->cache, race->dir, 0, entry_in_row, &expect);
        seg_epoch_exit(cache_seg(race->cache));
        if (expect.wrong || (rc && rc != -ENODATA))
            atomic_fetch_add(&race->wrong, 1);
        else if (rc == 0)
            atomic_fetch_add(&race->whole, 1);
        cache_evict(race->cache, 8);
    }
    return NULL;
}

/* Goal: readers never mix two listings. Method: one thread installs listings that begin at different entries, two read and evict. */
Test(cache_listing, readers_never_mix_listings, .timeout = 120)
{
    struct fixture     *f = small();
    struct listing_race race = {.cache = f->cache, .dir = dir_make(f->cache, 1)};
    pthread_t           thread[2];
    for (unsigned i = 0; i < 2; i++)
        thread_start(&thread[i], listing_racer, &race);
    for (unsigned round = 0; round < 300 || (atomic_load(&race.whole) < 20 && round < 100000); round++)
    {
        int made;
        do /* refused while readers keep the frames of earlier listings from being used again: then it is not cached, which is no error */
            made = listing_make(f->cache, race.dir, 400 + round % 300, round * 13);
        while (made == -ENOMEM || made == -EAGAIN);
        cr_assert_eq(made, 0);
    }
    atomic_store(&race.stop, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(atomic_load(&race.wrong), 0);
    cr_assert_gt(atomic_load(&race.whole), 0);
    frames_return(f->cache);
    check_clean(f->cache);
    fixture_close(f);
}
