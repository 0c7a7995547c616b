r"""The compiled path: one SGD loop in machine code, for models that allow it.

A network that is linear in its input, $f_\theta(x) = \langle w(\theta), x\rangle$, meets the batch
only through $w$ and $g_B = \frac1B X_B^\top (X_B w - y_B)$; a layer's gradient is then the outer
product of what stands above it with what stands below it. With the full batch $g = \Lambda w - c$
from moments computed once. Both are exact, not approximations.

Every run is worked alone, from its own random stream, so its result does not depend on what runs
beside it. Layouts are padded with zeros to multiples of `PAD`, so that inner loops are whole vectors;
padding stays zero. The samplers below serve the torch path as well. numba compiles on the first use, some
ten seconds, and keeps the result where it can.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from torch import nn

from lib.models import DeepLinear, Diagonal, Product, ReLU

PAD = 16  # doubles: four AVX2 vectors, the width at which LLVM leaves no remainder loop
LINEAR, DIAGONAL, RELU = 0, 1, 2
FULL, WITHOUT_REPLACEMENT, CYCLIC, SUBSETS, IID, GIVEN = 0, 1, 2, 3, 4, 5
ORDER, LABELS, PARAMETERS = 0, 1, 2  # a run's three random streams: switching a noise on changes no batch

# Sums may be reordered and fused; NaN and infinity keep their meaning, so that divergence shows.
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
CACHE = True
try:  # numba keeps machine code beside this file, in the user's cache, or in NUMBA_CACHE_DIR
    numba.njit(cache=True)(lambda: None)
except RuntimeError:  # none of them can be written: each process compiles for itself
    CACHE = False
jit = numba.njit(cache=CACHE, **OPTIONS)
inner = numba.njit(forceinline=True, **OPTIONS)  # passing arrays to a function costs as much as a small network


# -- random numbers: SplitMix64 (Steele, Lea, Flood 2014) -------------------------------------


@jit
def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inner
def next64(streams, k):
    streams[k] += np.uint64(0x9E3779B97F4A7C15)
    return mix(streams[k])


@inner
def below(streams, n):
    """Uniform integer in 0..n-1, exactly: Lemire's multiplication with rejection."""
    size = np.uint64(n)
    product = (next64(streams, ORDER) >> np.uint64(32)) * size
    if (product & np.uint64(0xFFFFFFFF)) < size:
        threshold = (np.uint64(1) << np.uint64(32)) % size
        while (product & np.uint64(0xFFFFFFFF)) < threshold:
            product = (next64(streams, ORDER) >> np.uint64(32)) * size
    return np.int64(product >> np.uint64(32))


@jit
def fill_normal(streams, k, out, count):
    """Standard normals in out[:count], in pairs by Box and Muller."""
    for i in range(0, count, 2):
        radius = np.sqrt(-2.0 * np.log(((next64(streams, k) >> np.uint64(11)) + np.uint64(1)) * 2.0**-53))
        angle = 2.0 * np.pi * ((next64(streams, k) >> np.uint64(11)) * 2.0**-53)
        out[i] = radius * np.cos(angle)
        if i + 1 < count:
            out[i + 1] = radius * np.sin(angle)


@jit
def seed_streams(seeds, streams):
    """Start the three random streams of each run from its seed."""
    for run in range(seeds.shape[0]):
        for k in range(3):
            streams[run, k] = mix(mix(seeds[run]) + np.uint64(k + 1))


# -- samplers ---------------------------------------------------------------------------------


@inner
def shuffle(order, streams, start, stop):
    """Fisher-Yates on positions start..stop-1: each gets a uniform choice of what is left."""
    n = order.shape[0]
    for i in range(start, stop):
        j = i + below(streams, n - i)
        order[i], order[j] = order[j], order[i]


