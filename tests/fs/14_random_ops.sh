#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   reads, writes, mappings, truncates, holes and copies of one file through two mounts give what one file in
#         memory gives, whichever mount each of them picks.
# Method: helpers/random_ops.c: one operation at a time, compared with a model through the other mount after each. Two
#         members, then three.
T_SIZE=256M
T_LIMIT=600
. "$(dirname "$0")/lib.sh"
random_ops=$(helper random_ops) || exit

mount_member A
mount_member B
within "$(pick 500 5500)" "$random_ops" "$t_seed" "$(pick 60000 1000000)" "$t_origin/random" "$t_dir/A" "$t_dir/B" ||
    fail "two members, seed $t_seed"
if (($(status .counters.recalls_sent) == 0)); then fail "no recall was sent: these are not two members of one segment"; fi
check_segment
mount_member C
rm "$t_dir/C/random" || fail "rm"
within "$(pick 300 3000)" "$random_ops" $((t_seed + 1)) "$(pick 10000 200000)" "$t_origin/random" "$t_dir/A" "$t_dir/B" "$t_dir/C" ||
    fail "three members, seed $((t_seed + 1))"
same_tree "A and C" "$t_dir/A" "$t_dir/C"
same_tree "origin and B" "$t_origin" "$t_dir/B" nodirtime
check_segment
umount_member A
umount_member B
umount_member C
check_segment
