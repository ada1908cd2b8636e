"""Write constraints.txt: the exact versions that `make` and CI install.

    python .ci/pins.py python3.10 python3.11 python3.12 python3.13

asks pip, under each interpreter named, what it would install for requirements.txt and the releases
of KEEP, and merges the answers. A package whose version differs between Pythons gets one line for
each, with a marker. Nothing is installed. What torch itself pins, its CUDA packages, is left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Held by hand: torch names its triton, and these were seen to run and build cleanly together.
KEEP = ["torch==2.13.0", "triton==3.7.1", "numpy<2.5"]
LEFT_TO_TORCH = re.compile(r"^(nvidia-|cuda-)")
HEADER = """\
# The exact versions that `make` and CI install, for every Python from 3.10 on.
# Written by `make pins`; change requirements.txt or .ci/pins.py, not this file.
"""


def resolve(python: str, scratch: Path) -> tuple[tuple[int, int], dict[str, str]]:
    """The interpreter's version, and the versions pip would install under it, by package name."""
    venv = scratch / Path(python).name
    subprocess.run([python, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "-U", "pip"], check=True)
    report = venv / "report.json"
    wanted = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--report", report]
    subprocess.run([*pip, *wanted, "-r", ROOT / "requirements.txt", *KEEP], check=True)
    answer = json.loads(report.read_text())
    major, minor = answer["environment"]["python_version"].split(".")
    found = (i["metadata"] for i in answer["install"])
    versions = {normal(m["name"]): m["version"].split("+")[0] for m in found}
    return (int(major), int(minor)), {
        name: v for name, v in versions.items() if not LEFT_TO_TORCH.match(name)
    }


def normal(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def merge(answers: dict[tuple[int, int], dict[str, str]]) -> list[str]:
    """Constraint lines; the newest Python's version also holds for the Pythons after it."""
    lines = []
    for name in sorted(set().union(*answers.values())):
        spans: list[list] = []  # [first Python, last Python, version]
        for python in sorted(answers):
            version = answers[python].get(name)
            if version and spans and spans[-1][2] == version:
                spans[-1][1] = python
            elif version:
                spans.append([python, python, version])
        for first, last, version in spans:
            bounds = []
            if len(spans) > 1 and first != min(answers):
                bounds.append(f'python_version >= "{first[0]}.{first[1]}"')
            if len(spans) > 1 and last != max(answers):
                bounds.append(f'python_version < "{last[0]}.{last[1] + 1}"')
            lines.append(f"{name}=={version}" + (f" ; {' and '.join(bounds)}" if bounds else ""))
    return lines


def main(pythons: list[str]) -> None:
    if not pythons:
        sys.exit("Name the interpreters, as in `python .ci/pins.py python3.10 python3.13`.")
    with tempfile.TemporaryDirectory() as scratch:
        answers = dict(resolve(python, Path(scratch)) for python in pythons)
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(merge(answers)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
