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

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from graphlib import CycleError, TopologicalSorter

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
OURS = "not in the paper"
SECTIONS = [*(f"§{number}" for number in range(1, 8)), *(f"App. {letter}" for letter in "ABCDEFGHIJK"), OURS]
PLACE = re.compile(r"(§[1-7]|(?:\bApp(?:\.|endix|endices) |\b(?=[A-K]\.\d))[A-K]\b)(?:\.(\d))?")


@dataclass
class Check:
    """One executed requirement and where it stands."""

    page: str
    record: Record


@dataclass
class Claim:
    """One row: a registry entry, its checks, the parts it is split into, and what it rests on and carries."""

    id: str
    entry: dict
    checks: list[Check] = field(default_factory=list)
    parts: list["Claim"] = field(default_factory=list)
    uses: list["Claim"] = field(default_factory=list, repr=False, compare=False)
    carries: list["Claim"] = field(default_factory=list, repr=False, compare=False)

    @property
    def place(self) -> str:
        return f"{self.id} in book/claims/{self.entry['chapter']}.yml"

    @property
    def section(self) -> str:
        """The section of the paper where the statement is printed, one of `SECTIONS`."""
        return SECTIONS[self.order[0]]

    @property
    def order(self) -> tuple[int, int]:
        """Where the statement stands in the paper; what is not printed comes last.

        Raises:
            BookError: if it is printed, and `where` names no section.
        """
        printed, place = self.entry.get("printed"), PLACE.search(self.entry.get("where") or "")
        if printed and not place:
            raise BookError(f"{self.place}: where names no section of the paper, got {self.entry.get('where')!r}")
        if not place or not (printed or self.parts):
            return SECTIONS.index(OURS), 0
        name = place[1] if place[1][0] == "§" else f"App. {place[1][-1]}"
        return SECTIONS.index(name), int(place[2] or 0)

    @property
    def failed(self) -> bool:
        """Whether it, or a part of it, is false as stated, and not by a misprint."""
        if self.parts:
            return any(part.failed for part in self.parts)
        return self.verdict == FALSE and self.entry["kind"] != "misprint"

    @property
    def carried(self) -> bool:
        """Whether it rests on a failed statement, directly or through others."""
        return any(c.failed or c.carried for c in self.uses) or any(part.carried for part in self.parts)

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
            required += ["printed", "where", "kind", "why", "counterexample"]
        if missing := [key for key in required if not claim.entry.get(key)]:
            raise BookError(f"{claim.place} lacks {', '.join(missing)}")
        if not claim.parts and claim.entry["reading"] not in READINGS:
            raise BookError(f"{claim.place}: reading must be one of {READINGS}, got {claim.entry['reading']!r}")
        if claim.entry.get("kind", KINDS[0]) not in KINDS:
            raise BookError(f"{claim.place}: kind must be one of {KINDS}, got {claim.entry['kind']!r}")
        assert claim.section in SECTIONS
    _connect(claims)
    return claims


def _connect(claims: dict[str, Claim]) -> None:
    """Tell every claim what it rests on and what it carries; whoever rests on a claim rests on its parts."""
    for claim in claims.values():
        for name in claim.entry.get("uses") or []:
            if name not in claims:
                raise BookError(f"{claim.place} uses {name!r}, which is not in book/claims/")
            claim.uses.append(claims[name])
            claims[name].carries.append(claim)
    try:
        TopologicalSorter({c.id: [d.id for d in [*c.uses, *c.parts]] for c in claims.values()}).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]
        raise BookError(f"{claims[circle[0]].place} rests on itself: {' uses '.join(circle)}") from error


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


def judge(claim: Claim) -> None:
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
        judge(claim)
    return list(claims.values())


def as_json(claims: list[Claim]) -> list[dict]:
    """The ledger as data: what `claims.json` beside the page holds."""
    return [
        {
            "id": c.id,
            "verdict": c.verdict,
            **c.entry,
            "section": c.section,
            "uses": [d.id for d in c.uses],
            "carries": [d.id for d in c.carries],
            "parts": [part.id for part in c.parts],
            "checks": [
                {"page": k.page, "anchor": k.record.anchor, "role": k.record.role, **asdict(k.record)} for k in c.checks
            ],
        }
        for c in claims
    ]


def label(claim: str) -> str:
    """Where the claim stands on the ledger's page; in lower case, as Sphinx writes every anchor."""
    return "claim-" + claim.replace("/", "-").lower()
