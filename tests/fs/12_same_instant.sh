#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   two daemons that start at the same instant make one segment, and both mounts work.
# Method: 20 rounds (long form 200): both wait for one file to appear, then mount; one segment file, two slots, one
#         coherent tree.
T_SIZE=64M
T_LIMIT=200
. "$(dirname "$0")/lib.sh"

start() { until [[ -e $t_dir/go ]]; do :; done; mount_member "$1"; }
for ((round = 1; round <= $(pick 20 200); round++)); do
    rm -f "$t_dir/go"
    start A & a=$!
    start B & b=$!
    sleep 0.1
    : >"$t_dir/go"
    wait $a && wait $b || fail "round $round: a mount failed"
    files=$(find /dev/shm/hearthfs -mindepth 1 -name "*$t_seg*" | wc -l)
    ((files == 1)) || fail "round $round: $files segment files"
    slots=$(status '[.members[].slot] | unique | length')
    members=$(status '[.members[] | select(.name == "A" or .name == "B")] | length')
    ((slots == 2 && members == 2)) || fail "round $round: $members members in $slots slots, want A and B in two"
    [[ ! -e $t_dir/A/file && ! -e $t_dir/B/file ]] || fail "round $round: the tree is not empty"
    echo "$round from A" >"$t_dir/A/file"
    [[ $(<"$t_dir/B/file") == "$round from A" ]] || fail "round $round: B does not see A's file"
    echo "$round from B" >"$t_dir/B/file"
    [[ $(<"$t_dir/A/file") == "$round from B" ]] || fail "round $round: A does not see B's write"
    rm "$t_dir/A/file"
    [[ ! -e $t_dir/B/file ]] || fail "round $round: B shows a removed file"
    umount_member A
    umount_member B
    check_segment
    within 20 "$HEARTHFS" destroy "$t_seg" >/dev/null || fail "round $round: destroy"
    [[ ! -e /dev/shm/hearthfs/$t_seg ]] || fail "round $round: destroy left the segment file"
done
say "$((round - 1)) rounds: one segment, two members, one tree"
