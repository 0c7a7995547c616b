"""The network against a second one written down from the table, with random weights from a small server."""

import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch.nn import functional as F

from lib.downloads import ASK, Source, Unavailable
from lib.resnet import MEAN, RESNET18, SPREAD, ResNet18, frozen_features

NAME = "resnet18-f37072fd.pth"


def random_weights(*, counters: bool) -> dict:
    """Every tensor of the published file; `counters` are what old files of its kind lack."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in ResNet18().state_dict().items()}
    weights = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            if counters:
                weights[key] = torch.tensor(7)
        else:
            size = (2 / shape[1:].numel()) ** 0.5 if len(shape) == 4 else 0.3  # He's: images stay apart
            value = size * torch.randn(shape, generator=generator, dtype=torch.float32)
            weights[key] = value.abs() + 0.5 if key.endswith("running_var") else value
    return weights | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def by_table(w: dict, x):
    """The same network, from Table 1 of He et al.: a 7 x 7 layer, then four stages of two blocks of two layers."""

    def norm(x, name):
        mean, var, scale, shift = (
            w[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    x = F.max_pool2d(norm(F.conv2d(x, w["conv1.weight"], stride=2, padding=3), "bn1").clamp(min=0), 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = norm(F.conv2d(x, w[f"{at}.conv1.weight"], stride=stride, padding=1), f"{at}.bn1").clamp(min=0)
            inner = norm(F.conv2d(inner, w[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if f"{at}.downsample.0.weight" in w:
                x = norm(F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1")
            x = (x + inner).clamp(min=0)
    return x.mean(dim=(2, 3))


@pytest.fixture
def served(monkeypatch, request):
    """A Source on this machine with random weights, and the weights."""
    monkeypatch.setenv(ASK, "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    weights = random_weights(counters=getattr(request, "param", True))
    file = io.BytesIO()
    torch.save(weights, file)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(file.getvalue())))
            self.end_headers()
            self.wfile.write(file.getvalue())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        yield Source("STAND-IN", address, {NAME: (46.8, hashlib.sha256(file.getvalue()).hexdigest())}), weights
        server.shutdown()


def photographs(n: int):
    """32 x 32 pixels in 4 x 4 patches of one colour: fine noise would look the same to any network."""
    patches = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return patches.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3).flatten(1)


@pytest.mark.parametrize("served", [True, False], indirect=True, ids=["with counters", "without"])
def test_features_are_those_of_a_second_program(served, tmp_path):
    source, weights = served
    X = photographs(5)
    found = frozen_features(X, side=64, batch_size=2, source=source, folder=tmp_path)
    assert found.shape == (5, 512) and found.dtype == torch.float64 and (found >= 0).all()
    mean, spread = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, SPREAD))
    images = (X.view(5, 3, 32, 32) - mean) / spread
    images = F.interpolate(images, size=64, mode="bilinear", antialias=True)
    there = by_table({key: value.double() for key, value in weights.items()}, images)
    assert (found - there).norm() < 1e-5 * there.norm()  # single against double precision
    assert (found - there.roll(1, dims=0)).norm() > 0.01 * there.norm()  # the control: another image's


def test_the_number_of_parameters_is_the_published_one():
    with torch.device("meta"):
        network = ResNet18()
    # 11,689,512 in torchvision's table; its last layer has 512 x 1000 + 1000
    assert sum(p.numel() for p in network.parameters()) == 11_689_512 - 513_000
    assert len(network.state_dict()) == 122 - 2


def test_other_weights_are_refused(served, tmp_path):
    source, weights = served
    del weights["layer3.1.bn2.bias"]
    path = tmp_path / NAME
    torch.save(weights, path)
    changed = Source("STAND-IN", source.address, {NAME: (46.8, hashlib.sha256(path.read_bytes()).hexdigest())})
    with pytest.raises(RuntimeError, match=r"layer3\.1\.bn2\.bias"):
        frozen_features(photographs(1), side=32, source=changed, folder=tmp_path)


def test_nothing_is_fetched_unless_asked_for(served, tmp_path, monkeypatch):
    monkeypatch.delenv(ASK)
    with pytest.raises(Unavailable, match=rf"^STAND-IN was not asked for: set {ASK}=1"):
        frozen_features(photographs(1), source=served[0], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_code_in_it_is_not_run(served, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / NAME
    torch.save({"conv1.weight": Trap()}, path)
    trapped = Source("STAND-IN", served[0].address, {NAME: (46.8, hashlib.sha256(path.read_bytes()).hexdigest())})
    with pytest.raises(Exception, match="[Ww]eights.only"):
        frozen_features(photographs(1), source=trapped, folder=tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("X", [torch.zeros(2, 3071), torch.zeros(3072), torch.zeros(0, 3072)])
def test_a_wrong_shape_is_refused(X):
    with pytest.raises(ValueError, match=r"^X must have shape \(n, 3 k\^2\), got \("):
        frozen_features(X)


def test_a_small_side_is_refused():
    with pytest.raises(ValueError, match="^side must be at least 32, got 16"):
        frozen_features(photographs(1), side=16)


def test_the_real_source_is_complete():
    ((name, (size, checksum)),) = RESNET18.files.items()
    assert RESNET18.address.startswith("https://") and RESNET18.address.endswith("/")
    assert len(bytes.fromhex(checksum)) == 32 and name == f"resnet18-{checksum[:8]}.pth"
    assert size == 46.8
