"""Causal linear attention from C = 1 to C = N: the chunk size is all that changes.

Three forms of one function, in PyTorch unless said otherwise:

- `at-once`: all chunks side by side, `bench.eager.causal_attention`. The states before all chunks
  come from a prefix sum and lie in memory together.
- `in-turn`: the same products, one chunk after another; one state is kept.
- `kernel`: the book's own kernel, whose chunk size is that of its tile.

The row `copy` moves the bytes of q, k, v and o and computes nothing.
"""

import time

import torch

from kernels import configs, linear_attention

from .. import eager, floor, gate, hardware, roofline, truth
from ..runner import columns, one_line
from ..timing import FULL, QUICK, DeviceClock, Lane, race

ABOUT = "time and memory of causal linear attention over the chunk size, at one shape"
COLUMNS = "form B H N D dtype chunk? status reason | median_ms spread"

B, H, N = 1, 8, 16384
CHUNKS = tuple(2**i for i in range(15))  # 1 … N
FULL_S, QUICK_S = 50.0, 10.0  # after these seconds no further row is begun
LINEAR = truth.Function("linear")


# [in-turn:begin]
def in_turn(q, k, v, chunk: int, eps: float = 1e-6):
    """One chunk after another, with one state in float32; [B, H, N, D] → [B, H, N, Dv]."""
    q, k = eager.F.elu(q) + 1, eager.F.elu(k) + 1
    s = q.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1], dtype=torch.float32)
    z = q.new_zeros(*k.shape[:2], k.shape[-1], 1, dtype=torch.float32)
    out = []
    for qc, kc, vc in zip(*(x.split(chunk, -2) for x in (q, k, v)), strict=True):
        weights = (qc @ kc.mT).tril()  # [B, H, C, C]
        above = weights @ vc + qc @ s.to(q.dtype)  # [B, H, C, Dv]
        below = weights.sum(-1, keepdim=True) + qc @ z.to(q.dtype)
        out.append(above / (below + eps))
        s = s + kc.mT @ vc
        z = z + kc.sum(-2).unsqueeze(-1)
    return torch.cat(out, -2)
    # [in-turn:end]


def forms(dtype: torch.dtype, quick: bool) -> list[tuple[str, int, int | None]]:
    """(form, D, chunk) of every row, those that can go wrong last."""
    chunks = CHUNKS
    if quick:  # all around the least time, and the ends
        chunks = [c for c in CHUNKS if 16 <= c <= 1024 or c in (1, 4, 4096, N)]
    sizes = (64, 128) if quick else (64, 32, 128)
    shortest = 256 if quick else 16  # each turn of the loop costs launches
    rows = []
    for D in sizes:
        rows.append(("copy", D, None))
        if dtype == torch.bfloat16:  # before sm_80 the operator runs no kernel
            rows.append(("kernel", D, _tile_rows(D, dtype)))
        rows += [("at-once", D, c) for c in chunks if c > 1]
    rows += [("in-turn", 64, c) for c in chunks[::-1] if c >= shortest]
    return rows + [("at-once", D, 1) for D in sizes]


def _tile_rows(D: int, dtype: torch.dtype) -> int:
    arch, _ = configs.hardware(torch.device("cuda"))
    return configs.tile("causal_output_kernel", D, D, dtype, arch).rows


def measure(quick: bool, say) -> list[dict]:
    """A row for each form, head size and chunk size; one that did not run says why."""
    dtype = hardware.default_dtype()
    if dtype == torch.float16:
        dtype = torch.float32  # the denominator would pass the range of float16
    name = str(dtype).removeprefix("torch.")
    clock, sampling = DeviceClock(), QUICK if quick else FULL
    deadline = time.perf_counter() + (QUICK_S if quick else FULL_S)
    rows, inputs = [], {}
    for form, D, chunk in forms(dtype, quick):
        shape = roofline.Shape(B, H, N, D, D, name, causal=True)
        row = {"form": form, "B": B, "H": H, "N": N, "D": D, "dtype": name, "chunk": chunk}
        if time.perf_counter() > deadline:
            fact = {"status": "skipped", "reason": "the time of this study was over"}
        else:
            try:
                if D not in inputs:
                    inputs[D] = _inputs(shape, dtype)
                fact = _measure(form, shape, chunk, *inputs[D], clock, sampling)
            except Exception as problem:
                fact = {"status": "failed", "reason": one_line(problem)}
        rows.append(row | fact)
        torch.cuda.empty_cache()
        ms = fact.get("median_ms")
        say(f"{form}, D = {D}, C = {chunk}: {f'{ms:.3f} ms' if ms else fact['reason']}")
    return rows


def _inputs(shape: roofline.Shape, dtype: torch.dtype):
    """q, k, v and the truth in float64."""
    generator = torch.Generator("cuda").manual_seed(0)
    size = (shape.B, shape.H, shape.N, shape.D)
    q, k, v = (torch.randn(size, generator=generator, device="cuda").to(dtype) for _ in "qkv")
    return (q, k, v), truth.compute(LINEAR, shape, q, k, v)


def call_of(form: str, q, k, v, chunk: int | None):
    """The call that a row times, without gradients."""
    run = {
        "kernel": lambda: linear_attention(q, k, v, causal=True),
        "at-once": lambda: eager.causal_attention(q, k, v, chunk=chunk),
        "in-turn": lambda: in_turn(q, k, v, chunk),
    }[form]
    return torch.no_grad()(run)


def _measure(form, shape, chunk, tensors, true, clock, sampling) -> dict:
    """Gate, peak memory and time of one row."""
    fact = {"status": "ok", "reason": None}
    if form == "copy":
        call = floor.copy_call(roofline.ideal_bytes(shape, roofline.FORWARD))
    else:
        call = call_of(form, *tensors, chunk)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        o = call()
        torch.cuda.synchronize()
        fact["peak_MiB"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        verdict = gate.judge({"o": o}, true, shape.dtype)
        del o
        fact["error"] = verdict.error
        if not verdict.ok:
            return fact | {"status": "wrong", "reason": verdict.reason}
    lane = Lane(call)
    race([lane], clock, sampling)
    return fact | columns(lane)
