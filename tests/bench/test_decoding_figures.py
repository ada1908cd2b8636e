"""The figures of decoding, from a small study made here."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from bench import decoding_figures as figures
from bench import diagrams, hardware, studies, tables

GPU = hardware.Provenance("NVIDIA Test", "test", "2026-01-31T00:00:00Z", "", "3.12", "2.11")


def token(way, B, N, ms):
    return {
        "what": "token", "way": way, "B": B, "N": N, "bytes": 8, "status": "ok",
        "device_ms": ms, "copy_ms": ms / 2, "host_ms": 1.0, "graph_ms": ms,
    }  # fmt: skip


def drifted(to, N, error):
    columns = dict.fromkeys(("output_error", "z_error", "s_error"), error)
    return {"what": "drift", "rounding": to, "N": N, "status": "ok", **columns}


@pytest.fixture
def study():
    rows = [token("state", B, None, 0.01 * B) for B in (1, 8)]
    rows += [token("cache-flash", B, N, B * N / 1e5) for B in (1, 8) for N in (1024, 4096)]
    rows.append(token("cache-math", 1, 1024, 0.5))
    rows.append({**token("cache-flash", 1, 8192, 9.0), "status": "oom"})
    rows += [drifted(to, N, N / 1e6) for to in ("float32", "stochastic") for N in (256, 1024)]
    return studies.Study("decoding", GPU, rows)


def test_a_state_is_drawn_at_every_length_that_a_cache_has(study):
    figure = figures.token_times([study])
    figure.plotly()
    assert [s.options for s in figure.switches] == [["B = 1", "B = 8"]]
    state = [t for t in figure.data if t["name"] == "state (this book)"]
    assert [t["x"] for t in state] == [[1024, 4096], [1024, 4096]]
    assert [t["y"] for t in state] == [[0.01, 0.01], [0.08, 0.08]]
    flash = [t for t in figure.data if t["name"] == "cache, SDPA flash"][0]
    assert flash["x"] == [1024, 4096]  # not where it ran out of memory
    assert "0.041 ms at N = 4K" in figure.alt
    assert figure.numbers["0"].rows[1] == ["4K", "0.01", "0.041", "–"]


def test_batches(study):
    figure = figures.batches([study])
    figure.plotly()
    assert [t["y"] for t in figure.data] == [[0.01, 0.08], [0.005, 0.04]]
    assert figure.numbers["0"].rows == [["1", "0.01", "0.005"], ["8", "0.08", "0.04"]]


def test_drifts(study):
    figure = figures.drifts([study])
    figure.plotly()
    assert [s.options for s in figure.switches] == [["of output", "of z", "of S"]]
    assert {t["name"] for t in figure.data} == {"float32", "bfloat16, stochastic"}
    assert "float32 0.001" in figure.alt


@pytest.mark.parametrize("draw", [figures.token_times, figures.batches, figures.drifts])
def test_several_gpus_have_panels_of_their_own(draw, study):
    other = replace(study, provenance=replace(GPU, gpu="NVIDIA Other"))
    figure = draw([study, other])
    figure.plotly()
    assert figure.switches[0].options == [f"NVIDIA {n} (recorded)" for n in ("Test", "Other")]
    assert [s.options for s in figure.switches[1:]] == [s.options for s in draw([study]).switches]
    assert len(figure.alts) == len(figure.numbers) == 2 * len(draw([study]).alts)
    assert "on NVIDIA Test" in figure.provenance and "on NVIDIA Other" in figure.provenance


@pytest.mark.parametrize("draw", [figures.token_times, figures.batches, figures.drifts])
def test_a_study_without_such_rows_is_no_error(draw):
    empty = studies.Study("decoding", GPU, [{"what": "states", "status": "failed"}])
    assert isinstance(draw([empty]), tables.Table)


def test_what_is_kept_is_computed():
    figure = figures.kept({"one": (1, 1, 64)}, [64, 4096], 2**30)
    cache, state, memory = (t["y"] for t in figure.data)
    assert cache == [64 * 256 / 2**30, 4096 * 256 / 2**30]
    assert state == [4 * (64 * 64 + 64) / 2**30] * 2 and memory == [1.0, 1.0]


def test_the_drawing_is_valid_and_follows_the_page():
    drawing = figures.cache_and_state(5)
    root = ElementTree.fromstring(drawing.svg)
    assert root.get("role") == "img" and root.get("aria-label") == drawing.alt
    colours = set(re.findall(r'(?:stroke|color|fill)="([^"]+)"', drawing.svg))
    assert colours <= {"currentColor", "none", *diagrams.PALETTE}
    _, _, width, height = map(float, root.get("viewBox").split())
    for box in root.iter("rect"):
        x, y, w, h = (float(box.get(name)) for name in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
    assert "all 5 tokens" in drawing.alt
