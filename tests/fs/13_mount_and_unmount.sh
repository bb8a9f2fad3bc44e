#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   mounting and unmounting: what mount says, -f, umount and fusermount3 -u end the daemon and leave the segment
#         warm, ro, locks=none.
# Method: each way once, with status, the process list and the origin's counter; with locks=none the kernel's own
#         trace of FUSE requests counts the messages of 1,000 opens, reads and closes.
T_SIZE=128M
T_LIMIT=200
. "$(dirname "$0")/lib.sh"
need fusermount3 findmnt
openclose=$(helper openclose) || exit

mkdir "$t_origin/d"
for i in {1..300}; do head -c $((RANDOM % 20000)) /dev/urandom >"$t_origin/d/f$i"; done
sum_tree "$t_origin" >"$t_dir/sums.origin"
sync -f "$t_origin"
read_all() { sum_tree "$t_dir/A" >"$t_dir/sums.A"; same "everything on A" "$t_dir/sums.origin" "$t_dir/sums.A"; }
# warm: A was mounted again and must not need the origin
warm() {
    local bytes
    [[ $(status .segment.uuid) == "$uuid" ]] || fail "$1: another segment"
    bytes=$(origin_read_bytes)
    read_all
    (($(origin_read_bytes) == bytes)) || fail "$1: not warm, read $(($(origin_read_bytes) - bytes)) bytes from the origin"
    say "$1: warm"
}

# ---- what mount and status say
mount_member A
cat "$t_dir/mount-A.out"
lines=$(grep -c . "$t_dir/mount-A.out")
((lines >= 1 && lines <= 8)) || fail "mount says $lines lines; it should say what happened and what to try next"
grep -qF "$t_dir/A" "$t_dir/mount-A.out" || fail "mount does not say where"
grep -qF "$t_seg" "$t_dir/mount-A.out" || fail "mount does not name the segment"
[[ $(findmnt -n -o FSTYPE "$t_dir/A") == fuse.hearthfs ]] || fail "file system type $(findmnt -n -o FSTYPE "$t_dir/A"), want fuse.hearthfs"
uuid=$(status .segment.uuid)
read_all
for key in .segment.name .segment.generation .segment.size .segment.frames.total .segment.frames.free .segment.frames.clean '.members[0].state' \
    .counters.hits .counters.misses .counters.fills .counters.fill_waits .counters.evictions .counters.recalls_sent \
    .counters.doorbells_rung .counters.doorbells_suppressed .counters.origin_reads .counters.origin_read_bytes .counters.origin_writes; do
    say "status $key: $(status "$key")" || exit
done
(($(status .segment.size) == 128 << 20)) || fail "size $(status .segment.size), want 128 MiB"
within 20 "$HEARTHFS" status "$t_seg" >"$t_dir/out" || fail "status without --json"
grep -qF "$t_seg" "$t_dir/out" || fail "status does not name the segment"
within 20 "$HEARTHFS" members "$t_seg" >"$t_dir/out" || fail "members"
grep -qF "$t_dir/A" "$t_dir/out" || grep -qw A "$t_dir/out" || fail "members does not show A"
within 20 "$HEARTHFS" members "$t_seg" --json | jq -e . >/dev/null || fail "members --json is no JSON"
for command in "" mount status members check destroy; do
    # shellcheck disable=SC2086
    (($(within 20 "$HEARTHFS" $command --help | wc -l) > 3)) || fail "'$command --help' teaches nothing"
done
"$HEARTHFS" destroy "$t_seg" >"$t_dir/out" 2>&1 && fail "destroy of a segment in use"
[[ -e /dev/shm/hearthfs/$t_seg && $(<"$t_dir/A/d/f1" wc -c) == $(stat -c %s "$t_origin/d/f1") ]] || fail "destroy of a segment in use hurt it"

# ---- umount, fusermount3 -u
umount_member A
[[ -e /dev/shm/hearthfs/$t_seg && $(status .segment.uuid) == "$uuid" ]] || fail "the segment is gone after umount"
mount_member A
warm "after umount"
within 20 fusermount3 -u "$t_dir/A" || fail "fusermount3 -u"
until_true 15 no_daemon A || fail "the daemon still runs 15 s after fusermount3 -u"
mount_member A
warm "after fusermount3 -u"
# A busy mount is refused, and keeps working.
(cd "$t_dir/A/d" && ! umount "$t_dir/A" 2>/dev/null) || fail "a busy mount was unmounted"
[[ $(daemon_pid A) =~ ^[0-9]+$ && -e $t_dir/A/d/f1 ]] || fail "a refused unmount has hurt the daemon"
umount_member A

