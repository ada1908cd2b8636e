"""Two records, of the book's GPU and of one with a faster memory: everything shows both."""

import re
from dataclasses import replace

import pytest

import bench
from bench import (
    allocator_figures,
    any_two,
    backward_figures,
    causal_figures,
    clinic_figures,
    comparing,
    decoding_figures,
    figures,
    hardware,
    journey,
    original,
    quadratic_figures,
    readme,
    results,
)
from bench.hardware import Provenance
from bench.studies import Study

HOPPER = {"capability": "9.0", "sm_count": 132, "sm_clock_max_mhz": 1980}
H100 = {"gpu": "NVIDIA H100 80GB HBM3", "slug": results.MAIN, **HOPPER}
H200 = {"gpu": "NVIDIA H200", "slug": "nvidia-h200", **HOPPER}
SKIPPED = {
    "form": "kernel", "B": 1, "H": 1, "N": 1, "D": 1, "dtype": "bfloat16", "chunk": None,
    "status": "skipped", "reason": "a test",
}  # fmt: skip
DRAWN = (
    figures.time_by_length,
    figures.share_of_floor,
    figures.speedup_by_length,
    figures.backward_cost,
    figures.under_the_roof,
)


def faster_memory(m):
    """What waits for memory gains 1.4, and the copy does."""
    if not m.ok:
        return m
    gain = 1.4 if m.contender in ("book", "eager") else 1.0
    times = {k: getattr(m, k) / gain for k in ("median_ms", "p20_ms", "p80_ms")}
    return replace(m, floor_ms=m.floor_ms / 1.4, **times)


@pytest.fixture
def session(make_record, tmp_path, monkeypatch):
    """What a page opens where both are recorded, the second one later and with more in it."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    first = make_record(**H100)
    second = make_record(**H200, date="2026-02-02T00:00:00Z")
    second = replace(second, measurements=[*map(faster_memory, second.measurements)])
    extra = replace(second.measurements[0], experiment="steps")
    second = replace(second, measurements=[*second.measurements, extra])
    for record in (first, second):
        results.write(record, tmp_path / f"{record.provenance.slug}.json")
    return bench.session(tmp_path)


def test_the_pages_speak_of_the_books_gpu_and_show_both(session):
    assert session.main.provenance.gpu == "NVIDIA H100 80GB HBM3"
    assert [r.provenance.gpu for r in session.records][1] == "NVIDIA H200"
    assert session.note.endswith("commit 0123456.") and "H100" in session.note


@pytest.mark.parametrize("draw", DRAWN, ids=lambda f: f.__name__)
def test_every_figure_of_the_race_has_a_switch_between_them(session, draw):
    figure = draw(session.records)
    figure.plotly()
    at, switch = next((i, s) for i, s in enumerate(figure.switches) if s.name == "GPU")
    assert switch.options == ["NVIDIA H100 80GB HBM3 (recorded)", "NVIDIA H200 (recorded)"]
    assert {t["meta"][at] for t in figure.data} - {None} == {0, 1}
    assert "H100" in figure.provenance and "H200" in figure.provenance
    for choice, alt in figure.alts.items():
        gpu = "H200" if choice.split(",")[at] == "1" else "H100"
        assert alt.split(": ")[0].startswith(f"NVIDIA {gpu}")
        if figure.numbers:
            assert gpu in figure.numbers[choice].caption
    alone = draw(session.records[:1])
    assert not any(alt.startswith("NVIDIA") for alt in alone.alts.values())


def test_any_two_are_compared_on_either(session):
    figure = any_two.AnyTwo(session.records)
    names = ["NVIDIA H100 80GB HBM3 (recorded)", "NVIDIA H200 (recorded)"]
    assert figure.choices()["gpu"] == ("GPU", [*enumerate(names)])
    case = 8, 8, 64, "bidirectional", "bfloat16", "forward"
    first, second = (figure.ratios("book", "sdpa-cudnn", gpu, *case)[1] for gpu in (0, 1))
    assert second == pytest.approx([1.4 * ratio for ratio in first], rel=1e-3)
    page = figure._repr_html_()
    assert page.count("<label hidden") == 3  # one H, D and dtype
    assert all(name in page for name in names)


def test_what_sped_up_says_what_binds(session):
    first, second = comparing.pair(session.records)
    assert second.provenance.gpu == "NVIDIA H200", "the one with the faster copies"
    bound = {row[0]: row[-1] for row in comparing.report(first, second)[0].rows}
    assert bound["This book (Triton)"] == bound["Eager PyTorch, linear"] == "memory"
    assert bound["SDPA cuDNN"] == "not memory"


def test_the_readme_has_a_table_of_both(session, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DIRECTORY", tmp_path)
    text = readme.block(session.main, "alt")
    table = text[text.index(readme.TWO) :]
    assert "| This book (Triton) | bidirectional, forward |" in table
    assert "| SDPA cuDNN | causal, forward |" in table and "backward" not in table
    assert "(8, 8, 65536, 64)" in table
    (tmp_path / "nvidia-h200.json").unlink()
    assert readme.TWO not in readme.block(session.main, "alt")


def test_the_musts_are_of_the_h100(session):
    asked = [original.reached(r) for r in session.records]
    assert None not in asked[0].values()
    assert set(asked[1].values()) == {None}


def test_a_study_of_both_has_a_panel_for_each(tmp_path):
    def study(facts):
        where = Provenance(
            date="2026-01-01T00:00:00Z", command="", python="3.12", torch="2.11", **facts
        )
        return Study("chunk-size", where, [SKIPPED])

    for facts in (H200, H100):
        bench.studies.write(study(facts), tmp_path)
    shown = bench.studies.recorded("chunk-size", tmp_path)
    assert [s.provenance.gpu for s in shown] == ["NVIDIA H100 80GB HBM3", "NVIDIA H200"]
    assert bench.studies.beside(shown[0], tmp_path) == shown
    live = replace(study(H200), live=True)
    beside = bench.studies.beside(live, tmp_path)
    assert [(s.provenance.slug, s.live) for s in beside] == [
        ("nvidia-h200", True),
        (results.MAIN, False),
    ]


JOURNEY = {
    "mix": lambda told: told.mix("state", ["fused", "packed"]),
    "waves": journey.Journey.waves,
    "explorer": journey.Journey.explorer,
    "ladder": journey.Journey.ladder,
}
STUDIES = {
    "growth": (
        "quadratic-problem",
        lambda shown: quadratic_figures.growth(shown, "median_ms", "time [ms]", unit=1),
    ),
    "memory of states": ("causal", causal_figures.memory),
    "segments": ("causal", causal_figures.segments),
    "chunks": ("causal", causal_figures.chunks),
    "links": ("causal", causal_figures.links),
    "backward": ("backward", backward_figures.by_kernel),
    "tokens": ("decoding", decoding_figures.token_times),
    "batches": ("decoding", decoding_figures.batches),
    "drifts": ("decoding", decoding_figures.drifts),
    "clinic": ("clinic", clinic_figures.factors),
    "allocator": ("allocator", lambda shown: allocator_figures.timeline(shown, ("book",))),
    "chunk sizes": ("chunk-size", lambda shown: allocator_figures.by_chunk(shown, 64)),
} | {
    name: (
        "journey",
        lambda shown, draw=draw: figures.by_gpu(shown, lambda s: draw(journey.Journey(s))),
    )
    for name, draw in JOURNEY.items()
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with what is recorded of the book's GPU, and all of it once more as an H200's."""
    folder = tmp_path_factory.mktemp("studies")
    for path in sorted((bench.studies.DIRECTORY / results.MAIN).glob("*.json")):
        found = bench.studies.read(path)
        bench.studies.write(found, folder)
        other = replace(found.provenance, gpu="NVIDIA H200", slug="nvidia-h200")
        bench.studies.write(replace(found, provenance=other), folder)
    return folder


