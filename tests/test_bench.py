"""The benchmark: its rivals take the engine's steps, its clock measures what it says, its lines can be parsed."""

import doctest
import itertools
import re
import runpy
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench import __main__ as clock
from bench import cases, figure11
from bench.cases import CASES, Case, Contender, check, engine, flat, flops, linear, twin
from lib.figures import figure_data
from lib.models import ReLU
from lib.optimizers import Diverged

LINE = re.compile(r"bench ([\w-]+)/([\w-]+)/([\w-]+) ratio ([\d.]+) \[([\d.]+), ([\d.]+)\](?:  target ([\d.]+))?")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------------- the rivals are fair
@pytest.mark.parametrize("name", CASES)
def test_the_engine_and_the_ordinary_loops_take_the_same_steps(name):
    assert check(CASES[name]().problem) < 1e-12


def unhalved(net, batches, *, eta, num_steps):
    cases.plain(net, batches, eta=2 * eta, num_steps=num_steps)


def forgetful(net, batches, *, eta, num_steps):
    cases.plain(net, batches, eta=eta, num_steps=num_steps - 1)


def gathering(net, batches, *, eta, num_steps):
    """Without zero_grad: gradients pile up."""
    optimizer = torch.optim.SGD(net.parameters(), lr=eta / 2)
    for inputs, targets in batches:
        nn.MSELoss()(net(inputs), targets).backward()
        optimizer.step()


def broadcast(net, batches, *, eta, num_steps):
    """Targets of shape (B,) against outputs of shape (B, 1): a mean over all pairs."""
    cases.plain(net, ((inputs, targets[:, 0]) for inputs, targets in batches), eta=eta, num_steps=num_steps)


def decaying(net, batches, *, eta, num_steps):
    cases.plain(net, batches, eta=eta, num_steps=num_steps)
    nn.utils.vector_to_parameters(flat(net) * (1 - 1e-9), net.parameters())


def lost(net, batches, *, eta, num_steps):
    nn.utils.vector_to_parameters(flat(net) * torch.nan, net.parameters())


@pytest.mark.parametrize("loop", [unhalved, forgetful, gathering, broadcast, decaying, lost])
def test_a_loop_that_computes_something_else_is_not_raced_against(loop):
    with pytest.raises(ArithmeticError, match=r"^the wrong loop and the engine differ by .* after 10 steps$"):
        check(linear(32), loops={"wrong": loop})


def test_a_wrong_loop_is_found_beside_a_right_one():
    with pytest.raises(ArithmeticError, match="the second loop"):
        check(linear(1), loops={"first": cases.plain, "second": unhalved})


@pytest.mark.parametrize("name", ["linear-b1", "relu-1d", "relu-15d", "diagonal-3"])
def test_a_twin_computes_what_the_model_does(name):
    problem = CASES[name]().problem
    outputs = twin(problem.model)(problem.X)[:, 0]
    assert (outputs - problem.model(problem.X)).abs().max() < 1e-13
    assert torch.equal(flat(twin(problem.model)), flat(problem.model))


