"""The models as terms equal what the book counts elsewhere, and the page's script equals both."""

import json
import math
from dataclasses import replace

import pytest
import torch

from bench import chunks, data_sheets, explorer, fitting, models, results
from bench.ledger import Ledger
from bench.roofline import FORWARD, Shape, ideal_bytes, ideal_flops

SIZES = {"B": 2, "H": 4, "N": 4096, "D": 64, "C": 128, "b": 2}


@pytest.mark.parametrize("name, family", [("tiled", "softmax"), ("linear", "linear")])
def test_ideal_counts(name, family):
    model, shape = models.get(name), Shape(2, 4, 4096)
    assert model.value("flops", **SIZES) == ideal_flops(shape, FORWARD, family)
    assert model.value("moved", **SIZES) == ideal_bytes(shape, FORWARD)


def test_attention_as_defined_is_what_the_ledger_counts():
    model = models.get("defined")
    q, k, v = (torch.empty(2, 4, 4096, 64, dtype=torch.bfloat16, device="meta") for _ in "qkv")
    with Ledger(q, k, v) as book:
        s = q @ k.mT / math.sqrt(64)
        p = torch.softmax(s, -1)
        p @ v
    assert book.flops == model.value("flops", **SIZES)
    assert book.moved == model.value("moved", **SIZES)
    assert book.peak == pytest.approx(model.value("held", **SIZES), rel=0.001)


@pytest.mark.parametrize("C", [16, 64, 1024])
def test_chunks_are_those_of_the_chunk_explorer(C):
    model, cost = models.get("chunks"), chunks.cost(64, C)
    sizes = SIZES | {"C": C}
    tokens = 2 * 4 * 4096
    assert model.value("flops", **sizes) == pytest.approx(tokens * cost.flops)
    assert model.value("moved", **sizes) == pytest.approx(tokens * cost.bytes)


def test_time_is_the_larger_of_both_and_the_fixed_time():
    model = models.get("linear")
    moved, flops = (model.value(w, **SIZES) for w in ("moved", "flops"))
    assert model.least_ms(moved, flops * 10, **SIZES) == 1e3
    assert model.least_ms(moved * 10, flops, 5.0, **SIZES) == 1e3 + 5.0


def test_a_size_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="unknown sizes: M"):
        models.Term(1, M=1)


def test_an_exponent_and_its_interval():
    lengths = [2**i for i in range(9, 17)]
    exact = fitting.exponent(lengths, [3e-9 * n**2 for n in lengths])
    assert exact.value == pytest.approx(2) and exact.low == pytest.approx(exact.high)
    noisy = fitting.exponent(lengths, [n * (1 + 0.3 * (-1) ** i) for i, n in enumerate(lengths)])
    assert noisy.low < 1 < noisy.high and noisy.high - noisy.low > 0.05
    assert str(exact) == "2.00 (2.00 to 2.00)"
    assert fitting.local_exponents([1, 2, 4], [1, 2, 8]) == pytest.approx([1, 2])


@pytest.mark.parametrize(
    "lengths, times", [([1, 2], [1, 2]), ([1, 2, 3], [1, 0, 2]), ([1, 1, 1], [1, 1, 1])]
)
def test_what_cannot_be_fitted_is_refused(lengths, times):
    with pytest.raises(ValueError, match="lengths or more"):
        fitting.exponent(lengths, times)


def test_a_fixed_time_and_a_slope():
    work = [1, 10, 100, 1000]
    fixed, slope = fitting.fixed_and_slope(work, [0.02 + 0.5 * w for w in work])
    assert fixed == pytest.approx(0.02) and slope == pytest.approx(0.5)
    with pytest.raises(ValueError, match="two times"):
        fitting.fixed_and_slope([1], [1])


SHEET = data_sheets.SHEETS[explorer.START_GPU]


def test_the_first_sentence_is_the_crossover():
    words = explorer.Explorer([]).crossover(SHEET)
    number = int("".join(c for c in words if c.isdigit()))
    assert number == pytest.approx(2 * SHEET.matrix / SHEET.bandwidth, rel=0.03)  # N = b R / β
    assert words in explorer.Explorer([])._repr_html_()
    slow = replace(SHEET, bandwidth=SHEET.bandwidth / 1e5)  # bound by bytes at every length
    assert "never" in explorer.Explorer([]).crossover(slow)
    assert "at every length" in explorer.Explorer([], start={"D": 2}).crossover(
        replace(SHEET, matrix=SHEET.matrix / 1e4)
    )


