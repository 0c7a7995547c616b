"""Runs chapters, several at a time, with one progress bar; and keeps what the site needs.

The store is `_build/executed/NAME.FINGERPRINT.ipynb`. A file appears there only when its chapter
ran to its end, in one rename, so an interrupted build leaves nothing half done; and its name
changes with the chapter's code and with every module of `lib/` that the code reaches. Figures at the
paper's size (`BOOK_SIZE=paper`) are kept beside those of the book's.
"""

import asyncio
import os
import re
import sys
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tqdm import tqdm

from lib.figures import figure_size
from press import ROOT, BookError
from press.chapters import Chapter, fingerprint, has_sizes

STORE = ROOT / "_build" / "executed"
LOG = ROOT / "_build" / "kernels.log"
TIMEOUT = {"fast": 300, "paper": 3600}  # seconds a cell; on the page a slider's cell draws every position
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# one thread per kernel: for small tensors more are slower, and chapters run side by side
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Loop(asyncio.SelectorEventLoop):
    """Ctrl-C cancels the run, as asyncio does; nbclient's own handler shuts a kernel down twice."""

    def add_signal_handler(self, *_):
        raise NotImplementedError  # nbclient reads this as: not on this platform


def _environment(static: bool) -> dict:
    environment = {k: v for k, v in os.environ.items() if k != "BOOK_RENDER"} | THREADS
    environment["MPLBACKEND"] = "agg"
    return environment | {"BOOK_RENDER": "static"} if static else environment


def _fail(chapter: Chapter, cell, reason: str) -> BookError:
    code = "\n".join(f"    {line}" for line in cell.source.splitlines()[:25])
    return BookError(f"a cell of {chapter.path} failed\n{code}\n  {reason}")


def _complain(chapter: Chapter, cell) -> None:
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stderr":
            raise _fail(chapter, cell, f"it wrote to stderr: {output.text.strip()[:500]}")


async def _run(chapter: Chapter, notebook, static: bool, bar: tqdm, gate: asyncio.Semaphore) -> None:
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT[figure_size()],
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,  # else two runs may cut one text in two places
        resources={"metadata": {"path": str((ROOT / chapter.path).parent)}},
    )

    def count(cell_index, **_):
        # processor time: on one thread it is what an idle machine's clock would say, and a busy one's does not
        times = psutil.Process(client.km.provisioner.pid).cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        notebook.metadata["cell_seconds"][str(cell_index)] = total - notebook.metadata["seconds"]
        notebook.metadata["seconds"] = total
        bar.update()

    notebook.metadata["seconds"], notebook.metadata["cell_seconds"] = 0.0, {}

    client.on_cell_executed = count
    async with gate:
        bar.set_postfix_str(chapter.name)
        try:
            with LOG.open("a") as log:  # what kernels say to nobody in particular
                await client.async_execute(env=_environment(static), stderr=log)
        except CellExecutionError as error:
            cell = next(
                (c for c in notebook.cells if any(o.output_type == "error" for o in c.get("outputs", []))), None
            )
            if cell is None:
                raise BookError(f"{chapter.path}: {ANSI.sub('', str(error))}") from error
            raise _fail(chapter, cell, f"{error.ename}: {ANSI.sub('', error.evalue)}") from error
        except CellTimeoutError as error:
            raise BookError(f"{chapter.path}: a cell ran longer than {TIMEOUT[figure_size()]} s") from error
        except (DeadKernelError, RuntimeError) as error:
            raise BookError(f"{chapter.path}: its kernel died or did not start ({error}); see {LOG}") from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            _complain(chapter, cell)


def run(jobs: list[tuple[Chapter, nbformat.NotebookNode]], *, static: bool) -> None:
    """Execute notebooks in place, in the folder of their chapter; their metadata says how many `seconds` of one
    core it took, and each of its cells (`cell_seconds`, by the cell's number).

    Args:
        jobs: chapters with the notebooks to run; the notebooks receive the outputs.
        static: whether sliders are drawn as frames for the page, or as live widgets.

    Raises:
        BookError: at the first failing cell, with its code and its message.
    """

    LOG.parent.mkdir(exist_ok=True)

    async def all_jobs():
        gate = asyncio.Semaphore(os.cpu_count() or 1)
        total = sum(c.cell_type == "code" for _, notebook in jobs for c in notebook.cells)
        with tqdm(total=total, desc="running chapters", unit="cell", file=sys.stdout, disable=not jobs) as bar:
            tasks = [asyncio.create_task(_run(c, notebook, static, bar, gate)) for c, notebook in jobs]
            try:
                await asyncio.gather(*tasks)
            except BaseException:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if asyncio.current_task().cancelling():  # Ctrl-C; nbclient calls it a dead kernel
                    raise asyncio.CancelledError from None
                raise

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(all_jobs())


def _place(chapter: Chapter) -> Path:
    size = "-paper" if has_sizes(chapter) and figure_size() == "paper" else ""
    return STORE / f"{chapter.name}{size}.{fingerprint(chapter)}.ipynb"


def executed(chapters: list[Chapter], read) -> dict[str, nbformat.NotebookNode]:
    """The executed notebook of every chapter, by its page name (``book/name``); runs what is stale.

    Args:
        chapters: what to have executed.
        read: turns a chapter into the notebook to run.

    Raises:
        BookError: if a cell fails; nothing of that chapter is kept.
    """
    places = {c: _place(c) for c in chapters}
    stale = [(c, read(c)) for c, place in places.items() if not place.is_file()]
    STORE.mkdir(parents=True, exist_ok=True)
    run(stale, static=True)
    for chapter, notebook in stale:
        name = places[chapter].name.partition(".")[0]
        for old in STORE.glob(f"{name}.*.ipynb"):
            old.unlink()
        part = STORE / f".{name}.part"
        nbformat.write(notebook, part)
        part.replace(places[chapter])
    return {c.path.with_suffix("").as_posix(): nbformat.read(place, as_version=4) for c, place in places.items()}
