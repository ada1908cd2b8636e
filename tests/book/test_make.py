"""`make` says what it can do, and says in one sentence what to do when it cannot."""

from __future__ import annotations

import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run make on its own, without what a `make test` around this test hands down."""
    unset = [
        f"--unset={name}" for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "HOST_TORCH")
    ]
    command = ["env", *unset, "make", "--no-print-directory", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def last_sentence(run: subprocess.CompletedProcess) -> str:
    """The last line that is not make's own."""
    return [line for line in run.stderr.splitlines() if not line.startswith("make")][-1]


@pytest.fixture
def fresh(tmp_path):
    """A checkout in which nothing is set up."""
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def python(folder: Path, script: str) -> str:
    """A stand-in for the interpreter."""
    path = folder / "fake-python"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return f"PYTHON={path}"


def test_help_lists_every_command():
    run = make(ROOT)
    assert run.returncode == 0
    assert re.findall(r"^  make ([\w-]+) ", run.stdout, re.MULTILINE) == TARGETS


def test_commands_in_the_texts_exist():
    texts = [ROOT / "README.md", ROOT / ".ci/run", *(ROOT / "chapters").rglob("*.md")]
    for path in texts:
        named = re.findall(r"(?:^|`|\s{4})make ([a-z-]+)", path.read_text(), re.MULTILINE)
        assert set(named) <= set(TARGETS), path


def test_readme_names_what_readers_need():
    named = set(re.findall(r"`make ([\w-]+)`", (ROOT / "README.md").read_text()))
    assert named >= set(TARGETS) - {"help", "pins"}


def test_missing_python(fresh):
    run = make(fresh, "book", "PYTHON=no-such-python")
    assert run.returncode and "no-such-python" in last_sentence(run)
    assert "install Python 3.10 or newer" in last_sentence(run)


def test_python_that_only_a_version_manager_knows(fresh):
    run = make(fresh, "book", python(fresh, "echo many lines of advice >&2; exit 127\n"))
    assert run.returncode and "install Python 3.10 or newer" in last_sentence(run)
    assert "advice" not in run.stderr


def test_empty_python(fresh, working):
    """And what is set up stays: its recipe begins by taking .venv away."""
    assert sets_up(fresh, working)
    before = sorted(path.name for path in (fresh / ".venv").iterdir())
    run = make(fresh, "lint", "PYTHON=")
    assert run.returncode and "PYTHON is empty: name an interpreter" in last_sentence(run)
    assert len(run.stderr.splitlines()) == 1
    assert sorted(path.name for path in (fresh / ".venv").iterdir()) == before
    assert not sets_up(fresh)


def test_old_python(fresh):
    old = 'case "$1" in -V) echo Python 3.8.18;; *) exit 1;; esac\n'
    run = make(fresh, "test", python(fresh, old))
    assert run.returncode and "is Python 3.8.18" in last_sentence(run)
    assert "3.10 or newer" in last_sentence(run)


def test_python_without_venv(fresh):
    bare = 'case "$2" in *ensurepip*) exit 1;; esac\n'
    run = make(fresh, "book", python(fresh, bare))
    assert run.returncode and "python3-venv" in last_sentence(run)


def test_failed_set_up_does_not_count_as_done(fresh):
    # `-m venv .venv` leaves a python that fails, as pip does without a network.
    half = (
        'if [ "$2" = venv ]; then mkdir -p .venv/bin; '
        "printf '#!/bin/sh\\nexit 1\\n' > .venv/bin/python; chmod +x .venv/bin/python; fi\n"
    )
    for _ in range(2):
        run = make(fresh, "lint", python(fresh, half))
        assert run.returncode and "The set-up did not finish" in last_sentence(run)
        assert "Setting up .venv" in run.stdout
        assert not list(fresh.glob(".venv/ready-*"))


@pytest.fixture
def working(fresh):
    """A stand-in whose set-up succeeds."""
    good = (
        'if [ "$2" = venv ]; then mkdir -p .venv/bin; '
        "printf '#!/bin/sh\\n' > .venv/bin/python; chmod +x .venv/bin/python; fi\n"
    )
    return python(fresh, good)


def sets_up(folder: Path, *arguments: str) -> bool:
    run = make(folder, "lint", *arguments)
    assert run.returncode == 0, run.stderr
    return "Setting up" in run.stdout


@pytest.mark.parametrize("there, network", [(True, True), (False, True), (False, False)])
def test_studies_install_the_rivals_that_are_missing(fresh, there, network):
    body = (
        f'case "$*" in *find_spec*) exit {int(not there)};; '
        f'*rivals.txt*) echo "called: $*"; exit {int(not network)};; '
        '*bench*) echo "called: $*";; esac'
    )
    script = (
        'if [ "$2" = venv ]; then mkdir -p .venv/bin; cp body .venv/bin/python; '
        "chmod +x .venv/bin/python; fi\n"
    )
    (fresh / "body").write_text(f"#!/bin/sh\n{body}\n")
    run = make(fresh, "studies", python(fresh, script))
    assert run.returncode == 0, run.stderr
    called = [line for line in run.stdout.splitlines() if line.startswith("called: ")]
    assert called[-1] == "called: -m bench study"
    assert ["rivals.txt" in call for call in called[:-1]] == [True] * (not there)
    assert ("could not be installed" in run.stderr) == (not there and not network)


def test_set_up_is_repeated_when_requirements_change(fresh, working):
    assert sets_up(fresh, working)
    assert not sets_up(fresh, working)
    with (fresh / "requirements.txt").open("a") as file:
        file.write("einops\n")
    assert sets_up(fresh, working)


def test_the_choice_of_python_is_remembered(fresh, working):
    assert sets_up(fresh, working, "HOST_TORCH=1")
    assert not sets_up(fresh)
    assert sets_up(fresh, "HOST_TORCH=")


def test_only_1_keeps_the_packages_of_a_host(fresh, working):
    assert sets_up(fresh, working)
    assert not sets_up(fresh, "HOST_TORCH=0")
    for wrong in ("yes", "2", "1 1 x"):
        run = make(fresh, "lint", f"HOST_TORCH={wrong}")
        assert run.returncode and f"HOST_TORCH is '{wrong}'" in last_sentence(run)
    assert sets_up(fresh, "HOST_TORCH=1")


def test_packages_of_a_host_that_is_a_virtual_environment_are_seen(fresh):
    there = fresh / ".venv/lib/python3/site-packages"
    real = (
        f'if [ "$2" = venv ]; then mkdir -p .venv/bin {there}; '
        "printf '#!/bin/sh\\n' > .venv/bin/python; chmod +x .venv/bin/python; "
        f'elif [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\n'
    )
    assert sets_up(fresh, python(fresh, real), "HOST_TORCH=1")
    assert (there / "host.pth").read_text().splitlines() == site.getsitepackages()
    assert sets_up(fresh, python(fresh, real), "HOST_TORCH=")
    assert not (there / "host.pth").exists()
