"""Notebooks of the pages: what becomes of each part of a page, and what their first cell does."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("jupyter_book", reason="the book's own packages are not installed")

import nbformat
from book_ext import notebooks, repository
from books import build

from bench import notebook as first_cell

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://github.com/Me/book"
SITE = "https://me.github.io/book/"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

spec = importlib.util.spec_from_file_location("ci_notebooks", ROOT / ".ci/notebooks.py")
ci = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ci)

PAGE = r"""
(top)=
# A page with *code*

Two stars ** and a dollar $ and `a_b`, by {cite}`tillet2019triton`.
See {doc}`../plain`, {ref}`its section <there>` and {eq}`eq-one`, with {math}`x_1 = 2`.
- {term}`warp` is a term.

```{code-cell} python
:tags: [remove-cell]
from myst_nb import glue
glue("speed", "1.25", display=False)
```

It takes {glue:text}`speed` ms.

```{math}
:label: eq-one
y = x \\
z = y
```

:::{admonition} Takeaway
:class: important
Keep {math}`x`.
:::

| a | b |
|---|---|
| `x\|y` | {math}`\|2\|` |

Term
: Its meaning.

```{code-cell} python
:tags: [hide-input]
1 + 1
```

```{exercise-start} Sum
:label: ex-sum
```
Complete it.
```{literalinclude} puzzles/sum.py
:language: python
:start-after: "# [puzzle:begin]"
:end-before: "# [puzzle:end]"
```
```{code-cell} python
"checked"
```
```{exercise-end}
```

