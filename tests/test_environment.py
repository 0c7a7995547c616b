"""The environment: what stands in the way is said in one line, and an install counts when it is complete."""

import ast
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from press import environment
from press.environment import Problem, prepare


class Pip:
    """Stands in for pip: counts its runs, and returns what it was told to."""

    def __init__(self, status=0, said=()):
        self.status, self.said, self.runs = status, list(said), []

    def __call__(self, venv, requirements):
        self.runs.append(requirements)
        return self.status, self.said


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A folder with requirements, and a `create` that makes a link instead of an environment."""
    root = tmp_path / "book"
    (root / ".binder").mkdir(parents=True)
    for name in ("requirements.txt", "constraints.txt", ".binder/requirements.txt"):
        (root / name).write_text("")

    def link(venv):
        (venv / "bin").mkdir(exist_ok=True)
        if not environment.python_of(venv).exists():
            environment.python_of(venv).symlink_to(sys.executable)
        (venv / "pyvenv.cfg").write_text("")

    monkeypatch.setattr(environment, "create", link)
    return root


def test_an_old_python_is_refused_and_the_oldest_good_one_is_not():
    with pytest.raises(Problem, match=r"3\.11 or newer is needed, this is 3\.10\.13"):
        environment.check_python((3, 10, 13))
    with pytest.raises(Problem):
        environment.check_python((2, 99, 0))
    environment.check_python((3, 11, 0))
    environment.check_python((4, 0, 0))


def test_the_script_keeps_to_syntax_that_an_old_python_parses():
    ast.parse(Path(environment.__file__).read_text(encoding="utf-8"), feature_version=(3, 6))


def test_a_missing_module_is_named_with_its_package():
    with pytest.raises(Problem, match="without ensurepip; .*python3-venv"):
        environment.check_modules(lambda name: None if name == "ensurepip" else object())
    environment.check_modules(lambda name: object())


def test_a_file_in_the_way_is_named(book):
    (book / "env").write_text("")
    with pytest.raises(Problem, match="cannot make .*env: .*VENV=FOLDER"):
        prepare(book, book / "env", cpu=False, pip=Pip())
    with pytest.raises(Problem, match="cannot make"):
        prepare(book, book / "env" / "below", cpu=False, pip=Pip())


def test_a_folder_that_cannot_be_written_is_named(book, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(Problem, match="cannot write in"):
        prepare(book, book / "env", cpu=False, pip=Pip())


def test_a_folder_with_other_things_is_left_alone(book):
    (book / "env").mkdir()
    (book / "env" / "thesis.tex").write_text("")
    with pytest.raises(Problem, match="no virtual environment"):
        prepare(book, book / "env", cpu=False, pip=Pip())
    assert (book / "env" / "thesis.tex").exists()


def test_the_second_time_nothing_happens_and_nothing_is_printed(book, capsys):
    pip = Pip()
    prepare(book, book / "env", cpu=False, pip=pip)
    capsys.readouterr()
    prepare(book, book / "env", cpu=False, pip=pip)
    prepare(book, book / "env", cpu=True, pip=pip)  # the choice of torch's index is not part of the stamp
    assert len(pip.runs) == 1 and capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_changed_pins_are_installed(book, name):
    pip = Pip()
    prepare(book, book / "env", cpu=False, pip=pip)
    (book / name).write_text("numpy==2.4.6\n")
    prepare(book, book / "env", cpu=False, pip=pip)
    assert len(pip.runs) == 2


def test_another_python_is_another_environment(book):
    assert environment.fingerprint(book, "3.11.7") != environment.fingerprint(book, "3.12.1")


def test_a_failed_install_is_repeated(book):
    with pytest.raises(Problem):
        prepare(book, book / "env", cpu=False, pip=Pip(status=1))
    pip = Pip()
    prepare(book, book / "env", cpu=False, pip=pip)
    assert len(pip.runs) == 1


def test_an_interrupted_upgrade_is_repeated(book):
    def interrupted(venv, requirements):
        raise KeyboardInterrupt

    prepare(book, book / "env", cpu=False, pip=Pip())
    pins = (book / "requirements.txt").read_text()
    (book / "requirements.txt").write_text("numpy==2.4.6\n")
    with pytest.raises(KeyboardInterrupt):
        prepare(book, book / "env", cpu=False, pip=interrupted)
    (book / "requirements.txt").write_text(pins)  # back to what was installed before the interruption
    pip = Pip()
    prepare(book, book / "env", cpu=False, pip=pip)
    assert len(pip.runs) == 1


def test_a_vanished_python_is_noticed(book):
    pip = Pip()
    prepare(book, book / "env", cpu=False, pip=pip)
    environment.python_of(book / "env").unlink()
    prepare(book, book / "env", cpu=False, pip=pip)
    assert len(pip.runs) == 2


def test_cpu_chooses_the_file_with_the_cpu_index(book):
    pip = Pip()
    prepare(book, book / "env", cpu=True, pip=pip)
    assert pip.runs == [book / ".binder" / "requirements.txt"]


def test_linux_is_told_about_cuda_unless_it_is_avoided(tmp_path, capsys):
    environment.announce(tmp_path, False, "Linux")
    assert "TORCH=cpu" in capsys.readouterr().out
    for cpu, system in [(True, "Linux"), (False, "Darwin")]:
        environment.announce(tmp_path, cpu, system)
        assert "TORCH=cpu" not in capsys.readouterr().out
    (tmp_path / "lib" / "python3.11" / "site-packages" / "torch").mkdir(parents=True)
    environment.announce(tmp_path, False, "Linux")
    assert "TORCH=cpu" not in capsys.readouterr().out


def test_pip_is_summed_up_in_its_last_error_and_a_way_out():
    said = ["Collecting torch==2.13.0", "ERROR: Could not find a version", "ERROR: No matching distribution for torch"]
    line = environment.explain(said)
    assert "No matching distribution for torch; does the index" in line and "\n" not in line
    offline = environment.explain(["WARNING: Retrying (Retry(total=0)) after connection broken", *said])
    assert "is there a network?" in offline
    assert "no reason given" in environment.explain([])


@pytest.mark.parametrize("arguments", [[], ["env", "--gpu"], ["env", "--cpu=yes"], ["env", "--cp"], ["env", "other"]])
def test_a_wrong_command_line_is_one_line(arguments, capsys):
    assert environment.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "TORCH=cpu" in error and error.count("\n") == 1


# ------------------------------------------------------------------ real environments, no network
def bare(folder):
    """An environment without pip, which takes no time to make."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder


