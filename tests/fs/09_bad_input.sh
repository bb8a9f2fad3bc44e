#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   bad input gets one clear line and a non-zero exit, and leaves nothing half-made behind.
# Method: each case is run and its stderr counted and matched; mounts, segment files, state files and processes are
#         listed before and after. Damaged segments are copies of a good one, given by name and as file:PATH; they
#         must not be changed either.
T_SIZE=64M
T_LIMIT=300
. "$(dirname "$0")/lib.sh"
need unshare setpriv
super=$(helper super) || exit
bad=$t_seg-bad
mnt=$t_dir/mnt
mkdir "$mnt"
echo "some text" >"$t_origin/file"
cases=0

things() { { t_mounts; compgen -G "/dev/shm/hearthfs/*$t_seg*"; find "$t_state" -type f; t_processes; } | sort; }

# refused WHAT PATTERN CMD...: exactly one line on stderr, which matches, a plain exit that is not 0, nothing new left
refused() {
    local what=$1 pattern=$2 before rc lines
    shift 2
    before=$(things)
    timeout -k 5 30 "$@" >"$t_dir/out" 2>"$t_dir/err" </dev/null
    rc=$?
    lines=$(grep -c . "$t_dir/err")
    say "$what: exit $rc: $(head -c 300 "$t_dir/err")"
    ((rc != 124 && rc != 137)) || fail "$what: it does not end"
    ((rc > 0 && rc < 124)) || fail "$what: exit $rc"
    ((lines == 1)) || fail "$what: $lines lines on stderr, want 1: $(cat "$t_dir/err")"
    grep -qiE -- "$pattern" "$t_dir/err" || fail "$what: the line does not say /$pattern/"
    until_true 3 nothing_new "$before" || fail "$what: left behind: $(comm -13 <(echo "$before") <(things) | tr '\n' ' ')"
    cases=$((cases + 1))
}
nothing_new() { [[ -z $(comm -13 <(echo "$1") <(things)) ]]; }
common=name=$bad,size=$t_size,state_dir=$t_state
mount_bad() { local what=$1 pattern=$2; shift 2; refused "$what" "$pattern" "$HEARTHFS" mount "$@"; }

# ---- words and places
"$HEARTHFS" >"$t_dir/out" 2>"$t_dir/err" </dev/null && fail "no subcommand: exit 0"
grep -q mount "$t_dir/err" || fail "no subcommand: stderr does not teach"
refused "unknown subcommand" 'frobnicate'                        "$HEARTHFS" frobnicate
mount_bad "mount without arguments" 'source|usage|argument|help'
mount_bad "no mount point given" 'mount ?point|usage|argument|help' "$t_origin"
mount_bad "mount point missing"  "$t_dir/none" "$t_origin" "$t_dir/none" -o "$common"
mount_bad "mount point is a file" "director" "$t_origin" "$t_origin/file" -o "$common"
mount_bad "source missing"       "$t_dir/none" "$t_dir/none" "$mnt" -o "$common"
mount_bad "source is a file"     "director" "$t_origin/file" "$mnt" -o "$common"
mkdir "$t_origin/inside"
mount_bad "mount point in the source" "inside|contain|source" "$t_origin" "$t_origin/inside" -o "$common"
mount_bad "segment as the source" 'shm:|segment' "shm:$bad" "$mnt" -o "state_dir=$t_state"
mount_bad "segment's folder missing" 'none' "$t_origin" "$mnt" -o "segment=file:$t_dir/none/x.seg,size=$t_size,state_dir=$t_state"
mount_bad "two segments" 'name|segment' "$t_origin" "$mnt" -o "$common,segment=shm:x$bad"
refused "status of nothing"  "$bad" "$HEARTHFS" status "$bad"
refused "members of nothing" "$bad" "$HEARTHFS" members "$bad"
refused "check of nothing"   "$bad" "$HEARTHFS" check "$bad"
refused "destroy of nothing" "$bad" "$HEARTHFS" destroy "$bad"

