"""The truth that every implementation is held to, and a comparison that nothing wrong passes.

`truth` is the definition of linear attention, written out in float64 and apart from
`kernels.reference`. `agree` runs an implementation forward and backward and compares everything
that it returns with what autograd makes of the truth.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels import LinearAttentionState, linear_attention, reference

ON_GPU = torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1"
DEVICE = "cuda" if ON_GPU else "cpu"

# ‖out - truth‖ / ‖truth‖ has to stay below; gradients may err three times as much
TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 3e-3,
    torch.bfloat16: 1e-2,
}
GRADIENT = 3
# No stretch of ROWS tokens may err more than SLACK times that: one lost row in a long tensor
# moves the error of the whole by less than float16 allows.
ROWS, SLACK = 16, 6


@dataclass(frozen=True)
class Subject:
    """An implementation under test, and the dtype of its inputs."""

    name: str
    function: Callable
    dtype: torch.dtype

    def __call__(self, *args, **options):
        return self.function(*args, **options)

    def __str__(self):
        return f"{self.name}-{str(self.dtype).removeprefix('torch.')}"


SUBJECTS = [
    Subject("operator", linear_attention, torch.float32),
    Subject("operator", linear_attention, torch.float16),
    Subject("operator", linear_attention, torch.bfloat16),
    Subject("quadratic", reference.quadratic, torch.float64),
    Subject("recurrent", reference.recurrent, torch.float64),
    Subject("chunked", reference.chunked, torch.float64),
]


# --- the truth ---------------------------------------------------------------------------------

MAPS = {
    "elu": lambda x: F.elu(x) + 1,
    "relu": lambda x: x * (x > 0),
    "exp": lambda x: x.exp(),
    "softmax": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    "identity": lambda x: x,
}


def truth(
    q,
    k,
    v,
    *,
    causal=False,
    feature_map="elu",
    normalize=True,
    scale=None,
    eps=1e-6,
    initial_state=None,
    cu_seqlens=None,
):
    """(out, kv, z) in float64, one sequence and one head after the other."""
    phi = MAPS.get(feature_map, feature_map)
    B, H, N, D = q.shape
    heads, M, Dv = v.shape[1:]
    fq, fk, v = phi(q.double()), phi(k.double()), v.double()
    if cu_seqlens is None:  # (index into the batch, rows of q, rows of k) of each sequence
        sequences = [(b, slice(0, N), slice(0, M)) for b in range(B)]
    else:
        ends = cu_seqlens.tolist()
        sequences = [(0, slice(a, b), slice(a, b)) for a, b in zip(ends, ends[1:], strict=False)]

    out = [[[] for _ in range(H)] for _ in range(B)]
    kv, z = [], []
    for s, (b, queries, keys) in enumerate(sequences):
        for h in range(heads):
            kv.append(torch.einsum("md,me->de", fk[b, h, keys], v[b, h, keys]))
            z.append(fk[b, h, keys].sum(0))
            if initial_state is not None:
                kv[-1] = kv[-1] + initial_state[0][s, h].double()
                z[-1] = z[-1] + initial_state[1][s, h].double()
        for h in range(H):
            g = h * heads // H  # the key head of this query head
            x = fq[b, h, queries]
            weights = torch.einsum("nd,md->nm", x, fk[b, g, keys])
            if causal:
                n = torch.arange(len(weights), device=weights.device)
                weights = torch.where(n[:, None] >= n[None, :], weights, 0.0)
            o = torch.einsum("nm,me->ne", weights, v[b, g, keys])
            total = weights.sum(1)
            if initial_state is not None:
                o = o + torch.einsum("nd,de->ne", x, initial_state[0][s, g].double())
                total = total + torch.einsum("nd,d->n", x, initial_state[1][s, g].double())
            if normalize:
                o = o / (total + eps)[:, None]
            else:
                o = o * (D**-0.5 if scale is None else scale)
            out[b][h].append(o)

    def stacked(tensors, *shape):
        return torch.stack(tensors).reshape(shape) if tensors else v.new_zeros(shape)

    features = fk.shape[-1]
    return (
        stacked([torch.cat(rows) for head in out for rows in head], B, H, N, Dv),
        stacked(kv, len(sequences), heads, features, Dv),
        stacked(z, len(sequences), heads, features),
    )


# --- the comparison ----------------------------------------------------------------------------


def relative_error(out, expected):
    """‖out - expected‖ / ‖expected‖; infinite where that is no number, 0 only if both are 0."""
    out, expected = out.detach().double(), expected.detach().double()
    if not (torch.isfinite(out).all() and torch.isfinite(expected).all()):
        return float("inf")
    difference, norm = torch.linalg.norm(out - expected), torch.linalg.norm(expected)
    if difference == 0:
        return 0.0
    return (difference / norm).item() if norm > 0 else float("inf")


def assert_close(name, out, expected, tolerance):
    """Same shape, and close both as a whole and in every stretch of ROWS tokens (dimension -2)."""
    assert out.shape == expected.shape, f"{name} is {out.shape}, should be {expected.shape}"
    error = relative_error(out, expected)
    assert error < tolerance, f"{name} is off by {error:.2e}, allowed are {tolerance:.0e}"
    if out.ndim == 4 and out.shape[2] > ROWS:
        for n in range(0, out.shape[2], ROWS):
            rows = slice(n, n + ROWS)
            error = relative_error(out[:, :, rows], expected[:, :, rows])
            assert error < SLACK * tolerance, (
                f"{name} is off by {error:.2e} in rows {n} to {n + ROWS}, "
                f"allowed are {SLACK * tolerance:.0e}"
            )


# --- inputs, and the two sides run alike -------------------------------------------------------


def randn(*shape, dtype=torch.float32, seed=0):
    """The same numbers on every machine and every device."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).to(DEVICE)


