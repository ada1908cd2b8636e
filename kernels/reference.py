"""Linear attention in three forms of one function, in plain PyTorch.

    o_t = φ(q_t)ᵀ S_t / (φ(q_t)·z_t + eps),   S_t = S_0 + Σ_j φ(k_j) v_jᵀ,   z_t = z_0 + Σ_j φ(k_j)

The sum runs over j ≤ t when causal and over all j otherwise.
With a decay, a token counts less the more lies between: the term of j is multiplied by
M_tj = exp(G_t - G_j), with G the running sum of the log decays g; for j > t, by exp(G_j - G_t).

`quadratic` multiplies out the N×M matrix of weights, `recurrent` visits one token after another,
`chunked` does the first inside a chunk and the second between chunks; the operator runs it where
the kernels cannot run. All three are differentiable and take float16, bfloat16, float32 and
float64; the two half precisions are computed in float32.

Source: Katharopoulos et al., Transformers are RNNs, 2020; the chunked form: Hua et al.,
Transformer Quality in Linear Time, 2022; decay: Sun et al., RetNet, 2023; in both directions:
Afzal et al., LION, 2025.
"""

import contextlib
import functools

import torch

from .arguments import (
    LinearAttentionState,
    check_attention,
    check_features,
    decay_of_each,
    sequence_bounds,
)
from .feature_maps import FEATURE_MAPS

FORGOTTEN = -100.0  # log decays below count as this: exp(-100) of anything is 0 in float32