```{solution-start} ex-sum
:label: ex-sum-solution
:class: dropdown
```
First this.
```{literalinclude} puzzles/sum_solution.py
:language: python
:start-after: "# [puzzle:begin]"
```
```{code-cell} python
"solved"
```
Then that.
```{solution-end}
```
"""
PLAIN = "# Plain\n\n(there)=\n## There\n\n```{glossary}\nwarp\n    32 threads.\n```\n"
PLAIN += "\n```{bibliography}\n```\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("book")
    (root / "chapters/puzzles").mkdir(parents=True)
    stub = "import math\n# [puzzle:begin]\ndef total(x):\n    # Your line.\n    # [puzzle:end]\n"
    (root / "chapters/puzzles/sum.py").write_text(stub)
    (root / "chapters/puzzles/sum_solution.py").write_text("# [puzzle:begin]\nreturn sum(x)\n")
    where = {"BOOK_REPOSITORY_URL": ADDRESS, "BOOK_COMMIT": COMMIT}
    run = build(
        root, {"plain": PLAIN, "labs/lab": PAGE.replace("puzzles/", "../puzzles/")}, **where
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return root / "_build/html"


@pytest.fixture(scope="module")
def book(site):
    return nbformat.read(site / "notebooks/chapters/labs/lab.ipynb", as_version=4)


@pytest.fixture(scope="module")
def text(book):
    return "\n=====\n".join(cell.source for cell in book.cells)


def test_only_pages_with_code_have_a_notebook(site):
    assert [p.name for p in site.rglob("*.ipynb")] == ["lab.ipynb"]


def test_it_is_valid_and_plain(book):
    nbformat.validate(book)
    assert not ci.raw_myst(book)
    assert not [c for c in book.cells if c.cell_type == "code" and c.outputs]


@pytest.mark.parametrize("raw", ["{ref}`a`", "```{note}\n", "(a)=", ":::{tip}", ":class: tip"])
def test_raw_myst_is_noticed(raw):
    cell = nbformat.v4.new_markdown_cell(f"Text\n{raw}\n")
    assert ci.raw_myst(nbformat.v4.new_notebook(cells=[cell]))


def test_the_first_cell_fetches_the_published_commit(book):
    first = book.cells[0]
    assert first.cell_type == "code" and COMMIT in first.source and ADDRESS in first.source
    assert 'notebook.start("chapters/labs")' in first.source
    compile(first.source, "first", "exec")
    assert max(map(len, first.source.splitlines())) <= 80


@pytest.mark.parametrize(
    "expected",
    [
        "# A page with *code*",
        r"Two stars \*\* and a dollar \$ and `a_b`, by [[Tillet *et al.*, 2019]"
        f"({SITE}chapters/plain.html#",
        f"[Plain]({SITE}chapters/plain.html)",
        f"[its section]({SITE}chapters/plain.html#there)",
        f"[(1)]({SITE}chapters/labs/lab.html#equation-eq-one)",
        "with $x_1 = 2$.",
        f"[warp]({SITE}chapters/plain.html#term-warp)",
        "It takes 1.25 ms.",
        "$$\n\\begin{aligned}\ny = x \\\\\nz = y\n\\end{aligned} \\tag{1}\n$$",
        "> **Takeaway**\n>\n> Keep $x$.",
        "| a | b |\n| --- | --- |\n| `x\\|y` | $\\vert 2\\vert $ |",
        "- **Term**: Its meaning.",
        "**Exercise 1 (Sum)**\n\nComplete it.",
        "%%writefile ../puzzles/sum.py\nimport math\n",
        "<details><summary>Solution to Exercise 1 (Sum)</summary>\n\nFirst this.\n\n"
        "```python\nreturn sum(x)\n```\n\n</details>",
        "<details><summary>Solution to Exercise 1 (Sum), continued</summary>\n\nThen that.",
    ],
)
def test_what_a_part_of_a_page_becomes(text, expected):
    assert expected in text


def test_all_code_is_there_in_order(book):
    code = [c for c in book.cells if c.cell_type == "code"]
    begins = [c.source.splitlines()[0] for c in code[1:]]
    written = "%%writefile ../puzzles/sum.py"
    assert begins == ["from myst_nb import glue", "1 + 1", written, '"checked"', '"solved"']
    hidden = [c.metadata.get("jupyter", {}).get("source_hidden", False) for c in code[1:]]
    assert hidden == [True, True, False, False, False]


def test_buttons_lead_to_the_notebook(site):
    page = (site / "chapters/labs/lab.html").read_text()
    colab = "https://colab.research.google.com/github/Me/book/blob/gh-pages"
    assert f"{colab}/notebooks/chapters/labs/lab.ipynb" in page
    assert 'href="../../notebooks/chapters/labs/lab.ipynb"' in page
    assert "colab" not in (site / "chapters/plain.html").read_text().lower()


PLACE = repository.Place(None, "main", None, "gh-pages", None)


def test_without_a_repository_nothing_points_to_one():
    assert notebooks.colab_address("a", PLACE) is None
    first = notebooks.setup_cell("chapters/a", PLACE)
    compile(first, "first", "exec")
    assert "://" not in first and "Set BOOK_REPOSITORY_URL" in first


def test_colab_opens_only_what_lies_on_github():
    other = repository.Place("https://gitlab.com/a/b", "main", None, "gh-pages", None)
    assert notebooks.colab_address("a", other) is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (ADDRESS, SITE),
        ("https://github.com/me/Me.github.io", "https://me.github.io/"),
        ("https://gitlab.com/me/book", None),
    ],
)
def test_address_of_the_website(url, address):
    assert repository.pages_address(url) == address


def test_variables_come_before_git(monkeypatch, tmp_path):
    for name in ("URL", "BRANCH"):
        monkeypatch.delenv(f"BOOK_REPOSITORY_{name}", raising=False)
    for name in ("BOOK_SITE_URL", "BOOK_SITE_BRANCH", "BOOK_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    assert repository.find(tmp_path) == PLACE
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    remote = ["git", "-C", tmp_path, "remote", "add", "origin", "git@github.com:Me/book.git"]
    subprocess.run(remote, check=True)
    assert repository.find(tmp_path) == repository.Place(ADDRESS, "main", SITE, "gh-pages", None)
    monkeypatch.setenv("BOOK_REPOSITORY_URL", "https://github.com/fork/book")
    monkeypatch.setenv("BOOK_SITE_URL", "https://example.org/book")
    found = repository.find(tmp_path)
    assert (found.url, found.site) == ("https://github.com/fork/book", "https://example.org/book/")


# --- the first cell's helper ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "says", "silent"),
    [
        ((7, 5), ["float16", "cannot show: bfloat16", "chunked PyTorch reference"], "Everything"),
        ((8, 0), ["Everything", "bfloat16"], "cannot"),
        ((8, 9), ["Everything", "bfloat16"], "cannot"),
        ((9, 0), ["Everything", "bfloat16"], "cannot"),
    ],
)
def test_the_notice_says_what_a_gpu_allows(capability, says, silent):
    words = first_cell.allowed("Some GPU", capability, 16 * 2**30)
    assert words.startswith("Some GPU, sm_") and "16 GiB" in words
    assert all(part in words for part in says) and silent not in words


def test_without_a_gpu_the_interpreter_is_chosen(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # so that it is put back afterwards
    assert "no GPU" in first_cell.notice()
    assert first_cell.os.environ["TRITON_INTERPRET"] == "1"


def test_with_a_gpu_the_kernels_are_compiled(monkeypatch):
    t4 = SimpleNamespace(name="Tesla T4", major=7, minor=5, total_memory=15 * 2**30)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: t4)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert first_cell.notice().startswith("Tesla T4, sm_75, 15 GiB.")
    assert "TRITON_INTERPRET" not in first_cell.os.environ


def test_the_cells_of_a_notebook_compute_with_one_thread():
    code = (
        "from bench import notebook\nnotebook.install = lambda: None\nnotebook.start('chapters')\n"
        "import torch\nprint(torch.get_num_threads())\n"
    )
    env = {k: v for k, v in ci.clean().items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.stdout.splitlines()[-1] == "1", run.stderr


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ({"torch": "2.11.0+cu130", "triton": "3.6.0"}, []),
        ({"torch": "2.9.0", "triton": "3.5.1"}, []),
        ({"torch": "2.8.0", "triton": "3.4.0"}, ["torch is 2.8.0", "triton is 3.4.0"]),
    ],
)
def test_old_versions_are_named(monkeypatch, there, named):
    monkeypatch.setattr(first_cell, "version", there.get)
    said = first_cell.older()
    assert len(said) == len(named) and all(x in y for x, y in zip(named, said, strict=True))


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A Python that has what Colab has."""
    return ci.environment(tmp_path_factory.mktemp("colab") / "env")


