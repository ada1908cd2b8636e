"""Calls that are recorded once and replayed: the same results, and nothing kept or mixed up."""

import ctypes
import gc
import threading

import pytest
import torch
from oracle import DEVICE, agree, qkv, state_for
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs

from kernels import launch, linear_attention, linear_attention_step

both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
FLOAT32 = type("F", (), {"dtype": torch.float32})


class Toy:
    """Stands for a kernel: writes the sum of its tensors, times `factor`, into the last one."""

    arg_names = ["x", "scratch", "out", "stride", "factor", "n"]

    def __init__(self):
        self.launches = 0

    def __getitem__(self, grid):
        def run(x, scratch, out, stride, factor, n, num_warps=4):
            self.launches += 1
            x, scratch, out = (_at(t, n) for t in (x, scratch, out))
            scratch.copy_(x)
            out.copy_(scratch * factor)

        return run


def _at(x, n):
    """The n elements that begin where x does, whatever shape it has."""
    room = (ctypes.c_char * (4 * n)).from_address(x.data_ptr())
    return torch.frombuffer(room, dtype=torch.float32)


def twice_times(toy, x, factor=2.0, fill=False, watched=None):
    """2 · factor · x of [N] by two launches with scratch between, as a launcher does it."""
    n = x.numel()
    first, second = (x.new_empty((3, n)) for _ in range(2))
    out = x.new_zeros((n,)) if fill else torch.empty_like(x)
    if watched is not None:
        watched.append(factor)
    launch.launch(toy, 1, (x, first, second[1]), (1,), factor=2.0, n=n, num_warps=2)
    launch.launch(toy, 1, (second[1], first, out), (1,), factor=factor, n=n, num_warps=2)
    return out, None


def toys():
    toy, calls = Toy(), []

    def function(x, *options):
        return twice_times(toy, x, *options, watched=calls)

    return toy, calls, function


class Tally:
    """Stands for a kernel that counts its launches: out = how many there were before."""

    arg_names = ["counts", "out"]

    def __getitem__(self, grid):
        def run(counts, out):
            number = ctypes.c_int64.from_address(counts.data_ptr())
            _at(out, 1).fill_(number.value)
            number.value += 1

        return run


def tally(x, *options):
    out = torch.empty_like(x)
    launch.launch(Tally(), 1, (launch.counters(3, x.device), out))
    return out


def test_counters_go_on_from_replay_to_replay_of_one_signature():
    def counted(x, *options, **how):
        return int(launch.replayed(tally, (x,), options, **how)[0])

    x, y = torch.zeros(4), torch.zeros(8)
    assert counted(x) == 0  # recorded, with counters of its own
    assert [counted(x) for _ in range(3)] == [0, 1, 2]
    assert counted(y) == counted(y) == 0 and counted(x, 1.0) == 0
    assert counted(x, fresh=True) == counted(x, fresh=True) == 0
    assert counted(x) == 3
    (replay,) = [r for key, r in launch._replays.items() if x.shape in key and len(key) < 6]
    replay.stream_of = lambda index: 7
    assert [counted(x) for _ in range(2)] == [0, 1]
    launch.forget()
    assert counted(x) == counted(x) == 0
    assert int(tally(x)[0]) == int(tally(x)[0]) == 0


class Places:
    """Stands for a kernel: out = where its scratch memory begins."""

    arg_names = ["counts", "scratch", "out"]

    def __getitem__(self, grid):
        def run(counts, scratch, out):
            _at(out, 2).view(torch.int64).fill_(scratch.data_ptr())

        return run


def place(x, launches=1, elements=100):
    out, scratch = torch.empty_like(x), x.new_empty(elements)
    counts = launch.counters(1, x.device)
    for _ in range(launches):
        launch.launch(Places(), 1, (counts, scratch, out))
    return out


def test_what_one_kernel_uses_is_kept_for_its_stream():
    """Calls of a stream run one after another, and may use the same memory; others may not."""

    def placed(*options, **how):
        return int(launch.replayed(place, (torch.zeros(2),), options, **how).view(torch.int64))

    kept = [placed() for _ in range(3)][1:]  # the first call is recorded, in memory of its own
    assert kept[0] == kept[1]
    assert [placed(1, 120) for _ in range(2)][1] == kept[0]  # another signature, the same size
    assert [placed(1, 900) for _ in range(2)][1] != kept[0]
    assert placed(fresh=True) != kept[0] and placed() == kept[0]
    for replay in launch._replays.values():
        replay.stream_of = lambda index: 7
    assert placed() != kept[0] and placed() == placed(1, 120)
    placed(2)
    (two,) = [r for r in launch._replays.values() if len(r.steps) == 2]
    assert two.kept == 0 and len(two.allocations) == 2  # another call may come between them
    launch.forget()
    assert not launch._scratch


