"""MyST text as plain markdown: Colab and GitHub show no directives, roles or labels.

The notebooks' text cells are made here. A directive or role without a plain form is an error, so
nothing reaches a reader raw.
"""

import re
from pathlib import Path

from pybtex.database import BibliographyData, parse_file

from press import ROOT, BookError
from press.chapters import chapter
from press.repository import committed_url, pages_url

TITLES = {
    "prf:theorem": "Theorem",
    "prf:lemma": "Lemma",
    "prf:proposition": "Proposition",
    "prf:definition": "Definition",
    "prf:remark": "Remark",
    "prf:example": "Example",
    "prf:proof": "Proof",
    "prf:corollary": "Corollary",
    "exercise": "Exercise",
    "note": "Note",
    "tip": "Tip",
    "warning": "Warning",
    "important": "Important",
    "admonition": "",
}
SILENT = ("bibliography", "tableofcontents", "solution-end")
BLOCK = re.compile(
    r"^(?P<fence>:{3,}|`{3,})\{(?P<kind>[\w:-]+)\}[ \t]*(?P<title>[^\n]*)\n"
    r"(?P<options>(?::[\w-]+:[^\n]*\n)*)(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.M | re.S,
)
ROLE = re.compile(r"\{(?P<role>[\w:]+)\}`(?:(?P<text>[^`<]*?)\s*<)?(?P<target>[^`>]+)>?`")


def _labels(texts: list[str]) -> dict[str, str]:
    """What a reference to a label says, over all pages."""
    labels = {}
    for text in texts:
        for block in BLOCK.finditer(text):
            if label := re.search(r":label:\s*(\S+)", block["options"]):
                title = block["title"].strip()
                kind = TITLES.get(block["kind"], "")
                labels[label[1]] = f"{kind} ({title})" if kind and title else kind or f"({label[1]})"
        for label, heading in re.findall(r"^\(([\w:-]+)\)=\n#+ (.*)$", text, re.M):
            labels[label] = f"“{heading}”"
    return labels


def _cite(bibliography: BibliographyData, keys: str, textual: bool) -> str:
    cited = []
    for key in keys.split(","):
        entry = bibliography.entries.get(key.strip())
        if entry is None:
            raise BookError(f"references.bib has no entry {key.strip()!r}")
        names = [" ".join(person.last_names) for person in entry.persons["author"]]
        who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        text = f"{who}, {entry.fields['year']}".replace("{", "").replace("}", "")
        cited.append(f"[{text}](https://doi.org/{entry.fields['doi']})" if "doi" in entry.fields else text)
    return "; ".join(cited) if textual else f"({'; '.join(cited)})"


class Plain:
    """Turns one text cell after another into plain markdown."""

    def __init__(self, texts: list[str], bibliography: Path = ROOT / "book" / "references.bib"):
        self.labels = _labels(texts)
        self.bibliography = parse_file(str(bibliography))

    def _block(self, block: re.Match) -> str:
        kind, title, body = block["kind"], block["title"].strip(), block["body"].strip()
        if kind == "math":
            label = re.search(r":label:\s*(\S+)", block["options"])
            tag = " \\tag{" + label[1] + "}" if label else ""
            return f"$$\n{body}{tag}\n$$"
        if kind in SILENT:
            return ""
        if kind == "solution-start":
            return "**Solution.**"
        if kind not in TITLES:
            return block[0]
        name = TITLES[kind]
        head = (f"{name} ({title})" if title else name) if name else title
        return "\n".join(f"> {line}".rstrip() for line in f"**{head}.**\n\n{body}".splitlines())

    def _role(self, match: re.Match) -> str:
        role, text, target = match["role"], match["text"], match["target"]
        if role in ("cite:p", "cite", "cite:t"):
            return _cite(self.bibliography, target, textual=role == "cite:t")
        if role in ("eq", "ref", "prf:ref"):
            if target not in self.labels:
                raise BookError(f"{match[0]} refers to a label that no page has")
            return text or self.labels[target]
        return match[0]

    def __call__(self, text: str) -> str:
        for _ in range(3):  # blocks inside blocks
            text = BLOCK.sub(self._block, text)
        text = ROLE.sub(self._role, text)
        text = re.sub(r"^\([\w:-]+\)=\n", "", text, flags=re.M)
        text = re.sub(r"\]\((?P<page>[\w-]+\.md)?(?P<anchor>#[\w:-]+)?\)", self._link, text)
        if left := re.search(r"\{[a-z]+(?::[a-z]+)?\}`|^:{3,}\S*", text, re.M):
            raise BookError(f"no plain form for {text[left.start() : left.start() + 60]!r}")
        return text.strip()

    def _link(self, match: re.Match) -> str:
        """Links between notebooks stay; what is no notebook (the ledger, say) is linked on the site."""
        page, anchor = match["page"] or "", match["anchor"] or ""
        if not page and anchor.startswith("#claim-"):
            page = "ledger.md"
        if not page:
            return match[0]
        name = page.removesuffix(".md")
        if chapter(Path("book") / page, "") is not None:
            return f"]({name}.ipynb)"
        return f"]({pages_url(committed_url())}book/{name}.html{anchor})"
