# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts become the film: concatenated without recoding, with everything else of the original."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from flashvsr_cluster import ffmpeg
from flashvsr_cluster.errors import ClusterError, UsageError
from flashvsr_cluster.part import ROOM_SECONDS
from flashvsr_cluster.plan import Plan
from flashvsr_cluster.probe import Stream
from flashvsr_cluster.state import Record, Work, publish, write_whole

MOV_SUFFIXES = {".mp4", ".mov", ".m4v"}
MOV_LEAST_TIMESCALE = 10000  # FFmpeg's muxer doubles a coarser one
# FFmpeg's other muxers refuse attachments; WebM's leaves them out.
ATTACHMENT_SUFFIXES, ATTACHMENT_FORMATS = {".mkv", ".mka"}, {"matroska"}
KINDS_OFF = {"-an": "audio", "-sn": "subtitle", "-dn": "data"}


def list_parts(records: list[Record], work: Work) -> str:
    """A script of the concat demuxer. It places a file after the durations before it, so those are made the exact
    distances between the files' own beginnings: all time stamps are shifted by the same amount then."""
    lines = ["ffconcat version 1.0"]
    starts = [record.start_us for record in records]
    for record, after in zip(records, [*starts[1:], None]):
        # A protocol, else FFmpeg would make the path one of a URL, which ends at # and ?.
        path = str(work.part_file(record.key)).replace("'", r"'\''")
        lines.append(f"file 'file:{path}'")
        if after is not None:
            distance = after - record.start_us
            lines.append(f"duration {distance // 1_000_000}.{distance % 1_000_000:06d}")
    return "\n".join(lines) + "\n"


def timescale(time_base: Fraction) -> int:
    """Ticks per second that FFmpeg's MP4 muxer would choose for a stream in that time base."""
    ticks = time_base.denominator
    while ticks < MOV_LEAST_TIMESCALE:
        ticks *= 2
    return ticks


def _keeps_attachments(plan: Plan, out: Path) -> bool:
    named = [value for name, value in zip(plan.file_options, plan.file_options[1:]) if name == "-f"]
    return named[-1] in ATTACHMENT_FORMATS if named else out.suffix.lower() in ATTACHMENT_SUFFIXES


def kept_streams(plan: Plan, out: Path) -> list[Stream]:
    """The streams of the joined film, in their order: those that its options and its container leave."""
    off = {kind for option, kind in KINDS_OFF.items() if option in plan.file_options}
    if not _keeps_attachments(plan, out):
        off.add("attachment")
    return [stream for stream in plan.film.streams
            if stream.index == plan.film.video or stream.copied and stream.kind not in off]


def command(plan: Plan, parts: Path, out: Path, shift_us: int) -> list[str]:
    """The joining as an ffmpeg command line. Streams keep their order.

    @param shift_us from the time stamps that the list of parts gives to those of the film
    """
    film = plan.film
    maps: list[str] = []
    for position, stream in enumerate(kept_streams(plan, out)):
        maps += ["-map", "0:v:0" if stream.index == film.video else f"1:{stream.index}",
                 f"-map_metadata:s:{position}", f"1:s:{stream.index}"]
    scale = ["-video_track_timescale", str(timescale(film.time_base))] if out.suffix.lower() in MOV_SUFFIXES else []
    return [plan.tools.ffmpeg, *ffmpeg.COMMON, "-copyts",
            "-itsoffset", f"{shift_us}us", "-f", "concat", "-safe", "0", "-i", str(parts),
            "-itsoffset", f"{-film.start_us}us", "-i", film.path, *maps, "-c", "copy",
            "-map_metadata", "1", "-map_chapters", "1", *scale, *plan.file_options, "-fflags", "+bitexact", str(out)]


def check_container(plan: Plan, out: Path) -> None:
    """Write a file of the film's other streams, none of their content: a joining that fails comes after hours of work.

    @throws UsageError where OUT's container or its options do not take one of them
    """
    others = [stream for stream in kept_streams(plan, out) if stream.index != plan.film.video]
    if not others:
        return
    trial = out.with_name(f".{out.stem}.trial{out.suffix}")
    maps = [word for stream in others for word in ("-map", f"0:{stream.index}")]
    try:
        done = ffmpeg.call([plan.tools.ffmpeg, *ffmpeg.COMMON, "-i", plan.film.path, *maps, "-c", "copy",
                            *plan.file_options, "-t", "0", str(trial)])
    finally:
        with suppress(OSError):
            trial.unlink(missing_ok=True)
    if done.status:
        sentence = ffmpeg.error_sentence(done.stderr, ffmpeg.ended(done.status))
        raise UsageError(f"{out} does not take the streams beside the film: {sentence}; -an, -sn and -dn leave them out, "
                         "and -c:a and -c:s recode them")


def check_records(plan: Plan, work: Work) -> list[Record]:
    """The records of all parts, in order.

    @throws ClusterError where parts are missing or do not fit together
    """
    records = work.done(plan)
    missing = [index for index, part in enumerate(plan.parts) if part not in records]
    if missing:
        raise ClusterError(f"{len(missing)} of {len(plan.parts)} parts are missing, the first is {missing[0]}")
    ordered = [records[part] for part in plan.parts]
    for record in ordered:
        if record.stream != ordered[0].stream:
            raise ClusterError(f"parts differ: {record.host} made {' '.join(record.stream[:3])} with other parameters "
                               f"than {ordered[0].host}, {' '.join(ordered[0].stream[:3])}")
    return ordered


def check_film(plan: Plan, made: Path) -> None:
    """@throws ClusterError unless every frame is there at its time"""
    film = plan.film
    answer = ffmpeg.probe(plan.tools, made, "-select_streams", "V:0", "-show_entries", "stream=time_base:packet=pts")
    base = ffmpeg.fraction(answer["streams"][0]["time_base"])
    times = sorted(packet["pts"] for packet in answer.get("packets", []) if "pts" in packet)
    if len(times) != film.frames:
        raise ClusterError(f"the joined film has {len(times)} frames instead of {film.frames}")
    start = round(plan.expected_us / (film.time_base * 1_000_000))
    for frame, (got, pts) in enumerate(zip(times, film.pts)):
        # Containers with a coarser clock, such as Matroska's milliseconds, round to the nearest tick.
        if abs(got * base - (pts - film.pts[0] + start) * film.time_base) > base / 2:
            raise ClusterError(f"the joined film has frame {frame} at {float(got * base):.6f} s instead of "
                               f"{float((pts - film.pts[0] + start) * film.time_base):.6f} s")


def join(plan: Plan, work: Work, out: Path) -> None:
    """Join all parts and check the result; only then it takes its name.

    @throws ClusterError
    """
    records = check_records(plan, work)
    listed = work.parts / "list.ffconcat"
    made = out.with_name(f".{out.stem}.joining{out.suffix}")
    try:
        write_whole(listed, list_parts(records, work))
        # The first part is moved to where its demuxer finds its beginning, which is unknown, 0, for a single frame.
        room_us = ROOM_SECONDS * plan.film.time_base.numerator * 1_000_000
        done = ffmpeg.call(command(plan, listed, made, plan.expected_us + records[0].start_us - room_us))
        if done.status:
            sentence = ffmpeg.error_sentence(done.stderr, ffmpeg.ended(done.status))
            raise ClusterError(f"{out} cannot be written: {sentence}")
        check_film(plan, made)
        work.finish(plan, made, out)
        publish(made, out)
    except OSError as error:
        raise ClusterError(f"{error.filename or out}: {os.strerror(error.errno or 0)}") from error
    finally:
        with suppress(OSError):
            made.unlink(missing_ok=True)
