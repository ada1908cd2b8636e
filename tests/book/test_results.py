"""Every recorded measurement is a valid record."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cli

ROOT = Path(__file__).resolve().parents[2]


def check(*paths) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bench", "check", *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_results_file_passes_the_check():
    files = sorted((ROOT / "results").rglob("*.json"))
    assert files, "results/ holds no record: the book has nothing to show without a GPU"
    run = check(*files)
    assert run.returncode == 0, run.stdout + run.stderr


def dirty(folder: Path) -> set[str]:
    """The files under a folder that do not say that they are of a commit without changes."""
    found = {path: json.loads(path.read_text())["provenance"] for path in folder.rglob("*.json")}
    return {
        f"{path.parent.name}/{path.name}"
        for path, where in found.items()
        if not where.get("commit") or where.get("dirty") is not False
    }


def test_every_results_file_is_of_a_commit_without_changes(tmp_path):
    assert not dirty(ROOT / "results")
    for name, where in {"a": {"commit": "1", "dirty": True}, "b": {"dirty": False}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"provenance": where}))
    assert len(dirty(tmp_path)) == 2


RECORD = "nvidia-h100-80gb-hbm3.json"
STUDY = "studies/nvidia-h100-80gb-hbm3/memory.json"


@pytest.mark.parametrize(
    ("file", "spoil", "says"),
    [
        (RECORD, lambda text: text.replace('"ok"', '"oh"'), "status"),
        (RECORD, lambda text: re.sub('"floor_ms": [0-9.]+', '"floor_ms": 0.0', text), "floor_ms"),
        (RECORD, lambda text: re.sub("( {2}{.*}),", "\\1, \\1,", text), "measurements of one case"),
        (RECORD, lambda text: text.replace('"slug": "', '"slug": "../../'), "slug"),
        (RECORD, lambda text: re.sub('"date": "[^"]+"', '"date": "yesterday"', text), "date"),
        (RECORD, lambda text: text[: text.index("[")] + "[]}", "no measurement"),
        (STUDY, lambda text: text.replace('"ok"', '"oh"'), "status is 'oh'"),
        (STUDY, lambda text: re.sub('"status": "ok", ', "", text), "status is missing"),
        (STUDY, lambda text: text.replace('"kind": "peak"', '"kind": "peek"'), "kind is 'peek'"),
    ],
)
def test_a_spoiled_file_does_not_pass(file, spoil, says, tmp_path, capsys):
    whole = (ROOT / "results" / file).read_text()
    spoiled = tmp_path / "spoiled.json"
    spoiled.write_text(whole)
    assert cli.main(["check", str(spoiled)]) == 0
    assert spoil(whole) != whole
    spoiled.write_text(spoil(whole))
    assert cli.main(["check", str(spoiled)]) == 2
    told = capsys.readouterr().err
    assert says in told and len(told.splitlines()) == 1
