"""Explaining figures and listings: valid, with alternative text, and true to the code."""

import json
import re
from xml.etree import ElementTree

import pytest
import torch

from bench import contenders, diagrams, listings, steps
from bench.errors import BenchError
from kernels import steps as small
from kernels.steps import mask_trap, masked


def two_panels(log):
    panels = {
        "first": [diagrams.Curve("a", [512, 1024], [0.1, 1.0], "book")],
        "second": [diagrams.Curve("b", [512, 2048], [2.0, 3.0], "floor", markers=False)],
    }
    return diagrams.curves(panels, x="N", y="ms", alts=["one", "two"], log=log, source="Here.")


@pytest.mark.parametrize("log", [False, True])
def test_curves_are_valid_and_switch(log):
    figure = two_panels(log)
    figure.plotly()  # raises on anything that Plotly does not know
    assert figure.alts == {"0": "one", "1": "two"}
    assert [trace["meta"] for trace in figure.data] == [[0], [1]]
    assert [trace["visible"] for trace in figure.data] == [True, False]
    page = figure.html()
    assert 'role="img"' in page and 'aria-label="one"' in page
    assert page.count("<option") == 2
    assert "http" not in page
    if log:
        assert figure.layout["xaxis"]["ticktext"] == ["512", "1K", "2K"]


def test_a_panel_can_have_an_axis_of_its_own():
    panels = {"time": [diagrams.Curve("a", [1, 2], [3, 4], "book")],
              "memory": [diagrams.Curve("a", [1, 2], [5, 6], "book")]}  # fmt: skip
    figure = diagrams.curves(panels, x="N", y=["time [ms]", "held [MiB]"], alts=["t", "m"])
    assert figure.layout["yaxis"]["title"]["text"] == "time [ms]"
    assert figure.spec()["layout"]["meta"]["y"] == {"0": "time [ms]", "1": "held [MiB]"}
    assert figure.numbers["1"].caption.startswith("Held [MiB]")
    same = diagrams.curves(panels, x="N", y="time [ms]", alts=["t", "m"])
    assert "y" not in same.spec()["layout"]["meta"]


def test_labels_of_logarithmic_axes_have_room():
    lengths = [2**e for e in (12, 14, 16, 26, 27)]  # a usual step is two octaves
    curve = diagrams.Curve("ours", lengths, [1e-6] * 5, "book")
    layout = diagrams.curves({"": [curve]}, x="N", y="ms", alts=[""], log=True).layout
    assert layout["xaxis"]["ticktext"] == ["4K", "16K", "64K", "128M"]
    assert len(layout["xaxis"]["tickvals"]) == 4
    decades = dict(zip(layout["yaxis"]["tickvals"], layout["yaxis"]["ticktext"], strict=True))
    assert (decades[1e-6], decades[0.001], decades[1000.0]) == ("10⁻⁶", "0.001", "1000")
    assert max(map(len, decades.values())) <= 5


def test_curves_draw_curves_and_marks_for_each_panel():
    panels = {
        "A": [diagrams.Curve("one", [1, 10], [2, 20], "book")],
        "B": [
            diagrams.Curve("one", [1, 10], [3, 300], "book"),
            diagrams.Curve("two", [1], [None], "floor"),
        ],
    }
    figure = diagrams.curves(
        panels,
        x=diagrams.Axis("x", True),
        y=diagrams.Axis("y", True),
        alts=["a", "b"],
        marks=[("here", 5)],
    )
    assert [t["name"] for t in figure.data] == ["one", "here", "one", "two", "here"]
    assert [t["meta"] for t in figure.data] == [[0], [0], [1], [1], [1]]
    assert figure.data[4]["y"] == [3, 300]  # a mark is as high as its panel
    assert figure.switches[0].options == ["A", "B"]
    json.dumps(figure.spec(), allow_nan=False)
    marks = {"A": [("here", 5)], "B": [("there", 7), ("far", 9)]}
    figure = diagrams.curves(
        panels, x=diagrams.Axis("x"), y=diagrams.Axis("y"), alts=["a", "b"], marks=marks
    )
    assert [t["name"] for t in figure.data] == ["one", "here", "one", "two", "there", "far"]


def test_a_panel_can_have_a_source_of_its_own():
    curve = diagrams.Curve("a", [1, 2], [3, 4], "book")
    figure = diagrams.curves(
        {"A": [curve], "B": [curve]}, x="N", y="ms", alts=["", ""], source=["Of A.", "Of B."]
    )
    assert [figure.numbers[i].caption for i in "01"] == ["Ms. Of A.", "Ms. Of B."]
    assert figure.provenance == "Of A. Of B."


def test_curves_without_points_are_still_a_figure():
    figure = diagrams.curves(
        {"A": [diagrams.Curve("none", [], [], "book")]},
        x=diagrams.Axis("x"), y=diagrams.Axis("y", True), alts=["nothing"], marks=[("here", 5)],
    )  # fmt: skip
    assert len(figure.data) == 1 and "nothing" in figure.html()