# ---- options
mount_bad "unknown option"    'frobnicate'   "$t_origin" "$mnt" -o "$common,frobnicate=1"
mount_bad "unknown long option" 'frobnicate' "$t_origin" "$mnt" --frobnicate
mount_bad "size too small"    'size|small'   "$t_origin" "$mnt" -o "name=$bad,size=4K,state_dir=$t_state"
mount_bad "size zero"         'size|small'   "$t_origin" "$mnt" -o "name=$bad,size=0,state_dir=$t_state"
mount_bad "size no number"    'size'         "$t_origin" "$mnt" -o "name=$bad,size=plenty,state_dir=$t_state"
mount_bad "size beyond everything" 'size|space|large|memory' "$t_origin" "$mnt" -o "name=$bad,size=8000000T,state_dir=$t_state"
mount_bad "name with a slash" 'name'         "$t_origin" "$mnt" -o "name=../$bad,size=$t_size,state_dir=$t_state"
mount_bad "name too long"     'name'         "$t_origin" "$mnt" -o "name=$bad$(printf 'x%.0s' {1..200}),size=$t_size,state_dir=$t_state"
mount_bad "unknown cache="    'cache'        "$t_origin" "$mnt" -o "$common,cache=maybe"
mount_bad "unknown locks="    'locks'        "$t_origin" "$mnt" -o "$common,locks=maybe"
mount_bad "unknown write="    'write'        "$t_origin" "$mnt" -o "$common,write=maybe"
mount_bad "recall_timeout no number" 'recall_timeout' "$t_origin" "$mnt" -o "$common,recall_timeout=soon"

# ---- rights, devices, space
# In a folder of its own, because nobody may not come this far down.
open=$(mktemp -d /tmp/hearthfs-nobody.XXXXXX) || exit
t_cleanup() { rm -rf "$open"; }
as_nobody() {
    local source=$1
    shift
    refused "$@" 'permission|rights|denied|root|not allowed' setpriv --reuid=65534 --regid=65534 --clear-groups \
        "$open/hearthfs" mount "$source" "$open/mnt" -o "$common"
}
cp "$HEARTHFS" "$open/hearthfs"
mkdir "$open/mnt" "$open/source"
mkdir -m 700 "$open/secret"
chown 65534:65534 "$open/mnt"
chmod 755 "$open" "$open/hearthfs"
as_nobody "$open/secret" "no rights on the source"
as_nobody "$open/source" "no rights on /dev/shm/hearthfs and the state"
[[ ! -e $open/mnt/file ]] && ! mountpoint -q "$open/mnt" || fail "nobody has mounted something"
cat >"$t_dir/no_fuse" <<'END'
mount -t tmpfs none "$1" && for d in null zero urandom tty; do cp -a /dev/$d "$1/"; done
mkdir "$1/shm" && mount --bind /dev/shm "$1/shm" && mount --rbind "$1" /dev && shift && "$@"
END
mkdir "$t_dir/dev"
refused "/dev/fuse missing" '/dev/fuse' unshare -m bash "$t_dir/no_fuse" "$t_dir/dev" "$HEARTHFS" mount "$t_origin" "$mnt" -o "$common"
cat >"$t_dir/no_space" <<'END'
mount -t tmpfs -o size=8m none /dev/shm || exit 99
"$@"
rc=$?
find /dev/shm -type f -printf 'left behind: %p\n' >&2
exit $rc
END
refused "no space in /dev/shm" 'space' unshare -m bash "$t_dir/no_space" "$HEARTHFS" mount "$t_origin" "$mnt" -o "$common"

# ---- a living member
mount_member A
mount_bad "already mounted" 'mount' "$t_origin" "$t_dir/A" -o "name=$t_seg,size=$t_size,state_dir=$t_state"
mount_bad "a living member's name" 'member|A' "$t_origin" "$mnt" -o "name=$t_seg,member=A,size=$t_size,state_dir=$t_state"
mkdir "$t_dir/other"
mount_bad "another directory's segment" 'origin|another|other|director' "$t_dir/other" "$mnt" -o "name=$t_seg,member=B,size=$t_size,state_dir=$t_state"
name=$(printf 'n%.0s' {1..256})
refused "a name of 256 bytes" 'too long' touch "$t_dir/A/$name"
refused "mkdir of 256 bytes"  'too long' mkdir "$t_dir/A/$name"
refused "stat of 256 bytes"   'too long' stat "$t_dir/A/$name"
within 10 touch "$t_dir/A/${name:1}" || fail "a name of 255 bytes is refused too"
[[ $(<"$t_dir/A/file") == "some text" ]] || fail "the living member was disturbed"
check_segment
umount_member A

