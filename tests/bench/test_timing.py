"""Sampling: turns, counts, failures; on a GPU also what the clock does and does not count."""

import itertools
import time

import pytest
import torch

from bench import floor, timing
from bench.timing import DeviceClock, HostClock, Lane, Sampling, race

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: device events")


class FakeClock:
    """Reports the milliseconds which a call returns."""

    def __init__(self):
        self.expected = []

    def sample(self, call, host_ms=0.0):
        self.expected.append(host_ms)
        return call(), 0.5

    def hold_ms(self, host_ms):
        return 0.1 + 1.5 * host_ms

    def lost(self):
        return False


class LeakyClock:
    """A device that needs 1 ms, and a host that needs what `hosts` says, sample by sample.

    Like the device's clock, it counts as device time what the host needs beyond the hold.
    """

    LIMIT_MS = 20.0

    def __init__(self, hosts):
        self.hosts = iter(hosts)
        self.held = []

    def hold_ms(self, host_ms):
        return min(self.LIMIT_MS, 0.1 + 1.5 * host_ms)

    def lost(self):
        return False

    def sample(self, call, host_ms=0.0, hold=True):
        self.held.append(self.hold_ms(host_ms) if hold else 0.0)
        host = next(self.hosts)
        return max(1.0, host - self.held[-1] + 1.0), host


def test_contenders_take_turns():
    order = []

    def lane(name, ms):
        return Lane(lambda: order.append(name) or ms)

    race([lane("A", 1.0), lane("B", 1.0), lane("C", 1.0)], FakeClock(), Sampling(3, 3, 1.0, 1))
    assert "".join(order) == "ABC" + "ABC" * 3


def test_slow_lanes_get_fewer_samples_and_never_too_few():
    fast, middle, slow = Lane(lambda: 0.2), Lane(lambda: 10.0), Lane(lambda: 900.0)
    race([fast, middle, slow], FakeClock(), Sampling(least=5, most=40, budget_s=0.2))
    assert [len(lane.device_ms) for lane in (fast, middle, slow)] == [40, 19, 5]


def test_median_and_percentiles():
    lane = Lane(lambda: None, device_ms=[5.0, 1.0, 2.0, 3.0, 4.0, 6.0], host_ms=[1.0, 9.0, 2.0])
    assert [lane.percentile(p) for p in (20, 50, 80)] == [2.0, 3.5, 5.0]
    assert lane.host_median_ms == 2.0


def test_a_lane_that_raises_leaves_and_the_others_go_on():
    calls = iter(range(100))

    def breaks_later():
        if next(calls) == 3:
            raise RuntimeError("broke")
        return 1.0

    bad, good = Lane(breaks_later), Lane(lambda: 1.0)
    race([bad, good], FakeClock(), Sampling(10, 10, 1.0, 1))
    assert str(bad.failure) == "broke"
    assert good.failure is None
    assert len(good.device_ms) == 10


def test_a_lost_device_ends_the_race_at_the_lane_that_lost_it():
    class Spoiled(FakeClock):
        def lost(self):
            return True

    def spoils():
        raise RuntimeError("an illegal memory access\nwas encountered")

    lanes = [Lane(lambda: 1.0), Lane(spoils), Lane(lambda: 1.0)]
    with pytest.raises(timing.DeviceLost, match="illegal memory access"):
        race(lanes, Spoiled(), Sampling(3, 3, 1.0, 1))
    assert lanes[0].failure is lanes[2].failure is None


def test_expected_host_time_comes_from_the_warm_up():
    clock = FakeClock()
    race([Lane(lambda: 1.0)], clock, Sampling(2, 2, 1.0, 2))
    assert clock.expected == [0.0, 0.5, 0.5, 0.5]


def test_a_sample_that_measured_the_host_is_taken_again_with_a_longer_hold():
    clock = LeakyClock([0.1, 0.1, 4.0, 0.1, 0.1])
    lane = Lane(lambda: None)
    race([lane], clock, Sampling(3, 3, 1.0, 1))
    assert lane.device_ms == [1.0, 1.0, 1.0], "the sample of 4 ms does not count"
    assert lane.host_ms == [0.1, 0.1, 0.1]
    assert clock.held == pytest.approx([0.1, 0.25, 0.25, 6.1, 6.1]), "and the longer hold stays"


def test_the_margin_of_the_hold():
    clock = LeakyClock([])
    assert not timing.outlasted(clock, 1.0, 1.4)
    assert timing.outlasted(clock, 1.0, 1.5), "within 10 % of the hold of 1.6 ms"
    assert not timing.outlasted(HostClock(), 1.0, 1e9), "a clock without a hold takes nothing again"


