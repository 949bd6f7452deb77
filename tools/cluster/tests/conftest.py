# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests share.

Tests of real films need ffmpeg with the filter and a small model:
  FLASHVSR_FFMPEG  path of ffmpeg, with ffprobe beside it
  FLASHVSR_MODEL   model directory, such as flashvsr_random_model writes
"""

import os
import stat
from fractions import Fraction
from pathlib import Path
from typing import Callable

import pytest

from flashvsr_cluster.ffmpeg import Tools
from flashvsr_cluster.plan import Plan, cut_film
from flashvsr_cluster.probe import Film, Stream
from flashvsr_cluster.state import Work
from flashvsr_cluster.weights import Weights


def film_of(frames: int = 900, cuts: tuple[int, ...] = (), path: str = "/films/in.mp4", size: int = 1) -> Film:
    """A film with sound whose frames are 512 ticks of 1/12800 s."""
    return Film(path=path, size=size, time_ns=1, digest="d",
                streams=(Stream(0, "video", False), Stream(1, "audio", False)),
                video=0, time_base=Fraction(1, 12800), start_us=0, pts=tuple(range(0, 512 * frames, 512)),
                sums=tuple(f"0x{frame:08x}" for frame in range(frames)), cuts=cuts)


def plan_of(film: Film, count: int = 3, out: str = "/films/out.mp4", tools: Tools = Tools(), **changes: object) -> Plan:
    values = dict(film=film, out=out, parts=tuple(cut_film(film.frames, film.cuts, count)), graph="flashvsr=scale=2",
                  video_options=("-c:v", "libx264"), file_options=(), weights=Weights(None, "built-in"), tools=tools,
                  ffmpeg_version="ffmpeg version 9", first_frame=False)
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    made = Work(tmp_path / "out.mp4.parts")
    made.create()
    return made


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], Tools]:
    """Makes an ffmpeg out of a shell script."""
    def make(script: str) -> Tools:
        program = tmp_path / "ffmpeg"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return Tools(str(program), str(program))

    return make


@pytest.fixture(scope="session")
def real() -> Tools:
    ffmpeg = os.environ.get("FLASHVSR_FFMPEG")
    if not ffmpeg:
        pytest.skip("FLASHVSR_FFMPEG names no ffmpeg")
    return Tools.beside(ffmpeg)


@pytest.fixture(scope="session")
def model() -> str:
    folder = os.environ.get("FLASHVSR_MODEL")
    if not folder:
        pytest.skip("FLASHVSR_MODEL names no model directory")
    return folder
