"""The kernels of the chapter "Introduction to Triton": times beside floors, and compiled code.

Rows are told apart by the column `part`:

- `vector-add`, `softmax`, `matmul`: Triton and PyTorch over sizes; `floor_ms` is a copy of as many
  bytes as the operation has to move
- `blocks`, `aligned`, `warps`, `tiles`, `order`, `programs`: one setting of a kernel is varied
- `sums`: three ways to add a vector, with the number of different results of many runs
- `races`: how many updates survive when programs change one number, or what others read
- `code`, `stage`: size and instruction mix of the compiled kernels, and excerpts of their text
- `failed`: a part that did not come to its end, and why
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from kernels.steps.basics import matmul, race, reduction, softmax, vector_add

from .. import compiled, floor, hardware, runner, timing
from ..runner import one_line
from . import in_parts

ABOUT = "first Triton kernels: times and floors, tiles, warps and stages, and their compiled code"
RACED = "bytes status reason median_ms? | median_ms floor_ms spread"
TIMED = "status reason median_ms? | median_ms spread TFLOPps"
KIND = "part"
COLUMNS = {
    "races": "which expected least most",
    "vector-add": f"contender n {RACED}",
    "blocks": f"block num_warps n {RACED}",
    "aligned": f"aligned loads n registers {RACED}",
    "softmax": f"contender R C {RACED}",
    "warps": f"C num_warps registers local shared {RACED}",
    "tiles": f"side BLOCK_M BLOCK_N BLOCK_K num_warps num_stages {TIMED}",
    "matmul": f"contender side tile bytes {TIMED}",
    "order": f"side group {TIMED}",
    "sums": f"contender n programs? runs distinct error {RACED}",
    "programs": f"programs n {RACED}",
    "code": "kernel num_warps registers local shared",
    "stage": "kernel stage text",
}

FULL = timing.Sampling(least=5, most=40, budget_s=0.08, warm_up=2)
QUICK = timing.Sampling(least=3, most=12, budget_s=0.03, warm_up=1)
FULL_S, QUICK_S = 56.0, 12.0  # after these seconds no further measurement is begun
EXCERPTS = {
    "ttir": r"tt\.get_program_id|tt\.load|tt\.store|arith\.addf|tt\.dot ",
    "ttgir": r"^#\w+|tt\.load|tt\.store|arith\.addf|warp_group_dot |tt\.dot |async_copy_global",
    "ptx": r"ld\.global\S*|st\.global\S*|add\.f32|wgmma\.mma_async|mma\.sync|cp\.async\.c\S*",
    "sass": r"LDG\.\S*|STG\.\S*|FADD|HGMMA|HMMA|LDGSTS",
}


@dataclass
class Watch:
    """What all parts share: the clock, how many samples, and how long they may go on."""

    clock: object
    sampling: timing.Sampling
    quick: bool
    end: float
    device: str = "cuda"
    most: int = 2**62  # elements of a tensor; less only where a test runs this without a GPU
    best: dict = field(default_factory=dict)  # the fastest setting that `tiles` found

    def fit(self, n: int) -> int:
        return min(n, self.most)

    def side(self, n: int) -> int:
        """Of a square matrix: a quarter on a GPU for which Triton makes no tensor-core code."""
        return min(n // 4 if old() else n, math.isqrt(self.most))

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def times(self, calls: dict[str, Callable]) -> dict[str, dict]:
        """Race the calls; for each of them the columns of a row."""
        return runner.times(calls, self.clock, self.sampling)

    def beside_copy(self, calls: dict[str, Callable], moved: int) -> list[tuple[str, dict]]:
        """The same beside a copy that moves `moved` bytes in all."""
        found = self.times({**calls, "copy": floor.copy_call(moved, self.device)})
        least = found.pop("copy").get("median_ms")
        return [(name, {"bytes": moved, **row, "floor_ms": least}) for name, row in found.items()]


def wrong(got, want, tolerance: float) -> str | None:
    """What the gate says against a result; NaN does not pass it."""
    want = want.double()
    error = ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()
    return None if error <= tolerance else f"relative error {error:.2g}"


def refused(reason: str) -> dict:
    return {"status": "wrong", "reason": reason, "median_ms": None}


def measure(quick: bool, say: Callable[[str], None]) -> list[dict]:
    """All parts, each of which may fail without the others."""
    begin = time.monotonic()
    end = begin + (QUICK_S if quick else FULL_S)
    watch = Watch(timing.DeviceClock(), QUICK if quick else FULL, quick, end)
    return in_parts((compile_all, *PARTS) if quick else PARTS, watch, say, begin)


QUICK_BLOCKS = ((64, 4), (256, 4), (1024, 4), (4096, 4), (1024, 1), (1024, 16))
QUICK_GROUPS = (1, 8)
QUICK_ROWS, QUICK_WARPS = (256, 1024, 4096, 16384), (1, 4, 16)


def compile_all(watch: Watch):
    """Launch on little what the quick form measures, for compiling takes longer; no rows."""
    x = torch.ones(2**14, device=watch.device)
    a, b = factors(watch.side(512), watch)
    adds = [partial(vector_add.add, x, x, block=n, num_warps=w) for n, w in QUICK_BLOCKS]
    rows = [partial(softmax.softmax, x.view(-1, n)) for n in QUICK_ROWS]
    warped = [
        partial(softmax.softmax, x.view(-1, n), num_warps=w)
        for n in WARPED
        for w in QUICK_WARPS
    ]  # fmt: skip
    products = [
        partial(matmul.matmul, a, b, tile=tile, num_warps=w, num_stages=s)
        for tile, w, s in settings(watch)
    ]
    sums = [partial(reduction.one_program, x), partial(reduction.two_stage, x, 8)]
    compiled.at_once([*products, *adds, *rows, *warped, *sums])
    return ()


# ------------------------------------------------------------------------------- the four kernels


def vector_adds(watch: Watch):
    """Triton and PyTorch over n, float32."""
    exponents = (12, 16, 20, 24, 27) if watch.quick else (12, 14, 16, 18, 20, 22, 24, 26, 27)
    for n in sorted({watch.fit(2**e) for e in exponents}):
        x, y, out = (torch.randn(n, device=watch.device) for _ in range(3))
        reason = wrong(vector_add.add(x, y), x + y, 1e-6)
        calls = {
            "triton": lambda x=x, y=y, out=out: vector_add.add(x, y, out),
            "torch": lambda x=x, y=y, out=out: torch.add(x, y, out=out),
        }
        for name, row in watch.beside_copy(calls, 12 * n):
            row |= refused(reason) if reason and name == "triton" else {}
            yield {"part": "vector-add", "contender": name, "n": n, **row}


def blocks(watch: Watch):
    """The block and the warps of the vector sum, and a start that is no multiple of 16 bytes."""
    n = watch.fit(2**25)
    x, y, out = (torch.randn(n + 1, device=watch.device) for _ in range(3))
    head = [t[:n] for t in (x, y, out)]
    wanted = [(b, 4) for b in (64, 128, 256, 512, 1024, 2048, 4096, 8192)]
    wanted += [(1024, w) for w in (1, 2, 8, 16, 32)]
    if watch.quick:
        wanted = QUICK_BLOCKS
    calls = {
        f"{b}/{w}": lambda b=b, w=w: vector_add.add(*head, block=b, num_warps=w) for b, w in wanted
    }
    found = watch.beside_copy(calls, 12 * n)
    for (block, num_warps), (_, row) in zip(wanted, found, strict=True):
        yield {"part": "blocks", "block": block, "num_warps": num_warps, "n": n, **row}
    for aligned in (True, False):
        tensors = head if aligned else [t[1:] for t in (x, y, out)]
        with compiled.caught(vector_add.add_kernel) as ran:
            vector_add.add(*tensors)
        found = compiled.describe(ran[0])
        loads = [f"{n} {o}" for o, n in sorted(found.opcodes().items()) if o.startswith("LDG")]
        call = {"add": lambda tensors=tensors: vector_add.add(*tensors)}
        ((_, row),) = watch.beside_copy(call, 12 * n)
        yield {"part": "aligned", "aligned": aligned, "loads": ", ".join(loads), "n": n,
               "registers": found.registers, **row}  # fmt: skip


def softmaxes(watch: Watch):
    """Triton, PyTorch and five separate steps over the length of a row, float32."""
    total = watch.fit(2**26)
    lengths = QUICK_ROWS if watch.quick else tuple(2**e for e in range(7, 17))
    for C in (*lengths, 1000):
        x = torch.randn(max(1, total // C), C, device=watch.device)
        out = torch.empty_like(x)
        reason = wrong(softmax.softmax(x), torch.softmax(x.double(), -1), 1e-5)
        calls = {
            "triton": lambda x=x, out=out: softmax.softmax(x, out),
            "torch": lambda x=x: torch.softmax(x, -1),
            "naive": lambda x=x: softmax.naive(x),
        }
        for name, row in watch.beside_copy(calls, 8 * x.numel()):
            row |= refused(reason) if reason and name == "triton" else {}
            yield {"part": "softmax", "contender": name, "R": x.shape[0], "C": C, **row}


WARPED = (1024, 8192)  # elements of a row


def warps(watch: Watch):
    """num_warps of the row softmax, for a short and a long row."""
    for C in WARPED:
        x = torch.randn(max(1, watch.fit(2**25) // C), C, device=watch.device)
        out = torch.empty_like(x)
        counts = QUICK_WARPS if watch.quick else (1, 2, 4, 8, 16, 32)
        facts = {}
        for w in counts:
            with compiled.caught(softmax.softmax_kernel) as ran:
                softmax.softmax(x, out, num_warps=w)
            facts[w] = size(compiled.describe(ran[0], sass=False))
        calls = {w: lambda w=w, x=x, out=out: softmax.softmax(x, out, num_warps=w) for w in counts}
        for w, row in watch.beside_copy(calls, 8 * x.numel()):
            yield {"part": "warps", "C": C, "num_warps": w, **facts[w], **row}


def size(found: compiled.Compiled) -> dict:
    return {"registers": found.registers, "local": found.local, "shared": found.shared}


def old() -> bool:
    """A GPU for which Triton makes no tensor-core code: everything is smaller and slower."""
    return torch.cuda.get_device_capability() < (8, 0)


TILES = (32, 32, 32), (64, 64, 32), (128, 128, 64), (128, 256, 64)
QUICK_TILES = (
    *((tile, w, s) for tile in TILES[:3] for w, s in ((4, 1), (4, 3), (8, 3))),
    *((TILES[3], 8, s) for s in (1, 3)),  # with four warps it spills
)


def multiprocessors() -> int:
    return torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count


def factors(side: int, watch: Watch):
    """Two random square matrices."""
    dtype = hardware.default_dtype()
    return [torch.randn(side, side, device=watch.device).to(dtype) for _ in range(2)]


def settings(watch: Watch) -> list[tuple]:
    """(tile, num_warps, num_stages) of the sweep."""
    if old():
        tiles = ((16, 16, 16), (32, 32, 16), (32, 32, 32), (64, 64, 16))
        return [(tile, w, s) for tile in tiles for w in (4, 8) for s in (1, 2)]
    if watch.quick:
        return list(QUICK_TILES)
    pairs = [(TILES[0], 4), *((tile, w) for tile in TILES[1:] for w in (4, 8))]
    return [(tile, w, s) for tile, w in pairs for s in (1, 2, 3, 4)]


def tiles(watch: Watch):
    """Tiles, warps and stages of the matrix product at one size."""
    side = watch.side(4096)
    a, b = factors(side, watch)
    out = torch.empty_like(a)
    want = a @ b
    flops = 2 * side**3
    least = float("inf")
    for tile, w, s in settings(watch):
        options = {"tile": tile, "num_warps": w, "num_stages": s}
        row = {"part": "tiles", "side": side, "BLOCK_M": tile[0], "BLOCK_N": tile[1],
               "BLOCK_K": tile[2], "num_warps": w, "num_stages": s}  # fmt: skip
        try:
            with compiled.caught(matmul.matmul_kernel) as ran:
                out.fill_(float("nan"))
                matmul.matmul(a, b, out, **options)
        except Exception as problem:  # more shared memory than there is
            yield {**row, "status": "failed", "reason": one_line(problem), "median_ms": None}
            continue
        row |= size(compiled.describe(ran[0], sass=False))
        reason = wrong(out, want, 1e-2)
        if reason:
            yield {**row, **refused(reason)}
            continue
        call = {"matmul": lambda options=options: matmul.matmul(a, b, out, **options)}
        row |= watch.times(call)["matmul"]
        ms = row["median_ms"]
        yield {**row, "TFLOPps": ms and flops / ms / 1e9}
        if ms and ms < least:
            least, watch.best = ms, options


def products(watch: Watch):
    """The fastest tile against PyTorch, over the size of the matrices."""
    best = watch.best
    sides = (512, 2048, 4096) if watch.quick else (256, 512, 1024, 2048, 4096, 8192)
    tile = "×".join(map(str, best.get("tile", matmul.TILE)))
    for side in sorted({watch.side(s) for s in sides}):
        a, b = factors(side, watch)
        out = torch.empty_like(a)
        reason = wrong(matmul.matmul(a, b, **best), a @ b, 1e-2)
        calls = {
            "triton": lambda a=a, b=b, out=out: matmul.matmul(a, b, out, **best),
            "torch": lambda a=a, b=b, out=out: torch.matmul(a, b, out=out),
        }
        for name, row in watch.beside_copy(calls, 3 * a.nbytes):
            row |= refused(reason) if reason and name == "triton" else {}
            ms = row["median_ms"]
            yield {"part": "matmul", "contender": name, "side": side, "tile": tile, **row,
                   "TFLOPps": ms and 2 * side**3 / ms / 1e9}  # fmt: skip


def orders(watch: Watch):
    """The order in which programs take tiles, for matrices larger than the L2."""
    side = watch.side(8192)
    a, b = factors(side, watch)
    out = torch.empty_like(a)
    groups = QUICK_GROUPS if watch.quick else (1, 2, 4, 8, 16, 64)
    calls = {g: lambda g=g: matmul.matmul(a, b, out, group=g, **watch.best) for g in groups}
    for group, row in watch.times(calls).items():
        ms = row["median_ms"]
        yield {"part": "order", "side": side, "group": group, **row,
               "TFLOPps": ms and 2 * side**3 / ms / 1e9}  # fmt: skip


def sums(watch: Watch):
    """The sum of a vector in three ways, and over the number of programs."""
    n = watch.fit(2**26)
    x = torch.randn(n, device=watch.device)
    many = 8 * multiprocessors()
    want = x.double().sum()
    scale = x.double().norm()  # a sum of n numbers with mean 0 is about as large as this
    ways = {
        "one program": lambda: reduction.one_program(x),
        "atomic": lambda: reduction.atomic(x, many),
        "two stages": lambda: reduction.two_stage(x, many),
        "torch": lambda: x.sum(),
    }
    runs = 20 if watch.quick else 100
    facts = {}
    for name, call in ways.items():
        again = 3 if name == "one program" else runs
        results = torch.stack([call().reshape(()) for _ in range(again)])
        error = ((results.double() - want).abs().max() / scale).item()
        facts[name] = {"runs": again, "distinct": results.unique().numel(), "error": error}
    for name, row in watch.beside_copy(ways, 4 * n):
        row |= {} if facts[name]["error"] <= 1e-4 else refused("the sum is wrong")
        programs = {"one program": 1, "torch": None}.get(name, many)
        yield {"part": "sums", "contender": name, "n": n, "programs": programs, **facts[name],
               **row}  # fmt: skip
    counts = (1, 8, 64, 512, 4096) if watch.quick else tuple(2**e for e in range(14))
    counts = [p for p in counts if p <= n // 64]  # not more programs than there is work for
    calls = {p: lambda p=p: reduction.two_stage(x, p) for p in counts}
    for p, row in watch.beside_copy(calls, 4 * n):
        yield {"part": "programs", "programs": p, "n": n, **row}


# -------------------------------------------------------------------- what goes wrong, and the code


def races(watch: Watch):
    """What is left of updates that programs make at the same time."""
    programs = watch.fit(10_000)
    for atomic in (False, True):
        found = [race.count(programs, atomic, watch.device).item() for _ in range(9)]
        yield {"part": "races", "which": "counter, atomic" if atomic else "counter",
               "expected": programs, "least": min(found), "most": max(found)}  # fmt: skip
    n = watch.fit(2**20)
    x = torch.arange(n, device=watch.device, dtype=torch.float32) % 1000
    want = torch.cat([x[:1], x[1:] - x[:-1]])
    for in_place in (True, False):
        right = []
        for _ in range(9):
            source = x.clone()
            out = source if in_place else torch.full_like(x, float("nan"))
            right.append(int((race.difference(source, out) == want).sum()))
        yield {"part": "races", "which": "difference in place" if in_place else "difference",
               "expected": n, "least": min(right), "most": max(right)}  # fmt: skip


def code(watch: Watch):
    """Size, instructions and excerpts of the compiled kernels."""
    x, y = (torch.randn(2**16, device=watch.device) for _ in range(2))
    a, b = factors(512, watch)
    launches = {
        "vector add": (vector_add.add_kernel, lambda: vector_add.add(x, y)),
        "softmax": (softmax.softmax_kernel, lambda: softmax.softmax(x.view(64, 1024))),
        "matmul": (matmul.matmul_kernel, lambda: matmul.matmul(a, b, **watch.best)),
        "sum": (reduction.sum_kernel, lambda: reduction.one_program(x)),
    }
    for name, (kernel, launch) in launches.items():
        with compiled.caught(kernel) as ran:
            launch()
        found = compiled.describe(ran[0])
        lines = {f"{s}_lines": found.lines(s) for s in compiled.STAGES}
        mix = found.mix() if "sass" in found.stages else {}
        yield {"part": "code", "kernel": name, "num_warps": found.num_warps, **size(found),
               **lines, **mix}  # fmt: skip
        if name in ("vector add", "matmul"):
            for stage, pattern in EXCERPTS.items():
                text = found.excerpt(stage, pattern)
                if text:
                    yield {"part": "stage", "kernel": name, "stage": stage, "text": text}


PARTS = (
    races, vector_adds, softmaxes, sums, tiles, code, products, orders, blocks, warps
)  # fmt: skip
