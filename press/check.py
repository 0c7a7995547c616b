"""Runs the checks of single claims from the command line: the cells they need, no kernel, no pictures."""

import ast
import contextlib
import difflib
import io
import linecache
import os
import re
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import nbformat
from tqdm import tqdm

from press import ROOT, BookError
from press.chapters import Chapter, chapters
from press.execute import THREADS
from press.ledger import MIME, Check, Claim, Record, judge, registry
from press.repository import committed_url
from press.slicing import needed

SYMBOLS = {
    "approx": "≈", "cdot": "·", "cdots": "…", "curvearrowleft": "↶", "dots": "…", "ell": "ℓ", "ge": "≥", "geq": "≥",
    "gg": "≫", "in": "∈", "infty": "∞", "langle": "⟨", "ldots": "…", "le": "≤", "leftarrow": "←", "leq": "≤", "ll": "≪",
    "lVert": "‖", "nabla": "∇", "ne": "≠", "neq": "≠", "odot": "⊙", "partial": "∂", "perp": "⊥", "pm": "±",
    "prod": "Π", "mapsto": "↦", "rangle": "⟩", "rightarrow": "→", "rVert": "‖", "sim": "~", "subseteq": "⊆",
    "sum": "Σ", "times": "×", "to": "→", "top": "ᵀ", "lambda": "λ", "Lambda": "Λ", "varepsilon": "ε",
    "propto": "∝", "quad": "  ",
}  # fmt: skip
LAYOUT = r"\\(?:left|right|mathbf|mathbb|mathcal|mathrm|text|operatorname\*?|[bB]igg?[lr]?|displaystyle)(?![a-z])\s*"
ARGUMENT = r"\s*(?:\{([^{}]*)\}|(\\[A-Za-z]+|\w))"


def plain(text: str) -> str:
    """TeX as text for a terminal; what has no plain form keeps its name."""
    text = re.sub(LAYOUT, "", text).replace(r"\{", "⦃").replace(r"\}", "⦄")
    for _ in range(4):  # braces inside braces
        text = re.sub(r"([_^])\{(\w+|\([^(){}]*\))\}", r"\1\2", text)
        text = re.sub(r"([_^])\{([^{}]*)\}", r"\1(\2)", text)
        text = re.sub(rf"\\[dt]?frac{ARGUMENT}{ARGUMENT}", _fraction, text)
        text = re.sub(rf"\\sqrt{ARGUMENT}", lambda m: f"√{m[2]}" if m[2] else f"√({m[1]})", text)
    text = re.sub(r"\\([A-Za-z]+) ?", _symbol, text)
    return re.sub(r"\\[,;!: ]?", "", text.translate(str.maketrans("⦃⦄", "{}", "${}")))


def _symbol(match: re.Match) -> str:
    name = match[1]
    with contextlib.suppress(KeyError):
        return SYMBOLS.get(name) or unicodedata.lookup(
            f"GREEK {'SMALL' if name.islower() else 'CAPITAL'} LETTER {name}"
        )
    return f"{name} "


def _fraction(match: re.Match) -> str:
    above, below = match[1] or match[2] or "", match[3] or match[4] or ""
    return "/".join(part if re.fullmatch(r"\\?\w+", part) else f"({part})" for part in (above, below))


# ------------------------------------------------------------------------------ where checks are
@dataclass(frozen=True)
class Statement:
    """A statement of the outermost level, and the cell that it stands in, counted from 1."""

    cell: int
    tree: ast.Module
    code: str


def statements(cells: list[str]) -> list[Statement]:
    """The statements of a chapter's cells; a cell that is no plain Python is one."""
    found = []
    for number, code in enumerate(cells, 1):
        try:
            nodes = ast.parse(code).body
        except SyntaxError:  # a magic: nothing can be told about it
            found.append(Statement(number, ast.Module([], []), code))
            continue
        found += [Statement(number, ast.Module([node], []), ast.unparse(node)) for node in nodes]
    return found


def _binds(node, name: str) -> bool:
    targets = getattr(node, "targets", []) + [getattr(node, "target", None)]
    return any(isinstance(n, ast.Name) and n.id == name for t in targets if t for n in ast.walk(t))


