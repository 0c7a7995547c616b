r"""Sharpness: the largest eigenvalue of the Hessian of the loss, from Hessian-vector products.

The loss is $L = \frac{1}{2n}\sum_i \lVert f(x_i) - y_i\rVert^2$ of any torch module with float64 parameters; the
Hessian is taken in those that require gradients, so freezing a layer removes its block. "Largest" is meant with
the sign: strong negative curvature is not sharp. The derivative of a ReLU at its kink is autograd's, 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

DENSE = 64  # up to here the whole Hessian costs about as many products as Lanczos takes


def _check(model: nn.Module, X: Tensor, y: Tensor) -> list[Tensor]:
    theta = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not theta:
        raise ValueError("model must have parameters that require gradients, got none")
    if any(parameter.dtype != torch.float64 for parameter in theta):
        raise ValueError(f"model must have float64 parameters, got {sorted({str(p.dtype) for p in theta})}")
    if len(X) == 0 or len(X) != len(y):
        raise ValueError(f"X and y must hold equally many examples, at least one, got {len(X)} and {len(y)}")
    if hasattr(model, "first_layer") and model.first_layer().ndim != 2:
        raise ValueError(f"model must be a single run, got run axes {tuple(model.first_layer().shape[:-2])}")
    return theta


def _gradient_and_product(model: nn.Module, X: Tensor, y: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The flat gradient of the loss, and the map from a flat vector v to the Hessian times v."""
    theta = _check(model, X, y)
    with torch.enable_grad():
        outputs = model(X)
        if outputs.shape != y.shape:
            raise ValueError(f"y must have the outputs' shape {tuple(outputs.shape)}, got {tuple(y.shape)}")
        loss = ((outputs - y) ** 2).sum() / (2 * len(y))
        slopes = torch.autograd.grad(loss, theta, create_graph=True, materialize_grads=True)
        gradient = torch.cat([slope.flatten() for slope in slopes])
    if not gradient.isfinite().all():
        raise ValueError("model must have a finite gradient, got NaN or infinity: the run has diverged")

    def product(v: Tensor) -> Tensor:
        parts = torch.autograd.grad(gradient, theta, v, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    return gradient.detach(), product


def _largest_eigenvalue(gradient: Tensor, product: Callable[[Tensor], Tensor]) -> float:
    size = gradient.numel()
    if size <= DENSE:
        H = torch.stack([product(row) for row in torch.eye(size).to(gradient)])
        return torch.linalg.eigvalsh((H + H.T) / 2)[-1].item()
    # A generic start, always the same: a vector of ones is orthogonal to the answer where units play opposite parts.
    random = np.random.default_rng(0)
    start = random.standard_normal(size)

    def times(v: np.ndarray) -> np.ndarray:
        return product(gradient.new_tensor(v.ravel())).cpu().numpy()

    # Twice the typical modulus of an eigenvalue: ARPACK misses a largest eigenvalue at 0, so we move it away.
    shift = 2.0 * np.linalg.norm(times(start)) / np.linalg.norm(start)
    if shift == 0.0:
        return 0.0  # the kernel holds a generic vector, so the Hessian is zero
    shifted = LinearOperator((size, size), lambda v: times(v) + shift * v.ravel(), dtype=np.float64)
    return eigsh(shifted, k=1, which="LA", v0=start, rng=random, return_eigenvectors=False).item() - shift


def sharpness(model: nn.Module, X: Tensor, y: Tensor) -> float:
    r"""Largest eigenvalue $\lambda_{\max}(\nabla^2 L)$ of the Hessian of the loss.

    From the dense Hessian for up to `DENSE` parameters, else by Lanczos iterations from a fixed start;
    exact to rounding, relative to the largest modulus of an eigenvalue, and the same at every call.

    Args:
        model: a single run, called as `model(X)`; run axes are refused.
        X, y: n inputs, and targets in the shape of the outputs, (n,) or (n, outputs); (n, 1) is not (n,).

    Returns:
        The eigenvalue, in units of one over learning rate; negative where the loss is concave.

    Raises:
        ValueError: if the arguments do not fit, or the gradient is not finite.
        ArpackNoConvergence: if Lanczos cannot tell the largest eigenvalue from a crowd next to it.

    >>> line = nn.Linear(1, 1, bias=False, dtype=torch.float64)  # f(x) = w x, so the Hessian is E[x^2]
    >>> X = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    >>> round(sharpness(line, X, torch.zeros_like(X)), 12)
    5.0
    """
    return _largest_eigenvalue(*_gradient_and_product(model, X, y))


def stability_limit(model: nn.Module, X: Tensor, y: Tensor) -> float:
    r"""Largest stable learning rate $2/\lambda_{\max}$ of gradient descent on the quadratic around the model.

    Source: $\eta_{\max}$ after Proposition 7 of [beneventano2024support], there at initialization.
    Infinite when no curvature is positive. Arguments and errors as for `sharpness`.

    >>> line = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    >>> X = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    >>> round(stability_limit(line, X, torch.zeros_like(X)), 12)
    0.4
    """
    largest = sharpness(model, X, y)
    return 2.0 / largest if largest > 0 else math.inf


def _batches(batches: Tensor, n: int) -> Tensor:
    if batches.ndim != 2 or 0 in batches.shape or batches.is_floating_point() or batches.dtype == torch.bool:
        got = f"{batches.dtype} of shape {tuple(batches.shape)}"
        raise ValueError(f"batches must be indices of shape (num_batches, batch_size), got {got}")
    if batches.min() < 0 or batches.max() >= n:
        raise ValueError(f"batches must hold indices in 0..{n - 1}, got {batches.min()}..{batches.max()}")
    return batches


def mini_batch_sharpness(model: nn.Module, X: Tensor, y: Tensor, *, batches: Tensor) -> Tensor:
    r"""Sharpness $\lambda_{\max}(H_B)$ of the loss of each batch, whose mean over batches is called MiniBS.

    If the batches partition the data, MiniBS is at least the sharpness, as $\lambda_{\max}$ is convex.
    Source: the abstract of arXiv:2412.20553v1, where MiniBS is said to hover at $2/\eta$.

    Args:
        model, X, y: as for `sharpness`, and so are the errors.
        batches: indices of examples, shape (num_batches, batch_size), as from `draw_batches`.

    Returns:
        One eigenvalue per batch, shape (num_batches,); the mean, with its error, belongs on the page.
    """
    return torch.tensor([sharpness(model, X[b], y[b]) for b in _batches(batches, len(X))], dtype=torch.float64)


def batch_sharpness(model: nn.Module, X: Tensor, y: Tensor, *, batches: Tensor) -> Tensor:
    r"""Curvature $g_B^\top H_B g_B / \lVert g_B\rVert^2$ along each batch's own gradient; its mean is Batch Sharpness.

    At most $\lambda_{\max}(H_B)$; NaN where $g_B = 0$. Arguments, shape and errors as for `mini_batch_sharpness`.
    Source: arXiv:2412.20553v3 and v4, where it is this mean, no longer MiniBS, that settles at $2/\eta$.
    """
    quotients = []
    for b in _batches(batches, len(X)):
        g, product = _gradient_and_product(model, X[b], y[b])
        direction = g / g.abs().max()  # scaled first: near a minimum the squares of g underflow
        quotients.append(direction @ product(direction) / (direction @ direction))
    return torch.stack(quotients)
