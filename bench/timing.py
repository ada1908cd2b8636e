"""Timing on the device: events, a flushed L2, contenders interleaved, the median of many samples.

A sample of one contender is

    flush L2 | hold the stream | start event | the call | end event | wait

- The flush writes a buffer of several times the L2, outside the timed region, so that no contender
  finds its inputs in the cache because another one left them there.
- The hold keeps the stream busy for about as long as the host needs to issue the call. Without it
  the events of a 10 µs kernel behind 50 µs of Python measure Python. With it `device_ms` is what
  the GPU needs, and `host_ms`, the time the host needed to issue the call, stands beside it:
  where `host_ms` is the larger one, a program that makes one call after another waits for the host.
- A sample in which the host was slower than the hold measured Python after all: it is thrown away,
  and taken again with a longer hold.
- Some hosts cannot be hidden: one that needs longer than the longest hold, or one that launches
  more than the queue of the device takes, about a thousand kernels. All samples of such a call are
  thrown away and taken without a hold. They count host and device together, `Lane.host_included`
  says so, and every record and table marks them.
- Contenders take turns (A B C A B C), so that a drift of clocks or temperature meets all of them.
- On an H100 one launch of four takes longer, if its arguments are many (the study `launches`). If
  the kernels of a round were a multiple of four, a contender would meet it always or never: none to
  three empty kernels go before each sample.
"""

import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from . import turns

Call = Callable[[], object]
PHASES = 4  # one launch of so many is another one


@dataclass(frozen=True)
class Sampling:
    """How many samples: as many as fit into `budget_s` seconds of a lane, within the two limits."""

    least: int = 9
    most: int = 100
    budget_s: float = 0.5
    warm_up: int = 2

    def count(self, estimate_ms: float) -> int:
        """Samples of a call that takes `estimate_ms` milliseconds."""
        fits = int(self.budget_s * 1e3 / max(estimate_ms, 1e-3))
        return min(self.most, max(self.least, fits))


FULL = Sampling()
QUICK = Sampling(least=3, most=30, budget_s=0.1, warm_up=1)


@dataclass
class Lane:
    """One contender in the interleaved race and what was measured of it, in milliseconds."""

    call: Call
    context: Callable = nullcontext  # entered around each call, outside the timed region
    device_ms: list[float] = field(default_factory=list)
    host_ms: list[float] = field(default_factory=list)
    failure: Exception | None = None
    host_included: bool = False  # the device times count what the host needed too

    def percentile(self, percent: float) -> float:
        """A percentile of the device times, in ms."""
        return float(np.percentile(self.device_ms, percent))

    @property
    def spread(self) -> float:
        """80th percentile over 20th: 1.0 where all samples agree."""
        return self.percentile(80) / max(self.percentile(20), 1e-6)

    @property
    def marks(self) -> dict:
        """What a row has to say beside its times: that the host is in them, or nothing."""
        return {"host_included": True} if self.host_included else {}

    @property
    def host_median_ms(self) -> float:
        """Median time in which the host issued the call, in ms."""
        return float(np.median(self.host_ms))


class DeviceClock:
    """Takes one sample of a call on the current CUDA device.

    `sample(call, host_ms)` returns (device ms, host ms). `host_ms` is how long the host is expected
    to need to issue the call, and `hold_ms(host_ms)` how long the stream is then held. With
    `hold=False` it is not, and the first of the two counts host and device together. `before` is
    the number of empty kernels that go before it, none to three of them at random where it is None.
    """

    FLUSH_FACTOR = 4  # the buffer is this many times the L2
    HOLD_LIMIT_MS = 20.0

    def __init__(self):
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        l2_bytes = getattr(properties, "L2_cache_size", 0) or 64 * 2**20
        self.buffer = torch.empty(self.FLUSH_FACTOR * l2_bytes, dtype=torch.uint8, device="cuda")
        self.start = torch.cuda.Event(enable_timing=True)
        self.end = torch.cuda.Event(enable_timing=True)
        self.cycles_per_ms = self._calibrate()
        self.before = random.Random(0)

    def _calibrate(self) -> float:
        """Cycles of the holding kernel per millisecond, once the GPU has left its idle clock."""
        cycles = 2_000_000  # about 1 ms
        for _ in range(100):
            self.start.record()
            torch.cuda._sleep(cycles)
            self.end.record()
            self.end.synchronize()
        return cycles / self.start.elapsed_time(self.end)

    def hold_ms(self, host_ms: float) -> float:
        return min(self.HOLD_LIMIT_MS, 0.1 + 1.5 * host_ms)

    def sample(
        self, call: Call, host_ms: float = 0.0, hold: bool = True, before: int | None = None
    ) -> tuple[float, float]:
        for _ in range(self.before.randrange(PHASES) if before is None else before):
            torch.cuda._sleep(0)  # a kernel that does nothing
        self.buffer.zero_()
        if hold:
            torch.cuda._sleep(int(self.hold_ms(host_ms) * self.cycles_per_ms))
        self.start.record()
        begin = time.perf_counter()
        call()
        issued = time.perf_counter()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end), (issued - begin) * 1e3

    def null_kernel_ms(self, samples: int = 100) -> float:
        """Median of a kernel of one thread that does nothing, in ms: the zero of this clock.

        It is what two events and a launch cost the device, and differs from host to host.
        """
        zero = [self.sample(lambda: torch.cuda._sleep(0)) for _ in range(samples)]
        return float(np.median([device_ms for device_ms, _ in zero]))

    def lost(self) -> bool:
        """Whether the device answers no more, as after an illegal memory access."""
        return not answers()

    def forget(self) -> None:
        """Let go of what was kept for the calls of a race."""