# ---- in the foreground
"$HEARTHFS" mount "$t_origin" "$t_dir/A" -o "name=$t_seg,member=A,size=$t_size,state_dir=$t_state" -f >"$t_dir/fg.out" 2>&1 &
pid=$!
until_true 15 mountpoint -q "$t_dir/A" || { cat "$t_dir/fg.out"; fail "mount -f"; }
[[ $(daemon_pid A) == "$pid" ]] || fail "mount -f is process $(daemon_pid A), want $pid: it has gone to the background"
warm "-f"
within 20 umount "$t_dir/A" || fail "umount of -f"
until_true 15 no_daemon A || fail "mount -f does not end after the unmount"
wait "$pid" || fail "mount -f ended with $?, want 0"

# ---- a segment in a file
file=$t_dir/own.seg
within 60 "$HEARTHFS" mount "$t_origin" "$t_dir/A" -o "segment=file:$file,member=A,size=64M,state_dir=$t_state" >/dev/null ||
    fail "mount with segment=file:"
read_all
[[ -f $file && $(within 20 "$HEARTHFS" status "file:$file" --json | jq .segment.size) == $((64 << 20)) ]] || fail "status of file:$file"
umount_member A
within 60 "$HEARTHFS" check "file:$file" >/dev/null || fail "check of file:$file"
within 20 "$HEARTHFS" destroy "file:$file" >/dev/null || fail "destroy of file:$file"
[[ ! -e $file ]] || fail "destroy left $file behind"
say "a segment in a file: works, and is gone after destroy"

# ---- read-only
mount_member A ro
(: >"$t_dir/A/new") 2>"$t_dir/err" && fail "a read-only mount was written to"
grep -q "Read-only file system" "$t_dir/err" || fail "writing to a read-only mount: $(cat "$t_dir/err")"
warm "ro"
umount_member A

# ---- locks=none: opens and closes without a message
tracing=$t_dir/tracing
mkdir "$tracing"
mount -t tracefs tracefs "$tracing" 2>/dev/null
instance=$tracing/instances/hearthfs-$$
# requests LETTER CMD...: how many FUSE requests of this mount's connection the kernel has sent meanwhile, by name
requests() {
    local at=$t_dir/$1 dev
    shift
    dev=$(awk -v d="$at" '$5 == d { split($3, a, ":"); print a[2] }' /proc/self/mountinfo)
    mkdir "$instance" || return
    echo "connection == $dev" >"$instance/events/fuse/fuse_request_send/filter"
    echo 1 >"$instance/events/fuse/fuse_request_send/enable"
    "$@"
    echo 0 >"$instance/events/fuse/fuse_request_send/enable"
    grep -o 'FUSE_[A-Z0-9_]*' "$instance/trace" | sort | uniq -c
    rmdir "$instance"
}
thousand_opens() { within 30 "$openclose" "$t_dir/A/d/f1" 1000 || fail "open, read, stat, close"; }
mount_member A locks=none
mount_member B
warm "locks=none"
thousand_opens
if [[ -d $tracing/events/fuse ]]; then
    requests A thousand_opens >"$t_dir/requests"
    say "requests of 1,000 opens with locks=none: $(tr -s ' \n' ' ' <"$t_dir/requests")"
    (($(awk '{ s += $1 } END { print s + 0 }' "$t_dir/requests") < 20)) || fail "opens and closes send messages in spite of locks=none"
    requests A within 10 touch "$t_dir/A/counted" >"$t_dir/requests"
    [[ -s $t_dir/requests ]] || fail "a new file sends no message: the counting does not work"
else
    say "no FUSE trace events in this kernel: the messages of locks=none were not counted"
fi
echo "with O_TRUNC" >"$t_dir/A/d/f1"
[[ $(<"$t_dir/B/d/f1") == "with O_TRUNC" && $(<"$t_origin/d/f1") == "with O_TRUNC" ]] || fail "O_TRUNC does not work with locks=none"
echo "from B" >"$t_dir/B/d/f1"
[[ $(<"$t_dir/A/d/f1") == "from B" ]] || fail "with locks=none, A does not see B's write"
check_segment
umount_member A
umount_member B
