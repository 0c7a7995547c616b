"""Which statements of a chapter a check needs: what they read, traced back through names.

Scopes come from `symtable`, so closures, comprehensions and shadowed names are Python's own. Five things
give a name its value: to bind it (assign, import, ``for``, ``del``), to change it in place (``x[0] = 1``, ``x += 1``,
``x.append(1)``, ``shuffle(x)``), to draw from it if it is a random stream or an iterator, and to name a function
that does so. A function reads its free variables when it is called, so they count at every later
cell of the slice. Not seen: a change through a second name of one object. Where names do not tell
(``exec``, a magic, a global seed), every cell before is taken.
"""

import ast
import symtable
from dataclasses import dataclass, field

BLIND = {"exec", "eval", "globals", "locals", "vars", "setattr", "get_ipython", "__import__"}
HARMLESS = {"print", "require", "require_not", "explore", "display"}
STREAMS = {"Generator", "default_rng", "Random", "iter", "map", "zip", "filter", "enumerate", "cycle", "count"}
DRAWING = ("matplotlib", "IPython")
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass
class Function:
    """What a call reads of the cells' names, and what it changes in place."""

    reads: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)


@dataclass
class Cell:
    """What a cell does to names: it reads some `now`, some `later` (in functions), and gives some their value."""

    now: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    sure: set[str] = field(default_factory=set)  # bound anew, whatever they were before
    gives: set[str] = field(default_factory=set)
    functions: dict[str, Function] = field(default_factory=dict)
    streams: set[str] = field(default_factory=set)
    settings: bool = False  # calls something global, such as torch.set_default_dtype
    blind: bool = False


def _word(node) -> str:
    """``f`` of ``f``, ``b`` of ``a.b``."""
    return getattr(node, "id", getattr(node, "attr", ""))


def _root(node) -> str:
    """``x`` of ``x.a[0].b()``."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call | ast.Starred):
        node = node.func if isinstance(node, ast.Call) else node.value
    return getattr(node, "id", "")


def _bound(*nodes) -> set[str]:
    return {n.id for node in nodes if node for n in ast.walk(node) if isinstance(n, ast.Name)}


def _here(node):
    """The nodes of a statement that run with it: not those of functions inside."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FUNCTION):
            yield from _here(child)


