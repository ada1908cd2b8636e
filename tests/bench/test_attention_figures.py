"""Maps of weights and the drawing of attention: valid, true to their data, with words for both."""

import re
from xml.etree import ElementTree

import pytest

from bench import attention_figures, diagrams

SWITCHES = {"Head": ["0", "1"], "Mask": ["none", "causal"]}
MAPS = {
    ("0", "none"): [[0.25, 0.75], [0.5, 0.5]],
    ("0", "causal"): [[1.0, None], [0.5, 0.5]],
    ("1", "none"): [[0.1, 0.9], [0.2, 0.8]],
    ("1", "causal"): [[None, None], [0.2, 0.8]],
}


def test_maps_show_one_state_at_a_time():
    figure = attention_figures.weight_maps(["a", "b"], MAPS, switches=SWITCHES, source="By hand.")
    figure.plotly()  # raises on anything that Plotly does not know
    assert [s.options for s in figure.switches] == list(SWITCHES.values())
    assert [trace["meta"] for trace in figure.data[::2]] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert [trace["visible"] for trace in figure.data] == [True, True] + 6 * [False]
    assert [trace["z"] for trace in figure.data[::2]] == list(MAPS.values())
    page = figure.html()
    assert page.count("<option") == 4 and "http" not in page


def test_maps_say_what_they_show():
    figure = attention_figures.weight_maps(["a", "b"], MAPS, switches=SWITCHES)
    assert figure.data[3]["text"] == ["1.00", "", "0.50", "0.50"]
    assert figure.data[3]["y"] == ["a", "a", "b", "b"]
    assert "a: b 0.75; b: a 0.50" in figure.alts["0,0"]
    assert "Head 1, Mask causal" in figure.alts["1,1"] and "a: nothing" in figure.alts["1,1"]


def test_a_missing_map_is_an_error():
    with pytest.raises(KeyError):
        attention_figures.weight_maps(["a"], {}, switches=SWITCHES)


def test_the_drawing_is_valid_and_follows_the_page():
    drawing = attention_figures.data_flow()
    root = ElementTree.fromstring(drawing.svg)
    assert root.get("role") == "img" and root.get("aria-label") == drawing.alt
    colours = set(re.findall(r'(?:stroke|color|fill)="([^"]+)"', drawing.svg))
    assert colours <= {"currentColor", "none", *diagrams.PALETTE}
    _, _, width, height = map(float, root.get("viewBox").split())
    boxes = list(root.iter("rect"))
    assert len(boxes) == 6
    for box in boxes:
        x, y, w, h = (float(box.get(name)) for name in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
