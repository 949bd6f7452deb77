# SPDX-License-Identifier: LGPL-2.1-or-later
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import film_of, plan_of

from flashvsr_cluster.cli import describe
from flashvsr_cluster.errors import ClusterError
from flashvsr_cluster.join import check_records, command, list_parts, timescale
from flashvsr_cluster.probe import Stream
from flashvsr_cluster.state import Record

STREAM = ("h264", "64", "64", "SHA256:1")


def record(key, start_us, stream=STREAM, host="here"):
    return Record(key, 300, 4, start_us, stream, 1.0, host)


def add(work, made):
    with work.attempt(made.key) as folder:
        (folder / "part.nut").write_bytes(b"film")
        work.add(folder / "part.nut", made)


def test_parts_are_placed_by_the_exact_distance_of_their_beginnings(work):
    text = list_parts([record("a", 10_000_000), record("b", 14_291_719), record("c", 14_291_720)], work)
    a, b, c = (f"file 'file:{work.part_file(name)}'" for name in "abc")
    assert text.splitlines() == ["ffconcat version 1.0", a, "duration 4.291719", b, "duration 0.000001", c]


@pytest.mark.parametrize("base, ticks", [("1/12800", 12800), ("1/25", 12800), ("1001/30000", 30000), ("1/90000", 90000)])
def test_the_clock_is_the_one_that_ffmpeg_chooses(base, ticks):
    assert timescale(Fraction(base)) == ticks


def test_streams_keep_their_order_and_their_tags():
    streams = (Stream(0, "audio", False), Stream(1, "video", False), Stream(2, "data", False),
               Stream(3, "subtitle", False), Stream(4, "video", True))
    plan = plan_of(replace(film_of(), streams=streams, video=1))
    line = " ".join(command(plan, Path("list"), Path("out.mkv"), 0))
    assert ("-map 1:0 -map_metadata:s:0 1:s:0 -map 0:v:0 -map_metadata:s:1 1:s:1 -map 1:3 -map_metadata:s:2 1:s:3 "
            "-map 1:4 -map_metadata:s:3 1:s:4 -c copy") in line


def test_tags_follow_their_streams_where_others_are_turned_off():
    streams = (Stream(0, "audio", False), Stream(1, "subtitle", False), Stream(2, "video", False),
               Stream(3, "audio", False), Stream(4, "subtitle", False))
    plan = plan_of(replace(film_of(), streams=streams, video=2))

    def maps(*options):
        line = " ".join(command(replace(plan, file_options=options), Path("list"), Path("out.mkv"), 0))
        return line[line.index(" -map ") + 1:line.index(" -c copy")]

    assert maps("-an") == ("-map 1:1 -map_metadata:s:0 1:s:1 -map 0:v:0 -map_metadata:s:1 1:s:2 "
                           "-map 1:4 -map_metadata:s:2 1:s:4")
    assert maps("-sn") == ("-map 1:0 -map_metadata:s:0 1:s:0 -map 0:v:0 -map_metadata:s:1 1:s:2 "
                           "-map 1:3 -map_metadata:s:2 1:s:3")
    assert maps("-an", "-sn", "-dn") == "-map 0:v:0 -map_metadata:s:0 1:s:2"


@pytest.mark.parametrize("out, options, kept", [
    ("out.mkv", (), True), ("out.mka", (), True), ("out.webm", (), False), ("out.mp4", (), False),
    ("out.film", ("-f", "matroska"), True), ("out.mkv", ("-sn", "-f", "mp4"), False)])
def test_attachments_stay_where_the_container_takes_them(out, options, kept):
    streams = (Stream(0, "video", False), Stream(1, "attachment", False), Stream(2, "audio", False))
    plan = plan_of(replace(film_of(), streams=streams), out=f"/films/{out}", file_options=options)
    line = " ".join(command(plan, Path("list"), Path(plan.out), 0))
    assert ("-map 1:1 " in line) == kept
    assert f"-map 1:2 -map_metadata:s:{2 if kept else 1} 1:s:2 " in line
    assert describe(plan).endswith("left out: streams 1 (attachment)") != kept


def test_parts_of_other_encoders_are_not_joined(work):
    plan = plan_of(film_of(), count=2)
    add(work, record(plan.keys[0], 0))
    with pytest.raises(ClusterError, match="1 of 2 parts are missing, the first is 1"):
        check_records(plan, work)
    add(work, record(plan.keys[1], 0, ("h264", "64", "64", "SHA256:2"), "there"))
    with pytest.raises(ClusterError, match="parts differ: there made h264 64 64"):
        check_records(plan, work)
