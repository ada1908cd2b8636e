"""The natural experiment: what two GPUs that differ in the memory say of each kernel."""

from dataclasses import replace

import pytest

from bench import natural, results, studies
from bench.natural import KERNELS, RACED
from bench.roofline import FORWARD, FORWARD_BACKWARD, Shape

FASTER = 1.4  # the made-up memory


def test_what_the_data_sheets_predict():
    assert natural.FASTER == pytest.approx(4.8 / 3.35)
    for causal in (False, True):
        for N in (512, 65536):
            gain = natural.predicted("linear", Shape(8, 8, N, causal=causal), FORWARD_BACKWARD)
            assert gain == pytest.approx(natural.FASTER)
    softmax = [natural.predicted("softmax", Shape(8, 8, N)) for N in (256, 412, 500, 600, 65536)]
    assert softmax[:2] == pytest.approx([natural.FASTER, natural.FASTER])
    assert softmax[1] > softmax[2] > softmax[3] == softmax[4] == 1


def times(one, gains):
    """A row whose time is `gains` times as fast, and its copy as much faster as the memory is."""
    time, copy = natural.COLUMNS[one.study]
    rows = [r | {time: r[time] / gains, copy: r[copy] / FASTER} for r in one.rows]
    return replace(one, rows=rows)


@pytest.fixture
def planted(tmp_path, monkeypatch, make_record):
    """Records of an H100, and a function that writes those of an H200 that gains so much."""
    # rows of real records, with made-up times
    real = {name: studies.recorded(name)[0] for name in natural.COLUMNS}
    monkeypatch.setattr(results, "DIRECTORY", tmp_path)
    monkeypatch.setattr(studies, "DIRECTORY", tmp_path / "studies")
    facts = [
        {"gpu": gpu, "slug": slug} for gpu, slug in zip(natural.NAMES, ("a", "b"), strict=True)
    ]
    first = make_record(**facts[0])
    results.write(first, tmp_path / "a.json")
    of = {name: [] for name in natural.COLUMNS}
    for _, name, wanted in KERNELS:
        made_up = dict(zip(natural.COLUMNS[name], (1.0, 0.9), strict=True))
        of[name].append(real[name].one(**wanted) | made_up)
    kernels = [studies.Study(name, first.provenance, rows) for name, rows in of.items()]
    for one in kernels:
        studies.write(one)

    def second(gains):
        there = replace(first.provenance, **facts[1])

        def faster(m):
            if not m.ok:
                return m
            now = {k: getattr(m, k) / gains for k in ("median_ms", "p20_ms", "p80_ms")}
            return replace(m, floor_ms=m.floor_ms / FASTER, **now)

        measured = [*map(faster, first.measurements)]
        results.write(replace(first, provenance=there, measurements=measured), tmp_path / "b.json")
        for one in kernels:
            studies.write(replace(times(one, gains), provenance=there))

    return second


@pytest.mark.parametrize(("gains", "binds"), [(1.4, "memory"), (1.2, "both"), (1.0, "not memory")])
def test_every_kernel_says_what_binds_it(planted, gains, binds):
    planted(gains)
    rows = natural.rows()
    # flash fails at the longest sequence of a made-up record
    asked = [r[0] for r in (*RACED, *KERNELS) if "flash, forward" not in r[0]]
    assert [r["what"] for r in rows] == asked
    assert {r["binds"] for r in rows} == {binds}
    assert all(r["speedup"] == pytest.approx(gains, rel=1e-3) for r in rows)
    assert all(r["copies"] == pytest.approx(FASTER, rel=1e-3) for r in rows)
    last = rows[-1]
    assert last["shares"] == pytest.approx((0.9, 0.9 * gains / FASTER), rel=1e-3)
    table = natural.table(rows)
    assert table.rows[0][1:3] == ["1.43", f"{gains:.2f}"] and table.rows[0][4] == binds
    assert all(name in table.caption for name in natural.NAMES)


def test_gains_by_length(planted):
    planted(1.2)
    assert natural.gained("book", True, FORWARD) == pytest.approx(
        dict.fromkeys((512, 4096, 65536), 1.2), rel=1e-3
    )
    assert natural.gained("copy", True, FORWARD)[512] == pytest.approx(FASTER, rel=1e-3)
    drawn = {c.label: c for c in natural.curves(True, FORWARD)}
    assert drawn["SDPA flash, measured"].x == [512, 4096], "it fails at the longest sequence"
    assert len(drawn) == 7 and not drawn["linear, predicted"].markers


def test_without_the_second_gpu_there_is_only_a_prediction(planted):
    assert natural.rows() == [] and natural.records() is None
    assert natural.gained("book", False, FORWARD) == {}
    assert [c.label for c in natural.curves(False, FORWARD)] == [
        "softmax, predicted", "linear, predicted",
    ]  # fmt: skip
    assert natural.chips().rows[-1] == ["memory, data sheet [GB/s]", "3350", "4800"]
    assert natural.table([]).rows == []
