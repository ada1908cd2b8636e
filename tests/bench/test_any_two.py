"""Any two contenders are divided as their names say, in Python and by the page's script."""

import json
import re
import shutil
import subprocess
from itertools import product

import plotly.graph_objects as go
import pytest

from bench import contenders, hardware, studies
from bench.any_two import SCRIPT, AnyTwo
from bench.roofline import FORWARD

# So much of a page as the script asks for: controls by name, and what is said and drawn.
STUB = """
const given = JSON.parse(require("fs").readFileSync(0));
const told = [];
let heard, now;
const plot = { setAttribute: (name, text) => { now.alt = text; } };
const words = {};
const root = {
  addEventListener: (event, f) => { heard = f; },
  querySelector: (what) => what === "script.book-pair-data" ? { textContent: given.data }
    : what === ".book-plotly" ? plot : what === ".book-pair-words" ? words
    : { value: String(now.choice[/"(.*)"/.exec(what)[1]]) },
};
globalThis.document = { currentScript: { parentElement: root } };
globalThis.window = { Plotly: { restyle: (p, d, i) => { now.drawn = d; } } };
eval(given.script);
for (const choice of given.choices) { now = { choice }; heard(); told.push(now); }
console.log(JSON.stringify(told));
"""


AT = (8, 8, 64, "bidirectional", "bfloat16", FORWARD)  # what is asked for, as any_two.AT
REST = {"H": 8, "D": 64, "dtype": "bfloat16"}


@pytest.fixture
def field(record):
    """The whole field on the same GPU: two lengths, and a contender that the record lacks."""
    row = {"B": 8, "causal": False, "work": FORWARD, "status": "ok", **REST}
    times = {"book": (1.0, 2.0), "flash-bla": (3.0, 8.0), "loop": (None, 5.0)}
    rows = [
        row | {"contender": name, "N": n, "median_ms": ms}
        for name, both in times.items()
        for n, ms in zip((4096, 65536), both, strict=True)
        if ms
    ]
    gpu = hardware.Provenance(record.provenance.gpu, "test", "2026-01-31T00:00:00Z", "", "", "")
    return studies.Study("contenders", gpu, rows)


def test_what_shows_first_is_a_valid_figure_and_loads_nothing(record, field):
    figure = AnyTwo([record], [field])
    go.Figure(figure.spec()["data"], figure.spec()["layout"])
    page = figure._repr_html_()
    assert (
        "http" not in page and page.count("<label hidden") == 4
    )  # of one GPU, and one H, D and dtype
    assert (
        "Time of SDPA cuDNN / This book (Triton), B = 8, H = 8, D = 64, bidirectional, bfloat16"
        in repr(figure)
    )
    assert AnyTwo([])._repr_html_() == "<p>Nothing was measured.</p>"


def test_two_are_divided_as_their_names_say(record):
    figure, shape = AnyTwo([record]), {"B": 8, "causal": False, "work": FORWARD}
    assert set(figure.names) == set(record.contenders())
    for first, second in product(figure.names, figure.names):
        x, y, _ = figure.ratios(first, second, 0, *AT)
        assert len(x) == (2 if "sdpa-flash" in (first, second) else 3)
        for n, ratio in zip(x, y, strict=True):
            ms = [record.one(contender=c, N=n, **shape).median_ms for c in (first, second)]
            assert ratio == pytest.approx(ms[1] / ms[0], rel=1e-3)


def test_both_times_are_of_one_race(record, field):
    at = (0, *AT)
    figure = AnyTwo([record], [field])
    assert {"flash-bla", "loop"} < set(figure.names)
    assert figure.ratios("book", "flash-bla", *at) == (
        [4096, 65536], [3.0, 4.0], "the race of the whole field"
    )  # fmt: skip
    assert figure.ratios("book", "loop", *at)[0] == [65536]
    assert len(figure.ratios("book", "eager", *at)[0]) == 3  # from the record
    assert figure.ratios("eager", "flash-bla", *at)[0] == [], "they have not raced each other"


def test_no_ratio_is_of_unsteady_times(record, shake):
    case = ("book", "eager", 0, *AT)
    assert AnyTwo([record]).ratios(*case)[0]
    for who in case[:2]:
        assert AnyTwo([shake(record, who)]).ratios(*case) == ([], [], "")
    assert AnyTwo([shake(record, "sdpa-cudnn")]).ratios(*case)[0]


def test_a_field_of_another_gpu_is_left_out(record, make_record, field):
    other = make_record(gpu="Another")
    assert "loop" not in AnyTwo([other], [field]).names
    figure = AnyTwo([other, record], [field])
    assert figure.ratios("book", "loop", 1, *AT)[1] == [2.5]
    assert figure.ratios("book", "loop", 0, *AT)[1] == []


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_says_and_draws_what_python_does(record, make_record, field):
    figure = AnyTwo([record, make_record(gpu="Another")], [field])
    data = re.search(r'book-pair-data">(.*?)</script>', figure._repr_html_(), re.S)[1]
    options = figure.choices()
    every = product(*([value for value, _ in found] for _, found in options.values()))
    choices = [dict(zip(options, values, strict=True)) for values in every]
    given = json.dumps({"data": data, "script": SCRIPT, "choices": choices})
    run = subprocess.run(
        ["node", "-e", STUB], input=given, capture_output=True, text=True, check=True
    )
    told = json.loads(run.stdout)
    assert len(told) == len(choices) and told[0]["alt"] == figure.alt()
    for one in told:
        first, second, *at = one["choice"].values()
        x, y, _ = figure.ratios(first, second, *at) if first != second else ([], [], "")
        assert one["drawn"]["x"] == [x] and one["drawn"]["y"][0] == pytest.approx(y)
        a, b = contenders.label(first), contenders.label(second)
        assert f"{b} / {a}" in one["alt"] and ("not measured" in one["alt"]) == (
            not x and first != second
        )
    assert len({one["alt"] for one in told}) == len(told)  # no two choices say the same
