"""The small tools behind make: doctor, wheelhouse, publish, fetch, comment and regression."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str):
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / f".ci/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


doctor, wheelhouse = tool("doctor"), tool("wheelhouse")
FINE = [("Python", "3.12", ""), ("disk", "90 GB free", ""), ("make", "/usr/bin/make", "")]
FINE += [("Chromium", "/usr/bin/chromium", "")]


def test_doctor_needs_nothing_but_python(tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/doctor.py", tmp_path / ".ci")
    run = subprocess.run(
        [sys.executable, "-I", "-S", ".ci/doctor.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert not run.stderr
    said = {line.split()[0] for line in run.stdout.splitlines() if line and line[0] not in " →"}
    assert said >= {"Python", "disk", "GPU", "driver", "torch", "triton", "Chromium", "Node"}


def test_doctor_says_what_to_do_about_each_lack(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "output", lambda *command: None)
    rows = doctor.look()
    lacking = {what for what, said, _ in rows if said.startswith("none")}
    assert lacking >= {"git", "make", "torch", "triton", "GPU", "Chromium", "Node"}
    advised = {what for what, said, advice in rows if said.startswith("none") and advice}
    assert lacking - advised == {"driver"}, "which the GPU's line speaks of"
    assert doctor.abilities(rows) == ["The book cannot be built here yet."]


@pytest.mark.parametrize(
    ("gpu", "records"),
    [
        (("GPU", "none", "none needed"), "make record: no"),
        (("GPU", "NVIDIA L4, sm_89, 22 GiB", ""), "make record: measures"),
    ],
)
def test_doctor_says_what_can_be_done(gpu, records):
    said = " ".join(doctor.abilities([*FINE, gpu]))
    assert records in said and "make test-site, make pdf: yes." in said


def test_the_wheelhouse_leaves_torch_and_triton_to_the_host():
    for name in ("requirements.txt", "constraints.txt"):
        names = {line.split("=")[0].split(">")[0] for line in wheelhouse.lines(ROOT / name)}
        assert "jupyter-book" in names and not {"torch", "triton"} & names


@pytest.mark.parametrize(
    ("held", "fits"), [({}, False), ({"numpy": "1.20"}, False), ({"numpy": "2.1"}, True)]
)
def test_the_wheelhouse_leaves_out_what_fits(tmp_path, held, fits):
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("numpy>=1.26\n")
    packages = [
        {"name": "pandas", "version": "2", "requires_dist": ["numpy>=2.0; extra == 'no'"]},
        {"name": "NumPy", "version": "2.4"},
    ]
    venv = Path(sys.prefix)
    assert wheelhouse.fits(venv, packages[1], packages, held, wanted) is fits


def sh(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GH_", "GITHUB_"))}
    command = ["bash", f".ci/{script}.sh"]
    return subprocess.run(
        command, cwd=folder, env=clean | environment, capture_output=True, text=True
    )


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    run = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A clone with the scripts, and the repository that it came from."""
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    root = tmp_path / "clone"
    git(tmp_path, "init", "-q", "-b", "main", str(root))
    git(root, "remote", "add", "origin", str(tmp_path / "origin.git"))
    shutil.copytree(ROOT / ".ci", root / ".ci")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "One")
    return root


def test_publish_pushes_the_site_as_the_only_commit(clone, tmp_path):
    assert "make book" in sh("publish", clone).stderr
    site = clone / "_build/html"
    (site / "notebooks/chapters").mkdir(parents=True)
    (site / "reports").mkdir()
    for name in ("index.html", ".nojekyll", "notebooks/chapters/a.ipynb", "reports/a.err.log"):
        (site / name).write_text("x")
    for text in ("first", "second"):
        (site / "index.html").write_text(text)
        run = sh("publish", clone)
        assert run.returncode == 0, run.stderr
    assert "1 notebooks" in run.stdout
    origin = tmp_path / "origin.git"
    files = git(origin, "ls-tree", "-r", "--name-only", "gh-pages").splitlines()
    assert files == [".nojekyll", "index.html", "notebooks/chapters/a.ipynb"]
    assert git(origin, "show", "gh-pages:index.html") == "second"
    assert git(origin, "rev-list", "--count", "gh-pages") == "1"


@pytest.fixture
def fetch(clone, tmp_path):
    """`make fetch` in a clone, with a gh that knows some runs, and what each left behind."""
    commit, left = git(clone, "rev-parse", "HEAD"), tmp_path / "left"
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "gh").write_text(
        f"""#!/bin/sh
case "$1 $2" in
"api repos/{{owner}}/{{repo}}/actions/workflows/gpu.yml/runs?head_sha={commit}&per_page=100")
  cat {tmp_path}/runs.json ;;
"run download")
  [ "$4 $5" = "--name executed-{commit}" ] && cp -R {left}/$3/. "$7" ;;
*) echo "gh was not to be asked this: $*" >&2; exit 1 ;;
esac
"""
    )
    (fake / "gh").chmod(0o755)

    def call(*found: dict) -> subprocess.CompletedProcess:
        good = {
            "head_sha": commit, "path": ".github/workflows/gpu.yml", "event": "schedule",
            "repository": {"full_name": "a/book"}, "head_repository": {"full_name": "a/book"},
        }  # fmt: skip
        described = [good | run for run in found]
        (tmp_path / "runs.json").write_text(json.dumps({"workflow_runs": described}))
        for run in found:
            for name in ("_build/executed/manifest.json", "results/a.json", "README.md"):
                file = left / str(run["id"]) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"of run {run['id']}")
            (left / str(run["id"]) / "Makefile").write_text("book:\n\tpublish what I like\n")
            (left / str(run["id"]) / "_build/html").mkdir(exist_ok=True)
        path = f"{fake}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [sys.executable, ".ci/fetch.py"], cwd=clone, env=os.environ | {"PATH": path},
            capture_output=True, text=True,
        )  # fmt: skip

    return call