def _changed(nodes, modules: dict[str, str]) -> set[str]:
    """Names whose objects are changed in place; a bare call changes its object, or what a function is given."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            found.add(_root(node))
        elif isinstance(node, ast.AugAssign):
            found.add(_root(node.target))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call, owner = node.value, _root(node.value.func)
            if isinstance(call.func, ast.Attribute) and owner not in modules:
                found.add(owner)
            elif _word(call.func) not in HARMLESS and not modules.get(owner, "").startswith(DRAWING):
                given = [*call.args, *(keyword.value for keyword in call.keywords)]
                found |= {_root(part) for part in given if not isinstance(part, ast.Call)}
    return found - {""}


def _free(table: symtable.SymbolTable) -> set[str]:
    """Names of the cells that a scope inside one refers to."""
    return {s.get_name() for s in table.get_symbols() if s.is_global()}.union(*map(_free, table.get_children()))


def _stream(value) -> bool:
    if isinstance(value, ast.Tuple | ast.List):
        return any(map(_stream, value.elts))
    if isinstance(value, ast.ListComp | ast.DictComp):
        return _stream(getattr(value, "elt", None) or value.value)
    while isinstance(value, ast.Call | ast.Attribute):
        if isinstance(value, ast.Call) and _word(value.func) in STREAMS:
            return True
        value = value.func if isinstance(value, ast.Call) else value.value
    return isinstance(value, ast.GeneratorExp)


def _simple(cell: Cell, node: ast.stmt, sure: set[str], modules: dict[str, str]) -> None:
    table = symtable.symtable(ast.unparse(node), "cell", "exec")
    symbols = {s.get_name(): s for s in table.get_symbols()}
    inside = isinstance(node, FUNCTION)
    changed = set() if inside else _changed(_here(node), modules) & set(symbols)
    written = {name for name, s in symbols.items() if s.is_assigned() or s.is_imported()}
    read = {name for name, s in symbols.items() if s.is_referenced()} | changed
    made = Function()
    for child in table.get_children():
        free = _free(child)
        if child.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr") or child.get_type() == "class":
            read |= free
        if child.get_type() != "class" or child.get_children():
            made.reads |= free
    if made.reads:
        globals_ = {name for n in ast.walk(node) if isinstance(n, ast.Global) for name in n.names}
        made.changes = (_changed(ast.walk(node), modules) | globals_) & made.reads
    cell.now |= read - sure
    cell.later |= made.reads
    cell.gives |= written | changed
    cell.functions |= dict.fromkeys(written, made)
    if isinstance(node, ast.Assign | ast.AnnAssign) and _stream(node.value):
        cell.streams |= written
    if not isinstance(node, ast.AugAssign):
        sure |= written


def _statement(cell: Cell, node: ast.stmt, sure: set[str], modules: dict[str, str]) -> None:
    """One statement; `sure` is what the cell has bound by then, whatever happened."""
    if not isinstance(node, ast.For | ast.While | ast.If | ast.With | ast.Try):
        return _simple(cell, node, sure, modules)
    items = getattr(node, "items", [])
    heads = [getattr(node, "iter", None), getattr(node, "test", None), *(item.context_expr for item in items)]
    for head in filter(None, heads):
        _simple(cell, ast.Assign([ast.Name("_", ast.Store())], head, lineno=0), sure, modules)
    bound = _bound(getattr(node, "target", None), *(item.optional_vars for item in items))
    handlers = getattr(node, "handlers", [])
    bound |= {handler.name for handler in handlers if handler.name}
    cell.gives |= bound
    for body in (node.body, getattr(node, "orelse", []), getattr(node, "finalbody", []), *(h.body for h in handlers)):
        inner = sure | bound
        for child in body:
            _statement(cell, child, inner, modules)
        if isinstance(node, ast.With):
            sure |= inner
            break
    return None


def read(code: str, modules: dict[str, str]) -> Cell:
    """What a cell does to names; `modules` says from where cells so far imported theirs, and grows."""
    cell = Cell()
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a magic
        cell.blind = True
        return cell
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {(alias.asname or alias.name.split(".")[0]): alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {(alias.asname or alias.name): node.module or "" for alias in node.names}
        elif isinstance(node, ast.Name) and node.id in BLIND:
            cell.blind = True
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            module = modules.get(_root(node.value.func), "")
            if module and not module.startswith(DRAWING) and _word(node.value.func) not in HARMLESS:
                cell.settings = True
                cell.blind |= "seed" in _word(node.value.func)
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            cell.settings |= not modules.get(_root(node), DRAWING[0]).startswith(DRAWING)
    for node in tree.body:
        _statement(cell, node, cell.sure, modules)
    return cell


def _follow(cells: list[Cell]) -> None:
    """To name a stream is to advance it, and to name a function is to do what it does."""
    does: dict[str, set[str]] = {}
    for cell in cells:
        for name, function in cell.functions.items():
            does[name] = function.changes.union(*(does.get(other, set()) for other in function.reads))
            if name in cell.streams:
                does[name] = {name}
        cell.gives |= set().union(*(does.get(name, set()) for name in cell.now))


def needed(codes: list[str], targets: set[int]) -> tuple[list[int], str]:
    """The cells that must run for the targets to see what they see in the whole chapter.

    Args:
        codes: the chapter's code cells.
        targets: numbers of the cells that are wanted.

    Returns:
        Their numbers in order, the targets' too; and why it is all of them, or "".
    """
    modules: dict[str, str] = {}
    cells = [read(code, modules) for code in codes[: max(targets) + 1]]
    if blind := [k for k, cell in enumerate(cells) if cell.blind]:
        return list(range(len(cells))), f"names do not tell what cell {blind[0] + 1} does"
    _follow(cells)
    chosen = targets | {k for k, cell in enumerate(cells) if cell.settings}
    seen: set[tuple[str, int]] = set()

    def wanted() -> set[tuple[str, int]]:
        """(name, cell): values that a chosen cell must find."""
        now = {(name, k) for k in chosen for name in cells[k].now}
        return now | {(name, user) for k in chosen for user in chosen if user >= k for name in cells[k].later}

    while todo := wanted() - seen:
        seen |= todo
        for name, user in todo:
            for k in reversed(range(user)):
                if name in cells[k].gives:
                    chosen.add(k)
                    if name in cells[k].sure:
                        break
    return sorted(chosen), ""
