"""Figures of the backward pass say what the model of the passes says, and what was measured."""

import json
import re

import pytest

from bench import backward_figures as figures
from bench import hardware, passes, tables
from bench.studies import Study

H100 = hardware.Provenance(
    "NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3", "2026-01-01", "", "3.12", "2.11"
)


def kernel(name, ms, causal=False, nbytes=1000, floor=0.5, launches=2):
    return {
        "part": "kernel", "status": "ok", "B": 8, "causal": causal, "kernel": name,
        "median_ms": ms, "bytes": nbytes, "floor_ms": floor, "launches": launches,
    }  # fmt: skip


def test_the_flow_draws_every_tensor_of_every_pass():
    drawn = figures.flow()._repr_html_()
    for order, causal in figures.ORDERS.items():
        svg = re.search(rf'<svg data-order="{order}".*?</svg>', drawn, re.S).group()
        both = (*passes.FORWARD[causal], *passes.BACKWARD[causal])
        for tensor in figures.COLORS:
            found = svg.count(f'data-tensor="{tensor}"')
            assert found == sum(figures.times_moved(tensor, both)), (order, tensor)
        assert all(f">{p.name}<" in svg for p in both)
    # the first shows, the other does not
    assert drawn.count("display: none") == 1


def test_the_flow_says_how_often_a_tensor_moves():
    flow = figures.flow()
    assert flow.texts["bidirectional"]["o"] == "Bidirectional: o is written once forward."
    assert "read once forward; read 3 times backward" in flow.texts["causal"]["q"]
    assert "7" in flow.texts["bidirectional"]["all"] and "15" in flow.alt
    shown = re.search(r'<script type="application/json">(.*?)</script>', flow._repr_html_(), re.S)
    assert json.loads(shown.group(1)) == flow.texts
    assert repr(flow) == flow.alt


def test_chips_stay_inside_the_drawing():
    for order in figures.ORDERS:
        svg = figures._flow_svg(order, True)
        for x, width in re.findall(r'<rect x="(-?[\d.]+)"[^>]*? width="(\d+)"', svg):
            assert float(x) >= 0 and float(x) + float(width) <= figures.WIDTH


def test_the_walks_are_described():
    drawn = figures.walks(3)
    assert drawn.svg.count(">chunk ") == 6
    assert "first chunk to the last" in drawn.alt and "last chunk to the first" in drawn.alt


def test_predictions_need_a_data_sheet():
    study = Study("backward", H100, [{"part": "none"}])
    assert figures.predicted_ms(3.35e9, study) == pytest.approx(1)
    other = hardware.Provenance("a GPU", "a-gpu", "2026-01-01", "", "3.12", "2.11")
    assert figures.predicted_ms(1, Study("backward", other, [{"part": "none"}])) is None
    assert figures.predicted_ms(None, study) is None


def test_kernels_are_drawn_beside_their_copy():
    rows = [
        kernel("combine_kernel", 0.01, nbytes=None, floor=None),
        kernel("backward_key_kernel", 2.0),
        kernel("state_kernel", 1.0, causal=True),
        kernel("void at::native::something::very_long_name_of_a_kernel", 0.1, True, None, None),
        {"part": "kernel", "status": "skipped", "B": 1, "causal": False, "reason": "no time"},
    ]
    figure = figures.by_kernel([Study("backward", H100, rows)])
    first = [t for t in figure.data if t["meta"] == [0]]
    assert [t["name"] for t in first][-1] == "measured"
    assert first[-1]["y"] == ["key pass", "adding parts"] and first[-1]["x"] == [2.0, 0.01]
    assert "key pass 2 ms" in figure.alts["0"]
    assert "both state passes" in figure.alts["1"] and "PyTorch" in figure.alts["1"]
    spared = [kernel("state_kernel", 1.0, causal=True, launches=1)]
    figure = figures.by_kernel([Study("backward", H100, spared)])
    assert "weighted state pass 1 ms" in figure.alts["0"]
    nothing = Study("backward", H100, [{"part": "none"}])
    assert isinstance(figures.by_kernel([nothing]), tables.Table)
