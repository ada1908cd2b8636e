"""The pictures and tables of the optimization ladder: true to the rows, and whole without some."""

import pytest

from bench import journey, listings, style
from bench.hardware import Provenance
from bench.studies import Study
from kernels.steps.journey import STEPS

H100 = Provenance(
    gpu="NVIDIA H100 80GB HBM3", slug="nvidia-h100-80gb-hbm3", date="2026-01-02T03:04:05Z",
    command="", python="3.12", torch="2.11", sm_count=132, sm_clock_mhz=1755,
)  # fmt: skip
AT = {"H": 8, "N": 65536, "D": 64, "dtype": "bfloat16"}
NAMES = [step.name for step in STEPS]


def step_row(name, B, ms, **facts):
    row = {"part": "step", "step": name, "B": B, **AT, "bytes": 8 * B * 65536 * 64 * 8}
    row |= {"status": "ok" if ms else "failed", "reason": None if ms else "no room", "error": 1e-3}
    return row | {"median_ms": ms, "floor_ms": 0.7, "measured_N": 65536, "scaled": False} | facts


def rows():
    found = []
    for B in (8, 1):
        found.append({"part": "copy", "B": B, "bytes": 2, "median_ms": 0.7})
        found.append({"part": "copy", "B": B, "bytes": 1, "median_ms": 0.4})
        for i, name in enumerate(NAMES):
            ms = None if name == "too-deep" else 10.0 - 0.4 * i
            scaled = {"measured_N": 512, "scaled": True} if name == "python-loop" else {}
            found.append(step_row(name, B, ms, **scaled))
        for kernel, ms in (("state_kernel", 0.5), ("elementwise", 0.2), ("output_kernel", 0.3)):
            at = {"part": "pass", "step": "fused", "B": B, "H": 8, "N": 65536}
            found.append({**at, "kernel": kernel, "ms": ms, "launches": 1.0})
    for step in STEPS:
        for which, _ in step.kernels:
            found.append({"part": "code", "step": step.name, "pass": which, "reason": None,
                          "registers": 96, "local_bytes": 0, "shared_bytes": 32768, "num_warps": 4,
                          "resident": 4, "instructions": 900, "loop": 400})  # fmt: skip
    return found


@pytest.fixture
def told():
    return journey.Journey(Study("journey", H100, rows()))


def test_predictions_are_those_of_the_page(told):
    """(8, 8, 65536, 64): a tensor is 0.537 GB, 0.16 ms at 3.35 TB/s."""
    least = {name: told.predicted(name, 8).least for name in NAMES}
    assert least["python-loop"] == pytest.approx(65536 * 15 * 0.005)
    assert least["whole-tensors"] == least["tensor-cores"] == pytest.approx(16 * 0.1603, rel=1e-3)
    assert least["rows"] == pytest.approx(12 * 0.1603 + 2 * 65536 * 0.0007, rel=1e-3)
    product = 2 * 64**3 / (67e12 / 132) * 1e3
    assert least["tiles"] == pytest.approx(12 * 0.1603 + 2048 * (0.0007 + product), rel=1e-3)
    assert least["split"] == pytest.approx(12 * 0.1603 + 68.72 / 67, rel=1e-3)
    assert least["fused"] == pytest.approx(4 * 0.1603, rel=1e-3)
    assert least["library"] == least["fused"]


def test_instructions_bound_a_step_from_above(told):
    issue = 65536 * 64 / 64 * 400 * 4 / (4 * 132) / 1755e3  # ms for one pass
    said = told.predicted("fused", 8)
    assert said.most == pytest.approx(0.7 + 2 * issue, rel=1e-3)  # at the speed of the copy
    assert said.least < said.most and " to " in str(said)


def test_verdicts(told):
    assert told.verdict("python-loop", 8) == "where we start"
    assert told.verdict("too-deep", 8) == "does not run"
    assert told.verdict("whole-tensors", 8) == "4 % less time than python-loop"
    assert told.verdict("library", 8).endswith("less time than whole-waves")
    changed = [r | ({"median_ms": 2.0} if r.get("step") == "rows" else {}) for r in rows()]
    other = journey.Journey(Study("journey", H100, changed))
    assert other.verdict("rows", 8) == "4.8 times as fast as whole-tensors"
    changed = [r | ({"median_ms": 9.9} if r.get("step") == "rows" else {}) for r in rows()]
    other = journey.Journey(Study("journey", H100, changed))
    assert other.verdict("rows", 8) == "3.1 % slower than whole-tensors"
    changed = [r | ({"median_ms": 9.62} if r.get("step") == "rows" else {}) for r in rows()]
    other = journey.Journey(Study("journey", H100, changed))
    assert other.verdict("rows", 8) == "the same as whole-tensors"


