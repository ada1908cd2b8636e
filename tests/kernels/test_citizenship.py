"""What PyTorch does with operators: compile, autocast, capture, map and transform them."""

import pytest
import torch
from oracle import DEVICE, ON_GPU, qkv, randn, run, state_for
from torch._subclasses import FakeTensorMode

from kernels import linear_attention, linear_attention_step, reference

both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
on_a_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU: CUDA graphs are captured there")
FLOAT32 = type("F", (), {"dtype": torch.float32})
BACKEND = "inductor" if ON_GPU else "aot_eager"  # the interpreter is no compiler's matter


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        assert torch.equal(found[name], want), name


@both_ways
@pytest.mark.parametrize("options", [{}, {"feature_map": "relu", "normalize": False}], ids=str)
def test_compiled_whole_it_gives_the_same(causal, options):
    torch._dynamo.reset()
    compiled = torch.compile(linear_attention, fullgraph=True, backend=BACKEND)
    inputs = (*qkv(FLOAT32, H=4, Hk=2), state_for(FLOAT32))
    options = {"causal": causal, "enable_gqa": True, "return_state": True, **options}
    same(run(compiled, *inputs, **options), run(linear_attention, *inputs, **options))


@both_ways
def test_compiled_for_any_length_it_gives_the_same(causal):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # which a reset leaves
    compiled = torch.compile(linear_attention, fullgraph=True, dynamic=True, backend=BACKEND)
    for N in (30, 45, 61):
        inputs = qkv(FLOAT32, N=N)
        expected = linear_attention(*inputs, causal=causal)
        assert torch.equal(compiled(*inputs, causal=causal), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_compiled_with_packed_sequences():
    torch._dynamo.reset()
    compiled = torch.compile(linear_attention, fullgraph=True, backend=BACKEND)
    bounds = torch.tensor([0, 20, 50], dtype=torch.int32, device=DEVICE)
    inputs = qkv(FLOAT32)
    for causal in (False, True):
        found = compiled(*inputs, causal=causal, cu_seqlens=bounds)
        assert torch.equal(found, linear_attention(*inputs, causal=causal, cu_seqlens=bounds))


def test_compiled_with_a_callable_feature_map():
    torch._dynamo.reset()
    double = lambda x: torch.cat([x.relu(), (-x).relu()], -1)  # noqa: E731
    compiled = torch.compile(
        lambda q, k, v: linear_attention(q, k, v, feature_map=double),
        fullgraph=True, backend=BACKEND,
    )  # fmt: skip
    inputs = qkv(FLOAT32)
    assert torch.allclose(compiled(*inputs), linear_attention(*inputs, feature_map=double))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_as_it_does_for_softmax_attention(dtype):
    q, k, v = qkv(FLOAT32)
    cast = [x.to(dtype) for x in (q, k, v)]
    with torch.autocast(DEVICE, dtype=dtype):
        o = linear_attention(q, k, v)
        mixed = linear_attention(q, cast[1], v)
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v).dtype
        step, state = linear_attention_step(*(x[:, :, 0] for x in (q, k, v)), state_for(FLOAT32))
    assert o.dtype == step.dtype == wanted == dtype and state.kv.dtype == torch.float32
    assert torch.equal(o, linear_attention(*cast)) and torch.equal(mixed, o)
    with torch.autocast(DEVICE, dtype=dtype, enabled=False):
        assert linear_attention(q, k, v).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["quadratic", "recurrent", "chunked"])
def test_autocast_leaves_the_sums_of_a_reference_alone(form, dtype):
    """Where it stands for the kernels: they would be rounded, and overflow float16."""
    q, k, v = (x.to(dtype) for x in qkv(FLOAT32, N=40))
    attend = lambda: getattr(reference, form)(q, k, v + 3e4, return_state=True)  # noqa: E731
    o, state = attend()
    with torch.autocast(DEVICE, dtype=dtype):
        o_cast, state_cast = attend()
        on_meta = linear_attention(*(x.to("meta") for x in (q, k, v)))
    assert torch.equal(o_cast, o) and torch.equal(state_cast.kv, state.kv) and o.isfinite().all()
    assert on_meta.shape == v.shape


