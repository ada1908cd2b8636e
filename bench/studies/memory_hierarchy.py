"""What the memory of a GPU can do, level by level; the chapter of that name explains each probe.

Every row has an `experiment` and a `status`: "ok", or "failed" with a `reason` and no times.

| experiment | what is varied | what is found |
|---|---|---|
| ceiling | the kind of access | GB/s of large transfers |
| launch | kernels that do nothing, one after the other | time |
| copy | bytes | time of one copy that starts with a cold L2 |
| working-set | bytes that are read again and again | GB/s with L1 and past it |
| latency | bytes that a pointer chase walks through | ns of one load |
| in-flight | programs and bytes that each has on its way | GB/s |
| stride | distance of the elements | time for the same number of elements |
| transpose | shape of the tile | time of a transposition |
| banks | distance of the words in shared memory | ns of a look-up by all lanes |
| waves | programs | time |
| intensity | multiply-adds for each element | time and rate |
| matmul | size | rate of torch.matmul |
"""

import random
import statistics
import time
from collections.abc import Callable

import torch

from kernels.steps.memory import (
    banks,
    chase,
    copy,
    in_flight,
    intensity,
    read,
    stride,
    transpose,
    waves,
)

from .. import compiled, hardware, occupancy, timing
from ..floor import copy_call
from ..timing import Lane, Sampling

ABOUT = "bandwidth, latency and conflicts of registers, shared memory, L2 and the GPU's memory"
KIND = "experiment"
COLUMNS = {
    "ceiling": "status | kind bytes median_ms GBps",
    "launch": "status | kernels median_ms",
    "copy": "status | bytes median_ms GBps",
    "working-set": "status | path size_bytes per_multiprocessor_bytes bytes median_ms GBps",
    "latency": "status | walk size_bytes steps latency_ns",
    "in-flight": "status | programs program_bytes in_flight_bytes bytes median_ms GBps",
    "stride": "status | stride elements useful_bytes median_ms",
    "transpose": "status | tile bytes median_ms GBps",
    "banks": "status | stride ways steps warp_loads median_ms lookup_ns",
    "waves": "status | programs multiprocessors turns median_ms",
    "intensity": "status | multiply_adds bytes flops median_ms TFLOPps GBps",
    "matmul": "status | n dtype bytes flops median_ms TFLOPps",
}

GIB = 2**30
NEWEST = occupancy.LIMITS["9.0"]
FULL = Sampling(least=7, most=40, budget_s=0.12, warm_up=2)
QUICK = Sampling(least=3, most=15, budget_s=0.04, warm_up=2)