def test_the_table_has_every_step(told):
    table = told.table()
    assert [row[0] for row in table.rows] == NAMES
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert len(set(table.columns)) == len(table.columns)
    fused = table.rows[NAMES.index("fused")]
    assert "96 / 96" in fused and "32 / 32" in fused and "4" in fused


def test_a_card_for_every_step(told):
    for name in NAMES:
        card = told.card(name)
        assert len(card) == 1 + bool(told.codes(name)) + bool(told.passes(name, 8)), name
        assert all(len(row) == len(table.columns) for table in card for row in table.rows), name
    page = told.card("fused")._repr_html_()
    assert page.index("measured") < page.index("<details>") < page.index("registers")
    assert "<details>" not in told.card("fused", unfolded=True)._repr_html_()
    assert "<details>" not in told.card("python-loop")._repr_html_()
    work = {row[0]: row[1] for row in told.card("whole-tensors")[0].rows}
    tensor, flops, _ = told.size(told.batches[0])
    assert work["bytes [GB]"] == style.number(journey.count("whole-tensors") * tensor / 1e9)
    assert work["FLOPs [10⁹]"] == style.number(flops / 1e9)
    kernels = told.card("fused")[1].rows
    assert kernels == [["PyTorch", "0.2", "0.2"], ["state", "0.5", "0.5"], ["output", "0.3", "0.3"]]
    assert "multiplied by 128" in told.card("python-loop")[0].caption
    assert "no room" in told.card("too-deep")[0].caption


def test_excerpts_leave_out_addresses(told):
    text = "/*0270*/   @!PT LDS RZ, [RZ] ;\n    … 5 more with LDS\n/*0e20*/   FFMA R4, R3 ;\n"
    row = {
        "part": "text",
        "step": "split",
        "pass": "state",
        "text": text + "    … 9 more with FFMA",
    }
    found = journey.Journey(Study("journey", H100, [*rows(), row])).excerpt("split")
    assert found == "FFMA R4, R3 ;\n    … 9 more with FFMA"
    assert told.excerpt("split") == "not recorded"


def test_a_card_shows_the_machine_code_of_each_pass():
    at = {"part": "text", "step": "fused"}
    texts = [{**at, "pass": x, "text": f"/*0e20*/   {x.upper()} R4 ;"} for x in ("state", "output")]
    told = journey.Journey(Study("journey", H100, [*rows(), *texts]))
    assert told.excerpt("fused", "output") == "OUTPUT R4 ;"
    folded, unfolded = (told.card("fused", x)._repr_html_() for x in (False, True))
    assert folded.index("<details>") < folded.index("registers") < folded.index("STATE R4")
    assert unfolded.index("registers") < unfolded.index("<details>") < unfolded.index("STATE R4")
    for page in (folded, unfolded):
        assert page.count("<details>") == page.count("</details>") == 1
        assert "OUTPUT R4" in page
    assert "STATE R4" not in told.card("masks")._repr_html_()


def test_the_library_is_predicted_by_the_tiles_that_were_recorded(told):
    """Its settings follow from the GPU, so that the step cannot name them."""
    wide = [r | ({"rows": 128} if r.get("step") == "library" else {}) for r in rows()]
    other = journey.Journey(Study("journey", H100, wide))
    issue = 65536 * 64 / 128 * 400 * 4 / (4 * 132) / 1755e3  # ms for one pass
    assert other.predicted("library", 8).most == pytest.approx(0.7 + 2 * issue, rel=1e-3)
    assert str(told.predicted("library", 8)) == "0.641"  # of a record without them


def test_words_are_broken_where_they_should():
    assert (
        journey.in_lines("a loop over tokens in Python")
        == "a\u00a0loop\u00a0over\u00a0tokens in\u00a0Python"
    )


def test_pytorch_has_its_kernels(told):
    assert told.pytorch("fused", 8).rows == [["elementwise", "1", "0.2"]]


def test_the_ladder_is_drawn(told):
    figure = told.ladder()
    figure.plotly()
    bars = [trace for trace in figure.data if trace["type"] == "bar"]
    assert [bar["y"] for bar in bars] == [NAMES, NAMES] and bars[0]["x"][0] == 10.0
    assert set(figure.alts) == {"0", "1"} and "library" in figure.alts["0"]
    assert figure.numbers["0"].rows[0][2:] == ["10", "7\u00a0%"]
    figure = told.ladder("fused", log=False)
    figure.plotly()
    assert figure.data[0]["y"][0] == "fused" and "type" not in figure.layout["xaxis"]


