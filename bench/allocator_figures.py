"""Figures of the allocator: bytes held during a call, and the tensors that make the peak."""

from . import contenders, style, tables
from .diagrams import PALETTE
from .figures import LEGEND, MARGIN, TEMPLATE, Figure, Switch
from .studies import Study

MIB = 2**20
WORKS = {"forward": "forward", "forward+backward": "forward + backward"}


def timeline(shown: list[Study], ways: tuple[str, ...]) -> Figure | tables.Table:
    """Bytes held after each event, a curve for each way; switches choose GPU, order and work."""
    gpus = [s.provenance.gpu.removeprefix("NVIDIA ") for s in shown]
    orders, works = ("bidirectional", "causal"), list(WORKS)
    data, alts, numbers = [], {}, {}
    for g, study in enumerate(shown):
        for o, order in enumerate(orders):
            for w, work in enumerate(works):
                key, said, body = f"{g},{o},{w}", [], []
                for way in ways:
                    rows = study.select(way=way, causal=bool(o), work=work, status="ok")
                    if not rows:
                        continue
                    held = [r["held_bytes"] / MIB for r in rows]
                    share = [100 * i / max(1, len(rows) - 1) for i in range(len(rows))]
                    look = style.look(way)
                    label = contenders.label(way)
                    data.append(
                        {
                            "type": "scatter",
                            "mode": "lines",
                            "name": label,
                            "x": share,
                            "y": held,
                            "line": {"color": look.color, "dash": look.dash, "width": 2,
                                     "shape": "hv"},
                            "hovertemplate": f"{label}: %{{y:.4g}} MiB<extra></extra>",
                            "meta": [g, o, w],
                            "visible": not (g or o or w),
                        }
                    )  # fmt: skip
                    said.append(f"{label} {style.number(max(held))} MiB")
                    body.append(
                        [label, *map(style.number, (held[0], max(held), held[-1])), str(len(rows))]
                    )
                alts[key] = f"Largest bytes held, {order}, {WORKS[work]}: {'; '.join(said)}."
                numbers[key] = tables.Table(
                    ["", "before [MiB]", "peak [MiB]", "after [MiB]", "events"], body, study.line
                )
    source = "; ".join(s.line for s in shown)
    if not data:
        return tables.Table(["nothing was measured"], [], source)
    axis = {"showline": True, "zeroline": False, "ticks": "outside"}
    layout = {
        "height": 420,
        "template": TEMPLATE,
        "margin": MARGIN,
        "hovermode": "closest",
        "legend": LEGEND,
        "xaxis": axis | {"title": {"text": "events of the call [%]"}},
        "yaxis": axis | {"title": {"text": "bytes held [MiB]"}, "type": "log"},
    }
    switches = [
        Switch("GPU", gpus),
        Switch("Order", list(orders)),
        Switch("Work", list(WORKS.values())),
    ]
    return Figure(data, layout, alts, switches, numbers, f"{source[0].upper()}{source[1:]}.")


def at_the_peak(study: Study, way: str, causal: bool, work: str, unit: int) -> tables.Table:
    """The tensors that were held when most was held, the largest first, in `unit` bytes."""
    rows = study.select(way=way, causal=causal, work=work, status="ok")
    if not rows:
        return tables.Table(["nothing was measured"], [], study.line)
    peak = max(range(len(rows)), key=lambda i: rows[i]["held_bytes"])
    alive = []  # the allocator takes back by address; of equal sizes the oldest goes first
    for r in rows[1 : peak + 1]:
        if r["bytes"] > 0:
            alive.append(r)
        else:
            same = next((a for a in alive if a["bytes"] == -r["bytes"]), None)
            if same is not None:
                alive.remove(same)
    alive.sort(key=lambda r: -r["bytes"])
    body = [["inputs", style.number(rows[0]["held_bytes"] / unit), "before the call"]]
    body += [
        [f"tensor {r['event'] + 1}", style.number(r["bytes"] / unit), r["where"] or "from C++"]
        for r in alive[:8]
    ]
    rest = sum(r["bytes"] for r in alive[8:])
    if rest:
        body.append(["the rest", style.number(rest / unit), f"{len(alive) - 8} tensors"])
    columns = ["held", "size", "asked for by"]
    caption = f"{contenders.label(way)}, {WORKS[work]}, when most was held; {study.line}."
    return tables.Table(columns, body, caption, words=("asked for by",))


def fits(shown: list[Study], work: str) -> Figure | tables.Table:
    """The longest sequence that fits by the size of the memory; hollow where it is predicted only.

    Of the study `memory`, bidirectional.
    """
    data, alts, numbers, options = [], {}, {}, []
    for study in shown:
        rows = study.select(kind="fits", work=work, causal=False)
        found = [r for r in rows if r["status"] in ("ok", "predicted")]
        if not found:
            continue
        key = len(options)
        said, body = [], []
        for i, way in enumerate(dict.fromkeys(r["contender"] for r in found)):
            mine = [r for r in found if r["contender"] == way]
            label = contenders.label(way)
            color = PALETTE[i % len(PALETTE)]
            n = [r.get("fits_n", r["predicted_n"]) for r in mine]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": label,
                    "x": [r["limit_gib"] for r in mine],
                    "y": n,
                    "line": {"color": color, "width": 2},
                    "marker": {
                        "color": color,
                        "size": 9,
                        "symbol": ["circle" if "fits_n" in r else "circle-open" for r in mine],
                    },
                    "hovertemplate": f"{label}, %{{x}} GiB: %{{y}} tokens<extra></extra>",
                    "meta": [key],
                    "visible": key == 0,
                }
            )
            said.append(f"{label} {n[-1]} tokens in {mine[-1]['limit_gib']} GiB")
            body += [
                [
                    label,
                    str(r["limit_gib"]),
                    str(r["predicted_n"]),
                    str(r.get("fits_n", "not run")),
                ]
                for r in mine
            ]
        options.append(study.provenance.gpu.removeprefix("NVIDIA "))
        alts[str(key)] = f"Longest sequence that fits: {'; '.join(said)}."
        columns = ["", "memory [GiB]", "predicted N", "fits N"]
        numbers[str(key)] = tables.Table(columns, body, study.line)
    source = "; ".join(s.line for s in shown) or "nothing is recorded"
    if not data:
        return tables.Table(["nothing was measured"], [], source)
    axis = {"showline": True, "zeroline": False, "ticks": "outside", "type": "log"}
    sizes = sorted({x for trace in data for x in trace["x"]})
    layout = {
        "height": 420,
        "template": TEMPLATE,
        "margin": MARGIN,
        "legend": LEGEND,
        "xaxis": axis | {"title": {"text": "memory [GiB]"}, "tickvals": sizes,
                         "ticktext": [str(s) for s in sizes]},
        "yaxis": axis | {"title": {"text": "longest N that fits"}},
    }  # fmt: skip
    return Figure(
        data, layout, alts, [Switch("GPU", options)], numbers, f"{source[0].upper()}{source[1:]}."
    )
