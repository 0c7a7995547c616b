"""``python -m bench [--quick] [CASE ...]``: race the engine against ordinary loops, and print how far it wins.

One line for each pair, `bench CASE/FAST/SLOW ratio R [min, max]`: run-steps per second of FAST over those of SLOW,
the median and the extremes over rounds. In a round every contender of a case works for about the same time, one
after the other in one process, so that what else the machine does meets all of them. A table follows: run-steps per
second, and the share of this machine's speed in matrix products that a step's operations (`cases.flops`) make.
Seconds are of processor time, except between one job and two.

`figure-11` is no race in rounds: the engine takes all of that figure's steps once, some two minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from bench.cases import CASES, Case, Contender, check
from bench.figure11 import figure_11

ROOT = Path(__file__).resolve().parent.parent
FIRST_CALL, FIGURE_11 = "first-call", "figure-11"
Rates = dict[str, list[float]]  # contender -> run-steps per second in each round


def seconds_of(clock: Callable[[], float], work: Callable[..., object], *arguments: object) -> float:
    """Seconds of `clock` that a call takes."""
    start = clock()
    work(*arguments)
    return clock() - start


def steps_within(seconds: float, contender: Contender, clock: Callable[[], float]) -> int:
    """How many steps the contender takes in about `seconds`, beside what any call costs; warms it up first."""
    contender.take(1)
    fixed, num_steps = seconds_of(clock, contender.take, 1), 2
    while (spent := seconds_of(clock, contender.take, num_steps) - fixed) < seconds / 2:
        num_steps *= 2
    return max(1, round((num_steps - 1) * seconds / spent))


def race(case: Case, *, seconds: float, rounds: int, tick: Callable[[], object]) -> Rates:
    """Let the contenders of a case work in turn, `rounds` times; `tick` hears of each round.

    Returns:
        Run-steps per second, of every contender in every round.
    """
    contenders = case.fast | case.slow
    steps = {name: steps_within(seconds, contender, case.clock) for name, contender in contenders.items()}
    rates: Rates = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            elapsed = seconds_of(case.clock, contender.take, steps[name])
            rates[name].append(contender.runs * steps[name] / elapsed)
        tick()
    return rates


def significant(number: float) -> str:
    """A positive number to three significant digits, without an exponent.

    >>> significant(0.98765), significant(12.345), significant(123456.0)
    ('0.988', '12.3', '123000')
    """
    rounded = float(f"{number:.3g}")
    return f"{rounded:.0f}" if rounded >= 100 else f"{rounded:.3g}"


def ratio_lines(name: str, case: Case, rates: Rates) -> list[str]:
    """`bench CASE/FAST/SLOW ratio R [min, max]`, of ratios taken round by round; then the target, if there is one."""
    lines = []
    for fast in case.fast:
        for slow in case.slow:
            ratios = [a / b for a, b in zip(rates[fast], rates[slow], strict=True)]
            middle, low, high = (significant(f(ratios)) for f in (statistics.median, min, max))
            target = f"  target {case.targets[fast, slow]:g}" if (fast, slow) in case.targets else ""
            lines.append(f"bench {name}/{fast}/{slow} ratio {middle} [{low}, {high}]{target}")
    return lines


def matrix_product_speed(*, size: int = 512, repeats: int = 10) -> float:
    """Floating-point operations per second of a float64 matrix product on one thread: the best of some.

    A product of two matrices of `size` rows and columns has 2 size^3 of them.
    """
    left, right = torch.randn(2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return 2 * size**3 / min(seconds_of(time.process_time, torch.mm, left, right) for _ in range(repeats))


def table_rows(name: str, case: Case, rates: Rates, peak: float) -> list[str]:
    """A row of the table for each contender."""
    rows = []
    for contender, values in rates.items():
        speed = statistics.median(values)
        share = case.flops * speed / peak
        rows.append(f"{name:20}{contender:12}{speed:14,.0f}{case.flops:14,}{share:12.2%}")
    return rows


def first_call_line() -> str:
    """What compilation costs: the first call in a new process, without and with the compiler's cache, imports apart."""
    with tempfile.TemporaryDirectory() as cache:
        command, environment = [sys.executable, "-m", "bench.first"], os.environ | {"NUMBA_CACHE_DIR": cache}
        empty, full = (
            float(subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        )
    return f"first call of train: {empty:.1f} s with an empty compiler cache, {full:.2f} s with a full one"


def run(names: list[str], *, seconds: float, rounds: int, share: float) -> None:
    """Run the cases of these names, print the ratios as they come and the table at the end.

    `share` is the part of Figure 11 that the engine takes.
    """
    peak, table = matrix_product_speed(), []
    print(f"float64 matrix products on one thread: {peak / 1e9:.1f} Gflop/s", flush=True)
    with tqdm(total=len(names) * rounds, file=sys.stderr, disable=None, unit="round") as bar:
        for name in names:
            bar.set_description(name)
            if name == FIRST_CALL:
                lines = [first_call_line()]
                bar.update(rounds)
            elif name == FIGURE_11:
                lines = figure_11(share=share)
                bar.update(rounds)
            else:
                case = CASES[name]()
                check(case.problem)
                rates = race(case, seconds=seconds, rounds=rounds, tick=bar.update)
                lines = ratio_lines(name, case, rates)
                table += table_rows(name, case, rates, peak)
            bar.clear()
            print(*lines, sep="\n", flush=True)
    if table:
        print(f"\n{'case':20}{'contender':12}{'run-steps/s':>14}{'flop/step':>14}{'of products':>12}", *table, sep="\n")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run what it asks for."""
    every = [*CASES, FIRST_CALL, FIGURE_11]
    parser = argparse.ArgumentParser(prog="python -m bench", description="Time the engine against ordinary loops.")
    parser.add_argument("names", nargs="*", metavar="CASE", help=f"some of: {', '.join(every)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer steps and rounds; the numbers mean little")
    chosen = parser.parse_args(arguments)
    for name in chosen.names:
        if name not in every:
            parser.error(f"CASE must be one of {', '.join(every)}, got {name!r}")
    torch.set_num_threads(1)
    effort = (
        {"seconds": 0.05, "rounds": 3, "share": 0.01} if chosen.quick else {"seconds": 0.3, "rounds": 7, "share": 1}
    )
    run(chosen.names or every, **effort)


if __name__ == "__main__":
    main()
