"""The claims ledger: every verdict is computed from the checks that ran, never typed.

`book/claims/CHAPTER.yml` says what was printed, where, and how we restate it. The executed notebooks
hold the records of their checks. From both follows the verdict:

* no record: **not checked**
* the printed statement failed a check inside its own hypotheses, and our statement adds a
  hypothesis: **holds under added conditions**; or replaces it: **false as stated**
* otherwise **exact**, when every check of our statement is an identity (exact, or to round-off),
  else **holds**

What the registry says and what the checks found must fit together, or the build stops.
"""

import html
from collections import Counter
from dataclasses import asdict, dataclass, field

import yaml

from lib.checks import MIME, Record
from press import ROOT, BookError
from press.chapters import pages

REGISTRY = ROOT / "book" / "claims"
EXACT, HOLDS, CONDITIONS, FALSE, UNCHECKED = (
    "exact",
    "holds",
    "holds under added conditions",
    "false as stated",
    "not checked",
)
READINGS = ("same", "ours", "conditions", "corrected")
KINDS = ("misprint", "missing hypothesis", "wrong statement")


@dataclass
class Check:
    """One executed requirement and where it stands."""

    page: str
    record: Record


@dataclass
class Claim:
    """One row: a registry entry, its checks, and the parts it is split into."""

    id: str
    entry: dict
    checks: list[Check] = field(default_factory=list)
    parts: list["Claim"] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.id} in book/claims/{self.entry['chapter']}.yml"

    def of(self, role: str) -> list[Check]:
        return [check.record for check in self.checks if check.record.role == role]

    @property
    def verdict(self) -> str:
        if self.parts:
            counts = Counter(part.verdict for part in self.parts)
            if len(counts) == 1:
                return next(iter(counts))
            return ", ".join(f"{count} of {len(self.parts)} {verdict}" for verdict, count in counts.most_common())
        if not self.checks:
            return UNCHECKED
        if any(record.verdict == "fails" for record in self.of("as printed")):
            return CONDITIONS if self.entry["reading"] == "conditions" else FALSE
        return EXACT if all(record.identity for record in self.of("check")) else HOLDS


def registry() -> dict[str, Claim]:
    """The claims of `book/claims/`, in the order of the table of contents, parts after their parents.

    Raises:
        BookError: naming the entry and the field that is missing or unknown, or a file without a chapter.
    """
    claims = {}
    files = {place.stem: place for place in sorted(REGISTRY.glob("*.yml"))}
    for chapter in [page.stem for page in pages() if page.stem in files]:
        entries = yaml.safe_load(files.pop(chapter).read_text(encoding="utf-8")) or {}
        for name, entry in entries.items():
            if name in claims:
                raise BookError(f"book/claims/{chapter}.yml: {claims[name].place} has that name too")
            claims[name] = Claim(name, {"chapter": chapter, **entry})
    if files:
        raise BookError(f"book/claims/{next(iter(files))}.yml belongs to no page of _toc.yml")
    for name, claim in claims.items():
        parent = name.split("/")[0]
        if parent != name:
            if parent not in claims:
                raise BookError(f"{claim.place} is a part of {parent}, which has no entry")
            claims[parent].parts.append(claim)
    for claim in claims.values():
        required = ["title"] if claim.parts else ["title", "restated", "reading"]
        if not claim.parts and claim.entry.get("reading") in ("conditions", "corrected"):
            required += ["printed", "where", "kind", "why"]
        if missing := [key for key in required if not claim.entry.get(key)]:
            raise BookError(f"{claim.place} lacks {', '.join(missing)}")
        if not claim.parts and claim.entry["reading"] not in READINGS:
            raise BookError(f"{claim.place}: reading must be one of {READINGS}, got {claim.entry['reading']!r}")
        if claim.entry.get("kind", KINDS[0]) not in KINDS:
            raise BookError(f"{claim.place}: kind must be one of {KINDS}, got {claim.entry['kind']!r}")
    return claims


