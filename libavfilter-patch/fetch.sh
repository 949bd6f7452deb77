#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Put the release tarball of an FFmpeg version into the cache, checked, and print its path.
#
# usage: fetch.sh [VERSION]
#
# FLASHVSR_FFMPEG_TARBALL  a tarball to use instead of downloading one
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../scripts/lib.sh"
. "$here/versions.sh"

version=${1:-$ffmpeg_version}
sha256=$(ffmpeg_sha256 "$version") || die "FFmpeg $version is not known; known are 9.0.2, 8.1.2 and 7.1.5"
tarball=$downloads/ffmpeg-$version.tar.xz

if [[ -n ${FLASHVSR_FFMPEG_TARBALL:-} ]]; then
    [[ -f $FLASHVSR_FFMPEG_TARBALL ]] || die "FLASHVSR_FFMPEG_TARBALL: $FLASHVSR_FFMPEG_TARBALL is not a file"
    matches "$FLASHVSR_FFMPEG_TARBALL" "$sha256" ||
        die "FLASHVSR_FFMPEG_TARBALL: the sha256 of $FLASHVSR_FFMPEG_TARBALL is not that of FFmpeg $version"
    realpath "$FLASHVSR_FFMPEG_TARBALL"
    exit
fi
if matches "$tarball" "$sha256"; then
    echo "$tarball"
    exit
fi

# URI of the Debian archive that this machine uses, whatever form its entry in /etc/apt has.
debian_archive() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get update --print-uris "${apt[@]}" |
        sed -n "s|^'\(.*\)/dists/$codename/InRelease' .*|\1|p" | head -n 1
}

# Keyring that the machine's entry for an archive names, in either form; nothing where it names none.
debian_keyring() {
    local file
    grep -lrsF -- "$1" /etc/apt/sources.list.d /etc/apt/sources.list | grep -E '\.(list|sources)$' |
        while read -r file; do
            sed -n -e 's/^Signed-By: *\(\/[^ ]*\).*/\1/Ip' -e 's/^deb .*signed-by=\([^] ]*\).*/\1/Ip' "$file"
        done | head -n 1
}

from_upstream() {
    local address=https://ffmpeg.org/releases/ffmpeg-$version.tar.xz
    say "downloading $address"
    curl --fail --silent --location --connect-timeout 5 --speed-limit 1000 --speed-time 15 \
        --output "$work/tarball" "$address" && matches "$work/tarball" "$sha256"
}

# Debian's source packages of newer suites hold the same tarball. apt's own state stays as it is: lists, caches
# and sources of this run are in $work.
from_debian() {
    command -v apt-get >/dev/null || return 1
    local apt=(-o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)")
    local archive keyring suite full
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/source"
    archive=$(debian_archive)
    [[ -n $archive ]] || return 1
    keyring=$(debian_keyring "$archive")
    apt+=(-o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null)
    for suite in sid trixie; do
        say "looking for FFmpeg $version in the source packages of Debian $suite"
        echo "deb-src ${keyring:+[signed-by=$keyring] }$archive $suite main" >"$work/sources.list"
        apt-get update -qq "${apt[@]}" >&2 || continue
        full=$(apt-cache showsrc "${apt[@]}" --only-source ffmpeg |
            sed -n "s/^Version: \(\([0-9]*:\)\?${version//./\\.}-.*\)/\1/p" | head -n 1)
        [[ -n $full ]] || continue
        # Debian's own part of the package is not needed, so only the tarball decides.
        (cd "$work/source" && apt-get source -qq --download-only --only-source "${apt[@]}" "ffmpeg=$full") 2>"$work/log" || true
        if matches "$work/source/ffmpeg_$version.orig.tar.xz" "$sha256"; then
            mv "$work/source/ffmpeg_$version.orig.tar.xz" "$work/tarball"
            return
        fi
        cat "$work/log" >&2
    done
    return 1
}

scratch "$downloads"
from_upstream || from_debian ||
    die "ffmpeg-$version.tar.xz could not be downloaded; get it by hand and set FLASHVSR_FFMPEG_TARBALL to its path"
mv "$work/tarball" "$tarball"
echo "$tarball"