def test_fetch_brings_outputs_and_records_and_nothing_else(fetch, clone):
    (clone / "_build/executed").mkdir(parents=True)
    (clone / "_build/executed/old").touch()
    run = fetch({"id": 7}, {"id": 5})
    assert run.returncode == 0 and "run 7" in run.stdout, run.stderr
    executed = clone / "_build/executed"
    assert [path.name for path in executed.iterdir()] == ["manifest.json"]
    for file in (executed / "manifest.json", clone / "results/a.json", clone / "README.md"):
        assert file.read_text() == "of run 7"
    assert not (clone / "Makefile").exists() and not (clone / "_build/html").exists()


@pytest.mark.parametrize(
    "strange",
    [
        {"event": "pull_request"},
        {"head_repository": {"full_name": "stranger/book"}},
        {"head_repository": None},
        {"path": ".github/workflows/ci.yml"},
        {"head_sha": "0" * 40},
    ],
    ids=lambda strange: next(iter(strange)),
)
def test_fetch_takes_nothing_of_a_strangers_run(fetch, clone, strange):
    run = fetch({"id": 7, **strange})
    assert run.returncode == 0 and "recorded results are shown" in run.stdout, run.stderr
    assert not (clone / "_build").exists() and not (clone / "results").exists()
    assert "run 5" in fetch({"id": 7, **strange}, {"id": 5}).stdout


def test_fetch_goes_on_where_there_is_nothing(fetch, clone, tmp_path):
    run = fetch()
    assert run.returncode == 0 and "gpu.yml has not run for it" in run.stdout
    fetch({"id": 7})
    shutil.rmtree(tmp_path / "left/7")  # a run that failed before it kept anything
    run = subprocess.run(
        [sys.executable, ".ci/fetch.py"], cwd=clone, capture_output=True, text=True,
        env=os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert run.returncode == 0 and "recorded results are shown" in run.stdout
    assert "left/7" in run.stdout, "what gh said"
    (tmp_path / "bin/gh").write_text("#!/bin/sh\necho log in first >&2; exit 4\n")
    run = fetch({"id": 7})
    assert run.returncode == 0 and "log in first" in run.stdout


def test_a_comment_needs_a_table_and_a_number(clone):
    assert "make regression" in sh("comment", clone, NUMBER="1").stderr
    (clone / "_build/regression").mkdir(parents=True)
    (clone / "_build/regression/table.md").write_text("| a |")
    run = sh("comment", clone)
    assert run.returncode and "number of the pull request" in run.stderr


def test_a_regression_compares_base_and_head(clone):
    """With a stand-in for the measurement: what is run where, and what is left behind."""
    python = clone / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$(basename $PWD) $*" >> {clone}/calls\n')
    python.chmod(0o755)
    run = sh("regression", clone, BASE="HEAD")
    assert run.returncode == 0, run.stderr
    base, head, compare = (clone / "calls").read_text().splitlines()
    assert base.startswith("base -m bench run") and base.endswith("base.json")
    assert head.startswith("clone -m bench run") and head.endswith("head.json")
    assert all("--contenders book book-decay" in call for call in (base, head))
    assert "compare" in compare and "--regressions 5" in compare
    assert (clone / "_build/regression/table.md").exists()
    assert len(git(clone, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize("base, says", [("nope", "no commit 'nope'"), ("HEAD", "make regression")])
def test_a_regression_that_cannot_begin_says_why_in_one_line(clone, base, says):
    run = sh("regression", clone, BASE=base)  # there is no .venv either
    assert run.returncode == 1 and says in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("text", ["{", '{"cells": 3}', "[]", None, "folder"])
def test_a_notebook_that_is_none_is_a_sentence(tmp_path, text):
    path = tmp_path / "a.ipynb"
    if text == "folder":
        path.mkdir()
    elif text is not None:
        path.write_text(text)
    run = subprocess.run(
        [sys.executable, str(ROOT / ".ci/notebooks.py"), "--here", str(path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 1 and str(path) in run.stderr
    assert len(run.stderr.splitlines()) == 1, run.stderr


def test_a_wheelhouse_without_the_hosts_list_is_a_sentence(tmp_path):
    for host in (tmp_path, tmp_path / "absent"):
        run = subprocess.run(
            [sys.executable, str(ROOT / ".ci/wheelhouse.py"), "--host", str(host)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == 1 and str(host) in run.stderr
        assert len(run.stderr.splitlines()) == 1, run.stderr