def _pattern(node) -> str:
    """What the id of a claim can be, as a regular expression; "" if the text does not tell."""
    if isinstance(node, ast.JoinedStr):
        return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else ".+" for part in node.values)
    found = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return "|".join(map(re.escape, sorted(found)))


def _asks(node, asking: set[str]) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in asking


def asked(trees: list[ast.Module]) -> list[str]:
    """For every statement the claims that its requirements may name, as a regular expression."""
    asking, found, bindings = {"require", "require_not"}, [], []
    for tree in trees:
        nodes = list(ast.walk(tree))
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        named = {id(call.func) for call in calls}
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        parameters = {
            argument.arg
            for function in functions
            for argument in ast.walk(function.args)
            if isinstance(argument, ast.arg)
        }
        asking |= {f.name for f in functions if any(_asks(call, asking) for call in ast.walk(f))}
        mine = [node for node in nodes if isinstance(node, ast.Assign | ast.For | ast.comprehension)]
        for binding in mine:  # ``judge = require``, or a table of both
            value = ast.walk(getattr(binding, "value", None) or binding.iter)
            if any(isinstance(n, ast.Name) and n.id in asking and id(n) not in named for n in value):
                targets = getattr(binding, "targets", None) or [binding.target]
                asking |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        patterns = set()
        for first in [call.args[0] for call in calls if _asks(call, asking) and call.args]:
            if not isinstance(first, ast.Name):
                patterns.add(_pattern(first) or ".+")
            elif first.id not in parameters:
                near = [b for b in mine if _binds(b, first.id)] or [b for b in bindings if _binds(b, first.id)][-1:]
                patterns.add("|".join(filter(None, map(_pattern, near))) or ".+")
        bindings += mine
        found.append("|".join(sorted(patterns)))
    return found


@dataclass
class Found:
    """What running the statements that some claims need gave."""

    checks: list[Check]
    failures: list[tuple[str, str]]  # (claim, message)
    extent: str