# ---- segments that are none
good=$t_dir/good.seg
cp "/dev/shm/hearthfs/$t_seg" "$good"
within 20 "$HEARTHFS" check "file:$good" >/dev/null || fail "the good copy is refused: what follows would prove nothing"

# damaged WHAT PATTERN: the file bad.seg is refused by every command, by path and by name, and stays as it is
damaged() {
    local sum by_name=/dev/shm/hearthfs/$bad
    sum=$(sha256sum <"$t_dir/bad.seg")
    refused "$1: check" "$2" "$HEARTHFS" check "file:$t_dir/bad.seg"
    refused "$1: status" "$2" "$HEARTHFS" status "file:$t_dir/bad.seg" --json
    mount_bad "$1: mount file:" "$2" "$t_origin" "$mnt" -o "segment=file:$t_dir/bad.seg,state_dir=$t_state"
    [[ $(sha256sum <"$t_dir/bad.seg") == "$sum" ]] || fail "$1: the file was changed"
    cp "$t_dir/bad.seg" "$by_name"
    mount_bad "$1: mount by name" "$2" "$t_origin" "$mnt" -o "$common"
    [[ $(sha256sum <"$by_name") == "$sum" ]] || fail "$1: the segment file was changed"
    rm "$by_name"
}
word() { cp "$good" "$t_dir/bad.seg"; "$super" "$t_dir/bad.seg" "$1" "$2" || fail "helpers/super.c does not know this layout"; }

no_segment='not a|foreign|damaged|magic|no hearthfs|truncat|short|small|bytes'
: >"$t_dir/bad.seg";                                        damaged "empty file" "$no_segment"
head -c 100 "$good" >"$t_dir/bad.seg";                      damaged "100 bytes of a segment" "$no_segment"
yes "foreign bytes" | head -c 16M >"$t_dir/bad.seg";        damaged "foreign bytes" "$no_segment"
head -c 16M /dev/zero >"$t_dir/bad.seg";                    damaged "zeros" "$no_segment"
head -c 32M "$good" >"$t_dir/bad.seg";                      damaged "half a segment" 'truncat|short|size|bytes'
cp "$good" "$t_dir/bad.seg"; truncate -s -4096 "$t_dir/bad.seg"; damaged "one page missing" 'truncat|short|size|bytes'
cp "$good" "$t_dir/bad.seg"; printf 'X' | dd of="$t_dir/bad.seg" bs=1 conv=notrunc status=none; damaged "another magic" "$no_segment"
cp "$good" "$t_dir/bad.seg"; printf 'XXXX' | dd of="$t_dir/bad.seg" bs=1 seek=70 conv=notrunc status=none; damaged "bad checksum" 'checksum|damaged'
word 24 99;         damaged "another major version" 'version|layout'
word 32 0x12345678; damaged "another layout signature" 'signature|layout|version'
word 16 0x01020304; damaged "another byte order" 'byte.?order|endian|layout'
word 40 0x7ffff000; damaged "a size beyond the file" 'truncat|short|size|bytes|damaged'
word 208 1000;      damaged "1,000 sections" 'section|damaged'
word 228 0x7fffffff; damaged "a section outside" 'section|damaged'

# Any flipped bit of page 0 is found.
RANDOM=$((t_seed % 32768))
cp "$good" "$t_dir/bad.seg"
for ((i = 0; i < $(pick 60 4096); i++)); do
    if soak; then at=$i; else at=$((i < 16 ? i : RANDOM % 4096)); fi
    byte=$(od -An -tu1 -j $at -N1 "$good")
    flip() { printf "\\x$(printf %x "$1")" | dd of="$t_dir/bad.seg" bs=1 seek=$at conv=notrunc status=none; }
    flip $((byte ^ (1 << RANDOM % 8)))
    refused "flipped bit in byte $at" '.' "$HEARTHFS" check "file:$t_dir/bad.seg" >/dev/null || exit
    flip "$byte"
done
cmp "$good" "$t_dir/bad.seg" || fail "the copy was changed"
within 20 "$HEARTHFS" check "file:$t_dir/bad.seg" >/dev/null || fail "the restored copy is refused"
say "$cases cases refused"
mount_member A
[[ $(<"$t_dir/A/file") == "some text" ]] || fail "the good segment does not work any more"
umount_member A
