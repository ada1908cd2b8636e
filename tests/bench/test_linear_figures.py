"""Figures of linear attention show what they say, and the counted costs are those of the code."""

import dataclasses
import json
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import chunks, eager, hardware, linear_figures
from bench.studies import Study

GPU = hardware.Provenance("NVIDIA Test", "nvidia-test", "2026-01-01", "", "3.12", "2.11")


def row(form, chunk, ms, D=64, **more):
    fact = {"form": form, "B": 1, "H": 8, "N": 256, "D": D, "chunk": chunk, "status": "ok"}
    return fact | {"median_ms": ms, "peak_MiB": 10.0} | more


@pytest.fixture
def study():
    rows = [row("copy", None, 0.1), row("kernel", 64, 0.2)]
    for D in (32, 64):
        rows += [row("at-once", c, abs(c - D) / 32 + 1, D) for c in (4, 16, 32, 64, 128)]
    rows += [row("in-turn", 64, 7.0), {**row("at-once", 1, None), "status": "failed"}]
    return Study("chunk-size", GPU, rows)


@pytest.mark.parametrize("chunk", [1, 8, 64, 512])
@pytest.mark.parametrize("D", [32, 64])
def test_counted_flops_are_those_of_the_code(D, chunk):
    q = torch.empty(1, 2, 512, D, device="meta", dtype=torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        eager.causal_attention(q, q, q, chunk=chunk)
    denominator = 2 * 2 * 512 * D  # φ(q) · z, left out of the count
    assert counter.get_total_flops() - denominator == 2 * 512 * chunks.cost(D, chunk).flops


@pytest.mark.parametrize("D", [32, 64, 128])
def test_the_best_chunk_moves_the_fewest_bytes(D):
    best = chunks.best_chunk(D)
    least = chunks.cost(D, best).bytes
    assert D < best < 4 * D
    for other in (1, best / 2, best * 1.1, 2 * best, 100 * D):
        assert chunks.cost(D, other).bytes > least


def test_halving_the_chunk_trades_pairs_for_states():
    one, two = chunks.cost(64, 32), chunks.cost(64, 64)
    assert one.pair_bytes == two.pair_bytes / 2 and one.state_bytes == 2 * two.state_bytes
    assert one.flops < two.flops and one.state_flops == two.state_flops
    assert one.state_held == 4 * 64 * 64 / 32 and one.pair_held == 2 * 32


def test_tilings_account_for_every_pair_once():
    figure = linear_figures.tilings(8)
    pictures = [t for t in figure.data if t["type"] == "heatmap"]
    assert [t["meta"] for t in pictures] == [[i] for i in range(4)]
    for chunk, picture in zip((1, 2, 4, 8), pictures, strict=True):
        for q, cells in enumerate(picture["z"]):
            assert cells.count(0) == 7 - q and not any(cells[q + 1 :])
            assert cells.count(2) == q % chunk + 1
    assert "recurrent" in figure.alts["0"] and "parallel" in figure.alts["3"]
    assert "28 are accounted for by the state" in figure.alts["0"]
    json.dumps(figure.spec(), allow_nan=False)


def test_maps_scale_each_row():
    picture = [[0.1, 0.2], [0.0, 0.0]]
    figure = linear_figures.maps(
        {("a",): picture, ("b",): [[-1, 1], [1, 1]]},
        switches={"Map": ["a", "b"]},
        alts={("a",): "first", ("b",): "second"},
    )
    assert figure.data[0]["z"] == [[50, 100], [0, 0]]
    assert figure.data[1]["z"][0] == [0, 100]
    assert [t["visible"] for t in figure.data] == [True, False]
    assert figure.alts == {"0": "first", "1": "second"}


def test_the_explorer_shows_what_was_measured_and_no_more(study):
    figure = linear_figures.explorer({"NVIDIA Test": (study, 1e12)})
    assert [s.options for s in figure.switches] == [["NVIDIA Test"], ["D = 64", "D = 32"]]
    measured = [
        t
        for t in figure.data
        if t["name"] == "measured, all chunks at once"
        and t["meta"] == [0, 0]
        and t["yaxis"] == "y4"
    ]
    assert measured[0]["x"] == [2, 4, 5, 6, 7]  # C = 1 failed
    assert measured[0]["y"][3] == 1
    assert "least time is 1 ms at C = 64" in figure.alts["0,0"]
    assert "least time is 1 ms at C = 32" in figure.alts["0,1"]
    assert not [t for t in figure.data if t["meta"] == [0, 1] and "kernel" in t["name"]]
    json.dumps(figure.spec(), allow_nan=False)


def test_the_explorer_switches_between_gpus(study):
    provenance = dataclasses.replace(GPU, gpu="NVIDIA Faster")
    rows = [r | {"median_ms": r["median_ms"] and r["median_ms"] / 2} for r in study.rows]
    faster = Study("chunk-size", provenance, [r for r in rows if r["D"] == 64])
    figure = linear_figures.explorer({"A": (study, 1e12), "B": (faster, 2e12)})
    figure.plotly()
    assert figure.switches[0].options == ["A", "B"]
    assert list(figure.alts) == list(figure.readings) == list(figure.numbers)
    assert "least time is 0.5 ms at C = 64" in figure.alts["1,0"]
    assert figure.numbers["1,0"].rows and not figure.numbers["1,1"].rows
    assert figure.numbers["1,1"].caption.startswith("Nothing was measured for D = 32; ")
    assert figure.alts["0,0"].startswith("A, D = 64") and figure.alts["1,0"].startswith("B, ")
    assert "NVIDIA Test" in figure.provenance and "NVIDIA Faster" in figure.provenance
    assert {tuple(t["meta"]) for t in figure.data if t["visible"]} == {(0, 0)}


def test_the_explorer_predicts_from_bytes(study):
    figure = linear_figures.explorer({"NVIDIA Test": (study, 1e12)})
    line = next(t for t in figure.data if t["yaxis"] == "y4" and t["name"] == "all, counted")
    tokens = 8 * 256
    assert line["y"][0] == pytest.approx(1e3 * tokens * chunks.cost(64, 1).bytes / 1e12)


def test_the_slider_has_a_text_for_every_step_and_choice(study):
    figure = linear_figures.explorer({"NVIDIA Test": (study, 1e12)})
    assert figure.steps == [str(2**i) for i in range(9)]
    assert {len(texts) for texts in figure.readings.values()} == {9}
    assert "7\u00a0ms one after another" in figure.readings["0,0"][6]
    assert "Not measured" in figure.readings["0,0"][0]
    page = figure.html()
    assert 'type="range" min="0" max="8"' in page
    texts = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(texts[0]) == figure.readings
    # one legend entry for each name and choice
    shown = [(t["name"], *t["meta"]) for t in figure.data if t["showlegend"]]
    assert len(shown) == len(set(shown))


def test_the_drawing_has_a_text():
    drawing = linear_figures.associativity()
    assert "D by D" in drawing.alt and drawing.alt in drawing.svg.replace("&#x27;", "'")
