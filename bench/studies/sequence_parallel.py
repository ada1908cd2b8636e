"""One sequence over several GPUs: how much faster, and what crosses between them.

Every GPU of the machine is a rank, in a process of its own; under `torchrun`, its processes are the
ranks, also on several machines. Rows, by `what`:

- `machine`: how many GPUs, which, and how they are joined.
- `exchange`: a collective operation alone, of `bytes` from each rank: those of the states of the
  heads here, and more of them. `agreement` is the header that the hosts exchange.
- `gate`: a sequence in uneven pieces against float64, forward and backward.
- `call`: a sequence of N tokens on so many `ranks`. `way` is "one-gpu" (`linear_attention`), or
  says how `sequence_parallel_attention` is called: "no-overlap" is as it comes, "both" with
  overlap and the check of the header, "no-check" with overlap and without that check.
  `device_ms` is the largest of the ranks' times between two events, taken after a barrier of the
  GPUs and with the hosts ahead; `eager_ms` the time of a call in a row of calls, the median of a
  few rows.
- `piece`: the same call on a group of one rank, which has nobody to exchange anything with; its
  `way` is "both", and there is nothing to overlap. On a machine with one GPU this is all there is
  to measure, and it takes fewer lengths.

`sent_bytes` is what a rank sends in the call: its states, forward and backward.
"""

import json
import os
import sys
import tempfile
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from kernels import agreement, linear_attention, reference, sequence_parallel_attention

from .. import gate, hardware
from ..errors import BenchError
from ..runner import one_line

ABOUT = "one sequence on one GPU and on several: time, what is exchanged, and the exchange alone"
KIND = "what"
COLUMNS = {
    "machine": "ranks gpus status",
    "exchange": "op ranks bytes host_us status",
    "gate": "ranks causal N status reason error",
    "call": "ranks N causal work way status | device_ms eager_ms",
    "piece": "ranks N causal work way status | device_ms eager_ms",
}
GPUS = 2  # with fewer there is little to record

H, D = 8, 64
SIZE = D * D + D  # numbers of one state
LENGTHS = tuple(2**i for i in range(16, 25))  # 64K … 16M tokens
COMPARED = LENGTHS[::2]  # in every way
QUICK_LENGTHS = LENGTHS[2:5:2]
SENT = tuple(4 * H * SIZE * 8**i for i in range(4))  # bytes of each rank in an exchange: 130 KiB …
GATED = 2**16  # tokens
PIECES = (0.31, 0.5, 0.19)  # of a rank, in turn, and then made to add up
WAYS = {
    "both": {"overlap": True}, "no-overlap": {}, "no-check": {"overlap": True, "check": False},
}  # fmt: skip
AS_IT_COMES = "no-overlap"  # the way to call it at lengths that are not compared
LIMIT_S, ALONE_LIMIT_S = 140.0, 30.0  # with several GPUs, and with one
QUICK_S = 20.0
SAMPLES, QUICK_SAMPLES = 15, 5
IN_A_ROW, FEW = 10, 2  # calls, of which the time of one is taken; where one takes long
ROWS = 5  # of calls, of which the median is taken
PATIENCE_S = 120.0  # for which a rank waits for the others


