"""Figures of decay say what was computed and what was measured."""

import pytest

from bench import decay_figures as figures
from bench.hardware import Provenance
from bench.studies import Study
from bench.tables import Table

H100 = Provenance("NVIDIA H100 80GB HBM3", "1", "2", "3", "abc", "2026-01-01")


def time(way, ms, *, part="time", N=65536, work="forward", causal=True, status="ok"):
    return {
        "part": part, "way": way, "B": 8, "N": N, "work": work, "causal": causal,
        "status": status, "median_ms": ms, "floor_ms": 1.0,
    }  # fmt: skip


def test_a_mask_is_the_product_of_the_factors_in_between():
    figure = figures.masks({"own": [0.5, 0.25, 1.0, 0.5]})
    causal, both = (trace["z"] for trace in figure.data if trace["type"] == "heatmap")
    assert causal == [
        [1, None, None, None], [0.25, 1, None, None], [0.25, 1, 1, None], [0.125, 0.5, 0.5, 1]
    ]  # fmt: skip
    assert both[0] == [1, 0.25, 0.25, 0.125]
    assert all(both[i][j] == both[j][i] for i in range(4) for j in range(4))


def test_a_horizon_is_where_its_line_stands():
    figure = figures.horizons({"half": 0.5, "long": 0.99}, [1, 2, 4, 100, 1000])
    lines = [t for t in figure.data if t["name"] == "horizon"]
    assert [t["x"][0] for t in lines] == [2.0, pytest.approx(100)]
    assert "the horizon is 100 tokens" in figure.alts["1"]


def test_what_is_in_sight_falls_where_the_state_is_cleared():
    figure = figures.remembered([0.9] * 60 + [0.001] + [0.9] * 9)
    sees = figure.data[0]["y"]
    assert sees[5] == 5 and sees[59] == 43  # 0.9 ** 43 is the last above a hundredth
    assert sees[60] == 0 and sees[69] == 9
    assert "fall to none at tokens 61" in figure.alts["0"]
    assert figure.numbers["0"].caption.startswith("Computed: ")


def test_what_is_no_number_stands_at_the_top():
    figure = figures.errors({"apart": {0.1: 1e-7, 2.0: float("nan")}, "kept": {0.1: 1e-7, 2.0: 0}})
    assert figure.data[0]["y"] == [1e-7, 1.0] and figure.data[1]["y"] == [1e-7, 1e-9]
    assert "apart: no number from -log γ = 2 on; kept: right at every decay" in figure.alts["0"]


def test_the_drawing_of_both_directions_tells_what_is_in_it():
    drawing = figures.both_directions()
    assert drawing.svg.count("<rect") == 21 + 21 + 6 + 36 + 4
    assert "minus the diagonal alone" in drawing.alt


def test_times_are_found_and_shown():
    rows = [time("plain", 1.0), time("selective", 1.25), time("simple-gla", None, status="failed")]
    rows += [time("selective", 5.0, work="forward+backward")]
    rows += [time("plain", n / 1e4, part="length", N=n) for n in (4096, 8192)]
    study = Study("decay", H100, rows)
    assert figures.ms(study, "selective") == 1.25
    assert figures.ms(study, "simple-gla") is None and figures.ms(study, "fixed") is None
    table = figures.table(study, 8)
    assert table.rows[1][2:] == ["1.25", "0.8", "5", "0.2"] and table.rows[2][2] == "failed"
    lacks = rows[2] | {"reason": "there is no package `fla` here"}
    table = figures.table(Study("decay", H100, [rows[0], lacks]), 8)  # forward alone
    assert [row[2:] for row in table.rows] == [["1", "1"], ["not installed", "–"]]
    assert table.columns[2:] == ["forward [ms]", "copy / time"]
    curve = figures.lengths([study]).data[0]
    assert curve["x"] == [4096, 8192] and curve["y"] == [0.4096, 0.8192]


def test_errors_by_horizon():
    rows = [{"part": "accuracy", "status": "ok", "horizon": h, "o_error": 1e-3, "dq_error": 2e-3,
             "dk_error": 2e-3, "dv_error": 2e-3, "ddecay_error": e}
            for h, e in ((1, None), (64, 0.01), (None, 0.02))]  # fmt: skip
    figure = figures.accuracies([Study("decay", H100, rows)])
    slopes = next(t for t in figure.data if t["name"] == "gradient of log γ")
    assert slopes["x"] == ["64", "no decay"] and slopes["y"] == [0.01, 0.02]


def test_without_a_measurement_there_is_a_table_that_says_so():
    nothing = [Study("decay", H100, [{"part": "nothing"}])]
    assert isinstance(figures.lengths(nothing), Table)
    assert isinstance(figures.accuracies(nothing), Table)
    assert figures.ms(nothing[0], "plain") is None and not figures.table(nothing[0], 8).rows
