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
. "$here/debian.sh"

version=${1:-$ffmpeg_version}
sha256=$(ffmpeg_sha256 "$version") || die "FFmpeg $version is not known; known are ${ffmpeg_versions[*]}"
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

from_upstream() {
    local address=https://ffmpeg.org/releases/ffmpeg-$version.tar.xz
    say "downloading $address"
    curl --fail --silent --location --connect-timeout 5 --speed-limit 1000 --speed-time 15 \
        --output "$work/tarball" "$address" && matches "$work/tarball" "$sha256"
}

scratch "$downloads"
from_upstream ||
    from_debian ffmpeg "$version" "ffmpeg_$version.orig.tar.xz" "$sha256" "$work/tarball" ||
    die "ffmpeg-$version.tar.xz could not be downloaded; get it by hand and set FLASHVSR_FFMPEG_TARBALL to its path"
mv "$work/tarball" "$tarball"
echo "$tarball"
