"""Makes the virtual environment and keeps it in step with requirements.txt; silent when it is.

    python3 press/environment.py FOLDER [--cpu]

The Makefile calls this before everything else, with whatever Python the machine has. Hence the
standard library only, and syntax that Python 3.6 still parses: an old Python gets a sentence, not
a SyntaxError. Every refusal is one line and exit status 2.
"""

import argparse
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
STAMP = "book.stamp"  # in an environment that the book may rebuild: UNFINISHED, or what is installed
UNFINISHED = "unfinished"


class Problem(Exception):
    """Something on this machine is in the way; the message says what, and the way out."""


# ------------------------------------------------------------------------------ the machine
def check_python(version):
    if tuple(version[:2]) < OLDEST:
        wanted, found = ".".join(map(str, OLDEST)), ".".join(map(str, version[:3]))
        raise Problem(f"Python {wanted} or newer is needed, this is {found}; name one: make book PYTHON=python3.12")


def check_modules(find=importlib.util.find_spec):
    missing = " and ".join(name for name in ("venv", "ensurepip") if find(name) is None)
    if missing:
        raise Problem(f"this Python comes without {missing}; on Debian and Ubuntu: sudo apt install python3-venv")


def check_folder(root, venv):
    """The book builds inside its own folder, and the environment must be one, or become one."""
    if not os.access(str(root), os.W_OK):
        raise Problem(f"cannot write in {root}; copy the book to a folder of your own")
    try:
        venv.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a file in the way, a read-only folder, a full disk
        raise Problem(f"cannot make {venv}: {error.strerror}; choose another folder: make book VENV=FOLDER") from None
    if not os.access(str(venv), os.W_OK):
        raise Problem(f"cannot write in {venv}; choose another folder: make book VENV=FOLDER")
    if any(venv.iterdir()) and not (venv / STAMP).is_file() and not (venv / "pyvenv.cfg").is_file():
        raise Problem(f"{venv} is no virtual environment; move it away, or choose another: make book VENV=FOLDER")


# ---------------------------------------------------------------------------- the environment
def python_of(venv):
    return venv / "bin" / "python"


def fingerprint(root, version):
    """Changes with the pinned packages and with Python; not with where torch is fetched from."""
    digest = hashlib.sha256(version.encode())
    for name in ("requirements.txt", "constraints.txt"):
        digest.update(b"\0" + (root / name).read_bytes())
    return digest.hexdigest()


def up_to_date(venv, expected):
    stamp = venv / STAMP
    return python_of(venv).exists() and stamp.is_file() and stamp.read_text() == expected


def version_of(venv):
    """The environment's Python version, as three numbers; None when it does not run or has no pip."""
    if not python_of(venv).exists():
        return None
    probe = [str(python_of(venv)), "-c", "import pip, sys; print(*sys.version_info[:3])"]
    answer = subprocess.run(probe, capture_output=True, text=True)
    return tuple(map(int, answer.stdout.split())) if answer.returncode == 0 else None


def create(venv):
    """Make the environment, or make it anew when it is the book's and runs another Python or none."""
    found, ours = version_of(venv), (venv / STAMP).is_file() or not any(venv.iterdir())
    if found == sys.version_info[:3]:
        return
    if not ours:  # somebody's own environment is used as it is, and never deleted
        if found is None:
            raise Problem(f"{venv} has no working pip; delete it, or choose another: make book VENV=FOLDER")
        check_python(found)
        return
    for entry in venv.iterdir():
        shutil.rmtree(str(entry)) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    (venv / STAMP).write_text(UNFINISHED)  # first of all, so that an interrupted one is known as the book's
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(venv)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if made.returncode:
        raise Problem(f"python -m venv {venv} failed: {(made.stdout.strip() or 'no reason given').splitlines()[-1]}")


def run_pip(venv, requirements):
    """Run pip, showing on a terminal what it is at.

    Returns:
        Its exit status, and all the lines it printed.
    """
    command = [
        str(python_of(venv)),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
        "-r",
        str(requirements),
    ]
    terminal, said = sys.stdout.isatty(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout:
            said.append(line.strip())
            if terminal and said[-1].startswith(("Collecting", "Downloading", "Installing")):
                print(f"\r\033[K  {said[-1][:70]}", end="", flush=True)
    if terminal:
        print("\r\033[K", end="", flush=True)
    return pip.returncode, said


def explain(said):
    """One line made of pip's many: its last error, and what usually helps."""
    errors = [line[len("ERROR:") :].strip() for line in said if line.startswith("ERROR:")]
    last = (errors or said or ["no reason given"])[-1]
    if any("Retrying (" in line for line in said):
        hint = "the package index did not answer; is there a network?"
    else:
        hint = "does the index that pip uses (pip config list) serve it for this Python and system?"
    return f"pip failed: {last}; {hint}"


def announce(venv, cpu, system):
    print(f"installing requirements.txt into {venv}: once, a minute and the download", flush=True)
    if system == "Linux" and not cpu and not list(venv.glob("lib/python*/site-packages/torch")):
        print(
            "torch from the default index may bring 2.7 GB of CUDA packages; `make book TORCH=cpu` avoids that",
            flush=True,
        )


def prepare(root, venv, cpu, pip=run_pip):
    """Bring the environment up to date.

    Args:
        root: the folder with requirements.txt and constraints.txt.
        venv: the environment's folder; made if missing.
        cpu: whether to fetch torch's CPU build, from PyTorch's own index.
        pip: runs pip on (venv, requirements file); returns its exit status and its lines.

    Raises:
        Problem: if the machine or pip will not have it.
    """
    check_python(sys.version_info)
    check_modules()
    check_folder(root, venv)
    expected = fingerprint(root, platform.python_version())
    if up_to_date(venv, expected):
        return
    create(venv)
    (venv / STAMP).write_text(UNFINISHED)
    announce(venv, cpu, platform.system())
    status, said = pip(venv, root / ".binder" / "requirements.txt" if cpu else root / "requirements.txt")
    if status:
        raise Problem(explain(said))
    (venv / STAMP).write_text(expected)


# --------------------------------------------------------------------------- the command line
class Arguments(argparse.ArgumentParser):
    def error(self, message):
        raise Problem(f"{message}; usage: python3 press/environment.py FOLDER [--cpu] (make: TORCH=cpu, or no TORCH)")


def main(arguments=None):
    parser = Arguments(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="the virtual environment")
    parser.add_argument("--cpu", action="store_true", help="fetch torch's CPU build")
    try:
        chosen = parser.parse_args(arguments)
        prepare(ROOT, chosen.folder, chosen.cpu)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the next `make` installs what is missing", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
