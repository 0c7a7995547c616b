r"""The setting of Figures 1, 3 and 10 to 16: data, networks and units; and the two sizes they are run at.

The networks are 15-15-15-15-1 without biases. Every run of the published code clips the norm of the gradient at 1,
which the paper's text does not say. The paper's learning rates belong to the mean square; `mse_units`
turns them into the book's, whose loss is half of it.
"""

from __future__ import annotations

import math
import os
from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.data import TARGETS, paper_recipe
from lib.models import DeepLinear, ReLU, with_parameters
from lib.support import irrelevant_norm

WIDTHS = (15, 15, 15, 15, 1)
RELEVANT = torch.arange(WIDTHS[0]) < 5
BATCH_SIZES = (512, 128, 32, 1)
NUM_STEPS, GD_STEPS = 200_000, 20_000
SIZES = ("fast", "paper")


def figure_size() -> str:
    """ "fast" for the book, or "paper" where the environment's BOOK_SIZE says so: the paper's own numbers of runs.

    Raises:
        ValueError: if BOOK_SIZE is neither.
    """
    size = os.environ.get("BOOK_SIZE", SIZES[0])
    if size not in SIZES:
        raise ValueError(f"BOOK_SIZE must be one of {SIZES}, got {size!r}")
    return size


def figure_data(outer: str, *, sigma: float = 0.001) -> tuple[Tensor, Tensor]:
    """10,000 examples of 15 inputs, 5 of them relevant, with the target `outer` of `TARGETS` ("linear", "sine").

    Source: Appendix C.1 of [beneventano2024support]; `sigma` and numpy's seed 0 are the published code's.
    """
    if outer not in TARGETS:
        raise ValueError(f"outer must be one of {tuple(TARGETS)}, got {outer!r}")
    return paper_recipe(5000, WIDTHS[0], 5, TARGETS[outer], sigma=sigma, numpy_seed=0)


def figure_network(seed: int, *, relu: bool = False) -> DeepLinear | ReLU:
    r"""The network before its first step: weights of variance 2 / fan-in (He), drawn in single precision.

    The layers are made first and then initialised in order, as in the published code: a seed stands for its start.

    >>> round(z_norm(figure_network(0)).item(), 3)
    4.479
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(k, m, bias=False, dtype=torch.float32) for k, m in pairwise(WIDTHS)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
    weights = {f"W{i}": layer.weight.detach().double() for i, layer in enumerate(layers, 1)}
    return with_parameters(ReLU(WIDTHS, biases=False) if relu else DeepLinear(WIDTHS), weights)


def z_norm(model: DeepLinear | ReLU) -> Tensor:
    r"""$\lVert Z\rVert$, the norm of the first layer's ten irrelevant columns, shape (*runs)."""
    return irrelevant_norm(model.first_layer(), support_true=RELEVANT)


def mse_units(*, lr: float | Tensor, clip: float | Tensor = math.inf, weight_decay: float = 0.0) -> dict[str, object]:
    r"""Settings for `train` that take the steps of SGD on the mean square, which is twice the book's loss.

    With g the gradient of the book's loss, c cutting a gradient to the norm `clip` and c' to half of it:
    $\theta-\text{lr}\,(c(2g)+\lambda\theta)=\theta-2\,\text{lr}\,(c'(g)+\frac\lambda2\theta)$.

    >>> mse_units(lr=0.1, clip=1.0, weight_decay=0.1)
    {'eta': 0.2, 'clip_norm': 0.5, 'weight_decay': 0.05}
    """
    return {"eta": 2 * lr, "clip_norm": clip / 2, "weight_decay": weight_decay / 2}
