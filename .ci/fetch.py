"""Bring the outputs and records that gpu.yml left for this commit, if there are any.

    python .ci/fetch.py

Needs git, gh and the standard library. Any run may give its artifact any name, also that of a
stranger's pull request. So first a run of gpu.yml is chosen that somebody with the right to write
here started, and of its artifact only what BRINGS names is taken.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = "gpu.yml"
EVENTS = {"schedule", "workflow_dispatch", "push"}  # each needs the right to write, or is the clock
BRINGS = ("_build/executed", "results", "README.md")


def output(*command: str) -> str:
    """What a command prints. OSError, with what it said, where it is absent or fails."""
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        raise OSError(run.stderr.strip() or f"{command[0]} ended with {run.returncode}")
    return run.stdout


def trusted(run: dict, commit: str) -> bool:
    """Whether a run, as GitHub describes it, is of gpu.yml, of this commit and this repository."""
    path = (run.get("path") or "").split("@")[0]
    home = (run.get("repository") or {}).get("full_name")
    return (
        path == f".github/workflows/{WORKFLOW}"
        and run.get("head_sha") == commit
        and run.get("event") in EVENTS
        and home is not None
        and (run.get("head_repository") or {}).get("full_name") == home
    )


def runs(commit: str) -> list[int]:
    """The trusted runs, the newest first. One that still goes on may have left its artifact."""
    where = f"repos/{{owner}}/{{repo}}/actions/workflows/{WORKFLOW}/runs"
    found = json.loads(output("gh", "api", f"{where}?head_sha={commit}&per_page=100"))
    return [run["id"] for run in found["workflow_runs"] if trusted(run, commit)]


def bring(folder: Path) -> None:
    """Put what BRINGS names in place of what is here, and nothing else of a folder."""
    for name in BRINGS:
        source, target = folder / name, ROOT / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        elif source.is_file():
            shutil.copyfile(source, target)


def main() -> int:
    commit = output("git", "rev-parse", "HEAD").strip()
    why = "gpu.yml has not run for it"
    try:
        for run in runs(commit):
            with tempfile.TemporaryDirectory() as folder:
                name = f"executed-{commit}"
                try:
                    output("gh", "run", "download", str(run), "--name", name, "--dir", folder)
                except OSError as problem:  # it has not come so far, or failed before
                    why = str(problem)
                    continue
                bring(Path(folder))
            print(f"From run {run} of {WORKFLOW}: the outputs in _build/executed, the records.")
            return 0
    except (OSError, ValueError, LookupError) as problem:
        why = str(problem)
    print("No outputs were made on a GPU for this commit, so the recorded results are shown.")
    print(f"  {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