def measure(quick: bool, say) -> list[dict]:
    """All rows; in quick form two lengths and one way."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:  # torchrun started this process
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        rows = work(rank, ranks, None, quick, "cuda", say)
        if rows is None:
            raise SystemExit(0)  # rank 0 has all rows
        return rows
    ranks = torch.cuda.device_count()
    if ranks == 1:  # this process can be the one rank
        with tempfile.TemporaryDirectory() as folder:
            return work(0, 1, folder, quick, "cuda", say)
    return spawned(ranks, quick, "cuda")


def spawned(ranks: int, quick: bool, device: str, entry=None) -> list[dict]:
    """The rows of `ranks` processes on this machine, as far as they got; `entry` is for tests."""
    with tempfile.TemporaryDirectory() as folder:
        problem = None
        try:
            torch.multiprocessing.spawn(
                entry or _spawned, (ranks, folder, quick, device), nprocs=ranks
            )
        except Exception as error:
            problem = one_line(error)
        lines = Path(folder, "rows")
        rows = [json.loads(x) for x in lines.read_text().splitlines()] if lines.exists() else []
    if not rows:
        raise BenchError(f"The ranks of this study measured nothing: {problem}.")
    if problem:
        rows.append({"what": "ranks", "status": "failed", "reason": problem})
    return rows


def _spawned(rank, ranks, folder, quick, device):
    work(rank, ranks, folder, quick, device, lambda text: print(text, file=sys.stderr, flush=True))


def work(rank, ranks, folder, quick, device, say) -> list[dict] | None:
    """What one rank does; rank 0 returns the rows, and writes them into the folder if there is one.

    `device` is "cuda", or "cpu" for tests.
    """
    local = int(os.environ.get("LOCAL_RANK", rank))
    if device == "cuda":
        torch.cuda.set_device(local)
        device = torch.device("cuda", local)
    store = dist.FileStore(f"{folder}/store", ranks) if folder else None
    dist.init_process_group(
        "gloo" if device == "cpu" else "nccl", store=store,
        rank=rank, world_size=ranks, timeout=timedelta(seconds=PATIENCE_S),
    )  # fmt: skip
    rows = []
    try:
        for row in Ranks(rank, ranks, torch.device(device), quick).rows():
            if rank == 0:
                rows.append(row)
                say(describe(row))
                if folder:
                    with open(f"{folder}/rows", "a") as to:
                        print(json.dumps(row), file=to)
    finally:
        dist.destroy_process_group()
    return rows if rank == 0 else None


def describe(row: dict) -> str:
    """One line of progress."""
    names = ("what", "way", "op", "ranks", "N", "causal", "work", "bytes", "status", "reason",
             "device_ms", "eager_ms", "device_us", "host_us", "error")  # fmt: skip
    return ", ".join(f"{n} {row[n]}" for n in names if row.get(n) is not None)


class Ranks:
    """What all ranks do together; each of them runs `rows`, and the same lines of it."""

    def __init__(self, rank, world, device, quick):
        self.rank, self.world, self.device, self.quick = rank, world, device, quick
        self.on_gpu = device.type == "cuda"
        limit = QUICK_S if quick else LIMIT_S if world > 1 else ALONE_LIMIT_S
        self.deadline = time.monotonic() + limit
        self.hosts = dist.new_group(list(range(world)), backend="gloo")
        # ranks 0 to n - 1, for every power of two n and for all
        counts = sorted({*(2**i for i in range(world.bit_length()) if 2**i <= world), world})
        self.groups = {n: dist.new_group(list(range(n))) for n in counts}
        self.samples = QUICK_SAMPLES if quick else SAMPLES
        if self.on_gpu:
            l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
            self.buffer = torch.empty(4 * l2_bytes, dtype=torch.uint8, device=device)

    def rows(self):
        """All rows, in the order in which they are measured."""
        yield self.machine()
        for part in (self.exchanges, self.gates, self.calls):
            yield from part()

    # --- what the ranks tell each other ---------------------------------------------------------

    def all(self, value) -> list:
        """The value of every rank."""
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.hosts)
        return values

    @property
    def over(self) -> bool:
        """Whether one rank's time is over: the same answer on every rank."""
        return any(self.all(time.monotonic() > self.deadline))

    # --- clocks ---------------------------------------------------------------------------------

    def synchronize(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def device_times(self, call, n) -> tuple[float, float]:
        """Median and spread of the largest of n ranks' times, in ms.

        The hosts get ahead while the GPUs are held, and a small all-reduce lets all of them go.
        """
        group, host_ms, times = self.groups[n], 1.0, []
        token = torch.zeros(1, device=self.device)
        for i in range(self.samples + 2):
            dist.barrier(self.hosts)
            if self.rank >= n:
                continue
            if self.on_gpu:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self.buffer.zero_()
                torch.cuda._sleep(int((0.3 + 2 * min(host_ms, 10.0)) * 1.7e6))
                if n > 1:
                    dist.all_reduce(token, group=group)
                start.record()
            begin = time.perf_counter()
            call()
            host = (time.perf_counter() - begin) * 1e3
            host_ms = host if i else 1.0  # the first call compiles
            if self.on_gpu:
                end.record()
                end.synchronize()
                host = start.elapsed_time(end)
            if i > 1:  # two were to warm up
                times.append(host)
        times = np.array([t for t in self.all(times) if t])  # [n, samples]
        largest = times.max(axis=0)
        low, middle, high = (float(np.percentile(largest, p)) for p in (20, 50, 80))
        return middle, high / low

    def eager_time(self, call, n, calls=None) -> float:
        """ms of one call in a row of calls, of the slowest rank: the median of a few such rows.

        A host that is held up once makes one row long and leaves the median alone.
        """
        calls, times = calls or IN_A_ROW, []
        if self.rank < n:
            call()
            self.synchronize()
        for _ in range(ROWS):
            dist.barrier(self.hosts)
            if self.rank >= n:
                continue
            begin = time.perf_counter()
            for _ in range(calls):
                call()
            self.synchronize()
            times.append((time.perf_counter() - begin) * 1e3 / calls)
        times = np.array([t for t in self.all(times) if t])  # [n, ROWS]
        return float(np.median(times.max(axis=0)))

    # --- parts ----------------------------------------------------------------------------------

    def machine(self) -> dict:
        name = torch.cuda.get_device_name(self.device) if self.on_gpu else "CPU"
        names = self.all(name)
        return {
            "what": "machine", "ranks": self.world, "gpus": ", ".join(names),
            "same_gpu": len(set(names)) == 1, "link": _link(), "H": H, "D": D,
            "state_bytes": 4 * SIZE, "nccl": _nccl_version() if self.on_gpu else None,
            "gloo_hosts": len(set(self.all(os.uname().nodename))), "status": "ok",
        }  # fmt: skip

    def exchanges(self):
        """An all-gather and an all-reduce of the states, and the agreement of the hosts."""
        for n in self.groups:
            if n == 1:
                continue
            for nbytes in SENT:
                x = torch.ones(nbytes // 4, device=self.device)
                everyone = x.new_empty((n, *x.shape))

                def gather(x=x, everyone=everyone, n=n):
                    agreement.gather_into(everyone, x, self.groups[n]).wait()

                def reduce(x=x, n=n):
                    dist.all_reduce(x, group=self.groups[n])

                for op, call in (("all-gather", gather), ("all-reduce", reduce)):
                    ms, spread = self.device_times(call, n)
                    eager = self.eager_time(call, n)
                    yield {
                        "what": "exchange", "op": op, "ranks": n, "bytes": nbytes,
                        "device_us": 1e3 * ms, "spread": spread, "host_us": 1e3 * eager,
                        "status": "ok",
                    }  # fmt: skip
            call = partial(self._agree, n)
            yield {
                "what": "exchange", "op": "agreement", "ranks": n, "bytes": agreement.HEADER,
                "host_us": 1e3 * self.eager_time(call, n, calls=5 * IN_A_ROW), "status": "ok",
            }  # fmt: skip

    def _agree(self, n):
        ranks = agreement.of(self.groups[n], PATIENCE_S)
        with agreement.Entry(ranks, "the bench", PATIENCE_S) as entry:
            entry.agree({"H": H, "D": D})

    def gates(self):
        """Each order against float64, in uneven pieces, without overlap and with it."""
        self.passed = {}
        for n in self.groups:
            for causal in (False, True):
                verdict = self._verdict(causal, n)
                self.passed[causal, n] = verdict["status"] == "ok"
                yield {"what": "gate", "ranks": n, "causal": causal, "N": GATED, **verdict}

    def _verdict(self, causal, n) -> dict:
        dtype = torch.bfloat16 if self.on_gpu else torch.float32
        generator = torch.Generator(self.device).manual_seed(0)
        whole = [
            torch.randn(1, H, GATED, D, generator=generator, device=self.device).to(dtype)
            for _ in range(4)
        ]
        ends = np.cumsum([PIECES[i % 3] for i in range(n)])
        ends = [0, *(int(GATED * e / ends[-1]) for e in ends[:-1]), GATED]
        errors = []
        if self.rank < n:
            rows = slice(ends[self.rank], ends[self.rank + 1])
            *qkv, do = (x[:, :, rows] for x in whole)
            one = self._gradients(linear_attention, whole[:3], whole[3], causal)
            exact = self._exact(whole, causal)
            for overlap in (False, True):
                call = partial(
                    sequence_parallel_attention, group=self.groups[n], overlap=overlap
                )  # fmt: skip
                got, of_way = self._gradients(call, qkv, do, causal), {}
                for name, x, y, z in zip(("o", "dq", "dk", "dv"), got, one, exact, strict=True):
                    z = z[:, :, rows]
                    same = x[:, :2].double(), y[:, :2, rows].double()
                    of_way[name] = [float((s - z).norm() / z.norm()) for s in same]
                errors.append(of_way)
        errors = [e for of_rank in self.all(errors) for e in of_rank]
        worst = {name: float(np.max([e[name][0] for e in errors])) for name in errors[0]}  # or NaN
        alone = max(max(e[name][1] for name in e) for e in errors)
        short = str(dtype).removeprefix("torch.")
        wrong = [x for x, e in worst.items() if not e <= gate.tolerance(x, short)]
        return {
            "status": "wrong" if wrong else "ok",
            "reason": f"{', '.join(wrong)} differ from float64" if wrong else None,
            "error": max(worst.values()), "one_gpu_error": alone,
        }  # fmt: skip

    @staticmethod
    def _gradients(function, qkv, do, causal):
        qkv = [x.detach().requires_grad_() for x in qkv]
        o = function(*qkv, causal=causal)
        return [o.detach(), *torch.autograd.grad(o, qkv, do)]

    @staticmethod
    def _exact(whole, causal):
        """Of two heads, in float64."""
        *qkv, do = (x[:, :2].double() for x in whole)
        return Ranks._gradients(partial(reference.chunked, chunk_size=512), qkv, do, causal)

    def calls(self):
        """Every length on one GPU and on more of them, both orders, forward and with backward."""
        lengths = LENGTHS if self.world > 1 else COMPARED
        for N in QUICK_LENGTHS if self.quick else lengths:
            for n in self.groups:
                if self.rank < n:
                    generator = torch.Generator(self.device).manual_seed(self.rank)
                fits = self._fits(N // n)
                tensors = None
                if fits and self.rank < n:
                    tensors = [self._normal(N // n, generator) for _ in "qkvo"]
                for causal in (False, True):
                    for backward in (False, True):
                        yield from self._calls(N, n, causal, backward, fits, tensors)
                del tensors
                if self.on_gpu:
                    torch.cuda.empty_cache()

    def _normal(self, rows, generator):
        dtype = torch.bfloat16 if self.on_gpu else torch.float32
        return torch.randn(
            1, H, rows, D, generator=generator, device=self.device, dtype=dtype
        )  # fmt: skip

    def _fits(self, rows) -> dict:
        """Whether q, k, v, o and their gradients fit on every GPU, by `backward`."""
        if not self.on_gpu:
            return {False: True, True: True}
        each = 2 * H * D * rows
        room = min(self.all(torch.cuda.mem_get_info()[0])) - 2**30
        if 4 * each + 2**29 > room:  # q, k, v and do lie there in any case
            return {}
        return {False: 5 * each < room, True: 8 * each < room}

    def _calls(self, N, n, causal, backward, fits, tensors):
        row = {
            "what": "call", "ranks": n, "N": N, "causal": causal,
            "work": "forward+backward" if backward else "forward", "way": "both",
        }  # fmt: skip
        names = ["one-gpu", "both"] if n == 1 else list(WAYS)
        if n > 1 and (self.quick or N not in COMPARED):
            names = [AS_IT_COMES]
        for way in names:
            fact = {"way": way, "sent_bytes": 4 * H * SIZE * (1 + backward) * (n > 1)}
            if n == 1 and way == "both":
                fact["what"] = "piece"
            if not fits.get(backward):
                fact |= {"status": "oom", "reason": "the tensors do not fit into one GPU's memory"}
            elif way != "one-gpu" and not self.passed[causal, n]:
                fact |= {"status": "wrong", "reason": "the gate refused it"}
            elif self.over:
                fact |= {"status": "skipped", "reason": "the time of this study was over"}
            else:
                fact |= self._timed(self._call(way, n, causal, backward, tensors), n)
            yield row | fact

    def _timed(self, call, n) -> dict:
        problem = None
        if self.rank < n:
            try:
                call()  # compiles, and shows whether the memory is enough
                self.synchronize()
            except Exception as error:
                problem = one_line(error)
        problems = [p for p in self.all(problem) if p]
        if problems:
            return {"status": "failed", "reason": problems[0]}
        ms, spread = self.device_times(call, n)
        eager = self.eager_time(call, n, None if ms < 10 else FEW)
        return {"status": "ok", "device_ms": ms, "spread": spread, "eager_ms": eager}

    def _call(self, way, n, causal, backward, tensors):
        if self.rank >= n:
            return None
        *qkv, do = tensors
        function = linear_attention
        if way != "one-gpu":
            function = partial(
                sequence_parallel_attention, group=self.groups[n], timeout=PATIENCE_S, **WAYS[way]
            )
        if not backward:
            return partial(torch.no_grad()(function), *qkv, causal=causal)

        def call():
            leaves = [x.detach().requires_grad_() for x in qkv]
            return torch.autograd.grad(function(*leaves, causal=causal), leaves, do)

        return call


def _link() -> str | None:
    """How the first two GPUs are joined, as nvidia-smi says: NV18 is 18 links of NVLink."""
    table = hardware._output("nvidia-smi", "topo", "-m")
    for line in (table or "").splitlines():
        words = line.replace("\x1b[4m", "").replace("\x1b[0m", "").split()
        if words and words[0] == "GPU0" and len(words) > 2 and words[1] == "X":
            return words[2]
    return None


def _nccl_version() -> str:
    return ".".join(str(x) for x in torch.cuda.nccl.version())
