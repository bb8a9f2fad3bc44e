# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# lib_posix.sh - after ../fs/lib.sh: builds the program of this folder, runs it, compares transcripts.
t_posix=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
list=$t_posix/deliberate.txt
man=$t_root/docs/man/hearthfs-coherence.7.scd
program=${HEARTHFS_TEST_BUILD:-$t_dir/bin}/posix
if [[ ! -x $program || -n $(find "$t_posix" "$t_root/tests/fs/helpers" -name '*.[ch]' -newer "$program") ]]; then
    mkdir -p "${program%/*}"
    "${CC:-cc}" -std=gnu17 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -I"$t_root/tests/fs/helpers" \
        -pthread -o "$program.$$" "$t_posix"/*.c || fail "cannot build the program"
    mv "$program.$$" "$program"
fi

# An origin that keeps no access times has none to compare. The long form makes as many links as ext4 has.
if [[ ,$(findmnt -no OPTIONS -T "$t_dir"), == *,noatime,* ]]; then export POSIX_NOATIME=1; fi
if soak; then export POSIX_LONG=1; fi

# run_posix VIEW ACT OBSERVE [AREA...]: the transcript is $t_dir/VIEW.out
run_posix() {
    local view=$1 act=$2 observe=$3
    shift 3
    mkdir -p "$act" 2>/dev/null
    export POSIX_VIEW=$view
    within "$(pick 240 2400)" "$program" "$act" "$observe" "$@" >"$t_dir/$view.out" 2>"$t_dir/$view.err"
    say "$view: $(tail -n 1 "$t_dir/$view.err")"
}

# The plain directory is the measure: what POSIX leaves no choice about must hold there.
measure() {
    run_posix "$@"
    ! grep -E ': NO|NO, | ended ' "$t_dir/$1.out" || fail "a plain directory is not as it must be: this machine is no measure"
    [[ $(wc -l <"$t_dir/$1.out") -gt 4 ]] || fail "a plain directory: no transcript"
}

# compare VIEW MEASURE: fails on a difference that is not deliberate, and on a deliberate one that is none.
compare() {
    local view=$1 plain=$2 views start name left=$t_dir/left right=$t_dir/right
    cp "$t_dir/$plain.out" "$left"
    cp "$t_dir/$view.out" "$right"
    while IFS='|' read -r views start name; do
        [[ $views == \#* || ",${views// /}," != *",${view%%-*},"* ]] && continue
        start=${start# } start=${start% } name=${name# }
        grep -qF "_$name._" "$man" || fail "deliberate.txt: no paragraph _$name._ in ${man##*/}"
        grep -q "^${start%% *}" "$left" || continue # not among the areas of this run
        awk -v s="$start" 'index($0, s) == 1' "$left" >"$left.some"
        awk -v s="$start" 'index($0, s) == 1' "$right" >"$right.some"
        [[ -s $left.some ]] || fail "deliberate.txt: no line begins with \"$start\""
        ! cmp -s "$left.some" "$right.some" || fail "deliberate.txt: \"$start\" does not differ ($view): take it out, and out of ${man##*/}"
        awk -v s="$start" 'index($0, s) != 1' "$left" >"$left.rest" && mv "$left.rest" "$left"
        awk -v s="$start" 'index($0, s) != 1' "$right" >"$right.rest" && mv "$right.rest" "$right"
    done <"$list"
    if ! cmp -s "$left" "$right"; then
        diff "$left" "$right" | cut -c 1-220 | head -n 40 >&2
        cat "$t_dir/$view.err" >&2
        fail "$view differs from $plain in $(diff "$left" "$right" | grep -c '^>') lines"
    fi
    say "$view: as $plain, $(wc -l <"$left") lines"
}