def _collect(claims: dict[str, Claim], notebooks: dict) -> None:
    seen = set()
    for page, notebook in notebooks.items():
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                if MIME not in output.get("data", {}):
                    continue
                record = Record(**output["data"][MIME])
                claim = claims.get(record.claim)
                if claim is None or claim.parts:
                    why = "has parts; name one of them" if claim else "is not in book/claims/"
                    raise BookError(f"{page}: a check names the claim {record.claim!r}, which {why}")
                if record.anchor in seen:
                    raise BookError(f"{page}: two checks of {record.claim} are both called {record.what!r}")
                seen.add(record.anchor)
                claim.checks.append(Check(page, record))


def _judge(claim: Claim) -> None:
    """What a claim says of itself must fit what its checks found."""
    if claim.parts or not claim.checks:
        return
    refuted = [record for record in claim.of("as printed") if record.verdict == "fails"]
    corrects = claim.entry["reading"] in ("conditions", "corrected")
    if not claim.of("check"):
        raise BookError(f"{claim.id}: no check supports our statement of it")
    if not claim.of("control"):
        raise BookError(f"{claim.id}: its checks have no negative control")
    if refuted and not corrects:
        raise BookError(f"{claim.id}: a check refutes the printed statement, but its entry has no correction")
    if corrects and not refuted:
        raise BookError(f"{claim.id}: its entry corrects the printed statement, but no check refutes it")


def ledger(notebooks: dict) -> list[Claim]:
    """Every claim with its checks, in the registry's order.

    Args:
        notebooks: executed notebooks by page name.

    Raises:
        BookError: if a check names an unknown claim, a claim lacks a control, or an entry and
            its checks contradict one another.
    """
    claims = registry()
    _collect(claims, notebooks)
    for claim in claims.values():
        _judge(claim)
    return list(claims.values())


def as_json(claims: list[Claim]) -> list[dict]:
    """The ledger as data: what `claims.json` beside the page holds."""
    return [
        {
            "id": c.id,
            "verdict": c.verdict,
            **c.entry,
            "parts": [part.id for part in c.parts],
            "checks": [
                {"page": k.page, "anchor": k.record.anchor, "role": k.record.role, **asdict(k.record)} for k in c.checks
            ],
        }
        for c in claims
    ]


# ------------------------------------------------------------------------------------ the page
ROLES = ("check", "as printed", "control")
CLASSES = {EXACT: "exact", HOLDS: "holds", CONDITIONS: "conditions", FALSE: "false", UNCHECKED: "unchecked"}


def label(claim: str) -> str:
    return "claim-" + claim.replace("/", "-")


def _badge(verdict: str) -> str:
    return f'<span class="verdict verdict-{CLASSES[verdict]}">{html.escape(verdict)}</span>'


def _badges(claim: Claim) -> str:
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


def _section(claim: Claim) -> str:
    entry, part = claim.entry, "/" in claim.id
    lines = [
        f"({label(claim.id)})=",
        f"{'####' if part else '###'} `{claim.id}` {entry['title']}",
        "",
        _badges(claim),
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
    if not claim.parts:
        found = sorted(claim.checks, key=lambda check: ROLES.index(check.record.role))
        body = "\n".join(_evidence(check) for check in found) or "<li>no check names this claim yet</li>"
        lines += [f'<ul class="evidence">\n{body}\n</ul>', ""]
    return "\n".join(lines)


def as_myst(claims: list[Claim]) -> str:
    """The ledger as MyST text: counts, an overview table, and a section per claim."""
    rows = [c for c in claims if not c.parts]
    counts = Counter(c.verdict for c in rows)
    order = [v for v in CLASSES if counts[v]]
    checks = sum(len(c.checks) for c in rows)
    found = ", ".join(f"{counts[v]} {_badge(v)}" for v in order)
    text = [f"**{len(rows)} statements, {checks} checks**: {found}", ""]
    text += ["| claim | statement and verdict |", "|---|---|"]
    for c in claims:
        text.append(f"| [`{c.id}`](#{label(c.id)}) | {c.entry['title']}<br>{_badges(c)} |")
    text += ["", "## Claim by claim", ""]
    return "\n".join(text + [_section(c) for c in claims])
