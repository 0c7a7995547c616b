"""The chapters: which pages hold code, what the code is, and which modules of `lib/` it reaches."""

import ast
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

import jupytext
import yaml

from press import ROOT, BookError
from press.repository import TOKEN


@dataclass(frozen=True)
class Chapter:
    """An executable page. `source` has the repository's URL filled in; `path` is relative to the root."""

    path: Path
    source: str

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def notebook(self) -> Path:
        return self.path.with_suffix(".ipynb")

    def read(self):
        """The notebook that the text stands for, without outputs."""
        return jupytext.reads(self.source, fmt="md:myst")

    def code(self) -> list[str]:
        return [cell.source for cell in self.read().cells if cell.cell_type == "code"]


def pages() -> list[Path]:
    """Every page of the table of contents, in its order, relative to the root."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found = [toc["root"]]

    def walk(node):
        for entry in node.get("chapters", []) + node.get("sections", []) + node.get("parts", []):
            if "file" in entry:
                found.append(entry["file"])
            walk(entry)

    walk(toc)
    paths = [Path(f"{name}.md") for name in found]
    for path in paths:
        if not (ROOT / path).is_file():
            raise BookError(f"_toc.yml names {path.with_suffix('')}, but there is no {path}")
    return paths


def chapter(path: Path, repository: str) -> Chapter | None:
    """The page as a chapter, or None when it holds no code."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if "format_name: myst" not in text.split("\n---", 1)[0]:
        if "```{code-cell}" in text:
            raise BookError(f"{path} has code cells, but no jupytext header: they would not be run")
        return None
    return Chapter(path, text.replace(TOKEN, repository))


def chapters(repository: str) -> list[Chapter]:
    return [c for path in pages() if (c := chapter(path, repository))]


# ------------------------------------------------------------------- what a chapter depends on
def _imports(code: str) -> set[str]:
    """Modules of `lib` that Python code imports, as ``lib`` or ``lib.name``."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "lib"}


def _file(module: str) -> Path | None:
    base = ROOT / Path(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def libraries(chapter: Chapter) -> list[Path]:
    """The files of `lib/` that the chapter's code can reach, directly or through one another."""
    todo, seen = {"lib"}, set()
    for cell in chapter.code():
        todo |= _imports("\n".join(line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!"))))
    while todo:
        path = _file(todo.pop())
        if path and path not in seen:
            seen.add(path)
            todo |= _imports(path.read_text(encoding="utf-8"))
    return sorted(seen)


def has_sizes(chapter: Chapter) -> bool:
    """Whether the chapter's figures are run at one of two sizes."""
    return any("figure_size()" in code for code in chapter.code())


def fingerprint(chapter: Chapter) -> str:
    """Changes when anything changes that can change the chapter's outputs."""
    digest = hashlib.sha256(platform.python_version().encode())
    for cell in chapter.read().cells:
        if cell.cell_type == "code":
            digest.update(f"\0{cell.source}\0{sorted(cell.metadata.get('tags', []))}".encode())
    for path in [*libraries(chapter), ROOT / "requirements.txt", ROOT / "constraints.txt"]:
        digest.update(b"\0" + path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
