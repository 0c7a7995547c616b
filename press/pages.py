"""The pages computed from the claims: the ledger with its filter, and the errata."""

import html
from collections import Counter

from press.graph import draw
from press.ledger import CONDITIONS, EXACT, FALSE, HOLDS, KINDS, SECTIONS, UNCHECKED, Check, Claim, label

ROLES = ("check", "as printed", "control")
CLASSES = {EXACT: "exact", HOLDS: "holds", CONDITIONS: "conditions", FALSE: "false", UNCHECKED: "unchecked"}
CONSEQUENCES = dict(zip(KINDS, ("Misprints", "Missing hypotheses", "Statements that fail"), strict=True))


def _badge(verdict: str) -> str:
    return f'<span class="verdict verdict-{CLASSES[verdict]}">{html.escape(verdict)}</span>'


def badges(claim: Claim) -> str:
    """The claim's verdict, or how many of its parts have which."""
    if not claim.parts:
        return _badge(claim.verdict)
    counts = Counter(part.verdict for part in claim.parts)
    return " ".join(f"{counts[verdict]} × {_badge(verdict)}" for verdict in CLASSES if counts[verdict])


def _evidence(check: Check) -> str:
    record, page = check.record, check.page.rpartition("/")[2]
    link = f'<a class="check-what" href="{page}.html#{record.anchor}">{html.escape(record.what)}</a>'
    kind = record.role.replace(" ", "-")
    return f'<li class="check check-{record.verdict} role-{kind}">{record.page(link)}</li>'


def _list(checks: list[Check]) -> list[str]:
    body = "\n".join(map(_evidence, checks)) or "<li>no check names this claim yet</li>"
    return [f'<ul class="evidence">\n{body}\n</ul>', ""]


# ---------------------------------------------------------------------------------- the ledger
def _links(word: str, claims: list[Claim]) -> list[str]:
    named = ", ".join(f"[`{c.id}`](#{label(c.id)}) {badges(c)}" for c in claims)
    return [f"**{word}**: {named}", ""] if claims else []


def _section(claim: Claim) -> str:
    entry, part = claim.entry, "/" in claim.id
    lines = [
        f"({label(claim.id)})=",
        f"{'####' if part else '###'} `{claim.id}` {entry['title']}",
        "",
        badges(claim),
        "",
    ]
    where = f" in version 1, {entry['where']}" if entry.get("where") else ""
    if entry.get("printed"):
        lines += [f"**Printed**{where}: “{entry['printed'].strip()}”", ""]
    elif not claim.parts and entry["reading"] == "ours":
        lines += ["**Not in the paper.**", ""]
    if entry.get("restated"):
        word = {"conditions": "With the added condition", "corrected": "Corrected"}.get(entry["reading"], "Tested")
        lines += [f"**{word}**: {entry['restated'].strip()}", ""]
    if entry.get("why"):
        lines += [f"**{entry['kind'].capitalize()}**: {entry['why'].strip()}", ""]
    lines += _links("Rests on", claim.uses) + _links("Carries", claim.carries)
    if not claim.parts:
        lines += _list(sorted(claim.checks, key=lambda check: ROLES.index(check.record.role)))
    return "\n".join(lines)


def _filter(rows: list[Claim]) -> list[str]:
    """Hidden until ledger.js, which reads the table, takes it up: without it everything is shown."""
    verdicts, sections = Counter(c.verdict for c in rows), Counter(c.section for c in rows)
    boxes = "".join(
        f'<label><input type="checkbox" name="verdict" value="{v}"> {_badge(v)} {verdicts[v]}</label>'
        for v in CLASSES
        if verdicts[v]
    )
    options = "".join(f'<option value="{s}">{s} ({sections[s]})</option>' for s in SECTIONS if sections[s])
    return [
        '<form class="ledger-filter" id="ledger-filter" hidden>',
        f"<fieldset><legend>Verdict</legend>{boxes}</fieldset>",
        f'<label>Section <select name="section"><option value="">all</option>{options}</select></label>',
        '<label>Words <input type="search" name="words"></label>',
        '<button type="reset">Show all</button>',
        '<p id="ledger-count" role="status"></p>',
        "</form>",
        "",
    ]


def ledger(claims: list[Claim]) -> str:
    """The ledger as MyST text: counts, the filter, an overview table, the graph, and a section per claim."""
    rows = [c for c in claims if not c.parts]
    counts = Counter(c.verdict for c in rows)
    checks = sum(len(c.checks) for c in rows)
    found = ", ".join(f"{counts[v]} {_badge(v)}" for v in CLASSES if counts[v])
    text = [f"**{len(rows)} statements, {checks} checks**: {found}", "", *_filter(rows)]
    text += ["| claim | section | statement and verdict |", "|---|---|---|"]
    for c in claims:
        text.append(f"| [`{c.id}`](#{label(c.id)}) | {c.section} | {c.entry['title']}<br>{badges(c)} |")
    if any(c.uses for c in claims):
        text += ["", "## What rests on what", "", *draw(claims, CLASSES)]
    text += ["", "## Claim by claim", ""]
    return "\n".join(text + [_section(c) for c in claims])


# ---------------------------------------------------------------------------------- the errata
def _erratum(claim: Claim) -> str:
    entry = claim.entry
    refuting = [k for k in claim.checks if k.record.role == "as printed" and k.record.verdict == "fails"]
    word = "With the added condition" if entry["reading"] == "conditions" else "Correction"
    lines = [
        f"(erratum-{label(claim.id)})=",
        f"### {_place(claim)}: {entry['title']}",
        "",
        f"**Printed**: “{entry['printed'].strip()}”",
        "",
        f"**Smallest counterexample**: {entry['counterexample'].strip()}",
        "",
        f"**Why**: {entry['why'].strip()}",
        "",
        f"**{word}**: {entry['restated'].strip()}",
        "",
        f"**Evidence** ([`{claim.id}` in the ledger](#{label(claim.id)})):",
        "",
    ]
    return "\n".join(lines + _list(refuting + [k for k in claim.checks if k.record.role == "check"]))


def _place(claim: Claim) -> str:
    return claim.entry["where"].strip()


def errata(claims: list[Claim]) -> str:
    """The errata as MyST text: a table, then every statement by consequence, in the paper's order."""
    rows = [c for c in claims if not c.parts and c.verdict in (FALSE, CONDITIONS)]
    rows.sort(key=lambda c: (KINDS.index(c.entry["kind"]), c.order))
    text = ["| place | what | kind |", "|---|---|---|"]
    for c in rows:
        text.append(f"| {_place(c)} | [{c.entry['title']}](#erratum-{label(c.id)}) | {c.entry['kind']} |")
    for kind, heading in CONSEQUENCES.items():
        if found := [c for c in rows if c.entry["kind"] == kind]:
            text += ["", f"## {heading}", "", *map(_erratum, found)]
    return "\n".join(text)