class GraphClock(DeviceClock):
    """The same with each call captured once in a CUDA graph, so that the host only replays it.

    What a program pays for short sequences once it has removed Python from its loop. A call that
    cannot be captured fails. A copy becomes a node of a kind of its own, which was slower on an
    H100 than the same copy outside a graph: floors to compare with come from the device's clock.
    """

    def __init__(self):
        super().__init__()
        self.graphs = {}  # call -> its graph; they hold the memory of their results

    def sample(
        self, call: Call, host_ms: float = 0.0, hold: bool = True, before: int | None = None
    ) -> tuple[float, float]:
        if call not in self.graphs:
            self.graphs[call] = self._capture(call)
        return super().sample(self.graphs[call].replay, host_ms, hold, before)

    @staticmethod
    def _capture(call: Call):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph

    def forget(self) -> None:
        self.graphs.clear()


class EagerClock:
    """Calls one after another without waiting, as a program makes them: ms of wall time for each.

    Both times are the same, the larger of what the host needs to issue a call and what the device
    needs to run it. The inputs may be found in the L2.
    """

    CALLS = 20

    def sample(self, call: Call, host_ms: float = 0.0) -> tuple[float, float]:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(self.CALLS):
            call()
        torch.cuda.synchronize()
        elapsed = (time.perf_counter() - begin) * 1e3 / self.CALLS
        return elapsed, elapsed

    def hold_ms(self, host_ms: float) -> float:
        return float("inf")

    def lost(self) -> bool:
        return not answers()

    def forget(self) -> None:
        pass


CLOCKS = {"device": DeviceClock, "graph": GraphClock, "eager": EagerClock}


def answers() -> bool:
    """Whether this process can still use the CUDA device."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


class DeviceLost(Exception):
    """A call has spoiled the CUDA context: every later call of this process fails too."""


class HostClock:
    """The same for calls that run on the CPU: both times are the host's. For tests and toys."""

    def hold_ms(self, host_ms: float) -> float:
        return float("inf")  # there is no second timeline that could wait for the host

    def sample(self, call: Call, host_ms: float = 0.0) -> tuple[float, float]:
        begin = time.perf_counter()
        call()
        elapsed = (time.perf_counter() - begin) * 1e3
        return elapsed, elapsed

    def lost(self) -> bool:
        return False

    def forget(self) -> None:
        pass


MARGIN = 0.9  # the share of the hold in which the host has to be done
MOST_RETAKES = 20  # samples of one lane that are taken again, so that a race always ends
STRIKES = 3  # outlasted samples in a row at the longest hold: more than a hiccup of the host


def outlasted(clock, expected_ms: float, host_ms: float) -> bool:
    """Whether the host needed longer than the hold that was chosen for `expected_ms`."""
    return host_ms > MARGIN * clock.hold_ms(expected_ms)


@turns.alone()
def race(lanes: list[Lane], clock, sampling: Sampling = FULL) -> None:
    """Warm up every lane, then sample them in turns; the lanes hold the result.

    A lane whose call raises keeps the exception in `failure` and leaves; the others go on.
    A sample whose hold the host outlasted is taken again, with the longest host time seen so far.
    Where the longest hold does not help, or too many were tried, the lane begins anew without one
    and says so in `host_included`: no sample is kept that measured a part of the host.
    Raises DeviceLost from the failure after which the device answers no more.
    """

    def attempt(lane, host_ms):
        try:
            with lane.context():
                if lane.host_included:
                    return clock.sample(lane.call, host_ms, hold=False)
                return clock.sample(lane.call, host_ms)
        except Exception as problem:
            lane.failure = problem
            if clock.lost():
                raise DeviceLost(str(problem)) from problem
            return None

    counts = []
    expected_host_ms = []
    for lane in lanes:
        device_ms, host_ms = float("inf"), 0.0
        for _ in range(sampling.warm_up):
            taken = attempt(lane, host_ms)
            if taken is None:
                break
            device_ms, host_ms = min(device_ms, taken[0]), taken[1]
        # a sample costs the flush, the hold and the waiting besides the call: about 0.3 ms
        counts.append(sampling.count(device_ms + 0.3))
        expected_host_ms.append(host_ms)

    retakes = [MOST_RETAKES] * len(lanes)

    def take(i):
        """A sample of lane i that counts, or None where its call raised."""
        lane, strikes = lanes[i], 0
        taken = attempt(lane, expected_host_ms[i])
        while taken and not lane.host_included and outlasted(clock, expected_host_ms[i], taken[1]):
            held_ms = clock.hold_ms(expected_host_ms[i])
            expected_host_ms[i] = max(expected_host_ms[i], taken[1])
            strikes += clock.hold_ms(expected_host_ms[i]) <= held_ms
            if retakes[i] and strikes < STRIKES:
                retakes[i] -= 1
            else:
                lane.host_included = True
                lane.device_ms.clear()
                lane.host_ms.clear()
            taken = attempt(lane, expected_host_ms[i])
        return taken

    while True:
        wanting = [
            i
            for i, lane in enumerate(lanes)
            if lane.failure is None and len(lane.device_ms) < counts[i]
        ]
        if not wanting:
            return
        for i in wanting:
            taken = take(i)
            if taken is not None:
                lanes[i].device_ms.append(taken[0])
                lanes[i].host_ms.append(taken[1])
