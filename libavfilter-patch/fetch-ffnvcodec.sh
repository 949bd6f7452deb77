#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Print the folder of the pkg-config file of ffnvcodec, the headers by which FFmpeg finds NVIDIA's decoders, encoders
# and driver at run time; nothing where pkg-config finds them by itself. Those of Debian 12 are too old for FFmpeg:
# others are put into the cache.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../scripts/lib.sh"
. "$here/debian.sh"

version=12.1.14.0
sha256=0ca1a0c85b149646fa6ce4d600584507fdccf5a23d58e668d8701e89cee0c3fb
headers=$cache/ffnvcodec-$version

pkg-config --exists "ffnvcodec >= $version" && exit
if [[ ! -f $headers/lib/pkgconfig/ffnvcodec.pc ]]; then
    scratch "$cache"
    from_debian nv-codec-headers "$version" "nv-codec-headers_$version.orig.tar.xz" "$sha256" "$work/tarball" ||
        die "FFmpeg needs ffnvcodec $version or later for GPUs, and it could not be downloaded; install it and set" \
            "PKG_CONFIG_PATH to the folder of ffnvcodec.pc"
    mkdir "$work/headers"
    tar --extract --file "$work/tarball" --directory "$work/headers" --strip-components 1
    make -s -C "$work/headers" install PREFIX="$headers" DESTDIR="$work/root" >&2
    rm -rf "$headers"
    mv "$work/root$headers" "$headers"
fi
echo "$headers/lib/pkgconfig"