@pytest.mark.parametrize("source", cases.BATCHES.values(), ids=cases.BATCHES)
def test_the_loops_see_reshuffled_epochs_with_a_short_last_batch(source):
    X = torch.arange(10.0)[:, None]
    batches = list(itertools.islice(source(replace(linear(4), X=X, y=-X[:, 0])), 9))
    assert [len(inputs) for inputs, _ in batches] == [4, 4, 2] * 3
    assert all(torch.equal(inputs, -targets) for inputs, targets in batches)
    epochs = [torch.cat([x for x, _ in batches[i : i + 3]]).flatten().tolist() for i in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    # all three are equal, or one in order, by chance 1 time in 10!; the seed is fixed
    assert len(set(map(tuple, [*epochs, range(10)]))) == 4


def test_the_plain_loop_takes_the_full_batch_as_it_stands():
    problem = linear(cases.N)
    inputs, targets = next(cases.sliced(problem))
    assert inputs is problem.X
    assert torch.equal(targets[:, 0], problem.y)


def test_the_ordinary_loop_notes_the_loss_of_every_step():
    problem = linear(cases.N)
    net = twin(problem.model)
    before = nn.MSELoss()(net(problem.X), problem.y[:, None]).item()
    losses = cases.ordinary(net, cases.sliced(problem), eta=1e-3, num_steps=4)
    assert len(losses) == 4
    assert losses[0] == before > losses[-1]


def test_every_turn_of_a_loop_starts_from_the_models_parameters(monkeypatch):
    starts = []

    def spy(net, batches, *, eta, num_steps):
        starts.append((flat(net), eta, num_steps))
        cases.plain(net, batches, eta=eta, num_steps=num_steps)

    monkeypatch.setitem(cases.LOOPS, "plain", spy)
    problem = linear(1)
    contender = cases.by_loops(problem)["plain"]
    contender.take(3)
    contender.take(5)
    assert contender.runs == 1
    assert all(torch.equal(start, flat(problem.model)) for start, _, _ in starts)
    assert [rest for _, *rest in starts] == [[problem.etas[0], 3], [problem.etas[0], 5]]


def test_the_engine_runs_every_learning_rate_with_every_seed():
    problem = linear(1)
    trained = engine(problem, 50)
    assert trained.run_shape == (3, 10)
    assert problem.runs == 30
    assert len(trained.W1.detach().flatten(2).reshape(30, -1).unique(dim=0)) == 30


def test_a_run_that_diverges_is_not_timed():
    with pytest.raises(Diverged):
        engine(replace(linear(1), etas=(10.0,)), 100)


def test_floating_point_operations_of_a_relu_network_are_those_torch_counts():
    """Torch counts 2 m n k for each product of matrices, forward and backward; the update is 2 for a parameter."""
    net, batch_size = ReLU((7, 6, 5, 1), biases=False), 11
    with FlopCounterMode(display=False) as counter:
        twin(net)(torch.ones(batch_size, 7)).sum().backward()
    parameters = 7 * 6 + 6 * 5 + 5
    assert flops(net, batch_size, full=False) == counter.get_total_flops() + 2 * parameters


@pytest.mark.parametrize("module", [cases, clock])
def test_the_examples_hold(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


# ---------------------------------------------------------------------------------- the clock
class Machine:
    """A clock, and contenders that move it: a call costs `fixed` seconds and `per_step` for each step."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def contender(self, name, runs, fixed, per_step):
        def take(num_steps):
            self.calls.append((name, num_steps))
            self.now += fixed + per_step * num_steps

        return Contender(runs, take)

    def case(self):
        a, b = self.contender("a", 30, 0.5, 2**-10), self.contender("b", 1, 0.0, 0.125)
        return Case(linear(1), {"a": a}, {"b": b}, clock=lambda: self.now)


def test_contenders_take_turns_and_a_call_is_timed_whole():
    machine, ticks = Machine(), []
    rates = clock.race(machine.case(), seconds=1.0, rounds=3, tick=lambda: ticks.append(len(machine.calls)))
    assert machine.calls[-6:] == [("a", 1024), ("b", 8)] * 3  # as many steps as fit in a second
    assert rates == {"a": [30 * 1024 / 1.5] * 3, "b": [8.0] * 3}
    assert machine.calls[0] == ("a", 1)  # the warm-up
    assert [tick - ticks[0] for tick in ticks] == [0, 2, 4]


def test_a_contender_slower_than_the_time_it_has_takes_one_step():
    machine = Machine()
    assert clock.steps_within(0.1, machine.contender("slow", 1, 0.0, 3.0), lambda: machine.now) == 1


def test_processor_time_is_the_clock_except_between_jobs():
    clocks = {name: make().clock.__name__ for name, make in CASES.items()}
    assert clocks.pop("jobs") == "perf_counter"
    assert set(clocks.values()) == {"process_time"}


def test_ratios_are_taken_round_by_round():
    case = replace(Machine().case(), targets={("a", "b"): 1e5})
    (line,) = clock.ratio_lines("x", case, {"a": [10.0, 20.0, 61.0], "b": [1.0, 1.0, 6.0]})
    assert line == "bench x/a/b ratio 10.2 [10, 20]  target 100000"  # the ratio of medians would be 20


def test_the_table_says_which_share_of_the_machine_a_step_uses():
    (row,) = clock.table_rows("linear-b1", Machine().case(), {"a": [1e3, 2e3, 9e3]}, peak=4815 * 2e4)
    assert row.split() == ["linear-b1", "a", "2,000", "4,815", "10.00%"]


def test_a_product_of_matrices_has_two_operations_for_each_pair(monkeypatch):
    times = itertools.chain([4.0, 2.0], itertools.repeat(8.0))
    monkeypatch.setattr(clock, "seconds_of", lambda *_: next(times))
    assert clock.matrix_product_speed(size=8) == 2 * 8**3 / 2.0


def test_the_first_call_is_timed_with_an_empty_cache_and_then_with_a_full_one(monkeypatch):
    caches = []

    def run(command, *, env, **_):
        caches.append(env["NUMBA_CACHE_DIR"])
        seconds = 0.25 if list(Path(caches[-1]).iterdir()) else 7.5
        (Path(caches[-1]) / "compiled").touch()
        return subprocess.CompletedProcess(command, 0, stdout=f"{seconds}\n")

    monkeypatch.setattr(clock.subprocess, "run", run)
    assert clock.first_call_line() == (
        "first call of train: 7.5 s with an empty compiler cache, 0.25 s with a full one"
    )
    assert caches[0] == caches[1]


def test_the_first_call_prints_its_seconds(capsys):
    runpy.run_module("bench.first", run_name="__main__")
    assert float(capsys.readouterr().out) > 0


# --------------------------------------------------------------------------- the command line
def test_a_quick_run_prints_lines_that_parse_and_the_engine_wins(capsys):
    torch.set_num_threads(2)
    clock.main(["--quick", "linear-b1", "diagonal-2"])
    lines = capsys.readouterr().out.splitlines()
    found = [LINE.fullmatch(line) for line in lines if line.startswith("bench ")]
    assert all(found)
    ratios = {tuple(match.groups()[:3]): [float(value) for value in match.groups()[3:6]] for match in found}
    pairs = itertools.product(("linear-b1", "diagonal-2"), ("runs-30", "runs-1"), ("ordinary", "plain"))
    assert list(ratios) == list(pairs)
    assert all(low <= ratio <= high for ratio, low, high in ratios.values())
    # measured 300 to 1,900 on a busy machine: 10 leaves a margin of 30
    assert all(ratio > 10 for ratio, _, _ in ratios.values())
    assert [match[7] for match in found] == ["600"] + [None] * 7
    assert len([line for line in lines if line.endswith("%")]) == 8
    assert torch.get_num_threads() == 1


def test_an_unknown_case_is_refused_with_the_names_that_there_are(capsys):
    with pytest.raises(SystemExit):
        clock.main(["linear-b2"])
    assert re.search(r"CASE must be one of linear-b1, .*figure-11, got 'linear-b2'", capsys.readouterr().err)


def test_a_wrong_rival_stops_the_benchmark(monkeypatch):
    monkeypatch.setitem(cases.LOOPS, "plain", unhalved)
    with pytest.raises(ArithmeticError, match="the plain loop"):
        clock.run(["linear-b1"], seconds=0.01, rounds=1, share=0.01)


# ------------------------------------------------------------------------------------ Figure 11
def test_figure_11_is_24_million_steps_of_the_paper_s_settings():
    kinds = figure11.kinds(10_000)
    assert sum(kind.steps * kind.runs for kind in kinds) == 3 * (4 * 10 * 200_000 + 20_000)
    assert [kind.batch_size for kind in kinds] == [512, 128, 32, 1, 10_000]


@pytest.mark.parametrize("kind", figure11.kinds(10_000), ids=lambda kind: str(kind.batch_size))
def test_figure_11_s_loop_takes_the_engine_s_steps(kind):
    X, y = figure_data("linear")
    # torch adds 1e-6 to a norm of 1 to 10^3 before it cuts: ten steps of length 0.1 leave 1e-6 at most
    assert figure11.check(kind, X, y, bound=1e-6) <= 1e-6


def test_a_loop_that_does_not_clip_is_not_raced_in_figure_11(monkeypatch):
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, norm: None)
    X, y = figure_data("linear")
    with pytest.raises(ArithmeticError, match="the ordinary loop and the engine differ"):
        figure11.check(figure11.kinds(10_000)[2], X, y)


def test_figure_11_s_line_says_how_much_was_run(monkeypatch):
    few = [figure11.Kind(512, 100, 3, 3), figure11.Kind(10_000, 100, 3, 2)]
    monkeypatch.setattr(figure11, "kinds", lambda n: few)
    line, *rows = figure11.figure_11(share=0.5)
    ratio = re.match(
        r"bench figure-11/engine/ordinary ratio (\d+)  \(0.0 million steps, of which the engine took 0.5:", line
    )
    assert int(ratio[1]) > 1, line
    assert len(rows) == 2 and "batch  512: 3 runs of 100 steps" in rows[0] and "(from 2 steps)" in rows[1]