@pytest.mark.parametrize("name", [*ci.GIVEN, "pip"])
def test_colab_has(colab, name):
    assert ci.finds(colab, name)


@pytest.mark.parametrize("name", ["myst_nb", "sphinx", "pytest", "pydantic", "bench"])
def test_colab_has_not(colab, name):
    assert importlib.util.find_spec(name), "then nothing is shown"
    assert not ci.finds(colab, name)


def wheel(folder: Path, name: str, needs: str = "") -> None:
    """A package of one module, that may need another."""
    info = f"{name}-1.0.dist-info"
    needed = f"Requires-Dist: {needs}\n" if needs else ""
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needed}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


def test_what_is_missing_is_installed_and_what_is_there_stays(colab, tmp_path):
    wheel(tmp_path, "modest_package")
    wheel(tmp_path, "greedy_package", "numpy<1")
    code = (
        "import json, sys\nfrom importlib.metadata import version\nfrom bench import notebook\n"
        "found = {}\n"
        "for name in ('modest_package', 'greedy_package'):\n"
        "    notebook.NEEDS = ('torch>=2.9', 'triton>=3.5', 'numpy>=1.26', name + '>=1')\n"
        "    try:\n        notebook.install()\n"
        "    except RuntimeError as problem:\n        found['refused'] = str(problem)\n"
        "    found[name] = notebook.version(name)\n"
        "print(json.dumps(found | {n: version(n) for n in ('torch', 'triton', 'numpy')}))\n"
    )
    where = {"PYTHONPATH": str(ROOT), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    run = subprocess.run(
        [colab, "-c", code], env=ci.clean() | where, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["modest_package"] == "1.0" and found["greedy_package"] is None
    assert "greedy_package" in found["refused"]
    for name in ("torch", "triton", "numpy"):
        assert found[name] == first_cell.version(name)


def test_it_installs_what_the_packages_ask_for():
    text = (ROOT / "pyproject.toml").read_text()
    asked = {need for need in first_cell.NEEDS if f'"{need}"' in text}
    assert asked == set(first_cell.NEEDS)
    assert "ipywidgets" in map(first_cell.name_of, first_cell.NEEDS), "bench.live imports it"


def test_the_notebook_that_installs_runs_alone():
    """Two pips that install into one Python at once break each other."""
    done, meet = [], threading.Barrier(2)

    def run_one(name):
        if name != "first":
            assert done[0] == "first"
            meet.wait(timeout=60)  # breaks where the two others do not run side by side
        done.append(name)
        return name

    names = ["first", "second", "third"]
    with ThreadPoolExecutor(2) as pool:
        assert list(ci.in_turn(names, run_one, pool.map)) == names