class Bench:
    """The clock and the sizes of one run; each experiment is a method that yields rows."""

    def __init__(self, quick: bool, clock=None, device="cuda", multiprocessors=None):
        self.quick = quick
        self.device = device
        self.sampling = QUICK if quick else FULL
        self.clock = clock or timing.DeviceClock()
        self.sm, self.limits = _multiprocessors() if device == "cuda" else (multiprocessors, NEWEST)
        self.tiny = device == "cpu"  # a rehearsal in the interpreter: nothing measured is kept

    def time(self, call: Callable, **facts) -> dict:
        """Time one call; what it raised becomes the reason of the row."""
        lane = Lane(call)
        timing.race([lane], self.clock, self.sampling)
        if lane.failure is not None or not lane.device_ms:
            return facts | _failed(lane.failure or RuntimeError("no sample"))
        ms = lane.percentile(50)
        times = {"median_ms": ms, "p20_ms": lane.percentile(20), "p80_ms": lane.percentile(80)}
        return facts | {"status": "ok"} | times | {"samples": len(lane.device_ms)} | lane.marks

    def large(self, nbytes: int) -> int:
        """So many bytes, or what fits into a third of the free memory; a power of two."""
        if self.tiny:
            return 2**18
        free = torch.cuda.mem_get_info()[0]
        while nbytes > free / 3:
            nbytes //= 2
        return nbytes

    # -------------------------------------------------------------- bandwidth

    def ceiling(self):
        """Large transfers that do nothing else: the rates that the chapter calls ceilings."""
        size = self.large(GIB) // 4
        x = torch.rand(size, device=self.device)
        y = torch.empty_like(x)
        turns = max(1, size // read.BLOCK // (read.PROGRAMS_PER_MULTIPROCESSOR * self.sm))
        programs = read.PROGRAMS_PER_MULTIPROCESSOR * self.sm
        kinds = {
            "copy, PyTorch": (copy_call(8 * size, self.device), 8 * size),
            "copy, our kernel": (lambda: copy.copy(x, y), 8 * size),
            "read": (lambda: read.read(x, programs, turns), 4 * programs * turns * read.BLOCK),
            "write": (lambda: y.zero_(), 4 * size),
        }
        for kind, (call, nbytes) in kinds.items():
            yield _rate(self.time(call, kind=kind, bytes=nbytes))

    def launch(self):
        """What the clock shows for no kernel, and for kernels of one thread that does nothing."""

        def call(kernels):
            for _ in range(kernels if self.device == "cuda" else 0):
                torch.cuda._sleep(0)

        for kernels in (0, 1, 2, 4, 8):
            yield self.time(lambda n=kernels: call(n), kernels=kernels)

    def copy(self):
        """One copy by the kernel of the book, with a flushed L2, from small to large."""
        most = self.large(GIB)
        # 2^29 are the bytes of `transpose`, which is drawn beside this copy of them.
        powers = (*range(14, 29, 2), 29, 30) if self.quick else range(14, 31)
        sizes = [2**p for p in powers if 2**p <= most]
        x = torch.rand(most // 8, device=self.device)
        y = torch.empty_like(x)
        for nbytes in sizes:
            a, b = x[: nbytes // 8], y[: nbytes // 8]
            if a.numel() >= copy.BLOCK:
                yield _rate(self.time(lambda a=a, b=b: copy.copy(a, b), bytes=nbytes))

    def working_set(self):
        """Read the same bytes again and again, with L1 and past it."""
        programs = read.PROGRAMS_PER_MULTIPROCESSOR * self.sm
        each = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256]
        if self.quick:
            each = [1, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256]
        unit = programs * read.BLOCK * 4  # one block for each program
        limit = self.large(4 * GIB)
        each = [n for n in each if n * unit <= limit][: 2 if self.tiny else None]
        x = torch.rand(each[-1] * programs * read.BLOCK, device=self.device)
        for cache, path in (("", "L1 allowed"), (".cg", "past L1")):
            for blocks in each:
                size = blocks * unit
                turns = max(2 * blocks, 2 if self.tiny else 2 * GIB // unit)
                part = x[: blocks * programs * read.BLOCK]
                row = self.time(
                    lambda part=part, turns=turns, cache=cache: read.read(
                        part, programs, turns, cache
                    ),
                    path=path,
                    size_bytes=size,
                    per_multiprocessor_bytes=size // self.sm,
                    bytes=turns * unit,
                )
                yield _rate(row)

    # ---------------------------------------------------------------- latency

    def latency(self):
        """Nanoseconds of one load of a pointer chase, from the difference of two walks."""
        most = self.large(GIB)
        powers = range(14, 31, 2 if self.quick else 1)
        sizes = [n for p in powers for n in (2**p, 3 * 2 ** (p - 1)) if n <= most]
        if self.quick:
            sizes = [n for n in sizes if n & (n - 1) == 0]
        for walk, chunk in (("anywhere", None), ("by chunks", chase.CHUNK)):
            for size in sizes[: 2 if self.tiny else None]:
                if not (chunk and size < 8 * chunk * 4 * chase.LINE):  # else the same
                    yield self._latency(size, walk, chunk)

    def _latency(self, size: int, walk: str, chunk: int | None) -> dict:
        lines = size // (4 * chase.LINE)
        steps = 2**12 if self.quick else 2**14
        facts = {"walk": walk, "size_bytes": size, "steps": steps}
        # through a set that L1 may hold the walk goes once before it counts
        before = lines if lines <= 2**12 else 64
        if self.tiny:
            steps, before = 4, 2
        try:
            chain = chase.cycle(lines, self.device, chunk)
            short, long = (self._walk_ms(chain, n) for n in (before, before + steps))
        except Exception as problem:
            return facts | _failed(problem)
        if not long > short:
            return facts | _failed(RuntimeError("the longer walk was not slower"))
        return facts | {"status": "ok", "latency_ns": 1e6 * (long - short) / steps}

    def _walk_ms(self, chain, steps: int) -> float:
        """Median of some walks, each from another place, after all of the chain was read once.

        That leaves it in L2, or as much of it as L2 keeps. From the same place each time a walk
        would meet the lines again that the one before it brought there.
        """
        if self.tiny:  # the interpreter's times tell a longer walk only where nothing else runs
            chase.chase(chain, steps)
            return float(steps)
        places = random.Random(steps)
        times = []
        for _ in range(5 if self.quick else 9):
            start = places.randrange(chain.numel() // chase.LINE) * chase.LINE
            chain.sum()
            torch.cuda._sleep(int(0.2 * self.clock.cycles_per_ms))
            self.clock.start.record()
            chase.chase(chain, steps, start)
            self.clock.end.record()
            self.clock.end.synchronize()
            times.append(self.clock.start.elapsed_time(self.clock.end))
        return statistics.median(times[1:])  # the first may have compiled

    def in_flight(self):
        """Bandwidth by how many bytes are on their way at any time."""
        nbytes = self.large(GIB // 4 if self.quick else GIB)
        zeros = torch.zeros(nbytes // 4, dtype=torch.int32, device=self.device)
        counts = [1, 4, 16, 64, *(self.sm * n for n in (1, 2, 4, 8, 16, 32))]
        for block in (256, 1024, 4096):
            held = occupancy.resident(self.limits, in_flight.warps(block))
            fits = [n for n in counts if n <= self.sm * min(held.values())]
            for programs in fits[: 2 if self.tiny else None]:
                most = zeros.numel() // (programs * block)
                steps = min(most, 4 if self.tiny else 512 if self.quick else 1024)
                row = self.time(
                    lambda programs=programs, steps=steps, block=block: in_flight.read_waiting(
                        zeros, programs, steps, block
                    ),
                    programs=programs,
                    program_bytes=4 * block,
                    in_flight_bytes=4 * block * programs,
                    bytes=4 * block * programs * steps,
                )
                yield _rate(row)

    # ------------------------------------------------- what is moved for nothing

    def stride(self):
        """The same number of elements from further and further apart."""
        elements = self.large((GIB // 8) if self.quick else GIB // 4) // 4
        for step in (1, 2, 4, 8, 16, 32):
            try:
                x = torch.zeros(elements * step, device=self.device)
            except torch.cuda.OutOfMemoryError as problem:
                yield {"stride": step, "elements": elements} | _failed(problem)
                continue
            yield self.time(
                lambda x=x, step=step: stride.read_strided(x, step, elements),
                stride=step,
                elements=elements,
                useful_bytes=4 * elements,
            )
            del x

    def transpose(self):
        """A square matrix transposed with tiles of one area and many shapes."""
        n = 128 if self.tiny else 8192
        x = torch.rand(n, n, device=self.device)
        y = torch.empty_like(x)
        yield _rate(self.time(lambda: y.copy_(x), tile="copy", bytes=8 * n * n))
        tiles = [(1, 4096), (2, 2048), (4, 1024), (8, 512), (16, 256), (32, 128), (64, 64)]
        if self.tiny:
            tiles = [(1, 128), (16, 16)]
        for rows, columns in tiles[:: 3 if self.quick else 1]:
            row = self.time(
                lambda rows=rows, columns=columns: transpose.transpose(x, rows, columns, y),
                tile=f"{rows} × {columns}",
                tile_rows=rows,
                tile_columns=columns,
                bytes=8 * n * n,
            )
            yield _rate(row)

    def banks(self):
        """Look-ups in shared memory whose lanes meet in 1 to 32 words of a bank."""
        zeros = torch.zeros(banks.TABLE, dtype=torch.int32, device=self.device)
        steps = 2 if self.tiny else 200
        for step in (1, 2, 3, 4, 8, 16, 31, 32, 33):
            row = self.time(
                lambda step=step: banks.gather(zeros, self.sm, steps, step),
                stride=step,
                ways=ways(step),
                steps=steps,
                warp_loads=banks.READS // 32,
            )
            if row["status"] == "ok":
                row["lookup_ns"] = 1e6 * row["median_ms"] / (steps * row["warp_loads"])
            yield row

    # ---------------------------------------------------- programs and arithmetic

    def waves(self):
        """Time by the number of programs, each of which fills a multiprocessor."""
        turns = 4 if self.tiny else 2000
        quarters = (1, 2, 4) if self.quick else (1, 2, 3, 4)
        counts = {
            wave * self.sm + part
            for wave in range(3 if self.quick else 4)
            for part in [1, *(self.sm * q // 4 for q in quarters)]
        }
        for programs in sorted(counts)[: 2 if self.tiny else None]:
            yield self.time(
                lambda programs=programs: waves.work(programs, turns, self.device),
                programs=programs,
                multiprocessors=self.sm,
                turns=turns,
            )

    def intensity(self):
        """A copy with more and more multiply-adds for each element."""
        size = self.large(GIB) // 8
        x = torch.rand(size, device=self.device)
        y = torch.empty_like(x)
        each = (0, 1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
        for turns in each[:: 2 if self.quick else 1][: 3 if self.tiny else None]:
            row = self.time(
                lambda turns=turns: intensity.copy_and_compute(x, turns, y),
                multiply_adds=turns,
                bytes=8 * size,
                flops=2 * turns * size,
            )
            if row["status"] == "ok":
                row["TFLOPps"] = row["flops"] / row["median_ms"] / 1e9
            yield _rate(row)

    def matmul(self):
        """The rate of PyTorch's matrix product in the dtype of the tensor cores."""
        dtype = torch.float32 if self.tiny else hardware.default_dtype()
        for n in (64,) if self.tiny else (512, 1024, 2048, 4096, 8192):
            a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
            row = self.time(
                lambda a=a, b=b: a @ b,
                n=n,
                dtype=str(dtype).removeprefix("torch."),
                bytes=3 * n * n * a.element_size(),
                flops=2 * n**3,
            )
            if row["status"] == "ok":
                row["TFLOPps"] = row["flops"] / row["median_ms"] / 1e9
            yield row


EXPERIMENTS = {
    "ceiling": Bench.ceiling,
    "launch": Bench.launch,
    "copy": Bench.copy,
    "working-set": Bench.working_set,
    "latency": Bench.latency,
    "in-flight": Bench.in_flight,
    "stride": Bench.stride,
    "transpose": Bench.transpose,
    "banks": Bench.banks,
    "waves": Bench.waves,
    "intensity": Bench.intensity,
    "matmul": Bench.matmul,
}


def measure(quick: bool, say: Callable[[str], None], bench: Bench | None = None) -> list[dict]:
    """All experiments; one that fails leaves a row that says why, and the others go on."""
    bench = bench or Bench(quick)
    if quick and bench.device == "cuda":
        compile_all()
    rows = []
    for name, experiment in EXPERIMENTS.items():
        begin, before = time.perf_counter(), len(rows)
        try:
            rows += ({"experiment": name} | row for row in experiment(bench))
        except Exception as problem:
            rows.append({"experiment": name} | _failed(problem))
        if bench.device == "cuda":
            torch.cuda.empty_cache()
        bad = [row["reason"] for row in rows[before:] if row["status"] != "ok"]
        failed = f", {len(bad)} failed: {bad[0]}" if bad else ""
        say(f"{name}: {len(rows) - before} rows, {time.perf_counter() - begin:.1f} s{failed}")
    return rows


def compile_all() -> None:
    """All experiments side by side on little, for most kernels take longer to compile than to run.

    Nothing that is measured here is kept.
    """
    small = Bench(True, timing.HostClock())
    small.tiny = True
    compiled.at_once([lambda run=run: list(run(small)) for run in EXPERIMENTS.values()])


def ways(step: int, lanes: int = 32, banks_there: int = 32, table: int = banks.TABLE) -> int:
    """In how many turns the lanes of a warp are served that read every `step`-th word.

    A bank hands out one word at a time; lanes that ask for the same word share it.
    """
    words = {lane * step % table for lane in range(lanes)}
    return max(sum(w % banks_there == bank for w in words) for bank in range(banks_there))


def _multiprocessors() -> tuple[int, occupancy.Limits]:
    """How many multiprocessors there are, and what one of them can hold."""
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    limits = occupancy.LIMITS.get(f"{gpu.major}.{gpu.minor}", NEWEST)
    return gpu.multi_processor_count, limits


def _failed(problem: Exception) -> dict:
    reason = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
    return {"status": "failed", "reason": reason[:200]}


def _rate(row: dict) -> dict:
    """The row with its bytes over its time."""
    if row["status"] == "ok":
        row["GBps"] = row["bytes"] / row["median_ms"] / 1e6
    return row