def test_a_host_slower_than_the_longest_hold_is_never_counted_in_part():
    """A planted host of 50 ms behind a device of 1 ms: neither 1 ms nor 50 - 20 is its time."""
    clock = LeakyClock(itertools.repeat(50.0))
    lane = Lane(lambda: None)
    race([lane], clock, Sampling(3, 3, 1.0, 1))
    assert lane.host_included
    assert lane.host_ms == [50.0] * 3
    assert lane.device_ms == [51.0] * 3, "host and device, one after the other"
    assert clock.held == [0.1, *[20.0] * 3, *[0.0] * 3], "warm-up, longest hold, then without"


def test_a_hiccup_of_the_host_is_taken_again():
    clock = LeakyClock([0.1, 0.1, 60.0, 60.0, 0.1, 0.1])
    lane = Lane(lambda: None)
    race([lane], clock, Sampling(3, 3, 1.0, 1))
    assert not lane.host_included
    assert lane.device_ms == [1.0] * 3


def test_a_host_that_becomes_slow_throws_the_earlier_samples_away():
    clock = LeakyClock([0.1, 0.1, *[60.0] * 9])
    lane = Lane(lambda: None)
    race([lane], clock, Sampling(3, 3, 1.0, 1))
    assert lane.host_included
    assert lane.device_ms == [61.0] * 3


def test_a_host_within_the_hold_is_not_marked():
    clock = LeakyClock(itertools.repeat(10.0))
    lane = Lane(lambda: None)
    race([lane], clock, Sampling(3, 3, 1.0, 1))
    assert not lane.host_included
    assert lane.device_ms == [1.0] * 3


def test_retakes_end_also_where_the_host_only_gets_slower():
    clock = LeakyClock(3.3**i for i in itertools.count())
    clock.LIMIT_MS = float("inf")
    lane = Lane(lambda: None)
    race([lane], clock, Sampling(5, 5, 1.0, 1))
    assert len(lane.device_ms) == 5
    assert lane.host_included
    assert len(clock.held) == 1 + 1 + timing.MOST_RETAKES + 5, "warm-up, tries, without"


def test_a_retake_that_raises_ends_the_lane():
    def call():
        if len(clock.held) > 2:
            raise RuntimeError("broke")

    class Clock(LeakyClock):
        def sample(self, call, host_ms=0.0):
            taken = super().sample(call, host_ms)
            call()
            return taken

    clock = Clock([0.1, 4.0, 0.1, 0.1])
    lane = Lane(call)
    race([lane], clock, Sampling(3, 3, 1.0, 1))
    assert str(lane.failure) == "broke"
    assert len(clock.held) == 3


def test_the_hold_of_the_device_covers_the_host_up_to_its_limit():
    clock = DeviceClock.__new__(DeviceClock)  # without a GPU
    assert clock.hold_ms(0.0) == pytest.approx(0.1)
    assert clock.hold_ms(2.0) == pytest.approx(3.1)
    assert clock.hold_ms(1e9) == DeviceClock.HOLD_LIMIT_MS >= 20


def test_the_zero_of_the_clock_is_the_median_of_a_kernel_that_does_nothing(monkeypatch):
    slept = []
    monkeypatch.setattr(timing.torch.cuda, "_sleep", slept.append)
    times = iter([0.004, 0.009, 0.005])
    monkeypatch.setattr(DeviceClock, "sample", lambda self, call: (next(times), call()))
    clock = DeviceClock.__new__(DeviceClock)  # without a GPU
    assert clock.null_kernel_ms(samples=3) == 0.005
    assert slept == [0, 0, 0]


@needs_gpu
def test_the_zero_of_the_clock_is_above_nothing_and_below_a_small_copy():
    lane = Lane(floor.copy_call(2**22))
    clock = DeviceClock()
    race([lane], clock, Sampling(20, 20, 1.0, 2))
    assert 0 < clock.null_kernel_ms() < lane.percentile(50)


def test_context_is_entered_around_each_call_and_not_timed():
    class Context:
        def __enter__(self):
            time.sleep(0.02)

        def __exit__(self, *problem):
            pass

    lane = Lane(lambda: None, Context)
    race([lane], HostClock(), Sampling(2, 2, 0.0, 1))
    assert max(lane.device_ms) < 10


@needs_gpu
def test_a_slow_host_is_not_counted_as_device_time():
    x = torch.zeros(1000, device="cuda")

    def call():
        end = time.perf_counter() + 1e-3
        while time.perf_counter() < end:
            pass
        return x.add_(1)

    lane = Lane(call)
    race([lane], DeviceClock(), Sampling(20, 20, 1.0, 2))
    assert lane.host_median_ms >= 1.0
    assert lane.percentile(50) < 0.2


