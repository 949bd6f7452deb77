# SPDX-License-Identifier: LGPL-2.1-or-later
"""What has to be known of a film before it is cut: every frame's time stamp and checksum, and the scene cuts."""

import hashlib
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from flashvsr_cluster import ffmpeg
from flashvsr_cluster.errors import ClusterError

BLOCK_BYTES = 1 << 22
SCENE_THRESHOLD = 10.0  # scdet's default, percent
COPIED_KINDS = {"audio", "subtitle", "attachment"}
CUT_LINE = re.compile(r"^frame:(\d+)\s", re.MULTILINE)


@dataclass(frozen=True)
class Stream:
    """A stream of the film's file."""

    index: int
    kind: str  # ffprobe's codec_type
    cover: bool  # a picture that is attached, not video

    @property
    def copied(self) -> bool:
        """Whether the joined film takes it from the original."""
        return self.cover or self.kind in COPIED_KINDS


@dataclass(frozen=True)
class Film:
    """A film as the probe saw it."""

    path: str
    size: int  # bytes
    time_ns: int  # of its last change
    digest: str
    streams: tuple[Stream, ...]
    video: int  # index of the stream that is upscaled
    time_base: Fraction
    start_us: int  # where its file starts, which ffmpeg makes zero
    pts: tuple[int, ...]  # of each frame, in the time base
    sums: tuple[str, ...]  # of each decoded frame, as the framecrc muxer has them
    cuts: tuple[int, ...]  # frames that begin a scene, without the first
    scene_threshold: float = SCENE_THRESHOLD  # from which they do

    @property
    def frames(self) -> int:
        return len(self.pts)

    @property
    def seconds(self) -> float:
        """From the first to the last time stamp."""
        return float((self.pts[-1] - self.pts[0]) * self.time_base)


def digest_of_file(path: Path) -> str:
    """BLAKE2b of a file's content."""
    state = hashlib.blake2b(digest_size=20)
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            state.update(block)
    return state.hexdigest()


def stat_film(path: Path) -> os.stat_result:
    """@throws ClusterError where there is no such file, or it may not be read"""
    try:
        with open(path, "rb") as file:
            return os.stat(file.fileno())
    except OSError as error:
        raise ClusterError(f"{path} cannot be read: {error.strerror}") from error


def same_film(film: Film, path: Path) -> bool:
    """Whether a file is the one that was probed. It is read again only where its size stayed and its time did not."""
    status = stat_film(path)
    if film.path != str(path) or film.size != status.st_size:
        return False
    return film.time_ns == status.st_mtime_ns or film.digest == digest_of_file(path)


def find_streams(path: Path, answer: dict[str, Any]) -> tuple[tuple[Stream, ...], int]:
    """All streams, and which is the film.

    @throws ClusterError where there is no video
    """
    streams = tuple(Stream(one["index"], one.get("codec_type", "unknown"),
                           bool(one.get("disposition", {}).get("attached_pic")))
                    for one in answer.get("streams", []))
    video = next((one.index for one in streams if one.kind == "video" and not one.cover), None)
    if video is None:
        raise ClusterError(f"{path} has no video")
    return streams, video


def _decode(tools: ffmpeg.Tools, path: Path, video: int, threshold: float) -> tuple[ffmpeg.FrameList, list[int]]:
    """Decode the film once: its frames and the first frames of scenes."""
    scenes = f"scdet=threshold={threshold},metadata=print:key=lavfi.scd.time:file=-,nullsink"
    with tempfile.TemporaryDirectory(prefix="flashvsr-cluster-") as folder:
        listed = Path(folder) / "frames"
        done = ffmpeg.call([
            tools.ffmpeg, *ffmpeg.COMMON, "-copyts", "-i", str(path),
            "-filter_complex", f"[0:{video}]split[film][scenes];[scenes]{scenes}",
            "-map", "[film]", *ffmpeg.PASSTHROUGH, "-c:v", "rawvideo", "-f", "framecrc", str(listed)])
        if done.status:
            raise ClusterError(f"{path} cannot be decoded: "
                               f"{ffmpeg.error_sentence(done.stderr, ffmpeg.ended(done.status))}")
        try:
            frames = ffmpeg.read_frame_list(listed)
        except ClusterError as error:
            raise ClusterError(f"{path} cannot be decoded: {error}") from error
    return frames, [int(frame) for frame in CUT_LINE.findall(done.stdout)]


def probe_film(tools: ffmpeg.Tools, path: Path, threshold: float = SCENE_THRESHOLD) -> Film:
    """Read a film once from beginning to end.

    @param threshold score from which a frame begins a scene, as scdet's option of that name, percent
    @throws ClusterError where it cannot be read, has no video or its time stamps do not increase
    """
    status = stat_film(path)
    answer = ffmpeg.probe(tools, path, "-show_streams", "-show_format")
    streams, video = find_streams(path, answer)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(digest_of_file, path)
        frames, cuts = _decode(tools, path, video, threshold)
        if not frames.pts:
            raise ClusterError(f"{path} has no frames")
        for index, (before, after) in enumerate(zip(frames.pts, frames.pts[1:]), 1):
            if after <= before:
                raise ClusterError(f"{path} has frame {index} at time stamp {after}, after one at {before}; "
                                   "give it time stamps that increase first")
        return Film(path=str(path), size=status.st_size, time_ns=status.st_mtime_ns, digest=digest.result(),
                    streams=streams, video=video, time_base=frames.time_base,
                    start_us=ffmpeg.microseconds(answer["format"].get("start_time")),
                    pts=tuple(frames.pts), sums=tuple(frames.sums), cuts=tuple(cut for cut in cuts if cut > 0),
                    scene_threshold=threshold)
