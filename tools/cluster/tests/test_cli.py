# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command lines and what they find in the folders. Neither ffmpeg nor the film is real."""

from dataclasses import replace

import pytest
from conftest import film_of

from flashvsr_cluster import cli
from flashvsr_cluster.state import Record, Work

FFMPEG = """case "$*" in
*-version*) echo "ffmpeg version 9" ;;
*filter=flashvsr*) echo "Filter flashvsr" ;;
esac"""


class Desk:
    """A folder with a film, and what is called there."""

    def __init__(self, folder, tools):
        self.tools = tools
        self.folder = folder / "desk"
        self.model = folder / "model"
        self.film, self.out = self.folder / "in.mp4", self.folder / "out.mp4"
        self.work = Work.of(self.out)
        for made in (self.folder, self.model):
            made.mkdir()
        (self.model / "config.json").write_text("{}")
        self.film.write_bytes(b"film")

    def call(self, command, *extra, film=None, out=None, options=()):
        return cli.main([command, str(film or self.film), str(out or self.out), "--ffmpeg", self.tools.ffmpeg, *extra,
                         "--", "-c:v", "libx264", *options, "--vf", f"flashvsr={self.model}:scale=2"])

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())

    def make_part(self, index):
        """Finish a part of the plan."""
        key = self.work.need_plan().keys[index]
        with self.work.attempt(key) as folder:
            (folder / "part.nut").write_bytes(b"part")
            self.work.add(folder / "part.nut", Record(key, 1, 4, 0, ("h264",), 1.0, "here"))

    def finish(self):
        """Make the film, as joining does."""
        self.out.write_bytes(b"upscaled")
        self.work.finish(self.work.need_plan(), self.out, self.out)


@pytest.fixture
def desk(fake, tmp_path, monkeypatch):
    def probe(tools, path, threshold):
        status = path.stat()
        return replace(film_of(path=str(path), size=status.st_size, cuts=() if threshold > 10 else (310,)),
                       time_ns=status.st_mtime_ns, scene_threshold=threshold)

    monkeypatch.setattr(cli, "probe_film", probe)
    return Desk(tmp_path, fake(FFMPEG))


@pytest.mark.parametrize("command", ["plan", "run", "slurm"])
def test_what_cannot_be_meant_is_refused_before_anything_is_made(desk, capsys, command):
    for sentence, call in (
            ("missing is not a folder", dict(out=desk.folder / "missing" / "out.mp4")),
            ("-r changes frames", dict(options=("-r", "25"))),
            ("has no suffix", dict(out=desk.folder / "out"))):
        assert desk.call(command, **call) == 2
        assert sentence in capsys.readouterr().err
    for sentence, extra in (("--workers 0 is below 1", ("--workers", "0")),
                            ("--scene-threshold 101 is not one of", ("--scene-threshold", "101"))):
        assert desk.call(command, *extra) == 2
        assert sentence in capsys.readouterr().err
    assert desk.call(command, film=desk.folder / "gone.mp4") == 1
    assert desk.names() == ["in.mp4"]


def test_a_folder_is_not_made_to_find_that_it_has_no_plan(desk):
    assert cli.main(["join", str(desk.folder / "typo")]) == 1
    assert desk.names() == ["in.mp4"]


def test_slurm_refuses_a_folder_that_it_could_not_name_in_a_script(desk, capsys):
    assert desk.call("slurm", out=desk.folder / "a\\b.mp4") == 2
    assert "has a backslash in it" in capsys.readouterr().err
    assert desk.names() == ["in.mp4"]


def test_an_older_plan_is_no_leave_to_replace_an_output(desk, capsys):
    assert desk.call("plan") == 0
    desk.out.write_bytes(b"precious")
    assert desk.call("plan") == 2
    assert capsys.readouterr().err == f"flashvsr-cluster: {desk.out} exists; --force replaces it\n"
    assert desk.call("plan", "--force") == 0


def test_its_own_film_is_replaced_as_long_as_it_is_the_one_that_was_made_of_the_same_film(desk):
    assert desk.call("plan") == 0
    desk.finish()
    assert desk.call("plan") == 0
    assert desk.call("plan", options=("-crf", "20")) == 0
    other = desk.folder / "other.mp4"
    other.write_bytes(b"other film")
    assert desk.call("plan", film=other) == 2
    desk.out.write_bytes(b"edited since")
    assert desk.call("plan") == 2


def borders(desk):
    return [part.begin for part in desk.work.need_plan().parts]


OTHERWISE = [("--workers", "9"), ("--part-frames", "100"), ("--scene-threshold", "20")]


@pytest.mark.parametrize("otherwise", OTHERWISE)
def test_a_film_without_a_finished_part_is_cut_as_the_last_command_says(desk, capsys, otherwise):
    assert desk.call("plan", "--workers", "3") == 0
    planned = borders(desk)
    assert len(planned) == 3 and 310 in planned
    count = ("--workers", "3") if otherwise[0] == "--scene-threshold" else ()
    assert desk.call("plan", *count, *otherwise) == 0
    assert borders(desk) != planned and len(borders(desk)) == (3 if count else 9)
    assert desk.work.need_plan().film.scene_threshold == (20 if count else 10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("otherwise", OTHERWISE)
def test_a_film_with_a_finished_part_stays_cut_as_it_is_and_says_so(desk, capsys, otherwise):
    assert desk.call("plan", "--workers", "3") == 0
    planned = borders(desk)
    desk.make_part(1)
    assert desk.call("plan", *otherwise) == 0
    assert borders(desk) == planned
    assert capsys.readouterr().err == (
        "flashvsr-cluster: the film stays cut as it is, with 1 of 3 parts finished; "
        f"remove {desk.work.plan_file} to cut it anew\n")
    desk.work.plan_file.unlink()
    assert desk.call("plan", *otherwise) == 0
    assert borders(desk) != planned


def test_the_same_command_goes_on_without_a_word(desk, capsys):
    for _ in range(2):
        assert desk.call("plan", "--workers", "3", "--scene-threshold", "10") == 0
        desk.make_part(0)
    assert desk.call("plan") == 0
    assert len(borders(desk)) == 3
    assert capsys.readouterr().err == ""