@needs_gpu
@pytest.mark.parametrize(("host_ms", "launches"), [(60, 1), (0, 3000)])
def test_a_host_that_cannot_be_hidden_is_said_to_be_counted(host_ms, launches):
    """Slower than the longest hold, or more launches than the queue of the device takes."""
    x = torch.zeros(1000, device="cuda")

    def call():
        end = time.perf_counter() + host_ms / 1e3
        while time.perf_counter() < end:
            pass
        for _ in range(launches):
            x.add_(1)

    lane = Lane(call)
    race([lane], DeviceClock(), Sampling(5, 5, 1.0, 1))
    assert lane.host_included
    assert lane.percentile(50) > 0.9 * lane.host_median_ms


@needs_gpu
def test_inputs_do_not_come_from_the_cache():
    """A buffer that fits into the L2 is read at the speed of memory, not of the cache."""
    nbytes = torch.cuda.get_device_properties(0).L2_cache_size // 2
    call = floor.copy_call(nbytes)
    lane = Lane(call)
    race([lane], DeviceClock(), Sampling(50, 50, 1.0, 2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(100):
        call()
    end.record()
    end.synchronize()
    cached_ms = begin.elapsed_time(end) / 100
    assert lane.percentile(50) > 1.1 * cached_ms


@needs_gpu
def test_the_floor_of_a_large_copy_is_linear_in_its_bytes():
    lanes = [Lane(floor.copy_call(2**28)), Lane(floor.copy_call(2**29))]
    race(lanes, DeviceClock(), Sampling(30, 30, 1.0, 2))
    small, large = (lane.percentile(50) for lane in lanes)
    assert 1.8 < large / small < 2.2


def test_eager_calls_follow_each_other_and_the_last_one_is_waited_for(monkeypatch):
    events = []
    now = itertools.count()
    monkeypatch.setattr(timing.torch.cuda, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now) * 0.04)
    clock = timing.EagerClock()
    device_ms, host_ms = clock.sample(lambda: events.append("call"))
    assert events == ["wait", *["call"] * clock.CALLS, "wait"]
    assert device_ms == host_ms == pytest.approx(40.0 / clock.CALLS)
    assert not timing.outlasted(clock, 0.0, 1e9)


def test_a_call_is_captured_once_and_then_replayed(monkeypatch):
    class Graph:
        def __init__(self):
            self.replays = 0

        def replay(self):
            self.replays += 1

    captured = []

    def capture(call):
        captured.append((call, Graph()))
        return captured[-1][1]

    clock = timing.GraphClock.__new__(timing.GraphClock)  # without a GPU
    clock.graphs = {}
    monkeypatch.setattr(timing.GraphClock, "_capture", staticmethod(capture))
    monkeypatch.setattr(DeviceClock, "sample", lambda self, call, *_: (call(), 0.1)[::-1])
    one, two = (lambda: 1), (lambda: 2)
    for call in (one, two, one, one):
        clock.sample(call)
    assert [(call, graph.replays) for call, graph in captured] == [(one, 3), (two, 1)]
    clock.forget()
    clock.sample(one)
    assert len(captured) == 3


@needs_gpu
def test_the_three_clocks_agree_where_the_device_is_the_limit():
    x = torch.zeros(2**29, dtype=torch.bfloat16, device="cuda")
    y = torch.empty_like(x)

    def call():  # a kernel: as a node of a graph, a copy takes another way through the GPU
        torch.add(x, 1, out=y)

    found = {}
    for name, clock in timing.CLOCKS.items():
        lane = Lane(call)
        race([lane], clock(), Sampling(5, 5, 1.0, 1))
        assert lane.failure is None, (name, lane.failure)
        found[name] = lane.percentile(50)
    assert max(found.values()) < 1.1 * min(found.values()), found


@needs_gpu
def test_a_kernel_of_known_bytes_runs_at_the_floor():
    """A kernel written by hand that reads and writes 512 MiB takes as long as the floor."""
    from kernels.steps.memory.copy import copy

    source = torch.zeros(2**27, device="cuda")
    target = torch.empty_like(source)
    lanes = [
        Lane(lambda: copy(source, out=target)),
        Lane(floor.copy_call(2**30)),
    ]
    race(lanes, DeviceClock(), Sampling(30, 30, 1.0, 2))
    ours, least = (lane.percentile(50) for lane in lanes)
    assert 0.9 < least / ours < 1.1
