# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which weights a film is made with, so that a part made with others is never taken for one of it."""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flashvsr_cluster import graph
from flashvsr_cluster.errors import ClusterError, UsageError
from flashvsr_cluster.probe import digest_of_file

SUFFIXES = {".safetensors", ".ckpt", ".pth", ".json"}
BUILT_IN = "built-in"
ENVIRONMENT = "FLASHVSR_MODEL_DIR"  # where the filter looks when no option names a model


@dataclass(frozen=True)
class Weights:
    """A model directory and the digest of what is in it."""

    folder: str | None  # None: the filter's built-in model
    digest: str


def model_folder(text: str) -> str | None:
    """The model directory that a filter graph asks for.

    @throws UsageError where it is relative, since workers run in folders of their own
    """
    named = graph.options(graph.find_flashvsr(text))
    folder = named.get("model") or named.get("model_dir") or os.environ.get(ENVIRONMENT)
    if folder and not os.path.isabs(folder):
        raise UsageError(f"model {folder!r} is relative; give its whole path, the same on every worker")
    return folder or None


def read_weights(folder: str | None) -> Weights:
    """Digest of a model directory. The built-in model goes with ffmpeg, whose version is checked.

    @throws ClusterError where the directory cannot be read or holds no weights
    """
    if folder is None:
        return Weights(None, BUILT_IN)
    try:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix in SUFFIXES)
        if not files:
            raise ClusterError(f"model {folder!r} holds no weights")
        seen = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
        return Weights(folder, _digest(seen))
    except OSError as error:
        raise ClusterError(f"model {folder!r} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=4)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Read once per process as long as sizes and times of the files stay."""
    state = hashlib.blake2b(digest_size=20)
    for path, _, _ in files:
        state.update(f"{Path(path).name} {digest_of_file(Path(path))}\n".encode())
    return state.hexdigest()
