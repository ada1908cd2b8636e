"""The ways of computing the same thing: short sequences in one launch, chained segments, parts."""

import pytest
import torch
from oracle import DEVICE, ON_GPU

from kernels import LinearAttentionState, chained, configs, linear_attention, reference, short
from kernels import causal as two_passes
from kernels.launch import forget

BFLOAT16 = torch.bfloat16
HOPPER = ON_GPU and torch.cuda.get_device_capability() == (9, 0)
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs an NVIDIA GPU")
needs_hopper = pytest.mark.skipif(not HOPPER, reason="needs an H100 or H200")


def inputs(H, Hk, N, M, D, DV, dtype=torch.float32, B=1, transposed=False):
    """q, k, v; `transposed`: [B, N, H, D] in memory."""
    generator = torch.Generator().manual_seed(N + M + D)

    def normal(h, n, d):
        shape = (B, n, h, d) if transposed else (B, h, n, d)
        x = torch.randn(shape, generator=generator).to(DEVICE, dtype)
        return x.transpose(1, 2) if transposed else x

    return normal(H, N, D), normal(Hk, M, D), normal(Hk, M, DV)


def some_state(B, Hk, D, DV):
    generator = torch.Generator().manual_seed(D)
    kv = torch.randn(B, Hk, D, DV, generator=generator)
    return LinearAttentionState(
        kv.to(DEVICE), torch.rand(B, Hk, D, generator=generator).to(DEVICE) + 1
    )


def flat(state):
    return None if state is None else torch.cat([state.kv.flatten(2), state.z], -1)


def truth(q, k, v, state, **options):
    state = state and LinearAttentionState(*(x.double() for x in state))
    o, after = reference.chunked(
        q.double(), k.double(), v.double(), initial_state=state, return_state=True,
        enable_gqa=True, **options,
    )  # fmt: skip
    return o, flat(after)


def error(x, y):
    """Largest difference over the largest true value; NaN if there is one."""
    return ((x.double() - y).abs().max() / y.abs().max()).item()


