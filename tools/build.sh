# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2015
#
# build.sh - sourced by ./run and ./check: configures and builds one preset, under a lock, and knows when there is
# nothing to do. A preset's stamp (build/PRESET/hearth.stamp) is taken before its build begins and put in place when it
# has ended (it holds the paths the build was made for), so that a source that changed meanwhile is newer than the stamp.

BUILD_SOURCES=(CMakeLists.txt CMakePresets.json cmake segment work lockmgr cache origin persist fs cli)
build_lock_fd=

# Takes the lock of the build directory; held until build_unlock. Two ./run at once build one after the other.
build_lock() {
    mkdir -p "$root/build" 2>/dev/null && [[ -w $root/build ]] || die "cannot write to $root/build"
    exec {build_lock_fd}>"$root/build/lock"
    flock -n "$build_lock_fd" && return 0
    ui_note "waiting for another build in $root/build to end ..."
    flock "$build_lock_fd"
}

# Also before exec: a daemon must not inherit the lock.
build_unlock() {
    exec {build_lock_fd}>&-
}

# build_fresh PRESET: 0 if no source is newer than the preset's last build.
build_fresh() {
    local stamp=$root/build/$1/hearth.stamp newer
    [[ -e $stamp ]] || return 1
    [[ ! -e $deps_prefix/lib/pkgconfig/fuse3.pc || $stamp -nt $deps_prefix/lib/pkgconfig/fuse3.pc ]] || return 1
    [[ $(<"$stamp") == "$root $deps_prefix" ]] || return 1
    newer=$(cd "$root" && find "${BUILD_SOURCES[@]}" -newer "$stamp" -print -quit 2>&1) && [[ -z $newer ]]
}

_build() {
    local preset=$1 fresh=()
    local cache=$root/build/$preset/CMakeCache.txt
    shift
    cd "$root" || return 1
    # A tree that was moved or copied with its build directory.
    [[ ! -e $cache ]] || grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$cache" || fresh=(--fresh)
    cmake --preset "$preset" "${fresh[@]}" -DHEARTHFS_PREFIX="$deps_prefix" || return 1
    cmake --build --preset "$preset" --target "$@"
}

# build_preset PRESET TARGET...: the caller holds the lock.
build_preset() {
    local preset=$1 rc=0
    local dir=$root/build/$preset
    mkdir -p "$dir"
    printf '%s\n' "$root $deps_prefix" >"$dir/hearth.stamp.new"
    ui_step "building $preset" "build-$preset.log" _build "$@" || rc=$?
    if ((rc == 0)); then
        mv "$dir/hearth.stamp.new" "$dir/hearth.stamp"
    else
        rm -f "$dir/hearth.stamp.new" "$dir/hearth.stamp"
    fi
    return "$rc"
}
