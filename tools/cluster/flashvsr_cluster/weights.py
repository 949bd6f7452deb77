# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which weights a film is made with, so that a part made with others is never taken for one of it."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from flashvsr_cluster import ffmpeg, graph
from flashvsr_cluster.errors import ClusterError, UsageError
from flashvsr_cluster.probe import digest_of_file

SUFFIXES = {".safetensors", ".ckpt", ".pth", ".json"}
ENVIRONMENT = "FLASHVSR_MODEL_DIR"  # where the filter looks when no option names a model


@dataclass(frozen=True)
class File:
    """A file of a model as it was read. One that looks the same is not read again."""

    name: str
    size: int  # bytes
    time_ns: int  # of its last change


@dataclass(frozen=True)
class Weights:
    """A model directory and the digest of what is in it."""

    folder: str | None  # None: the built-in model, which each worker's filter finds beside itself
    digest: str
    files: tuple[File, ...] = ()


def model_folder(text: str) -> str | None:
    """The model directory that a filter graph names.

    @throws UsageError where it is relative, since workers run in folders of their own
    """
    named = graph.options(graph.find_flashvsr(text))
    folder = named.get("model") or named.get("model_dir")
    if folder and not os.path.isabs(folder):
        raise UsageError(f"model {folder!r} is relative; give its whole path, the same on every worker")
    return folder or None


def find_weights(tools: ffmpeg.Tools, text: str) -> Weights:
    """The weights that a filter graph asks for. What the environment names has a path, as what the graph names.

    @throws ClusterError where there are none
    """
    folder = model_folder(text)
    if folder:
        return read_weights(folder)
    weights = read_weights(os.path.abspath(ffmpeg.default_model(tools)))
    return weights if os.environ.get(ENVIRONMENT) else Weights(None, weights.digest, weights.files)


def read_weights(folder: str) -> Weights:
    """Read a model directory.

    @throws ClusterError where it cannot be read or holds no weights
    """
    try:
        files = _list_files(folder)
        if not files:
            raise ClusterError(f"model {folder!r} holds no weights")
        return Weights(folder, _digest(folder, files), files)
    except OSError as error:
        raise ClusterError(f"model {folder!r} cannot be read: {error.strerror}") from error


def check_weights(tools: ffmpeg.Tools, planned: Weights) -> None:
    """Files whose names, sizes and times are those of the plan are not read.

    @throws ClusterError where this machine has other weights than the plan means, or none
    """
    folder = planned.folder or ffmpeg.default_model(tools)
    try:
        same = _list_files(folder) == planned.files
    except OSError as error:
        raise ClusterError(f"model {folder!r} cannot be read: {error.strerror}") from error
    if not same and read_weights(folder).digest != planned.digest:
        raise ClusterError(f"model {folder!r} holds other weights than when the film was planned")


def _list_files(folder: str) -> tuple[File, ...]:
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix in SUFFIXES)
    return tuple(File(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


def _digest(folder: str, files: tuple[File, ...]) -> str:
    state = hashlib.blake2b(digest_size=20)
    for file in files:
        state.update(f"{file.name} {digest_of_file(Path(folder, file.name))}\n".encode())
    return state.hexdigest()