def test_a_pytorch_without_the_fast_allocation_has_the_other(monkeypatch):
    cpu, made = torch.device("cpu"), []
    made.append(launch.allocator(cpu)((2, 3), (1, 2), torch.float16))
    monkeypatch.setattr(torch._C, "_dynamo", None)
    made.append(launch.allocator(cpu)((2, 3), (1, 2), torch.float16))
    for x in made:
        assert x.shape == (2, 3) and x.stride() == (1, 2) and x.dtype == torch.float16


@pytest.mark.parametrize("fill", [False, True])
def test_a_replay_allocates_and_launches_the_same(fill):
    toy, calls, function = toys()
    for i in range(3):
        x = torch.randn(100)
        out, nothing = launch.replayed(function, (x,), (3.0, fill))
        assert torch.equal(out, 6 * x) and nothing is None
        assert out.untyped_storage().nbytes() == 400  # its own memory, without the scratch
        assert len(calls) == 1 and toy.launches == 2 * (i + 1)


def test_what_differs_in_the_signature_is_recorded_apart():
    _, calls, function = toys()
    x = torch.randn(100)
    for _ in range(2):
        for options in ((1.0,), (2.0,), (1,), (True,), (False, True)):
            out, _ = launch.replayed(function, (x,), options)
            assert torch.equal(out, 2 * options[0] * x)
        launch.replayed(function, (x[:48],), (1.0,))
        launch.replayed(function, (x[:96:2],), (1.0,))
    assert len(calls) == 7


def test_pointers_that_are_no_multiples_of_16_bytes_go_the_long_way():
    _, calls, function = toys()
    x = torch.randn(101)
    for _ in range(2):
        assert torch.equal(launch.replayed(function, (x[1:],), (1.0,))[0], 2 * x[1:])
    assert len(calls) == 2 and not launch._replays


def test_what_does_more_than_allocate_and_launch_goes_the_long_way():
    _, calls, function = toys()

    def with_a_sum(x):
        return function(x, 1.0)[0] + 1

    def with_a_write(x):
        return function(x, 1.0)[0].add_(1)

    def with_a_look(x):
        return function(x, 1.0 if x[0].item() > 0 else 2.0)[0]

    def with_a_part(x):
        return function(x, 1.0)[0][1:]

    for f in (with_a_sum, with_a_write, with_a_look, with_a_part):
        x = torch.randn(8)
        results = [launch.replayed(f, (y,), ()) for y in (x, -x)]
        assert torch.equal(results[1], f(-x))
    assert set(launch._replays.values()) == {None}


def test_inputs_that_begin_together_are_told_apart():
    _, _, function = toys()
    second = lambda x, y: function(y, 1.0)  # noqa: E731
    x, y = torch.randn(2, 8)
    for pair in ((x, x), (x, y), (y, x), (x, x)):
        assert torch.equal(launch.replayed(second, pair, ())[0], 2 * pair[1])
    assert len(launch._replays) == 1


def test_an_operation_that_reads_what_was_launched_comes_after_it():
    def function(x):
        out, _ = twice_times(Toy(), x)
        total = out.sum()
        again, _ = twice_times(Toy(), out)
        return total, again

    x = torch.randn(8)
    for _ in range(2):
        total, again = launch.replayed(function, (x,), ())
        assert torch.equal(again, 16 * x) and torch.equal(total, (4 * x).sum())


def test_an_error_leaves_no_recording_behind():
    def fails(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        launch.replayed(fails, (torch.randn(4),), ())
    assert not launch._replays and launch._here.recording is None
    assert not torch._C._len_torch_dispatch_stack()


def test_only_so_many_are_remembered(monkeypatch):
    _, calls, function = toys()
    monkeypatch.setattr(launch, "MOST", 3)
    for n in range(4, 40, 4):
        launch.replayed(function, (torch.randn(n),), (1.0,))
        assert len(launch._replays) <= 3


def test_each_thread_records_its_own_calls():
    toy, _, function = toys()
    wrong = []

    def work(seed):
        for i in range(40):
            x = torch.full((8 + 4 * (i % 10),), float(seed + i))
            out, _ = launch.replayed(function, (x,), (1.0,))
            if not torch.equal(out, 2 * x):
                wrong.append((seed, i))

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong and len(launch._replays) == 10


def test_who_hooks_into_launches_or_operations_sees_them():
    _, calls, function = toys()
    x = torch.randn(8)
    launch.replayed(function, (x,), (1.0,))

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            return operation(*args, **(kwargs or {}))

    with Mode():
        launch.replayed(function, (x,), (1.0,))
    assert len(calls) == 2
    hook = lambda *_: None  # noqa: E731
    if hasattr(knobs.runtime.launch_enter_hook, "add"):
        knobs.runtime.launch_enter_hook.add(hook)
        try:
            launch.replayed(function, (x,), (1.0,))
        finally:
            knobs.runtime.launch_enter_hook.remove(hook)
        assert len(calls) == 3
    launch.replayed(function, (x,), (1.0,))
    assert len(calls) <= 3


# --- the operator ------------------------------------------------------------------------------


def live_tensors():
    gc.collect()
    return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())


