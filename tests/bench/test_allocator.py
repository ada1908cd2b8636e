"""The allocator's events: from a snapshot to rows, and from rows to figures and tables."""

from dataclasses import replace
from math import prod

import pytest
import torch

from bench import allocator_figures, hardware, studies, tables
from bench.roofline import FORWARD, FORWARD_BACKWARD
from bench.studies import allocator

GPU = hardware.Provenance("NVIDIA Test", "test", "2026-01-31T00:00:00Z", "", "3.12", "2.11")
MIB = 2**20
WAYS = ("sdpa-math", "eager", "book")
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
    assert len(failed) == 8 and {r["reason"] for r in failed} == {"RuntimeError: out of memory"}
    assert sum(r["status"] == "ok" for r in rows) == 2 * 5 * 3 * 4
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
    assert [len(s.options) for s in figure.switches] == [2, 1, 2, 2]
    first = figure.data[0]
    assert first["visible"] and first["x"][0] == 0 and first["x"][-1] == 100
    assert first["y"] == pytest.approx([3, 11, 15, 7, 9], abs=0.01)
    assert "Eager PyTorch, linear 15 MiB" in figure.alt
    assert figure.numbers["0,0,0,1"].rows[0][1:4] == ["5", "17", "11"]
    assert isinstance(allocator_figures.timeline([study], ("book",)), tables.Table)


def test_what_is_held_at_the_peak(study):
    table = allocator_figures.peak_table(study, "eager", 64, False, FORWARD)
    assert table.rows == [
        ["inputs", "and what earlier calls left", "3", "before the call"],
        ["tensor 1", "128 times q", "8", "eager.py:31 causal_attention"],
        ["tensor 2", "64 times q", "4", "from C++"],
    ]
    assert not allocator_figures.peak_table(study, "book", 64, False, FORWARD).rows


def test_the_peak_has_a_switch_for_way_length_order_and_work(study):
    rows = [r | {"way": "book", "held_bytes": r["held_bytes"] + MIB} for r in study.rows]
    rows += [r | {"N": 32} for r in study.rows]
    both = replace(study, rows=[*study.rows, *rows])
    figure = allocator_figures.at_the_peak([both], ("sdpa-math", "eager", "book"))
    figure.plotly()
    assert [len(s.options) for s in figure.switches] == [2, 2, 2, 2], (
        "what was not measured is no way"
    )
    cases = [[0, 0], [0, 1], [1, 0]]  # of way and length; the last way has one length
    assert [t["meta"] for t in figure.data] == [[*c, 0, w] for c in cases for w in (0, 1)]
    assert figure.data[0]["x"] == [3, 8, 4] and "15 MiB in all" in figure.alts["0,0,0,0"]
    assert figure.data[1]["x"][0] == 5 and figure.data[4]["x"][0] == 4
    assert figure.alts["0,0,1,0"].endswith("causal, forward: not measured.")
    assert len(set(figure.alts.values())) == 16
    assert isinstance(allocator_figures.at_the_peak([study], ("book",)), tables.Table)


def test_the_peak_has_a_switch_of_gpus_too(study):
    gpu = replace(study.provenance, gpu="NVIDIA Larger")
    rows = [r | {"held_bytes": r["held_bytes"] + MIB} for r in study.rows]
    figure = allocator_figures.at_the_peak([study, replace(study, provenance=gpu, rows=rows)], WAYS)
    assert [s.name for s in figure.switches] == ["GPU", "Way", "N", "Order", "Work"]
    first, second = (figure.numbers[f"{g},0,0,0,0"] for g in (0, 1))
    assert first.rows[0][2] == "3" and second.rows[0][2] == "4"
    assert "NVIDIA Larger" in figure.alts["1,0,0,0,0"] and "NVIDIA Larger" in second.caption
    assert figure.unfolded, "the table is what the page speaks of"


@pytest.mark.parametrize(
    ("shape", "bytes_each", "words"),
    [
        ((8, 4096, 4096), 4, "a square in float32"),
        ((8, 4096, 4096), 2, "a square in 16 bits"),
        ((8, 4096, 4096), 1, "a byte for each pair"),
        ((4096, 4096), 4, "one square in float32 for all heads"),
        ((8, 4096, 64), 2, "like q, in 16 bits"),
        ((8, 4096, 64), 4, "like q, in float32"),
        ((8, 4096), 4, "a float32 for each query"),
        ((8, 4096, 96), 2, "1.5 times q"),
    ],
)
def test_tensors_are_named_by_their_size(shape, bytes_each, words):
    assert allocator_figures.looks_like(prod(shape) * bytes_each, 4096) == words


def test_tensors_of_linear_attention_are_named_in_states():
    half, state = 2 * 8 * 64 * 64, 4 * 8 * 64 * 65
    assert allocator_figures.looks_like(half, 8192) == "a byte for each query"
    assert allocator_figures.looks_like(half, 8192, linear=True) == "a state in 16 bits"
    assert allocator_figures.looks_like(state, 8192, linear=True) == "1 state in float32"
    assert allocator_figures.looks_like(17 * state, 8192, linear=True) == "17 states in float32"
    assert allocator_figures.looks_like(4 * 2 * 8 * 8192 * 64, 8192, linear=True) == "4 times q"


