"""The labs as a reader has them on a GPU: every cell of the notebook, every control, Compute."""

import re
from pathlib import Path

import pytest

from bench import hardware

nbformat = pytest.importorskip("nbformat", reason="the book's own packages are not installed")
nbclient = pytest.importorskip("nbclient", reason="the book's own packages are not installed")
pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")

LABS = Path(__file__).resolve().parents[2] / "chapters/labs"
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n((?:^:[^\n]*\n)*)(.*?)^```$", re.S | re.M)
MOST_S = 600  # for a cell
# The panel is what the cell before has shown, `_`. ipywidgets writes what went wrong in a call to
# the page and goes on, so here it is kept and raised.
OPERATE = """
import traceback

_panel, _problems, _shell = _, [], get_ipython()
_shown = _shell.showtraceback
_shell.showtraceback = lambda *a, **k: _problems.append(traceback.format_exc())
*_controls, _button, _output = _panel.children

def _another(c):
    "The value after the one that is chosen."
    if hasattr(c, "options"):
        return c.options[(c.index + 1) % len(c.options)]
    return min(c.value + c.step, c.max) if hasattr(c, "step") else not c.value

def _press(what):
    _panel.result = None
    _button.click()
    assert not _problems, f"{what}: {_problems[0]}"
    assert _panel.result is not None, f"{what}: nothing was shown"
    print(f"{what}: {str(_panel.result)[:400]}")

try:
    _press("as it stands first")
    for _c in _controls:
        _old, _c.value = _c.value, _another(_c)
        assert _c.value != _old, f"{_c.description} has no other value"
        _press(f"{_c.description} = {_c.value}")
finally:
    _shell.showtraceback = _shown
"""


def notebook(page: Path):
    """The cells of a page in order, and behind each panel a cell that operates it."""
    cells = []
    for found in CELL.finditer(page.read_text()):
        cells.append(nbformat.v4.new_code_cell(found[2]))
        if "live.panel(" in found[2]:
            cells.append(nbformat.v4.new_code_cell(OPERATE))
    return nbformat.v4.new_notebook(cells=cells)


def execute(book, folder: Path, monkeypatch) -> None:
    """Run all cells in a kernel, outside a build; an error in one of them is raised."""
    for name in ("BOOK_LIVE_RECORD", "BOOK_TURNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(LABS.parents[1]))
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(book, timeout=MOST_S, resources=where).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]


@pytest.mark.skipif(not hardware.has_gpu(), reason="it measures on a GPU")
@pytest.mark.parametrize("page", sorted(LABS.glob("*.md")), ids=lambda p: p.stem)
def test_every_cell_runs_and_every_control_computes(page, monkeypatch):
    book = notebook(page)
    execute(book, LABS, monkeypatch)
    for cell in book.cells:
        if cell.source == OPERATE:
            print("".join(o.text for o in cell.outputs if o.output_type == "stream"))


PANEL = """
from bench import hardware, live
hardware.has_gpu = lambda: True
live.panel(FUNCTION, size=[1, 2], steps=(1, 9, 2), causal=True)
"""


def made_up(function: str):
    """A notebook with a panel of a function."""
    code = PANEL.replace("FUNCTION", function)
    cells = [nbformat.v4.new_code_cell(text) for text in (code, OPERATE)]
    return nbformat.v4.new_notebook(cells=cells)


def test_a_panel_is_operated(tmp_path, monkeypatch):
    book = made_up("lambda **chosen: chosen")
    execute(book, tmp_path, monkeypatch)
    said = "".join(o.text for o in book.cells[1].outputs if o.output_type == "stream")
    assert "as it stands first: {'size': 1, 'steps': 5, 'causal': True}" in said
    assert "causal = False: {'size': 2, 'steps': 7, 'causal': False}" in said


@pytest.mark.parametrize(
    "function",
    ["lambda size, steps, causal: 1 // (2 - size)", "lambda size, steps, causal: causal or None"],
)
def test_a_call_that_fails_or_shows_nothing_is_noticed(function, tmp_path, monkeypatch):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivision|nothing was"):
        execute(made_up(function), tmp_path, monkeypatch)


def test_there_are_panels_to_operate():
    panels = [c for p in LABS.glob("*.md") for c in notebook(p).cells if c.source == OPERATE]
    assert len(panels) == 3