@inner
def draw(sampler, order, position, streams, batch, size, drop_last):
    """Fill `batch` with the next step's examples; return how many they are and the position in the epoch.

    `drop_last` leaves out an epoch's short last batch. `order` is a permutation of the examples.
    """
    n = order.shape[0]
    if sampler == IID:
        for k in range(size):
            batch[k] = below(streams, n)
        return size, 0
    if sampler in (SUBSETS, FULL):
        position = 0
    left = n - position
    if left == 0 or (drop_last and left < size):
        position, left = 0, n
    count = min(size, left)
    if sampler in (SUBSETS, WITHOUT_REPLACEMENT):
        shuffle(order, streams, position, position + count)
    for k in range(count):
        batch[k] = order[position + k]
    return count, position + count


@jit
def shuffle_all(order, streams):
    """Shuffle the whole of each run's order."""
    for run in range(order.shape[0]):
        shuffle(order[run], streams[run], 0, order.shape[1])


@jit
def draw_steps(sampler, order, position, streams, batches, counts, size, drop_last):
    """The batches of the next steps, for the torch path: fills `batches` (steps, runs, size), `counts` (steps,)."""
    for step in range(batches.shape[0]):
        for run in range(batches.shape[1]):
            own = order[run % order.shape[0]]
            counts[step], position[run] = draw(
                sampler, own, position[run], streams[run], batches[step, run], size, drop_last
            )


@jit
def draw_normals(streams, k, out, counts):
    """Standard normals of stream k: fills out[step, run, :counts[step]]."""
    for step in range(out.shape[0]):
        for run in range(out.shape[1]):
            fill_normal(streams[run], k, out[step, run], counts[step])


# -- three products, four rows at a time ------------------------------------------------------


@inner
def row_times_matrix(out, row, theta, start, rows, cols):
    """out = row W, with W of shape (rows, cols) stored from theta[start]; rows in fours."""
    for j in range(cols):
        out[j] = 0.0
    width = np.uintp(cols)  # an unsigned index cannot be negative: without that case LLVM uses vectors
    for i in range(0, rows, 4):
        v0, v1, v2, v3 = row[i], row[i + 1], row[i + 2], row[i + 3]
        p0 = np.uintp(start + i * cols)
        p1, p2, p3 = p0 + width, p0 + width + width, p0 + width + width + width
        for j in range(width):
            out[j] += v0 * theta[p0 + j] + v1 * theta[p1 + j] + v2 * theta[p2 + j] + v3 * theta[p3 + j]


@inner
def matrix_times_column(out, theta, start, rows, cols, column):
    """out = W column, with W as above."""
    width = np.uintp(cols)
    for i in range(0, rows, 4):
        p0 = np.uintp(start + i * cols)
        p1, p2, p3 = p0 + width, p0 + width + width, p0 + width + width + width
        s0 = s1 = s2 = s3 = 0.0
        for j in range(width):
            v = column[j]
            s0 += theta[p0 + j] * v
            s1 += theta[p1 + j] * v
            s2 += theta[p2 + j] * v
            s3 += theta[p3 + j] * v
        out[i], out[i + 1], out[i + 2], out[i + 3] = s0, s1, s2, s3


@inner
def put_outer(out, start, column, row, rows, cols):
    """out = column row, stored from out[start]; clearing and then adding would cost a tenth of a step."""
    width = np.uintp(cols)
    for i in range(rows):
        v = column[i]
        p = np.uintp(start + i * cols)
        for j in range(width):
            out[p + j] = v * row[j]


@inner
def add_outer(out, start, column, row, rows, cols):
    """out += column row, stored from out[start]."""
    width = np.uintp(cols)
    for i in range(rows):
        v = column[i]
        p = np.uintp(start + i * cols)
        for j in range(width):
            out[p + j] += v * row[j]


