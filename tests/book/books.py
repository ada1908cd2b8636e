"""Small books for tests: built with this book's settings, extension and assets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADER = (
    "---\njupytext:\n  text_representation:\n    extension: .md\n    format_name: myst\n"
    "kernelspec:\n  name: python3\n  display_name: Python 3\n---\n"
)


def build(root: Path, pages: dict[str, str], **environment: str) -> subprocess.CompletedProcess:
    """Build a book of these pages, with this book's settings, extension and assets."""
    shutil.copy(ROOT / "_config.yml", root)
    for name in ("_ext", "assets"):
        shutil.copytree(ROOT / "chapters" / name, root / "chapters" / name, dirs_exist_ok=True)
    shutil.copy(ROOT / "chapters/references.bib", root / "chapters")
    (root / "kernels").mkdir(exist_ok=True)
    (root / "kernels/__init__.py").write_text("")
    for name, text in pages.items():
        page = root / "chapters" / f"{name}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(HEADER + text)
    first, *others = pages
    chapters = "".join(f"- file: chapters/{name}\n" for name in others)
    (root / "_toc.yml").write_text(
        f"format: jb-book\nroot: chapters/{first}\nchapters:\n{chapters}"
    )
    command = [
        Path(sys.executable).parent / "jupyter-book",
        "build",
        root,
        "-W",
        "--keep-going",
        "-n",
    ]
    ours = ("TRITON_INTERPRET", "OMP_NUM_THREADS")
    given = {k for k in os.environ if k in ours or k.startswith("BOOK_")}
    clean = {k: v for k, v in os.environ.items() if k not in given}
    return subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, timeout=300
    )
