"""Cells of two pages run side by side, and what one of them measures runs alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("IPython", reason="pages run in IPython, which is not installed")

ROOT = Path(__file__).resolve().parents[2]
# Each line of the file says who does what when: "page begin 12.3".
PAGE = """
import sys, time
from IPython.core.interactiveshell import InteractiveShell
page = InteractiveShell.instance()
page.user_ns.update(name=sys.argv[1], log=open(sys.argv[2], "a", buffering=1))
for cell in sys.argv[3:]:
    assert page.run_cell(cell).success
"""
NOTE = "def note(what): log.write(f'{name} {what} {time.monotonic()}\\n')"
START = f"import os, time\nimport bench\n{NOTE}"
CELL = "note('begin')\ntime.sleep(0.02)\nnote('end')"
MEASURE = "with bench.turns.alone():\n    note('begin')\n    time.sleep(0.6)\n    note('end')"


def spans(log: Path, name: str) -> list[tuple[float, float]]:
    """(begin, end) of all that a page noted."""
    noted = map(str.split, log.read_text().splitlines())
    times = [float(at) for who, _, at in noted if who == name]
    return list(zip(times[::2], times[1::2], strict=True))


def run(log: Path, turns: Path | None, pages: dict[str, list[str]]) -> None:
    """Run pages side by side; each begins when all have started."""
    environment = {k: v for k, v in os.environ.items() if k != "BOOK_TURNS"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"BOOK_TURNS": str(turns)} if turns else {})
    ready = f"open({str(log)!r} + '.' + name, 'w').close()\nwhile not all(map(os.path.exists, "
    ready += f"{[f'{log}.{name}' for name in pages]!r})):\n    time.sleep(0.01)"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PAGE, name, str(log), START, ready, *cells],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, cells in pages.items()
    ]
    for process in running:
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said


def overlaps(one, other) -> int:
    return sum(a < d and c < b for a, b in one for c, d in other)


@pytest.mark.parametrize("turns", [True, False])
def test_no_cell_runs_while_another_page_measures(tmp_path, turns):
    log = tmp_path / "log"
    pages = {"reader": [CELL] * 60, "clock": [CELL, MEASURE, CELL]}
    run(log, tmp_path / "turns" if turns else None, pages)
    reader, clock = spans(log, "reader"), spans(log, "clock")
    assert len(reader) == 60 and len(clock) == 3
    during = overlaps(reader, [max(clock, key=lambda span: span[1] - span[0])])
    # without turns the same pages do overlap: the check can fail
    assert during == 0 if turns else during > 3


def test_two_pages_that_measure_do_so_one_after_the_other(tmp_path):
    log = tmp_path / "log"
    run(log, tmp_path / "turns", {"one": [MEASURE] * 2, "two": [MEASURE] * 2})
    one, two = spans(log, "one"), spans(log, "two")
    assert len(one) == len(two) == 2 and overlaps(one, two) == 0


def test_what_measures_within_a_measurement_does_not_wait_for_itself(tmp_path):
    log = tmp_path / "log"
    nested = "with bench.turns.alone(), bench.turns.alone():\n    note('begin')\nnote('end')"
    child = (
        "import subprocess, sys\nwith bench.turns.alone():\n    note('begin')\n"
        "    subprocess.run([sys.executable, '-c', 'from bench import turns\\n"
        "with turns.alone(): pass'], check=True, timeout=30)\nnote('end')"
    )
    run(log, tmp_path / "turns", {"one": [nested, child]})
    assert len(spans(log, "one")) == 2


def test_outside_a_page_nothing_waits(tmp_path, monkeypatch):
    from bench import turns

    monkeypatch.setenv(turns.VARIABLE, str(tmp_path / "turns"))
    begin = time.monotonic()
    with turns.alone(), turns.alone():
        pass
    assert time.monotonic() - begin < 1 and not (tmp_path / "turns").exists()
