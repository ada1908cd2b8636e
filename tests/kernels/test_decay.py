"""Linear attention with decay: the quadratic form with its mask, in one direction and in both.

The truth here is written out apart from `kernels.reference`: the mask entry by entry, as a product
of factors, in float64.
"""

import importlib.util

import pytest
import torch
from oracle import (
    DEVICE,
    GRADIENT,
    MAPS,
    ON_GPU,
    SUBJECTS,
    TOLERANCE,
    Subject,
    assert_close,
    qkv,
    randn,
    relative_error,
    state_for,
)

from kernels import LinearAttentionState, configs, launch, linear_attention, linear_attention_step
from kernels.decay import UNIT
from kernels.reference import chunked, quadratic, recurrent

OPERATOR = [s for s in SUBJECTS if s.name == "operator"]
FLOAT32 = OPERATOR[0]
REFERENCES = [s for s in SUBJECTS if s.name != "operator"]
subjects = pytest.mark.parametrize(
    "subject", [*(OPERATOR if ON_GPU else OPERATOR[:1]), *REFERENCES], ids=str
)
kinds = pytest.mark.parametrize("selective", [False, True], ids=["fixed", "selective"])
both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


def decays(subject, *shape, seed=30):
    """Log decays as models have them: from a factor near 1 to half and less."""
    dtype = torch.promote_types(subject.dtype, torch.float32)
    return -(randn(*shape, dtype=dtype, seed=seed).abs() * 0.5 + 0.003)


def mask(g, causal):
    """M [N, N] of log decays g [N], multiplied up factor by factor; mirrored if not causal."""
    factors = g.double().exp()
    row, rows = factors[:0], []
    for factor in factors:  # from one row to the next, all that came before fades once more
        row = torch.cat([row * factor, torch.ones_like(factors[:1])])
        rows.append(torch.nn.functional.pad(row, (0, len(g) - len(row))))
    lower = torch.stack(rows) if rows else factors.new_zeros(0, 0)
    return lower if causal else lower + lower.mT.triu(1)


