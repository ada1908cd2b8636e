"""Say what this machine can do for the book, and what to do about what it lacks.

    python .ci/doctor.py

Needs the standard library only, and is run before anything is installed. It fails only where
nothing of the book can be built.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISK_GB = 6  # .venv takes 2 to 5, by the PyTorch that is installed; the book itself little
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROBE = """
import json
found = {}
for name in ("torch", "triton", "playwright"):
    try:
        module = __import__(name)
        found[name] = getattr(module, "__version__", "there")
    except Exception as problem:
        found[name] = None
if found["torch"]:
    import torch
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found["gpu"] = [gpu.name, gpu.major, gpu.minor, gpu.total_memory]
    found["cuda"] = torch.version.cuda
print(json.dumps(found))
"""


def output(*command: str) -> str | None:
    """The first line that a command prints; None where it is absent or fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = run.stdout.strip().splitlines()
    return lines[0] if run.returncode == 0 and lines else None


def look() -> list[tuple[str, str, str]]:
    """(what, what was found, what to do about it or nothing), and last what follows."""
    rows = []
    python = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 10)
    advice = "install Python 3.10 or newer, and name it: make doctor PYTHON=python3.12"
    rows.append(("Python", f"{python}, {sys.executable}", advice if old else ""))

    free = shutil.disk_usage(ROOT).free / 1e9
    advice = f"make room: the set-up and a build take up to {DISK_GB} GB"
    rows.append(("disk", f"{free:.0f} GB free", advice if free < DISK_GB else ""))
    for name, purpose in (("git", "commits in records and notebooks"), ("make", "every command")):
        there = shutil.which(name)
        rows.append((name, there or "none", "" if there else f"install it: {purpose} need it"))

    driver = output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    venv = ROOT / ".venv/bin/python"
    own = venv.exists()
    found = json.loads(output(str(venv) if own else sys.executable, "-c", PROBE) or "{}")
    where = ".venv" if own else "this Python"
    for name in ("torch", "triton"):
        version = found.get(name)
        advice = "none needed yet: make book installs it" if not own else "run make book again"
        said = f"{version} in {where}" if version else f"none in {where}"
        rows.append((name, said, "" if version else advice))
    if not own and found.get("torch"):
        rows[-2] = (*rows[-2][:2], "to keep it, type HOST_TORCH=1 after make book")

    gpu = found.get("gpu")
    if gpu:
        name, major, minor, memory = gpu
        said = f"{name}, sm_{major}{minor}, {memory / 2**30:.0f} GiB"
        limits = "measures in float16: no bfloat16 and no tensor-core code below sm_80"
        rows.append(("GPU", said, limits if (major, minor) < (8, 0) else ""))
    elif driver is None:
        advice = "none needed: kernels run in the interpreter, times are the recorded ones"
        rows.append(("GPU", "none", advice))
    elif found.get("torch") and not found.get("cuda"):
        advice = "this PyTorch is the CPU build: make clean, then make book with the usual one"
        rows.append(("GPU", driver.split(",")[0], advice))
    else:
        advice = "PyTorch is not installed yet" if not found.get("torch") else (
            "PyTorch does not see it: the driver may be older than its CUDA"
        )  # fmt: skip
        rows.append(("GPU", driver.split(",")[0], advice))
    rows.append(("driver", driver.split(", ")[-1] if driver else "none", ""))

    browser = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    advice = "for the tests that look at pages: install Chromium (Debian: apt install chromium)"
    rows.append(("Chromium", browser or "none", "" if browser else advice))
    node = output("node", "--version")
    rows.append(("Node", node or "none", "" if node else "none needed: no command uses it"))
    return rows


def abilities(rows: list[tuple[str, str, str]]) -> list[str]:
    """What the machine can do, a sentence each."""
    found = {what: (said, advice) for what, said, advice in rows}
    can = []
    if found["Python"][1] or found["disk"][1] or found["make"][1]:
        return ["The book cannot be built here yet."]
    gpu, problem = found["GPU"]
    if gpu == "none":
        can.append("make book: builds the book, with recorded times.")
        can.append("make record: no, it needs an NVIDIA GPU.")
    elif "PyTorch" in problem:
        can.append("make book: builds the book, with recorded times until PyTorch sees the GPU.")
    else:
        can.append("make book: builds the book, and measures this GPU while it does.")
        can.append("make record: measures this GPU in full.")
    browser = found["Chromium"][0] != "none"
    can.append("make test: all tests of the code and the texts.")
    can.append(f"make test-site, make pdf: {'yes' if browser else 'no, they need Chromium'}.")
    return can


def main() -> int:
    rows = look()
    for what, said, advice in rows:
        print(f"{what:9} {said}" + (f"\n{'':9} → {advice}" if advice else ""))
    print()
    for line in abilities(rows):
        print(line)
    if os.environ.get("PIP_NO_INDEX"):
        print("Packages are taken from PIP_FIND_LINKS alone: see make wheelhouse.")
    return 1 if "cannot" in abilities(rows)[0] else 0


if __name__ == "__main__":
    sys.exit(main())
