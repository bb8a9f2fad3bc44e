#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   four members that change one directory and one file for a while lose no update, and leave a segment without
#         a fault.
# Method: helpers/hammer.c on four mounts at once (60 s; long form 300 s x 5), verified through each mount and at the
#         origin; check.
T_SIZE=256M
T_LIMIT=200
. "$(dirname "$0")/lib.sh"
hammer=$(helper hammer) || exit
members=(A B C D)

for m in "${members[@]}"; do mount_member "$m"; done
for ((turn = 0; turn < $(pick 1 5); turn++)); do
    rm -f "$t_dir"/report.*
    dir=turn$turn
    mkdir "$t_dir/A/$dir" "$t_dir/A/$dir/names"
    touch "$t_dir/A/$dir"/{slots,log}
    head -c 8 /dev/zero >"$t_dir/A/$dir/counter"
    pids=()
    for i in "${!members[@]}"; do
        within $(($(pick 60 300) + 60)) "$hammer" run "$t_dir/${members[i]}/$dir" "$i" ${#members[@]} "$(pick 60 300)" \
            $((t_seed + turn)) "$t_dir/report.$i" & pids+=($!)
    done
    for p in "${pids[@]}"; do wait "$p" || fail "a hammer failed, seed $((t_seed + turn))"; done
    for at in "$t_origin" "${members[@]/#/$t_dir/}"; do
        within 60 "$hammer" verify "$at/$dir" "$t_dir"/report.{0,1,2,3} || fail "lost update, seed $((t_seed + turn))"
    done
    check_segment
done
for m in B C D; do same_tree "A and $m" "$t_dir/A" "$t_dir/$m"; done
same_tree "origin and A" "$t_origin" "$t_dir/A" nodirtime
for m in "${members[@]}"; do umount_member "$m"; done
check_segment
