"""The figures' setting against loops of torch: the start, the units, the clipping, the size."""

import pytest
import torch
from torch import nn

from lib.engine import train
from lib.figures import figure_data, figure_network, figure_size, mse_units, z_norm


def as_torch(model) -> nn.Sequential:
    """The network as a tutorial writes it."""
    weights = list(model.parameters())
    net = nn.Sequential(*(nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights))
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(weights), net.parameters())
    return net


def test_a_seed_stands_for_the_start_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    first, again, other = figure_network(0), figure_network(0), figure_network(1)
    assert torch.equal(torch.randn(3), expected)
    assert torch.equal(first.W1, again.W1) and not torch.equal(first.W1, other.W1)
    assert torch.equal(figure_network(0, relu=True).W3, first.W3)
    assert torch.equal(first.W2, first.W2.float().double()), "drawn in single precision"
    assert z_norm(first).item() == pytest.approx(first.W1[:, 5:].norm().item(), rel=1e-12)


@pytest.mark.parametrize("clip, clipped", [(1.0, 30), (1e6, 0)])
def test_the_units_take_the_steps_of_torch(clip, clipped):
    X, y = figure_data("linear")
    lr = 0.1 if clip == 1 else 0.001  # without clipping 0.1 diverges
    batches = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))[:960].reshape(30, 32)
    net = as_torch(figure_network(0))
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, weight_decay=0.1)
    for batch in batches:
        optimizer.zero_grad()
        nn.MSELoss()(net(X[batch]).squeeze(1), y[batch]).backward()
        nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
    runs = train(
        figure_network(0), X, y, **mse_units(lr=lr, clip=clip, weight_decay=0.1), batch_size=32, num_steps=30,
        sampling=lambda n, **_: batches, seed=0, record=[30], measure={},
    )  # fmt: skip
    assert runs.clipped.item() == clipped
    # torch divides by the norm plus 1e-6, so each of 30 clipped steps of length 0.1 is short by at most 1e-6 of itself
    gap = (
        nn.utils.parameters_to_vector(net.parameters()) - nn.utils.parameters_to_vector(runs.model.parameters())
    ).norm()
    assert gap < (1e-4 if clipped else 1e-12)


def test_the_data_have_the_recipe_s_irrelevant_inputs():
    X, y = figure_data("sine")
    assert X.shape == (10_000, 15) and y.abs().max() < 1.01
    assert X[:, 5:].mean(0).abs().max() < 1e-15 < X[:, :5].mean(0).abs().min()
    with pytest.raises(ValueError, match="outer must be"):
        figure_data("cosine")


def test_the_size_is_the_environment_s(monkeypatch):
    monkeypatch.delenv("BOOK_SIZE", raising=False)
    assert figure_size() == "fast"
    monkeypatch.setenv("BOOK_SIZE", "paper")
    assert figure_size() == "paper"
    monkeypatch.setenv("BOOK_SIZE", "huge")
    with pytest.raises(ValueError, match=r"BOOK_SIZE must be .*huge"):
        figure_size()
