"""Imports run one way, chapters → bench → kernels, and nothing leads to a private machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"chapters", "bench", "kernels", "tests"}
PRIVATE = re.compile(
    r"(?<![\w.])/(?:work|root|home|Users|opt)/\w|\.\./shared"
    r"|pypi\.org|pythonhosted\.org|registry\.npmjs|download\.pytorch\.org"
)


def imports(source: str) -> set[str]:
    """The top-level names of all absolute imports, also of those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def files(room: str, pattern: str) -> list[Path]:
    return sorted((ROOT / room).rglob(pattern))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files("kernels", "*.py"), ids=relative)
def test_kernels_import_torch_and_triton_alone(path):
    assert imports(path.read_text()) <= {"kernels", "torch", "triton", *sys.stdlib_module_names}


def cells(page: str) -> list[str]:
    """The code of every cell of a page."""
    pattern = r"^```\{code-cell\}[^\n]*\n(?::[^\n]*\n)*(.*?)^```"
    return re.findall(pattern, page, re.S | re.M)


@pytest.mark.parametrize("path", files("bench", "*.py"), ids=relative)
def test_bench_imports_kernels_alone_of_the_rooms(path):
    assert imports(path.read_text()) & ROOMS <= {"bench", "kernels"}


@pytest.mark.parametrize("path", files("chapters", "*.md"), ids=relative)
def test_chapters_import_bench_and_kernels_alone_of_the_rooms(path):
    for code in cells(path.read_text()):
        assert imports(code) & ROOMS <= {"bench", "kernels"}


@pytest.mark.parametrize("path", files("chapters", "*.py"), ids=relative)
def test_code_beside_chapters_imports_bench_and_kernels_alone_of_the_rooms(path):
    assert imports(path.read_text()) & ROOMS <= {"bench", "kernels"}


def test_every_cell_of_a_page_is_found():
    page = (
        "```{code-cell} python\n:tags: [hide-input]\n:other: x\nimport a\n```\ntext: `b`\n"
        "```{code-cell} python\nimport c\n\nx = d[1:2]\n```\n```python\nimport e\n```\n"
    )
    assert cells(page) == ["import a\n", "import c\n\nx = d[1:2]\n"]


def test_imports_are_found():
    source = "import a.b\nfrom c.d import e\ndef f():\n    import g\nfrom . import h\n"
    assert imports(source) == {"a", "c", "g"}


def test_no_private_path_or_host():
    run = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    tracked = [ROOT / name for name in run.stdout.split("\0") if name]
    if not tracked:
        pytest.skip("not a git checkout")
    found = {}
    for path in tracked:
        if path.suffix != ".png" and path.exists() and path != Path(__file__).resolve():
            found[relative(path)] = PRIVATE.findall(path.read_text())
    assert not {name: paths for name, paths in found.items() if paths}


def test_private_paths_are_found():
    assert PRIVATE.search("see /home/me/book") and PRIVATE.search("read ../shared/x")
    assert not PRIVATE.search("see results/work/out and https://example.org/home/page")