def _operator(form):
    """Gives a form the operator's signature: checks, φ, groups, packed sequences, normalizer."""

    @functools.wraps(form)
    def attention(
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
        return_state=False,
        cu_seqlens=None,
        enable_gqa=False,
        decay=None,
        **options,
    ):
        check_attention(
            q,
            k,
            v,
            causal=causal,
            feature_map=feature_map,
            normalize=normalize,
            scale=scale,
            eps=eps,
            initial_state=initial_state,
            return_state=return_state,
            cu_seqlens=cu_seqlens,
            enable_gqa=enable_gqa,
            decay=decay,
            float64=True,
        )
        dtype = torch.promote_types(q.dtype, torch.float32)
        phi = FEATURE_MAPS[feature_map] if isinstance(feature_map, str) else feature_map
        B, H, N, D = q.shape
        heads = k.shape[1]
        fq, fk = phi(q.to(dtype)), phi(k.to(dtype))
        check_features(q, k, fq, fk, initial_state)
        # [B, H / G, G, N, D]: the G query heads of a group share one key head
        fq, fk = fq.unflatten(1, (heads, H // heads if heads else 1)), fk.unsqueeze(2)
        x = v.to(dtype).unsqueeze(2)
        features, Dv = fk.shape[-1], v.shape[-1]
        g = None
        if decay is not None:  # [B, H / G, 1, N]; after much was forgotten, sums of it are large
            g = decay_of_each(decay, k).double().clamp(FORGOTTEN, 0).unsqueeze(2)

        bounds = [(0, N, 0, k.shape[2])] if cu_seqlens is None else sequence_bounds(cu_seqlens)
        sequences = B if cu_seqlens is None else len(bounds)
        if initial_state is None:
            kv = fk.new_zeros(sequences, heads, features, Dv)
            z = fk.new_zeros(sequences, heads, features)
        else:
            kv, z = (s.to(dtype) for s in initial_state)
        kv, z = kv.unsqueeze(2), z.unsqueeze(2)

        outs, kvs, zs = [], [], []
        for i, (q0, q1, k0, k1) in enumerate(bounds):
            rows = slice(None) if cu_seqlens is None else slice(i, i + 1)
            with whole_precision(q):
                numerator, denominator, kv_i, z_i = form(
                    fq[..., q0:q1, :],
                    fk[..., k0:k1, :],
                    x[..., k0:k1, :],
                    kv[rows],
                    z[rows],
                    causal,
                    None if g is None else g[..., k0:k1],
                    **options,
                )
            if normalize:
                outs.append(numerator / (denominator.unsqueeze(-1) + eps))
            else:
                outs.append(numerator * (D**-0.5 if scale is None else scale))
            kvs.append(kv_i)
            zs.append(z_i)
        o = torch.cat(outs, dim=-2).reshape(B, H, N, Dv).to(q.dtype)
        state = LinearAttentionState(torch.cat(kvs).squeeze(2), torch.cat(zs).squeeze(2))
        return (o, state) if return_state else o

    del attention.__wrapped__  # whose arguments `help` would show
    return attention


def whole_precision(x):
    """Keeps `torch.autocast` from matrix products, whose sums would be kept in half precision."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def decay_mask(g, causal):
    """M [..., N, N] of log decays g [..., N]: exp(G_t - G_j) for j ≤ t, above it 0 or mirrored."""
    total = g.cumsum(-1)
    between = total.unsqueeze(-1) - total.unsqueeze(-2)  # [..., t, j]: ≤ 0 for j ≤ t
    lower = between.tril().exp().tril()
    return lower if causal else lower + between.mT.triu(1).exp().triu(1)


@_operator
def quadratic(q, k, v, kv, z, causal, g):
    """O(N·M): the weights φ(q)·φ(k) as a matrix, as attention is usually written.

    Takes the arguments of `kernels.linear_attention`, also in float64, and returns what it returns.
    """
    return _pairs(q, k, v, kv, z, causal, g)


def _pairs(q, k, v, kv, z, causal, g):
    """Every query with every key; what comes out depends on all that comes in, even without any."""
    weights = q @ k.mT  # [..., N, M]
    if g is not None:
        weights = weights * decay_mask(g, causal).to(q.dtype)
        weights = weights.tril() if causal else weights  # 0 · inf is NaN
        total = g.cumsum(-1).unsqueeze(-1)  # [..., N, 1]
        before = total.exp().to(q.dtype)  # what is left of the first state
        after = (g.sum(-1)[..., None, None] - total).exp().to(q.dtype)
        numerator = weights @ v + before * (q @ kv)
        denominator = weights.sum(-1) + (before * (q @ z.unsqueeze(-1))).squeeze(-1)
        left = g.sum(-1)[..., None].exp().to(q.dtype)
        kv = left.unsqueeze(-1) * kv + (k * after).mT @ v
        return numerator, denominator, kv, left * z + (k * after).sum(-2)
    if causal:
        weights = weights.tril()
    numerator = weights @ v + q @ kv
    denominator = weights.sum(-1) + (q @ z.unsqueeze(-1)).squeeze(-1)
    return numerator, denominator, kv + k.mT @ v, z + k.sum(-2)


@_operator
def recurrent(q, k, v, kv, z, causal, g):
    """O(N), one token at a time: a recurrent network whose state is (S, z).

    Takes the arguments of `kernels.linear_attention`, also in float64, and returns what it returns.
    """
    if k.shape[-2] == 0:
        return _pairs(q, k, v, kv, z, causal, g)
    if not causal and g is not None:
        return _both_directions(_walk, q, k, v, kv, z, g)
    if causal:
        return _walk(q, k, v, kv, z, g)
    numerators, denominators = [], []
    for t in range(k.shape[-2]):
        kv = kv + k[..., t, :, None] * v[..., t, None, :]
        z = z + k[..., t, :]
    for t in range(q.shape[-2]):
        numerators.append(q[..., t : t + 1, :] @ kv)
        denominators.append((q[..., t, :] * z).sum(-1, keepdim=True))
    return _joined(q, kv, z, numerators, denominators)


def _walk(q, k, v, kv, z, g):
    """The causal recurrence, S ← exp(g) S + φ(k) vᵀ."""
    numerators, denominators = [], []
    for t in range(k.shape[-2]):
        if g is not None:
            left = g[..., t, None].exp().to(q.dtype)
            kv, z = kv * left.unsqueeze(-1), z * left
        kv = kv + k[..., t, :, None] * v[..., t, None, :]
        z = z + k[..., t, :]
        numerators.append(q[..., t : t + 1, :] @ kv)
        denominators.append((q[..., t, :] * z).sum(-1, keepdim=True))
    return _joined(q, kv, z, numerators, denominators)


def _joined(q, kv, z, numerators, denominators):
    if not numerators:  # no query
        return q @ kv, q.sum(-1), kv, z
    return torch.cat(numerators, dim=-2), torch.cat(denominators, dim=-1), kv, z


def _both_directions(causal_form, q, k, v, kv, z, g):
    """Forward plus reversed minus the diagonal, which both have counted.

    To pass from token t + 1 back to t costs the decay of t + 1, as the way there does.
    """
    forward, total, kv, z = causal_form(q, k, v, kv, z, g)
    back = torch.cat([g[..., :1], g.flip(-1)[..., :-1]], dim=-1)
    rows = (x.flip(-2) for x in (q, k, v))
    reverse, total_back, _, _ = causal_form(
        *rows, torch.zeros_like(kv), torch.zeros_like(z), back
    )  # fmt: skip
    own = (q * k).sum(-1)
    numerator = forward + reverse.flip(-2) - own.unsqueeze(-1) * v
    return numerator, total + total_back.flip(-1) - own, kv, z


@_operator
def chunked(q, k, v, kv, z, causal, g, chunk_size=128):
    """O(N): quadratic inside a chunk of `chunk_size` tokens, recurrent between chunks.

    Takes the arguments of `kernels.linear_attention`, also in float64, and returns what it returns.
    """
    if k.shape[-2] == 0:
        return _pairs(q, k, v, kv, z, causal, g)
    if causal or g is not None:
        form = functools.partial(_chunks, chunk_size=chunk_size)
        return form(q, k, v, kv, z, g) if causal else _both_directions(form, q, k, v, kv, z, g)
    # nothing depends on the order: the state of all keys, then every query
    kv = kv + k.mT @ v
    z = z + k.sum(-2)
    return q @ kv, (q @ z.unsqueeze(-1)).squeeze(-1), kv, z


def _chunks(q, k, v, kv, z, g, chunk_size):
    """The causal form, chunk by chunk."""
    numerators, denominators = [], []
    for start in range(0, k.shape[-2], chunk_size):
        rows = slice(start, start + chunk_size)
        qc, kc, vc = q[..., rows, :], k[..., rows, :], v[..., rows, :]
        weights = qc @ kc.mT  # [..., C, C]
        if g is None:
            weights = weights.tril()
        else:
            mask = decay_mask(g[..., rows], causal=True).to(q.dtype)
            weights = (weights * mask).tril()  # 0 · inf is NaN
            total = g[..., rows].cumsum(-1).unsqueeze(-1)  # [..., C, 1]
            qc = qc * total.exp().to(q.dtype)
            kc = kc * (total[..., -1:, :] - total).exp().to(q.dtype)
            left = total[..., -1:, :].exp().to(q.dtype)
        numerators.append(weights @ vc + qc @ kv)
        denominators.append(weights.sum(-1) + (qc @ z.unsqueeze(-1)).squeeze(-1))
        if g is not None:
            kv, z = kv * left, z * left.squeeze(-1)
        kv = kv + kc.mT @ vc
        z = z + kc.sum(-2)
    return _joined(q, kv, z, numerators, denominators)
