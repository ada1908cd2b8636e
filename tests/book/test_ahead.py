"""Pages are executed side by side before they are read."""

from __future__ import annotations

import os
import re

import pytest

pytest.importorskip("jupyter_book", reason="the book's own packages are not installed")

from books import build

# Passes only if the other page runs at the same time.
MEETING = """# {name}

```{{code-cell}} python
import pathlib, time
pathlib.Path("{name}.here").touch()
deadline = time.monotonic() + 60
while not pathlib.Path("{other}.here").exists():
    assert time.monotonic() < deadline, "the other page does not run"
    time.sleep(0.05)
print("met", "{other}")
```
"""
COUNTED = """# Counted

```{code-cell} python
with open("runs", "a") as file:
    print("run", file=file)
```
"""
FAILING = COUNTED + "\n```{code-cell} python\nraise RuntimeError('planted')\n```\n"


@pytest.mark.skipif(os.cpu_count() == 1, reason="with one core pages run one after the other")
def test_two_pages_run_at_the_same_time_and_each_once(tmp_path):
    pages = {
        "first": "# First\n",
        "one": MEETING.format(name="one", other="two"),
        "two": MEETING.format(name="two", other="one"),
        "counted": COUNTED,
    }
    run = build(tmp_path, pages)
    assert run.returncode == 0, run.stderr
    assert re.search(r"executing [34] pages, \d at a time", run.stdout)
    assert "met two" in (tmp_path / "_build/html/chapters/one.html").read_text()
    assert (tmp_path / "chapters/runs").read_text() == "run\n"
    assert "Executing notebook" not in run.stdout
    assert "encryption" not in run.stderr  # of which a kernel warns that speaks in the clear

    again = build(tmp_path, pages)
    assert again.returncode == 0 and "executing" not in again.stdout
    assert (tmp_path / "chapters/runs").read_text() == "run\n"


def test_a_page_that_fails_is_reported_and_the_others_are_built(tmp_path):
    pages = {"first": "# First\n", "bad": FAILING, "good": "# Good\n\n```{code-cell}\n1 + 1\n```\n"}
    run = build(tmp_path, pages)
    assert run.returncode != 0
    assert re.search(r"chapters/bad.*failed", run.stderr)
    reports = list((tmp_path / "_build/html/reports").rglob("*.log"))
    assert [r.stem for r in reports] == ["bad.err"] and "planted" in reports[0].read_text()
    assert "good: executed in" in run.stdout
