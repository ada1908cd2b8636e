"""Chapter 2's figures: valid, with words, and true to the study that they show."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from bench import diagrams, quadratic_figures, studies
from bench.hardware import Provenance

GPU = Provenance(
    gpu="NVIDIA Test", slug="nvidia-test", date="2026-01-01T00:00:00Z", command="", python="3.12",
    torch="2.11",
)  # fmt: skip


def row(way, N, ms, status="ok", work="forward"):
    times = {"median_ms": ms, "peak_bytes": 2**20 * N} if status == "ok" else {"reason": "why"}
    return {"what": "length", "way": way, "work": work, "N": N, "status": status} | times


ROWS = [
    row("naive", 512, 1.0),
    row("naive", 1024, 4.0),
    row("naive", 4096, None, "oom"),
    {"what": "limit", "way": "naive", "work": "forward", "fits_N": 2048, "fails_N": 3072},
    row("tiled", 512, 0.5),
    row("tiled", 1024, None, "too_long"),
    row("linear", 512, 2.0, work="forward+backward"),
    row("linear", 2048, None, "oom", work="forward+backward"),
]


@pytest.fixture
def study():
    return studies.Study("quadratic-problem", GPU, ROWS)


def test_growth_shows_each_way_until_it_fails(study):
    def wall(study, work):
        wide = [diagrams.Curve("wall", [512, 4096], [9.0, 9.0], "floor", False)]
        return wide if work == "forward" else []

    figure = quadratic_figures.growth([study], "median_ms", "time [ms]", unit=0.5, extra=wall)
    figure.plotly()  # raises on anything that Plotly does not know
    lines = {(t["name"], t["meta"][0]): t for t in figure.data}
    assert lines["as defined", 0]["y"] == [2.0, 8.0]
    assert lines["SDPA, tiled", 0]["x"] == [512]
    assert lines["linear (this book)", 1]["visible"] is False
    assert lines["wall", 0]["y"] == [9.0, 9.0]
    cross = lines["as defined: out of memory", 0]
    assert cross["x"] == [3072] and cross["y"] == [8.0 * 9]  # the curve, prolonged
    assert lines["linear (this book): out of memory", 1]["x"] == [2048]
    assert ("SDPA, tiled: out of memory", 0) not in lines
    assert "as defined 8 at N = 1K, out of memory at N = 3K" in figure.alts["0"]
    cells = {r[0]: r[1:] for r in figure.numbers["0"].rows}
    assert cells == {"512": ["2", "1"], "1K": ["8", "too long"], "4K": ["out of memory", "–"]}
    assert figure.layout["xaxis"]["ticktext"] == ["1K", "4K"]
    assert [s.options for s in figure.switches] == [["forward", "forward + backward"]]


def test_where_a_way_fails(study):
    assert quadratic_figures.fails_at(study, "naive", "forward") == 3072
    assert quadratic_figures.fails_at(study, "linear", "forward+backward") == 2048
    assert quadratic_figures.fails_at(study, "tiled", "forward") is None


@pytest.mark.parametrize("draw", [quadratic_figures.crossings, quadratic_figures.walk])
def test_drawings_are_valid_and_follow_the_page(draw):
    drawing = draw()
    root = ElementTree.fromstring(drawing.svg)
    assert root.get("role") == "img" and root.get("aria-label") == drawing.alt
    colours = set(re.findall(r'(?:stroke|color|fill)="([^"]+)"', drawing.svg))
    assert colours <= {"currentColor", "none", *diagrams.PALETTE}
    _, _, width, height = map(float, root.get("viewBox").split())
    for box in root.iter("rect"):
        x, y, w, h = (float(box.get(name)) for name in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
    for text in root.iter("text"):
        assert 0 < float(text.get("x")) < width and 0 < float(text.get("y")) < height


def test_six_squares_cross():
    svg = quadratic_figures.crossings().svg
    assert svg.count('stroke-width="12"') == 6
    assert svg.count('stroke-width="2.5"') == 4


def test_the_walk_has_one_tile_at_work():
    svg = quadratic_figures.walk(blocks=4, row=1, column=2).svg
    assert svg.count('fill-opacity="0.75"') == 1
    assert svg.count('fill-opacity="0.28"') == 2


def test_several_gpus_have_panels_of_their_own(study):
    other = replace(study, provenance=replace(GPU, gpu="NVIDIA Other"))
    figure = quadratic_figures.growth([study, other], "peak_bytes", "GiB", unit=2**30)
    figure.plotly()
    gpus, works = figure.switches
    assert gpus.options == [f"NVIDIA {n} (recorded)" for n in ("Test", "Other")]
    assert works.options == ["forward", "forward + backward"]
    choices = {"0,0", "0,1", "1,0", "1,1"}
    assert {",".join(map(str, t["meta"])) for t in figure.data} == choices
    assert "on NVIDIA Test" in figure.provenance and "on NVIDIA Other" in figure.provenance
    assert set(figure.numbers) == choices
