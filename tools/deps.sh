# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154,SC2034,SC2015
#
# deps.sh - sourced by ./run and ./check: what hearthfs needs from the system, and how it gets there.
#
# Packages of the distribution come by apt-get; when nothing is missing this costs one dpkg-query. libfuse is a special
# case: FUSE-over-io_uring needs libfuse 3.18 or later, built with liburing. Where the distribution's is not that, Debian's
# own source package of a newer suite is built into a private prefix ($HEARTHFS_PREFIX, by default /opt/hearthfs): fetched by
# apt with a configuration of its own, pinned by version, its signatures checked by apt as ever. Where that cannot be had,
# the distribution's libfuse (3.14 or later) does, without io_uring.

DEPS_BUILD=(build-essential cmake ninja-build pkg-config libfuse3-dev fuse3 libxxhash-dev liburcu-dev libjson-c-dev)
DEPS_TEST=(libcriterion-dev fio sqlite3 dbench stress-ng make spin bindfs attr acl git procps psmisc util-linux jq python3 scdoc)
DEPS_FUSE=(meson ninja-build pkg-config build-essential dpkg-dev liburing-dev libnuma-dev)

DEPS_FUSE_VERSION=3.18.3-1
DEPS_FUSE_SUITES=(forky sid)
DEPS_FUSE_RETRY_MIN=60 # after a failure, leave it alone for so long
DEPS_MIRROR=${HEARTHFS_MIRROR:-http://deb.debian.org/debian}
DEPS_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

deps_prefix=${HEARTHFS_PREFIX:-/opt/hearthfs}
export HEARTHFS_PREFIX=$deps_prefix

# Prints those of the packages named that are not installed.
deps_missing() {
    local -A have=()
    local status package
    while read -r status package; do
        [[ $status == installed ]] && have[$package]=1
    done < <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null)
    for package in "$@"; do
        [[ -n ${have[$package]:-} ]] || printf '%s\n' "$package"
    done
}

deps_apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    # A broken third-party source must not stop us: what counts is whether the install works.
    apt-get -o DPkg::Lock::Timeout=120 update || true
    apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@"
}

