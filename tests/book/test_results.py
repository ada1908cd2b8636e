"""Every recorded measurement is a valid record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def check(*paths) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bench", "check", *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_results_file_passes_the_check():
    files = sorted((ROOT / "results").rglob("*.json"))
    assert files, "results/ holds no record: the book has nothing to show without a GPU"
    run = check(*files)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_spoiled_file_does_not_pass(tmp_path):
    spoiled = tmp_path / "spoiled.json"
    spoiled.write_text(
        (sorted((ROOT / "results").glob("*.json"))[0]).read_text().replace("ok", "oh")
    )
    assert check(spoiled).returncode != 0
