"""Figures and tables: valid Plotly, no network, alternative text, colours told apart."""

import json
import re
from dataclasses import replace
from math import prod
from types import SimpleNamespace

import pytest

from bench import any_two, claims, contenders, data_sheets, explorer, figures, readme, style, tables
from bench.roofline import FORWARD
from bench.runner import Plan

ALL = [
    figures.time_by_length,
    figures.share_of_floor,
    figures.speedup_by_length,
    figures.backward_cost,
]


def spec_of(figure) -> dict:
    """The JSON that the page's script reads."""
    text = re.search(r'<script type="application/json">(.*?)</script>', figure.html(), re.S)
    return json.loads(text.group(1))


@pytest.mark.parametrize("draw", ALL)
def test_figures_are_valid_and_self_contained(draw, record):
    figure = draw([record])
    figure.plotly()  # raises on anything that Plotly does not know
    page = figure.html()
    assert page.count('class="book-plotly"') == 1
    assert 'role="img"' in page
    assert "http" not in page
    assert "src=" not in page
    assert "out of <memory>" not in page, "text from a record is escaped"
    spec = spec_of(figure)
    assert set(spec) == {"data", "layout", "config"}
    assert spec["layout"]["xaxis"]["ticktext"] == ["512", "4K", "64K"]
    assert "recorded on Made-up GPU 1, 2026-01-02" in page.replace("Recorded", "recorded")
    assert '<table class="book-table">' in page


@pytest.mark.parametrize("draw", ALL)
def test_each_choice_has_its_lines_and_its_text(draw, record, make_record):
    other = make_record(gpu="Made-up GPU 2", slug="made-up-gpu-2")
    figure = draw([record, other])
    spec = spec_of(figure)
    keys = {",".join(map(str, trace["meta"])) for trace in spec["data"]}
    assert keys == set(spec["layout"]["meta"]["alts"])
    first = ",".join("0" for _ in figure.switches)
    for trace in spec["data"]:
        assert trace["visible"] == (",".join(map(str, trace["meta"])) == first)
    assert figure.alt == figure.alts[first]
    assert all(re.search(r"\d", alt) for alt in figure.alts.values())
    page = figure.html()
    shown = re.findall(r'<div data-choice="([\d,]+)"( hidden)?>', page)
    assert {key for key, _ in shown} == keys
    assert [key for key, hidden in shown if not hidden] == [first]
    assert page.count("<select") == len(figure.switches)
    assert "Made-up GPU 2 (recorded)" in page


