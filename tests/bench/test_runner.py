"""A whole run on the CPU: order, failures that stay alone, interruption, progress."""

import pytest
import torch

from bench import contenders, eager, results, runner, truth
from bench.contenders import Contender
from bench.errors import BenchError
from bench.results import Record
from bench.timing import DeviceClock, DeviceLost, HostClock, Lane, Sampling
from kernels import reference

ONCE = Sampling(least=2, most=2, budget_s=0.0, warm_up=1)
SMALL = {"batches": (1,), "heads": 2, "head_dim": 16, "dtype": "float32", "sampling": ONCE}


@pytest.fixture
def enter(monkeypatch):
    """Add contenders for one test."""
    monkeypatch.setattr(contenders, "_registry", dict(contenders._registry))

    def add(name, forward=eager.linear_attention, function=truth.LINEAR, **facts):
        contenders.register(Contender(name, name, function, forward, note="", **facts))
        return name

    return add


def run(*names, **changes) -> Record:
    options = ("say", "keep", "deadline_s", "before")
    options = {k: changes.pop(k) for k in options if k in changes}
    plan = runner.Plan(**(SMALL | {"contenders": names, "lengths": (64,)} | changes))
    return runner.run(plan, clock=HostClock(), device="cpu", **options)


def test_the_book_is_measured_in_both_orders_and_works():
    record = run("book", "eager")
    assert record.complete
    assert record.live
    assert [(m.contender, m.causal, m.work) for m in record.measurements] == [
        (name, causal, work)
        for causal in (False, True)
        for work in ("forward", "forward+backward")
        for name in ("book", "eager")
    ]
    for m in record.measurements:
        assert m.ok, m
        assert m.samples == 2
        assert m.floor_ms > 0
        assert m.first_call_ms > 0
        assert m.error < 1e-5


def test_the_record_says_what_the_clock_shows_for_no_work(tmp_path):
    class Clock(DeviceClock):
        """A device's clock that reads the host's, since there is no device."""

        def __init__(self):
            pass

        sample, hold_ms, lost = HostClock.sample, HostClock.hold_ms, HostClock.lost

        def null_kernel_ms(self):
            return 0.0047

    plan = runner.Plan(**(SMALL | {"contenders": ("eager",), "lengths": (64,)}))
    record = runner.run(plan, clock=Clock(), device="cpu")
    assert record.provenance.null_kernel_ms == 0.0047
    again = results.read(results.write(record, tmp_path / "gpu.json"))
    assert again.provenance.null_kernel_ms == 0.0047
    assert run("eager").provenance.null_kernel_ms is None, "the host's clock has no such zero"


def test_failures_stay_alone(enter):
    def runs_out(q, k, v, *, causal):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 9 GiB. Of the allocated"
        )

    def wrong(q, k, v, *, causal):
        return v

    names = [
        enter("oom", runs_out),
        enter("absent", available=lambda: "no such module", install="pip install absent"),
        enter("one-way", causal=(False,)),
        enter("half", dtypes=("float16",)),
        enter("wrong", wrong),
    ]
    record = run(*names, "eager", works=("forward",))
    found = {(m.contender, m.causal): m for m in record.measurements}
    assert found["eager", True].ok
    assert found["oom", True].status == "failed"
    assert found["oom", True].reason.startswith("OutOfMemoryError: CUDA out of memory")
    assert found["absent", True].status == "not_installed"
    assert found["absent", True].reason == "no such module; to install: pip install absent"
    assert found["one-way", False].ok
    assert ("one-way", True) not in found, "it has no causal form, and is not listed there"
    assert found["half", True].reason == "it does not take float32"
    assert found["wrong", True].status == "wrong"
    assert record.complete


def test_a_contender_that_breaks_while_timed(enter):
    calls = iter(range(100))

    def later(q, k, v, *, causal):
        if next(calls) > 1:
            raise RuntimeError("worn out\nsecond line")
        return eager.linear_attention(q, k, v, causal=causal)

    record = run(enter("later", later), "eager", orders=(False,), works=("forward",))
    later, good = record.measurements
    assert later.status == "failed"
    assert later.reason == "RuntimeError: worn out second line"
    assert good.ok


class ScriptedClock(HostClock):
    """Runs the call, and reports these times in turn; from the end of the script on 1 ms."""

    def __init__(self, *device_ms):
        self.script = iter(device_ms)

    def sample(self, call, host_ms=0.0):
        call()
        return next(self.script, 1.0), 0.1