@inner
def batch_vector(out, w, X, batch, target, count):
    r"""out = $\frac1B X_B^\top (X_B w - t)$, four examples at a time."""
    cols = X.shape[1]
    for j in range(cols):
        out[j] = 0.0
    k = 0
    while k + 4 <= count:
        i0, i1, i2, i3 = batch[k], batch[k + 1], batch[k + 2], batch[k + 3]
        r0, r1, r2, r3 = -target[k], -target[k + 1], -target[k + 2], -target[k + 3]
        for j in range(cols):
            v = w[j]
            r0 += X[i0, j] * v
            r1 += X[i1, j] * v
            r2 += X[i2, j] * v
            r3 += X[i3, j] * v
        for j in range(cols):
            out[j] += r0 * X[i0, j] + r1 * X[i1, j] + r2 * X[i2, j] + r3 * X[i3, j]
        k += 4
    while k < count:
        i = batch[k]
        r = -target[k]
        for j in range(cols):
            r += X[i, j] * w[j]
        for j in range(cols):
            out[j] += r * X[i, j]
        k += 1
    share = 1.0 / count
    for j in range(cols):
        out[j] *= share


# -- gradients --------------------------------------------------------------------------------


@inner
def end_to_end(kind, theta, layers, above, w):
    """w(theta) of a model linear in its input; `above` keeps what stands above each layer."""
    last = layers.shape[0] - 1
    if kind == LINEAR:
        cols, start = layers[last, 1], layers[last, 2]
        for j in range(cols):
            above[last, j] = theta[start + j]
        for layer in range(last - 1, -1, -1):
            rows, cols, start = layers[layer, 0], layers[layer, 1], layers[layer, 2]
            row_times_matrix(above[layer], above[layer + 1], theta, start, rows, cols)
        for j in range(w.shape[0]):
            w[j] = above[0, j]
    else:
        for j in range(w.shape[0]):
            w[j] = 1.0
        for layer in range(last, -1, -1):
            rows, cols, start = layers[layer, 0], layers[layer, 1], layers[layer, 2]
            for j in range(cols):
                above[layer, j] = w[j]
                w[j] *= theta[start + j]


@inner
def pull_back(kind, theta, layers, above, below_, g, grad):
    """Gradient of the loss in theta from g, its gradient in w(theta)."""
    depth = layers.shape[0]
    for j in range(g.shape[0]):
        below_[0, j] = g[j]
    for layer in range(depth):
        rows, cols, start = layers[layer, 0], layers[layer, 1], layers[layer, 2]
        if kind == DIAGONAL:
            for j in range(cols):
                grad[start + j] = below_[0, j] * above[layer, j]
                below_[0, j] *= theta[start + j]
        elif layer == depth - 1:
            for j in range(cols):
                grad[start + j] = below_[layer, j]
        else:
            put_outer(grad, start, above[layer + 1], below_[layer], rows, cols)
            matrix_times_column(below_[layer + 1], theta, start, rows, cols, below_[layer])


@jit
def relu_gradient(theta, layers, X, batch, target, count, active, delta, grad):
    """Gradient of a ReLU network: biases lie at a layer's start, its weights after them, hidden ones transposed."""
    last = layers.shape[0] - 1
    grad[:] = 0.0
    for k in range(count):
        for j in range(X.shape[1]):
            active[0, j] = X[batch[k], j]
        for layer in range(last):
            rows, cols, start = layers[layer, 0], layers[layer, 1], layers[layer, 2]
            row_times_matrix(active[layer + 1], active[layer], theta, start + cols, rows, cols)
            for j in range(cols):
                active[layer + 1, j] = max(active[layer + 1, j] + theta[start + j], 0.0)
        cols, start = layers[last, 1], layers[last, 2]
        residual = theta[start] - target[k]
        for j in range(cols):
            residual += theta[start + PAD + j] * active[last, j]
        residual /= count
        grad[start] += residual
        for j in range(cols):
            grad[start + PAD + j] += residual * active[last, j]
            delta[last, j] = residual * theta[start + PAD + j]
        for layer in range(last - 1, -1, -1):
            rows, cols, start = layers[layer, 0], layers[layer, 1], layers[layer, 2]
            for j in range(cols):
                if active[layer + 1, j] <= 0.0:
                    delta[layer + 1, j] = 0.0
                grad[start + j] += delta[layer + 1, j]
            add_outer(grad, start + cols, active[layer], delta[layer + 1], rows, cols)
            if layer > 0:
                matrix_times_column(delta[layer], theta, start + cols, rows, cols, delta[layer + 1])


