# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ffmpeg output options of a whole film, dealt out to its parts and to the joining."""

from dataclasses import dataclass

from flashvsr_cluster.errors import UsageError
from flashvsr_cluster.graph import first_frame

FILTER = {"--vf", "-vf", "-filter:v"}
# No value follows these.
FLAGS = {"-an", "-sn", "-dn"}
# Options of the file or of other streams than the film, by name or by the stream that follows the colon.
OF_FILE = {"-f", "-movflags", "-brand", "-metadata", "-map_metadata", "-map_chapters", "-disposition", "-tag",
           "-acodec", "-scodec", "-ab", "-ar", "-ac", "-af", "-aq", "-max_interleave_delta", "-cluster_time_limit",
           "-default_mode", "-timecode"}
OTHER_STREAMS = {"a", "s", "d", "t"}
REFUSED = {
    **dict.fromkeys(("-r", "-fps_mode", "-vsync", "-fpsmax", "-enc_time_base"), "changes frames or time stamps"),
    **dict.fromkeys(("-t", "-to", "-ss", "-sseof", "-frames", "-vframes", "-fs", "-shortest"), "cuts the film"),
    **dict.fromkeys(("-i", "-map", "-filter_complex", "-lavfi", "-copyts", "-y", "-n", "-vn", "-attach"),
                    "is chosen by the cluster"),
    **dict.fromkeys(("-pass", "-passlogfile"), "needs the whole film in one encoder"),
    **dict.fromkeys(("-c", "-codec"), "needs a stream, such as -c:v or -c:a"),
}


@dataclass(frozen=True)
class OutputOptions:
    """What follows IN OUT on the command line."""

    graph: str
    video: tuple[str, ...]  # for the encoder of each part
    file: tuple[str, ...]  # for the joining


def _is_of_file(name: str) -> bool:
    base, _, stream = name.partition(":")
    # -tag:v is of the file, too: parts are in another container.
    return base in OF_FILE or stream.partition(":")[0] in OTHER_STREAMS


def _refusal(name: str) -> str | None:
    base, colon, _ = name.partition(":")
    return None if colon and base in ("-c", "-codec") else REFUSED.get(base)


def split(given: list[str]) -> OutputOptions:
    """Deal out the options.

    @throws UsageError for an option that cannot be kept by parts of a film, or no flashvsr that can be in --vf
    """
    graph: str | None = None
    video: list[str] = []
    file: list[str] = []
    words = iter(given)
    for name in words:
        if not name.startswith("-"):
            raise UsageError(f"{name!r} stands where an option of ffmpeg is expected")
        if reason := _refusal(name):
            raise UsageError(f"{name} {reason}")
        if name in FLAGS:
            file.append(name)
            continue
        value = next(words, None)
        if value is None:
            raise UsageError(f"{name} has no value")
        if name in FILTER:
            graph = value
        else:
            (file if _is_of_file(name) else video).extend((name, value))
    if graph is None:
        raise UsageError("--vf is missing, such as --vf flashvsr=scale=2,format=yuv420p")
    first_frame(graph)
    if not any(name in ("-c:v", "-codec:v", "-vcodec", "-c:v:0") for name in video):
        raise UsageError("-c:v is missing, such as -c:v libx264")
    return OutputOptions(graph, tuple(video), tuple(file))