# deps_install PACKAGE...: installs what is missing of them.
deps_install() {
    local missing
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
        die "this is no Debian: install the equivalents of these by hand, then use cmake --preset release: $*"
    mapfile -t missing < <(deps_missing "$@")
    ((${#missing[@]} == 0)) && return 0
    ((EUID == 0)) || die "not root, and packages are missing; do: sudo apt-get install ${missing[*]}"
    ui_step "installing ${#missing[@]} packages (${missing[*]})" apt.log deps_apt_install "${missing[@]}" ||
        die "apt-get could not install: ${missing[*]} (is the network up? try: apt-get update && apt-get install ${missing[*]})"
}

# 0 if the distribution's libfuse will do: 3.18 or later, with io_uring in it.
deps_fuse_distro_ok() {
    local version library
    version=$(dpkg-query -W -f='${Version}' libfuse3-dev 2>/dev/null) || return 1
    dpkg --compare-versions "$version" ge 3.18 || return 1
    library=$(dpkg-query -W -f='${Depends}' libfuse3-4 2>/dev/null) || return 1
    [[ $library == *liburing* ]]
}

deps_fuse_stamp() { printf '%s/lib/hearthfs-fuse3.version' "$deps_prefix"; }

deps_fuse_private_ok() {
    local stamp version=
    stamp=$(deps_fuse_stamp)
    [[ -r $stamp && -r $deps_prefix/lib/pkgconfig/fuse3.pc && -r $deps_prefix/lib/libfuse3.a ]] || return 1
    read -r version <"$stamp"
    [[ $version == "$DEPS_FUSE_VERSION" ]]
}

# Fetches the source of one suite into the directory $1/src-SUITE, with an apt configuration that lives in $1 only.
deps_fuse_fetch() {
    local dir=$1 suite=$2
    local own=$dir/$suite
    mkdir -p "$own"/{lists/partial,cache/archives/partial,parts,get}
    printf 'deb-src [signed-by=%s] %s %s main\n' "$DEPS_KEYRING" "$DEPS_MIRROR" "$suite" >"$own/sources.list"
    cat >"$own/apt.conf" <<END
Dir::Etc::SourceList "$own/sources.list";
Dir::Etc::SourceParts "$own/parts";
Dir::Etc::Preferences "$own/none";
Dir::Etc::PreferencesParts "$own/parts";
Dir::State::Lists "$own/lists";
Dir::Cache "$own/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb-src::Contents-dsc::DefaultEnabled "false";
Acquire::Retries "1";
Acquire::http::Timeout "15";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
END
    chmod -R a+rX "$dir"
    ! getent passwd _apt >/dev/null || chown -R _apt "$own/lists" "$own/cache" "$own/get"
    APT_CONFIG=$own/apt.conf apt-get update -o APT::Update::Error-Mode=any || return 1
    (cd "$own/get" && APT_CONFIG=$own/apt.conf apt-get source --download-only "fuse3=$DEPS_FUSE_VERSION") || return 1
    dpkg-source -x "$own/get/fuse3_$DEPS_FUSE_VERSION.dsc" "$dir/source"
}

# Static, so that hearthfs does not depend on a file under the prefix when it runs; liburing and libnuma are the
# distribution's shared libraries. fusermount3 is the distribution's too, hence bindir.
deps_fuse_make() {
    local dir=$1
    meson setup "$dir/build" "$dir/source" --prefix="$deps_prefix" --libdir=lib --bindir=/usr/bin \
        --buildtype=debugoptimized --default-library=static --wrap-mode=nodownload \
        -Dutils=false -Dexamples=false -Dtests=false -Duseroot=false -Denable-io-uring=true || return 1
    grep -q '#define HAVE_URING' "$dir/build/fuse_config.h" || {
        echo 'meson found no usable liburing or libnuma'
        return 1
    }
    ninja -C "$dir/build" || return 1
    DESTDIR=$dir/stage meson install -C "$dir/build" || return 1
    mkdir -p "$dir/stage$deps_prefix/share/fuse3-examples"
    cp "$dir"/source/example/{passthrough_ll.c,passthrough_helpers.h} "$dir/stage$deps_prefix/share/fuse3-examples/"
}

# A subshell, so that its traps clean up after an interrupt too.
deps_fuse_build() (
    local dir suite found=
    dir=$(mktemp -d "${TMPDIR:-/tmp}/hearthfs-fuse3.XXXXXX") || exit 1
    trap 'rm -rf "$dir"' EXIT
    trap 'exit 130' INT TERM
    chmod 755 "$dir"
    for suite in "${DEPS_FUSE_SUITES[@]}"; do
        deps_fuse_fetch "$dir" "$suite" && found=1 && break
        echo "fuse3 $DEPS_FUSE_VERSION cannot be had from $suite"
    done
    [[ -n $found ]] && deps_fuse_make "$dir" || exit 1
    # The stamp goes last: a half-made prefix is made again.
    rm -f "$(deps_fuse_stamp)"
    mkdir -p "$deps_prefix" && cp -a "$dir/stage$deps_prefix/." "$deps_prefix/" || exit 1
    echo "$DEPS_FUSE_VERSION" >"$(deps_fuse_stamp)"
)

# Makes sure of a libfuse with io_uring, if that can be; otherwise says one line and goes on.
deps_fuse() {
    local failed=$root/build/fuse3-unavailable
    deps_fuse_private_ok && return 0
    deps_fuse_distro_ok && return 0
    if ((EUID != 0)); then
        ui_note "libfuse $DEPS_FUSE_VERSION (with io_uring) is built by root only; going on with the distribution's libfuse"
        return 0
    fi
    # A machine without network should not wait for it at each build.
    [[ -z $(find "$failed" -mmin "-$DEPS_FUSE_RETRY_MIN" 2>/dev/null) ]] || return 0
    deps_install "${DEPS_FUSE[@]}"
    if ui_step "building libfuse $DEPS_FUSE_VERSION with io_uring into $deps_prefix" fuse3.log deps_fuse_build; then
        rm -f "$failed"
    else
        : >"$failed"
        ui_note "going on with the distribution's libfuse, without io_uring (next try in $DEPS_FUSE_RETRY_MIN min, or: rm ${failed#"$root"/})"
    fi
}