@pytest.mark.parametrize("place", ["kernel", "build", "script"])
def test_a_notebook_is_shown_the_page_and_what_draws_it(place, record, monkeypatch):
    shell = SimpleNamespace(kernel="a kernel") if place != "script" else None
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setenv("JPY_SESSION_NAME", "lab.ipynb")
    monkeypatch.delenv(figures.SHARED, raising=False)
    if place == "build":
        monkeypatch.setenv(figures.SHARED, "live.json")
    figure = figures.time_by_length([record])
    drawn = (explorer.Explorer([record]), any_two.AnyTwo([record]))
    for page in (figure.html(), *(d._repr_html_() for d in drawn)):
        assert (figures.NOTEBOOK_PLOTLY in page) == (place == "kernel")
    # Plotly's own type would be drawn in its place, with every trace that is shown at first
    assert set(figure._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_a_switch_of_one_option_is_hidden(record):
    page = figures.time_by_length([record]).html()
    assert page.count("<label hidden") == 1


def one_gpu(record, options, tick="x"):
    """A figure with a switch and one trace that shows whatever is chosen."""
    n = len(options)
    data = [
        {"type": "scatter", "x": [i], "y": [i], "meta": [i], "visible": not i} for i in range(n)
    ]
    data.append({"type": "scatter", "x": [0], "y": [0], "meta": [None], "visible": True})
    alts = {str(i): f"it shows {o}." for i, o in enumerate(options)}
    numbers = {str(i): tables.Table(["n"], [[o]]) for i, o in enumerate(options)}
    switch = figures.Switch("Batch", options)
    source = f"Made up. {style.sentence(record.line)}"
    return figures.Figure(data, {"height": 100 * n}, alts, [switch], numbers, source)


def test_figures_of_several_gpus_become_one_with_a_switch(record, make_record):
    other = make_record(gpu="Made-up GPU 2", slug="made-up-gpu-2")
    options = {record.line: ["B = 8", "B = 1"], other.line: ["B = 1", "B = 4"]}
    figure = figures.by_gpu([record, other], lambda r: one_gpu(r, options[r.line]))
    figure.plotly()
    assert [s.options for s in figure.switches] == [
        ["Made-up GPU 1 (recorded)", "Made-up GPU 2 (recorded)"],
        ["B = 8", "B = 1", "B = 4"],
    ]
    metas = [[0, 0], [0, 1], [0, None], [1, 1], [1, 2], [1, None]]
    assert [t["meta"] for t in figure.data] == metas
    assert [t["visible"] for t in figure.data] == [True, False, True, False, False, False]
    assert figure.alt == "Made-up GPU 1: it shows B = 8."
    assert figure.alts["0,2"] == "Made-up GPU 1: not measured."
    assert figure.alts["1,2"] == "Made-up GPU 2: it shows B = 4."
    assert {k: t.rows[0][0] for k, t in figure.numbers.items()} == {
        "0,0": "B = 8", "0,1": "B = 1", "1,1": "B = 1", "1,2": "B = 4",
    }  # fmt: skip
    assert figure.layout["height"] == 200
    assert figure.provenance.startswith("Made up. Recorded on Made-up GPU 1")
    assert figure.provenance.count("ecorded on") == 2 and "GPU 2" in figure.provenance


def test_figures_with_sources_of_their_own_keep_them(record, make_record):
    other = make_record(gpu="Made-up GPU 2", slug="made-up-gpu-2")

    def draw(r):
        return replace(one_gpu(r, ["all"]), provenance=f"From {r.line} and more.")

    figure = figures.by_gpu([record, other], draw)
    assert figure.provenance == f"From {record.line} and more. From {other.line} and more."


def test_records_of_one_gpu_are_told_apart_by_their_dates(record, make_record):
    day, minute = (make_record(date=d) for d in ("2026-02-03T04:05:06Z", "2026-01-02T04:05:06Z"))
    other = make_record(gpu="Made-up GPU 2")
    assert figures.names_of([record, day, other]) == [
        "Made-up GPU 1 (recorded 2026-01-02)",
        "Made-up GPU 1 (recorded 2026-02-03)",
        "Made-up GPU 2 (recorded)",
    ]
    alike = figures.names_of([record, minute, record])
    assert len(set(alike)) == 3 and alike[0] == "Made-up GPU 1 (recorded 2026-01-02 03:04)"
    live = replace(record, live=True)
    assert figures.names_of([live, record]) == ["Made-up GPU 1 (live)", "Made-up GPU 1 (recorded)"]


def test_what_a_record_lacks_is_said_to_be_not_measured(record, make_record):
    other = make_record(batches=(2,), date="2026-02-03T04:05:06Z")
    for draw in ALL:
        figure = draw([record, other])
        beside = "1" + ",0" * (len(figure.switches) - 1)
        assert figure.alts[beside].endswith("not measured."), figure.alts[beside]
        assert len(set(figure.switches[0].options)) == 2


def test_a_gpu_that_was_not_measured_has_no_place_in_a_switch(record, make_record):
    other = make_record(gpu="Made-up GPU 2", slug="made-up-gpu-2")
    alone = one_gpu(other, ["B = 8"])
    nothing = figures.Figure([], {"height": 1}, {"0": "Not measured."})
    for missing in (None, nothing, tables.Table(["nothing was measured"], [])):
        drawn = {record.line: missing, other.line: alone}
        assert figures.by_gpu([record, other], lambda r, d=drawn: d[r.line]) is alone
    table = figures.by_gpu([record], lambda r: None)
    assert table.columns == ["nothing was measured"] and record.line in table.caption


def test_time_figure_holds_the_measurements(record):
    figure = figures.time_by_length(record)
    shown = [t for t in figure.data if t["visible"]]
    names = [t["name"] for t in shown]
    assert names == [contenders.label(n) for n in record.contenders()] + ["Copy of the same bytes"]
    flash = shown[names.index("SDPA flash")]
    assert flash["x"] == [512, 4096], "what failed is not drawn"
    ours = [m.median_ms for m in record.select(contender="book", B=8, causal=False, work=FORWARD)]
    assert shown[0]["y"] == ours
    assert "at N = 64K" in figure.alt


def test_a_failure_is_in_the_table_with_its_reason(record):
    table = tables.times(record, B=8, causal=False)
    assert table.rows[2][3] == "failed"
    assert table.notes[2, 3] == "out of <memory>"
    page = table._repr_html_()
    assert 'title="out of &lt;memory&gt;"' in page
    assert "recorded on Made-up GPU 1" in page
    assert "failed" in table.markdown()
    assert str(table).splitlines()[1].startswith("---")
    reasons = tables.problems(record)
    assert reasons.rows == [
        ["SDPA flash", "failed", "(8, 8, 64K, 64) bidirectional forward and 7 more",
         "out of <memory>"]
    ]  # fmt: skip


def test_times_that_count_the_host_are_marked_and_explained(record):
    changed = [
        replace(m, host_included=True) if m.contender == "eager" and m.N == 512 else m
        for m in record.measurements
    ]
    table = tables.times(replace(record, measurements=changed), B=8, causal=False)
    assert table.rows[0][2].endswith("‡") and not table.rows[1][2].endswith("‡")
    assert "‡ With the time of the host" in table.caption
    assert table.notes[0, 2].endswith("and is counted")


def test_the_first_call_stands_apart(record):
    slow = [
        replace(m, first_call_ms=2500.0)
        if (m.contender, m.N, m.B, m.causal, m.work) == ("book", 4096, 1, True, "forward")
        else m
        for m in record.measurements
    ]
    table = tables.first_calls(replace(record, measurements=slow))
    book, eager = table.rows[:2]
    assert book[1:3] == ["(1, 8, 4096, 64) causal, forward", "2500"]
    assert eager[2] == "120"
    assert float(book[3]) == pytest.approx(0.04), "what the host needs for a call"


def test_the_zero_of_the_clock_stands_beside_the_shortest_call_that_counts(record):
    assert tables.zeros([record]).rows == [], "records of before do not say"
    known = replace(record, provenance=replace(record.provenance, null_kernel_ms=0.004))
    ((run, zero, what, shortest, share),) = tables.zeros([known, record]).rows
    times = {m.key: m.median_ms for m in known.select() if m.ok}
    least = min(times, key=times.get)
    assert run == record.line and zero == "4"
    assert float(shortest) == pytest.approx(1e3 * times[least], rel=0.01)
    assert share == f"{0.4 / times[least]:.0f} %"
    shaky = [
        replace(m, unsteady=True) if m.median_ms == times[least] else m for m in known.measurements
    ]
    ((*_, next_shortest, _),) = tables.zeros([replace(known, measurements=shaky)]).rows
    assert float(next_shortest) > float(shortest)
    assert what.startswith(tables.label(next(m for m in known.measurements if m.key == least)))


def test_unsteady_times_are_marked_and_explained(record):
    at = next(
        i for i, m in enumerate(record.measurements)
        if (m.contender, m.B, m.causal, m.work, m.N) == ("book", 8, False, FORWARD, 512)
    )  # fmt: skip
    plain = tables.times(record, B=8, causal=False)
    assert "†" not in str(plain)
    m = record.measurements[at]
    record.measurements[at] = replace(m, p80_ms=m.p20_ms * 1.3, unsteady=True)
    table = tables.times(record, B=8, causal=False)
    assert table.rows[0][1] == plain.rows[0][1] + "†"
    assert "† Unsteady: its 80th percentile is more than 1.2 times" in table.caption
    assert table.notes[0, 1].endswith("unsteady, also when raced again")
    assert "†" not in tables.times(record, B=8, causal=True).caption
    assert "† /" in tables.host(record, B=8, causal=False).rows[0][1]
    assert "† Unsteady" in tables.host(record, B=8, causal=False).caption
    assert "† Unsteady" in readme.headline_table(record, 8).caption
    assert "†" not in readme.headline_table(record, 1).markdown()


@pytest.mark.parametrize("floor", [False, True])
def test_nothing_is_made_of_unsteady_times(record, shake, floor):
    case = {"B": 8, "causal": False}
    shaken = shake(record, floor=floor)
    assert tables.longest(shaken, work=FORWARD, **case) == 65536, "they were verified all the same"
    page, head = tables.times(shaken, **case), readme.headline_table(shaken, 8)
    pictures = [figures.shares(shaken, **case), figures.ratios(shaken, **case)]
    # the columns in which a share of the copy or a ratio to a rival stands
    found = [[r[-2] for r in page.rows], [r[i] for r in head.rows for i in (4, 8)]]
    found.append([r[1] for r in pictures[0].rows])
    ratios = [[r[-1] for r in page.rows], [r[i] for r in head.rows for i in (3, 7)]]
    ratios.append([r[1] for r in pictures[1].rows])
    assert {cell for column in found for cell in column} == {"void"}
    assert {cell == "void" for column in ratios for cell in column} == {not floor}
    assert all("void stands for" in t.caption for t in (page, head, pictures[0]))
    assert not figures.share_of_floor([shaken]).data
    assert bool(figures.speedup_by_length([shaken]).data) == floor
    assert (
        "void" not in str(tables.times(record, **case)) + readme.headline_table(record, 8).caption
    )


def test_word_columns_are_set_to_the_left_and_numbers_to_the_right():
    table = tables.Table(["step", "idea", "ms"], [["a", "an idea", "1.5"]], words=("idea",))
    page = table._repr_html_()
    left = ' style="white-space: normal; text-align: left"'
    assert f'<th scope="col"{left}>idea</th>' in page
    assert '<th scope="col" style="white-space: normal">ms</th>' in page
    assert f'<th scope="row">a</th><td{left}>an idea</td><td>1.5</td>' in page
    wrapped = tables.Table(["step"], [["a long name"]], words=("step",))._repr_html_()
    assert f'<th scope="row"{left}>a long name</th>' in wrapped
    long = tables.Table(["st.shared"], [["a_kernel<4, at::Fill>"]])._repr_html_()
    assert ">st.<wbr>shared</th>" in long and ">a_<wbr>kernel&lt;4, at::<wbr>Fill&gt;</th>" in long
    assert table.markdown().splitlines()[1] == "|---|---|--:|"
    assert str(table).splitlines()[0] == "step  idea      ms"


def test_the_legend_stays_clear_of_the_title_of_the_x_axis(record):
    """Plotly fits plot, gap and legend between the top margin and the bottom of the figure."""
    for figure in [draw([record]) for draw in ALL]:
        layout = figure.layout
        lines = len({t["name"] for t in figure.data})  # on a narrow page one line each
        gap = -layout["legend"]["y"]
        plot = (layout["height"] - layout["margin"]["t"] - 29 * (lines - 1)) / (1 + gap)
        assert gap * plot >= 60, "ticks and title take 55 px"


def test_speedup_is_against_the_fastest_sdpa(record):
    shape = {"B": 8, "causal": False, "work": FORWARD}
    assert tables.fastest_softmax(record, N=512, **shape).contender == "sdpa-cudnn"
    assert tables.speedup(record, N=512, **shape) == pytest.approx(25 / 1.5)
    assert tables.speedup(record, N=777, **shape) is None


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb as WCAG defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_lines_stand_out_on_light_and_dark_pages():
    for look in (*style.LOOKS.values(), *style.SPARE):
        light, color, dark = luminance("#ffffff"), luminance(look.color), luminance("#14181e")
        assert (light + 0.05) / (color + 0.05) >= 3, look
        assert (color + 0.05) / (dark + 0.05) >= 3, look


def test_contenders_differ_in_colour_and_shape_and_dash():
    looks = [style.look(name) for name in Plan().contenders]  # the others share the spare ones
    for what in ("color", "symbol", "dash", "mark", "line"):
        assert len({getattr(look, what) for look in looks}) == len(looks)
    assert style.look("somebody new") == style.look("somebody new")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.0051234, "0.00512"),
        (0.00001234, "0.0000123"),
        (1.1449, "1.14"),
        (145.61, "146"),
        (1234.5, "1230"),
        (123456.0, "123000"),
        (10.0, "10"),
    ],
)
def test_numbers(value, text):
    assert style.number(value) == text


