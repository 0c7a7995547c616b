"""What rests on what, drawn: an arrow leads from each premise to the statement that its proof carries.

A statement in parts is one node. The columns are a layering: an arrow leads to the right, and one that
passes other columns has a place of its own in each.
"""

import html
from graphlib import CycleError, TopologicalSorter

from press import BookError
from press.ledger import Claim, label

LETTERS = {"exact": "E", "holds": "H", "conditions": "C", "false": "F", "unchecked": "?"}
HEIGHT, ROW, LANE, GAP, CHARACTER = 24, 34, 12, 56, 7.3  # pixels, at a font of 12


def edges(claims: list[Claim]) -> set[tuple[str, str]]:
    """(premise, conclusion), with the parts of a statement taken together."""
    pairs = {(d.id.split("/")[0], c.id.split("/")[0]) for c in claims for d in c.uses}
    return {(a, b) for a, b in pairs if a != b}


def _columns(pairs: set[tuple[str, str]]) -> dict[str, int]:
    before = {b: {a for a, c in pairs if c == b} for pair in pairs for b in pair}
    column = {}
    try:
        for name in TopologicalSorter(before).static_order():
            column[name] = 1 + max((column[a] for a in before[name]), default=-1)
    except CycleError as error:
        raise BookError(f"statements rest on one another: {' uses '.join(error.args[1][::-1])}") from error
    for name in column:  # a premise stands just before what it first carries
        if not before[name]:
            column[name] = min(column[b] for a, b in pairs if a == name) - 1
    return column


def _chains(pairs, column) -> list[list]:
    """Every edge as the places it passes: its ends, and a lane in each column between."""
    return [[a, *((a, b, k) for k in range(column[a] + 1, column[b])), b] for a, b in sorted(pairs)]


def _heights(names: list[str], column: dict[str, int], chains: list[list]) -> dict:
    """The height of every place: few crossings (barycentres), then short edges."""
    links = [pair for chain in chains for pair in zip(chain, chain[1:], strict=False)]
    near = {}
    for a, b in links:
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    where = {name: column[name] for name in names if name in near}
    where |= {lane: lane[2] for chain in chains for lane in chain[1:-1]}
    layers = [[place for place in where if where[place] == k] for k in sorted(set(where.values()))]
    y = {place: 20.0 * row for layer in layers for row, place in enumerate(layer)}

    def goal(place):
        return sum(y[other] for other in near[place]) / len(near[place])

    def step(a, b):
        return (LANE if isinstance(a, tuple) else ROW) / 2 + (LANE if isinstance(b, tuple) else ROW) / 2

    for sweep in range(60):
        for layer in layers if sweep % 2 else reversed(layers):
            goals = {place: goal(place) for place in layer}
            if sweep < 40:
                layer.sort(key=goals.get)
            down, up = [], []
            for row, place in enumerate(layer):
                low = down[-1] + step(layer[row - 1], place) if row else goals[place]
                down.append(max(goals[place], low))
            for row, place in reversed(list(enumerate(layer))):
                high = up[-1] - step(place, layer[row + 1]) if up else goals[place]
                up.append(min(goals[place], high))
            y |= {place: (a + b) / 2 for place, a, b in zip(layer, down, up[::-1], strict=True)}
    top = min(y.values())
    return {place: round(value - top) for place, value in y.items()}


def _groups(chains: list[list]) -> list[list[list]]:
    """The chains, in groups that share no statement; the largest first."""
    groups = []
    for chain in chains:
        ends = {chain[0], chain[-1]}
        joined = [g for g in groups if any(ends & {other[0], other[-1]} for other in g)]
        groups = [g for g in groups if g not in joined] + [[*(c for g in joined for c in g), chain]]
    return sorted(groups, key=len, reverse=True)


