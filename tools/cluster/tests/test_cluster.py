# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real films through Ray clusters of several workers, with the filter's built-in model."""

import shutil
import subprocess
from pathlib import Path

import pytest
from local_cluster import Cluster

from flashvsr_cluster import ffmpeg
from flashvsr_cluster.state import Work

CLIP = Path(__file__).resolve().parents[3] / "examples" / "clip.mp4"
CODEC = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", "-threads", "1"]
WIDTH, HEIGHT, ROUNDS = 128, 72, 3
GRAPH = f"scale={WIDTH // 2}:{HEIGHT // 2},flashvsr=scale=2,format=yuv420p"


@pytest.fixture
def cluster(real):
    made = Cluster(2)
    yield made
    made.stop()


def call(tools, *words):
    done = ffmpeg.call([tools.ffmpeg, *ffmpeg.COMMON, *map(str, words)])
    assert done.status == 0, done.stderr


def packets(tools, film, stream):
    answer = ffmpeg.probe(tools, film, "-select_streams", stream, "-show_data_hash", "md5", "-show_entries",
                          "stream=time_base,codec_name,sample_rate,channels:packet=pts,duration,data_hash")
    return answer["streams"], answer["packets"]


def times(tools, film):
    streams, found = packets(tools, film, "V:0")
    return streams[0]["time_base"], sorted(packet["pts"] for packet in found)


def pictures(tools, film, folder):
    """The lightness of each frame."""
    raw = folder / "raw"
    call(tools, "-i", film, "-f", "rawvideo", "-pix_fmt", "gray", raw)
    pixels, size = raw.read_bytes(), WIDTH * HEIGHT
    return [pixels[at:at + size] for at in range(0, len(pixels), size)]


def difference(one, other):
    """Mean over the pixels of two frames."""
    return sum(abs(a - b) for a, b in zip(one, other)) / len(one)


def make(cluster, tools, film, out, *extra, graph=GRAPH):
    return cluster.run("run", film, out, "--ffmpeg", tools.ffmpeg, "--part-frames", 40, "--keep", *extra, "--", *CODEC,
                       "--vf", graph)


def test_a_clip_with_sound_is_that_of_one_ffmpeg(cluster, real, tmp_path):
    film, out, single = tmp_path / "in.mp4", tmp_path / "out.mp4", tmp_path / "single.mp4"
    call(real, "-stream_loop", ROUNDS - 1, "-i", CLIP, "-map", "0", "-c", "copy", film)
    done = make(cluster, real, film, out)
    assert done.returncode == 0, done.stderr
    call(real, "-i", film, "-map", "0", "-vf", GRAPH, *ffmpeg.PASSTHROUGH, *CODEC, "-c:a", "copy", single)

    parts = Work.of(out).need_plan().parts
    assert len(parts) >= 6
    assert times(real, out) == times(real, single) and len(times(real, out)[1]) == 100 * ROUNDS
    assert packets(real, out, "a:0") == packets(real, single, "a:0") != ([], [])

    made, whole = pictures(real, out, tmp_path), pictures(real, single, tmp_path)
    joins = {part.begin for part in parts[1:] if part.first < part.begin}
    inside = set(range(1, len(made))) - {part.begin for part in parts}
    assert len(joins) >= 4  # the others are at scene cuts

    def steps(frames):
        """Those from frame to frame, against the single run's."""
        ours, others = (sum(difference(film[frame], film[frame - 1]) for frame in frames) for film in (made, whole))
        return ours / others

    ratio = steps(joins) / steps(inside)
    print(f"steps at {len(joins)} joins, against the single run's: {steps(joins):.4f}, inside {steps(inside):.4f}")
    assert ratio <= 1.05

    moved = tmp_path / "moved.mp4"
    done = make(cluster, real, film, moved, "--move")
    assert done.returncode == 0, done.stderr
    assert moved.read_bytes() == out.read_bytes()


def hidden(folder):
    """What runs a command where a folder is empty; a command line."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c",
            'mount -t tmpfs none "$0" && exec "$@"', str(folder)]


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    if subprocess.run([*hidden(folder), "true"], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    return folder


def test_a_model_that_is_missing_on_one_node_is_one_sentence(cluster, real, model, models, tmp_path):
    shutil.copytree(model, models / "m")
    cluster.add_node(1, inside=hidden(models))
    film, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    call(real, "-i", CLIP, film)
    done = make(cluster, real, film, out, graph=f"scale=32:32,flashvsr={models}/m:scale=2,format=yuv420p")
    assert done.returncode == 0, done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("flashvsr-cluster: ")]
    assert len(sentences) == 1, done.stderr
    assert sentences[0].endswith(f"is left out: model '{models}/m' cannot be read: No such file or directory")
    assert len(times(real, out)[1]) == 100
