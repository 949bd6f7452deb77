#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Put CUTLASS into the cache, checked, and print the folder that holds its include/.
#
# FLASHVSR_CUTLASS  a folder with CUTLASS's include/ that is used instead of fetching one
set -euo pipefail
. "$(dirname "$0")/lib.sh"

version=4.2.0
sha256=f9599ada45c7bcb6bf53f7d3f0a7d154183e53451c01bfa59eecd37dd4a693f6

if [[ -n ${FLASHVSR_CUTLASS:-} ]]; then
    [[ -f $FLASHVSR_CUTLASS/include/cutlass/cutlass.h ]] ||
        die "FLASHVSR_CUTLASS is '$FLASHVSR_CUTLASS', which has no include/cutlass/cutlass.h"
    realpath "$FLASHVSR_CUTLASS"
    exit
fi

folder=$cache/cutlass-$version
if [[ ! -d $folder/include ]]; then
    scratch "$cache"
    wheel=$(fetch_wheel "$sha256" "nvidia_cutlass-$version*.whl" "nvidia-cutlass==$version")
    say "unpacking CUTLASS $version"
    unzip -q "$wheel" 'cutlass_library/source/include/*' '*/LICENSE.txt' -d "$work" ||
        die "$wheel could not be unpacked"
    mkdir "$work/cutlass"
    mv "$work/cutlass_library/source/include" "$work"/*.dist-info/licenses/LICENSE.txt "$work/cutlass/"
    mv --no-target-directory "$work/cutlass" "$folder"
fi
echo "$folder"
