"""Large, tiny, equal and missing numbers; and on a GPU, long sequences."""

import gc
import tempfile
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from oracle import (
    DEVICE,
    MAPS,
    ON_GPU,
    TOLERANCE,
    agree,
    assert_close,
    qkv,
    randn,
    relative_error,
    truth,
)

from kernels import linear_attention

both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
PATIENCE_S = 120.0  # for memory that other tests hold
on_a_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU: too large for the interpreter")


@both_ways
def test_large_inputs(subject, causal):
    q, k, v = qkv(subject, N=80, D=32)
    agree(subject, 100 * q, 100 * k, 1000 * v, causal=causal, backward=False)


@both_ways
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
def test_softmax_of_large_inputs_does_not_overflow(subject, causal, normalize):
    q, k, v = qkv(subject, N=40)
    options = {"feature_map": "softmax", "normalize": normalize}
    agree(subject, 100 + 3 * q, 3 * k - 100, v, causal=causal, **options)


@both_ways
def test_exp_of_large_inputs(precise, causal):
    q, k, v = qkv(precise, N=40)
    agree(precise, 6 * q, 6 * k, v, causal=causal, feature_map="exp", backward=False)


@both_ways
def test_very_negative_inputs_keep_their_relative_precision(operator, causal):
    """elu(x) + 1 is exp(x) there: as a difference of two numbers near 1 it would be 0."""
    q, k, v = qkv(operator, N=40)
    agree(operator, q, k - 12, v, causal=causal, eps=0, backward=False)


@both_ways
def test_denominators_beyond_the_range_of_float16(subject, causal):
    q, k, v = qkv(subject, N=100, D=64)
    q, k = 25 + q, 25 + k
    assert (q.double() @ k.double().mT).sum(-1).min() > 65504
    agree(subject, q, k, v, causal=causal, backward=False)


@both_ways
def test_values_beyond_the_range_of_float16_in_the_state(subject, causal):
    q, k, v = qkv(subject, N=100)
    agree(subject, q, k + 5, v + 500, causal=causal, backward=False)


def test_equal_keys_give_the_mean_of_the_values(subject):
    q, k, v = qkv(subject, N=90)
    k = k[:, :, :1].expand(k.shape)
    mean = v.double().mean(2, keepdim=True).expand(v.shape)
    assert_close("o", subject(q, k, v, eps=0), mean, TOLERANCE[subject.dtype])
    running = v.double().cumsum(2) / torch.arange(1, 91, device=v.device)[:, None]
    assert_close("o", subject(q, k, v, causal=True, eps=0), running, TOLERANCE[subject.dtype])


def test_equal_values_come_out_again(subject):
    q, k, v = qkv(subject, N=90)
    v = v[:, :, :1].expand(v.shape)
    for causal in (False, True):
        o = subject(q, k, v, causal=causal, eps=0)
        assert_close("o", o, v, TOLERANCE[subject.dtype])


@both_ways
@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize("factor", [1, 100])
def test_one_hot_queries_and_keys(operator, causal, feature_map, factor):
    """All of a row in one place: a query sees the keys of that place, and hardly another."""
    factor = 6 if (factor, feature_map) == (100, "exp") else factor  # exp(200) is no float32
    q, k, v = qkv(operator, H=1, N=70)
    rows = torch.arange(70, device=v.device)
    q, k = (factor * F.one_hot(rows * n % 16, 16).to(v.dtype)[None, None] for n in (3, 5))
    most = MAPS[feature_map](q.double()).max().item() ** 2  # of φ(q)φ(k)ᵀ
    # eps as in test_any_length: keys of one place differ in nothing that a query could prefer
    options = {"causal": causal, "feature_map": feature_map}
    if (factor, feature_map) == (100, "softmax"):  # 0 and 1: no float32 has its derivative
        options["wrt"] = ["v"]
    agree(operator, q, k, v, **options, eps=5 * most)
    agree(operator, q, k, v, **options, normalize=False, scale=1 / most)


@both_ways
def test_a_query_without_features_gives_zero(subject, causal):
    q, k, v = qkv(subject)
    q[:, :, 20:30] = -1
    o = subject(q, k, v, causal=causal, feature_map="relu")
    assert not o[:, :, 20:30].any() and o.isfinite().all()


@both_ways
@pytest.mark.parametrize("feature_map", ["elu", "relu", "exp", "softmax", "identity"])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
def test_nan_in_a_query_is_seen_in_its_row_and_nowhere_else(
    subject, causal, feature_map, normalize
):
    q, k, v = qkv(subject, H=1, N=30)
    options = {"causal": causal, "feature_map": feature_map, "normalize": normalize}
    clean = subject(q, k, v, **options)
    q[0, 0, 11, 3] = float("nan")
    o = subject(q, k, v, **options)
    assert o[0, 0, 11].isnan().all()
    assert torch.equal(o[:, :, :11], clean[:, :, :11])
    assert torch.equal(o[:, :, 12:], clean[:, :, 12:])


@both_ways
@pytest.mark.parametrize("feature_map", ["elu", "relu", "exp", "softmax", "identity"])
def test_nan_in_a_key_is_seen_by_all_who_see_the_key(subject, causal, feature_map):
    q, k, v = qkv(subject, H=1, N=30)
    k[0, 0, 11, 3] = float("nan")
    # positive features, as 0 · NaN and NaN are NaN alike
    o = subject(q.abs() + 0.1, k, v, causal=causal, feature_map=feature_map)
    assert o[0, 0, 11:].isnan().all()
    assert o[0, 0, :11].isnan().any() != causal


# --- long sequences ----------------------------------------------------------------------------


