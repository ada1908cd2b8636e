"""Run the book's notebooks as a stranger would, in an environment like Colab's.

    python .ci/notebooks.py [NOTEBOOK ...]

Without a name all of `_build/html/notebooks` are run, each from an empty folder outside the
checkout, with its clone step pointed at this repository, by a Python that finds what Colab has
(GIVEN and what that needs) and nothing else of the book's. On a machine with a GPU they use it.
The notebooks with their outputs are left in `_build/notebooks`, also that of one that failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "_build/html/notebooks"
RESULTS = ROOT / "_build/notebooks"
GIVEN = ("torch", "triton", "numpy", "pandas", "matplotlib", "plotly", "ipywidgets", "ipykernel")
CELL_S = 600
# A role, a fence with a directive, a target, an attribute: what plain Markdown has not.
RAW = re.compile(
    r"\{[\w:+-]+\}`|^[:`]{3,}\s*\{.*|^\([\w-]+\)=$|^:{3,}|<glue:.*|^:\w+:.*", re.MULTILINE
)
SET_BY_THE_BUILD = ("TRITON_INTERPRET", "PYTHONPATH", "BOOK_FOLDER", "BOOK_LIVE_RECORD")


def closure(names) -> dict[str, metadata.Distribution]:
    """The installed packages of these names, and all that they need."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # needed elsewhere: on another system, or by an extra
        found[name] = package
        for line in package.requires or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need.name.lower().replace("_", "-"))
    return found


def environment(folder: Path) -> Path:
    """Make a Python that finds GIVEN, what that needs, and pip; return its executable.

    The packages are links to this environment's, in a folder of their own, so that pip, which
    installs beside them, never removes or changes one.
    """
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    links = folder / "given"
    links.mkdir()
    for package in closure((*GIVEN, "pip")).values():
        for top in {file.parts[0] for file in package.files or ()}:
            source = Path(package.locate_file(top))
            if top != ".." and not top.endswith(".pth") and top != "__pycache__":
                target = links / top
                if source.exists() and not target.exists():
                    target.symlink_to(source.resolve())
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "given.pth").write_text(f"{links}\n")
    return folder / "bin/python"


def finds(python: Path, module: str) -> bool:
    """Whether that Python can import a module."""
    code = f"import importlib.util as u; raise SystemExit(u.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], env=clean(), cwd="/").returncode == 0


def clean() -> dict[str, str]:
    """The environment variables of a stranger."""
    kept = {k: v for k, v in os.environ.items() if k not in SET_BY_THE_BUILD}
    where = "BOOK_REPOSITORY_URL" if (ROOT / ".git").exists() else "BOOK_FOLDER"
    return kept | {"PYTHONNOUSERSITE": "1", where: str(ROOT)}


def raw_myst(notebook) -> list[str]:
    """What a converter overlooked in the text of a notebook: roles, directives, targets."""
    found = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            text = re.sub(r"^(```+)\w*$.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
            text = re.sub(r"(?<!\})(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
            found += RAW.findall(text)
    return found


def run(path: Path, python: Path) -> tuple[str, float, str | None]:
    """(name, seconds, None or what went wrong) of one notebook, from an empty folder."""
    name = str(path.relative_to(NOTEBOOKS) if path.is_relative_to(NOTEBOOKS) else path.name)
    notebook = nbformat.read(path, as_version=4)
    if raw_myst(notebook):
        return name, 0.0, f"MyST is left in its text: {raw_myst(notebook)}"
    begin, problem = time.monotonic(), None
    with tempfile.TemporaryDirectory(prefix="colab-") as folder:
        spec = Path(folder, "jupyter/kernels/stranger")
        spec.mkdir(parents=True)
        # Not its warnings: each kernel has one, that it is not encrypted.
        quiet = "--log-level=ERROR"
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet]
        facts = {"argv": argv, "display_name": "stranger", "language": "python"}
        (spec / "kernel.json").write_text(json.dumps(facts))
        work = Path(folder, "content")
        work.mkdir()
        # In a container this repository belongs to somebody else, and git would not clone it.
        trust = Path(folder, "gitconfig")
        trust.write_text("[safe]\n\tdirectory = *\n")
        client = NotebookClient(
            notebook,
            timeout=CELL_S,
            kernel_name="stranger",
            resources={"metadata": {"path": str(work)}},
        )
        client.create_kernel_manager()
        client.km.kernel_spec_manager.kernel_dirs = [str(spec.parent)]
        try:
            client.execute(env=clean() | {"GIT_CONFIG_GLOBAL": str(trust)})
        except CellExecutionError as error:
            problem = str(error)
        except Exception as error:  # the kernel died, or a cell took too long
            problem = f"{type(error).__name__}: {error}"
    result = RESULTS / name
    result.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, result)
    return name, time.monotonic() - begin, problem


def in_turn(paths, run_one, run_many):
    """The outcomes in order: of the first path alone, then of the others side by side.

    On Colab each notebook has a machine to itself. Here they share one Python, and two that
    install what is missing into it at the same moment break each other's pip.
    """
    yield run_one(paths[0])
    yield from run_many(run_one, paths[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="*", type=Path)
    parser.add_argument("--here", action="store_true", help="with this Python, as Colab's image")
    parser.add_argument("--jobs", type=int, default=0, help="notebooks at a time")
    options = parser.parse_args()
    paths = [path.resolve() for path in options.notebook] or sorted(NOTEBOOKS.rglob("*.ipynb"))
    if not paths:
        sys.exit(f"There are no notebooks in {NOTEBOOKS}: run `make book` first.")
    for path in paths:
        try:
            nbformat.validate(nbformat.read(path, as_version=4))
        except Exception as problem:  # whatever is wrong with a file, nbformat raises its own
            why = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            sys.exit(f"{path} cannot be read as a notebook: {why}")
    if not (ROOT / ".git").exists():
        print("This folder is no git repository: the notebooks use it as it is, without a clone.")
    python = Path(sys.executable) if options.here else environment(ROOT / "_build/colab")
    if options.here:
        print(f"The notebooks run with {python}, as it is.")
    elif finds(python, "myst_nb") or finds(python, "pytest") or not finds(python, "torch"):
        sys.exit(f"{python} does not have what Colab has, and no more.")
    # Where a GPU is measured, one at a time: they would disturb each other's times.
    gpu = shutil.which("nvidia-smi") is not None
    failed = 0
    with ThreadPoolExecutor(options.jobs or (1 if gpu else 2)) as pool:
        for name, seconds, problem in in_turn(paths, lambda path: run(path, python), pool.map):
            print(f"{name}: {'failed' if problem else 'ran'} in {seconds:.0f} s", flush=True)
            if problem:
                failed += 1
                print(problem, flush=True)
    print(f"{len(paths) - failed} of {len(paths)} notebooks ran; they are in {RESULTS}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