def test_the_explorer_has_a_text_for_every_choice(told):
    figure = told.explorer()
    figure.plotly()
    assert len(figure.alts) == len(figure.numbers) == 2 * len(NAMES)
    fused = figure.numbers[f"{NAMES.index('fused')},0"].rows
    assert ["time", "state", "0.5"] in fused and ["copy", "copy", "0.7"] in fused
    assert all(len(trace["meta"]) == 2 for trace in figure.data)
    shown = figure.alts[f"{NAMES.index('fused')},0"]
    assert "time: PyTorch 0.2 ms, state 0.5 ms, output 0.3 ms, between" in shown
    x, y = told.place("fused", 8)
    assert x == pytest.approx(32) and y == pytest.approx(68.72 / told.ms("fused", 8), rel=1e-3)


def test_instructions_are_counted_for_a_row(told):
    changed = [
        r | {"loop: special functions": 64, "loop: tensor cores": 4}
        if r.get("step") in ("fused", "wide") and r["part"] == "code"
        else r
        for r in rows()
    ]
    other = journey.Journey(Study("journey", H100, changed))
    figure = other.mix("state", ["fused", "wide"])
    figure.plotly()
    exponentials = next(d for d in figure.data if d["name"] == "exponentials")
    assert exponentials["x"] == [64 * 4 / 64, 64 * 4 / 128]
    assert "fused: tensor cores 0.25, exponentials 4" in figure.alt
    assert figure.numbers["0"].rows[0][:3] == ["fused", "0.25", "4"]


def test_waves_are_predicted_one_after_the_other(told):
    at = {"part": "waves", "B": 1, "H": 8, "N": 65536, "bytes": 1, "median_ms": 0.5}
    sizes = ((64, 8), (264, 2), (528, 1), (560, 1))
    found = [{**at, "parts": p, "programs": p, "tiles": n} for p, n in sizes]
    code = [r | ({"resident": 2} if r["part"] == "code" else {}) for r in rows()]
    waves = journey.Journey(Study("journey", H100, [*code, *found]))
    few, one, two, more = (waves.wave_ms(row) for row in waves.wave_rows(1))
    tile = 0.4 * 128 / (8 * 65536)  # at the full speed of the copy
    assert few == pytest.approx(8 * tile * 132)  # each draws a 132nd
    assert one == two == pytest.approx(528 * tile)
    assert more == pytest.approx(528 * tile + 132 * tile)  # 32 more programs, each drawing its own
    figure = waves.waves()
    figure.plotly()
    assert "64: 0.5 ms, 264: 0.5 ms" in figure.alt
    assert told.waves() is None


def test_waves_are_drawn():
    drawing = journey.wave_drawing()
    assert "320 programs in waves of 264 and 56, 1.24" in drawing.alt
    assert drawing.svg.count("<rect") == 5 and "currentColor" in drawing.svg


def test_without_most_rows_there_are_dashes():
    bare = journey.Journey(Study("journey", H100, [step_row("fused", 8, 1.0)]))
    assert bare.card("masks")[0].rows[3][1] == "–"
    bare.ladder().plotly(), bare.explorer().plotly()
    assert bare.verdict("masks", 8) == "not measured"
    other = Provenance(gpu="GPU of tomorrow", slug="x", date="", command="", python="", torch="")
    unknown = journey.Journey(Study("journey", other, rows()))
    assert unknown.predicted("fused", 8) is None
    unknown.ladder().plotly(), unknown.explorer().plotly(), unknown.table()


@pytest.mark.parametrize("name", [s.name for s in STEPS if s.before and s.regions])
def test_changes_are_those_of_the_files(name):
    text = journey.changes(name).text
    assert any(line.startswith("+") for line in text.splitlines())


def test_small_changes_are_small():
    assert journey.changes("reciprocal", context=0).text.count("\n") == 2
    assert "num_stages=9" in journey.changes("too-deep").text
    assert journey.changes("wide").text.count("rows=128") == 2
    assert journey.changes("pipelined").text.count("num_stages=3") == 2


def test_new_kernels_are_compared_with_all_of_the_step_before():
    for name in ("split", "library"):
        lines = journey.changes(name).text.splitlines()
        assert any(line.startswith("-") for line in lines), name
        kept = [line for line in lines if line.startswith(" ") and listings.APART not in line]
        assert kept, f"{name} shares lines with the step before"
    page = journey.changes("split", folded=True)._repr_html_()
    assert page.startswith("<details><summary>The diff from tiles</summary>")


def test_a_diff_fits_a_phone():
    """Lines may wrap, and what is before them on every line is left out."""
    page = listings.Diff("-        a = 1\n ...\n+            b = 2\n")._repr_html_()
    assert "pre-wrap" in page and ">-a = 1\n<" in page and ">+    b = 2\n<" in page
