#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   when a call that changes something has returned on one mount, the other shows the new state and never the
#         old one.
# Method: helpers/coherence.c (data, mmap, size, attr, names; both directions at once, 10,000 rounds, no sleeps) and
#         helpers/append.c.
T_SIZE=256M
T_LIMIT=400
. "$(dirname "$0")/lib.sh"
coherence=$(helper coherence) || exit
append=$(helper append) || exit
rounds=$(pick 10000 100000)

mount_member A
mount_member B
mkdir "$t_dir/A/d"
for mode in data mmap size attr names; do
    within 1200 "$coherence" $mode "$t_dir/A/d" "$t_dir/B/d" "$t_seed" "$rounds" || fail "$mode, seed $t_seed"
done
within 600 "$append" "$t_dir/A/d" "$t_dir/B/d" "$t_seed" $((rounds / 4)) || fail "append, seed $t_seed"
same_tree "A and B afterwards" "$t_dir/A" "$t_dir/B"
same_tree "origin and B afterwards" "$t_origin" "$t_dir/B" nodirtime
if (($(status .counters.recalls_sent) == 0)); then fail "no recall was sent: these are not two members of one segment"; fi
check_segment
umount_member A
umount_member B
