#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Build, make a small video of examples/clip.mp4, upscale it back with the built-in model, and compare the result
# with the original: number of frames, sound, and PSNR of the luma beside that of swscale's bicubic upscaling.
#
# usage: demo.sh
set -euo pipefail
. "$(dirname "$0")/lib.sh"

"$root/scripts/build.sh" cpu
ffmpeg() { "$root/build/cpu/bin/ffmpeg" -hide_banner -nostdin -loglevel "${level:-error}" -y "$@"; }
ffprobe() { "$root/build/cpu/bin/ffprobe" -loglevel error "$@"; }

clip=$root/examples/clip.mp4
demo=$root/build/demo
mkdir -p "$demo"

frames() { ffprobe -select_streams v:0 -count_frames -show_entries stream=nb_read_frames -of csv=p=0 "$1"; }
size() { ffprobe -select_streams v:0 -show_entries stream=width,height -of csv=p=0:s=x "$1"; }
sound() { ffmpeg -i "$1" -map 0:a -c copy -f streamhash -hash sha256 -; }
# psnr VIDEO ORIGINAL: PSNR of the luma in dB.
psnr() {
    level=info ffmpeg -i "$1" -i "$2" -lavfi '[0:v][1:v]psnr' -f null - 2>&1 |
        sed -n 's/.*PSNR y:\([0-9.inf]*\).*/\1/p'
}

# The original is cut to multiples of 8, so that a quarter of it shows exactly the same and has even sides.
say "making the small video"
ffmpeg -i "$clip" -vf 'crop=trunc(iw/8)*8:trunc(ih/8)*8:0:0' -c:v ffv1 -c:a copy "$demo/original.mkv"
ffmpeg -i "$demo/original.mkv" -vf scale=iw/4:ih/4:flags=area -c:v libx264 -crf 12 -pix_fmt yuv420p -c:a copy \
    "$demo/small.mp4"

say "upscaling it: ffmpeg -i small.mp4 -vf flashvsr=scale=4 -c:a copy out.mp4"
started=$(date +%s.%N)
level=info ffmpeg -nostats -i "$demo/small.mp4" -vf flashvsr=scale=4 -c:a copy "$demo/out.mp4"
ended=$(date +%s.%N)
ffmpeg -i "$demo/small.mp4" -vf scale=iw*4:ih*4:flags=bicubic -c:a copy "$demo/bicubic.mp4"

frames_in=$(frames "$demo/small.mp4")
frames_out=$(frames "$demo/out.mp4")
sound_in=$(sound "$demo/small.mp4")
sound_out=$(sound "$demo/out.mp4")
psnr_flashvsr=$(psnr "$demo/out.mp4" "$demo/original.mkv")
psnr_bicubic=$(psnr "$demo/bicubic.mp4" "$demo/original.mkv")

row() { printf '%-16s %s\n' "$1" "$2"; }
row input "build/demo/small.mp4, $(size "$demo/small.mp4"), $frames_in frames"
row output "build/demo/out.mp4, $(size "$demo/out.mp4"), $frames_out frames"
row time "$(awk -v a="$started" -v b="$ended" -v n="$frames_out" \
    'BEGIN { printf "%.1f s, %.2f frames/s", b - a, n / (b - a) }')"
row 'PSNR-Y FlashVSR' "$psnr_flashvsr dB"
row 'PSNR-Y bicubic' "$psnr_bicubic dB"

status=0
# check WHAT COMMAND...: say whether the command succeeds, and fail at the end if it does not.
check() {
    if "${@:2}"; then
        row "$1" yes
    else
        row "$1" NO
        status=1
    fi
}
greater() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a + 0 > b + 0) }'; }
check 'same frames' [ "$frames_in" = "$frames_out" ]
check 'same sound' [ -n "$sound_in" -a "$sound_in" = "$sound_out" ]
check 'above bicubic' greater "$psnr_flashvsr" "$psnr_bicubic"
exit $status
