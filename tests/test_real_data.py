"""The chapters on images, run whole on small made-up files in the formats of MNIST, CIFAR-10 and a ResNet-18."""

import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import ROOT

from lib.downloads import ASK
from lib.resnet import ResNet18
from press import repository
from press.chapters import chapters

BOOK = {c.name: c for c in chapters(repository.committed_url())}
N = 1800  # examples that the chapters ask for
MNIST = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
CIFAR10, RESNET18 = "cifar-10-binary.tar.gz", "resnet18-f37072fd.pth"

# Puts the stand-ins where the chapter calls for the data, then runs its cells one after the other in one space.
RUN = """
import sys
from functools import partial
from pathlib import Path
from lib import downloads, resnet
from lib.downloads import Source

address, cache, sums, cells = {given!r}
source = Source("STAND-IN", address, {{name: (0.5, total) for name, total in sums.items()}})
weights = Source("STAND-IN", address, {{name: pair for name, pair in source.files.items() if name.endswith("pth")}})
for name in ("mnist", "cifar10"):
    setattr(downloads, name, partial(getattr(downloads, name), source=source, folder=Path(cache)))
resnet.frozen_features = partial(resnet.frozen_features, side=32, source=weights, folder=Path(cache))
space = {{"__name__": "__main__"}}
for number, cell in enumerate(cells, 1):
    exec(compile(cell, f"cell {{number}}", "exec"), space)
    if "only the data" in sys.argv and "name" in space:
        break
"""


def blobs(*shape: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of ten classes, each a picture of its own under noise and inside a black margin of three pixels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % 10
    pictures = rng.uniform(0, 200, (10, *shape)) * (rng.uniform(size=(10, *shape)) < 0.2)
    images = np.clip(pictures[labels] + rng.uniform(0, 55, (N, *shape)), 0, 255)
    inside = np.zeros(shape[-2:])
    inside[3:-3, 3:-3] = 1
    return (images * inside).astype(np.uint8), labels.astype(np.uint8)


def files() -> dict[str, bytes]:
    images, labels = blobs(28, 28, seed=0)
    found = {
        MNIST[0]: gzip.compress(struct.pack(">4I", 2051, N, 28, 28) + images.tobytes(), 1),
        MNIST[1]: gzip.compress(struct.pack(">2I", 2049, N) + labels.tobytes()),
    }
    images, labels = blobs(3, 32, 32, seed=1)
    rows = np.concatenate([labels[:, None], images.reshape(N, -1)], axis=1).reshape(5, -1)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for k, part in enumerate(rows, 1):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/data_batch_{k}.bin")
            info.size = part.nbytes
            archive.addfile(info, io.BytesIO(part.tobytes()))
    found[CIFAR10] = stream.getvalue()
    torch.manual_seed(0)
    stream = io.BytesIO()
    torch.save(ResNet18().float().state_dict(), stream)
    return found | {RESNET18: stream.getvalue()}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address of a server of the stand-ins, and their SHA-256."""
    folder = tmp_path_factory.mktemp("stand-ins")
    sums = {}
    for name, content in files().items():
        (folder / name).write_bytes(content)
        sums[name] = hashlib.sha256(content).hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", sums
        server.shutdown()


def run(chapter, address, sums, cache, *arguments, changed=()):
    """What the chapter prints; each pair of `changed` is a text of its code and what stands there instead."""
    cells = BOOK[chapter].code()
    for was, now in changed:
        assert sum(was in cell for cell in cells) == 1, was
        cells = [cell.replace(was, now) for cell in cells]
    environment = os.environ | {ASK: "1", "NO_PROXY": "127.0.0.1", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN.format(given=(address, str(cache), sums, cells)), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# Fewer updates than in the chapters: what they find is printed there, not judged, on any data but the digits.
IMAGES = [("epochs = 24", "epochs = 2"), ("num_steps = 24, 300", "num_steps = 4, 40")]
HEADS = [("0.05, 0.04, 1500 ", "0.05, 0.04, 150 "), ("num_steps=4000)", "num_steps=40)")]


@pytest.mark.parametrize(
    ("chapter", "said", "changed"),
    [
        ("images", "data: mnist", IMAGES),
        ("images", "data: cifar10", [*IMAGES, ('wanted = "mnist"', 'wanted = "cifar10"')]),
        ("frame", "data: mnist", []),
        ("heads", "data: CIFAR-10 and a ResNet-18; 950 images, 512 features", HEADS),
    ],
)
def test_a_chapter_on_images_runs_on_the_real_formats(served, tmp_path, chapter, said, changed):
    out = run(chapter, *served, tmp_path, changed=changed)
    assert said in out and "the bundled digits" not in out


@pytest.mark.parametrize("chapter", ["images", "frame", "heads"])
def test_without_a_network_a_chapter_says_so_and_takes_the_bundled_digits(served, tmp_path, chapter):
    out = run(chapter, "http://127.0.0.1:9/", served[1], tmp_path, "only the data")
    assert "Check the network" in out and "data: the bundled digits" in out


def test_a_head_that_diverges_says_after_how_many_steps_at_which_rate(served, tmp_path):
    fast = HEADS[1:] + [("eta, strong, num_steps = 0.05, 0.04, 1500 ", "eta, strong, num_steps = 100.0, 0.04, 1500 ")]
    with pytest.raises(AssertionError, match="Diverged: a weight is not finite after [0-9]+ steps at eta = 100.0"):
        run("heads", "http://127.0.0.1:9/", served[1], tmp_path, changed=fast)
