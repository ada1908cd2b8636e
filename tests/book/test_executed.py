"""Outputs made on one machine are shown on another, if the sources agree, and never silently."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("jupyter_book", reason="the book's own packages are not installed")

from book_ext import executed
from books import build

MACHINE = {"torch": "2.9", "triton": "3.5", "gpu": "NVIDIA L4", "kernels": "not a fact"}
PAGES = {
    "first": "# First\n",
    "one": "# One\n\n```{code-cell} python\nimport os\nprint(os.environ['MARK'])\n```\n",
}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / executed.FOLDER
    place.mkdir(parents=True)
    executed.note(place, "abc", MACHINE)
    return place


def test_the_folder_is_used_where_the_sources_agree(tmp_path, folder):
    place, said = executed.brought(tmp_path, "abc", None)
    assert place == folder
    assert "made on NVIDIA L4" in said and "torch 2.9" in said and "are used" in said


@pytest.mark.parametrize(
    ("sources", "gpu", "reason"),
    [("other", None, "sources here are not"), ("abc", "Tesla T4", "this machine has a GPU")],
)
def test_why_the_folder_is_not_used(tmp_path, folder, sources, gpu, reason):
    place, said = executed.brought(tmp_path, sources, gpu)
    assert place is None and "not used" in said and reason in said


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_folder_without_a_manifest_is_not_used(tmp_path, folder, text):
    (folder / executed.MANIFEST).write_text(text)
    place, said = executed.brought(tmp_path, "abc", None)
    assert place is None and "no manifest" in said


def test_without_a_folder_nothing_is_said(tmp_path):
    assert executed.brought(tmp_path, "abc", None) == (None, "")


def test_a_later_build_does_not_change_where_outputs_come_from(tmp_path):
    executed.note(tmp_path, "abc", MACHINE)
    executed.note(tmp_path, "abc", MACHINE | {"torch": "3.0"})
    assert executed.read(tmp_path)["torch"] == "2.9"


def test_nothing_to_gather(tmp_path):
    with pytest.raises(FileNotFoundError):
        executed.gather(tmp_path)


def test_nothing_to_gather_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "book_ext.executed"]
    folder = str(Path(executed.__file__).parents[1])
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": folder},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == "Nothing was gathered: there are no outputs yet: run make book.\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a build on a GPU measures for itself")
def test_outputs_of_another_clone_are_shown(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for root in (here, there):
        root.mkdir()
    assert build(there, PAGES, MARK="made there").returncode == 0
    gathered = executed.gather(there)
    manifest = json.loads((gathered / executed.MANIFEST).read_text())
    (gathered / executed.MANIFEST).write_text(json.dumps(manifest | {"gpu": "NVIDIA L4"}))
    shutil.copytree(gathered, here / executed.FOLDER)
    run = build(here, PAGES, MARK="made here")
    assert run.returncode == 0, run.stderr
    page = (here / "_build/html/chapters/one.html").read_text()
    assert "made there" in page and "made here" not in page
    assert "made on NVIDIA L4" in run.stdout
    # No repository is known here: there is a notebook to download, and no button for Colab.
    assert "notebooks/chapters/one.ipynb" in page and "colab" not in page.lower()
    assert (here / "_build/html/notebooks/chapters/one.ipynb").exists()

    (here / "kernels/new.py").write_text("")
    assert build(here, PAGES, MARK="made here").returncode == 0
    assert "made here" in (here / "_build/html/chapters/one.html").read_text()
