"""Small stand-ins, served on this machine: asked for, fetched once, verified, and every refusal explained."""

import builtins
import gzip
import hashlib
import io
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from lib.downloads import ASK, CIFAR10, MNIST, Source, Unavailable, cifar10, mnist

SIZES = {"train": 7, "t10k": 3}
STAND_IN = r"lib\.data\.digits\(\) is the stand-in"


def idx_files() -> dict[str, bytes]:
    """Images of 2 x 3 pixels that count upwards, and labels that count downwards from 9."""
    files = {}
    for part, n in SIZES.items():
        pixels = bytes(range(10 * n, 10 * n + 6 * n))
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(struct.pack(">4I", 2051, n, 2, 3) + pixels)
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">2I", 2049, n) + bytes(range(9, 9 - n, -1)))
    return files


def cifar_archive() -> bytes:
    """Two examples per file; file k holds labels k and k + 1, and pixels that are all k, but for the very last."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for k, name in enumerate(["test_batch", *(f"data_batch_{i}" for i in range(1, 6))]):
            rows = b"".join(bytes([label] + [k] * 3071 + [255]) for label in (k, k + 1))
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(rows)
            archive.addfile(info, io.BytesIO(rows))
    return stream.getvalue()


FILES = idx_files() | {"cifar-10-binary.tar.gz": cifar_archive()}


@pytest.fixture(autouse=True)
def asked_for(monkeypatch):
    monkeypatch.setenv(ASK, "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def requests():
    """Paths asked of the server so far; entry 0 is the server's address."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path[1:])
            content = FILES.get(self.path[1:])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        asked.append(f"http://127.0.0.1:{server.server_port}/")
        yield asked
        server.shutdown()


def stand_in(address: str, **changed: str) -> Source:
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    return Source("STAND-IN", address, {name: (0.5, changed.get("checksum", sums[name])) for name in FILES})


@pytest.mark.parametrize(("split", "part"), [("train", "train"), ("test", "t10k")])
def test_mnist_is_read_as_images_and_one_hot_labels(split, part, requests, tmp_path):
    n = SIZES[part]
    X, Y = mnist(n, split=split, source=stand_in(requests[0]), folder=tmp_path)
    assert X.dtype == Y.dtype == torch.float64
    assert torch.equal(X, torch.arange(10 * n, 16 * n).double().view(n, 6) / 255)
    assert Y.shape == (n, 10)
    assert Y.argmax(dim=1).tolist() == list(range(9, 9 - n, -1))
    assert torch.equal(Y.sum(dim=1), torch.ones(n))
    assert sorted(requests[1:]) == sorted(name for name in FILES if name.startswith(part))  # and not the other split


@pytest.mark.parametrize(("split", "files"), [("train", [1, 2, 3, 4, 5]), ("test", [0])])
def test_cifar_is_read_file_by_file(split, files, requests, tmp_path):
    n = 2 * len(files)
    X, Y = cifar10(n, split=split, source=stand_in(requests[0]), folder=tmp_path)
    assert X.shape == (n, 3072)
    assert Y.argmax(dim=1).tolist() == [label for k in files for label in (k, k + 1)]
    assert torch.equal(X[:, 0] * 255, torch.tensor([k for k in files for _ in range(2)]).double())
    assert torch.equal(X[:, -1], torch.ones(n))


def test_the_first_examples_are_returned(requests, tmp_path):
    source = stand_in(requests[0])
    every, labels = mnist(7, split="train", source=source, folder=tmp_path)
    X, Y = mnist(2, split="train", source=source, folder=tmp_path)
    assert torch.equal(X, every[:2])
    assert torch.equal(Y, labels[:2])


def test_a_second_call_makes_no_request_and_says_nothing(requests, tmp_path, capsys):
    source = stand_in(requests[0])
    first = cifar10(4, split="train", source=source, folder=tmp_path)
    said = capsys.readouterr().err
    assert f"downloading STAND-IN: 0.5 MB from {requests[0]}cifar-10-binary.tar.gz to {tmp_path}" in said
    assert "100%" in said  # the progress bar
    assert len(requests) == 2
    second = cifar10(4, split="train", source=source, folder=tmp_path)
    assert len(requests) == 2
    assert capsys.readouterr().err == ""
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_spoilt_cache_is_fetched_again(requests, tmp_path):
    source = stand_in(requests[0])
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"half a downl")
    X, _ = cifar10(1, split="test", source=source, folder=tmp_path)
    assert X.shape == (1, 3072)
    assert len(requests) == 2


