"""Every kernel at every configured tile, compiled for every GPU that it is meant for.

    python -m tests.kernels.compile_all               # all of them: hours on two cores
    python -m tests.kernels.compile_all 86 float32    # one GPU, one dtype

No GPU is needed, see `ahead`. Faults are: a program that takes more shared memory than it may have,
a kernel that keeps more than WORDS in memory for want of registers ("stack") and is not named in
SPILLS, and one that is named there and does not. Another Triton than TRITON places registers
otherwise: what spills there is told, and no fault.
"""

import argparse
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
# bytes that ptxas gives up to come down to a number of registers with which one more program fits
WORDS = {"bfloat16": 16, "float16": 16, "float32": 8}
TRITON = "3.7"  # whose compiler SPILLS is of
# What spills all the same: GPUs, dtype, kernel, (features, values) of its tile.
AMPERE = (80, 86, 89)
KNOWN = [
    # A warp holds whole rows of φ(q) and of its gradient, in float32, beside a state. Narrower
    # values would need less, but write dq once more for each tile, in float32.
    (AMPERE, "bfloat16", "backward_query_kernel", [(128, 64), (128, 128)]),
    (AMPERE, "bfloat16", "backward_query_kernel", [(256, 16), (256, 32), (256, 64)]),
    (AMPERE, "float16", "backward_query_kernel", [(128, 64), (256, 16), (256, 32)]),
    ((100,), "bfloat16", "backward_query_kernel", [(128, 16), (128, 32), (128, 64), (128, 128)]),
    ((100,), "bfloat16", "backward_query_kernel", [(256, 16), (256, 32), (256, 64)]),
    # Heads of 256 features, of which a tile has few rows already.
    (AMPERE, "bfloat16", "backward_key_kernel", [(256, 16)]),
    (AMPERE, "float16", "backward_key_kernel", [(256, 16)]),
    (AMPERE, "float16", "causal_backward_key_kernel", [(256, 16), (256, 32)]),
    (AMPERE, "float16", "decay_backward_key_kernel", [(256, 16), (256, 32)]),
    ((86, 89), "float16", "short_kernel", [(256, 16)]),
    ((80,), "float16", "causal_backward_key_kernel", [(128, 64)]),
    ((100,), "bfloat16", "backward_key_kernel", [(256, 16), (256, 32)]),
    ((100,), "bfloat16", "decay_backward_key_kernel", [(256, 64)]),
    # With less than 64 rows Blackwell's tensor cores do not take their sums from their own memory.
    ((100,), "bfloat16", "causal_output_kernel", [(128, 32)]),
    ((100,), "bfloat16", "causal_backward_query_kernel", [(128, 16), (128, 32)]),
    ((100,), "bfloat16", "decay_backward_key_kernel", [(128, 32), (128, 64), (128, 128)]),
    # On an H100 bfloat16 tiles were chosen by measurement, and narrow ones once gave wrong results:
    # others would have to be measured and checked there. So they would for float16, and on sm_100.
    ((90,), "bfloat16", "short_kernel", [(128, 64), (256, 64)]),
    ((90,), "bfloat16", "backward_query_kernel", [(128, 64), (128, 128), (256, 64)]),
    ((90,), "bfloat16", "causal_output_kernel", [(128, 128), (256, 64)]),
    ((90,), "bfloat16", "causal_backward_query_kernel", [(256, 64)]),
    ((90,), "bfloat16", "causal_backward_key_kernel", [(64, 64), (128, 128), (256, 64)]),
    ((90,), "bfloat16", "decay_chained_kernel", [(None, None)]),  # with 1 / d for a backward pass
    ((90,), "bfloat16", "decay_output_kernel", [(128, 128), (256, 64)]),
    ((90,), "bfloat16", "decay_backward_query_kernel", [(64, 64), (128, 64), (128, 128)]),
    ((90,), "bfloat16", "decay_backward_key_kernel", [(64, 64), (128, 64), (128, 128), (256, 64)]),
    ((90,), "float16", "short_kernel", [(64, 64)]),
    ((90, 100), "float16", "short_kernel", [(128, 128), (256, 64)]),
    ((90, 100), "float16", "backward_query_kernel", [(128, 128), (256, 64)]),
    ((90, 100), "float16", "causal_output_kernel", [(256, 64)]),
    ((90, 100), "float16", "causal_backward_key_kernel", [(64, 64), (128, 128), (256, 64)]),
    ((90, 100), "float16", "decay_output_kernel", [(256, 64)]),
    ((90, 100), "float16", "decay_backward_key_kernel", [(64, 64), (128, 128), (256, 64)]),
]
SPILLS = {
    (arch, dtype, kernel, *size)
    for archs, dtype, kernel, sizes in KNOWN
    for arch in archs
    for size in sizes
}
WIDTHS = (256, 128, 64, 32, 16)  # of heads: the powers of two that they are padded to
RAGGED, WHOLE = 1000, 1024  # rows: the last tile is not full, or all are and need no mask

