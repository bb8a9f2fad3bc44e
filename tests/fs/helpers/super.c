/* SPDX-License-Identifier: Apache-2.0 */
/* super.c - changes one 32-bit word of a segment file's superblock and makes its checksum right again, so that a
 * refusal is due to the word itself.
 *
 *   super FILE OFFSET VALUE
 *
 * The superblock is page 0: magic, then the XXH3-64 of bytes 16 to 4095 (docs/format.md). Exit 2 if the file's
 * checksum is not that one to begin with: then the format has changed, and with it this program must. */
#include "t.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { PAGE = 4096, CHECKSUM_OFFSET = 8, COVERED_OFFSET = 16 };

int main(int argc, char **argv)
{
    uint8_t  page[PAGE];
    uint64_t checksum;
    T_THAT(argc == 4, "usage: super FILE OFFSET VALUE");
    size_t   offset = strtoul(argv[2], NULL, 0);
    uint32_t value = (uint32_t)strtoul(argv[3], NULL, 0);
    int      fd = T_OK(open(argv[1], O_RDWR | O_CLOEXEC));
    T_THAT(offset >= COVERED_OFFSET && offset <= PAGE - sizeof value, "offset %zu is not in the superblock", offset);
    T_THAT(t_pread(fd, page, PAGE, 0) == PAGE, "%s is short", argv[1]);
    memcpy(&checksum, page + CHECKSUM_OFFSET, sizeof checksum);
    if (checksum != XXH3_64bits(page + COVERED_OFFSET, PAGE - COVERED_OFFSET)) {
        fprintf(stderr, "%s: the superblock is not laid out as this program knows it\n", argv[1]);
        return 2;
    }
    memcpy(page + offset, &value, sizeof value);
    checksum = XXH3_64bits(page + COVERED_OFFSET, PAGE - COVERED_OFFSET);
    memcpy(page + CHECKSUM_OFFSET, &checksum, sizeof checksum);
    t_pwrite(fd, page, PAGE, 0);
    return 0;
}
