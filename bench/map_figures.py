"""Figures of attention maps: who looks at whom, and a state that fills."""

from functools import cache

from . import hardware, style, tables, tiny
from .figures import TEMPLATE, Figure, Switch
from .studies import Study, attention_maps
from .studies.attention_maps import unpacked
from .tiny import SOFTMAX

# from nothing, which lets the page through, to the colour of the book's own curve
SCALE = [[0, "rgba(213, 94, 0, 0)"], [0.5, "rgba(213, 94, 0, 0.55)"], [1, "rgb(213, 94, 0)"]]
# The same, with small values stronger: a state begins faint beside what it becomes.
FAINT_TOO = [
    [0, "rgba(213, 94, 0, 0)"], [0.03, "rgba(213, 94, 0, 0.25)"],
    [0.2, "rgba(213, 94, 0, 0.6)"], [1, "rgb(213, 94, 0)"],
]  # fmt: skip
NAMES = {SOFTMAX: "softmax", "elu": "linear, elu + 1", "exp": "linear, exp"}


def _heatmap(cells, words: list[str], hover: str, meta: list, visible: bool, scale=SCALE) -> dict:
    """Cells of 0 to 255; `words` name rows and columns, each behind its number."""
    named = [f"{i} {word}" for i, word in enumerate(words)]
    return {
        "type": "heatmap",
        "z": [[round(100 * c / 255) for c in row] for row in cells],
        "colorscale": scale,
        "zmin": 0,
        "zmax": 100,
        "showscale": False,
        "hovertemplate": hover,
        "meta": meta,
        "visible": visible,
    } | ({"x": named, "y": named} if words else {})


def maps(study: Study) -> Figure | tables.Table:
    """The weights of each head; switches choose task, mixer, head and view."""
    rows = study.select(kind="map", status="ok")
    if not rows:
        return tables.Table(["nothing was measured"], [], study.line)
    tasks, mixers = (list(dict.fromkeys(r[name] for r in rows)) for name in ("task", "mixer"))
    heads = list(dict.fromkeys((r["layer"], r["head"]) for r in rows))
    views = list(dict.fromkeys(r["view"] for r in rows))
    data, alts, numbers = [], {}, {}
    for r in rows:
        at = [
            tasks.index(r["task"]), mixers.index(r["mixer"]),
            heads.index((r["layer"], r["head"])), views.index(r["view"]),
        ]  # fmt: skip
        key = ",".join(map(str, at))
        words = r["tokens"].split(" ")
        hover = "query %{y}, key %{x}: %{z} % of the largest weight<extra></extra>"
        data.append(_heatmap(unpacked(r["map"], r["size"]), words, hover, at, not any(at)))
        facts = [
            ["largest weight", style.number(r["largest"])],
            ["entropy of a query's weights [bits]", style.number(r["entropy_bits"])],
            ["keys that share a query", style.number(2 ** r["entropy_bits"])],
            ["effective rank", style.number(r["rank"])],
        ]
        said = f"{NAMES.get(r['mixer'], r['mixer'])}, layer {r['layer']} head {r['head']}"
        numbers[key] = tables.Table(["", "value"], facts, f"{said}, {r['view']}; {study.line}.")
        alts[key] = (
            f"Weights of {said} on the task {r['task']}, {r['view']}: a query's weights have an "
            f"entropy of {style.number(r['entropy_bits'])} bits; effective rank "
            f"{style.number(r['rank'])} of {r['size']}."
        )
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True, "type": "category"}
    axis |= {"dtick": 1, "tickfont": {"size": 9}}
    layout = {
        "height": 500,
        "template": TEMPLATE,
        "margin": {"l": 64, "r": 12, "t": 8, "b": 72},
        "xaxis": axis | {"title": {"text": "key"}, "constrain": "domain", "tickangle": -90},
        "yaxis": axis
        | {"title": {"text": "query"}, "autorange": "reversed", "scaleanchor": "x"}
        | {"constrain": "domain", "constraintoward": "top"},
    }
    switches = [
        Switch("Task", tasks),
        Switch("Mixer", [NAMES.get(m, m) for m in mixers]),
        Switch("Head", [f"layer {layer}, head {head}" for layer, head in heads]),
        Switch("View", views),
    ]
    source = style.sentence(study.line)
    return Figure(data, layout, alts, switches, numbers, source, unfolded=True)


