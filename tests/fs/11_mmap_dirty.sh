#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   a mapping of A that is always dirty and writes of B to the same pages neither block each other nor lose a
#         byte.
# Method: helpers/mmap_dirty.c: stores on A without msync, write() on B and on A to the same pages, progress watched;
#         then all compared, also at the origin. Both ways round.
T_SIZE=128M
T_LIMIT=300
. "$(dirname "$0")/lib.sh"
mmap_dirty=$(helper mmap_dirty) || exit
rounds=$(pick 5000 100000)

mount_member A
mount_member B
for pair in "A B" "B A"; do
    read -r x y <<<"$pair"
    within 1500 "$mmap_dirty" "$t_dir/$x" "$t_dir/$y" "$t_seed" "$rounds" || fail "mapping on $x, writes on $y, seed $t_seed"
    for at in "$t_origin" "$t_dir/$x"; do
        within 20 cmp "$at/dirty" "$t_dir/$y/dirty" || fail "$at and $y differ"
    done
done
check_segment
umount_member A
umount_member B
