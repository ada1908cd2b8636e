"""The weights that a page computes are those that Python computes, at every control."""

import json
import re
import shutil
import subprocess
from itertools import product

import pytest
import torch

from bench import hardware, head_figures, studies, tiny
from bench.studies import attention_maps

GPU = hardware.Provenance("NVIDIA Test", "test", "2026-01-31T00:00:00Z", "", "3.12", "2.11")
STEPS = (7, 2)
# So much of a page as the script asks for: controls by name, and what is said and drawn.
STUB = """
const given = JSON.parse(require("fs").readFileSync(0));
const told = [];
let heard, now;
const plot = {
  setAttribute: (name, text) => { now.alt = text; }, data: [given.trace],
  layout: { xaxis: {}, yaxis: { type: "category" } } };
const text = {}, cells = [{}, {}, {}, {}];
const root = {
  addEventListener: (event, f) => { heard = f; },
  querySelectorAll: () => cells,
  querySelector: (what) => what === "script.book-heads-data" ? { textContent: given.data }
    : what === ".book-plotly" ? plot : /shown|words/.test(what) ? text
    : { value: String(now.choice[/"(.*)"/.exec(what)[1]]) },
};
globalThis.document = { currentScript: { parentElement: root } };
// Not restyle: it forgets that an axis has words, and "3 15" reads as a number.
globalThis.window = { Plotly: { react: (p, [trace], layout) => {
  now.drawn = trace; now.axis = p === plot && layout === plot.layout && layout.yaxis; } } };
eval(given.script);
for (const choice of given.choices) {
  now = { choice }; heard(); told.push({ ...now, cells: cells.map((c) => c.textContent) });
}
console.log(JSON.stringify(told));
"""


@pytest.fixture(scope="module")
def study():
    """Heads of models that nobody has trained: of copy, by three mixers, after some steps."""
    task = next(t for t in tiny.tasks() if t.name == "copy")
    tokens, rows = attention_maps.shown(task, "cpu")[:, :9], []
    ok = {"task": "copy", "status": "ok", "reason": None}
    for mixer, steps in product((tiny.SOFTMAX, "elu", "relu"), STEPS[::-1]):
        torch.manual_seed(steps)
        model = tiny.Tiny(task.vocabulary, 12, mixer, width=16, layers=1)
        model.blocks[0].mixer.project.weight.data *= 9  # so that something is looked at
        about = ok | {"mixer": mixer, "steps": steps}
        rows.append(about | {"kind": "trained", "accuracy": steps / 10})
        rows += [about | {"kind": "head"} | r for r in attention_maps.heads(task, model, tokens)]
    lacking = {"kind": "head", "mixer": "relu", "steps": 2}
    return studies.Study(
        "attention-maps", GPU, [r for r in rows if not lacking.items() <= r.items()]
    )


def test_a_record_without_heads_says_so(study):
    assert isinstance(head_figures.attention(study), head_figures.Heads)
    row = {"kind": "text", "status": "ok", "bytes": 1, "sha256": ""}
    without = studies.Study("attention-maps", GPU, [row])
    assert "nothing was measured" in repr(head_figures.attention(without))


def test_what_was_trained_longest_shows_first(study):
    figure = head_figures.Heads(study)
    assert figure.first() == ("copy", tiny.SOFTMAX, 7, "1,1", "causal", 1.0)
    assert "7 steps, causal, temperature 1: a query" in repr(figure)
    assert "http" not in figure._repr_html_()


def test_the_first_drawing_is_what_the_script_draws(study):
    figure = head_figures.Heads(study)
    text = re.search(r'aria-label.*?<script type="application/json">(.*?)</script>',
                     figure._repr_html_(), re.S)[1]  # fmt: skip
    (trace,) = json.loads(text)["data"]
    assert trace["z"] == figure.told(*figure.first())[0] and max(map(max, trace["z"])) == 100
    assert trace["x"] == trace["y"] == figure.words()["copy"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_computes_what_python_computes(study):
    figure = head_figures.Heads(study)
    data = re.search(r'book-heads-data">(.*?)</script>', figure._repr_html_(), re.S)[1]
    options = figure.choices()
    every = product(*([value for value, _ in o] for _, o in options.values()), (0.25, 1.0, 4.0))
    choices = [dict(zip([*options, "temperature"], values, strict=True)) for values in every]
    trace = {"type": "heatmap"}
    given = {"data": data, "script": head_figures.SCRIPT, "choices": choices, "trace": trace}
    run = subprocess.run(
        ["node", "-e", STUB], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    told = json.loads(run.stdout)
    assert len(told) == 3 * 2 * 2 * 2 * 3
    for one in told:
        cells, numbers, words = figure.told(*one["choice"].values())
        z = one["drawn"]["z"]
        axis = {"type": "category", "autorange": False, "range": [8.5, -0.5]}
        assert one["axis"] == axis and one["drawn"]["type"] == "heatmap"
        assert one["drawn"]["x"] == one["drawn"]["y"] == figure.words()["copy"]
        assert torch.allclose(torch.tensor(z).float(), torch.tensor(cells).float(), atol=1)
        lacking = one["choice"]["mixer"] == "relu" and one["choice"]["steps"] == 2
        assert ("not measured" in words) == lacking == (z == [[]])
        if not lacking:
            found, wanted = ([float(x) for x in numbers_] for numbers_ in (one["cells"], numbers))
            assert found == pytest.approx(wanted, rel=6e-3), one["choice"]
        assert re.sub(r"[\d.]+ bits|rank [\d.]+", "", one["alt"]) == re.sub(
            r"[\d.]+ bits|rank [\d.]+", "", words
        )
    drawn = {}
    for one in told:  # a factor of the queries cancels in relu, and nowhere else
        *key, temperature = one["choice"].values()
        drawn.setdefault(tuple(key), set()).add(json.dumps(one["drawn"]["z"]))
    for key, maps in drawn.items():
        assert len(maps) == (1 if "relu" in key else 3), key
