"""Collect the wheels that a GPU host without a network needs to build the book.

    python .ci/wheelhouse.py [--out .wheels] [--host packages.txt]

Run it with the Python version and on the platform of the host. PyTorch and Triton are left out:
the host has its own. `--host` names what `pip freeze` printed there; what the host has in a
version that fits is then left out as well.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOSTS_OWN = {"torch", "triton"}


def normal(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lines(path: Path) -> list[str]:
    """The lines of a requirements file that name a package, less those that the host brings."""
    found = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [x for x in found if x and normal(re.split(r"[=<>!~ ;\[]", x)[0]) not in HOSTS_OWN]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / ".wheels")
    parser.add_argument("--host", type=Path, help="what `pip freeze` prints on the host")
    options = parser.parse_args()
    held = {}
    if options.host:
        try:
            text = options.host.read_text()
        except (OSError, ValueError) as problem:
            sys.exit(f"{options.host} cannot be read as what `pip freeze` prints: {problem}")
        for line in text.splitlines():
            name, _, version = line.strip().partition("==")
            if version:
                held[normal(name)] = version
    with tempfile.TemporaryDirectory() as scratch:
        venv, wanted = Path(scratch, "venv"), Path(scratch, "wanted.txt")
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [venv / "bin/python", "-m", "pip", "--disable-pip-version-check"]
        wheels = ["--only-binary=:all:", "-q"]
        # A pip that writes reports: the one that comes with Python 3.10 is too old.
        subprocess.run([*pip, "install", "-q", "--upgrade", "pip"], check=True)
        wanted.write_text("\n".join(lines(ROOT / "requirements.txt")) + "\n")
        pins = Path(scratch, "pins.txt")
        pins.write_text("\n".join(lines(ROOT / "constraints.txt")) + "\n")
        report = Path(scratch, "report.json")
        ask = [*pip, "install", "--dry-run", "--ignore-installed", "--report", report, *wheels]
        subprocess.run([*ask, "-r", wanted, "-c", pins], check=True)
        chosen = Path(scratch, "chosen.txt")
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
        needed = [p for p in packages if not fits(venv, p, packages, held, wanted)]
        chosen.write_text("".join(f"{p['name']}=={p['version']}\n" for p in needed))
        shutil.rmtree(options.out, ignore_errors=True)
        options.out.mkdir(parents=True)
        get = [*pip, "download", "--no-deps", "--dest", options.out, *wheels, "-r", chosen]
        subprocess.run(get, check=True)
    files = sorted(options.out.glob("*.whl"), key=lambda path: -path.stat().st_size)
    for path in files[:8]:
        print(f"{path.stat().st_size / 2**20:7.1f} MiB  {path.name}")
    total = sum(path.stat().st_size for path in files) / 2**20
    print(f"{total:7.1f} MiB  in {len(files)} wheels, in {options.out}")
    print("Carry the folder to the host, into the clone as .wheels, and type there:")
    print("  PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/.wheels make book HOST_TORCH=1")
    return 0


def fits(venv: Path, package: dict, packages: list[dict], held: dict, wanted: Path) -> bool:
    """Whether the host's version of a package satisfies all that ask for it."""
    name = normal(package["name"])
    if name not in held:
        return False
    sys.path[:0] = [str(p) for p in venv.glob("lib/python*/site-packages")]
    from pip._vendor.packaging.requirements import Requirement

    asked = [r for p in packages for r in p.get("requires_dist", ())]
    asked += wanted.read_text().splitlines()
    for requirement in map(Requirement, asked):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if normal(requirement.name) == name and applies:
            if not requirement.specifier.contains(held[name], prereleases=True):
                return False
    return True


if __name__ == "__main__":
    sys.exit(main())