def test_somebodys_own_environment_is_never_deleted(tmp_path):
    venv = bare(tmp_path / "env")
    (venv / "precious").write_text("")
    with pytest.raises(Problem, match="no working pip"):
        environment.create(venv)
    assert (venv / "precious").exists()


def test_somebodys_own_environment_is_used_when_it_works(tmp_path, monkeypatch):
    venv = bare(tmp_path / "env")
    monkeypatch.setattr(environment, "version_of", lambda venv: (3, 99, 0))
    environment.create(venv)
    monkeypatch.setattr(environment, "version_of", lambda venv: (3, 9, 0))
    with pytest.raises(Problem, match=r"this is 3\.9\.0"):
        environment.create(venv)
    assert (venv / "pyvenv.cfg").exists()


def test_the_books_own_broken_environment_is_made_anew(tmp_path):
    venv = bare(tmp_path / "env")
    (venv / environment.STAMP).write_text("installed once")
    (venv / "leftover").write_text("")
    environment.create(venv)
    assert environment.version_of(venv) == sys.version_info[:3]
    assert (venv / environment.STAMP).read_text() == environment.UNFINISHED
    assert not (venv / "leftover").exists()


def test_pips_own_failure_reaches_the_reader_as_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "constraints.txt").write_text("")
    (tmp_path / "requirements.txt").write_text("./no-such-package\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.main([str(tmp_path / "env")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: pip failed: ") and "no-such-package" in error and error.count("\n") == 1
    assert not environment.up_to_date(tmp_path / "env", environment.fingerprint(tmp_path, platform.python_version()))
