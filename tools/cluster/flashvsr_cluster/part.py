# SPDX-License-Identifier: LGPL-2.1-or-later
"""One part of a film: a plain ffmpeg command line, and what its result has to be before it counts."""

import errno
import os
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Callable

from flashvsr_cluster import ffmpeg, graph
from flashvsr_cluster.errors import Cause, ClusterError, PartError
from flashvsr_cluster.plan import Part, Plan
from flashvsr_cluster.state import Record, Work
from flashvsr_cluster.weights import Weights, check_weights

# A seek lands on a key frame at or before what is asked for; in files without an index, anywhere near it.
SEEK_MARGINS_US = (500_000, 20_000_000)
STALL_SECONDS = 900.0  # without a frame: loading a large model from a slow disk takes minutes
# Parts begin this many ticks late, a whole number of seconds: the times at which B-frames are decoded stay above 0.
ROOM_SECONDS = 10
FULL_DISK = "No space left on device"

Report = Callable[[int], None]  # called with the frames that are done so far


@dataclass(frozen=True)
class Job:
    """What a worker has to know to make a part."""

    name: str  # for people
    key: str
    film: str
    film_bytes: int
    film_start_us: int
    video: int
    time_base: Fraction
    part: Part
    pts: tuple[int, ...]  # of the frames given
    sums: tuple[str, ...]
    origin: int  # time stamp of the film's first frame
    graph: str
    options: tuple[str, ...]
    tools: ffmpeg.Tools

    @property
    def expected(self) -> list[Fraction]:
        """Time of each frame kept, seconds, in the part's file."""
        before = self.part.begin - self.part.first
        shift = ROOM_SECONDS * self.time_base.numerator
        return [(pts - self.origin) * self.time_base + shift for pts in self.pts[before:before + self.part.kept]]


def job_of(plan: Plan, index: int) -> Job:
    """The job of a plan's part."""
    part, film = plan.parts[index], plan.film
    text = plan.graph
    if plan.first_frame:
        text = graph.with_option(text, "first_frame", graph.first_frame(text) + part.first)
    return Job(name=f"part {index + 1}/{len(plan.parts)}, frames {part.begin}-{part.end - 1}", key=plan.key(part),
               film=film.path, film_bytes=film.size, film_start_us=film.start_us, video=film.video,
               time_base=film.time_base, part=part, pts=film.pts[part.first:part.last],
               sums=film.sums[part.first:part.last], origin=film.pts[0], graph=text, options=plan.video_options,
               tools=plan.tools)


def check_tools(tools: ffmpeg.Tools, version: str, weights: Weights) -> None:
    """@throws ClusterError where this machine would make other pictures than the plan means, or none"""
    found = ffmpeg.version(tools)
    if found != version:
        raise ClusterError(f"{tools.ffmpeg} is '{found}', the plan was made with '{version}'")
    check_weights(tools, weights)


def command(job: Job, out: Path, decoded: Path, margin_us: int | None = SEEK_MARGINS_US[0]) -> list[str]:
    """The part's command line. It writes the part and the checksums of the frames that it was made of.

    @param margin_us begin at a key frame so long before the part and find its first frame by its time stamp, which the
                     plan knows exactly; None: count frames from the film's beginning
    """
    part = job.part
    start: list[str] = []
    take = f"trim=start_frame={part.first}:end_frame={part.last}"
    if margin_us is not None and part.first > 0:
        at_us = max(job.film_start_us, round(job.pts[0] * job.time_base * 1_000_000) - margin_us)
        start = ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", f"{at_us}us"]
        take = f"select='gte(pts,{job.pts[0]})',trim=end_frame={part.given}"
    keep = f"trim=start_frame={part.begin - part.first}:end_frame={part.end - part.first}"
    room = ROOM_SECONDS * job.time_base.denominator
    chain = (f"[0:{job.video}]{take},split[decoded][film];"
             f"[film]{job.graph},{keep},setpts='PTS-({job.origin})+{room}'[out]")
    return [job.tools.ffmpeg, *ffmpeg.COMMON, "-copyts", *start, "-i", job.film, "-filter_complex", chain,
            "-map", "[out]", *ffmpeg.PASSTHROUGH, *job.options, "-flags", "+cgop", "-fflags", "+bitexact",
            "-f", "nut", str(out),
            "-map", "[decoded]", *ffmpeg.PASSTHROUGH, "-c:v", "rawvideo", "-f", "framecrc", str(decoded)]


