"""The figures of quality, from a small study made here."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from bench import diagrams, hardware, studies
from bench import quality_figures as figures

GPU = hardware.Provenance("NVIDIA Test", "test", "2026-01-31T00:00:00Z", "", "3.12", "2.11")
RIGHT = {"softmax": 1.0, "elu": 0.5, "relu": 0.25, "Taylor": 0.75}


def row(what, group, mixer, exam, seed, accuracy, **more):
    keeps = None if mixer == "softmax" else {1: 8192, 4: 2048}[more.get("heads", 4)]
    return {
        "what": what, "group": group, "length": 256, "mixer": mixer, "heads": 4, "exam": exam,
        "seed": seed, "rate": 0.01, "status": "ok", "reason": None, "step": 10,
        "steps": 1400 if group == "state" else 1000,
        "state_numbers": keeps, "step_ms": 2.0, "bits": 8 * (1 - accuracy), "accuracy": accuracy,
    } | more  # fmt: skip


@pytest.fixture
def study():
    rows = [{"what": "text", "bytes": 1000, "held_bytes": 100}]
    for mixer, right in RIGHT.items():
        for seed in (0, 1):
            share = right - 0.1 * seed
            for exam in ("4", "64"):
                rows.append(row("trained", "recall", mixer, exam, seed, share))
            rows.append(row("trained", "copy", mixer, "copy", seed, share))
            rows.append(row("trained", "text", mixer, "text", seed, share))
            bits = f"{8 - 4 * share} {8 - 8 * share}"
            curve = {"step_s": "5 10", "bits_s": bits}
            rows.append(row("curve", "text", mixer, "text", seed, share, **curve))
    rows.append(row("trained", "state", "elu", "64", 0, 0.9, heads=1))
    rows.append(row("trained", "state", "elu", "64", 0, 0.6))
    rows += [
        {"what": "step", "mixer": m, "N": N, "batch": 1, "status": "ok", "step_ms": N / 1e3}
        for m in ("softmax", "elu")
        for N in (256, 1024)
    ]
    rows.append(
        {"what": "trained", "group": "text", "mixer": "exp", "length": 256, "heads": 4,
         "status": "failed", "reason": "RuntimeError: no memory"}
    )  # fmt: skip
    return studies.Study("quality", GPU, rows)


def test_recall_is_drawn_with_its_spread(study):
    figure = figures.by_pairs([study])
    figure.plotly()
    assert [s.options for s in figure.switches] == [["feature maps, N = 256", "remedies, N = 256"]]
    elu = next(t for t in figure.data if t["name"] == "elu + 1")
    assert elu["x"] == [4, 64] and elu["y"] == pytest.approx([45, 45])
    assert elu["error_y"]["array"] == pytest.approx([5, 5])
    assert elu["error_y"]["arrayminus"] == pytest.approx([5, 5])
    assert "relu 20 % of 64 pairs" in figure.alt
    rows = {r[0]: r for r in figure.numbers["1"].rows}
    assert rows["64"] == ["64", "95", "45", "70"]


def test_a_mixer_without_a_state_is_a_line(study):
    figure = figures.by_state([study])
    figure.plotly()
    assert [s.options for s in figure.switches] == [["64 pairs", "4 pairs"]]
    first = {t["name"]: t for t in figure.data if t["meta"] == [0]}
    assert first["elu + 1"]["x"] == [2048, 8192]
    assert first["elu + 1"]["y"] == pytest.approx([60, 90])  # all trained for this comparison
    assert first["Taylor"]["y"] == pytest.approx([70])
    assert first["softmax attention"]["x"] == [2048, 8192]
    assert first["softmax attention"]["y"] == pytest.approx([95, 95])
    assert "relu" not in first


def test_further_sizes_are_shown_with_a_record_of_the_same_gpu(study):
    more = [row("trained", "state", "elu", "64", 0, 0.2, state_numbers=512)]
    more.append(row("trained", "recall", "elu", "64", 0, 0.0))  # which is none of a size
    second = studies.Study("quality-lengths", replace(GPU, commit="abc123"), more)

    def sizes(shown, second):
        figure = figures.by_state([shown], [second])
        (drawn,) = (t for t in figure.data if t["name"] == "elu + 1" and t["meta"] == [0])
        return drawn["x"], "abc123" in figure.provenance

    assert sizes(study, second) == ([512, 2048, 8192], True)
    source = figures.by_state([study], [second]).provenance
    assert "models of several sizes: 1,400; steps of models of one size: 1,000" in source
    assert sizes(replace(study, live=True), second) == ([2048, 8192], False)
    other = replace(second, provenance=replace(second.provenance, gpu="NVIDIA Other"))
    assert sizes(study, other) == ([2048, 8192], False)


def test_trainings_of_equal_seconds(study):
    assert figures.equal_trainings(study).rows == []
    assert "Not in this record yet" in figures.equal_trainings(study).caption
    rows = [
        row("trained", "seconds", name, exam, seed, right - 0.1 * seed, task=task, steps=steps)
        for name, steps, right in (("elu", 1000, 0.5), ("Taylor", 400, 0.8))
        for task, exam in (("recall", "64"), ("recall", "4"), ("copy", "copy"))
        for seed in (0, 1)
        if (name, task) != ("Taylor", "copy")
    ]
    table = figures.equal_trainings(studies.Study("quality-lengths", GPU, rows))
    assert table.rows == [
        ["elu + 1", "1000", "45 (40–50)", "1000", "45 (40–50)"],
        ["Taylor", "400", "75 (70–80)", "–", "–"],
    ]
    assert "recall 1.4 s, copy 2 s" in table.caption  # of 2 ms a step


def test_trainings_are_cut_where_the_fastest_has_made_its_steps():
    rows = [
        row("curve", group, name, exam, seed, 0.0, step_ms=ms, step_s="50 100",
            accuracy_s=f"{0.2 + 0.1 * seed} {0.6 + 0.1 * seed}")
        for name, ms in (("elu", 2.0), ("Taylor", 8 / 3), ("exp", 1.0))  # exp is not compared
        for group, exam in (("recall", "64"), ("recall", "4"), ("copy", "copy"))
        for seed in (0, 1)
        if (name, group) != ("Taylor", "copy")
    ]  # fmt: skip
    table = figures.cut_trainings(studies.Study("quality", GPU, rows))
    assert table.rows == [
        ["elu + 1", "100", "65 (60–70)", "100", "65 (60–70)"],
        ["Taylor", "75", "45 (40–50)", "–", "–"],  # between two checkpoints
    ]
    assert "cut: recall 0.2 s, copy 0.2 s" in table.caption  # 100 steps of elu
    assert figures.cut_trainings(studies.Study("quality", GPU, [rows[-1]])).rows == []


def test_what_no_study_has_is_named(study):
    (named,) = figures.left_out(study)
    assert named.startswith("text, exp,")
    made = row("trained", "text", "exp", "text", 0, 0.5)
    assert figures.left_out(study, studies.Study("quality-lengths", GPU, [made])) == []


def test_learning_by_steps_and_by_seconds(study):
    figure = figures.learning([study])
    figure.plotly()
    assert figure.switches[0].options == [
        "feature maps, N = 256, by steps", "remedies, N = 256, by steps",
        "feature maps, N = 256, by seconds", "remedies, N = 256, by seconds",
    ]  # fmt: skip
    soft = [t for t in figure.data if t["name"] == "softmax attention"]
    assert soft[0]["x"] == [5, 10] and soft[2]["x"] == pytest.approx([0.01, 0.02])
    assert soft[0]["y"] == pytest.approx([8 * (1 - 0.475), 8 * 0.05])


def test_overlaps_are_of_each_layer_before_and_after(study):
    rows = [
        {"what": "overlap", "mixer": "elu", "length": 256, "layer": layer, "when": when,
         "seed": seed, "overlap": layer + seed + (when == "after") / 2}
        for layer in (1, 2) for when in ("before", "after") for seed in (0, 1)
    ]  # fmt: skip
    rows += [r | {"mixer": "hybrid"} for r in rows if r["layer"] == 1]
    table = figures.overlaps(studies.Study("quality", GPU, study.rows + rows))
    assert table.rows == [
        ["elu + 1", "1.5", "2", "2.5", "3"],
        ["elu + 1, then softmax", "1.5", "2", "–", "–"],
    ]


def test_learning_of_recall(study):
    curve = {"step_s": "5 10", "bits_s": "6 1"}
    rows = [row("curve", "recall", m, "64", 0, 0.5, **curve) for m in ("softmax", "elu", "relu")]
    figure = figures.learning([studies.Study("quality", GPU, rows)], "recall", "64")
    figure.plotly()
    assert [t["y"] for t in figure.data if t["meta"] == [0]] == [[6, 1]] * 3
    assert "Bits at the end" in figure.alt and "answer" in str(figure.layout["yaxis"])


def test_step_times(study):
    figure = figures.step_times([study])
    figure.plotly()
    assert [t["name"] for t in figure.data] == ["softmax attention", "elu + 1"]
    assert "elu + 1 1.02 ms at 1K" in figure.alt


def test_the_summary_has_mean_and_spread(study):
    table = figures.summary(study)
    assert table.columns[1:3] == ["recall, 4 pairs [%]", "recall, 64 pairs [%]"]
    rows = {r[0]: r[1:] for r in table.rows}
    assert rows["softmax attention"] == ["95 (90–100)"] * 3 + ["0.4 (0–0.8)"]
    assert rows["exp"] == ["–"] * 4


def test_equal_time_is_that_of_the_fastest(study):
    """softmax attention takes twice as long a step: it gets half of its steps."""
    rows = [r | {"step_ms": 4.0} if r.get("mixer") == "softmax" else r for r in study.rows]
    found = {r["mixer"]: r for r in figures.equal_time(studies.Study("quality", GPU, rows), 256)}
    assert {r["seconds"] for r in found.values()} == {0.02}
    assert found["elu"]["steps"] == 10 and found["elu"]["bits"] == pytest.approx([4, 8 * 0.6])
    assert found["softmax"]["steps"] == 5
    assert found["softmax"]["bits"] == pytest.approx([4, 8 * 0.55])
    assert figures.equal_time(study, 512) == []
    # the fastest has made all its steps: it is shown as it was examined, not by its rounded curve
    rows = [r | {"steps": 10} if r["what"] == "trained" else r for r in rows]
    rows = [r | {"bits_s": "9 9"} if r["what"] == "curve" else r for r in rows]
    found = {r["mixer"]: r for r in figures.equal_time(studies.Study("quality", GPU, rows), 256)}
    assert found["elu"]["bits"] == pytest.approx([4, 8 * 0.6])
    assert found["softmax"]["bits"] == pytest.approx([9, 9])
    line = [(10, 1.0, 8.0), (20, 2.0, 4.0)]
    assert figures._between(1.25, line, 2) == 7.0 and figures._between(3.0, line, 2) == 4.0


def test_nothing_measured_is_said(study):
    empty = studies.Study("quality", GPU, study.rows[:1])
    for draw in (figures.by_pairs, figures.by_state, figures.learning, figures.step_times):
        assert draw([empty]).columns == ["nothing was measured"]


def test_capacity():
    found = {16: {"identity": {4: 1.0, 8: 0.5}, "relu": {4: 0.5, 8: 0.25}}}
    figure = figures.capacity(found, {16: 6.0}, 112)
    figure.plotly()
    assert "identity 50 %; relu 25 %" in figure.alt and "limit is 6 pairs" in figure.alt
    assert [t["y"] for t in figure.data] == [[100, 50], [50, 25], [0, 100]]


def test_the_question_is_drawn_with_an_arrow_for_each_answer():
    drawing = figures.question()
    root = ElementTree.fromstring(drawing.svg)
    assert root.get("aria-label") == drawing.alt
    words = re.findall(r">([^<>]+)</text>", drawing.svg)
    assert words.count("?") == 3 and drawing.svg.count(" C") == 3


def test_a_curve_without_spread_has_no_bars():
    figure = diagrams.curves(
        {"a": [diagrams.Curve("a", [1, 2], [3, 4], "book")]}, x="x", y="y", alts=["alt"]
    )
    assert "error_y" not in figure.data[0]
