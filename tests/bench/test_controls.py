"""A page and its panel in a notebook offer the same controls, and the page no value of its own."""

import inspect

import pytest

from bench import allocator_figures, any_two, head_figures, live, map_figures, studies
from bench.studies import allocator, attention_maps, shapes
from tests.bench.test_allocator import study as made_up_trace  # noqa: F401
from tests.bench.test_head_figures import study as made_up_heads  # noqa: F401
from tests.bench.test_panels import panels

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")


def offered(page: str, monkeypatch) -> dict[str, object]:
    """The controls of the panel of a page, by name."""
    monkeypatch.delenv(live.SHARED, raising=False)
    monkeypatch.setattr(live.hardware, "has_gpu", lambda: True)
    (panel,) = panels(page)
    *controls, _, _ = panel.children
    return {c.description: c for c in controls}


def test_the_heads_of_lab_1(made_up_heads, monkeypatch):  # noqa: F811
    panel = offered("attention_visualization", monkeypatch)
    figure = head_figures.Heads(made_up_heads)
    shown = figure.choices()
    assert {*shown, "temperature"} == {*panel, "head"}, "the head is chosen above a new map"
    for name in ("task", "mixer", "mask"):
        assert {value for value, _ in shown[name][1]} <= set(panel[name].options)
    known = range(panel["steps"].min, panel["steps"].max + 1, panel["steps"].step)
    steps = attention_maps.STEPS + attention_maps.QUICK_STEPS
    assert set(steps) <= set(known)
    assert set(attention_maps.KINDS) == set(panel["mixer"].options)
    assert tuple(panel["mask"].options) == map_figures.MASKS
    slider = panel["temperature"]
    assert (slider.min, slider.max, slider.step) == map_figures.TEMPERATURES
    page = figure._repr_html_()
    assert f'min="{slider.min}" max="{slider.max}" value="1" step="{slider.step}"' in page


@pytest.mark.parametrize("record", studies.recorded("attention-maps"), ids=lambda s: s.line)
def test_what_is_recorded_of_lab_1_has_every_control(record, monkeypatch):
    panel = offered("attention_visualization", monkeypatch)
    figure = head_figures.attention(record)
    assert {*figure.choices(), "temperature"} == {*panel, "head"}


def test_the_peak_of_lab_3(made_up_trace, monkeypatch):  # noqa: F811
    panel = offered("memory_profiling", monkeypatch)
    figure = allocator_figures.at_the_peak([made_up_trace], ("eager",))
    assert [s.name.lower() for s in figure.switches] == [name.lower() for name in panel]
    assert set(allocator.WAYS) <= set(panel["way"].options)
    assert {*allocator.LENGTHS, *allocator.QUICK_LENGTHS} <= set(panel["N"].options)
    assert tuple(panel["order"].options) == allocator_figures.ORDERS
    assert tuple(panel["work"].options) == tuple(allocator_figures.WORKS)


def test_any_two_of_lab_4(record, monkeypatch):
    panel = offered("benchmark_comparison", monkeypatch)
    shown = any_two.AnyTwo([record]).choices()
    assert {*shown} - {"gpu"} == {*panel} - {"N"}, "N is the axis, and there is one GPU to race on"
    for name in any_two.AT:
        assert {value for value, _ in shown[name][1]} <= set(panel[name].options)
    names = {"heads": "heads", "head_dim": "D", "dtype": "dtype"}
    for change in shapes.CHANGES:
        for name, value in change.items():
            assert value in panel[names[name]].options


@pytest.mark.parametrize("function", [map_figures.anew, allocator_figures.anew, live.race])
def test_no_panel_says_in_another_word_what_a_page_calls_order(function):
    assert not {"causal", "B", "H"} & set(inspect.signature(function).parameters)
