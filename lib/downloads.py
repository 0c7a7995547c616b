"""MNIST and CIFAR-10, downloaded only when asked for; `lib.data.digits` is the stand-in that needs no network.

Ask with ``SUPPORT_BOOK_REAL_DATA=1`` in the environment. Files stay in a cache folder, are checked
against their SHA-256 at every use, and hold no pickles.
"""

from __future__ import annotations

import gzip
import os
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ASK = "SUPPORT_BOOK_REAL_DATA"
STAND_IN = "Without it, lib.data.digits() is the stand-in: bundled with scikit-learn, no download."


class Unavailable(RuntimeError):
    """Real data that this run cannot have: what was tried, why it failed, what to do."""


@dataclass(frozen=True)
class Source:
    """Where a data set is: its name, the folder's address, and size in MB and SHA-256 of each file."""

    name: str
    address: str
    files: dict[str, tuple[float, str]]


# Sums as in tensorflow/datasets, url_checksums/mnist.txt and cifar10.txt.
MNIST = Source(
    "MNIST",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        "train-images-idx3-ubyte.gz": (9.9, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        "train-labels-idx1-ubyte.gz": (0.03, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        "t10k-images-idx3-ubyte.gz": (1.6, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        "t10k-labels-idx1-ubyte.gz": (0.005, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    },
)
CIFAR10 = Source(
    "CIFAR-10",
    "https://www.cs.toronto.edu/~kriz/",
    {"cifar-10-binary.tar.gz": (170.1, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd")},
)


def mnist(n: int, *, split: str, source: Source = MNIST, folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """The first `n` handwritten digits, 28 x 28 pixels; 12 MB to download.

    Args:
        n: number of examples, up to 60,000 of ``split="train"`` or 10,000 of ``"test"``.
        split: which part.
        source: where the files are.
        folder: where they are kept; the system's cache folder if not given.

    Returns:
        Pixels in [0, 1], shape (n, 784), and one-hot labels, shape (n, 10), float64.

    Raises:
        Unavailable: if not asked for, or for want of a network, a package or the right checksum.
        ValueError: if `split` is unknown or has fewer than `n` examples.
    """
    part = _part(split, {"train": "train", "test": "t10k"})
    with gzip.open(fetch(source, f"{part}-labels-idx1-ubyte.gz", folder)) as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)  # after a magic number and the count
    with gzip.open(fetch(source, f"{part}-images-idx3-ubyte.gz", folder)) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16)  # after these, rows and columns
    return _first(n, pixels.reshape(len(labels), -1), labels)


def cifar10(n: int, *, split: str, source: Source = CIFAR10, folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """The first `n` colour photographs, 3 x 32 x 32 pixels, channel by channel; 170 MB to download.

    Arguments and errors as in `mnist`, with 50,000 and 10,000 examples; pixels have shape (n, 3072).
    """
    names = _part(split, {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]})
    with tarfile.open(fetch(source, "cifar-10-binary.tar.gz", folder)) as archive:
        rows = b"".join(archive.extractfile(f"cifar-10-batches-bin/{name}").read() for name in names)
    table = np.frombuffer(rows, np.uint8).reshape(-1, 1 + 3 * 32 * 32)  # a row is a label and its pixels
    return _first(n, table[:, 1:], table[:, 0])


def _part(split: str, parts: dict):
    if split not in parts:
        raise ValueError(f"split must be one of {tuple(parts)}, got {split!r}")
    return parts[split]


def _first(n: int, pixels: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    if not 1 <= n <= len(labels):
        raise ValueError(f"n must lie in 1..{len(labels)}, got {n}")
    return torch.from_numpy(pixels[:n] / 255), torch.from_numpy(np.eye(10)[labels[:n]])


def fetch(source: Source, name: str, folder: Path | None) -> str:
    """Path of a verified file of `source`, which is downloaded if the cache does not hold it.

    Raises:
        Unavailable: if not asked for, or for want of a network, a package or the right checksum.
    """
    if os.environ.get(ASK) != "1":
        raise Unavailable(f"{source.name} was not asked for: set {ASK}=1 to download it. {STAND_IN}")
    size, checksum = source.files[name]
    tried = f"{source.name}: {size} MB from {source.address}{name}"
    try:
        import pooch

        bar = pooch.HTTPDownloader(progressbar=True, timeout=60)
    except (ImportError, ValueError) as error:  # pooch's ValueError: no tqdm, no progress bar
        raise Unavailable(f"{tried}: a package is missing; `pip install pooch tqdm`. {STAND_IN}") from error
    cache = Path(folder or pooch.os_cache("learning-the-support"))
    files = pooch.create(cache, source.address, registry={name: f"sha256:{checksum}"})

    def download(url: str, output: str, manager: object) -> None:
        print(f"downloading {tried} to {cache}", file=sys.stderr)
        bar(url, output, manager)

    try:
        return files.fetch(name, downloader=download)
    except OSError as error:  # no network, a refusal by the server, a full disk
        raise Unavailable(f"{tried}: {error}. Check the network and {cache}, then try again. {STAND_IN}") from error
    except ValueError as error:  # pooch has found another SHA-256, and kept nothing
        raise Unavailable(f"{tried}: not the expected file (wrong SHA-256). Try again later. {STAND_IN}") from error
