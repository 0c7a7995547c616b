"""One claim from the command line: which statements it needs, what it prints, and when it says no."""

import nbformat
import pytest
from conftest import ROOT

from press import check, repository
from press.chapters import chapters
from press.ledger import MIME, Record
from press.slicing import needed

BOOK = {c.name: c for c in chapters(repository.committed_url())}


def taken(source, target=-1):
    """The statements that one of them needs, as text."""
    codes = [statement.code for statement in check.statements([source])]
    numbers, why = needed(codes, {target % len(codes)})
    return [codes[k] for k in numbers], why


@pytest.mark.parametrize(
    "kept, left, goal",
    [
        ("a = 1\nb = a + 1", "c = 2", "b"),
        ("x = [1]\nx[0] = 2", "y = [x]", "x"),
        ("x = []\nx.append(1)", "z = 3", "x"),
        ("import numpy as np\nx = np.zeros(1)\nnp.put(x, 0, 2)", "y = np.add(1, 2)", "x"),
        ("def sort(v):\n    v.sort()\nx = [2, 1]\nsort(x)", "print(x)", "x"),
        ("x = 1\nx += 1", "y = 1", "x"),
        ("x = [1, 2]\ndel x[0]", "y = 4\ndel y", "x"),
        ("from types import SimpleNamespace\nx = SimpleNamespace()\nx.a = 1", "b = 1", "x.a"),
        ("k = 2\ndef f():\n    return k", "j = 1", "f()"),
        ("def f():\n    return g()\ndef g():\n    return k\nk = 3", "h = 1", "f()"),
        ("k = 5\nf = lambda v: v + k", "v = 2", "f(1)"),
        ("k = 5\nxs = [v + k for v in range(3)]", "v = 2", "xs"),
        ("xs = (1, 2)\nkw = {'sep': ''}", "args = xs, kw", "print(*xs, **kw)"),
        ("total = 0\nfor v in range(3):\n    total += v", "w = 1", "total"),
        ("class A:\n    k = 1\n    def f(self):\n        return scale\nscale = 2", "f = 3", "A().f()"),
        ("state = {}\ndef put(k):\n    state[k] = 1\nput(3)", "other = {}", "state"),
        ("it = iter([1, 2])\na = next(it)", "other = iter([3])", "next(it)"),
        ("xs = [1]\nif xs:\n    xs = [2]", "ys = 1", "xs"),
        ("import contextlib\nwith contextlib.nullcontext(3) as x:\n    y = x", "z = 1", "y"),
    ],
)
def test_a_slice_has_what_its_goal_needs_and_nothing_else(kept, left, goal):
    wanted = [statement.code for statement in check.statements([kept])]
    goal_ = check.statements([goal])[0].code
    found, why = taken(f"{kept}\n{left}\n{goal}")
    assert found == [*wanted, goal_] and not why
    space = {}
    exec("\n".join(found), space)


@pytest.mark.parametrize(
    "source, found",
    [
        ("x = 1\nx = 2\nx", ["x = 2", "x"]),  # bound anew: what was before does not count
        ("x = 9\ny = [x for x in range(3)]\ny", ["y = [x for x in range(3)]", "y"]),  # a name of its own
        ("x = 9\ndef f(x):\n    return x\nf(1)", ["def f(x):\n    return x", "f(1)"]),
        ("x = 9\nfor x in (1, 2):\n    print(x)", ["for x in (1, 2):\n    print(x)"]),
        (
            "cs = [1]\ndef draw(ax):\n    ax.plot(cs)\nexplore(draw)\ncs",
            ["cs = [1]", "cs"],
        ),  # a picture changes nothing
        ("x = [1]\nrequire(x)\nprint(x)\nx", ["x = [1]", "x"]),
    ],
)
def test_shadowed_names_pictures_and_other_checks_are_left_out(source, found):
    assert taken(source)[0] == found


def test_global_settings_always_count():
    source = (
        "import torch\nimport matplotlib.pyplot as plt\ntorch.set_default_dtype(torch.float64)\nplt.close()\nx = 1\nx"
    )
    found, _ = taken(source)
    assert found == ["import torch", "torch.set_default_dtype(torch.float64)", "x = 1", "x"]


def test_a_setting_made_by_assignment_counts():
    found, _ = taken("from decimal import Decimal, getcontext\ngetcontext().prec = 80\nx = 1\ny = Decimal(1) / 3\ny")
    assert "getcontext().prec = 80" in found and "x = 1" not in found


def test_every_draw_before_counts_also_one_inside_a_function():
    source = """
import torch
g = torch.Generator().manual_seed(0)
a = torch.rand(2, generator=g)
def toss():
    return torch.rand(1, generator=g)
b = toss()
data = torch.rand(3, generator=torch.Generator().manual_seed(1))
c = data.sum()
toss()
"""
    found, _ = taken(source)
    assert [line.partition(" ")[0] for line in found] == ["import", "g", "a", "def", "b", "toss()"]


@pytest.mark.parametrize(
    "blind", ["exec('y = 2')", "globals()['y'] = 2", "import torch\ntorch.manual_seed(0)", "%time 1"]
)
def test_where_names_do_not_tell_everything_before_counts_and_it_says_so(blind):
    codes = ["x = 1", blind, "z = 2", "x", "later = 3"]
    codes = [statement.code for statement in check.statements(codes)]
    numbers, why = needed(codes, {len(codes) - 2})
    assert numbers == list(range(len(codes) - 1)) and "names do not tell" in why