def test_lengths():
    assert [style.length(n) for n in (512, 1000, 1024, 65536)] == ["512", "1000", "1K", "64K"]
    assert [style.length(n) for n in (2**20, 2**22, 1100 * 1024)] == ["1M", "4M", "1100K"]


def test_claims_say_whether_they_held_and_where(record):
    held = claims.claim("A < B", True, "1 < 2", record)
    page = held._repr_html_()
    assert "Held: A &lt; B" in page
    assert "Recorded on Made-up GPU 1" in page
    assert claims.claim("A", False, "", record).verdict == "Did not hold"
    for nothing in (None, [], {}):
        assert claims.claim("A", nothing, "", record).verdict == "Not decided"
    assert "[HELD] A < B" in repr(held)


def test_several_claims_share_a_box(record):
    held, failed, open_ = (
        claims.claim(name, held, f"as {name}", record)
        for name, held in (("A < B", True), ("C", False), ("D", None))
    )
    box = claims.Claims([held, held, failed, open_])._repr_html_()
    assert "Did not hold: 1 of 4; Not decided: 1 of 4; Held: 2 of 4" in box
    assert 'class="admonition warning' in box and box.count(held.source) == 1
    assert box.index("as C") < box.index("as D") < box.index("A &lt; B")
    assert all(f"<li {c.marks}>" in box for c in (held, failed, open_))
    assert 'class="admonition tip' in claims.Claims([held])._repr_html_()
    assert "Nothing is claimed" in claims.Claims()._repr_html_()


