"""The study of places without a GPU: each has two lanes, and what cannot be timed says why."""

import pytest

from bench import reports, runner, studies
from bench.hardware import provenance
from bench.studies import places
from bench.timing import HostClock, Sampling

SMALL = {"H": 1, "D": 16, "Dv": 16, "dtype": "float32"}


class Places(HostClock):
    """A clock on which each place of a contender takes longer than the one before."""

    def __init__(self):
        self.calls = []

    def sample(self, call, host_ms=0.0):
        if call not in self.calls:
            self.calls.append(call)
        return 1.0 + 0.1 * (self.calls.index(call) % 3), 0.01


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(runner.Inputs, "places", 3)  # as on a GPU
    monkeypatch.setattr(places, "LENGTHS", (32,))
    monkeypatch.setattr(places, "SOME", ("eager", "fla-chunk"))
    monkeypatch.setattr(places, "FULL", Sampling(2, 2, 0.0, 1))
    return places.measure(False, lambda text: None, Places(), "cpu", **SMALL)


def test_places_are_told_from_each_other_and_from_themselves(rows):
    assert [(r["contender"], r["causal"]) for r in rows] == [
        ("eager", False), ("fla-chunk", False), ("eager", True), ("fla-chunk", True),
    ]  # fmt: skip
    for r in rows[::2]:
        assert r["status"] == "ok" and r["places"] == 3 and r["samples"] == 3 * 2 * 2
        found = [r["least_ms"], r["median_ms"], r["most_ms"]]
        assert found == pytest.approx([1.0, 1.1, 1.2])
        assert r["again"] == 1.0
    for r in rows[1::2]:
        assert r["status"] != "ok" and r["reason"], "no package of that name is here"
    assert not studies.misfits("places", rows)


def test_a_call_that_breaks_in_the_race_has_no_times(monkeypatch):
    class Broken(HostClock):
        def sample(self, call, host_ms=0.0):
            raise RuntimeError("worn out")

    monkeypatch.setattr(places, "SOME", ("eager",))
    (one, two) = places.measure(True, lambda text: None, Broken(), "cpu", **SMALL)
    for r in (one, two):
        assert r["status"] == "failed" and "worn out" in r["reason"] and "most_ms" not in r


def test_the_report_has_a_table_for_each_length(rows):
    longer = [r | {"N": 64} for r in rows]
    report = reports.places(studies.Study("places", provenance(), rows + longer))
    assert len(report) == 2 and report.open == 1
    table = report[0]
    assert table.rows[0][2:] == ["1000", "1200", "1.200", "1.000"]
    assert table.rows[1][3:] == ["–", "–", "–"] and table.notes[1, 2] == rows[1]["reason"]
    assert table.caption.startswith("(1, 1, 32, 16), forward, in 3 places, each timed twice")