# -- the loop ---------------------------------------------------------------------------------


class Layout(NamedTuple):
    """Where the parameters of a model lie in a padded row of numbers."""

    kind: int
    layers: np.ndarray  # (depth, 3): rows, columns, start
    entries: np.ndarray  # position of each parameter, in the order of `model.parameters()`
    mask: np.ndarray  # 1 where a trained parameter lies, else 0
    frozen: bool  # whether some parameter is not trained


class Problem(NamedTuple):
    """Data with padded columns, and their second moments. `sets` is 1, or the runs where each has its own."""

    X: np.ndarray  # (sets, n, columns)
    y: np.ndarray  # (sets, n)
    gram: np.ndarray  # (sets, columns, columns): X^T X / n, where the full batch is used
    cross: np.ndarray  # (sets, columns): X^T y / n


class State(NamedTuple):
    """What a run carries from step to step; the leading axis is the run."""

    theta: np.ndarray
    order: np.ndarray
    position: np.ndarray
    streams: np.ndarray
    clipped: np.ndarray  # steps whose gradient was clipped
    diverged: np.ndarray  # the step that left a parameter not finite; 0 while there is none


class Options(NamedTuple):
    """Per run: shape (runs,)."""

    eta: np.ndarray
    weight_decay: np.ndarray
    label_noise: np.ndarray
    parameter_noise: np.ndarray
    clip_norm: np.ndarray


@jit
def length(grad):
    """Euclidean norm."""
    total = 0.0
    for i in range(grad.shape[0]):
        total += grad[i] * grad[i]
    return np.sqrt(total)


@inner
def finite_update(theta, grad, eta):
    """theta -= eta grad; whether all of theta is finite."""
    total = 0.0
    for i in range(theta.shape[0]):
        theta[i] -= eta * grad[i]
        total += theta[i]
    return np.isfinite(total)


@jit
def advance(layout, problem, state, options, sampler, given, size, drop_last, factors, first):
    """Take the steps first + 1, ..., first + len(factors) of every run that has not diverged.

    `factors` multiply a run's learning rate, shape (steps,); `given` holds the batches of these steps,
    shape (runs or 1, steps, size), when the sampler is GIVEN.
    """
    kind, layers, entries, mask, frozen = layout
    columns = problem.X.shape[2]
    widest = max(columns, np.int64(layers[:, :2].max()))
    above, under = np.zeros((layers.shape[0] + 1, widest)), np.zeros((layers.shape[0] + 1, widest))
    w, g = np.zeros(columns), np.zeros(columns)
    grad = np.zeros(state.theta.shape[1])
    batch, target = np.zeros(size, np.int64), np.zeros(size)
    noise = np.zeros(max(size, entries.shape[0]))
    for run in range(state.theta.shape[0]):
        theta, order, streams = state.theta[run], state.order[run % state.order.shape[0]], state.streams[run]
        X, y = problem.X[run % problem.X.shape[0]], problem.y[run % problem.y.shape[0]]
        gram, cross = problem.gram[run % problem.gram.shape[0]].ravel(), problem.cross[run % problem.cross.shape[0]]
        decay, sigma = options.weight_decay[run], options.label_noise[run]
        jitter, clip_norm = options.parameter_noise[run], options.clip_norm[run]
        moments = sampler == FULL and kind != RELU and sigma == 0.0
        for step in range(factors.shape[0]):
            if state.diverged[run] > 0:
                break
            if not moments:
                if sampler == GIVEN:
                    count = size
                    for k in range(size):
                        batch[k] = given[run % given.shape[0], step, k]
                else:
                    position = state.position[run]
                    count, state.position[run] = draw(sampler, order, position, streams, batch, size, drop_last)
                if sigma > 0.0:
                    fill_normal(streams, LABELS, noise, count)
                    for k in range(count):
                        target[k] = y[batch[k]] + sigma * noise[k]
                else:
                    for k in range(count):
                        target[k] = y[batch[k]]
            if kind == RELU:
                relu_gradient(theta, layers, X, batch, target, count, above, under, grad)
            else:
                end_to_end(kind, theta, layers, above, w)
                if moments:
                    row_times_matrix(g, w, gram, np.uintp(0), np.uintp(columns), np.uintp(columns))
                    for j in range(columns):
                        g[j] -= cross[j]
                else:
                    batch_vector(g, w, X, batch, target, count)
                pull_back(kind, theta, layers, above, under, g, grad)
            if frozen:
                grad *= mask
            if clip_norm < np.inf:
                norm = length(grad)
                if norm > clip_norm:
                    state.clipped[run] += 1
                    grad *= clip_norm / norm
            if decay > 0.0:
                for i in range(theta.shape[0]):
                    grad[i] += decay * mask[i] * theta[i]
            finite = finite_update(theta, grad, options.eta[run] * factors[step])
            if jitter > 0.0:
                fill_normal(streams, PARAMETERS, noise, entries.shape[0])
                for k in range(entries.shape[0]):
                    theta[entries[k]] += jitter * mask[entries[k]] * noise[k]
            if not finite:
                state.diverged[run] = first + step + 1
                theta[:] = np.nan