def test_autocast_hands_the_gradients_back_in_their_own_dtype():
    inputs = [x.requires_grad_() for x in qkv(FLOAT32)]
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        linear_attention(*inputs, causal=True).sum().backward()
    assert all(x.grad.dtype == torch.float32 for x in inputs)


@both_ways
def test_vmap_maps_over_one_more_batch_dimension(causal):
    torch.manual_seed(0)
    q, v = torch.randn(2, 3, 2, 2, 30, 16, device=DEVICE).unbind()
    k = torch.randn(2, 2, 30, 16, device=DEVICE)  # the same for all
    kv, z = state_for(FLOAT32, S=2)

    def attend(q, k, v, kv, z):
        o, state = linear_attention(
            q, k, v, causal=causal, initial_state=(kv, z), return_state=True
        )
        return o, *state

    found = torch.func.vmap(attend, in_dims=(0, None, 0, None, None))(q, k, v, kv, z)
    moved = torch.func.vmap(attend, in_dims=(2, None, 0, None, None), out_dims=1)(
        q.movedim(0, 2), k, v, kv, z
    )
    for i in range(3):
        for x, y, want in zip(found, moved, attend(q[i], k, v[i], kv, z), strict=True):
            assert torch.equal(x[i], want) and torch.equal(y[:, i], want)


@both_ways
def test_vmap_repeats_a_state_of_one_sequence(causal):
    """Which then has strides of zero, and the kernels count on the state's own."""
    q = torch.randn(3, 1, 2, 30, 16, device=DEVICE)
    _, k, v = qkv(FLOAT32, N=30)
    state = state_for(FLOAT32)
    attend = lambda q: linear_attention(  # noqa: E731
        q, k, v, causal=causal, initial_state=state
    )
    found = torch.func.vmap(attend)(q)
    assert all(torch.equal(x, attend(y)) for x, y in zip(found, q, strict=True))


@both_ways
def test_many_gradients_at_once(causal):
    """A whole Jacobian in one backward pass: `vmap` over gradients, the newer and the older one."""
    inputs = qkv(FLOAT32, H=1, N=2, D=2)
    attend = lambda *inputs: linear_attention(*inputs, causal=causal)  # noqa: E731
    jacobian = torch.autograd.functional.jacobian
    each = jacobian(attend, inputs)
    newer = torch.func.jacrev(attend, argnums=(0, 1, 2))(*inputs)
    older = jacobian(attend, inputs, vectorize=True)
    for x, y, want in zip(newer, older, each, strict=True):
        assert torch.equal(x, want) and torch.equal(y, want)


def test_a_step_that_is_compiled_mapped_and_without_data():
    state = state_for(FLOAT32)
    inputs = [x[:, :, 0] for x in qkv(FLOAT32, N=1)]
    step = lambda q, k, v, kv, z: linear_attention_step(q, k, v, (kv, z))[0]  # noqa: E731
    want = step(*inputs, *state)
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=BACKEND)
    assert torch.allclose(compiled(*inputs, *state), want, rtol=1e-5)
    mapped = torch.func.vmap(step)(*(x[None] for x in (*inputs, *state)))
    assert torch.allclose(mapped[0], want, rtol=1e-5)
    with FakeTensorMode() as mode:
        o = step(*(mode.from_tensor(x) for x in (*inputs, *state)))
    assert o.fake_mode is mode and o.shape == want.shape


@both_ways
@pytest.mark.parametrize("decayed", [False, True], ids=["", "decay"])
@pytest.mark.parametrize("ends", [None, [0, 0, 0]], ids=["one", "packed"])
def test_without_any_token_every_input_has_a_gradient(subject, causal, decayed, ends):
    inputs = [x.requires_grad_() for x in qkv(subject, N=0)]
    options = {"causal": causal}
    if decayed:
        options["decay"] = randn(2, dtype=torch.promote_types(subject.dtype, torch.float32)) * 0
        inputs.append(options["decay"].requires_grad_())
    if ends:
        options["cu_seqlens"] = torch.tensor(ends, dtype=torch.int32, device=DEVICE)
    o = subject(*inputs[:3], **options)
    for grad, x in zip(torch.autograd.grad(o.sum(), inputs), inputs, strict=True):
        assert grad.shape == x.shape and not grad.any()


def negative(x):
    """x as PyTorch may keep it: what is stored is -x, and a bit says so."""
    return torch._neg_view(-x)