class _Watch:
    """Ends a child that makes no frame for too long."""

    def __init__(self, child: subprocess.Popen[str], seconds: float):
        self._child, self._seconds = child, seconds
        self._frames, self._since = -1, time.monotonic()
        self._over = threading.Event()
        self.stalled = False
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def see(self, frames: int) -> None:
        if frames != self._frames:
            self._frames, self._since = frames, time.monotonic()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _wait(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._since > self._seconds:
                self.stalled = True
                self._child.kill()
                return


def _follow(child: subprocess.Popen[str], watch: _Watch, report: Report) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        name, _, value = line.partition("=")
        if name == "frame" and value.strip().isdigit():
            watch.see(int(value))
            report(int(value))


def _run(line: list[str], log: Path, report: Report, stall: float) -> None:
    """Run ffmpeg; its messages go to a file."""
    line = [line[0], "-progress", "pipe:1", *line[1:]]
    with open(log, "w") as messages, ffmpeg.start(line, stdout=subprocess.PIPE, stderr=messages) as child:
        watch = _Watch(child, stall)
        try:
            _follow(child, watch, report)
            status = child.wait()
        except BaseException:
            child.kill()
            raise
        finally:
            watch.stop()
    if watch.stalled:
        raise PartError(Cause.CRASH, f"ffmpeg made no frame for {stall:g} s")
    if status:
        text = log.read_text(errors="replace")
        # Where the messages are on the same disk, the status alone says it.
        if FULL_DISK in text or status == 256 - errno.ENOSPC:
            raise PartError(Cause.FATAL, f"the disk of {log.parent.parent} is full")
        raise PartError(Cause.CRASH if status < 0 else Cause.REFUSED,
                        ffmpeg.error_sentence(text, ffmpeg.ended(status)))


def _same_pictures(job: Job, decoded: Path) -> bool:
    """Whether ffmpeg was given exactly the frames of the plan."""
    try:
        frames = ffmpeg.read_frame_list(decoded)
    except (ClusterError, FileNotFoundError):  # it had no frame to write
        return False
    return (frames.time_base, tuple(frames.pts), tuple(frames.sums)) == (job.time_base, job.pts, job.sums)


def _check(job: Job, made: Path, seconds: float) -> Record:
    """What a part is, once its frames, time stamps and first key frame are as planned."""
    answer = ffmpeg.probe(job.tools, made, "-show_data_hash", "sha256", "-show_entries",
                          "stream=time_base,codec_name,width,height,extradata_hash:packet=pts,flags:format=start_time")
    stream, packets = answer["streams"][0], answer.get("packets", [])
    base = ffmpeg.fraction(stream["time_base"])
    times = sorted(packet["pts"] * base for packet in packets if "pts" in packet)
    if len(packets) != job.part.kept:
        raise PartError(Cause.REFUSED, f"{job.name} has {len(packets)} frames instead of {job.part.kept}; "
                        "filters beside flashvsr must keep the number of frames")
    for frame, (time_s, expected) in enumerate(zip(times, job.expected), job.part.begin):
        if time_s != expected:
            raise PartError(Cause.REFUSED, f"{job.name} has frame {frame} at {float(time_s):.6f} s instead of "
                            f"{float(expected):.6f} s; filters beside flashvsr must keep time stamps")
    if len(times) != len(packets) or "K" not in packets[0]["flags"]:
        raise PartError(Cause.REFUSED, f"{job.name} does not begin with a key frame that has a time stamp")
    described = tuple(str(stream.get(name, "")) for name in ("codec_name", "width", "height", "extradata_hash"))
    return Record(key=job.key, frames=job.part.kept, size=made.stat().st_size,
                  start_us=ffmpeg.microseconds(answer["format"].get("start_time")), stream=described,
                  seconds=round(seconds, 3), host=os.uname().nodename)


def _make(job: Job, folder: Path, report: Report, stall: float) -> tuple[Path, Record]:
    made, decoded, log = folder / "part.nut", folder / "decoded", folder / "log"
    since = time.monotonic()
    for margin_us in (*SEEK_MARGINS_US, None) if job.part.first > 0 else (None,):
        try:
            _run(command(job, made, decoded, margin_us), log, report, stall)
        except PartError as error:
            if margin_us is None or error.cause is not Cause.REFUSED:
                raise
            continue  # where a seek went too far there was no frame, which filters refuse
        if _same_pictures(job, decoded):
            return made, _check(job, made, time.monotonic() - since)
    raise PartError(Cause.REFUSED, f"{job.film} decodes to other frames than when it was planned")


def make_part(job: Job, work: Work, report: Report = lambda frames: None, stall: float = STALL_SECONDS) -> Record:
    """Make a part, unless it is there, and put it into the work folder.

    @throws PartError with what is to be done about it; ffmpeg's messages are kept in the work folder
    """
    if found := work.record(job.key):
        return found
    try:
        with work.attempt(job.key) as folder:
            try:
                if os.path.getsize(job.film) != job.film_bytes:
                    raise PartError(Cause.UNFIT, f"{job.film} is not the file that was planned")
                made, record = _make(job, folder, report, stall)
                work.add(made, record)
                return record
            except Exception:
                with suppress(OSError):
                    os.replace(folder / "log", work.logs / f"{job.key}.log")
                raise
    except OSError as error:
        cause = Cause.UNFIT if error.filename == job.film else Cause.FATAL
        raise PartError(cause, f"{error.filename or work.folder}: {error.strerror}") from error
    except PartError:
        raise
    except ClusterError as error:
        raise PartError(Cause.REFUSED, str(error)) from error
