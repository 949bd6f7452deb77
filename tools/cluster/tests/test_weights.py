# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which weights a plan means, and what is said on a machine that has others, or another ffmpeg."""

import os

import pytest
from conftest import film_of, plan_of

from flashvsr_cluster import cli
from flashvsr_cluster.errors import ClusterError, UsageError
from flashvsr_cluster.part import check_tools
from flashvsr_cluster.weights import Weights, find_weights, read_weights

VERSION = "ffmpeg version 9"


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.delenv("FLASHVSR_MODEL_DIR", raising=False)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "LQ_proj_in.ckpt").write_bytes(b"weights")
    (folder / "README.md").write_bytes(b"text")
    return folder


@pytest.fixture
def tools(fake, model):
    """An ffmpeg whose built-in model is the one above."""
    return fake('case "$*" in *-version*) echo "ffmpeg version 9";; *filter=flashvsr*) echo "Filter flashvsr";; '
                f'*) test -e "{model}" || '
                '{ echo "[flashvsr @ 0x1] [error] the built-in model was not found" >&2; exit 1; }; '
                f'echo "[flashvsr @ 0x1] [verbose] {model}: model \\"m\\", version 1.1" >&2;; esac')


def test_a_machine_with_the_same_programs_and_weights_is_fit(tools, model):
    check_tools(tools, VERSION, read_weights(str(model)))
    check_tools(tools, VERSION, find_weights(tools, "flashvsr"))


@pytest.mark.parametrize("script, version, sentence", [
    ('case "$*" in *filter*) echo "Filter flashvsr";; *) echo "ffmpeg version 9";; esac', "ffmpeg version 8",
     "is 'ffmpeg version 9', the plan was made with 'ffmpeg version 8'"),
    ("echo ffmpeg version 9", VERSION, "has no filter flashvsr"),
    ("exit 1", VERSION, "is not ffmpeg"),
])
def test_other_programs_are_not(fake, model, script, version, sentence):
    with pytest.raises(ClusterError, match=sentence):
        check_tools(fake(script), version, read_weights(str(model)))


@pytest.mark.parametrize("graph", ["flashvsr", "flashvsr=model={}"])
def test_other_weights_are_not(tools, model, graph):
    planned = find_weights(tools, graph.format(model))
    (model / "README.md").write_bytes(b"other text")
    check_tools(tools, VERSION, planned)
    (model / "LQ_proj_in.ckpt").write_bytes(b"changed")
    with pytest.raises(ClusterError, match="holds other weights"):
        check_tools(tools, VERSION, planned)


def test_weights_are_read_again_only_where_they_look_different(tools, model, monkeypatch):
    planned, file = read_weights(str(model)), model / "LQ_proj_in.ckpt"
    read = []
    monkeypatch.setattr("flashvsr_cluster.weights.digest_of_file", lambda path: read.append(path) or "other")
    check_tools(tools, VERSION, planned)
    assert read == []
    os.utime(file, ns=(0, 0))
    with pytest.raises(ClusterError, match="holds other weights"):
        check_tools(tools, VERSION, planned)
    assert read == [file]


def test_a_missing_model_is_named(tools, model, tmp_path):
    with pytest.raises(ClusterError, match="^model '/nowhere' cannot be read: No such file or directory$"):
        check_tools(tools, VERSION, Weights("/nowhere", "d"))
    planned = find_weights(tools, "flashvsr")
    model.rename(tmp_path / "moved")
    with pytest.raises(ClusterError, match="^the built-in model was not found$"):
        check_tools(tools, VERSION, planned)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClusterError, match="holds no weights"):
        read_weights(str(tmp_path / "empty"))


def test_a_part_is_not_made_with_other_weights(tools, model, tmp_path, work, capsys):
    film = tmp_path / "in.mp4"
    film.write_bytes(b"film")
    work.save_plan(plan_of(film_of(path=str(film), size=4), tools=tools, ffmpeg_version=VERSION,
                           weights=find_weights(tools, "flashvsr")))
    (model / "LQ_proj_in.ckpt").write_bytes(b"changed")
    assert cli.main(["part", str(work.folder), "0"]) == 1
    printed = capsys.readouterr().err
    assert printed == f"flashvsr-cluster: model '{model}' holds other weights than when the film was planned\n"


def test_the_model_is_the_one_that_the_filter_takes(fake, tools, model, tmp_path, monkeypatch):
    assert find_weights(tools, "flashvsr=scale=2") == Weights(None, *_content(model))
    assert find_weights(fake("exit 1"), f"flashvsr=model_dir={model}") == Weights(str(model), *_content(model))
    with pytest.raises(UsageError, match="model 'm' is relative"):
        find_weights(tools, "flashvsr=model=m")
    with pytest.raises(ClusterError, match="does not say which model it takes"):
        find_weights(fake("exit 0"), "flashvsr")


def test_what_the_environment_names_has_a_path(tools, model, monkeypatch):
    monkeypatch.setenv("FLASHVSR_MODEL_DIR", str(model.parent))
    assert find_weights(tools, "flashvsr").folder == str(model)


def _content(model):
    weights = read_weights(str(model))
    return weights.digest, weights.files