def qkv(subject, B=1, H=2, N=50, D=16, *, Dv=None, M=None, Hk=None, seed=0):
    """Random q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv]."""
    Hk, M, Dv = Hk or H, N if M is None else M, Dv or D
    return (
        randn(B, H, N, D, dtype=subject.dtype, seed=seed),
        randn(B, Hk, M, D, dtype=subject.dtype, seed=seed + 1),
        randn(B, Hk, M, Dv, dtype=subject.dtype, seed=seed + 2),
    )


def state_for(subject, S=1, H=2, D=16, Dv=None, *, seed=10):
    """A state such as some 50 keys leave: z is positive, and kv may have either sign."""
    dtype = torch.promote_types(subject.dtype, torch.float32)
    return LinearAttentionState(
        5 * randn(S, H, D, Dv or D, dtype=dtype, seed=seed),
        40 + 5 * randn(S, H, D, dtype=dtype, seed=seed + 1),
    )


def leaf(x):
    """A copy that keeps x's strides and asks for a gradient."""
    return x.detach().requires_grad_()


def run(
    function, q, k, v, initial_state=None, *, backward=True, wrt=None, do_mean=0.0, **options
):  # fmt: skip
    """{name: tensor} of all that comes out: o, kv, z and the gradients, for a random loss.

    The loss weighs every element of the output and of the returned state at random.
    `wrt` restricts the inputs that get a gradient. With `do_mean` the gradient of the output
    has a mean, so that a gradient which is one sum of it does not vanish by chance.
    """
    inputs = {"q": q, "k": k, "v": v}
    if initial_state is not None:
        inputs |= {"initial_state.kv": initial_state[0], "initial_state.z": initial_state[1]}
    wrt = list(inputs) if wrt is None else wrt
    inputs = {n: leaf(x) if backward and n in wrt else x.detach() for n, x in inputs.items()}
    state = None
    if initial_state is not None:
        state = LinearAttentionState(inputs["initial_state.kv"], inputs["initial_state.z"])
    result = function(inputs["q"], inputs["k"], inputs["v"], initial_state=state, **options)
    o, (kv, z) = (result[0], result[1:]) if len(result) == 3 else result
    results = {"o": o, "kv": kv, "z": z}
    if backward:
        grads = {n: randn(*x.shape, seed=20 + i) for i, (n, x) in enumerate(results.items())}
        # rounded to the output's dtype, so that both sides start from the same numbers
        grads["o"] = (grads["o"] + do_mean).to(q.dtype)
        loss = sum((x * grads[n].to(x.dtype)).sum() for n, x in results.items())
        # every element of it has a gradient of one, as torch.sum hands on a stride of 0
        found = torch.autograd.grad(loss, [inputs[n] for n in wrt], allow_unused=True)
        for n, g in zip(wrt, found, strict=True):
            results[f"d{n}"] = torch.zeros_like(inputs[n]) if g is None else g
    return {n: x.detach() for n, x in results.items()}


def agree(
    subject, q, k, v, initial_state=None, *, backward=True, wrt=None, do_mean=0.0, **options
):  # fmt: skip
    """Asserts that all the subject returns is near the truth, and of the right dtype."""
    both = {
        "initial_state": initial_state, "backward": backward, "wrt": wrt, "do_mean": do_mean,
    }  # fmt: skip
    known = {n: x for n, x in options.items() if n != "enable_gqa"}
    expected = run(truth, q, k, v, **both, **known)
    found = run(subject, q, k, v, **both, **options, return_state=True)
    accumulated = torch.promote_types(q.dtype, torch.float32)
    for name, want in expected.items():
        is_state = "kv" in name or "z" in name
        assert found[name].dtype == (accumulated if is_state else q.dtype), name
        allowed = TOLERANCE[q.dtype] * (GRADIENT if name.startswith("d") else 1)
        assert_close(name, found[name], want, allowed)
