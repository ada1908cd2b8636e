"""The live panels of the labs: each control's first and last choice, with what a GPU does replaced.

The cells are those of the pages. Models are trained for two steps, the allocator's trace is made
up, and shapes are cut down to what the CPU computes in a moment.
"""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench import allocator_figures, live, map_figures, roofline, runner, tables, tiny
from bench.studies import allocator, attention_maps
from bench.timing import HostClock, Sampling

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")

LABS = Path(__file__).resolve().parents[2] / "chapters/labs"
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n((?:^:[^\n]*\n)*)(.*?)^```$", re.S | re.M)
TRACE = [{"action": "alloc", "size": 2**20, "frames": []}]
CONTROLS = {
    "attention_visualization": "task mixer steps mask temperature",
    "memory_profiling": "way N order work",
    "benchmark_comparison": "first second batch heads N D order dtype work",
}


def cells(page: str) -> list[str]:
    """The code of a page."""
    return [found[2] for found in CELL.finditer((LABS / f"{page}.md").read_text())]


def panels(page: str):
    """The panel of each cell that has one, from the imports of the page and that cell alone."""
    parts = cells(page)
    imports = [
        node for code in parts for node in ast.parse(code).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]  # fmt: skip
    found = []
    for code in parts:
        if "live.panel(" in code:
            names = {"plan": runner.Plan()}
            exec(compile(ast.Module(imports, []), page, "exec"), names)
            *before, last = ast.parse(code).body
            exec(compile(ast.Module(before, []), page, "exec"), names)
            found.append(eval(compile(ast.Expression(last.value), page, "eval"), names))
    return found


def choices(widget) -> list:
    """The first and the last value of a control."""
    if hasattr(widget, "options"):
        return [widget.options[0], widget.options[-1]]
    return [widget.min, widget.max] if hasattr(widget, "max") else [False, True]


@pytest.fixture
def small(monkeypatch):
    """What needs a GPU or its time is replaced."""
    monkeypatch.setattr(attention_maps, "SHOWN", 8)
    tasks = {t.name: t for t in tiny.tasks()}
    trained = {}

    def train(task, mixer, steps, device):
        key = task, mixer
        trained[key] = trained.get(key) or tiny.train(tasks[task], mixer, 2, device, 4)
        return trained[key]

    monkeypatch.setattr(map_figures, "_trained", train)
    monkeypatch.setattr(allocator, "trace", lambda call: call() and TRACE or TRACE)
    monkeypatch.setattr(
        allocator_figures, "Shape", lambda B, H, N, *rest: roofline.Shape(B, 2, min(N, 64), *rest)
    )
    run = runner.run

    def cut(plan, **more):
        assert plan.sampling.budget_s < 1
        plan = replace(plan, batches=(1,), heads=1, head_dim=16, lengths=(32,))
        once = Sampling(least=1, most=1, budget_s=0.01)
        return run(replace(plan, sampling=once), clock=HostClock(), device="cpu", **more)

    monkeypatch.setattr(runner, "run", cut)
    monkeypatch.setattr(live.tables, "times", times_at_any_batch)


def times_at_any_batch(record, *, B, causal, work, _times=tables.times):
    """The table of a record whose batch was cut."""
    return _times(record, B=record.values("B")[0], causal=causal, work=work)


@pytest.mark.parametrize("page", CONTROLS)
def test_every_control_of_a_panel_works(page, small, monkeypatch):
    monkeypatch.delenv(live.SHARED, raising=False)
    monkeypatch.setattr(live.hardware, "has_gpu", lambda: True)
    (panel,) = panels(page)
    monkeypatch.setattr(live.hardware, "has_gpu", lambda: False)
    *controls, button, _ = panel.children
    assert [c.description for c in controls] == CONTROLS[page].split()

    def press():
        panel.result = None
        button.click()
        return panel.result

    for control in controls:
        first, shown = control.value, []
        for value in choices(control):
            control.value = value
            found = press()
            assert found is not None, f"{control.description} = {value} of {page} failed"
            shown.append(f"{found}")
        assert shown[0] != shown[1], f"{control.description} of {page} changes nothing"
        control.value = first


def test_a_panel_that_fails_is_noticed(monkeypatch):
    """ipywidgets writes what went wrong and goes on, so the result is what tells."""
    monkeypatch.delenv(live.SHARED, raising=False)
    monkeypatch.setattr(live.hardware, "has_gpu", lambda: True)
    panel = live.panel(lambda size: 1 // 0, size=[1, 2])
    panel.children[-2].click()
    assert panel.result is None


def test_no_panel_is_left_out():
    pages = {p.stem for p in LABS.glob("*.md") if "live.panel(" in p.read_text()}
    assert pages == set(CONTROLS)
