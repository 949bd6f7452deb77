#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Make the pictures that the README shows from what scripts/demo.sh left in build/demo: cuts of one frame, each in
# three versions side by side: bicubic upscaling, the filter's, and the original.
#
# usage: pictures.sh
set -euo pipefail
. "$(dirname "$0")/lib.sh"

demo=$root/build/demo
frame=60
cuts=(208x152:250:60 208x152:60:170)

for name in bicubic.mp4 out.mp4 original.mkv; do
    [[ -f $demo/$name ]] || die "build/demo/$name is missing; scripts/demo.sh makes it"
done
mkdir -p "$root/docs/pictures"
for i in "${!cuts[@]}"; do
    picture=docs/pictures/demo$((i + 1)).png
    one="select=eq(n\\,$frame),crop=${cuts[i]//x/:},format=rgb24"
    "$root/build/cpu/bin/ffmpeg" -hide_banner -nostdin -loglevel error -y \
        -i "$demo/bicubic.mp4" -i "$demo/out.mp4" -i "$demo/original.mkv" -filter_complex \
        "[0:v]${one}[a];[1:v]${one}[b];[2:v]${one}[c];[a][b][c]hstack=3,scale=iw*1.5:-1:flags=neighbor" \
        -frames:v 1 -update 1 "$root/$picture"
    say "$picture"
done