def test_a_table_stands_under_the_curves_of_each_panel():
    figure = diagrams.curves(
        {
            "first": [
                diagrams.Curve("measured", [1024, 512], [0.25, None], "book"),
                diagrams.Curve("model", [512, 700, 1024], [1.0, 2.0, 3.0], "floor", False),
                diagrams.Curve("elsewhere", [7], [1.0], "eager", False),
            ],
            "words": [diagrams.Curve("a", ["b", "a"], [1.5, 2.5], "book")],
            "empty": [diagrams.Curve("a", [], [], "book")],
        },
        x="N", y="time [ms]", alts=["", "", ""], log=False, source="Here.",
    )  # fmt: skip
    assert list(figure.numbers) == ["0", "1"]
    assert figure.numbers["0"].columns == ["N", "measured", "model"]
    assert figure.numbers["0"].rows == [["512", "–", "1"], ["1,024", "0.25", "3"]]
    assert figure.numbers["0"].caption == "Time [ms]. Here."
    assert figure.numbers["1"].rows == [["b", "1.5"], ["a", "2.5"]]
    page = figure.html()
    assert page.count("data-choice=") == 2 and 'data-choice="1" hidden' in page


def test_a_long_curve_has_a_short_table():
    line = [diagrams.Curve("a", list(range(1000)), [1.0] * 1000, "book", False)]
    rows = diagrams.curves({"": line}, x="n", y="y", alts=[""]).numbers["0"].rows
    assert len(rows) == diagrams.MOST_ROWS
    assert (rows[0][0], rows[-1][0]) == ("0", "999")


def test_programs_show_who_loads_what():
    once = [[[True, True]], [[False, False]]]
    twice = [[[True, False]], [[True, False]]]
    figure = diagrams.programs({2: once, 3: [*twice, [[False, False]]]})
    figure.plotly()
    assert figure.data[0]["text"] == [["0", "0"]]
    assert figure.data[1]["text"] == [["0, 1", ""]]  # loaded twice, and never
    assert figure.data[1]["z"] == [[0, None]]
    assert "each of which loads at most 2 blocks" in figure.alts["0"]


def test_the_drawing_is_valid_and_follows_the_page():
    drawing = diagrams.two_passes()
    root = ElementTree.fromstring(drawing.svg)
    assert root.get("role") == "img" and root.get("aria-label") == drawing.alt
    colours = set(re.findall(r'(?:stroke|color|fill)="([^"]+)"', drawing.svg))
    assert colours <= {"currentColor", "none", *diagrams.PALETTE}
    _, _, width, height = map(float, root.get("viewBox").split())
    for box in root.iter("rect"):
        x, y, w, h = (float(box.get(name)) for name in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height


def test_code_lines_counts_code_alone():
    text = '''
"""A docstring.

Of three lines."""

def f(
    x,  # a comment
):
    """One more."""
    # a comment

    y = """a text
    of two lines"""
    return x, y
'''
    assert listings.code_lines(text) == 6


def test_regions_and_their_faults():
    text = listings.region(masked, "state-pass")
    assert text.startswith("@triton.jit\n") and text.endswith("offs_d < D)\n")
    with pytest.raises(BenchError, match="nothing-here"):
        listings.region(masked, "nothing-here")


def test_the_cure_of_the_trap_is_one_line():
    text = listings.diff(mask_trap, masked, "state-pass").text
    changed = [line for line in text.splitlines() if line[0] in "+-"]
    assert [line[0] for line in changed] == ["-", "+"]
    assert "tl.where(keep_k" in changed[1]
    page = listings.diff(mask_trap, masked, "state-pass")._repr_html_()
    assert page.count("background-color") == 2


def test_all_steps_can_be_compiled_ahead(monkeypatch):
    calls = []
    monkeypatch.setattr(steps.compiled, "at_once", calls.extend)
    steps.compile_all("float32", "cpu")
    assert [c().shape for c in calls] == len(small.STEPS) * [(1, 8, 1024, 64)]


def test_steps_become_contenders_once(monkeypatch):
    # Another test of this process may have registered them.
    others = {n: c for n, c in contenders._registry.items() if not n.startswith(steps.PREFIX)}
    monkeypatch.setattr(contenders, "_registry", others)
    before = set(contenders.names())
    names = steps.register()
    assert steps.register() == names
    assert set(contenders.names()) - before == set(names)
    assert len(names) == len(small.STEPS)
    for name in names:
        assert contenders.get(name).causal == (False,)
    x = torch.zeros(1, 1, small.BLOCK_N + 1, 16)
    with pytest.raises(ValueError, match="a multiple of 64, not 65"):
        contenders.get("step-normalized").forward(x, x, x, causal=False)


@pytest.mark.parametrize("highest, there", [(0.05, True), (5.0, False)])
def test_a_logarithmic_axis_of_few_decades_has_ticks_between_them(highest, there):
    curve = diagrams.Curve("time", [1, 2], [0.004, highest], "book")
    drawn = diagrams.curves(
        {"one": [curve]}, x="N", y="ms", log=True, switch="Show", alts=["time"], source="drawn"
    )
    ticks = drawn.layout["yaxis"]["ticktext"]
    assert "0.01" in ticks and ("0.02" in ticks) == there