@pytest.mark.parametrize(
    ("script", "median_ms", "unsteady", "again"),
    [
        # contender and copy: a warm-up and two samples of each, in turns; then the same once more
        ([1, 1, 1.0, 1, 1.1, 1], 1.05, None, None),
        ([1, 1, 1.0, 1, 3.0, 1, 1, 1, 1.2, 1, 1.2, 1], 1.2, None, True),
        ([1, 1, 1.0, 1, 3.0, 1, 1, 1, 1.0, 1, 2.0, 1], 1.5, True, True),
        ([1, 1, 1.0, 1, 3.0, 1, 1, 1, 1.0, 1, 9.0, 1], 2.0, True, None),
    ],
)
def test_unsteady_times_race_again_and_the_record_says_so(script, median_ms, unsteady, again):
    m = scripted(*script)
    assert m.median_ms == pytest.approx(median_ms)
    assert (m.unsteady, m.raced_again) == (unsteady, again)
    assert m.floor_spread == 1.0 and not m.floor_void or m.void


def scripted(*script):
    """The measurement of a contender whose times and whose copy's are those, in turns."""
    plan = runner.Plan(
        **(SMALL | {"contenders": ("eager",), "lengths": (64,)}),
        orders=(False,),
        works=("forward",),
    )
    clock = ScriptedClock(*script)
    (m,) = runner.run(plan, clock=clock, device="cpu").measurements
    assert next(clock.script, None) is None, "no less was sampled than the script has"
    return m


def test_an_unsteady_copy_races_again_and_its_spread_is_kept():
    m = scripted(1, 1, 1.0, 0.5, 1.0, 0.9, 0.5, 0.6, 0.6)
    assert (m.floor_ms, m.floor_spread) == (0.6, 1.0), "of the second race"
    assert m.raced_again is None and m.median_ms == 1.0, "the contender's is of the first"
    m = scripted(1, 1, 1.0, 0.5, 1.0, 0.9, 0.5, 0.1, 0.9)
    assert m.floor_spread > 1.2 and m.floor_void and not m.void


def test_a_lane_of_the_second_race_has_the_copy_of_that_race():
    m = scripted(1, 1, 1.0, 1, 3.0, 1, 1, 1, 1.2, 0.7, 1.2, 0.7)
    assert (m.median_ms, m.floor_ms, m.raced_again) == (1.2, 0.7, True)


def test_the_second_race_has_the_copy_and_the_book_in_it():
    turns, script = [], {"book": [1.0] * 9, "copy": [1.0] * 9, "shaky": [1.0, 1.0, 3.0] + [1.0] * 6}
    script["good"] = [1.0] * 9

    class Named(HostClock):
        def sample(self, call, host_ms=0.0):
            turns.append(call())
            return script[turns[-1]].pop(0), 0.1

    lanes = {name: Lane(lambda name=name: name) for name in script}
    copy = lanes.pop("copy")
    runner.race([*lanes.values(), copy], Named(), ONCE)
    turns.clear()
    given = [*lanes.values()], copy, [lanes["book"]]
    found = runner._steadier(*given, Named(), ONCE)
    assert turns == 3 * ["book", "shaky", "copy"], "in turns, and the others are left alone"
    assert [found[id(x)][0] is x for x in lanes.values()] == [True, False, True]


def test_a_second_race_that_fails_leaves_the_first():
    calls = iter(range(100))

    def call():
        if next(calls) >= 1:
            raise RuntimeError("worn out")

    lane = Lane(call, device_ms=[1.0, 3.0], host_ms=[0.1, 0.1])
    copy = Lane(lambda: None, device_ms=[1.0, 1.0], host_ms=[0.1, 0.1])
    found = runner._steadier([lane], copy, [], ScriptedClock(), ONCE)
    assert found[id(lane)] == (lane, copy)
    copy.call = call
    assert runner._steadier([lane], copy, [], ScriptedClock(), ONCE) == {}