def truth(
    q, k, v, decay, *, causal, feature_map="elu", normalize=True, scale=None, eps=1e-6,
    initial_state=None, cu_seqlens=None,
):  # fmt: skip
    """(out, kv, z) in float64; kv and z only when causal."""
    phi = MAPS.get(feature_map, feature_map)
    B, H, N, D = q.shape
    heads, Dv = v.shape[1], v.shape[3]
    fq, fk, v = phi(q.double()), phi(k.double()), v.double()
    g = decay.double() if decay.ndim == 3 else decay.double()[None, :, None].expand(B, heads, N)
    ends = [0, N] if cu_seqlens is None else cu_seqlens.tolist()
    pieces = [(b, slice(*rows)) for b in range(B) for rows in zip(ends, ends[1:], strict=False)]
    out, kv, z = [], [], []
    for s, (b, rows) in enumerate(pieces):
        for h in range(heads):
            M = mask(g[b, h, rows], causal)
            start = g[b, h, rows].cumsum(0).exp()[:, None]  # what is left of the first state
            after = M[-1:].mT if causal and len(M) else start * 0
            kv.append(((fk[b, h, rows] * after).mT) @ v[b, h, rows])
            z.append((fk[b, h, rows] * after).sum(0))
            s0 = z0 = 0.0
            if initial_state is not None:
                s0, z0 = (x[s, h].double() for x in initial_state)
                kv[-1] = kv[-1] + start[-1] * s0
                z[-1] = z[-1] + start[-1] * z0
            for i in range(h * H // heads, (h + 1) * H // heads):
                x = fq[b, i, rows]
                weights = (x @ fk[b, h, rows].mT) * M
                o, total = weights @ v[b, h, rows], weights.sum(1)
                if initial_state is not None:
                    o, total = o + start * (x @ s0), total + start[:, 0] * (x @ z0)
                o = o / (total + eps)[:, None] if normalize else o * (scale or D**-0.5)
                out.append(((b, i, rows), o))
    o = torch.zeros(B, H, N, Dv, dtype=torch.float64, device=q.device)
    for (b, i, rows), x in out:
        o = o.index_put(
            (torch.tensor(b), torch.tensor(i), torch.arange(rows.start, rows.stop)),
            x.to(o.device),
        )
    S = len(pieces)
    return o, torch.stack(kv).unflatten(0, (S, heads)), torch.stack(z).unflatten(0, (S, heads))


def results(function, inputs, decay, state, **options):
    """All that comes out, and all gradients, for a loss that weighs every element at random."""
    dtype = inputs[0].dtype
    leaves = [x.detach().clone().requires_grad_() for x in (*inputs, decay, *(state or ()))]
    q, k, v, g, *s = leaves
    found = function(q, k, v, g, initial_state=LinearAttentionState(*s) if s else None, **options)
    outs = dict(zip(("o", "kv", "z"), found, strict=False))
    weights = {n: randn(*x.shape, seed=40 + i) for i, (n, x) in enumerate(outs.items())}
    weights["o"] = weights["o"].to(dtype)
    loss = sum((x * weights[n].to(x.dtype)).sum() for n, x in outs.items())
    grads = torch.autograd.grad(loss, leaves)
    names = ("dq", "dk", "dv", "ddecay", "dkv", "dz")
    return {n: x.detach() for n, x in (outs | dict(zip(names, grads, strict=False))).items()}


def agree(subject, inputs, decay, state=None, *, causal, tolerance=1.0, **options):
    """Asserts that outputs and gradients are near the truth, and of the right dtype."""
    gqa = inputs[0].shape[1] != inputs[1].shape[1]

    def found(q, k, v, g, **kind):
        out = subject(
            q, k, v, decay=g, causal=causal, return_state=causal, enable_gqa=gqa,
            **kind, **options,
        )  # fmt: skip
        return (out[0], *out[1]) if causal else (out,)

    def expected(q, k, v, g, **kind):
        out = truth(q, k, v, g, causal=causal, **kind, **options)
        return out if causal else out[:1]

    want = results(expected, inputs, decay, state)
    got = results(found, inputs, decay, state)
    for name, x in got.items():
        half = name in ("o", "dq", "dk", "dv")
        assert x.dtype == (subject.dtype if half else torch.promote_types(x.dtype, torch.float32))
        allowed = tolerance * TOLERANCE[subject.dtype] * (GRADIENT if name[0] == "d" else 1)
        if name == "ddecay" and subject.dtype in (torch.float16, torch.bfloat16):
            allowed *= 4  # sums of differences: what is left may be much smaller than its terms
        assert_close(name, x, want[name], allowed)


# --- values and gradients ----------------------------------------------------------------------


@subjects
@kinds
@both_ways
def test_it_is_the_quadratic_form_with_its_mask(subject, causal, selective):
    """Groups of query heads, more than one part, no whole tile, a state where there is one."""
    N = 140
    inputs = qkv(subject, B=1, H=2, Hk=1, N=N, D=16, Dv=24)
    state = state_for(subject, S=1, H=1, D=16, Dv=24) if causal else None
    g = decays(subject, 1, 1, N) if selective else decays(subject, 1)
    agree(subject, inputs, g, state, causal=causal)


@both_ways
@pytest.mark.parametrize("N, D, Dv", [(1, 3, 5), (65, 40, 8), (64, 64, 64), (33, 8, 136)])
def test_any_shape(causal, N, D, Dv):
    if not causal:
        N += 1  # with one token, nothing decays
    inputs = qkv(FLOAT32, H=1, N=N, D=D, Dv=Dv)
    state = state_for(FLOAT32, H=1, D=D, Dv=Dv) if causal else None
    # eps as in test_definition.test_any_length
    agree(FLOAT32, inputs, decays(FLOAT32, 1, 1, N), state, causal=causal, eps=50.0)


@both_ways
@pytest.mark.parametrize("feature_map", ["relu", "softmax", "identity"])
def test_scaled_and_any_feature_map(causal, feature_map):
    inputs = qkv(FLOAT32, H=1, N=40, D=8)
    options = {"causal": causal, "feature_map": feature_map, "normalize": False, "scale": 0.3}
    agree(FLOAT32, inputs, decays(FLOAT32, 1, 1, 40), **options)


@both_ways
@pytest.mark.parametrize("subject", [FLOAT32, REFERENCES[-1]], ids=str)
def test_packed_sequences(subject, causal):
    bounds = torch.tensor([0, 1, 1, 34, 40], dtype=torch.int32, device=DEVICE)
    inputs = qkv(subject, H=1, N=40, D=8)
    agree(subject, inputs, decays(subject, 1, 1, 40), causal=causal, cu_seqlens=bounds)


@both_ways
def test_any_strides(causal):
    q, k, v = qkv(FLOAT32, H=2, N=30, D=8, Dv=6)
    g = decays(FLOAT32, 1, 2, 30)
    plain = linear_attention(q, k, v, decay=g, causal=causal)
    odd = [x.mT.contiguous().mT for x in (q, k)] + [v.transpose(1, 2).contiguous().transpose(1, 2)]
    strided = linear_attention(*odd, decay=g.mT.contiguous().mT, causal=causal)
    # not bit for bit: what lies otherwise in memory, a GPU spreads over its threads otherwise
    assert_close("o", strided, plain, 1e-5)


@both_ways
@pytest.mark.parametrize("form", [quadratic, recurrent, chunked])
def test_derivatives_of_the_references(form, causal):
    double = REFERENCES[0]
    leaves = [*qkv(double, H=2, Hk=1, N=4, D=3, Dv=2), decays(double, 1, 1, 4)]
    state = state_for(double, H=1, D=3, Dv=2) if causal else ()

    def function(q, k, v, g, *state):
        out = form(
            q, k, v, decay=g, causal=causal, enable_gqa=True, initial_state=state or None,
            return_state=causal,
        )  # fmt: skip
        return (out[0], *out[1]) if causal else out

    leaves = [x.requires_grad_() for x in (*leaves, *state)]
    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU: the interpreter is too slow")
@kinds
@pytest.mark.parametrize("N", [4096, 5001, 16384])
@pytest.mark.parametrize("strength", [0.1, 1.0], ids=["mild", "strong"])
def test_many_long_heads(N, selective, strength):
    subject = OPERATOR[2]
    q, k, v = qkv(subject, B=8, H=8, N=N, D=64)
    g = strength * (decays(subject, 8, 8, N) if selective else decays(subject, 8))
    o, state = linear_attention(q, k, v, decay=g, causal=True, return_state=True)
    assert torch.equal(o, linear_attention(q, k, v, decay=g, causal=True))
    some = slice(7, 8), slice(5, 8)
    g = g[some].double() if selective else g[some[1]].double()
    wanted = chunked(
        *(x[some].double() for x in (q, k, v)), decay=g, causal=True, return_state=True
    )
    assert_close("o", o[some], wanted[0], TOLERANCE[subject.dtype])
    assert_close("kv", state.kv[some], wanted[1].kv, TOLERANCE[subject.dtype])


# --- what follows from the definition ----------------------------------------------------------


@pytest.mark.parametrize("function", [linear_attention, recurrent])
def test_both_directions_are_forward_plus_reversed_minus_the_diagonal(function):
    q, k, v = qkv(FLOAT32, N=70, D=8)
    g = decays(FLOAT32, 1, 2, 70)
    plain = {"normalize": False, "scale": 1.0}
    whole = function(q, k, v, decay=g, **plain)
    forward = function(q, k, v, decay=g, causal=True, **plain)
    back = torch.cat([g[..., :1], g.flip(-1)[..., :-1]], dim=-1)  # of the step to the next row
    flipped = [x.flip(2) for x in (q, k, v)]
    reverse = function(*flipped, decay=back, causal=True, **plain).flip(2)
    phi = MAPS["elu"]
    diagonal = (phi(q) * phi(k)).sum(-1, keepdim=True) * v
    assert_close("o", whole, forward + reverse - diagonal, 1e-5)


def test_both_directions_of_a_reversed_sequence_are_the_reversed_output():
    q, k, v = qkv(FLOAT32, N=70, D=8)
    g = decays(FLOAT32, 1, 2, 70)
    back = torch.cat([g[..., :1], g.flip(-1)[..., :-1]], dim=-1)
    flipped = linear_attention(*(x.flip(2) for x in (q, k, v)), decay=back)
    assert_close("o", flipped.flip(2), linear_attention(q, k, v, decay=g), 1e-5)


@both_ways
@pytest.mark.parametrize("strength", [0.3, 0.62, 1.25, 1.4])
def test_mild_and_strong_chunks_agree(strength, causal):
    """Just below and above what a chunk of 32 or 64 tokens may lose before factors overflow."""
    inputs = qkv(FLOAT32, H=1, N=70, D=8)
    agree(FLOAT32, inputs, torch.full((1, 1, 70), -strength, device=DEVICE), causal=causal)


@pytest.mark.parametrize(
    "strong, normalize, with_state",
    [
        (slice(0, 0), True, True),
        (slice(0, 90), True, False),
        (slice(390, 410), True, False),
        (slice(None), True, True),
    ],
    ids=["nowhere", "in the first part", "in the last part", "everywhere"],
)
def test_a_chain_of_segments(strong, normalize, with_state, monkeypatch):
    """Of two parts, each is written by the chain if it is mild, and else by the other kernel."""
    monkeypatch.setattr(configs, "chained_is_faster", lambda q, k, v: True)
    monkeypatch.setattr(configs, "CHAINED", configs.Chained(64, 16, 1, kept=2, part=8))
    q, k, v = qkv(FLOAT32, N=528, H=2, Hk=1, D=16)
    g = -0.1 * randn(1, 1, 528, seed=4).abs()
    g[:, :, strong] -= 5.0
    state = state_for(FLOAT32, H=1) if with_state else None
    assert configs.parts_of_chain(528, 128) == (2, 6)
    launch.forget()
    agree(FLOAT32, (q, k, v), g, state, causal=True, normalize=normalize, eps=5.0)
    launch.forget()


@pytest.mark.parametrize("N", [16, 512, 656, 4160, 65536, 65600, 2**20 + 64])
def test_parts_of_a_chain_are_whole_segments(N):
    parts, in_part = configs.parts_of_chain(N, UNIT.value)
    share = configs.cdiv(configs.cdiv(N, parts), UNIT.value) * UNIT.value
    whole = share == in_part * configs.CHAINED.segment
    assert whole or (parts == 1 and N <= in_part * configs.CHAINED.segment)
    assert parts * share >= N and in_part <= configs.CHAINED.part


@pytest.mark.parametrize("N", [64, 70, 128])
def test_the_last_key_of_a_chunk_is_whole_in_the_state(N):
    """Where much is forgotten a chunk's log decay is so large that two sums of it differ."""
    k, v = (randn(1, 2, N, 8, seed=i) for i in range(2))
    g = torch.tensor([-25.3, -7.7], device=DEVICE)
    weights = randn(1, 2, 8, 8, seed=3)

    def found(function, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in (k, v)]
        _, state = function(
            k.to(dtype), *leaves, decay=g.to(dtype), causal=True, normalize=False, return_state=True
        )
        grads = torch.autograd.grad((state.kv * weights.to(dtype)).sum(), leaves)
        return state.kv.detach(), *(x[..., -2:, :] for x in grads)  # of all others nothing is left

    pairs = zip(
        found(linear_attention, torch.float32), found(recurrent, torch.float64), strict=True
    )
    for name, (got, want) in zip(("kv", "dk", "dv"), pairs, strict=True):
        assert_close(name, got, want, 2e-6)


@both_ways
@pytest.mark.parametrize("form", [quadratic, recurrent, chunked])
def test_references_forget_again_and_again(form, causal):
    """Sums of log decays are then so large that their differences, in float32, are not exact."""
    subject = Subject(form.__name__, form, torch.float32)
    g = decays(subject, 1, 2, 150)
    g[..., ::3] = -100
    agree(subject, qkv(subject, N=150), g, causal=causal)


@both_ways
@kinds
def test_a_decay_of_zero_changes_nothing(causal, selective):
    q, k, v = qkv(FLOAT32, N=50, D=8)
    g = torch.zeros((1, 2, 50) if selective else 2, device=DEVICE)
    assert_close("o", linear_attention(q, k, v, decay=g, causal=causal),
                 linear_attention(q, k, v, causal=causal), 1e-5)  # fmt: skip


@both_ways
def test_one_decay_for_each_head_is_the_same_at_every_token(causal):
    q, k, v = qkv(FLOAT32, N=50, D=8)
    g = decays(FLOAT32, 2)
    each = g[None, :, None].expand(1, 2, 50).contiguous()
    one = linear_attention(q, k, v, decay=g, causal=causal)
    assert_close("o", linear_attention(q, k, v, decay=each, causal=causal), one, 1e-5)


@both_ways
def test_long_products_and_strong_decay_stay_finite(causal):
    """-20 at every token, and tokens at which everything is forgotten."""
    N = 150
    q, k, v = qkv(FLOAT32, H=2, N=N, D=8)
    g = torch.full((1, 2, N), -20.0, device=DEVICE)
    g[:, 1] = -1e-3
    g[:, 1, ::40] = float("-inf")
    agree(FLOAT32, (q, k, v), g.clamp(min=-100), causal=causal, tolerance=3)
    leaves = [x.requires_grad_() for x in (q, k, v, g)]
    o = linear_attention(q, k, v, decay=g, causal=causal)
    grads = torch.autograd.grad(o.sum(), leaves)
    assert all(torch.isfinite(x).all() for x in (o, *grads))
    assert not grads[3][:, 1, ::40].any()


@pytest.mark.parametrize("subject", [FLOAT32, *REFERENCES], ids=str)
@pytest.mark.parametrize("strength", [0.1, 3.0], ids=["mild", "strong"])
@pytest.mark.parametrize("value", [1e3, float("nan"), float("inf")])
def test_causal_does_not_see_the_future(subject, strength, value):
    """Not even a key whose φ is infinite, at any strength of the decay."""
    q, k, v = qkv(subject, N=40)
    options = {"decay": strength * decays(subject, 1, 2, 40), "causal": True, "feature_map": "exp"}
    before = subject(q, k, v, **options)
    for x in (q, k):
        x[:, :, 11:] = value
    v[:, :, 11:] += 1
    after = subject(q, k, v, **options)
    assert torch.equal(before[:, :, :11], after[:, :, :11])
    assert not torch.equal(before[:, :, 11:], after[:, :, 11:])


def test_a_state_is_carried_over_pieces_and_steps():
    q, k, v = qkv(FLOAT32, N=60, D=8)
    g = decays(FLOAT32, 1, 2, 60)
    whole, last = linear_attention(q, k, v, decay=g, causal=True, return_state=True)
    state, outs = None, []
    for rows in (slice(0, 25), slice(25, 50)):
        o, state = linear_attention(
            *(x[:, :, rows] for x in (q, k, v)), decay=g[..., rows], causal=True,
            initial_state=state, return_state=True,
        )  # fmt: skip
        outs.append(o)
    for t in range(50, 60):
        token = [x[:, :, t] for x in (q, k, v)]
        o, state = linear_attention_step(*token, state, decay=g[..., t])
        outs.append(o.unsqueeze(2))
    assert_close("o", torch.cat(outs, dim=2), whole, 1e-5)
    for name, x, want in zip(("kv", "z"), state, last, strict=True):
        assert_close(name, x, want, 1e-5)


@pytest.mark.parametrize("asked", [False, True], ids=["kernel", "autograd"])
def test_a_step_takes_a_decay_for_each_head(asked):
    q, k, v = (x[:, :, 0] for x in qkv(FLOAT32, B=2, H=4, Hk=2, N=1, D=8))
    state = state_for(FLOAT32, S=2, H=2, D=8)
    g = decays(FLOAT32, 2).requires_grad_(asked)
    o, after = linear_attention_step(q, k, v, state, decay=g, enable_gqa=True)
    faded = LinearAttentionState(*(x * g.exp().view(2, *[1] * (x.ndim - 2)) for x in state))
    want, kept = linear_attention_step(q, k, v, faded, enable_gqa=True)
    assert_close("o", o, want, 1e-5)
    assert_close("kv", after.kv, kept.kv, 1e-5)
    assert o.requires_grad == asked


@both_ways
def test_two_runs_agree_to_the_last_bit(causal):
    inputs = [x.requires_grad_() for x in (*qkv(FLOAT32, N=140, D=8), decays(FLOAT32, 1, 2, 140))]

    def run():
        *qkv, g = inputs
        o = linear_attention(*qkv, decay=g, causal=causal)
        return o, *torch.autograd.grad(o.square().sum(), inputs)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_vmap_and_gradients_of_each_sample():
    q, k, v = torch.stack([torch.stack(qkv(FLOAT32, N=20, D=8, seed=s)) for s in (0, 5)], 1)
    g = decays(FLOAT32, 2)

    def loss(q, g):
        return linear_attention(q, k[0], v[0], decay=g, causal=True).square().sum()

    both = torch.func.vmap(loss)(q, torch.stack([g, g]))
    assert all(relative_error(x, loss(y, g)) < 1e-5 for x, y in zip(both, q, strict=True))
    found = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(q, g)
    for i in range(2):
        leaves = q[i].clone().requires_grad_(), g.clone().requires_grad_()
        want = torch.autograd.grad(loss(*leaves), leaves)
        assert all(relative_error(x[i], y) < 1e-5 for x, y in zip(found, want, strict=True))


def test_the_registered_operator():
    """As `torch.compile` runs it: shapes without data, and gradients through the operator."""
    q, k, v = qkv(FLOAT32, N=20, D=8)
    g = decays(FLOAT32, 1, 2, 20)
    for causal in (False, True):
        arguments = (q, k, v, None, None, g, causal, "elu", True, 1.0, 1e-6, True)
        leaves = [x.detach().requires_grad_() if torch.is_tensor(x) else x for x in arguments]
        torch.library.opcheck(
            torch.ops.triton_linear_attention.forward.default, tuple(leaves),
            test_utils=("test_schema", "test_faketensor"),
        )  # fmt: skip


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU: fla's kernels do not run in the interpreter")
@pytest.mark.skipif(importlib.util.find_spec("fla") is None, reason="fla is not installed")
@pytest.mark.parametrize("N", [300, 5000])
def test_it_is_simple_gla_of_fla(N):
    from fla.ops.simple_gla import chunk_simple_gla

    subject = OPERATOR[2]
    inputs = qkv(subject, B=2, H=4, N=N, D=64)
    g = decays(subject, 2, 4, N)
    weight = randn(2, 4, N, 64, dtype=subject.dtype, seed=50)

    def run(function):
        leaves = [x.detach().clone().requires_grad_() for x in (*inputs, g)]
        o = function(*leaves)
        return o, *torch.autograd.grad((o * weight).sum(), leaves)

    def theirs(q, k, v, g):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return chunk_simple_gla(q, k, v, g=g.transpose(1, 2), scale=0.125)[0].transpose(1, 2)

    def ours(q, k, v, g):
        return linear_attention(
            q, k, v, decay=g, causal=True, feature_map="identity", normalize=False
        )

    assert relative_error(ours(*inputs, g), theirs(*inputs, g)) < 0.02
    wanted = run(ours)
    try:
        found = run(theirs)
    except RuntimeError as problem:  # with some versions of Triton it refuses
        pytest.skip(f"outputs agree; fla has no backward pass here: {problem}")
    for name, x, y in zip(("o", "dq", "dk", "dv", "dg"), wanted, found, strict=True):
        assert relative_error(x, y) < 0.02, name


# --- what is refused ---------------------------------------------------------------------------

BAD = {
    "no tensor": ({"decay": -0.1}, TypeError, "decay must be a tensor or None, not float"),
    "half": (
        {"decay": torch.zeros(2, dtype=torch.float16, device=DEVICE)},
        TypeError, "decay must be float32, the logarithm of a factor, not torch.float16"),
    "sparse": (
        {"decay": torch.zeros(2, device=DEVICE).to_sparse()},
        TypeError, "decay must be a dense tensor"),
    "shape": (
        {"decay": torch.zeros(1, 2, device=DEVICE)}, ValueError, r"decay must have shape \[H\]"),
    "device": ({"decay": torch.zeros(2, device="meta")}, ValueError, "decay must be on"),
    "cross": (
        {"decay": torch.zeros(2, device=DEVICE), "N": 3}, ValueError, "as many queries as keys"),
    "state": (
        {"decay": torch.zeros(2, device=DEVICE), "return_state": True},
        ValueError, "return_state=True with decay needs causal=True"),
    "initial": (
        {"decay": torch.zeros(2, device=DEVICE),
         "initial_state": (torch.zeros(1, 2, 16, 16, device=DEVICE),
                           torch.zeros(1, 2, 16, device=DEVICE))},
        ValueError, "initial_state with decay needs causal=True"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case):
    given, error, message = BAD[case]
    q, k, v = qkv(FLOAT32, N=5)
    q = q[:, :, : given.pop("N", 5)] if "N" in given else q
    with pytest.raises(error, match=message):
        linear_attention(q, k, v, **given)


def test_growth_is_refused_where_looking_is_free():
    q, k, v = qkv(FLOAT32, N=5)
    g = torch.full((2,), 0.25, device=DEVICE)
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match="must not be positive; its largest value is 0.25"):
            linear_attention(q, k, v, decay=g, causal=True)
    else:  # to look would mean to wait for the GPU: counts as 0
        grown = linear_attention(q, k, v, decay=g, causal=True)
        assert torch.equal(grown, linear_attention(q, k, v, decay=g * 0, causal=True))


def test_a_step_refuses_the_same():
    q, k, v = (x[:, :, 0] for x in qkv(FLOAT32, N=1))
    with pytest.raises(ValueError, match=r"decay must have shape \[H\] \(2,\) or \[B, H\]"):
        linear_attention_step(q, k, v, state_for(FLOAT32), decay=torch.zeros(3, device=DEVICE))
