#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   a daemon that was stopped or killed while idle comes back to its slot in the same segment, one incarnation
#         later, and warm.
# Method: A, B read everything; SIGTERM to A, SIGKILL to A, SIGKILL to both; mount again; compare status and the
#         origin's counter.
T_SIZE=256M
T_LIMIT=300
. "$(dirname "$0")/lib.sh"

cp -a /usr/include/linux "$t_origin/linux"
head -c 20M /dev/urandom >"$t_origin/large"
sum_tree "$t_origin" >"$t_dir/sums.origin"
sync -f "$t_origin"

read_all() { # LETTER
    list_tree "$t_dir/$1" >"$t_dir/list.$1"
    sum_tree "$t_dir/$1" >"$t_dir/sums.$1"
    same "everything on $1" "$t_dir/sums.origin" "$t_dir/sums.$1"
}
slot()        { status ".members[] | select(.name == \"$1\") | .slot"; }
incarnation() { status ".members[] | select(.name == \"$1\") | .incarnation"; }

stop() { # SIGNAL LETTER
    local pid
    pid=$(daemon_pid "$2")
    [[ $pid =~ ^[0-9]+$ ]] || fail "which process is the daemon of $2? found: '$pid'"
    kill "-$1" "$pid"
    until_true 15 no_daemon "$2" || fail "the daemon of $2 still runs 15 s after SIG$1"
    if [[ $1 == TERM ]] && mountpoint -q "$t_dir/$2"; then fail "SIGTERM left the mount of $2 behind"; fi
    umount -l "$t_dir/$2" 2>/dev/null
    mountpoint -q "$t_dir/$2" && fail "the dead mount of $2 cannot be removed"
}

# back LETTER SLOT INCARNATION: what must hold after it was mounted again
back() {
    local bytes
    [[ $(status .segment.uuid) == "$uuid" ]] || fail "another segment: $(status .segment.uuid), was $uuid"
    [[ $(slot "$1") == "$2" ]] || fail "$1 came back in slot $(slot "$1"), was $2"
    [[ $(incarnation "$1") == "$3" ]] || fail "$1 came back as incarnation $(incarnation "$1"), want $3"
    bytes=$(origin_read_bytes)
    read_all "$1"
    (($(origin_read_bytes) == bytes)) || fail "$1 is cold: it read $(($(origin_read_bytes) - bytes)) bytes from the origin"
    say "$1: uuid, slot $2, incarnation $3, no origin read"
}

mount_member A
mount_member B
read_all A
read_all B
uuid=$(status .segment.uuid)
slot_a=$(slot A) slot_b=$(slot B)
inc_a=$(incarnation A) inc_b=$(incarnation B)
[[ $uuid =~ ^[0-9a-f-]{32,36}$ && $slot_a != "$slot_b" ]] || fail "uuid $uuid, slots $slot_a and $slot_b"

for signal in TERM KILL TERM KILL; do
    sleep 0.5
    say "SIG$signal to A"
    stop $signal A
    [[ $(<"$t_dir/B/linux/fs.h") == "$(<"$t_origin/linux/fs.h")" ]] || fail "B is disturbed by the end of A"
    echo "written while A was away after SIG$signal" >"$t_dir/B/note"
    mount_member A
    [[ $(<"$t_dir/A/note") == "$(<"$t_origin/note")" && $(<"$t_dir/A/note") == *SIG$signal ]] || fail "A does not see what B wrote meanwhile"
    rm "$t_dir/A/note"
    [[ ! -e $t_dir/B/note ]] || fail "B still shows what A has removed"
    inc_a=$((inc_a + 1))
    back A "$slot_a" "$inc_a"
done

for signal in TERM KILL; do
    sleep 0.5
    say "SIG$signal to A and B: nobody is left"
    stop $signal A
    stop $signal B
    check_segment
    mount_member B
    inc_a=$((inc_a + 1)) inc_b=$((inc_b + 1))
    back B "$slot_b" "$inc_b"
    mount_member A
    back A "$slot_a" "$inc_a"
done
check_segment
umount_member A
umount_member B
