# SPDX-License-Identifier: LGPL-2.1-or-later
"""ffmpeg and ffprobe: where they are, how they are started, what their output says."""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, Sequence

from flashvsr_cluster.errors import ClusterError, UsageError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
CALLS = 3  # of a program that is killed
COMMON = ("-hide_banner", "-nostdin", "-nostats", "-y", "-loglevel", "repeat+level+warning")
PASSTHROUGH = ("-fps_mode", "passthrough", "-enc_time_base", "filter")  # every frame at exactly its own time
ERROR_LINE = re.compile(r"^(?P<context>(?:\[[^][]* @ [^][]*\] )*)\[(?:error|fatal|panic)\] (?P<text>.*)$")
MODEL_LINE = re.compile(r"^(?:\[[^][]* @ [^][]*\] )*\[verbose\] (?P<folder>.+): model \"", re.MULTILINE)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Tools:
    """The programs, as paths or names to be found on every worker."""

    ffmpeg: str = "ffmpeg"
    ffprobe: str = "ffprobe"

    @staticmethod
    def beside(ffmpeg: str) -> "Tools":
        """ffprobe is taken from ffmpeg's folder where that is given."""
        folder = os.path.dirname(ffmpeg)
        return Tools(ffmpeg, os.path.join(folder, "ffprobe") if folder else "ffprobe")


@dataclass(frozen=True)
class Finished:
    """The end of a program."""

    status: int
    stdout: str
    stderr: str


def die_with_parent() -> Callable[[], None]:
    """What a child calls before it becomes ffmpeg, so that ffmpeg does not outlive a parent that was killed."""
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call above
            os._exit(1)

    return prepare


def start(command: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
    """Start a program that ends with this process.

    @throws ClusterError where there is no such program
    """
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent(), text=True,
                                errors="replace", **streams)
    except OSError as error:
        raise ClusterError(f"{command[0]} cannot be started: {error.strerror}") from error


def call(command: Sequence[str]) -> Finished:
    """Run a program to its end; again where it was killed, as by a machine short of memory. What it does must be such
    that it can be done again."""
    for _ in range(CALLS):
        with start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            try:
                stdout, stderr = child.communicate()
            except BaseException:
                child.kill()
                raise
        if child.returncode != -signal.SIGKILL:
            break
    return Finished(child.returncode, stdout, stderr)


def error_sentence(stderr: str, fallback: str) -> str:
    """The sentence that explains a failure: the filter's own where there is one, else the first at level error."""
    matches = [match for match in map(ERROR_LINE.match, stderr.splitlines()) if match]
    if not matches:
        return fallback
    own = [match for match in matches if "flashvsr" in match["context"]]
    return (own or matches)[0]["text"]


def ended(status: int) -> str:
    """How a program with that status ended, in words."""
    if status >= 0:
        return f"ffmpeg ended with status {status}"
    try:
        return f"ffmpeg was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ffmpeg was ended by signal {-status}"


def probe(tools: Tools, path: str | Path, *what: str) -> dict[str, Any]:
    """ffprobe's answer about a file.

    @throws ClusterError where the file cannot be read
    """
    done = call([tools.ffprobe, "-v", "level+error", "-of", "json", *what, str(path)])
    if done.status:
        raise ClusterError(f"{path} cannot be read: {error_sentence(done.stderr, ended(done.status))}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def fraction(text: str) -> Fraction:
    """A time base such as 1/12800."""
    numerator, _, denominator = text.partition("/")
    return Fraction(int(numerator), int(denominator or 1))


def microseconds(text: str | None) -> int:
    """A time of ffprobe, such as 1.400000; 0 where it is unknown."""
    return 0 if text in (None, "N/A") else round(Fraction(text) * 1_000_000)


def version(tools: Tools) -> str:
    """First line of `ffmpeg -version`.

    @throws ClusterError where there is no ffmpeg, or one without the filter
    """
    done = call([tools.ffmpeg, "-version"])
    lines = done.stdout.splitlines()
    if done.status or not lines:
        raise ClusterError(f"{tools.ffmpeg} is not ffmpeg: {error_sentence(done.stderr, ended(done.status))}")
    if "Filter flashvsr" not in filter_help(tools):
        raise ClusterError(f"{shutil.which(tools.ffmpeg) or tools.ffmpeg} has no filter flashvsr")
    return lines[0]


def filter_help(tools: Tools) -> str:
    """The filter's options in ffmpeg's words."""
    return call([tools.ffmpeg, "-hide_banner", "-h", "filter=flashvsr"]).stdout


def takes_first_frame(tools: Tools) -> bool:
    """Whether a part of a clip can be told its place in the whole, which decides its noise."""
    return re.search(r"^\s+first_frame\s", filter_help(tools), re.MULTILINE) is not None


def default_model(tools: Tools) -> str:
    """The model directory that the filter takes where its options name none, in its own words.

    @throws ClusterError where it finds none
    """
    done = call([tools.ffmpeg, "-hide_banner", "-nostdin", "-loglevel", "repeat+level+verbose", "-f", "lavfi",
                 "-i", "color=size=16x16", "-frames:v", "1", "-vf", "flashvsr=device=cpu", "-f", "null", "-"])
    if done.status:
        raise ClusterError(error_sentence(done.stderr, ended(done.status)))
    named = MODEL_LINE.search(done.stderr)
    if not named:
        raise ClusterError(f"{tools.ffmpeg} does not say which model it takes")
    return named["folder"]


@dataclass(frozen=True)
class FrameList:
    """What the framecrc muxer says of a stream."""

    time_base: Fraction
    pts: list[int]
    durations: list[int]
    sums: list[str]


def read_frame_list(path: Path) -> FrameList:
    """Read a file that the framecrc muxer wrote.

    @throws ClusterError where the file has no time base, as after a run without frames
    """
    time_base, rows = None, []
    for line in path.read_text().splitlines():
        if line.startswith("#tb 0:"):
            time_base = fraction(line.split(":")[1].strip())
        elif line and not line.startswith("#"):
            rows.append([field.strip() for field in line.split(",")[:6]])
    if time_base is None:
        raise ClusterError("ffmpeg gave no frames")
    return FrameList(time_base, [int(row[2]) for row in rows], [int(row[3]) for row in rows], [row[5] for row in rows])


def require_suffix(path: Path) -> None:
    """@throws UsageError where ffmpeg could not tell the container from the name"""
    if not path.suffix:
        raise UsageError(f"{path} has no suffix that says which container it is")