@pytest.mark.parametrize("what", STUDIES)
def test_every_figure_of_a_study_has_a_switch_between_them(what, planted):
    name, draw = STUDIES[what]
    first, second = bench.studies.recorded(name, planted)
    alone, figure = draw([first]), draw([first, second])
    figure.plotly()
    switch, *others = figure.switches
    assert switch.options == ["NVIDIA H100 80GB HBM3 (recorded)", "NVIDIA H200 (recorded)"]
    assert [(s.name, s.options) for s in others] == [(s.name, s.options) for s in alone.switches]
    assert len(figure.data) == 2 * len(alone.data)
    assert len(figure.alts) == 2 * len(alone.alts)
    assert {t["meta"][0] for t in figure.data} == {0, 1}
    assert not any(t["visible"] for t in figure.data if t["meta"][0] == 1)
    assert figure.alt.startswith("NVIDIA H100 80GB HBM3: ") and figure.alt.endswith(alone.alt)
    assert figure.provenance.count("ecorded on NVIDIA H") == 2
    assert all(re.search(r"\d", alt) for alt in figure.alts.values())


@pytest.mark.parametrize("what", STUDIES)
def test_what_is_recorded_of_several_gpus_is_drawn_of_each(what):
    name, draw = STUDIES[what]
    shown = bench.studies.recorded(name)
    if len(shown) == 1:
        pytest.skip("recorded of one GPU")
    figure = draw(shown)
    figure.plotly()
    assert {t["meta"][0] for t in figure.data} == set(range(len(shown)))
    for g, study in enumerate(shown):
        alts = [alt for key, alt in figure.alts.items() if key.split(",")[0] == str(g)]
        assert all(alt.startswith(f"{study.provenance.gpu}: ") for alt in alts)
        assert any(re.search(r"\d", alt.split(": ", 1)[1]) for alt in alts)
