r"""Frozen features of photographs: a ResNet-18 that was trained on ImageNet, without its last layer.

Written out here because torchvision's builds do not load beside every build of torch; the layers have torchvision's
names, so that its published weights fit. Downloaded only when asked for, as in `lib.downloads`.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from lib.downloads import Source, fetch

WIDTHS = (64, 128, 256, 512)
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels, which the weights expect
# The file's name ends with the first digits of its sum.
RESNET18 = Source(
    "ResNet-18",
    "https://download.pytorch.org/models/",
    {"resnet18-f37072fd.pth": (46.8, "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec")},
)


class Block(nn.Module):
    """Two convolutions around which the input is added; the first may halve the image."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + kept)


class ResNet18(nn.Module):
    """Images, shape (n, 3, height, width), to 512 features each (He et al. 2015, Table 1, without the last layer)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for k, width in enumerate(WIDTHS, 1):
            first = Block(WIDTHS[max(k - 2, 0)], width, stride=1 if k == 1 else 2)
            setattr(self, f"layer{k}", nn.Sequential(first, Block(width, width, stride=1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for k in range(1, len(WIDTHS) + 1):
            x = getattr(self, f"layer{k}")(x)
        return x.mean(dim=(2, 3))


def frozen_features(
    X: Tensor, *, side: int = 224, batch_size: int = 50, source: Source = RESNET18, folder: Path | None = None
) -> Tensor:
    """What a ResNet-18 trained on ImageNet says of photographs; 47 MB to download, about 0.1 s an image and core.

    Args:
        X: pixels in [0, 1], channel by channel as from `lib.downloads.cifar10`, shape (n, 3 k^2).
        side: images are enlarged to side x side before they go in; ImageNet's had 224.
        batch_size: images at a time, which bounds the memory.
        source, folder: where the weights are, and where they are kept; as in `lib.downloads.mnist`.

    Returns:
        Features, not negative, shape (n, 512), float64.

    Raises:
        Unavailable: if not asked for, or for want of a network, a package or the right checksum.
        ValueError: if X has another shape or `side` is less than 32.
    """
    k = math.isqrt(X.shape[-1] // 3)
    if X.ndim != 2 or not len(X) or 3 * k**2 != X.shape[1]:
        raise ValueError(f"X must have shape (n, 3 k^2), got {tuple(X.shape)}")
    if side < 32:  # the network halves five times
        raise ValueError(f"side must be at least 32, got {side}")
    (name,) = source.files
    weights = torch.load(fetch(source, name, folder), weights_only=True)  # runs no code that a file may hold
    with torch.device("meta"):  # nothing is drawn at random, only to be overwritten
        network = ResNet18()
    network.load_state_dict({key: value for key, value in weights.items() if not key.startswith("fc.")}, assign=True)
    network.eval()
    mean, spread = torch.tensor([MEAN, SPREAD], dtype=torch.float32)[:, :, None, None]
    images = (X.float().view(-1, 3, k, k) - mean) / spread
    parts = tqdm(images.split(batch_size), desc="frozen features", unit="batch", leave=False)
    with torch.no_grad():
        found = [network(F.interpolate(part, size=side, mode="bilinear", antialias=True)) for part in parts]
    return torch.cat(found).double()
