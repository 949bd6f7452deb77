# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a film is cut into parts that can be made anywhere, in any order, and joined without a trace.

A part keeps frames begin .. end-1 and is given frames first .. last-1. Where it does not begin at a scene cut, the
frames before `begin` warm the stream up; where it does not end at one, those behind `end` are what the model looks
ahead at. The output of both is dropped by its index.
"""

import hashlib
import json
import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Sequence

from flashvsr_cluster.errors import ClusterError
from flashvsr_cluster.ffmpeg import Tools
from flashvsr_cluster.probe import Film, Stream
from flashvsr_cluster.weights import File, Weights

FORMAT = 2  # of plans and of what parts are made from; a change makes old parts void

# The model's schedule: the first step takes 25 frames and gives 21, later ones take and give 8.
FIRST_OUT, STEP, LOOK_AHEAD = 21, 8, 4
# Frames before a part's first. With a start that is a multiple of 8 the steps fall where they fall in the whole film.
LEAD_IN = 29
# Long against the lead-in and the loading of the model, short against the film.
TARGET_FRAMES, SHORTEST_FRAMES = 2400, 100
# How far a border may move to a scene cut, as a part of a part.
CUT_WINDOW_DIVISOR = 8


@dataclass(frozen=True)
class Part:
    """Frames of the film, counted from 0."""

    first: int
    begin: int
    end: int
    last: int

    @property
    def kept(self) -> int:
        return self.end - self.begin

    @property
    def given(self) -> int:
        return self.last - self.first


def count_parts(frames: int, workers: int, part_frames: int = 0) -> int:
    """Number of parts: each worker makes equally many, of about 2400 frames, or of `part_frames` where not 0."""
    if part_frames:
        return max(1, round(frames / part_frames))
    rounds = max(1, frames // (workers * TARGET_FRAMES))
    return max(1, min(rounds * workers, frames // SHORTEST_FRAMES))


def _border(ideal: float, window: float, cuts: Sequence[int]) -> int:
    """The scene cut nearest to a place, within a window, else a frame that puts the lead-in at a multiple of 8."""
    at = bisect_left(cuts, ideal)
    near = [cut for cut in cuts[max(0, at - 1):at + 1] if abs(cut - ideal) <= window]
    if near:
        return min(near, key=lambda cut: abs(cut - ideal))
    return max(0, round((ideal - LEAD_IN) / STEP)) * STEP + LEAD_IN


def _look_ahead_end(first: int, end: int) -> int:
    """Frames that the model takes in until all before `end` have come out."""
    steps = max(0, math.ceil((end - first - FIRST_OUT) / STEP))
    return first + FIRST_OUT + LOOK_AHEAD + steps * STEP


def cut_film(frames: int, cuts: Sequence[int], count: int) -> list[Part]:
    """Cut a film into at most `count` parts.

    @param frames of the film, at least 1
    @param cuts   frames that begin a scene, in order
    """
    length = frames / count
    # Wide enough that no cut lies in a lead-in, and too narrow for two borders to want the same cut.
    window = max(length / CUT_WINDOW_DIVISOR, min(LEAD_IN, length / 3))
    borders = [0]
    for index in range(1, count):
        border = _border(index * length, window, cuts)
        if borders[-1] + STEP <= border <= frames - STEP:
            borders.append(border)
    borders.append(frames)

    scenes = {0, frames, *cuts}
    parts = []
    for begin, end in zip(borders, borders[1:]):
        first = begin if begin in scenes else max(0, begin - LEAD_IN)
        last = end if end in scenes else min(frames, _look_ahead_end(first, end))
        parts.append(Part(first, begin, end, last))
    return parts


@dataclass(frozen=True)
class Plan:
    """All that the parts of a film and their joining depend on."""

    film: Film
    out: str
    parts: tuple[Part, ...]
    graph: str
    video_options: tuple[str, ...]
    file_options: tuple[str, ...]
    weights: Weights
    tools: Tools
    ffmpeg_version: str
    first_frame: bool  # whether the filter is told where in the film a part begins

    def key(self, part: Part) -> str:
        """A part's name: a digest of all that its content depends on, and nothing else."""
        return _digest([FORMAT, self.film.digest, self.film.video, asdict(part), self.graph, self.video_options,
                        self.weights.digest, self.ffmpeg_version, self.first_frame])

    @property
    def keys(self) -> list[str]:
        return [self.key(part) for part in self.parts]

    @property
    def digest(self) -> str:
        """Of all that the joined film depends on."""
        return _digest([self.keys, self.file_options, self.film.path, self.out])

    @property
    def expected_us(self) -> int:
        """Time of the first frame in the joined film, microseconds: ffmpeg makes the file's start zero."""
        return round(self.film.pts[0] * self.film.time_base * 1_000_000) - self.film.start_us

    def to_json(self) -> str:
        values = asdict(self)
        values["film"]["time_base"] = str(self.film.time_base)
        return json.dumps({"format": FORMAT, **values})

    @staticmethod
    def from_json(text: str) -> "Plan":
        """@throws ClusterError where the text is not a plan of this version"""
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise ClusterError("the plan was made by another version of flashvsr-cluster; remove it and plan again")
            return Plan(**{**values, "film": _film(values["film"]),
                           "parts": tuple(Part(**part) for part in values["parts"]),
                           "video_options": tuple(values["video_options"]),
                           "file_options": tuple(values["file_options"]),
                           "weights": _weights(values["weights"]), "tools": Tools(**values["tools"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClusterError(f"the plan cannot be read: {error}") from error


def _film(values: dict[str, Any]) -> Film:
    return Film(**{**values, "time_base": Fraction(values["time_base"]),
                   "streams": tuple(Stream(**stream) for stream in values["streams"]),
                   "pts": tuple(values["pts"]), "sums": tuple(values["sums"]), "cuts": tuple(values["cuts"])})


def _weights(values: dict[str, Any]) -> Weights:
    return Weights(**{**values, "files": tuple(File(**file) for file in values["files"])})


def _digest(values: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
