/* SPDX-License-Identifier: Apache-2.0 */
/* openclose.c - opens, reads, stats and closes one file again and again; nothing else, so that the messages it causes
 * can be counted (a shell asks for the terminal's state at each open, which is a message of its own).
 *
 *   openclose FILE ROUNDS */
#include "t.h"

int main(int argc, char **argv)
{
    T_THAT(argc == 3, "usage: openclose FILE ROUNDS");
    for (long i = atol(argv[2]); i > 0; i--) {
        char        buffer[4096];
        struct stat st;
        int         fd = T_OK(open(argv[1], O_RDONLY | O_CLOEXEC));
        size_t      n = t_pread(fd, buffer, sizeof buffer, 0);
        T_OK(fstat(fd, &st));
        T_THAT(n == (st.st_size < (off_t)sizeof buffer ? (size_t)st.st_size : sizeof buffer), "read %zu of %lld bytes",
               n, (long long)st.st_size);
        T_OK(close(fd));
    }
    return 0;
}
