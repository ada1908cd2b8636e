"""The figures of causal scans: schedules that a GPU could follow, and leaks that are marked."""

import json

import pytest

from bench import causal_figures as figures
from bench import hardware
from bench.studies import Study
from kernels.steps.causal import STEPS


@pytest.mark.parametrize("segments", figures.COUNTS)
@pytest.mark.parametrize("scan", figures.SCANS)
def test_a_place_does_one_thing_at_a_time_and_everything_is_done(scan, segments):
    tasks = figures.tasks_of(scan, segments)
    for slot in range(figures.SLOTS):
        mine = sorted((t.begin, t.end) for t in tasks if t.slot == slot and t.end > t.begin)
        assert all(a[1] <= b[0] for a, b in zip(mine, mine[1:], strict=False))
    output = sum(t.end - t.begin for t in tasks if t.kind == "output")
    assert output == figures.HEADS * figures.CHUNKS * figures.OUTPUT


@pytest.mark.parametrize("segments", figures.COUNTS)
def test_no_segment_begins_its_output_before_what_came_before_is_summed(segments):
    for scan in ("segmented", "chained"):
        tasks = figures.tasks_of(scan, segments)
        begin = {t.who: t.begin for t in tasks if t.kind == "output"}
        summed = {t.who: t.end for t in tasks if t.kind == "sum a segment"}
        for head in range(figures.HEADS):
            for s in range(1, segments):
                before = max(summed[f"head {head}, segment {r}"] for r in range(s))
                assert begin[f"head {head}, segment {s}"] >= before


def test_more_segments_end_sooner_until_the_places_are_full():
    ends = [max(t.end for t in figures.segmented(s)) for s in figures.COUNTS]
    assert ends[0] > ends[1]
    assert ends[0] < max(t.end for t in figures.sequential())


def test_every_choice_has_a_picture_and_a_text():
    figure = figures.scans()
    json.dumps(figure.spec(), allow_nan=False)
    choices = {f"{i},{j}" for i in range(3) for j in range(len(figures.COUNTS))}
    assert set(figure.alts) == choices == set(figure.numbers)
    assert {",".join(map(str, trace["meta"])) for trace in figure.data} == choices


def test_a_leak_is_marked():
    right = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    wrong = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    figure = figures.seen({"right": right, "wrong": wrong}, chunk=2)
    assert "no key" in figure.alts["0"] and "2 keys" in figure.alts["1"]
    assert figure.data[1]["text"][0] == ["", "!", "", ""]
    assert figure.data[0]["z"][2] == [2, 2, 1, None]


def ladder_of(times):
    """The table of steps with these times at B = 8 and 1, by name of the step."""
    rows = [
        {"part": "step", "step": name, "B": B, "status": "ok" if ms else "failed",
         "median_ms": ms, "floor_ms": 0.5}
        for name, both in times.items() for B, ms in zip((8, 1), both, strict=True)
    ]  # fmt: skip
    rows.append({"part": "compiled", "step": "chained", "kernel": "link_kernel", "registers": 255,
                 "local": 8, "shared": 40960})  # fmt: skip
    study = Study("causal", hardware.Provenance("", "", "", "", "", ""), rows)
    table = figures.ladder(study, {"chained": "soon"})
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_the_ladder_compares_each_step_with_the_one_before():
    times = {"cumulative": (None, 60.0), "recurrent": (120.0, 120.0), "chunked": (2.0, 2.0),
             "segmented": (1.0, 0.3), "chained": (1.1, 0.4), "library": (0.5, 0.1)}  # fmt: skip
    found = ladder_of(times)
    assert list(found) == [*(step.name for step in STEPS), "library"]
    verdicts = {name: line["verdict"] for name, line in found.items()}
    assert verdicts == {
        "cumulative": "where we start",
        "recurrent": "2 times the time of cumulative, B = 1",  # which did not fit at B = 8
        "chunked": "60 times as fast as recurrent",
        "normalized": "–",
        "segmented": "–",
        "atomics": "–",
        "chained": "10 % slower than segmented",
        "library": "2 times as fast as segmented",
    }
    assert found["cumulative"]["B = 8 [ms]"] == "failed"
    chained = found["chained"]
    assert [chained[c] for c in ("registers", "spilled bytes", "shared bytes")] == [
        "255", "8", "40960",
    ]  # fmt: skip
    assert chained["predicted, B = 8 [ms]"] == "soon" and chained["of copy, B = 8"] == "0.45"
    assert found["library"]["spilled bytes"] == "–"


def test_a_step_that_never_ran_has_a_verdict():
    verdicts = ladder_of({"segmented": (1.0, 0.3), "chained": (None, None)})
    assert verdicts["chained"]["verdict"] == "does not run"