def sampled_truth(q, k, v, causal, rows):
    """Rows of the normalized output for one head [N, D], by their definition in float64."""
    phi = lambda x: torch.nn.functional.elu(x.double()) + 1  # noqa: E731
    outs = []
    for t in rows:
        last = t + 1 if causal else len(k)
        total, o = 0, 0
        for n in range(0, last, 1 << 20):
            chunk = slice(n, min(n + (1 << 20), last))
            weights = phi(k[chunk]) @ phi(q[t])
            total, o = total + weights.sum(), o + weights @ v[chunk].double()
        outs.append(o / (total + 1e-6))
    return torch.stack(outs)


@pytest.fixture
def needs_memory():
    """Waits until so many gigabytes of the GPU are free; tests side by side take them in turn."""
    import fcntl  # there is none on Windows

    def needs(gigabytes):
        fcntl.flock(lock, fcntl.LOCK_EX)
        end = time.monotonic() + PATIENCE_S
        while (free := torch.cuda.mem_get_info()[0] / 1e9) < gigabytes:
            if time.monotonic() > end:
                pytest.skip(f"needs {gigabytes} GB of GPU memory, {free:.0f} are free")
            time.sleep(1)
            torch.cuda.empty_cache()

    torch.cuda.empty_cache()  # what an earlier test had and PyTorch kept
    with open(Path(tempfile.gettempdir(), "book-tests-memory"), "w") as lock:
        yield needs
        gc.collect()
        torch.cuda.empty_cache()


def fast_randn(*shape, dtype, seed):
    """Made on the GPU: for sizes that the CPU would take minutes to fill."""
    torch.manual_seed(seed)
    return torch.randn(shape, dtype=dtype, device=DEVICE)


@on_a_gpu
@both_ways
def test_long_float16_with_denominators_beyond_its_range(causal):
    q, k, v = (randn(1, 2, 8192, 128, dtype=torch.float16, seed=i) for i in range(3))
    agree(linear_attention, q, k, v, causal=causal)


@on_a_gpu
@both_ways
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_million_tokens(causal, dtype):
    N = (1 << 20) + 13
    q, k, v = (fast_randn(1, 1, N, 64, dtype=dtype, seed=i).requires_grad_() for i in range(3))
    v.data += 1  # a mean that does not vanish
    o = linear_attention(q, k, v, causal=causal)
    rows = [0, 1, 63, 64, 1000, 65535, 65536, N // 2, N - 65, N - 2, N - 1]
    with torch.no_grad():
        want = sampled_truth(q[0, 0], k[0, 0], v[0, 0], causal, rows)
    assert relative_error(o[0, 0, rows], want) < TOLERANCE[dtype]
    o.backward(torch.ones_like(o))
    # the weights of each output row sum to one, so the gradients of v sum to N
    assert all(x.grad.isfinite().all() for x in (q, k, v))
    sums = v.grad.double().sum((0, 1, 2))
    assert relative_error(sums, torch.full_like(sums, N)) < 3 * TOLERANCE[dtype]


@on_a_gpu
@both_ways
def test_more_than_2_to_the_31_elements_in_one_head(causal, needs_memory):
    """Offsets of rows pass the range of int32; the inputs take 4.3 GB each."""
    needs_memory(60)
    N = (1 << 25) + 1000
    q, k, v = (fast_randn(1, 1, N, 64, dtype=torch.bfloat16, seed=i) for i in range(3))
    v += 1
    assert q.numel() > 2**31
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    o = linear_attention(q, k, v, causal=causal)
    rows = [0, 1000, N // 2, N - 1001, N - 1]
    with torch.no_grad():
        want = sampled_truth(q[0, 0], k[0, 0], v[0, 0], causal, rows)
    assert relative_error(o[0, 0, rows], want) < TOLERANCE[torch.bfloat16]
    # a gradient that comes from the last rows only has to arrive there
    o[:, :, -1000:].sum().backward()
    tail = v.grad[0, 0, -1000:].double()
    assert tail.isfinite().all() and tail.abs().sum() > 0
    assert q.grad[0, 0, -1000:].isfinite().all() and not q.grad[0, 0, :-1000].any()


@on_a_gpu
@both_ways
def test_more_than_2_to_the_31_elements_in_many_heads(causal, needs_memory):
    """Offsets of heads pass the range of int32."""
    needs_memory(40)
    B, H, N = 3, 11, (1 << 20) + 1
    q, k, v = (fast_randn(B, H, N, 64, dtype=torch.bfloat16, seed=i) for i in range(3))
    v += 1
    assert q.numel() > 2**31
    o = linear_attention(q, k, v, causal=causal)
    rows = [0, 5000, N - 1]
    for b, h in ((0, 0), (1, 5), (B - 1, H - 1)):
        want = sampled_truth(q[b, h], k[b, h], v[b, h], causal, rows)
        assert relative_error(o[b, h, rows], want) < TOLERANCE[torch.bfloat16]


@on_a_gpu
@both_ways
@pytest.mark.parametrize("D, Dv", [(64, 64), (128, 128), (256, 256), (40, 100)])
def test_many_blocks_and_heads(operator, causal, D, Dv):
    """Enough programs for several waves, and heads cut into parts."""
    agree(operator, *qkv(operator, B=2, H=8, N=3001, D=D, Dv=Dv), causal=causal)


def test_sampled_truth_is_the_truth():
    q, k, v = (randn(1, 1, 50, 8, seed=i) for i in range(3))
    for causal in (False, True):
        want = truth(q, k, v, causal=causal)[0][0, 0, [0, 7, 49]]
        assert (
            relative_error(sampled_truth(q[0, 0], k[0, 0], v[0, 0], causal, [0, 7, 49]), want)
            < 1e-12
        )
