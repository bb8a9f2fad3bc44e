#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   the history checker notices when one recall in a hundred is acknowledged without being carried out.
# Method: two members of the build `faulty`, with that fault, for data and for names; history run must end with a
#         violation (exit code 3) each time, and print what contradicts what. The same build without a fault must pass.
T_SIZE=256M
T_LIMIT=300
. "$(dirname "$0")/../fs/lib.sh"
history=$(helper history) || exit
HEARTHFS=${HEARTHFS_FAULTY:-$t_root/build/faulty/cli/hearthfs}
[[ -x $HEARTHFS ]] || fail "no binary $HEARTHFS (cmake --preset faulty && cmake --build --preset faulty)"

# expect CODE FAULT ONLY
expect() {
    local rc=0
    export HEARTHFS_FAULT=$2
    mount_member A
    mount_member B
    mkdir "$t_dir/A/$3$1" || fail "mkdir"
    within 200 "$history" run --seed "$t_seed" --seconds 10 --only "$3" --changes 30 "$t_dir/A/$3$1" "$t_dir/B/$3$1" >"$t_dir/out" || rc=$?
    ((rc == $1)) || { cat "$t_dir/out" >&2; fail "fault '$2', $3: exit code $rc instead of $1, seed $t_seed"; }
    if (($1 == 3)); then
        grep -q '^VIOLATION: ' "$t_dir/out" || fail "a violation without a word about it"
        sed -n '/^VIOLATION/,/^  in the whole/p' "$t_dir/out" | head -n 30
    fi
    umount_member A
    umount_member B
}

expect 3 recall.drop.data:100 data
expect 3 recall.drop.names:100 names
expect 0 nothing:1 data
