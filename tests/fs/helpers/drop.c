/* SPDX-License-Identifier: Apache-2.0 */
/* drop.c - takes the named files (separated by NUL, on standard input) out of this kernel's page cache, so that the
 * next read asks the daemon again. Only clean pages go. Ends with 1 if a file cannot be opened. */
#include "t.h"

int main(void)
{
    char  *name = NULL;
    size_t room = 0;
    long   count = 0;
    while (getdelim(&name, &room, '\0', stdin) > 0) {
        int fd = open(name, O_RDONLY | O_CLOEXEC);
        T_THAT(fd >= 0, "%s: %s", name, strerror(errno));
        T_THAT(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "posix_fadvise %s", name);
        close(fd);
        count++;
    }
    free(name);
    return count == 0;
}
