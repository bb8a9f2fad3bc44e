#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   whatever members and threads do at the same moment, there is one order of it that explains every result and
#         keeps to real time.
# Method: history run: data and names apart and together, two members and four; the history of each object is judged
#         while it is made; what has no order is printed, shrunk.
T_SIZE=256M
T_LIMIT=400
. "$(dirname "$0")/../fs/lib.sh"
history=$(helper history) || exit

# turn MEMBERS SECONDS OPTION...
turn() {
    local count=$1 seconds=$2 dirs=() m dir
    shift 2
    t_turn=$((${t_turn:-0} + 1))
    for m in A B C D; do
        if ((count-- <= 0)); then break; fi
        dir=$t_dir/$m/turn$t_turn
        if [[ $m == A ]]; then mkdir "$dir" || fail "mkdir"; fi
        dirs+=("$dir")
    done
    within $((seconds * 4 + 200)) "$history" run --seed $((t_seed + t_turn)) --seconds "$seconds" "$@" "${dirs[@]}" ||
        fail "$*, seed $((t_seed + t_turn))"
    check_segment
}

mount_member A
mount_member B
turn 2 "$(pick 15 300)" --only data --changes 4
turn 2 "$(pick 10 300)" --only data --changes 40
turn 2 "$(pick 8 300)" --only data --locks
# Names: a rename or exchange looks its two names up one after the other, and another member's rename may come between them once its recall has gone round the
# directories (fs_notify.c, rescue_stuck). Seen once in some millions of operations, and not settled yet: in the long form only.
if soak; then turn 2 300 --only names; fi
mount_member C
mount_member D
turn 4 "$(pick 20 600)" --only data
if soak; then turn 4 600; fi
if (($(status .counters.recalls_sent) == 0)); then fail "no recall was sent: these are not members of one segment"; fi
for m in A B C D; do umount_member "$m"; done
check_segment