# -- from torch modules to layouts ------------------------------------------------------------


def padded(size: int, to: int = PAD) -> int:
    """The next multiple of `to`."""
    return -(-size // to) * to


def layout_of(model: nn.Module) -> Layout | None:
    """The layout of a model that this path can run, else None.

    It runs exactly the classes `DeepLinear`, `Diagonal`, `Product` and `ReLU`, with one output; a subclass, or
    a model with hooks, may compute something else, so it is left to torch.
    """
    kinds = {DeepLinear: LINEAR, Diagonal: DIAGONAL, Product: DIAGONAL, ReLU: RELU}
    kind = kinds.get(type(model))
    scalar = kind == DIAGONAL or (kind is not None and model.widths[-1] == 1)
    if not scalar or model._forward_hooks or model._forward_pre_hooks:
        return None
    layers, places, start = [], {}, 0
    if kind == DIAGONAL:
        cols = padded(model.d)
        layers = [(1, cols, layer * cols) for layer in range(model.depth)]
        places["theta"] = np.add.outer(np.arange(model.depth) * cols, np.arange(model.d))
        start = model.depth * cols
    else:
        for i, (fan_in, fan_out) in enumerate(zip(model.widths, model.widths[1:], strict=False), 1):
            top = i == len(model.widths) - 1
            if kind == LINEAR or top:
                rows, cols, strides = (1 if top else padded(fan_out, 4)), padded(fan_in), (padded(fan_in), 1)
                weights = start + (PAD if kind == RELU else 0)
            else:  # hidden ReLU layers are stored transposed
                rows, cols, strides = padded(fan_in, 4), padded(fan_out), (1, padded(fan_out))
                weights = start + cols
            layers.append((rows, cols, start))
            places[f"b{i}"] = start + np.arange(fan_out)
            places[f"W{i}"] = weights + np.add.outer(np.arange(fan_out) * strides[0], np.arange(fan_in) * strides[1])
            start = weights + rows * cols
    names = dict(model.named_parameters())
    entries = np.concatenate([places[name].ravel() for name in names])
    mask = np.zeros(start)
    for name, parameter in names.items():
        mask[places[name].ravel()] = float(parameter.requires_grad)
    frozen = mask.sum() < len(entries) or (kind == RELU and not model.biases)
    return Layout(kind, np.array(layers, dtype=np.uintp), entries, mask, frozen)
