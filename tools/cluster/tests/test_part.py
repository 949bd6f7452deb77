# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parts whose ffmpeg fails in every way; parts that succeed are in test_films.py."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import film_of, plan_of

from flashvsr_cluster import ffmpeg
from flashvsr_cluster.errors import Cause, PartError
from flashvsr_cluster.graph import find_flashvsr, options
from flashvsr_cluster.part import command, job_of, make_part
from flashvsr_cluster.state import Record


@pytest.fixture
def job(tmp_path, fake):
    def make(script, index=1, **changes):
        film = tmp_path / "in.mp4"
        film.write_bytes(b"film")
        return job_of(plan_of(film_of(path=str(film), size=4), tools=fake(script), **changes), index)

    return make


@pytest.mark.parametrize("script, cause, sentence", [
    ("echo '[in#0 @ 0x5] [error] Error opening input' >&2; exit 1", Cause.REFUSED, "^Error opening input$"),
    ("echo '[a @ 0x1] [error] later' >&2; echo '[Parsed_flashvsr_0 @ 0x2] [error] scale 9 is above 8' >&2; exit 234",
     Cause.REFUSED, "^scale 9 is above 8$"),
    ("exit 3", Cause.REFUSED, "status 3"),
    ("kill -9 $$", Cause.CRASH, "SIGKILL"),
    ("echo '[out#0 @ 0x5] [error] No space left on device' >&2; exit 228", Cause.FATAL, "disk of .* is full"),
    ("exit 0", Cause.REFUSED, "decodes to other frames"),
])
def test_a_failure_has_a_cause_and_a_sentence(job, work, script, cause, sentence):
    made = job(script)
    with pytest.raises(PartError, match=sentence) as failure:
        make_part(made, work)
    assert failure.value.cause is cause
    assert work.record(made.key) is None
    assert list(work.attempts.iterdir()) == []
    assert (work.logs / f"{made.key}.log").exists()


def test_a_run_without_frames_is_ended(job, work):
    since = time.monotonic()
    with pytest.raises(PartError, match="no frame for 0.5 s") as failure:
        make_part(job("echo frame=0; exec sleep 60"), work, stall=0.5)
    assert failure.value.cause is Cause.CRASH
    assert time.monotonic() - since < 30


def test_frames_are_reported(job, work):
    seen = []
    with pytest.raises(PartError):
        make_part(job("echo frame=3; echo fps=1; echo frame=7; exit 1", index=0), work, seen.append)
    assert seen == [3, 7]


def test_a_part_that_is_there_is_not_made_again(job, work):
    made = job("exit 1")
    with work.attempt(made.key) as folder:
        (folder / "part.nut").write_bytes(b"film")
        record = Record(made.key, 300, 4, 0, ("h264",), 1.0, "here")
        work.add(folder / "part.nut", record)
    assert make_part(made, work) == record


def test_another_film_of_the_same_name_is_refused(job, work):
    made = job("exit 0")
    Path(made.film).write_bytes(b"another film")
    with pytest.raises(PartError, match="not the file that was planned") as failure:
        make_part(made, work)
    assert failure.value.cause is Cause.UNFIT


def test_a_film_that_a_worker_cannot_see_leaves_the_worker_out(job, work):
    made = job("exit 0")
    os.unlink(made.film)
    with pytest.raises(PartError, match="in.mp4: No such file") as failure:
        make_part(made, work)
    assert failure.value.cause is Cause.UNFIT


def test_frames_are_chosen_by_number(job):
    made = job("exit 0")
    sought = " ".join(command(made, Path("a"), Path("b")))
    counted = " ".join(command(made, Path("a"), Path("b"), margin_us=None))
    assert (made.part.first, made.part.begin, made.part.end, made.part.last) == (272, 301, 597, 601)
    assert f"select='gte(pts,{272 * 512})',trim=end_frame=329" in sought
    assert "trim=start_frame=272:end_frame=601" in counted and "-ss" not in counted
    assert all("trim=start_frame=29:end_frame=325" in line for line in (sought, counted))


def test_the_filter_is_told_where_a_part_begins(job):
    assert job("exit 0", first_frame=True).graph == "flashvsr=scale=2:first_frame=272"
    assert job("exit 0").graph == "flashvsr=scale=2"


def test_a_film_that_is_a_part_itself_is_counted_on(job):
    graph = "flashvsr=scale=2:first_frame=1000"
    assert options(find_flashvsr(job("exit 0", graph=graph, first_frame=True).graph))["first_frame"] == "1272"


def test_ffmpeg_does_not_outlive_a_killed_parent(tmp_path):
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", "import sys, time\nfrom flashvsr_cluster import ffmpeg\n"
                               "child = ffmpeg.start(['sleep', '60'])\n"
                               f"open({str(note)!r}, 'w').write(str(child.pid))\ntime.sleep(60)"])
    while not (note.exists() and note.read_text()):
        time.sleep(0.05)
    child = int(note.read_text())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while time.monotonic() < end and Path(f"/proc/{child}/stat").exists() \
            and " Z " not in Path(f"/proc/{child}/stat").read_text():
        time.sleep(0.05)
    assert time.monotonic() < end


def test_the_sentence_of_a_signal():
    assert ffmpeg.ended(-11) == "ffmpeg was ended by SIGSEGV"
