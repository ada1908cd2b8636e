"""The book's Sphinx extension: its parts, and a small book built with it."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("jupyter_book", reason="the book's own packages are not installed")

from book_ext import execution, repository
from books import build
from sphinx.errors import ExtensionError

from bench.claims import Claim, Claims

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["kernels/steps/a.py", "bench/b.py", "results/c.json", "chapters/puzzles/p.py"]
MACHINE = {"torch": "2", "triton": "3", "gpu": None}
FIGURE = '<div class="book-plotly"><script type="application/json">{"data": []}</script></div>'


@pytest.fixture
def checkout(tmp_path):
    for name in (*SOURCES, "chapters/d.md", "chapters/_ext/e.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    return tmp_path


@pytest.mark.parametrize("name", SOURCES)
def test_cache_changes_with_what_the_outputs_depend_on(checkout, name):
    before = execution.fingerprint(checkout, MACHINE)
    (checkout / name).write_text("2")
    assert execution.fingerprint(checkout, MACHINE) != before


@pytest.mark.parametrize("key", MACHINE)
def test_cache_changes_with_the_machine(checkout, key):
    other = MACHINE | {key: "other"}
    assert execution.fingerprint(checkout, other) != execution.fingerprint(checkout, MACHINE)


def test_cache_stays_when_only_prose_changes(checkout):
    before = execution.fingerprint(checkout, MACHINE)
    (checkout / "chapters/d.md").write_text("2")
    (checkout / "chapters/_ext/e.py").write_text("2")
    (checkout / "kernels/__pycache__").mkdir()
    (checkout / "kernels/__pycache__/a.pyc").write_text("2")
    assert execution.fingerprint(checkout, MACHINE) == before


def test_old_caches_go_and_the_one_in_use_stays(tmp_path):
    for age in range(1, 6):
        (tmp_path / str(age)).mkdir()
        os.utime(tmp_path / str(age), (1e9 - age, 1e9 - age))
    execution.prune(tmp_path, keep=tmp_path / "5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "5"]


def test_the_other_kernels_package_is_refused(checkout):
    execution.check_kernels(checkout, str(checkout / "kernels/__init__.py"))
    with pytest.raises(ExtensionError, match="site-packages"):
        execution.check_kernels(checkout, "/usr/lib/site-packages/kernels/__init__.py")
    with pytest.raises(ExtensionError, match="nothing"):
        execution.check_kernels(checkout, None)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/me/book.git", "https://github.com/me/book"),
        ("https://user:secret@github.com/me/book", "https://github.com/me/book"),
        ("git@gitlab.com:group/sub/book.git", "https://gitlab.com/group/sub/book"),
        ("ssh://git@github.com/me/book.git", "https://github.com/me/book"),
        ("https://git.example.org/me/book", None),
        ("/srv/git/book.git", None),
        ("", None),
    ],
)
def test_address_of_the_repository(remote, address):
    assert repository.web_address(remote) == address


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("book")
    cell = (
        "import os, subprocess, sys\nimport kernels, torch\nfrom IPython.display import HTML\n"
        "print(kernels.__file__, torch.cuda.is_available(), os.environ.get('TRITON_INTERPRET'))\n"
        "ask = [sys.executable, '-c', 'import torch; print(torch.get_num_threads())']\n"
        "there = subprocess.run(ask, capture_output=True, text=True).stdout.strip()\n"
        "print(f'threads: {torch.get_num_threads()} here, {there} there')\n"
        f"HTML('{FIGURE}')\n"
    )
    pages = {
        "plain": "# Plain\n\nMath: $x^2$.\n",
        "figure": f"# Figure\n\n```{{code-cell}} python\n{cell}```\n",
    }
    stray = [root / "README.md", root / ".pytest_cache/README.md", root / "tests/notes.md"]
    for path in stray:  # not in the table of contents, so not in the book, and no warning
        path.parent.mkdir(exist_ok=True)
        path.write_text("# Stray\n")
    address = "https://github.com/me/book"
    run = build(root, pages, BOOK_REPOSITORY_URL=address)
    assert run.returncode == 0, run.stdout + run.stderr
    return root


def page(site: Path, name: str) -> str:
    return (site / f"_build/html/chapters/{name}.html").read_text()


def test_plotly_comes_with_figures_only(site):
    assert "plotly" not in page(site, "plain")
    assert "plotly.min.js" in page(site, "figure") and "book-plotly.js" in page(site, "figure")
    assert (site / "_build/html/_static/plotly.min.js").stat().st_size > 1e6


@pytest.mark.parametrize("name", ["plain", "figure"])
def test_pages_load_nothing_from_elsewhere(site, name):
    loads = r'<(?:script|img|iframe)\b[^>]*\bsrc="([^"]+)"|<link\b[^>]*\bhref="([^"]+)"'
    addresses = [a or b for a, b in re.findall(loads, page(site, name))]
    assert addresses and not [a for a in addresses if re.match(r"(?:https?:)?//", a)]
    assert "THEBE" not in page(site, name)


def test_mathjax_is_served_by_the_book(site):
    assert "_static/mathjax/tex-chtml.js" in page(site, "plain")
    fonts = site / "_build/html/_static/mathjax/output/chtml/fonts/woff-v2"
    assert (fonts / "MathJax_Main-Regular.woff").exists()


def test_chapters_run_this_checkout_under_the_interpreter_without_a_gpu(site):
    text = page(site, "figure")
    assert str(site / "kernels") in text
    assert "False 1" in text or "True None" in text


def test_chapters_and_what_they_start_compute_with_one_thread(site):
    assert "threads: 1 here, 1 there" in page(site, "figure")


def test_buttons_lead_to_the_given_repository(site):
    assert "https://github.com/me/book/blob/main/chapters/figure.md" in page(site, "figure")
    assert "executablebooks/jupyter-book" not in page(site, "figure")


def test_a_failing_cell_fails_the_build(tmp_path):
    bad = "# Bad\n\n```{code-cell} python\n1 / 0\n```\n"
    run = build(tmp_path, {"good": "# Good\n", "bad": bad})
    assert run.returncode != 0
    assert "ZeroDivisionError" in next(tmp_path.glob("_build/html/reports/**/*.log")).read_text()


H100 = "NVIDIA H100 80GB HBM3"


def stated(*claims: Claim | Claims) -> str:
    """A page that states claims."""
    boxes = "".join(f"display(HTML({c._repr_html_()!r}))\n" for c in claims)
    return f"# Page\n\n```{{code-cell}} python\nfrom IPython.display import HTML\n{boxes}```\n"


@pytest.fixture(scope="module")
def claimed(tmp_path_factory):
    """A book with claims, built twice: the second time from the outputs of the first execution."""
    root = tmp_path_factory.mktemp("claims")
    held = Claim("Less <is> faster", True, "1 < 2", "Recorded.", H100, live=False)
    lesson = Claim("φ is free", False, "3 > 2", "Recorded.", H100, False, expected=False)
    elsewhere = Claim("It holds there", False, "no", "Live.", "Another GPU", live=True)
    many = Claims([replace(elsewhere, sentence=name) for name in ("First & last", "Second")])
    pages = {
        "claims": "# Claims\n\n```{claims}\n```\n",
        "one": stated(held, lesson),
        "two": stated(elsewhere, many),
    }
    first = build(root, pages)
    assert first.returncode == 0, first.stdout + first.stderr
    shutil.rmtree(root / "_build/.doctrees")
    again = build(root, pages)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Executing" not in again.stdout
    return root


def test_all_claims_are_on_one_page(claimed):
    text = page(claimed, "claims")
    assert "5 claims on 2 pages: 3 did not hold; 1 held; 1 did not hold, as expected." in text
    assert "First &amp; last" in text and "Second" in text
    assert "Less &lt;is&gt; faster" in text and "1 &lt; 2" in text
    assert f"{H100}, recorded" in text and "Another GPU, live" in text
    links = re.findall(r'href="(one|two)\.html#(claim-\w+)"', text)
    assert len(set(links)) == 5
    for name, anchor in links:
        assert f'id="{anchor}"' in page(claimed, name)


def test_a_solution_that_its_checker_refuses_fails_the_build(tmp_path):
    box = '<pre data-refused="normalizer">bytes too many: 2 &lt; 3\n  twice</pre>'
    text = (
        f"# Two\n\n```{{code-cell}} python\nfrom IPython.display import HTML\nHTML({box!r})\n```\n"
    )
    run = build(tmp_path, {"one": "# One\n", "two": text})
    assert run.returncode != 0
    said = "the solution of the puzzle normalizer is refused: bytes too many: 2 < 3 twice"
    assert said in run.stderr


def test_what_fails_on_recorded_h100_data_fails_the_build(tmp_path):
    facts = {"held": False, "evidence": "3 > 2", "source": "", "gpu": H100, "live": False}
    changes = {
        "recorded": {},
        "live": {"live": True},
        "elsewhere": {"gpu": "Tesla T4"},
        "undecided": {"held": None},
        "a lesson": {"expected": False},
        "a goal": {"expected": None},
        "a lesson that is none": {"held": True, "expected": False},
        "undecided, live": {"held": None, "live": True},
        "undecided elsewhere": {"held": None, "gpu": "Tesla T4"},
        "an undecided goal": {"held": None, "expected": None},
    }
    claims = [Claim(**(facts | {"sentence": name} | change)) for name, change in changes.items()]
    run = build(tmp_path, {"one": "# One\n", "two": stated(*claims)})
    assert run.returncode != 0
    warned = re.findall(r"two.*: claim on recorded data: (.*?) \(3 > 2\)", run.stderr)
    assert warned == [
        "Did not hold: recorded", "Not decided: undecided",
        "Held, against expectation: a lesson that is none", "Not decided: an undecided goal",
    ]  # fmt: skip