PROGRAM = "import compile_all, json, sys; compile_all.compile_for(*map(json.loads, sys.argv[1:]))"


def compile_for(arch: int, dtype: str, shapes: list) -> None:
    """In a process of its own: prints a row for each form of each kernel, as JSON.

    shapes: of (D, Dv, rows).
    """
    import torch

    rows = []
    ahead.compile_launches(arch, lambda *form: rows.append(_row(arch, dtype, *form)), once=True)

    from kernels import (
        bidirectional,
        causal,
        chained,
        configs,
        decay,
        decay_backward,
        decay_chained,
        decode,
        short,
    )

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
            inverse = sums = torch.zeros(2, 2, N)
            given = q, k, v, sums, state[None], torch.zeros_like(q), state
            decay_chained.forward(*given, inverse, state, 1, "elu", 1e-6)
        o, after, kept = causal.forward(q, k, v, **forward, save=True)
        causal.backward(q, k, v, state, after, kept, o, state, **options, eps=1e-6)
        g = torch.zeros(2, 2, N)
        o, _, inverse = decay.forward(q, k, v, state, None, g, True, "elu", True, 1.0, 1e-6, True)
        decay_backward.backward(
            q, k, v, state, None, g, o, inverse, o, state, True, "elu", True, 1.0
        )
        token = [x[:, :, 0] for x in (q, k, v)]
        for decayed in (None, g[:, :, 0]):
            decode.step(*token, kv, z, decayed, "elu", True, 1.0, 1e-6)
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
    """(D, Dv, rows) that together give every kernel every tile, each at the widest heads it has."""
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
    """What breaks a rule, and what spills without that."""
    import triton

    listed = triton.__version__.startswith(f"{TRITON}.")
    wrong, noted = [], []
    compiled, spilled = set(), set()
    for r in rows:
        what = f"sm_{r['arch']} {r['dtype']} {r['kernel']} {r['tile']}"
        if r["shared"] > SHARED[r["arch"]] * 1024:
            wrong.append(f"{what}: {r['shared'] / 1024:.1f} KiB, has {SHARED[r['arch']]}")
        if not r["registers"] or r["stack"] is None:
            wrong.append(f"{what}: nobody knows its registers")
            continue
        _, features, values, *_ = r["tile"]
        form = (r["arch"], r["dtype"], r["kernel"].split()[0], features, values)
        compiled.add(form)
        if r["stack"] > WORDS[r["dtype"]]:
            spilled.add(form)
            where = noted if form in SPILLS or not listed else wrong
            where.append(f"{what}: {r['stack']} bytes of stack")
    gone = SPILLS & compiled - spilled if listed else ()
    wrong += [f"{form} is in SPILLS, and spills no more" for form in gone]
    return wrong, noted


def chosen(word: str) -> str:
    if word not in (*map(str, SHARED), *DTYPES):
        gpus = ", ".join(map(str, SHARED))
        raise argparse.ArgumentTypeError(
            f"{word!r} is none of the GPUs {gpus} nor of the dtypes {', '.join(DTYPES)}"
        )
    return word


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels.compile_all", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "only",
        nargs="*",
        type=chosen,
        help="GPUs, as 86 for sm_86, and dtypes; all if there is none",
    )
    only = parser.parse_args(arguments).only
    archs = [int(x) for x in only if x not in DTYPES] or list(SHARED)
    dtypes = [x for x in only if x in DTYPES] or DTYPES
    jobs = [(arch, dtype, shapes_of(arch, dtype)) for arch in archs for dtype in dtypes]
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (arch, dtype, _), rows in zip(jobs, pool.map(lambda j: rows_of(*j), jobs), strict=True):
            wrong, noted = faults(rows)
            found += wrong
            print(f"sm_{arch} {dtype}: {len(rows)} forms, {len(wrong)} faults", *wrong, sep="\n  ")
            print(f"  {len(noted)} known spills", *noted, sep="\n    ", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
