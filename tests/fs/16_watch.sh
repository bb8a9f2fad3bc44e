#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal:   with -o watch each kind of change from outside reaches the kernels of all members by itself; storms and overflows lose
#         nothing; what members change themselves recalls nobody.
# Method: helpers/watch.c with revalidate=never, so that nothing but the watch can tell; 10,000 changes at once; trees moved; a
#         daemon stopped until its queue has run over; helpers/coherence.c with outside_changes at rest. With fanotify and with inotify.
T_SIZE=256M
T_LIMIT=400
. "$(dirname "$0")/lib.sh"
watch=$(helper watch) || exit
coherence=$(helper coherence) || exit
rounds=$(pick 20 400)
storm=$(pick 10000 100000)
o=$t_origin

changes() { status .counters.outside_changes; }
overflows() { status .watch.overflows; }
settled() { # the trees are equal, as both mounts show them without an open
    local m
    list_tree "$o" nodirtime >"$t_dir/want"
    for m in A B; do
        list_tree "$t_dir/$m" nodirtime >"$t_dir/have"
        cmp -s "$t_dir/want" "$t_dir/have" || return 1
    done
}
expect_settled() {
    until_true 20 settled || { diff "$t_dir/want" "$t_dir/have" | head >&2; fail "$kind, $1: not seen after 20 s"; }
    sum_tree "$o" >"$t_dir/sums.1"
    sum_tree "$t_dir/A" >"$t_dir/sums.2"
    same "$kind, $1: contents on A" "$t_dir/sums.1" "$t_dir/sums.2"
    sum_tree "$t_dir/B" >"$t_dir/sums.2"
    same "$kind, $1: contents on B" "$t_dir/sums.1" "$t_dir/sums.2"
}
fill() {
    within 60 find "$o" -mindepth 1 -delete
    mkdir -p "$o/tree/deep" "$o/many"
    for f in file grows cut mode replaced tree/deep/file; do echo "number 00000000" >"$o/$f"; done
    for ((i = 0; i < 400; i++)); do echo $i >"$o/many/f$i"; done
}

if "$HEARTHFS" mount "$o" "$t_dir/none" -o "name=$t_seg,watch=often" 2>"$t_dir/err"; then fail "watch=often was taken"; fi

fanotify=1
mkdir "$t_dir/probe"
within 30 "$HEARTHFS" mount "$o" "$t_dir/probe" -o "name=$t_seg,member=probe,size=$t_size,state_dir=$t_state,watch=fanotify" >/dev/null 2>"$t_dir/err" ||
    { fanotify=0; say "no fanotify here: $(cat "$t_dir/err")"; }
if ((fanotify)); then umount_member probe; fi

for kind in fanotify inotify; do
    if [[ $kind == fanotify ]] && ((!fanotify)); then continue; fi
    fill
    mount_member A "watch=$kind,revalidate=never"
    mount_member B revalidate=never
    [[ $(status .watch.kind) == "$kind" ]] || fail "status says $(status .watch.kind), should be $kind"
    say "$kind:"
    within 200 "$watch" "$o" "$t_dir/A" "$t_dir/B" "$rounds" || fail "$kind: helpers/watch"
    expect_settled "each kind"

    # a storm: many files written, renamed, removed and made at once
    before=$(overflows)
    ls -lR "$t_dir/A" "$t_dir/B" >/dev/null
    within 200 bash -c 'cd "$1" && for ((i = 0; i < $2; i++)); do
        case $((i % 5)) in
        0) echo "$i" >many/f$((i % 400));;   1) mv many/f$((i % 400)) many/g$((i % 400)) 2>/dev/null;;
        2) : >>many/f$((i % 400));;          3) rm -f many/g$((RANDOM % 400));;          4) echo new >many/n$i;;
        esac; done' - "$o" "$((storm / 10))"
    within 200 bash -c 'cd "$1" && for ((i = 0; i < $2; i++)); do echo "$i" >>many/f$((i % 400)); done' - "$o" "$storm"
    expect_settled "storm of $storm changes, $(($(overflows) - before)) overflows"

    # trees that move, while they are looked at
    within 60 bash -c 'for ((i = 0; i < 100; i++)); do mv "$1/tree" "$1/elsewhere"; cat "$2"/*/deep/file "$3"/*/deep/file; mv "$1/elsewhere" "$1/many/tree"
        mkdir "$1/tree"; cat "$2"/*/*/deep/file; rmdir "$1/tree"; mv "$1/many/tree" "$1/tree"; done' - "$o" "$t_dir/A" "$t_dir/B" >/dev/null 2>&1
    mv "$o/tree" "$o/many/at-last"
    expect_settled "trees moved"
    if [[ -e $t_dir/A/tree || -e $t_dir/B/tree ]]; then fail "$kind: the old path of a tree is still there"; fi

    # the queue runs over while the daemon is stopped
    before=$(overflows) daemon=$(daemon_pid A) queue=$(cat /proc/sys/fs/$kind/max_queued_events 2>/dev/null || echo 16384)
    if ((queue > 200000)); then
        say "$kind: a queue of $queue events is too long to fill"
    else
        kill -STOP "$daemon"
        within 200 bash -c 'for ((i = 0; i < $2; i++)); do : >"$1/many/x$i"; done; echo changed >"$1/file"; mkdir -p "$1/more/deep"; echo 1 >"$1/more/deep/f"
            find "$1/many" -name "x*" -delete' - "$o" $((queue / 2))
        kill -CONT "$daemon"
        expect_settled "overflow"
        if (($(overflows) == before)); then fail "$kind: the queue did not run over: this part of the test is no witness"; fi
    fi
    mkdir -p "$o/more/deep"; echo 1 >"$o/more/deep/f"
    until_true 10 test -e "$t_dir/B/more/deep/f" || fail "$kind: a new tree is not seen"
    within 20 cat "$t_dir/A/more/deep/f" "$t_dir/B/more/deep/f" >/dev/null
    echo 22 >"$o/more/deep/f" # the directory that came in during the overflow is watched, too
    expect_settled "after the overflow"

    # members' own changes
    mkdir "$t_dir/A/own"
    until_true 10 settled || fail "$kind: mkdir through A"
    sleep 0.5 # nothing of the above is under way any more
    before=$(changes)
    for mode in data size attr names; do
        within 300 "$coherence" $mode "$t_dir/A/own" "$t_dir/B/own" "$t_seed" "$(pick 1000 20000)" || fail "$kind: $mode, seed $t_seed"
    done
    if (($(changes) != before)); then fail "$kind: $(($(changes) - before)) changes of members were taken for changes from outside"; fi
    say "$kind: $(status .watch.events) events, $(changes) changes noticed, $(overflows) overflows; no change of a member among them"
    umount_member A
    [[ $(status .watch.kind) == none ]] || fail "status still says $(status .watch.kind)"
    umount_member B
done

# several watchers of both kinds, and the cache that was warm before anybody watched
fill
mount_member B revalidate=never
ls -lR "$t_dir/B" >/dev/null 2>&1; within 20 cat "$t_dir/B/file" >/dev/null
umount_member B
echo "while nobody was there" >"$o/file"; rm "$o/many/f7"
mount_member A watch,revalidate=never
mount_member B watch=inotify,revalidate=never
kind="two watchers"
expect_settled "changed while nothing was mounted"
within 200 "$watch" "$o" "$t_dir/A" "$t_dir/B" "$((rounds / 4 * 2))" || fail "two watchers: helpers/watch"
check_segment
umount_member A
umount_member B
