#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   git works on one repository from two mounts at once.
# Method: on each mount a loop that commits to a branch of its own and to one that both share, by compare and swap (update-ref with the old value); gc runs in between. Then every
#         commit that was acknowledged is in its branch, fsck is clean on both mounts and at the origin, and a clone through the other mount is the same.
# timeout: 600
. "$(dirname "$0")/../fs/lib.sh"
need git
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t
rounds=$(pick 60 1000)

mount_member A
mount_member B
within 30 git init -q --bare "$t_dir/A/repo.git" || fail "git init"
git -C "$t_dir/A/repo.git" config gc.auto 0
empty=$(git -C "$t_dir/A/repo.git" mktree </dev/null)
first=$(git -C "$t_dir/A/repo.git" commit-tree -m first "$empty")
for branch in A B both; do git -C "$t_dir/A/repo.git" update-ref refs/heads/$branch "$first"; done

committer() { # MOUNT
    local repo=$t_dir/$1/repo.git won=0 i blob tree commit old
    for ((i = 1; i <= rounds; i++)); do
        blob=$(head -c $((RANDOM + 100)) /dev/urandom | git -C "$repo" hash-object -w --stdin) || return 1
        tree=$(printf '100644 blob %s\tfile%s\n' "$blob" "$i" | git -C "$repo" mktree) || return 1
        old=$(git -C "$repo" rev-parse refs/heads/$1) || return 1
        commit=$(git -C "$repo" commit-tree -p "$old" -m "$1 $i" "$tree") || return 1
        git -C "$repo" update-ref refs/heads/$1 "$commit" "$old" || return 1
        old=$(git -C "$repo" rev-parse refs/heads/both) || return 1
        commit=$(git -C "$repo" commit-tree -p "$old" -m "$1 $i" "$tree") || return 1
        git -C "$repo" update-ref refs/heads/both "$commit" "$old" 2>>"$t_dir/lost.$1" && won=$((won + 1))
        if ((i % 20 == 0)); then git -C "$repo" pack-refs --all 2>>"$t_dir/lost.$1"; fi
        if ((i % 30 == 0)) && [[ $1 == A ]]; then git -C "$repo" repack -q -d 2>>"$t_dir/gc.err" || return 1; fi
    done
    echo $won >"$t_dir/won.$1"
}
committer A & a=$!
committer B & b=$!
wait $a || fail "the loop on A failed: $(cat "$t_dir"/gc.err 2>/dev/null)"
wait $b || fail "the loop on B failed"
for at in "$t_dir/A" "$t_dir/B" "$t_origin"; do
    within 60 git -C "$at/repo.git" fsck --full --strict >"$t_dir/fsck" 2>&1 || { cat "$t_dir/fsck" >&2; fail "fsck at $at"; }
    for branch in A B; do
        got=$(git -C "$at/repo.git" rev-list --count refs/heads/$branch)
        ((got == rounds + 1)) || fail "$at: branch $branch has $got commits, want $((rounds + 1))"
    done
    got=$(git -C "$at/repo.git" rev-list --count refs/heads/both)
    ((got == 1 + $(<"$t_dir/won.A") + $(<"$t_dir/won.B"))) || fail "$at: branch both has $got commits, $(<"$t_dir/won.A") + $(<"$t_dir/won.B") were acknowledged"
done
say "$rounds commits on each; of the shared branch A won $(<"$t_dir/won.A"), B $(<"$t_dir/won.B")"
within 60 git clone -q -b both "$t_dir/B/repo.git" "$t_dir/A/clone" || fail "clone"
within 60 git -C "$t_dir/B/clone" status --porcelain >"$t_dir/status" || fail "git status of A's clone on B"
[[ ! -s $t_dir/status ]] || fail "A's clone is not clean on B: $(<"$t_dir/status")"
check_segment
umount_member A
umount_member B
