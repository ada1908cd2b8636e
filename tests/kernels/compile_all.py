"""Every kernel at every configured tile, compiled for every GPU that it is meant for.

    python -m tests.kernels.compile_all               # all of them: most of an hour on two cores
    python -m tests.kernels.compile_all 86 float32    # one GPU, one dtype

No GPU is needed, see `ahead`. A program that takes more shared memory than it may have is a fault,
and so are float32 kernels that keep more than WORDS in memory for want of registers ("stack"). Half
precisions that do so are listed: what that costs, only a GPU can tell.
"""

import itertools
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import ahead  # noqa: E402

# KiB of shared memory that one program may have
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227}
DTYPES = ("bfloat16", "float16", "float32")
WORDS = 8  # bytes that ptxas sets aside to come down to a round number of registers, such as 64
WIDTHS = (16, 32, 64, 128, 256)  # of heads: the powers of two that they are padded to
RAGGED, WHOLE = 1000, 1024  # rows: the last tile is not full, or all are and need no mask

PROGRAM = "import compile_all, json, sys; compile_all.compile_for(*map(json.loads, sys.argv[1:]))"


def compile_for(arch: int, dtype: str, shapes: list) -> None:
    """In a process of its own: prints a row for each form of each kernel, as JSON.

    shapes: of (D, Dv, rows).
    """
    import torch

    rows = []
    ahead.compile_launches(arch, lambda *form: rows.append(_row(arch, dtype, *form)), once=True)

    from kernels import bidirectional, causal, chained, configs, decode, short

    configs.SHORT = configs.SHARED = 0
    configs.hardware = lambda device: (arch, 100)
    for D, Dv, N in shapes:
        q, k = (torch.zeros(2, 2, N, D, dtype=getattr(torch, dtype)) for _ in range(2))
        v = torch.zeros(2, 2, N, Dv, dtype=q.dtype)
        state, kv, z = torch.zeros(2, 2, D * Dv + D), torch.zeros(2, 2, D, Dv), torch.zeros(2, 2, D)
        options = {"cu_seqlens": None, "feature_map": "elu", "normalize": True, "scale": 1.0}
        forward = {**options, "eps": 1e-6, "initial": state}
        o, after = bidirectional.forward(q, k, v, **forward)
        bidirectional.backward(q, k, v, state, after, o, state, **options, eps=1e-6)
        for is_causal in (False, True):
            for configs.SHORT in (0, N):  # sums shared, and not
                short.forward(q, k, v, state, is_causal, "elu", True, 1.0, 1e-6, True)
        configs.SHORT = 0
        if arch == 90 and dtype == "bfloat16" and D == Dv == 64:
            chained.forward(q, k, v, state, "elu", True, 1.0, 1e-6, True)
        o, after, kept = causal.forward(q, k, v, **forward, save=True)
        causal.backward(q, k, v, state, after, kept, o, state, **options, eps=1e-6)
        token = (x[:, :, 0] for x in (q, k, v))
        decode.step(*token, kv, z, None, "elu", True, 1.0, 1e-6)
    print(json.dumps(rows))


def _row(arch, dtype, name, values, options, kernel) -> dict:
    """What a form of a kernel takes; its tile is None where it has none."""
    from bench import compiled

    made = compiled.describe(kernel, sass=False)
    sizes = [values.get(n) for n in ("BLOCK_N", "BLOCK_D", "BLOCK_DV")]
    flags = [n for n in ("CAUSAL", "WEIGHTED", "PREFIX", "FULL") if values.get(n)]
    return {
        "arch": arch,
        "dtype": dtype,
        "kernel": " ".join([name.split(".")[-1], *flags]),
        "tile": [*sizes, options.get("num_warps"), options.get("num_stages")],
        "shared": made.shared,
        "registers": made.registers,
        "stack": made.local,
    }


def shapes_of(arch: int, dtype: str, lengths=(RAGGED, WHOLE)) -> list:
    """(D, Dv, rows) that together give every kernel every tile, no two the same ones."""
    import torch

    from kernels import configs

    names = sorted({"step_kernel", *(name for name, _ in configs.HOPPER)})
    found = {}
    for D, Dv, N in itertools.product(WIDTHS, WIDTHS, lengths):
        tiles = [configs.tile(name, D, Dv, getattr(torch, dtype), arch) for name in names]
        found.setdefault((N, *tiles), (D, Dv, N))
    return list(found.values())


def rows_of(arch: int, dtype: str, shapes: list) -> list[dict]:
    """The rows of `compile_for`, from a process of its own."""
    return ahead.run(PROGRAM, arch, dtype, shapes)


def faults(rows: list[dict]) -> tuple[list[str], list[str]]:
    """What breaks a rule, and what is worth a line all the same."""
    wrong, noted = [], []
    for r in rows:
        what = f"sm_{r['arch']} {r['dtype']} {r['kernel']} {r['tile']}"
        if r["shared"] > SHARED[r["arch"]] * 1024:
            wrong.append(f"{what}: {r['shared'] / 1024:.1f} KiB, has {SHARED[r['arch']]}")
        if not r["registers"] or r["stack"] is None:
            wrong.append(f"{what}: nobody knows its registers")
        elif r["stack"]:
            where = wrong if r["dtype"] == "float32" and r["stack"] > WORDS else noted
            where.append(f"{what}: {r['stack']} bytes of stack")
    return wrong, noted


def main(archs, dtypes) -> int:
    jobs = [(arch, dtype, shapes_of(arch, dtype)) for arch in archs for dtype in dtypes]
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (arch, dtype, _), rows in zip(jobs, pool.map(lambda j: rows_of(*j), jobs), strict=True):
            wrong, noted = faults(rows)
            found += wrong
            print(f"sm_{arch} {dtype}: {len(rows)} forms, {len(wrong)} faults", *wrong, sep="\n  ")
            print(f"  {len(noted)} with a stack", *noted, sep="\n    ", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(
        main(
            [int(x) for x in given if x.isdigit()] or list(SHARED),
            [x for x in given if not x.isdigit()] or DTYPES,
        )
    )
