# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# lib.sh - what the mount tests share. A test sources it first; after that it has
#   t_dir     a scratch directory of its own (the mounts are $t_dir/A, $t_dir/B, ...)
#   t_origin  the directory that is mounted ($t_dir/origin, made empty; a test may point it elsewhere)
#   t_seg     the name of its segment          t_size  the size= of it (set T_SIZE before sourcing)
#   t_state   its state directory              t_seed  printed; HEARTHFS_SEED=n repeats a run
# Everything is undone on exit: mounts, daemons, segment, scratch files; what does not go away by itself fails the test.
# T_LIMIT (seconds, set before sourcing; ten times that in the long form) bounds the whole test: then its daemons are
# killed, which frees every hung client.
#
# From outside: HEARTHFS (the binary), HEARTHFS_SOAK=1 (long forms), HEARTHFS_TEST_BUILD (compiled helpers are kept
# there), HEARTHFS_KEEP=1 (leave the scratch directory). Exit: 0 pass, 77 skip, else fail.

set -uo pipefail
export LC_ALL=C
t_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
t_root=$(cd "$t_here/../.." && pwd)
t_name=$(basename "$0" .sh)
HEARTHFS=${HEARTHFS:-$t_root/build/release/cli/hearthfs}
t_seed=${HEARTHFS_SEED:-$((RANDOM * 32768 + RANDOM))}
t_seg=t$$-$t_name
t_size=${T_SIZE:-256M}
t_limit=$((${T_LIMIT:-300} * (${HEARTHFS_SOAK:-0} == 1 ? 10 : 1)))

say()  { printf '%s: %s\n' "$t_name" "$*"; }
# Ends the test, also when it is called in a subshell.
fail() {
    printf '%s: FAIL: %s\n' "$t_name" "$*" >&2
    if ((BASHPID != $$)); then kill -TERM $$; fi
    exit 1
}
skip() { printf '%s: skipped: %s\n' "$t_name" "$*"; exit 77; }
soak() { [[ ${HEARTHFS_SOAK:-0} == 1 ]]; }
pick() { if soak; then echo "$2"; else echo "$1"; fi; }             # QUICK LONG
need() { local c; for c; do command -v "$c" >/dev/null || skip "no command $c here"; done; }

# within SECONDS CMD...: commands that touch a mount go through here.
within() {
    local seconds=$1 rc
    shift
    timeout -k 5 "$seconds" "$@" <&0 & # bash runs a trap at once only while it waits
    wait $!
    rc=$?
    if ((rc == 124 || rc == 137)); then fail "not done after $seconds s: $*"; fi
    return $rc
}

# until_true SECONDS CMD...: asks again and again; 1 when the time is over.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if ((SECONDS > end)); then return 1; fi
        sleep 0.05
    done
}