def test_a_claim_on_two_gpus_names_both(record, make_record):
    other = make_record(gpu="Another")
    claim = claims.claim("A < B", True, "1 < 2", [record, other, record])
    assert claim.gpu == "Made-up GPU 1 and Another" and not claim.live
    assert claim.source == f"{record.line.capitalize()[:1]}{record.line[1:]}; {other.line}."
    assert claims.claim("A", True, "", [record, replace(other, live=True)]).live


@pytest.mark.parametrize(
    ("condition", "expected", "verdict", "surprising"),
    [
        (True, True, "Held", False),
        (False, True, "Did not hold", True),
        (False, False, "Did not hold, as expected", False),
        (True, False, "Held, against expectation", True),
        (False, None, "Did not hold", False),
        (None, True, "Not decided", False),
        (None, False, "Not decided", False),
    ],
)
def test_a_claim_may_be_expected_to_fail(record, condition, expected, verdict, surprising):
    claim = claims.claim("A", condition, "", record, expected=expected)
    assert claim.verdict == verdict
    assert claim.surprising is surprising
    assert f"{verdict}: A" in claim._repr_html_()
    assert claim.facts()["surprising"] is surprising


def test_a_figure_of_a_choice_is_valid_and_says_what_it_shows(record):
    figure = figures.under_the_roof([record])
    figure.plotly()
    page = figure.html()
    assert "http" not in page and "out of <memory>" not in page
    choices = [len(s.options) for s in figure.switches]
    assert len(figure.alts) == prod(choices)
    for trace in figure.data:
        keys = [k for k in figure.alts if fits(trace, k)]
        assert keys and trace["visible"] == (keys[0] == next(iter(figure.alts)))


def fits(trace: dict, choice: str) -> bool:
    """As the page's script decides whether a trace is shown."""
    return all(
        m is None or str(m) == c for m, c in zip(trace["meta"], choice.split(","), strict=True)
    )


def test_the_roof_and_the_points_are_flops_over_bytes(record):
    sheet = data_sheets.SHEETS["NVIDIA H100 80GB HBM3"]
    gpu = replace(record.provenance, gpu="NVIDIA H100 80GB HBM3")
    known = replace(record, provenance=gpu)
    figure = figures.under_the_roof([known])
    roof = next(t for t in figure.data if t["name"] == "data sheet")
    assert roof["y"][0] == pytest.approx(sheet.bandwidth / 1e12)  # at 1 FLOP a byte, in TFLOP/s
    assert roof["x"][1] == pytest.approx(sheet.matrix / sheet.bandwidth)
    m = next(
        m for m in known.select(contender="book", B=known.values("B")[-1], causal=False) if m.ok
    )
    line = next(t for t in figure.data if t["name"] == contenders.label("book"))
    at = line["text"].index(style.length(m.N))
    assert line["x"][at] == pytest.approx(m.flops / m.bytes)
    assert line["y"][at] == pytest.approx(m.flops / m.median_ms / 1e9)
