"""Figures of attention maps: who looks at whom, and a state that fills."""

from functools import cache
from itertools import product

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
NAMES = {
    SOFTMAX: "softmax", "elu": "linear, elu + 1", "exp": "linear, exp", "relu": "linear, relu",
}  # fmt: skip
MASKS = ("causal", "no mask")  # the first is what the models are trained with
TEMPERATURES = (0.25, 4.0, 0.25)  # lowest, highest, step
_AXIS = {"showgrid": False, "zeroline": False, "fixedrange": True, "type": "category"}
_AXIS |= {"dtick": 1, "tickfont": {"size": 9}, "constrain": "domain"}
LAYOUT = {
    "height": 500,
    "template": TEMPLATE,
    "margin": {"l": 64, "r": 12, "t": 8, "b": 72},
    "xaxis": _AXIS | {"title": {"text": "key"}, "tickangle": -90},
    "yaxis": _AXIS
    | {"title": {"text": "query"}, "autorange": "reversed", "scaleanchor": "x"}
    | {"constraintoward": "top"},
}


def heatmap(cells, words: list[str], hover: str, meta: list, visible: bool, scale=SCALE) -> dict:
    """Cells of 0 to 255; `words` name rows and columns, each behind its number."""
    named = [f"{i} {word}" for i, word in enumerate(words)]
    return {
        "type": "heatmap",
        "z": [[round(100 * c / 255) for c in row] for row in cells],
        "colorscale": scale,
        "zmin": 0,
        "zmax": 100,
        "showscale": False,
        "hovertemplate": f"{hover}<extra></extra>",
        "meta": meta,
        "visible": visible,
    } | ({"x": named, "y": named} if words else {})


def facts(largest: float, entropy_bits: float, rank: float) -> list[list[str]]:
    """The numbers below a map, each with its name."""
    return [
        ["largest weight", style.number(largest)],
        ["entropy of a query's weights [bits]", style.number(entropy_bits)],
        ["keys that share a query", style.number(2**entropy_bits)],
        ["effective rank", style.number(rank)],
    ]


def _mask_and_temperature(view: str) -> tuple[str, str]:
    """What a view of the study is: "no mask" → ("no mask", "1")."""
    return MASKS[MASKS[1] in view], view.partition("temperature ")[2] or "1"


def maps(study: Study) -> Figure | tables.Table:
    """The weights of each head; switches choose task, mixer, head, mask and temperature.

    What of these was not measured together draws nothing and says so.
    """
    rows = study.select(kind="map", status="ok")
    if not rows:
        return tables.Table(["nothing was measured"], [], study.line)
    found = {}
    last = {(r["task"], r["mixer"]): r.get("steps") for r in study.select(kind="trained")}
    for r in rows:
        steps = f"{r.get('steps') or last.get((r['task'], r['mixer']), '–')}"
        head = f"layer {r['layer']}, head {r['head']}"
        found[(r["task"], r["mixer"], steps, head) + _mask_and_temperature(r["view"])] = r
    options = [list(dict.fromkeys(place)) for place in zip(*found, strict=True)]
    data, alts, numbers = [], {}, {}
    for at in product(*(range(len(x)) for x in options)):
        chosen = tuple(x[i] for x, i in zip(options, at, strict=True))
        task, mixer, steps, head, mask, temperature = chosen
        key, r = ",".join(map(str, at)), found.get(chosen)
        said = f"{NAMES.get(mixer, mixer)}, {head.replace(',', '')}"
        what = f"{steps} steps, {mask}, temperature {temperature}"
        if r is None:
            alts[key] = f"Weights of {said} on the task {task}, {what}: not measured."
            continue
        hover = "query %{y}, key %{x}: %{z} % of the largest weight"
        words = r["tokens"].split(" ")
        cells = unpacked(r["map"], r["size"])
        data.append(heatmap(cells, words, hover, list(at), not any(at)))
        body = facts(r["largest"], r["entropy_bits"], r["rank"])
        numbers[key] = tables.Table(["", "value"], body, f"{said}, {what}; {study.line}.")
        alts[key] = (
            f"Weights of {said} on the task {task}, {what}: a query's weights have an "
            f"entropy of {body[1][1]} bits; effective rank {body[3][1]} of {r['size']}."
        )
    options[1] = [NAMES.get(m, m) for m in options[1]]
    names = ("Task", "Mixer", "Steps", "Head", "Mask", "Temperature")
    switches = list(map(Switch, names, options))
    source = style.sentence(study.line)
    return Figure(data, LAYOUT, alts, switches, numbers, source, unfolded=True)


def anew(task: str, mixer: str, steps: int, mask: str, temperature: float) -> Figure:
    """The maps of a model that is trained now; the same model is trained once."""
    device = "cuda" if hardware.has_gpu() else "cpu"
    chosen = next(t for t in tiny.tasks() if t.name == task)
    model, fact = _trained(task, mixer, steps, device)
    view = f"{mask}, temperature {temperature:g}"
    options = {"causal": mask == MASKS[0], "temperature": temperature}
    tokens = attention_maps.shown(chosen, device)
    rows = attention_maps.maps(chosen, model, tokens, mixer, {view: options})
    about = {"task": task, "mixer": mixer, "steps": steps}
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
    told = {n: f"{n} {'token' if n == 1 else 'tokens'}" for n in after}
    for r in rows:
        at = [tasks.index(r["task"]), mixers.index(r["mixer"]), after.index(r["after"])]
        scale = r["largest"] / (largest[r["task"], r["mixer"]] or 1.0)
        cells = [[c * scale for c in row] for row in unpacked(r["map"], r["size"])]
        hover = "feature %{y}, component %{x}: %{z} % of the largest"
        data.append(heatmap(cells, [], hover, at, not any(at), FAINT_TOO))
        alts[",".join(map(str, at))] = (
            f"|S| of {NAMES.get(r['mixer'], r['mixer'])} on the task {r['task']} after "
            f"{told[r['after']]}: largest {style.number(r['largest'])}, effective rank "
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
        Switch("After", [*told.values()]),
    ]
    return Figure(data, layout, alts, switches, {}, style.sentence(study.line))


def trained(study: Study) -> tables.Table:
    """What each model has learned, in how many steps."""
    rows = []
    for r in study.select(kind="trained"):
        name = NAMES.get(r["mixer"], r["mixer"])
        if r["status"] != "ok":
            rows.append([r["task"], name, *4 * ["–"], r["reason"]])
            continue
        numbers = r["loss_last"], 100 * r["accuracy"], r["seconds"]
        rows.append([r["task"], name, str(r["steps"]), *map(style.number, numbers), ""])
    columns = ["task", "mixer", "steps", "loss [nats]", "right [%]", "trained for [s]", ""]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return tables.Table(columns, rows, style.sentence(study.line), words=("mixer", ""))