# helper NAME: the path of the program compiled from helpers/NAME.c, or helpers/NAME/*.c, beside the script
helper() {
    local helpers out=${HEARTHFS_TEST_BUILD:-$t_dir/bin}/$1
    helpers=$(cd "$(dirname "$0")/helpers" && pwd) || fail "no helpers beside $0"
    local src=("$helpers/$1.c")
    if [[ -d $helpers/$1 ]]; then src=("$helpers/$1"/*.c); fi
    mkdir -p "${out%/*}"
    if [[ ! -x $out || -n $(find "${src[@]}" -newer "$out") || -n $(find "$t_here/helpers" "$helpers" -name '*.h' -newer "$out") ]]; then
        "${CC:-cc}" -std=gnu17 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes \
            -Wmissing-prototypes -pthread -I"$t_here/helpers" -o "$out.$$" "${src[@]}" || fail "cannot build ${src[0]}"
        mv "$out.$$" "$out"
    fi
    echo "$out"
}

# ---- members -------------------------------------------------------------------------------------------------------

# mount_member LETTER [OPTION,...]: a member of that name at $t_dir/LETTER
mount_member() {
    local at=$t_dir/$1
    mkdir -p "$at"
    within 60 "$HEARTHFS" mount "$t_origin" "$at" \
        -o "name=$t_seg,member=$1,size=$t_size,state_dir=$t_state${2:+,$2}" >"$t_dir/mount-$1.out" 2>"$t_dir/mount-$1.err" ||
        { cat "$t_dir/mount-$1.err" >&2; fail "cannot mount member $1"; }
    mountpoint -q "$at" || fail "mount of member $1 said 0 but nothing is mounted"
}

umount_member() {
    within 30 umount "$t_dir/$1" || fail "cannot unmount member $1"
    until_true 15 no_daemon "$1" || fail "the daemon of member $1 still runs 15 s after the unmount"
}

# daemon_pid LETTER: the process hearthfs that has this mount point among its arguments
daemon_pid() {
    local p args
    for p in /proc/[0-9]*; do
        mapfile -d '' -t args 2>/dev/null <"$p/cmdline" || continue
        [[ ${args[0]-} == *hearthfs* && " ${args[*]} " == *" mount "*" $t_dir/$1 "* ]] && echo "${p#/proc/}"
    done 2>/dev/null
    return 0
}
no_daemon() { [[ -z $(daemon_pid "$1") ]]; }

# status FILTER: one value of `status --json`
status() {
    local json
    json=$(within 20 "$HEARTHFS" status "$t_seg" --json) || fail "status --json failed"
    jq -er "$1" <<<"$json" || fail "status --json has no $1: $json"
}
origin_read_bytes() { status .counters.origin_read_bytes; }

check_segment() {
    within 120 "$HEARTHFS" check "$t_seg" >"$t_dir/check.out" 2>&1 && return
    cat "$t_dir/check.out" >&2
    fail "hearthfs check $t_seg: not clean"
}

# ---- trees ---------------------------------------------------------------------------------------------------------

# list_tree DIR [nodirtime]: every name with type, mode, owner, size, mtime, link count and link target
list_tree() {
    local any='%P\t%y %m %U %G %s %T@ %n %l\0' dir=$'%P\t%y %m %U %G %n\\0'
    if [[ ${2-} != nodirtime ]]; then dir=$any; fi
    within 300 find "$1" \( -type d -printf "$dir" -o -printf "$any" \) | sort -z | tr '\0' '\n'
}

# sum_tree DIR: the SHA-256 of every regular file
sum_tree() { (cd "$1" && within 600 find . -type f -print0 | sort -z | within 600 xargs -0r sha256sum); }

# same WHAT FILE1 FILE2: both lists are equal, and not empty
same() {
    [[ -s $2 ]] || fail "$1: nothing to compare ($2 is empty)"
    if ! cmp -s "$2" "$3"; then
        diff "$2" "$3" | head -n 12 >&2
        fail "$1: ${2##*/} and ${3##*/} differ"
    fi
    say "$1: equal, $(wc -l <"$2") lines"
}

# same_tree WHAT DIR1 DIR2 [nodirtime]: names, attributes and contents
same_tree() {
    list_tree "$2" "${4-}" >"$t_dir/list.1"; list_tree "$3" "${4-}" >"$t_dir/list.2"
    same "$1, names and attributes" "$t_dir/list.1" "$t_dir/list.2"
    sum_tree "$2" >"$t_dir/sums.1"; sum_tree "$3" >"$t_dir/sums.2"
    same "$1, contents" "$t_dir/sums.1" "$t_dir/sums.2"
}

# ---- beginning and end ---------------------------------------------------------------------------------------------

t_mounts() { awk -v d="$t_dir/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | tac; }

# processes with the scratch directory in their arguments: daemons, helpers; never the test script itself
t_processes() {
    local p
    for p in $(grep -laFf - /proc/[0-9]*/cmdline 2>/dev/null <<<"$t_dir" | cut -d/ -f3); do
        if [[ $p != "$$" && $p != "$BASHPID" ]]; then echo "$p"; fi
    done
}
t_no_processes() { [[ -z $(t_processes) ]]; }
t_kill() { local p; for p in $(t_processes); do kill "-$1" "$p" 2>/dev/null; done; }

t_abort_mounts() {
    local dev
    for dev in $(awk -v d="$t_dir/" 'index($5, d) == 1 && / - fuse/ { split($3, a, ":"); print a[2] }' \
        /proc/self/mountinfo); do
        echo 1 2>/dev/null >"/sys/fs/fuse/connections/$dev/abort"
    done
}

t_watch() {
    local nap p
    trap 'kill $nap; exit' TERM
    sleep "$t_limit" & nap=$!
    wait $nap
    printf '%s: FAIL: not done after %s s; its processes are:\n' "$t_name" "$t_limit" >&2
    for p in $(t_processes); do
        echo "  $p $(tr '\0' ' ' <"/proc/$p/cmdline" | cut -c1-120): $(cat /proc/"$p"/task/*/wchan 2>/dev/null | tr '\0' ' ')"
    done >&2
    t_abort_mounts
    t_kill KILL
    kill -TERM $$
}

t_end() {
    local rc=$? m
    trap '' INT TERM
    cd /
    kill "$t_watcher" 2>/dev/null
    for m in $(t_mounts); do
        timeout -k 1 20 umount "$m" 2>/dev/null || { t_abort_mounts; umount -l "$m"; }
    done
    if declare -F t_cleanup >/dev/null; then t_cleanup; fi # a test may define it
    if ! until_true 10 t_no_processes; then
        if ((rc == 0)); then echo "$t_name: FAIL: processes left after the unmount: $(t_processes | tr '\n' ' ')" >&2; rc=1; fi
        t_kill TERM
        until_true 3 t_no_processes || t_kill KILL
    fi
    if [[ -e /dev/shm/hearthfs/$t_seg ]] && ! timeout -k 1 20 "$HEARTHFS" destroy "$t_seg" >/dev/null; then
        echo "$t_name: FAIL: cannot destroy $t_seg" >&2
        rc=1
    fi
    if compgen -G "/dev/shm/hearthfs/*$t_seg*" >/dev/null; then
        echo "$t_name: FAIL: segment files left: $(echo /dev/shm/hearthfs/*"$t_seg"*)" >&2
        rm -f /dev/shm/hearthfs/*"$t_seg"*
        rc=1
    fi
    if [[ ${HEARTHFS_KEEP:-0} == 1 ]]; then say "kept $t_dir"; else rm -rf --one-file-system "$t_dir"; fi
    if ((rc == 0)); then say "pass, $SECONDS s"; fi
    exit "$rc"
}

t_begin() {
    if ((EUID != 0)); then skip "needs root"; fi
    if [[ ! -e /dev/fuse ]]; then skip "no /dev/fuse here"; fi
    need jq timeout mountpoint cc
    [[ -x $HEARTHFS ]] || fail "no binary $HEARTHFS (build it, or set HEARTHFS)"
    t_dir=$(mktemp -d "${TMPDIR:-/tmp}/hearthfs-$t_name.XXXXXX") || exit 1
    t_origin=$t_dir/origin t_state=$t_dir/state
    mkdir "$t_origin" "$t_state"
    chmod 755 "$t_dir"
    t_watch & t_watcher=$!
    trap t_end EXIT
    trap 'exit 1' INT TERM
    say "seed $t_seed"
}
t_begin
