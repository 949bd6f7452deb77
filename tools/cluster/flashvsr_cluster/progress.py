# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far a film is: one live line on a terminal, a line now and then elsewhere, a file for `status`."""

import json
import sys
import time
from dataclasses import dataclass
from typing import TextIO

from flashvsr_cluster.state import Work, write_whole

LINE_SECONDS = 30.0
FILE_SECONDS = 5.0


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = int(seconds + 0.5)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}"


@dataclass(frozen=True)
class State:
    """Numbers of a moment."""

    frames: int
    all_frames: int
    parts: int
    all_parts: int
    workers: int


def line(state: State, rate: float) -> str:
    """Frames, rate, time left."""
    left = duration((state.all_frames - state.frames) / rate) if rate > 0 else "unknown"
    return (f"{state.frames}/{state.all_frames} frames, {rate:.1f} frames/s, {left} left, "
            f"{state.parts}/{state.all_parts} parts, {state.workers} workers")


class Progress:
    """Shows states as they come."""

    def __init__(self, work: Work, first: State, out: TextIO | None = None):
        self._work, self._out = work, out or sys.stderr
        self._first, self._since = first.frames, time.monotonic()
        self._live = self._out.isatty()
        self._line_at = self._file_at = float("-inf")
        self._width = 0

    def show(self, state: State) -> None:
        now = time.monotonic()
        rate = (state.frames - self._first) / max(now - self._since, 1e-3)
        text = line(state, rate)
        if self._live:
            self._out.write(f"\r{text:<{self._width}}")
            self._out.flush()
            self._width = len(text)
        elif now - self._line_at >= LINE_SECONDS:
            self._line_at = now
            print(text, file=self._out, flush=True)
        if now - self._file_at >= FILE_SECONDS:
            self._file_at = now
            write_whole(self._work.progress_file, json.dumps({"line": text, "frames": state.frames}))

    def say(self, sentence: str) -> None:
        """A line of its own."""
        if self._live and self._width:
            self._out.write("\n")
            self._width = 0
        print(f"flashvsr-cluster: {sentence}", file=self._out, flush=True)

    def end(self) -> None:
        if self._live and self._width:
            self._out.write("\n")
