#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   locks of programs exclude among all mounts as on one local file system.
# Method: random operations on a mount's file and a local one, with equal results; waits that end by a grant, a signal or a death, with
#         the oldest first; circles; a counter that all mounts increment under a lock; 10,000 locks; the holder's daemon killed.
T_SIZE=256M
T_LIMIT=300
. "$(dirname "$0")/lib.sh"

locks=$(helper locks) || exit 1
locks_wait=$(helper locks_wait) || exit 1
plain=$t_dir/plain
mkdir "$plain"
A=$t_dir/A B=$t_dir/B

# run LIMIT COMMAND...: with its output, each line under the test's name
run() {
    within "$(($1 * $(pick 1 10)))" "${@:2}" >"$t_dir/out" 2>&1
    local rc=$?
    sed "s/^/$t_name: /" "$t_dir/out"
    ((rc == 0)) || fail "${*:2}"
}

mount_member A
mount_member B
for ((n = 0; n < $(pick 2 20); n++)); do
    run 120 "$locks" "$((t_seed + n))" "$(pick 3000 50000)" "$plain" "$A" "$B"
done
for what in order signals kill circles rules handover; do
    run 120 "$locks_wait" $what "$A" "$B"
done
run 120 "$locks_wait" many 10000 "$A" "$B"
check_segment

mount_member C
mount_member D
run 120 "$locks_wait" churn "$t_seed" "$(pick 4 120)" "$A" "$B" "$t_dir/C" "$t_dir/D"
check_segment
run 120 "$locks_wait" exclude "$(pick 2 20)" "$A" "$B" "$t_dir/C" "$t_dir/D"
run 120 "$locks" "$t_seed" "$(pick 2000 50000)" "$plain" "$A" "$B" "$t_dir/C" "$t_dir/D"
check_segment

# Whoever holds a lock loses it with its daemon.
run 120 "$locks_wait" daemon "$(daemon_pid C)" 9 "$t_dir/C" "$B"
umount -l "$t_dir/C"
run 120 "$locks_wait" daemon "$(daemon_pid D)" 15 "$t_dir/D" "$B"
if mountpoint -q "$t_dir/D"; then umount -l "$t_dir/D"; fi
run 120 "$locks" "$t_seed" "$(pick 1000 20000)" "$plain" "$A" "$B"
check_segment
umount_member A
umount_member B
check_segment

mount_member A locks=none
mount_member B locks=none
run 60 "$locks_wait" apart "$A" "$B"
check_segment
