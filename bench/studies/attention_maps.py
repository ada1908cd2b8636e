"""Attention maps of small models that are trained here: softmax and linear, on three tasks.

Rows of kind "trained" have a model's loss and accuracy, for each number of steps; rows of kind
"head" the queries and keys of a head of it on one text, from which a page computes its weights with
any mask and temperature. Of the model that was trained longest, rows of kind "map" say the entropy
and rank of these weights, and rows of kind "state" have |S| of a head of a linear mixer after some
tokens, as a string of 8-bit numbers in base 64, row by row, 255 for the largest. A row of kind
"text" says which text was read: its bytes, and a hash of them.
"""

import base64
import sys
import time
from array import array

import torch

from kernels.feature_maps import FEATURE_MAPS

from .. import tiny
from ..runner import one_line

ABOUT = "attention maps of small trained models: text, copying and recall, softmax and linear"
KIND = "kind"
COLUMNS = {
    "text": "status reason | bytes sha256",
    "trained": "task mixer status reason | steps seconds accuracy parameters",
    "head": "task mixer status reason | steps layer head tokens size width q k q_largest k_largest",
    "map": "task mixer status reason | layer head view tokens size largest entropy_bits rank",
    "state": "task mixer status reason | after size largest rank map",
}

KINDS = (tiny.SOFTMAX, "elu", "exp", "relu")
STEPS, QUICK_STEPS = (50, 150, 700), (50, 150)
SHOWN = 32  # tokens of a map
VIEWS = {
    "causal": {},
    "no mask": {"causal": False},
    "temperature 2": {"temperature": 2.0},
    "temperature 1/2": {"temperature": 0.5},
}
STATE_AT = (1, 2, 4, 8, 12, 16, 24, 32)
DEVICE = "cuda"


def measure(quick: bool, say) -> list[dict]:
    """Rows for each task and mixer; one that fails says why."""
    text = {"bytes": len(tiny.text()), "sha256": tiny.fingerprint()}
    rows = [{"kind": "text", "status": "ok", "reason": None, **text}]
    for task in tiny.tasks():
        for kind in KINDS:
            about = {"task": task.name, "mixer": kind}
            try:
                rows += [about | row for row in trained(task, kind, quick)]
                right = [f"{r['accuracy']:.2f}" for r in rows if about.items() <= r.items()
                         and r["kind"] == "trained"]  # fmt: skip
                say(f"{task.name}, {kind}: accuracy {', '.join(right)}")
            except Exception as problem:
                reason = one_line(problem)
                rows.append(about | {"kind": "trained", "status": "failed", "reason": reason})
                say(f"{task.name}, {kind}: {reason}")
    return rows


def trained(task, kind: str, quick: bool) -> list[dict]:
    """The facts and heads of models by their steps; of the last the weights and a state."""
    ok, rows = {"status": "ok", "reason": None}, []
    for steps in QUICK_STEPS if quick else STEPS:
        begin = time.perf_counter()
        model, fact = tiny.train(task, kind, steps, DEVICE)
        seconds = time.perf_counter() - begin
        rows.append({"kind": "trained", **ok, "steps": steps, "seconds": seconds, **fact})
        tokens = shown(task, DEVICE)
        rows += [{"kind": "head", **ok, "steps": steps, **r} for r in heads(task, model, tokens)]
    found = maps(task, model, tokens, kind, VIEWS)
    rows += [{name: x for name, x in row.items() if name != "map"} for row in found]
    if kind != tiny.SOFTMAX:
        rows += [{"kind": "state", **ok, **row} for row in states(model, tokens, kind)]
    return rows


def heads(task, model, tokens) -> list[dict]:
    """The queries and keys [N, D] of each head on some tokens [1, N], in 16 bits."""
    words, rows = said(task, tokens), []
    for layer, pair in enumerate(model.queries_and_keys(tokens), 1):
        for head in range(pair[0].shape[1]):
            row = {"layer": layer, "head": head + 1, "tokens": words, "size": tokens.shape[1]}
            for name, x in zip("qk", pair, strict=True):
                row["width"] = x.shape[-1]
                row[name], row[f"{name}_largest"] = packed_16(x[0, head].cpu())
            rows.append(row)
    return rows


def said(task, tokens) -> str:
    """The tokens [1, N] as words."""
    return " ".join(task.show(int(t)) for t in tokens[0])


def shown(task, device: str):
    """The tokens [1, SHOWN] of which maps are made."""
    tokens, _ = task.draw(1, torch.Generator(device).manual_seed(7))
    return tokens[:, :-1][:, :SHOWN]


def maps(task, model, tokens, kind: str, views: dict) -> list[dict]:
    """Rows with the weights of each head on some tokens [1, N]; `views` as VIEWS."""
    words, rows = said(task, tokens), []
    for layer, pair in enumerate(model.queries_and_keys(tokens), 1):
        q, k = (x.cpu() for x in pair)  # hundreds of small maps: a GPU takes longer
        for head in range(q.shape[1]):
            for view, options in views.items():
                w = tiny.weights(q[0, head], k[0, head], kind, **options)
                rows.append(
                    {
                        "kind": "map", "status": "ok", "reason": None, "layer": layer,
                        "head": head + 1, "view": view, "tokens": words, "size": len(w),
                        "largest": w.max().item(), "entropy_bits": tiny.entropy(w),
                        "rank": tiny.effective_rank(w), "map": packed(w),
                    }
                )  # fmt: skip
    return rows


@torch.no_grad()
def states(model, tokens, kind: str) -> list[dict]:
    """|S| [D, D] of the first head of the last layer after some of the tokens."""
    block = model.blocks[-1]
    x = model.embed(tokens) + model.place[: tokens.shape[1]]
    for before in model.blocks[:-1]:
        x = before(x)
    _, k, v = block.mixer.queries_keys_values(block.mixed(x))
    k, v = (x[0, 0].cpu().double() for x in (k, v))
    fk = FEATURE_MAPS[kind](k)
    found = []
    for t in [t for t in STATE_AT if t <= len(fk)]:
        s = fk[:t].mT @ v[:t]
        found.append(
            {
                "after": t, "size": len(s), "largest": s.abs().max().item(),
                "rank": tiny.effective_rank(s), "map": packed(s.abs()),
            }
        )  # fmt: skip
    return found


def packed(x) -> str:
    """A matrix of numbers from 0 on as 8-bit numbers in base 64."""
    scaled = (255 * x / x.max().clamp_min(1e-30)).round().to(torch.uint8)
    return base64.b64encode(bytes(scaled.flatten().tolist())).decode()


def unpacked(text: str, size: int) -> list[list[int]]:
    """The rows of a packed matrix, 0 to 255."""
    flat = base64.b64decode(text)
    if len(flat) % size:
        raise ValueError(f"{len(flat)} numbers are no rows of {size}")
    return [list(flat[i : i + size]) for i in range(0, len(flat), size)]


def packed_16(x) -> tuple[str, float]:
    """A matrix as 16-bit numbers in base 64, lowest byte first, and its largest magnitude."""
    largest = x.abs().max().clamp_min(1e-30).item()
    scaled = (32767 / largest * x.double()).round().flatten().to(torch.int16)
    return base64.b64encode(scaled.numpy().astype("<i2").tobytes()).decode(), largest


def unpacked_16(text: str, largest: float, width: int):
    """The matrix [N, width] in float64."""
    flat = array("h", base64.b64decode(text))
    if sys.byteorder == "big":
        flat.byteswap()
    return torch.tensor(flat, dtype=torch.float64).unflatten(0, (-1, width)) * (largest / 32767)
