"""No cell of a notebook takes more than a minute on a T4, by the roofline's estimate.

What a page measures is a study or a session, and both stop at a limit: nothing further is begun.
So a cell takes no longer than the limit and its longest single measurement. How long that is on a
T4 is estimated from what is recorded on an H100, by the ratio of the two data sheets. Compiling is
not in it.
"""

import re
from importlib import import_module

import pytest

from bench import book, data_sheets, results, runner, studies, timing

CELL_S = 60.0
H100 = data_sheets.SHEETS["NVIDIA H100 80GB HBM3"]
T4 = data_sheets.SHEETS["Tesla T4"]
BYTES = H100.bandwidth / T4.bandwidth
MATRIX = H100.matrix / T4.matrix  # products by a library, which has tensor cores on both
# A product of tiles by Triton takes the float32 units there. On the H100 the book's kernels move
# bytes, with at most so many FLOPs for each: two products with a state of 128 by 128.
INTENSITY = 128
TILES = INTENSITY * H100.bandwidth / T4.float32
LIBRARY = ("sdpa", "eager", "math", "tiled", "matmul", "torch", "cache", "in-turn", "at-once")
NEED_SM_80 = ("sdpa-flash", "sdpa-cudnn", "cache-flash", "cache-cudnn")  # and fail at once there
OTHER_COLUMNS = {"p20_ms", "p80_ms", "host_ms", "floor_ms", "copy_ms", "first_call_ms"}
# What the studies of all pages may take together in a build on a GPU, which is to end in minutes.
LIVE_S = 110.0
# Studies that take a part of the length on a GPU older than sm_80.
SHORTER = {"journey": 1 / 8}
RECORDED = sorted({path.stem for path in studies.DIRECTORY.glob("*h100*/*.json")})


def on_t4(seconds: float, row: dict) -> float:
    """The longest that a T4 takes for what took an H100 so many seconds.

    What was measured on fewer rows than it is given for (`scaled`) takes that much less.
    """
    if row.get("scaled"):
        seconds *= row["measured_N"] / row["N"]
    library = any(word in str(x) for x in row.values() for word in LIBRARY)
    return seconds * max(BYTES, MATRIX if library else TILES)


def sampled(seconds: float, sampling: timing.Sampling) -> float:
    """A measurement of one call: warm-up, samples, and the gate before them."""
    fitting = sampling.budget_s / max(seconds, 1e-9)
    samples = min(sampling.most, max(sampling.least, fitting))
    return (sampling.warm_up + samples + 1) * seconds


def quick_s(name: str) -> float | None:
    """After how many seconds a study in quick form begins nothing further."""
    return getattr(import_module(f"bench.studies.{name.replace('-', '_')}"), "QUICK_S", None)


def quick_sampling(module) -> timing.Sampling:
    quick = getattr(module, "QUICK", None)
    quick = getattr(quick, "sampling", quick)
    return quick if isinstance(quick, timing.Sampling) else timing.QUICK


def cell_s(name: str) -> float:
    """The estimate for a cell that measures a study, from what an H100 recorded of it."""
    module = import_module(f"bench.studies.{name.replace('-', '_')}")
    sampling = quick_sampling(module)
    (study,) = (s for s in studies.recorded(name) if "H100" in s.provenance.gpu)
    each = [
        sampled(SHORTER.get(name, 1) * on_t4(value / 1e3, row), sampling)
        for row in study.rows
        if not any(word in row.values() for word in NEED_SM_80)
        for column, value in row.items()
        if column.endswith("_ms") and column not in OTHER_COLUMNS and value is not None
    ]
    longest, total = max(each, default=0.0), sum(each)
    limit = quick_s(name)
    return min(total, limit + longest) if limit else total


STUDIED = r"bench\.(?:study|studies\.study_or_nothing)\(\"([\w-]+)\"\)"


def in_pages() -> set[str]:
    """The studies that pages measure."""
    pages = (results.DIRECTORY.parent / "chapters").rglob("*.md")
    found = (re.findall(STUDIED, page.read_text()) for page in pages)
    return {name for names in found for name in names} & set(studies.names())


@pytest.mark.parametrize("name", sorted(in_pages() & set(RECORDED)))
def test_a_study_ends_within_a_minute(name):
    assert cell_s(name) <= CELL_S


def test_the_studies_of_all_pages_together_leave_time_for_the_rest():
    limits = {name: quick_s(name) for name in in_pages()}
    limits = {name: limit for name, limit in limits.items() if limit}
    assert len(limits) >= 9, "a study that takes seconds says QUICK_S"
    assert sum(limits.values()) <= LIVE_S, limits


def test_most_studies_of_the_pages_are_recorded():
    assert len(in_pages() & set(RECORDED)) >= 5


def test_a_session_ends_within_a_minute():
    record = results.load("nvidia-h100-80gb-hbm3")
    plans = book.reduced("bfloat16")
    shapes: dict[tuple, float] = {}
    for m in record.select(experiment=results.COMPARISON):
        if m.ok and m.N in runner.QUICK_LENGTHS and m.contender in ("book", "eager"):
            # the book's path there is PyTorch too, the chunked reference: eager at its dearest
            seconds = sampled(m.median_ms / 1e3 * MATRIX, timing.QUICK)
            key = (m.N, m.B, m.causal)
            shapes[key] = shapes.get(key, 0.0) + 2 * seconds
    assert set(shapes) == {(s.N, s.B, s.causal) for plan in plans for s in plan.shapes()}
    assert min(sum(shapes.values()), book.DEADLINE_S + max(shapes.values())) <= CELL_S


def test_the_steps_of_a_ladder_end_within_a_minute():
    record = results.load("nvidia-h100-80gb-hbm3")
    steps = [m for m in record.select(experiment="steps") if m.ok]
    assert steps
    assert sum(sampled(m.median_ms / 1e3 * TILES, timing.QUICK) for m in steps) <= CELL_S


def test_the_estimate_can_fail():
    slow = {"what": "sdpa"}
    assert sampled(on_t4(5.0, slow), timing.QUICK) > CELL_S
    assert on_t4(1.0, {"what": "ours"}) > on_t4(1.0, slow) > BYTES
