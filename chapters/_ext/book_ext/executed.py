"""Outputs that one machine made and another shows: `make execute` there, `make book` here.

    python -m book_ext.executed            # after a build: gather its outputs in _build/executed

The folder holds the cache of a build and a manifest, which says what the outputs depend on and
where they come from. A build on a machine without a GPU uses it if its own sources are the same;
a build on a machine with a GPU measures for itself.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path

from . import repository

FOLDER = Path("_build/executed")
MANIFEST = "manifest.json"
FACTS = ("sources", "torch", "triton", "gpu", "date", "commit")


def note(cache: Path, sources: str, machine: dict) -> None:
    """Write into a new cache what its outputs depend on, and where they come from."""
    if read(cache):
        return
    facts = {name: machine[name] for name in ("torch", "triton", "gpu")}
    facts["sources"] = sources
    facts["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    facts["commit"] = repository.find().commit
    (cache / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n")


def read(folder: Path) -> dict | None:
    """The manifest of a folder; None where there is none that can be read."""
    try:
        facts = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and set(FACTS) <= set(facts) else None


def line(facts: dict) -> str:
    """One line of provenance."""
    commit = f", commit {facts['commit'][:7]}" if facts["commit"] else ""
    gpu = facts["gpu"] or "a machine without a GPU"
    return f"{gpu}, {facts['date']}, torch {facts['torch']}, triton {facts['triton']}{commit}"


def brought(root: Path, sources: str, gpu: str | None) -> tuple[Path | None, str]:
    """(the cache in `_build/executed` or None, what to say of it)."""
    folder = root / FOLDER
    if not folder.exists():
        return None, ""
    facts = read(folder)
    if facts is None:
        return None, f"{FOLDER} is not used: it has no manifest"
    made = f"the outputs in {FOLDER}, made on {line(facts)},"
    if gpu is not None:
        return None, f"{made} are not used: this machine has a GPU and measures for itself"
    if facts["sources"] != sources:
        return None, f"{made} are not used: the sources here are not those they were made from"
    return folder, f"{made} are used; a page whose code is not among them runs here"


def gather(root: Path) -> Path:
    """Copy the newest cache of `root` to `_build/executed`."""
    caches = root / "_build/.jupyter_cache"
    made = [c for c in caches.iterdir() if read(c)] if caches.exists() else []
    if not made:
        raise FileNotFoundError("there are no outputs yet: run make book")
    newest = max(made, key=lambda c: c.stat().st_mtime)
    folder = root / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(newest, folder)
    return folder


if __name__ == "__main__":
    try:
        place = gather(Path.cwd())
    except FileNotFoundError as problem:
        sys.exit(f"Nothing was gathered: {problem}.")
    size = sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / 2**20
    print(f"{os.path.relpath(place)}, {size:.1f} MiB: the outputs made on {line(read(place))}.")
    print("Copy it to the same place in another clone of this commit, and type make book there.")
