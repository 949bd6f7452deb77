# SPDX-License-Identifier: LGPL-2.1-or-later
import pytest

from flashvsr_cluster.errors import ClusterError, UsageError
from flashvsr_cluster.weights import Weights, model_folder, read_weights
from flashvsr_cluster.worker import Setup, check_tools

FFMPEG = 'case "$*" in *filter=flashvsr*) echo "Filter flashvsr";; *) echo "ffmpeg version 9";; esac'


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "LQ_proj_in.ckpt").write_bytes(b"weights")
    (folder / "README.md").write_bytes(b"text")
    return folder


def setup_of(tools, weights, version="ffmpeg version 9"):
    return Setup(tools, version, weights, None, None)


def test_a_worker_with_the_same_programs_and_weights_is_fit(fake, model):
    check_tools(setup_of(fake(FFMPEG), read_weights(str(model))))
    check_tools(setup_of(fake(FFMPEG), Weights(None, "built-in")))


@pytest.mark.parametrize("script, version, sentence", [
    (FFMPEG, "ffmpeg version 8", "is 'ffmpeg version 9', the plan was made with 'ffmpeg version 8'"),
    ("echo ffmpeg version 9", "ffmpeg version 9", "has no filter flashvsr"),
    ("exit 1", "ffmpeg version 9", "is not ffmpeg"),
])
def test_other_programs_are_not(fake, script, version, sentence):
    with pytest.raises(ClusterError, match=sentence):
        check_tools(setup_of(fake(script), Weights(None, "built-in"), version))


def test_other_weights_are_not(fake, model):
    planned = read_weights(str(model))
    (model / "README.md").write_bytes(b"other text")
    check_tools(setup_of(fake(FFMPEG), planned))
    (model / "LQ_proj_in.ckpt").write_bytes(b"changed")
    with pytest.raises(ClusterError, match="holds other weights"):
        check_tools(setup_of(fake(FFMPEG), planned))


def test_a_missing_model_is_named(fake, model, tmp_path):
    with pytest.raises(ClusterError, match="model '/nowhere' cannot be read: No such file or directory"):
        check_tools(setup_of(fake(FFMPEG), Weights("/nowhere", "d")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClusterError, match="holds no weights"):
        read_weights(str(tmp_path / "empty"))


def test_the_model_is_the_one_that_the_filter_takes(monkeypatch):
    monkeypatch.delenv("FLASHVSR_MODEL_DIR", raising=False)
    assert model_folder("flashvsr=scale=2") is None
    assert model_folder("flashvsr=model_dir=/m") == "/m"
    monkeypatch.setenv("FLASHVSR_MODEL_DIR", "/env")
    assert model_folder("flashvsr=scale=2") == "/env"
    assert model_folder("flashvsr=model=/m") == "/m"
    with pytest.raises(UsageError, match="model 'm' is relative"):
        model_folder("flashvsr=model=m")
