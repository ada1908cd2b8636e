"""The figures of Triton's programs say what their data say."""

import pytest

from bench import triton_figures as figures


def test_owners_mark_lanes_without_elements():
    figure = figures.owners({4: [0] * 4 + [1, -1, -1, -1] + [-1] * 8}, 5)
    (data,) = figure.data
    assert data["text"][0][:9] == ["0"] * 4 + ["1", "–", "–", "–", ""]
    assert data["z"][0][:9] == [0] * 4 + [1] + [figures.REST] * 3 + [None]
    assert "2 programs, 3 lanes" in figure.alt
    assert "masked out in program 1" in data["customdata"][0][5]


def test_addresses_count_sectors():
    row = [[r * 16 + c for c in range(8)] for r in range(2)]
    column = [[r + 16 * c for c in range(8)] for r in range(2)]
    figure = figures.addresses({"rows": row, "columns": column, "same": [[0, 1], [0, 1]]})
    assert figure.switches[0].options == ["rows (2 sectors)", "columns (8 sectors)",
                                          "same (1 sector)"]  # fmt: skip
    assert figure.data[0]["z"] == [[0] * 8, [1] * 8]


def test_order_counts_bands():
    tiles = [[r * 4 + c for c in range(4)] for r in range(4)]
    figure = figures.order({1: tiles}, wave=6)
    assert "2 rows and 4 columns" in figure.alt
    assert sum(z != figures.REST for row in figure.data[0]["z"] for z in row) == 6


@pytest.mark.parametrize(("stages", "end"), [(1, 20), (2, 12), (3, 9), (4, 8), (9, 8)])
def test_a_pipeline_overlaps(stages, end):
    times = figures.schedule(3, 1, stages, 5)
    assert times[-1][-1] == end
    for (_, _, before), (_, start, _) in zip(times, times[1:], strict=False):
        assert start >= before  # one product at a time
    for i, (begin, start, _) in enumerate(times):
        assert start >= begin + 3
        assert i < stages or begin >= times[i - stages][2]  # its buffer is free


@pytest.mark.parametrize("stages, load, product", [(1, 3, 1), (2, 3, 1), (3, 3, 1), (4, 3, 1)])
def test_the_formula_of_the_chapter_is_the_average_of_the_schedule(stages, load, product):
    times = figures.schedule(load, product, stages, 401)
    turn = (times[-1][-1] - times[0][-1]) / 400
    assert abs(turn - max(product, (load + product) / stages)) < 0.02


@pytest.mark.parametrize("draw", [figures.product, figures.stages, figures.lowering])
def test_drawings_fit_light_and_dark(draw):
    drawing = draw()
    assert drawing.svg.count("<svg") == 1 and "currentColor" in drawing.svg
    assert len(drawing.alt) > 80 and f'aria-label="{drawing.alt[:20]}' in drawing.svg


def test_excerpts_are_escaped():
    shown = figures.Excerpts({"PTX": "a < b"}, "From here.")
    assert "a &lt; b" in shown._repr_html_() and "From here." in repr(shown)