def anew(task: str, mixer: str, steps: int, temperature: float, causal: bool) -> Figure:
    """The maps of a model that is trained now; the same model is trained once."""
    device = "cuda" if hardware.has_gpu() else "cpu"
    chosen = next(t for t in tiny.tasks() if t.name == task)
    model, fact = _trained(task, mixer, steps, device)
    view = f"{'causal' if causal else 'no mask'}, temperature {temperature:g}"
    options = {"causal": causal, "temperature": temperature}
    tokens = attention_maps.shown(chosen, device)
    rows = attention_maps.maps(chosen, model, tokens, mixer, {view: options})
    about = {"task": task, "mixer": mixer}
    here = Study("attention-maps", hardware.provenance(), [about | r for r in rows], live=True)
    said = f"{style.number(100 * fact['accuracy'])} % right after {steps} steps. "
    figure = maps(here)
    figure.provenance = said + figure.provenance
    return figure


@cache
def _trained(task: str, mixer: str, steps: int, device: str):
    chosen = next(t for t in tiny.tasks() if t.name == task)
    return tiny.train(chosen, mixer, steps, device)


def states(study: Study) -> Figure | tables.Table:
    """|S| of a head after some tokens; switches choose task, mixer and how many tokens.

    The last task comes first: recall, which fills the state with pairs.
    """
    rows = study.select(kind="state", status="ok")
    if not rows:
        return tables.Table(["nothing was measured"], [], study.line)
    tasks, mixers, after = (
        list(dict.fromkeys(r[name] for r in rows)) for name in ("task", "mixer", "after")
    )
    tasks = tasks[::-1]
    reached = [{r["after"] for r in rows if r["task"] == task} for task in tasks]
    after = [n for n in after if all(n in r for r in reached)]  # one text is shorter than others
    rows = [r for r in rows if r["after"] in after]
    largest = {}  # of each model over all its tokens, so that the colours can be compared
    for r in rows:
        key = r["task"], r["mixer"]
        largest[key] = max(largest.get(key, 0.0), r["largest"])
    data, alts = [], {}
    for r in rows:
        at = [tasks.index(r["task"]), mixers.index(r["mixer"]), after.index(r["after"])]
        scale = r["largest"] / (largest[r["task"], r["mixer"]] or 1.0)
        cells = [[c * scale for c in row] for row in unpacked(r["map"], r["size"])]
        hover = "feature %{y}, component %{x}: %{z} % of the largest<extra></extra>"
        data.append(_heatmap(cells, [], hover, at, not any(at), FAINT_TOO))
        alts[",".join(map(str, at))] = (
            f"|S| of {NAMES.get(r['mixer'], r['mixer'])} on the task {r['task']} after "
            f"{r['after']} tokens: largest {style.number(r['largest'])}, effective rank "
            f"{style.number(r['rank'])} of {r['size']}."
        )
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True, "dtick": 8}
    layout = {
        "height": 400,
        "template": TEMPLATE,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 56},
        "xaxis": axis | {"title": {"text": "component of v"}, "constrain": "domain"},
        "yaxis": axis
        | {"title": {"text": "feature of k"}, "autorange": "reversed", "scaleanchor": "x"},
    }
    switches = [
        Switch("Task", tasks),
        Switch("Mixer", [NAMES.get(m, m) for m in mixers]),
        Switch("After", [f"{n} {'token' if n == 1 else 'tokens'}" for n in after]),
    ]
    return Figure(data, layout, alts, switches, {}, style.sentence(study.line))


def trained(study: Study) -> tables.Table:
    """What each model has learned."""
    rows = []
    for r in study.select(kind="trained"):
        if r["status"] != "ok":
            rows.append([r["task"], NAMES.get(r["mixer"], r["mixer"]), "–", "–", r["reason"]])
            continue
        rows.append(
            [
                r["task"],
                NAMES.get(r["mixer"], r["mixer"]),
                style.number(r["loss_last"]),
                style.number(100 * r["accuracy"]),
                style.number(r["seconds"]),
            ]
        )
    columns = ["task", "mixer", "loss [nats]", "right [%]", "trained for [s]"]
    return tables.Table(columns, rows, style.sentence(study.line), words=("mixer",))
