"""Controls are there in a notebook on a GPU, and elsewhere a sentence."""

import pytest

from bench import live, map_figures, tiny
from bench.studies import attention_maps

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")


def doubled(size, order):
    print(size, order)
    return 2 * size


@pytest.mark.parametrize(("built", "gpu"), [(True, True), (True, False), (False, False)])
def test_without_a_kernel_on_a_gpu_there_is_a_sentence(monkeypatch, built, gpu):
    monkeypatch.setattr(live.hardware, "has_gpu", lambda: gpu)
    monkeypatch.delenv(live.SHARED, raising=False)
    if built:
        monkeypatch.setenv(live.SHARED, "somewhere")
    note = live.panel(doubled, size=(1, 9, 2), the_order=["causal", "bidirectional"])
    assert "size, the order" in repr(note) and repr(note) in note._repr_html_()


def test_a_notebook_has_controls_that_call_the_function(monkeypatch):
    monkeypatch.delenv(live.SHARED, raising=False)
    monkeypatch.setattr(live.hardware, "has_gpu", lambda: True)
    panel = live.panel(doubled, size=(1, 9, 2), order=["causal", "bidirectional"])
    size, order, button, _ = panel.children
    assert (size.min, size.max, size.step, order.options) == (1, 9, 2, ("causal", "bidirectional"))
    assert button.description == "Compute" and panel.result is None
    size.value, order.value = 7, "bidirectional"
    assert panel.result is None  # only when it is asked to
    button.click()
    assert panel.result == 14


def test_maps_are_made_anew(monkeypatch):
    monkeypatch.setattr(attention_maps, "SHOWN", 8)
    first = map_figures.anew("copy", tiny.SOFTMAX, 2, "causal", 1.0)
    again = map_figures.anew("copy", tiny.SOFTMAX, 2, "causal", 0.25)
    ahead = map_figures.anew("copy", tiny.SOFTMAX, 2, "no mask", 1.0)
    maps = [figure.data[0]["z"] for figure in (first, again, ahead)]
    assert maps[0] != maps[1] and maps[0] != maps[2]
    assert all(not any(row[i + 1 :]) for i, row in enumerate(maps[0]))  # causal
    assert any(any(row[i + 1 :]) for i, row in enumerate(maps[2]))
    assert "temperature 0.25" in again.alt and "after 2 steps" in again.provenance
    names = {s.name: len(s.options) for s in first.switches}
    assert names == {"Task": 1, "Mixer": 1, "Steps": 1, "Head": 4, "Mask": 1, "Temperature": 1}
