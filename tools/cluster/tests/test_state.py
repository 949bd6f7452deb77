# SPDX-License-Identifier: LGPL-2.1-or-later
import pytest
from conftest import film_of, plan_of

from flashvsr_cluster.errors import ClusterError
from flashvsr_cluster.slurm import Resources, write_scripts
from flashvsr_cluster.state import Record, Work, write_whole


def add(work, key, content=b"film"):
    with work.attempt(key) as folder:
        (folder / "part.nut").write_bytes(content)
        work.add(folder / "part.nut", Record(key, 1, len(content), 0, ("h264",), 1.0, "here"))


def test_a_part_is_there_when_its_record_and_all_of_its_bytes_are(work):
    assert work.record("k") is None
    add(work, "k")
    assert work.record("k").size == 4
    work.part_file("k").write_bytes(b"fil")
    assert work.record("k") is None


def test_a_part_without_a_record_is_not_there(work):
    work.part_file("k").write_bytes(b"film")
    assert work.record("k") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "k"}'])
def test_a_broken_record_counts_as_none(work, text):
    add(work, "k")
    work.record_file("k").write_text(text)
    assert work.record("k") is None


def test_attempts_leave_nothing(work):
    with pytest.raises(ValueError), work.attempt("k") as folder:
        (folder / "part.nut").write_bytes(b"fi")
        raise ValueError
    assert list(work.attempts.iterdir()) == []


def test_one_process_leads(work):
    with work.lead():
        assert work.led()
        with pytest.raises(ClusterError, match="another flashvsr-cluster"), Work(work.folder).lead():
            pass
    assert not work.led()


def test_a_failed_write_leaves_what_was_there(work, monkeypatch):
    write_whole(work.plan_file, "old")
    monkeypatch.setattr("flashvsr_cluster.state.os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        write_whole(work.plan_file, "new")
    assert work.plan_file.read_text() == "old"
    assert [path.name for path in work.folder.glob(".*")] == []


def test_a_plan_is_kept(work):
    assert work.load_plan() is None
    plan = plan_of(film_of())
    work.save_plan(plan)
    assert work.load_plan() == plan
    add(work, plan.key(plan.parts[1]))
    assert list(work.done(plan)) == [plan.parts[1]]


def test_a_finished_film_is_known_as_long_as_it_and_its_plan_stay(work, tmp_path):
    plan, out = plan_of(film_of()), tmp_path / "out.mp4"
    assert not work.finished(plan, out)
    out.write_bytes(b"film")
    work.finish(plan, out, out)
    assert work.finished(plan, out) and work.made_by(out) == plan.digest
    assert not work.finished(plan_of(film_of(), graph="flashvsr=scale=4"), out)
    assert not work.finished(plan_of(film_of(), file_options=("-an",)), out)
    out.write_bytes(b"other")
    assert not work.finished(plan, out) and work.made_by(out) is None


def fill(work):
    """Put all into a work folder that the tool may leave there."""
    plan, out = plan_of(film_of()), work.folder.with_name("out.mp4")
    key = plan.keys[0]
    add(work, key)
    (work.attempts / f"{key}.host.1.2").mkdir()
    out.write_bytes(b"film")
    work.save_plan(plan)
    work.finish(plan, out, out)
    write_scripts(plan, work, Resources(gpus=1, cpus=1, at_once=0, extra=[]))
    for name in ("progress.json", f"logs/{key}.log", "logs/slurm-0.log", "logs/slurm-join.log", "parts/list.ffconcat",
                 ".plan.json.host.1", f"parts/.{key}.json.host.1"):
        (work.folder / name).write_text("")


def test_a_removed_folder_leaves_nothing(work, tmp_path):
    with work.lead():
        fill(work)
        work.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_what_is_not_the_tools_own_stays(work):
    others = {"notes.txt", "raw/a.mov", "parts/a.nut", "logs/render.log", "attempts/first", ".hidden"}
    for name in others:
        (work.folder / name).parent.mkdir(exist_ok=True)
        (work.folder / name).write_text("mine")
    with work.lead():
        fill(work)
        work.drop_attempts()
        assert [path.name for path in work.attempts.iterdir()] == ["first"]
        work.remove()
    assert {str(path.relative_to(work.folder)) for path in work.folder.rglob("*") if path.is_file()} == others