def test_the_provenance_of_a_run_on_a_gpu_is_read_under_load(monkeypatch):
    loads = []

    def provenance(command, load):
        loads.append(load)
        raise BenchError("enough")

    monkeypatch.setattr(runner.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(runner.hardware, "provenance", provenance)
    with pytest.raises(BenchError, match="enough"):
        runner.run(runner.Plan(), clock=HostClock())
    assert loads == [runner.hardware.busy]


def test_progress_and_partial_records():
    said, kept = [], []
    run(
        "eager",
        lengths=(64, 128),
        say=said.append,
        keep=lambda r: kept.append((r.complete, len(r.measurements))),
    )
    assert kept == [(False, 2), (False, 4), (False, 6), (False, 8), (True, 8)]
    assert [s.split("]")[0] for s in said[:4]] == ["[1/4", "[2/4", "[3/4", "[4/4"]


def test_deadline():
    record = run("eager", lengths=(64, 128), deadline_s=-1.0)
    assert not record.complete
    assert record.measurements == []


def test_what_was_measured_before_is_not_measured_again():
    first = run("eager", lengths=(64,))
    noted = []
    plan = runner.Plan(**(SMALL | {"contenders": ("eager",), "lengths": (64, 128)}))
    both = runner.run(
        plan, clock=HostClock(), device="cpu", before=first, note=lambda e: noted.append(e.shape.N)
    )
    assert both.complete
    assert both.measurements[: len(first.measurements)] == first.measurements
    assert len(both.measurements) == 2 * len(first.measurements)
    assert set(noted) == {128}


def test_a_shape_of_which_a_contender_is_missing_is_measured_again():
    first = run("eager")
    again = run("eager", "book", before=first)
    assert {m.contender for m in again.measurements} == {"eager", "book"}
    assert len(again.measurements) == 8


def test_refused_entries_are_not_called(enter):
    def forward(q, k, v, *, causal):
        raise AssertionError("called")

    enter("bad", forward)
    plan = runner.Plan(
        **(SMALL | {"contenders": ("bad", "eager"), "lengths": (64,)}),
        orders=(False,),
        works=("forward",),
    )
    entry = runner.Entry("comparison", "bad", "forward", plan.shapes()[0])
    record = runner.run(plan, clock=HostClock(), device="cpu", refused={entry: "it died before"})
    bad, good = record.measurements
    assert (bad.status, bad.reason) == ("failed", "it died before")
    assert good.ok


def test_a_lost_device_ends_the_run_at_once(enter, monkeypatch):
    kept = []

    class Lost(HostClock):
        def lost(self):
            return True

    calls = iter(range(100))

    def spoils(q, k, v, *, causal):
        if next(calls) > 0:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return eager.linear_attention(q, k, v, causal=causal)

    plan = runner.Plan(**(SMALL | {"contenders": (enter("spoils", spoils),), "lengths": (64,)}))
    with pytest.raises(DeviceLost, match="illegal memory access"):
        runner.run(plan, clock=Lost(), device="cpu", keep=kept.append)
    assert kept == []


def test_layout_features_and_more_arguments_are_made_outside_the_call(enter):
    seen = []

    def forward(q, k, v, *, causal, gate):
        assert gate.shape == q.shape[:3]
        assert q.is_contiguous()
        seen.append((tuple(q.shape), q.min().item() > 0))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        o = reference.chunked(q, k, v, causal=causal, feature_map="identity", normalize=False)
        return o.transpose(1, 2)

    name = enter(
        "guest",
        forward,
        function=truth.Function("linear", "identity", normalize=False, ready=True),
        layout="BNHD",
        prepare=lambda q, k, v: {"gate": torch.ones(q.shape[:3])},
    )
    record = run(name, lengths=(80,), heads=3)
    assert [m.status for m in record.measurements] == ["ok"] * 4, record.measurements
    assert set(seen) == {((1, 80, 3, 16), True)}
    assert contenders.get(name).outside == "φ, layout"


def test_a_wrong_layout_is_refused(enter):
    record = run(enter("turned", layout="BNHD"), works=("forward",), lengths=(80,))
    assert [m.status for m in record.measurements] == ["wrong"] * 2


def test_a_contender_is_left_out_above_its_longest(enter):
    record = run(enter("short", longest=64), lengths=(64, 128), works=("forward",))
    assert [m.status for m in record.measurements] == ["ok"] * 2 + ["failed"] * 2
    assert record.measurements[-1].reason == "it is left out above 64 tokens"


def test_unknown_contender_and_no_gpu(monkeypatch):
    with pytest.raises(BenchError, match="no contender 'nobody'; there are book, eager"):
        run("nobody")
    monkeypatch.setattr(runner.hardware, "has_gpu", lambda: False)
    with pytest.raises(BenchError, match="needs an NVIDIA GPU"):
        runner.run(runner.Plan())


def test_inputs_are_the_same_for_everyone_and_every_run():
    shape = runner.Plan(**(SMALL | {"lengths": (64,)})).shapes()[0]
    one, two = (runner.Inputs(shape, True, "cpu") for _ in range(2))
    for name in ("q", "k", "v", "do"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(one.q, one.k)


def test_short_sequences_come_first():
    lengths = [s.N for s in runner.Plan().shapes()]
    assert lengths == sorted(lengths)
    assert len(lengths) == 32


def test_a_name_is_taken_once(enter):
    with pytest.raises(ValueError, match="already called"):
        enter("book")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: all four contenders")
def test_every_contender_is_verified_on_this_gpu():
    plan = runner.Plan(batches=(1,), lengths=(1024,), sampling=ONCE)
    record = runner.run(plan)
    for m in record.measurements:
        if torch.cuda.get_device_capability() >= (9, 0) or m.contender in ("book", "eager"):
            assert m.ok, m