@contextlib.contextmanager
def _aside(records: list[Record], failures: list[tuple[str, str]]) -> Iterator[None]:
    """Inside the chapter's folder, with output put aside and requirements that tell and do not raise."""
    from lib import checks, explore

    demand, here = checks._demand, Path.cwd()

    def tell(claim, judgement, announced, statement):
        try:
            demand(claim, judgement, announced, statement)
        except checks.CheckFailed as error:
            failures.append((claim, str(error)))

    os.chdir(ROOT / "book")
    try:
        with (
            mock.patch.multiple(checks, _demand=tell, _show=records.append),
            mock.patch.object(explore, "explore", lambda *_, **__: None),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            yield
    finally:
        os.chdir(here)


def run(chapter: Chapter, wanted: set[str]) -> Found:
    """Run what the checks of `wanted` claims need, in a fresh namespace of this process.

    Raises:
        BookError: if a statement fails otherwise than by a check, or no check of them is found.
    """
    cells = chapter.code()
    every = statements(cells)
    patterns = asked([statement.tree for statement in every])
    targets = {k for k, pattern in enumerate(patterns) if pattern and any(re.fullmatch(pattern, w) for w in wanted)}
    if not targets:
        raise BookError(f"{chapter.path} has no check of {', '.join(sorted(wanted))}")
    numbers, why = needed([statement.code for statement in every], targets)
    os.environ.pop("BOOK_RENDER", None)
    os.environ |= THREADS | {"MPLBACKEND": "agg"}
    records, failures, space = [], [], {"__name__": "__main__"}
    with _aside(records, failures):
        for statement in tqdm(
            [every[k] for k in numbers], desc=chapter.name, unit=" statements", leave=False, disable=None
        ):
            name, source = f"{chapter.path}, cell {statement.cell}", cells[statement.cell - 1]
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
            try:
                exec(compile(statement.tree if statement.tree.body else source, name, "exec"), space)
            except Exception as error:
                raise BookError(f"{name} failed: {type(error).__name__}: {error}") from error
    checks = [Check(chapter.path.with_suffix("").as_posix(), record) for record in records if record.claim in wanted]
    touched = len({every[k].cell for k in numbers})
    extent = f"ran {len(numbers)} of {len(every)} statements, in {touched} of {len(cells)} cells of {chapter.path}"
    return Found(checks, [f for f in failures if f[0] in wanted], extent + (f" ({why})" if why else ""))


# --------------------------------------------------------------------------------- the command
def _stored(chapter: Chapter) -> list[Record]:
    """The records in the chapter's notebook."""
    if not (ROOT / chapter.notebook).is_file():
        return []
    cells = nbformat.read(ROOT / chapter.notebook, as_version=4).cells
    outputs = [o.get("data", {}) for cell in cells for o in cell.get("outputs", [])]
    return [Record(**data[MIME]) for data in outputs if MIME in data]


def _chosen(names: list[str], claims: dict[str, Claim], book: dict[str, Chapter]) -> list[tuple[Claim, str]]:
    """(leaf, anchor) for every id: a claim, all parts of a claim, or one check by its anchor."""
    chosen, anchors = [], {}
    if any(name.startswith("check-") for name in names):
        anchors = {r.anchor: r.claim for chapter in book.values() for r in _stored(chapter)}
    for name in names:
        if name in anchors:
            chosen.append((claims[anchors[name]], name))
        elif name in claims:
            chosen += [(leaf, "") for leaf in claims[name].parts or [claims[name]]]
        else:
            near = difflib.get_close_matches(name, [*claims, *anchors], n=4, cutoff=0.4)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise BookError(f"no claim and no check is called {name!r}{hint} (--list shows all claims)")
    return chosen


def _say(word: str, text: str) -> None:
    if text:
        print(textwrap.fill(f"{word}: {plain(text.strip())}", 100, subsequent_indent="  "))


def _report(leaf: Claim, anchor: str, found: Found) -> bool:
    """Print what was seen; whether all came out as it must."""
    from lib.checks import _line

    entry = leaf.entry
    print(f"\n{leaf.id}  {plain(entry['title'])}")
    _say(f"printed ({plain(entry.get('where') or '')})", entry.get("printed") or "")
    _say("restated", entry["restated"])
    leaf.checks = [check for check in found.checks if check.record.claim == leaf.id]
    for check in leaf.checks:
        if anchor in ("", check.record.anchor):
            print(f"  {_line(check.record)}")
    failures = [message for claim, message in found.failures if claim == leaf.id]
    for message in failures:
        print(f"  FAILED  {message}")
    if not leaf.checks and not failures:
        raise BookError(f"no cell that ran checks {leaf.id}")
    if failures:
        print(f"verdict: none; {len(failures)} of {len(leaf.checks) + len(failures)} checks came out otherwise")
        return False
    judge(leaf)
    print(f"verdict: {leaf.verdict} (from {len(leaf.checks)} checks)")
    return True


def listing() -> None:
    """Print the id, the chapter and the title of every claim."""
    for claim in registry().values():
        print(f"{claim.id:<26} {claim.entry['chapter']:<18} {plain(claim.entry['title'])}")


def check(names: list[str]) -> bool:
    """Run the checks of claims, print what they saw, and say whether all came out as registered.

    Args:
        names: ids of claims, of parts or of whole ones; or anchors of checks, as in the pages' links.

    Raises:
        BookError: for a name that nothing has, or a cell that fails otherwise than by its check.
    """
    claims, book = registry(), {c.name: c for c in chapters(committed_url())}
    chosen, good = _chosen(names, claims, book), True
    for name in dict.fromkeys(leaf.entry["chapter"] for leaf, _ in chosen):
        mine = [(leaf, anchor) for leaf, anchor in chosen if leaf.entry["chapter"] == name]
        began = time.process_time()
        found = run(book[name], {leaf.id for leaf, _ in mine})
        for leaf, anchor in mine:
            good &= _report(leaf, anchor, found)
        print(f"{found.extent}, in {time.process_time() - began:.1f} s")
    sys.stdout.flush()
    return good