SHAPES = [  # H, Hk, N, M, D, DV
    (2, 2, 64, 64, 16, 16),
    (2, 1, 33, 70, 16, 24),
    (4, 2, 1, 100, 20, 16),
    (1, 1, 100, 1, 48, 40),
    (1, 1, 64, 128, 64, 160),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_short_sequence_in_one_launch(shape, normalize, with_state, transposed, causal):
    H, Hk, N, M, D, DV = shape
    N = M if causal else N
    q, k, v = inputs(H, Hk, N, M, D, DV, transposed=transposed)
    state = some_state(1, Hk, D, DV) if with_state else None
    o, after = short.forward(q, k, v, flat(state), causal, "elu", normalize, 0.5, 1e-6, True)
    o_true, after_true = truth(q, k, v, state, causal=causal, normalize=normalize, scale=0.5)
    assert error(o, o_true) < 1e-5
    assert error(after, after_true) < 1e-5


@pytest.mark.parametrize("shape", SHAPES + [(2, 2, 400, 400, 16, 16)], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_programs_that_share_the_sums(shape, normalize, with_state, causal, monkeypatch):
    """Many parts and one, several tiles of values, two layouts in memory."""
    H, Hk, N, M, D, DV = shape
    N = M if causal else N
    monkeypatch.setattr(configs, "SHORT", 0)
    monkeypatch.setattr(configs, "hardware", lambda device: (0, 40))  # 40 // H // tiles parts
    launched = []
    real = short.launch
    monkeypatch.setattr(short, "launch", lambda *x, **y: launched.append(y) or real(*x, **y))
    q, k, v = inputs(H, Hk, N, M, D, DV, transposed=normalize)
    state = some_state(1, Hk, D, DV) if with_state else None
    o, after = short.forward(q, k, v, flat(state), causal, "elu", normalize, 0.5, 1e-6, True)
    assert launched[0]["SHARED"] == (launched[0]["parts"] > 1)
    o_true, after_true = truth(q, k, v, state, causal=causal, normalize=normalize, scale=0.5)
    assert error(o, o_true) < 1e-5
    assert error(after, after_true) < 1e-5


@needs_hopper
@pytest.mark.parametrize("causal", [False, True])
def test_shared_sums_on_two_streams(causal, monkeypatch):
    """Calls that overlap do not take each other's tickets."""
    monkeypatch.setattr(configs, "SHORT", 1024)
    monkeypatch.setattr(configs, "SHARED", 2048)
    calls = [inputs(8, 8, N, N, 64, 64, BFLOAT16) for N in (2048, 2000)]
    want = [linear_attention(*x, causal=causal) for x in calls]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in calls]
    got = []
    for i in range(200):
        with torch.cuda.stream(streams[i % 2]):
            got.append(linear_attention(*calls[i // 2 % 2], causal=causal))
    torch.cuda.synchronize()
    assert all(torch.equal(o, want[i // 2 % 2]) for i, o in enumerate(got))


@pytest.mark.parametrize("feature_map", ["relu", "exp", "softmax", "identity"])
def test_a_short_sequence_with_every_feature_map(feature_map):
    q, k, v = inputs(2, 2, 40, 24, 24, 16)
    o, *_ = short.forward(q, k, v, None, False, feature_map, False, 0.5, 1e-6, False)
    o_true, _ = truth(q, k, v, None, feature_map=feature_map, normalize=False, scale=0.5)
    assert error(o, o_true) < 1e-5


@pytest.mark.parametrize("shape", [(2, 2, 64, 16), (2, 2, 320, 16), (4, 2, 640, 32)], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("with_state", [False, True])
def test_a_chain_of_segments(shape, normalize, with_state):
    H, Hk, N, D = shape
    q, k, v = inputs(H, Hk, N, N, D, D, B=2)
    state = some_state(2, Hk, D, D) if with_state else None
    o, after, kept = chained.forward(q, k, v, flat(state), "elu", normalize, 0.5, 1e-6, True)
    o_true, after_true = truth(q, k, v, state, causal=True, normalize=normalize, scale=0.5)
    assert error(o, o_true) < 1e-5
    assert error(after, after_true) < 1e-5
    every = configs.CHAINED.segment * configs.CHAINED.kept
    assert kept.shape == (2, Hk, configs.cdiv(N, every), D * D + D)
    for i in range(kept.shape[2]):
        seen = [x[:, :, : i * every] for x in (q, k, v)]
        if i or state:
            before = truth(*seen, state, causal=True)[1] if i else flat(state).double()
            assert error(kept[:, :, i], before) < 1e-5
        else:
            assert not kept[:, :, 0].any()


@pytest.mark.parametrize("N", [512, 480])  # a part begins at a state that was kept, or not
@pytest.mark.parametrize("with_state", [False, True])
def test_states_that_were_kept_spare_a_pass(N, with_state, monkeypatch):
    H, Hk, D = 4, 2, 16
    q, k, v = (x.requires_grad_() for x in inputs(H, Hk, N, N, D, D, B=2))
    state = some_state(2, Hk, D, D) if with_state else None
    do = torch.randn_like(q)

    def gradients():
        o = linear_attention(q, k, v, causal=True, initial_state=state, enable_gqa=True)
        return torch.autograd.grad(o, (q, k, v), do)

    want = gradients()
    monkeypatch.setattr(configs, "chained_is_faster", lambda q, k, v: True)
    monkeypatch.setattr(configs, "CHAINED", configs.Chained(32, 16, 1, kept=2))
    # the parts of a small GPU, whichever is here
    arch, _ = configs.hardware(q.device)
    monkeypatch.setattr(configs, "hardware", lambda device: (arch, 8))
    passes, launch_state = [], two_passes.launch_state

    def seen(*x, **named):
        passes.append(named["skip"])
        launch_state(*x, **named)

    monkeypatch.setattr(two_passes, "launch_state", seen)
    forget()
    got = gradients()
    forget()
    assert passes == (["first"] if N == 512 else ["last", "first"])
    for x, y in zip(got, want, strict=True):
        assert error(x, y.double()) < 1e-5


@pytest.mark.parametrize("cuts", [2, 3, 7])
def test_parts_of_several_cuts(cuts, monkeypatch):
    q, k, v = (x.requires_grad_() for x in inputs(2, 1, 700, 700, 16, 24))

    def run():
        forget()
        o = linear_attention(q, k, v, causal=True, enable_gqa=True)
        return o, *torch.autograd.grad(o, (q, k, v), torch.ones_like(o))

    monkeypatch.setattr(configs, "cuts", lambda *_: 1)
    want = run()
    monkeypatch.setattr(configs, "cuts", lambda *_: cuts)
    for x, y in zip(run(), want, strict=True):
        assert error(x, y.double()) < 1e-5


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("N", [1, 40, 41, 200])
def test_short_and_long_agree(causal, N, monkeypatch):
    q, k, v = inputs(2, 2, N, N, 16, 16)
    long = linear_attention(q, k, v, causal=causal, return_state=True)
    monkeypatch.setattr(configs, "SHORT", 1024)
    o, state = linear_attention(q, k, v, causal=causal, return_state=True)
    for x, y in zip((o, *state), (long[0], *long[1]), strict=True):
        assert error(x, y.double()) < 1e-5


@needs_hopper
@pytest.mark.parametrize("N", [4096, 4096 + 64, 16384])
def test_the_chain_on_an_h100(N):
    q, k, v = inputs(8, 8, N, N, 64, 64, BFLOAT16, B=8)
    assert configs.chained_is_faster(q, k, v)
    o, state = linear_attention(q, k, v, causal=True, return_state=True)
    again = linear_attention(q, k, v, causal=True)
    assert torch.equal(o, again)
    heads = (slice(7, 8), slice(5, 8))
    o_true, after = truth(q[heads], k[heads], v[heads], None, causal=True)
    assert error(o[heads], o_true) < 0.02
    assert error(flat(state)[heads], after) < 0.01


@needs_gpu
def test_a_launch_that_is_remembered_gives_the_same():
    q, k, v = inputs(2, 2, 300, 300, 64, 64, BFLOAT16)
    first = linear_attention(q, k, v, causal=True)
    assert torch.equal(first, linear_attention(q, k, v, causal=True))
    # pointers that are not multiples of 16 bytes need another form of the kernel
    odd = [torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)[1:] for x in (q, k, v)]
    odd = [a.copy_(x.flatten()).view_as(x) for a, x in zip(odd, (q, k, v), strict=True)]
    assert odd[0].data_ptr() % 16
    assert torch.equal(first, linear_attention(*odd, causal=True))