@both_ways
def test_negatives_that_are_views(causal):
    """Such as the imaginary part of a conjugate; also as the gradient of the output."""
    inputs = qkv(FLOAT32)
    state = state_for(FLOAT32)
    do = torch.randn_like(inputs[0])

    def attend(as_given):
        leaves = [as_given(x).requires_grad_() for x in (*inputs, *state)]
        o, after = linear_attention(
            *leaves[:3], causal=causal, initial_state=tuple(leaves[3:]), return_state=True
        )
        dkv = as_given(after.kv.detach())
        return o, *torch.autograd.grad((o, after.kv), leaves, (as_given(do), dkv))

    def forward(as_given):
        q, k, v, kv, z = (as_given(x) for x in (*inputs, *state))
        step = linear_attention_step(*(x[:, :, 0] for x in (q, k, v)), (kv, z))
        return linear_attention(q, k, v, causal=causal), step[0], *step[1]

    assert negative(do).is_neg() and torch.equal(negative(do), do)
    for run_both in (attend, forward):
        want = run_both(torch.clone)
        assert all(torch.equal(x, y) for x, y in zip(run_both(negative), want, strict=True))


@both_ways
def test_gradients_of_each_sample(causal):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 1, 2, 30, 16, device=DEVICE)
    loss = lambda q, k, v: linear_attention(q, k, v, causal=causal).square().sum()  # noqa: E731
    each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    for i in range(3):
        inputs = [x[i].clone().requires_grad_() for x in (q, k, v)]
        expected = torch.autograd.grad(loss(*inputs), inputs)
        assert all(torch.equal(x[i], y) for x, y in zip(each, expected, strict=True))


def test_what_cannot_be_done_says_why():
    q, k, v = qkv(FLOAT32)
    bounds = torch.tensor([0, 50], dtype=torch.int32, device=DEVICE)
    packed = lambda q: linear_attention(q, k, v, cu_seqlens=bounds)  # noqa: E731
    with pytest.raises(NotImplementedError, match="cu_seqlens"):
        torch.func.vmap(packed)(q[None])
    alone = lambda q: linear_attention(q, k, v)  # noqa: E731
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(alone, (q,), (q,))
    with torch.autograd.forward_ad.dual_level():
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            alone(torch.autograd.forward_ad.make_dual(q, q))
    q.requires_grad_()
    (grad,) = torch.autograd.grad(alone(q).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


@both_ways
def test_shapes_without_data(causal):
    with FakeTensorMode() as mode:
        q, k = (torch.empty(2, 4, 30, 16, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
        v = torch.empty(2, 4, 30, 24, device=DEVICE, dtype=torch.bfloat16)
        o, state = linear_attention(q, k, v, causal=causal, return_state=True)
    assert o.fake_mode is mode and o.shape == v.shape and o.dtype == v.dtype
    assert state.kv.shape == (2, 4, 16, 24) and state.z.dtype == torch.float32


@on_a_gpu
@both_ways
@pytest.mark.parametrize("N", [300, 2000, 5000], ids=["short", "shared", "long"])
def test_a_captured_graph_computes_anew(causal, N):
    """Forward and backward in one graph, replayed with other numbers."""
    half = type("F", (), {"dtype": torch.bfloat16})
    inputs = [x.requires_grad_() for x in qkv(half, N=N, D=64)]

    def work():
        o = linear_attention(*inputs, causal=causal)
        return o, *torch.autograd.grad(o, inputs, inputs[0])

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for seed in (5, 6):
        with torch.no_grad():
            for x, y in zip(inputs, qkv(half, N=N, D=64, seed=seed), strict=True):
                x.copy_(y)
        graph.replay()
        results = [x.clone() for x in captured]
        assert all(torch.equal(x, y) for x, y in zip(results, work(), strict=True))


@on_a_gpu
def test_streams_and_a_stream_of_its_own():
    """A replay launches on the stream that is current then, not on that of its recording."""
    q, k, v = qkv(FLOAT32, N=300)
    expected = linear_attention(q, k, v)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        x = q * 2
        o = linear_attention(x, k, v)
    side.synchronize()
    assert torch.equal(o, linear_attention(q * 2, k, v)) and not torch.equal(o, expected)