@pytest.fixture
def no_more_recordings(monkeypatch):
    """Called, it makes sure that from then on every call is a replay."""

    def forbid():
        def refuse(*_):
            raise AssertionError("this call should have been a replay")

        monkeypatch.setattr(launch, "Recording", refuse)

    return forbid


@both_ways
@pytest.mark.parametrize("N", [20, 43, 150], ids=["short", "shared", "long"])
@pytest.mark.parametrize("options", [{}, {"normalize": False, "scale": 0.5}], ids=str)
def test_replays_agree_with_the_truth(causal, N, options, no_more_recordings):
    """Forward, with and without what the backward pass needs, and backward; other numbers."""
    state = state_for(FLOAT32)
    agree(linear_attention, *qkv(FLOAT32, N=N), state, causal=causal, **options)
    linear_attention(*qkv(FLOAT32, N=N), causal=causal, **options)
    no_more_recordings()
    agree(linear_attention, *qkv(FLOAT32, N=N, seed=7), state, causal=causal, **options)
    q, k, v = qkv(FLOAT32, N=N, seed=9)
    o = linear_attention(q, k, v, causal=causal, **options)
    assert torch.equal(o, linear_attention_long(q, k, v, causal=causal, **options))


def linear_attention_long(*args, **options):
    """The same call, neither recorded nor replayed."""
    real, launch.signature = launch.signature, lambda *_: None
    try:
        return linear_attention(*args, **options)
    finally:
        launch.signature = real


@both_ways
def test_replays_of_packed_sequences_read_their_bounds(causal):
    q, k, v = qkv(FLOAT32, N=60)
    for ends in ([0, 20, 60], [0, 33, 60], [0, 0, 60]):
        bounds = torch.tensor(ends, dtype=torch.int32, device=DEVICE)
        agree(linear_attention, q, k, v, causal=causal, cu_seqlens=bounds)


def test_steps_are_replayed(no_more_recordings):
    q, k, v = (x[:, :, 0] for x in qkv(FLOAT32, N=1))
    state = state_for(FLOAT32)
    first = linear_attention_step(q, k, v, state)
    no_more_recordings()
    again = linear_attention_step(q, k, v, state)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1].kv, again[1].kv)
    other = linear_attention_step(k, q, v, again[1])
    assert not torch.equal(other[1].z, again[1].z)


def test_a_replay_checks_what_a_first_call_checks():
    q, k, v = qkv(FLOAT32)
    for _ in range(2):
        linear_attention(q, k, v, causal=True)
        with pytest.raises(TypeError, match="causal"):
            linear_attention(q, k, v, causal=1)
        with pytest.raises(TypeError, match="normalize"):
            linear_attention(q, k, v, causal=True, normalize=1.0)
        with pytest.raises(ValueError, match="same length"):
            linear_attention(q, k, v[:, :, :-1])


@both_ways
@pytest.mark.parametrize("N", [30, 80], ids=["short", "long"])
def test_no_tensor_is_kept(causal, N):
    def call():
        inputs = [x.requires_grad_() for x in qkv(FLOAT32, N=N)]
        linear_attention(*inputs, causal=causal).sum().backward()
        with torch.no_grad():
            linear_attention(*inputs, causal=causal)

    call()
    before = live_tensors()
    launch.forget()
    for _ in range(3):
        call()
    assert any(launch._replays.values())
    assert live_tensors() <= before


def test_grad_mode_and_requires_grad_are_looked_at_each_time():
    q, k, v = qkv(FLOAT32)
    assert not linear_attention(q, k, v).requires_grad
    x = q.clone().requires_grad_()
    assert linear_attention(x, k, v).requires_grad
    with torch.no_grad():
        assert not linear_attention(x, k, v).requires_grad
    with torch.inference_mode():
        assert torch.equal(linear_attention(x, k, v), linear_attention(q, k, v))
    assert linear_attention(q, x, v).requires_grad