def draw(claims: list[Claim], classes: dict[str, str]) -> list[str]:
    """The graph as inline SVG, coloured by style sheets, with its legend; every node links to its claim.

    Args:
        claims: the ledger.
        classes: the class of each verdict, best first.
    """
    pairs, by_name = edges(claims), {c.id: c for c in claims}
    column = _columns(pairs)
    names = [c.id for c in claims if c.id in column]
    chains, y, top = _chains(pairs, column), {}, ROW // 2 + 4
    for group in _groups(chains):
        heights = _heights(names, column, group)
        y |= {place: top + height for place, height in heights.items()}
        top += max(heights.values()) + ROW
    order = list(classes.values())

    def found(name):
        claim = by_name[name]
        return sorted({classes[part.verdict] for part in claim.parts or [claim]}, key=order.index, reverse=True)

    letters = {name: "".join(LETTERS[kind] for kind in found(name)) for name in names}
    width = {name: round(CHARACTER * (len(name) + len(letters[name])) + 26) for name in names}
    left, edge = [], 6
    for k in range(max(column.values()) + 1):
        left.append(edge)
        edge += max(width[name] for name in names if column[name] == k) + GAP
    right = [x - GAP for x in [*left[1:], edge]]
    size = edge - GAP + 8, top - ROW // 2 + 4

    def path(chain):
        start = left[column[chain[0]]] + width[chain[0]]
        parts = [f"M{start},{y[chain[0]]} H{right[column[chain[0]]]}"]
        for was, now in zip(chain, chain[1:], strict=False):
            k = column[now] if isinstance(now, str) else now[2]
            end, begin = left[k] - (2 if isinstance(now, str) else 0), right[k - 1]
            middle = (begin + end) / 2
            parts.append(f"C{middle:g},{y[was]} {middle:g},{y[now]} {end},{y[now]}")
            if not isinstance(now, str):
                parts.append(f"H{right[k]}")
        return f'<path class="edge" data-from="{chain[0]}" data-to="{chain[-1]}" d="{" ".join(parts)}"/>'

    def node(name):
        claim, x, w, k = by_name[name], left[column[name]], width[name], found(name)
        said = ", ".join(v for v in classes if classes[v] in k)
        carried = " carried" if claim.carried else ""
        ring = f'<rect class="ring" x="-3" y="-3" width="{w + 6}" height="{HEIGHT + 6}" rx="7"/>' if carried else ""
        tag = round(CHARACTER * len(letters[name]) + 10)
        words = html.escape(f"{name}: {said}{'; rests on a statement that is false as stated' * bool(carried)}")
        return (
            f'<a class="node node-{k[0]}{carried}" href="#{label(name)}" data-claim="{name}" aria-label="{words}" '
            f'transform="translate({x},{y[name] - HEIGHT // 2})">{ring}'
            f'<rect class="box" width="{w}" height="{HEIGHT}" rx="4"/>'
            f'<path class="tag" d="M{tag},0 H4 Q0,0 0,4 V{HEIGHT - 4} Q0,{HEIGHT} 4,{HEIGHT} H{tag} Z"/>'
            f'<text class="letters" x="{tag / 2:g}" y="16">{letters[name]}</text>'
            f'<text x="{tag + 6}" y="16">{html.escape(name)}</text></a>'
        )

    legend = ", ".join(f"<b>{LETTERS[kind]}</b> {verdict}" for verdict, kind in classes.items())
    return [
        f'<p class="graph-legend">{legend}. A statement in parts has the letters of all of them. Dashed ring: rests, '
        "directly or not, on a statement that is false as stated (misprints apart). Point at a node to see what it "
        "carries.</p>",
        '<div class="graph" tabindex="0" role="group" aria-label="Graph of what rests on what; it scrolls sideways">',
        f'<svg viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" height="{size[1]}" role="group" '
        'aria-labelledby="graph-title graph-words">',
        '<title id="graph-title">What rests on what</title>',
        f'<desc id="graph-words">{len(names)} statements, {len(pairs)} arrows, each from a premise to what its proof '
        "carries. The same in words: the lists Rests on and Carries of each claim below.</desc>",
        '<defs><marker id="graph-arrow" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0,0 L6,3 L0,6 Z"/></marker></defs>',
        *map(path, chains),
        *map(node, names),
        "</svg>",
        "</div>",
        "",
    ]
