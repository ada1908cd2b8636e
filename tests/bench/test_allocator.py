"""The allocator's events: from a snapshot to rows, and from rows to figures and tables."""

from dataclasses import replace

import pytest

from bench import allocator_figures, hardware, studies, tables
from bench.roofline import FORWARD, FORWARD_BACKWARD
from bench.studies import allocator

GPU = hardware.Provenance("NVIDIA Test", "test", "2026-01-31T00:00:00Z", "", "3.12", "2.11")
MIB = 2**20
FRAMES = [
    {"filename": "/a/torch/_C.so", "line": 0, "name": "empty"},
    {"filename": "/a/bench/eager.py", "line": 31, "name": "causal_attention"},
    {"filename": "/a/main.py", "line": 1, "name": "<module>"},
]
TRACE = [
    {"action": "segment_alloc", "size": 20 * MIB, "frames": []},
    {"action": "alloc", "size": 8 * MIB, "frames": FRAMES},
    {"action": "alloc", "size": 512, "frames": FRAMES},
    {"action": "alloc", "size": 4 * MIB, "frames": []},
    {"action": "free_requested", "size": 8 * MIB, "frames": []},
    {"action": "free_completed", "size": 8 * MIB, "frames": []},
    {"action": "alloc", "size": 2 * MIB, "frames": FRAMES[2:]},
]


def test_rows_follow_what_was_handed_out():
    rows = allocator.events(TRACE, before=3 * MIB)
    assert [r["event"] for r in rows] == [-1, 0, 1, 2, 3]
    assert [r["bytes"] for r in rows] == [0, 8 * MIB, 4 * MIB, -8 * MIB, 2 * MIB]
    held = [3 * MIB, 11 * MIB, 15 * MIB + 512, 7 * MIB + 512, 9 * MIB + 512]
    assert [r["held_bytes"] for r in rows] == held  # small ones are not shown, and counted
    assert [r["where"] for r in rows[1:]] == [
        "eager.py:31 causal_attention",
        "",
        "",
        "main.py:1 <module>",
    ]


def test_a_trace_without_events_or_with_too_many_is_an_error():
    with pytest.raises(RuntimeError, match="no events"):
        allocator.events(TRACE[:1], 0)
    with pytest.raises(RuntimeError, match="more than the 400"):
        allocator.events([TRACE[1]] * 401, 0)


def test_the_library_is_called_ahead_at_every_shape(monkeypatch):
    calls, called = [], []
    monkeypatch.setattr(allocator.compiled, "at_once", calls.extend)
    book = allocator.contenders.get("book")

    def forward(*x, causal):
        called.append(causal)
        return book.forward(*x, causal=causal)

    monkeypatch.setattr(allocator.contenders, "get", lambda name: replace(book, forward=forward))
    shapes = [allocator.Shape(1, 1, 32, 16, 16, "float32", causal) for causal in (False, True)]
    allocator.compile_all(shapes, "cpu")
    assert [len(call()) for call in calls[1::2]] == [4, 4]  # o and three gradients
    assert called == [False, True]


def test_a_way_that_fails_is_a_row(monkeypatch):
    def of(contender, shape, work):
        if contender.name == "sdpa-math":
            raise RuntimeError("out of memory")
        return allocator.events(TRACE, 0)

    monkeypatch.setattr(allocator, "of_contender", of)
    rows = allocator.measure(True, lambda text: None)
    failed = [r for r in rows if r["status"] == "failed"]
    assert len(failed) == 4 and {r["reason"] for r in failed} == {"RuntimeError: out of memory"}
    assert sum(r["status"] == "ok" for r in rows) == 5 * 3 * 4
    studies.Study("allocator", GPU, rows)


@pytest.fixture
def study():
    about = {"way": "eager", "causal": False, "N": 64, "dtype": "bfloat16"}
    rows = []
    for work, before in ((FORWARD, 3 * MIB), (FORWARD_BACKWARD, 5 * MIB)):
        rows += [about | {"work": work} | e for e in allocator.events(TRACE, before)]
    return studies.Study("allocator", GPU, rows)


def test_the_timeline(study):
    figure = allocator_figures.timeline([study, replace(study, provenance=GPU)], ("eager", "book"))
    figure.plotly()
    assert [len(s.options) for s in figure.switches] == [2, 2, 2]
    first = figure.data[0]
    assert first["visible"] and first["x"][0] == 0 and first["x"][-1] == 100
    assert first["y"] == pytest.approx([3, 11, 15, 7, 9], abs=0.01)
    assert "Eager PyTorch, linear 15 MiB" in figure.alt
    assert figure.numbers["0,0,1"].rows[0][1:4] == ["5", "17", "11"]
    assert isinstance(allocator_figures.timeline([study], ("book",)), tables.Table)


def test_what_is_held_at_the_peak(study):
    table = allocator_figures.at_the_peak(study, "eager", False, FORWARD, MIB)
    assert table.rows == [
        ["inputs", "3", "before the call"],
        ["tensor 1", "8", "eager.py:31 causal_attention"],
        ["tensor 2", "4", "from C++"],
    ]
    nothing = allocator_figures.at_the_peak(study, "book", False, FORWARD, MIB)
    assert nothing.columns == ["nothing was measured"]


def test_the_longest_that_fits():
    case = {"kind": "fits", "work": FORWARD, "causal": False, "contender": "eager"}
    rows = [
        case | {"limit_gib": 16, "predicted_n": 1000, "fits_n": 1024, "status": "ok"},
        case | {"limit_gib": 24, "predicted_n": 2000, "status": "predicted"},
        case | {"limit_gib": 40, "status": "failed"},
    ]
    figure = allocator_figures.fits([studies.Study("memory", GPU, rows)])
    figure.plotly()
    (trace,) = figure.data
    assert trace["y"] == [1024, 2000] and trace["marker"]["symbol"] == ["circle", "circle-open"]
    assert figure.numbers["0,0"].rows[1] == ["Eager PyTorch, linear", "24", "2,000", "not run"]
    assert figure.alts["1,0"].endswith("causal, forward: not measured.")
    assert isinstance(allocator_figures.fits([]), tables.Table)


def test_where_the_longest_was_predicted_too_long():
    case = {"contender": "eager", "causal": True, "work": FORWARD, "status": "ok"}
    fits = case | {"kind": "fits", "limit_gib": 16}
    peak = case | {"kind": "peak", "peak_allocated_bytes": 100}
    rows = [
        fits | {"predicted_n": 1020, "fits_n": 1000, "fails_n": 1020},
        fits | {"predicted_n": 2100, "fits_n": 2000, "fails_n": 2050},
        fits | {"predicted_n": 2100, "fits_n": 0, "fails_n": 128},
        peak | {"N": 1000, "peak_reserved_bytes": 150},
        peak | {"N": 4000, "peak_reserved_bytes": 110},
    ]
    (found,) = allocator_figures.series(studies.Study("memory", GPU, rows))
    assert found["beyond"] and found["reserved"] == 1.1
    assert (found["miss"], found["step"]) == pytest.approx((0.05, 0.025))
    (found,) = allocator_figures.series(studies.Study("memory", GPU, [rows[0], *rows[3:]]))
    assert not found["beyond"] and found["miss"] == found["step"]
    table = allocator_figures.misses(studies.Study("memory", GPU, rows))
    assert table.rows == [["Eager PyTorch, linear", "causal, forward", "5 %", "2.5 %", "1.100"]]