def test_every_rate_of_a_data_sheet_is_within_its_slider():
    for sheet in data_sheets.SHEETS.values():
        for name, rates in (
            ("bandwidth", [sheet.bandwidth]),
            ("rate", [sheet.matrix, sheet.float32]),
        ):
            _, low, high = explorer.HARDWARE[name]
            assert all(low <= math.log10(rate / 1e12) <= high for rate in rates), sheet


@pytest.fixture
def page():
    """A page with the explorer and a Plotly that remembers what it is told."""
    from book_ext.browser import ADVICE, find

    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = find()
    if path is None:
        pytest.skip(ADVICE)
    records = [results.load(name) for name in results.available()]
    shown = explorer.Explorer(records)
    stub = """<script>window.told = {};
    window.Plotly = { update: (p, d, l, i) => { told.update = [d, l, i]; },
                      restyle: (p, d, i) => { told.restyle = [d, i]; } };</script>"""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=False)
        opened = browser.new_page()
        opened.set_content(stub + shown._repr_html_())
        yield opened
        browser.close()


def move(page, name, value):
    page.evaluate(
        """([name, value]) => {
        const x = document.querySelector(`[data-control="${name}"]`);
        x.value = value;
        x.dispatchEvent(new Event("input", { bubbles: true }));
    }""",
        [name, str(value)],
    )


def test_the_script_computes_what_python_computes(page):
    for name, value in {"N": 12, "D": 7, "B": 1, "H": 2, "C": 8, "fixed": 20}.items():
        move(page, name, value)
    move(page, "gpu", "Tesla T4")
    move(page, "b", 4)  # 32 bits: the rate without tensor cores
    sizes = {"D": 128, "B": 2, "H": 4, "C": 256, "b": 4}
    told = page.evaluate("told.update")
    for i, model in enumerate(models.MODELS):
        want = [model.least_ms(0.32e12, 8.1e12, 0.02, **sizes, N=n) for n in explorer.LENGTHS]
        assert told[0]["y"][i] == pytest.approx(want, rel=1e-6), model.name
    for quantity in ("flops", "moved", "held"):
        move(page, "quantity", quantity)
        told = page.evaluate("told.update")
        for i, model in enumerate(models.MODELS):
            want = [model.value(quantity, **sizes, N=n) for n in explorer.LENGTHS]
            assert told[0]["y"][i] == pytest.approx(want, rel=1e-9), (model.name, quantity)
        assert told[1]["yaxis.title.text"] == explorer.QUANTITIES[quantity]


def test_every_control_changes_what_is_drawn(page):
    def drawn():
        return json.dumps(page.evaluate("told.update")) + page.inner_text("table")

    move(page, "N", 13)
    assert said(page) == explorer.Explorer([]).crossover(SHEET)
    changes = {"N": 10, "D": 8, "B": 0, "H": 1, "C": 10, "bandwidth": 0.1, "rate": 2.2}
    changes |= {"fixed": 50, "b": 4, "gpu": "NVIDIA H200", "quantity": "held"}
    for name, value in changes.items():
        before = drawn()
        move(page, name, value)
        assert drawn() != before, name
    move(page, "bandwidth", 0.3)
    assert page.input_value('[data-control="gpu"]') == ""  # no longer that GPU
    rate = page.input_value('[data-control="rate"]')
    move(page, "b", 2)
    assert page.input_value('[data-control="rate"]') == rate, "a rate that was set stays"


def test_points_show_only_where_they_were_measured(page):
    move(page, "N", 13)
    points = page.evaluate("told.restyle")
    assert any(points[0]["visible"])
    move(page, "D", 7)
    assert not any(page.evaluate("told.restyle")[0]["visible"])


def said(page) -> str:
    return page.inner_text(".book-explorer-crossover")


def test_the_crossover_moves_with_the_hardware(page):
    move(page, "gpu", "NVIDIA H100 80GB HBM3")
    model = [m for m in models.MODELS if m.name in ("tiled", "linear")]
    least = next(
        n for n in range(16, 4096)
        if model[1].least_ms(3.35e12, 989e12, B=8, H=8, N=n, D=64, C=64, b=2)
        < model[0].least_ms(3.35e12, 989e12, B=8, H=8, N=n, D=64, C=64, b=2)
    )  # fmt: skip
    number = int("".join(c for c in said(page) if c.isdigit()))
    assert number == pytest.approx(least, rel=0.03)
    move(page, "bandwidth", 1.0)
    assert said(page) != "" and str(number) not in said(page)