@pytest.mark.parametrize(
    "source, claim, found",
    [
        ("require('a/b', close())", "a/b", [0]),
        ("c = 'a'\nrequire(c, close())\nc = 'b'\nrequire_not(c, close())", "b", [3]),
        ("for c in ('a', 'b'):\n    require(c, close())", "b", [0]),
        ("for k, judge in ((1, require), (2, require_not)):\n    judge(f'a/{k}', close('b'))", "a/one", [0]),
        ("def both(name, x):\n    require(name, close(x))\nboth('a', 1)\nboth('b', 2)", "b", [2]),
        ("require(table[0], close())", "anything", [0]),
    ],
)
def test_the_claims_of_a_requirement_are_found(source, claim, found):
    patterns = check.asked([statement.tree for statement in check.statements([source])])
    assert [k for k, pattern in enumerate(patterns) if pattern and check.re.fullmatch(pattern, claim)] == found


@pytest.mark.parametrize(
    "tex, text",
    [
        (r"$\eta^{2}\le\frac{1}{2n}\sum_{i}x_i$", "η^2≤1/2nΣ_ix_i"),
        (r"$\frac12\lVert\theta\rVert$ on $\{(1,-1)\}$", "1/2‖θ‖ on {(1,-1)}"),
        (r"$\sqrt{\frac{a+b}{\lambda}}$", "√((a+b)/λ)"),
        (r"$\operatorname{Var}(x)\log \delta$", "Var(x)log δ"),
    ],
)
def test_formulas_can_be_read_in_a_terminal(tex, text):
    assert check.plain(tex) == text


# ---------------------------------------------------------------------------------- this book
QUICK = {
    "setting": "eq14-19/paths",
    "two-steps": "toy-d2",
    "every-order": "thm1-matrix",
    "two-weights": "k4-uv",
    "gd-fails": "prop1/one-layer",
    "misspecification": "sec41-phases/gd",
    "noise-decay": "sec41-distance/law",
    "depth-three": "thm2/hypothesis",
    "fully-connected": "k4-fc",
    "weight-decay": "prop9/threshold",
    "relu": "appJ-argument/eq20",
    "figures": "fig11/decay",
    "figures-sine": "fig14/decay",
    "clipping": "clip-threshold",
    "images": "fig7/grey",
    "frame": "digits-linear-frame/step",
    "heads": "head-support/rank",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("name", QUICK)
def test_a_claim_alone_sees_what_its_chapter_saw(name):
    outputs = [
        o for cell in nbformat.read(ROOT / BOOK[name].notebook, as_version=4).cells for o in cell.get("outputs", [])
    ]
    stored = [Record(**o["data"][MIME]) for o in outputs if MIME in o.get("data", {})]
    found = check.run(BOOK[name], {QUICK[name]})
    assert [c.record for c in found.checks] == [record for record in stored if record.claim == QUICK[name]]
    assert found.checks and not found.failures


# --------------------------------------------------------------------------------- the command
def test_the_command_prints_what_it_saw_and_the_verdict(small_book):
    done = small_book.press("check", "half")
    assert done.returncode == 0, done.stderr
    for words in (
        "half  Half of two",
        "restated: 1/2·2 = 1",
        "  holds  half: half of two: gap <= 1e-12\n",
        "  fails  half: half of three: gap 5.00e-01 > 1.00e-12  (as announced)\n",
        "verdict: exact (from 2 checks)",
        "ran 5 of 9 statements, in 2 of 3 cells of book/small.md",
    ):
        assert words in done.stdout, done.stdout
    assert "two halves" not in done.stdout  # what the chapter prints is put aside


def test_a_check_that_comes_out_otherwise_is_shown_and_returns_1(small_book):
    small_book.replace("book/small.md", "0.5 * 2, 1.0", "0.5 * 2, 1.1")
    done = small_book.press("check", "half")
    assert (
        done.returncode == 1 and "FAILED  announced 'holds', but: fails  half: half of two: gap 1.00e-01" in done.stdout
    )
    assert "half of three" in done.stdout and "verdict: none" in done.stdout


def test_an_unknown_name_is_answered_with_near_ones(small_book):
    done = small_book.press("check", "hlaf")
    assert done.returncode == 1 and "'hlaf'; near: half" in done.stderr and "Traceback" not in done.stderr


def test_a_cell_that_breaks_is_one_clear_line(small_book):
    small_book.replace("book/small.md", '"two halves:", 0.5', '"two halves:", 0')
    small_book.replace("book/small.md", "sys.path.insert", "1 / 0\nsys.path.insert")
    assert small_book.press("check", "half").returncode == 0  # a statement that it does not need
    small_book.replace("book/small.md", "1 / 0", "sys.exit_(0)")
    done = small_book.press("check", "half")
    assert done.returncode == 1 and "cell 1 failed: AttributeError" in done.stderr and done.stderr.count("\n") == 1


def test_a_registry_that_its_checks_contradict_is_refused(small_book):
    small_book.replace("book/small.md", 'require_not("half", close("half of three"', 'require("half", close("whole"')
    small_book.replace("book/small.md", "0.5 * 3, 1.0", "0.5 * 4, 2.0")
    done = small_book.press("check", "half")
    assert done.returncode == 1 and "no negative control" in done.stderr


def test_the_list_has_every_claim_and_one_check_has_an_anchor(capsys):
    check.listing()
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed for name in QUICK.values())
    anchor = check.run(BOOK["two-steps"], {"toy-d2"}).checks[0].record.anchor
    assert check.check([anchor])
    told = capsys.readouterr().out
    assert told.count("  holds  toy-d2:") == 1 and "verdict: exact" in told
