#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Unpack an FFmpeg release and apply its series of patches.
#
# usage: apply.sh FOLDER [VERSION]
#
# A FOLDER that already holds this release with these patches is left alone.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../scripts/lib.sh"
. "$here/versions.sh"

[[ $# -ge 1 ]] || die "usage: apply.sh FOLDER [VERSION]"
folder=$1
version=${2:-$ffmpeg_version}
patches=$root/patches/$(ffmpeg_line "$version")
[[ -f $patches/.series ]] || die "there are no patches for FFmpeg $version: $patches/.series is missing"

tarball=$("$here/fetch.sh" "$version")
mapfile -t series < <(sed "s|^|$patches/|" "$patches/.series")
stamp=$(cat "${series[@]}" | sha256sum | cut -d ' ' -f 1)-$version
if [[ -f $folder/.patched && $(<"$folder/.patched") == "$stamp" ]]; then
    exit
fi

say "unpacking FFmpeg $version and applying patches/${patches##*/}"
scratch "$(dirname "$folder")"
tar --extract --file "$tarball" --directory "$work" --strip-components 1
for file in "${series[@]}"; do
    patch --directory "$work" --strip 1 --fuzz 0 --silent <"$file"
done
echo "$stamp" >"$work/.patched"
chmod 755 "$work"
rm -rf "$folder"
mv "$work" "$folder"