def test_a_call_is_traced_anew(monkeypatch):
    called = []
    monkeypatch.setattr(allocator, "trace", lambda call: called.append(call()) or TRACE)
    figure = allocator_figures.anew("eager", 128, "causal", FORWARD_BACKWARD)
    figure.plotly()
    assert len(called[0]) == 4 and called[0][0].shape == (1, 8, 128, 64)
    assert "causal, forward + backward" in figure.alt and "N = 128" in figure.alt
    assert figure.numbers["0"].rows[1][0] == "tensor 1"


def test_a_call_that_cannot_be_made_says_why(monkeypatch):
    def fails(call):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a square")

    monkeypatch.setattr(allocator, "trace", fails)
    table = allocator_figures.anew("eager", 128, "bidirectional", FORWARD)
    assert not table.rows and "out of memory" in table.caption
    assert "left out above" in allocator_figures.anew("loop", 4096, "causal", FORWARD).caption


def test_memory_and_time_by_chunk_have_axes_of_their_own():
    row = {"form": "at-once", "D": 64, "status": "ok", "B": 1, "H": 1, "N": 64}
    rows = [row | {"chunk": C, "peak_MiB": C, "median_ms": 1 / C} for C in (16, 32)]
    figure = allocator_figures.by_chunk([studies.Study("chunk-size", GPU, rows)], 64)
    assert figure.layout["yaxis"]["title"]["text"] == "memory held [MiB]"
    assert figure.y_titles == {"0": "memory held [MiB]", "1": "time [ms]"}


def test_the_longest_that_fits():
    case = {"kind": "fits", "work": FORWARD, "causal": False, "contender": "eager"}
    rows = [
        case | {"limit_gib": 16, "predicted_n": 1000, "fits_n": 1024, "status": "ok"},
        case | {"limit_gib": 24, "predicted_n": 2000, "status": "predicted"},
        case | {"limit_gib": 40, "status": "failed"},
        case
        | {"limit_gib": 80, "predicted_n": 4000, "status": "predicted"}
        | {"batch_n": 64, "batch_fits": 500},
    ]
    figure = allocator_figures.fits([studies.Study("memory", GPU, rows)])
    figure.plotly()
    (trace,) = figure.data
    assert trace["y"] == [1024, 2000, 4000]
    assert trace["marker"]["symbol"] == ["circle", "circle-open", "circle-open-dot"]
    assert figure.numbers["0,0"].rows[2][3] == "500 × 64"
    assert "b sequences of N tokens" in figure.numbers["0,0"].caption
    assert "b sequences" not in figure.numbers["1,0"].caption
    assert figure.numbers["0,0"].rows[1] == ["Eager PyTorch, linear", "24", "2,000", "not run"]
    assert figure.alts["1,0"].endswith("causal, forward: not measured.")
    assert isinstance(allocator_figures.fits([]), tables.Table)


def test_a_contender_has_one_colour_on_every_gpu_and_in_every_order():
    fits = {"kind": "fits", "work": FORWARD, "limit_gib": 16, "predicted_n": 1, "status": "ok"}

    def rows(*names):
        return [fits | {"contender": n, "causal": c, "fits_n": 1} for n in names for c in (0, 1)]

    here = studies.Study("memory", GPU, rows("book", "sdpa-flash", "eager"))
    there = studies.Study("memory", replace(GPU, gpu="Other"), rows("book", "eager"))
    figure = allocator_figures.fits([here, there])
    assert [s.name for s in figure.switches] == ["GPU", "Order", "Work"]
    drawn = {(t["name"], t["line"]["color"]) for t in figure.data}
    assert len(figure.data) == 10 and len(drawn) == 3


def test_what_lost_its_gpu_is_told_beside_the_last_that_ran():
    case = {"contender": "eager", "causal": False, "work": FORWARD, "status": "ok"}
    fits = case | {"kind": "fits", "limit_gib": 16, "fits_n": 1024}
    batch = case | {"kind": "fits", "limit_gib": 24, "status": "predicted"}
    batch |= {"batch_n": 64, "batch_fits": 5000}
    failed = batch | {"limit_gib": 40, "status": "failed", "batch_fits": None}
    said = "DeviceLost: AcceleratorError: CUDA error: it broke Search for `x' in y"
    lost = {"kind": "peak", "contender": "eager", "status": "failed", "reason": said}
    other = lost | {"contender": "book", "reason": "left out"}
    after = fits | {"contender": "book"}
    study = studies.Study("memory", GPU, [fits, batch, failed, lost, other, after])
    table = allocator_figures.ended([study])
    seen = "bidirectional, forward, 24 GiB: 5,000 sequences of 64 fit"
    assert table.rows == [["NVIDIA Test", "Eager PyTorch, linear", seen, "it broke"]]
    new = lost | {"reason": f"causal, forward: {said} and more"}
    (row,) = allocator_figures.ended([studies.Study("memory", GPU, [fits, new])]).rows
    assert row[2:] == ["bidirectional, forward, 16 GiB: 1,024 tokens fit", "it broke"]
    assert not allocator_figures.ended([studies.Study("memory", GPU, [fits, other])]).rows


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