def test_a_wrong_checksum_keeps_no_file(requests, tmp_path):
    source = stand_in(requests[0], checksum="0" * 64)
    with pytest.raises(Unavailable, match=rf"STAND-IN: 0\.5 MB from http.*wrong SHA-256.*{STAND_IN}"):
        cifar10(1, split="test", source=source, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_be_reached_is_explained(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}/"
    with pytest.raises(Unavailable, match=rf"from {address}train-labels.*Check the network.*{STAND_IN}"):
        mnist(1, split="train", source=stand_in(address), folder=tmp_path)


def test_an_error_of_the_server_is_explained(requests, tmp_path):
    with pytest.raises(Unavailable, match=rf"404.*Check the network.*{STAND_IN}"):
        mnist(1, split="train", source=stand_in(requests[0] + "moved/"), folder=tmp_path)


@pytest.mark.parametrize("answer", [None, "", "0", "no"])
def test_nothing_is_read_or_requested_unless_asked_for(answer, requests, tmp_path, monkeypatch):
    source = stand_in(requests[0])
    mnist(1, split="test", source=source, folder=tmp_path)  # now even in the cache
    monkeypatch.delenv(ASK) if answer is None else monkeypatch.setenv(ASK, answer)
    for read in (mnist, cifar10):
        with pytest.raises(Unavailable, match=rf"^STAND-IN was not asked for: set {ASK}=1 .*{STAND_IN}"):
            read(1, split="test", source=source, folder=tmp_path)
    assert len(requests) == 3


@pytest.mark.parametrize("package", ["pooch", "tqdm"])
def test_a_missing_package_is_named_with_its_remedy(package, requests, tmp_path, monkeypatch):
    import pooch.downloaders

    importing = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pooch" == package:
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    if package == "tqdm":
        monkeypatch.setattr(pooch.downloaders, "tqdm", None)  # what pooch has in its place when it is missing
    with pytest.raises(Unavailable, match=rf"a package is missing; `pip install pooch tqdm`.*{STAND_IN}"):
        mnist(1, split="test", source=stand_in(requests[0]), folder=tmp_path)
    assert len(requests) == 1


def test_files_are_kept_in_the_systems_cache_folder_by_default(requests, tmp_path, monkeypatch):
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    mnist(1, split="test", source=stand_in(requests[0]))
    kept = sorted(path.name for path in (tmp_path / "learning-the-support").iterdir())
    assert kept == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("read", [mnist, cifar10])
def test_a_split_or_a_size_that_is_not_there_is_refused(read, requests, tmp_path):
    source = stand_in(requests[0])
    with pytest.raises(ValueError, match=r"^split must be one of \('train', 'test'\), got 'valid'"):
        read(1, split="valid", source=source, folder=tmp_path)
    assert len(requests) == 1
    most = {mnist: 3, cifar10: 2}[read]
    for n in (0, most + 1):
        with pytest.raises(ValueError, match=rf"^n must lie in 1\.\.{most}, got {n}"):
            read(n, split="test", source=source, folder=tmp_path)


def test_the_real_sources_are_complete():
    assert set(MNIST.files) == set(FILES) - {"cifar-10-binary.tar.gz"}
    assert set(CIFAR10.files) == {"cifar-10-binary.tar.gz"}
    for source in (MNIST, CIFAR10):
        assert source.address.startswith("https://")
        assert source.address.endswith("/")  # pooch appends the file's name
        assert all(len(bytes.fromhex(checksum)) == 32 for _, checksum in source.files.values())
    assert round(sum(size for size, _ in MNIST.files.values())) == 12  # MB, as the docstring says
    assert round(CIFAR10.files["cifar-10-binary.tar.gz"][0]) == 170
