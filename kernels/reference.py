"""Linear attention in three forms of one function, in plain PyTorch.

    o_t = φ(q_t)ᵀ S_t / (φ(q_t)·z_t + eps),   S_t = S_0 + Σ_j φ(k_j) v_jᵀ,   z_t = z_0 + Σ_j φ(k_j)

The sum runs over j ≤ t when causal and over all j otherwise.
`quadratic` multiplies out the N×M matrix of weights, `recurrent` visits one token after another,
`chunked` does the first inside a chunk and the second between chunks; the operator runs it where
the kernels cannot run. All three are differentiable and take float16, bfloat16, float32 and
float64; the two half precisions are computed in float32.

Source: Katharopoulos et al., Transformers are RNNs, 2020; the chunked form: Hua et al.,
Transformer Quality in Linear Time, 2022.
"""

import functools

import torch

from .arguments import LinearAttentionState, check_attention, check_features, sequence_bounds
from .feature_maps import FEATURE_MAPS


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
            numerator, denominator, kv_i, z_i = form(
                fq[..., q0:q1, :],
                fk[..., k0:k1, :],
                x[..., k0:k1, :],
                kv[rows],
                z[rows],
                causal,
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

    return attention


@_operator
def quadratic(q, k, v, kv, z, causal):
    """O(N·M): the weights φ(q)·φ(k) as a matrix, as attention is usually written.

    Takes the arguments of `kernels.linear_attention`, also in float64, and returns what it returns.
    """
    weights = q @ k.mT  # [..., N, M]
    if causal:
        weights = weights.tril()
    numerator = weights @ v + q @ kv
    denominator = weights.sum(-1) + (q @ z.unsqueeze(-1)).squeeze(-1)
    return numerator, denominator, kv + k.mT @ v, z + k.sum(-2)


@_operator
def recurrent(q, k, v, kv, z, causal):
    """O(N), one token at a time: a recurrent network whose state is (S, z).

    Takes the arguments of `kernels.linear_attention`, also in float64, and returns what it returns.
    """
    numerators, denominators = [], []
    if causal:
        for t in range(k.shape[-2]):
            kv = kv + k[..., t, :, None] * v[..., t, None, :]
            z = z + k[..., t, :]
            numerators.append(q[..., t : t + 1, :] @ kv)
            denominators.append((q[..., t, :] * z).sum(-1, keepdim=True))
    else:
        for t in range(k.shape[-2]):
            kv = kv + k[..., t, :, None] * v[..., t, None, :]
            z = z + k[..., t, :]
        for t in range(q.shape[-2]):
            numerators.append(q[..., t : t + 1, :] @ kv)
            denominators.append((q[..., t, :] * z).sum(-1, keepdim=True))
    if not numerators:  # no query
        return q @ kv, q.sum(-1), kv, z
    return torch.cat(numerators, dim=-2), torch.cat(denominators, dim=-1), kv, z


@_operator
def chunked(q, k, v, kv, z, causal, chunk_size=128):
    """O(N): quadratic inside a chunk of `chunk_size` tokens, recurrent between chunks.

    Takes the arguments of `kernels.linear_attention`, also in float64, and returns what it returns.
    """
    if not causal:  # nothing depends on the order: the state of all keys, then every query
        kv = kv + k.mT @ v
        z = z + k.sum(-2)
        return q @ kv, (q @ z.unsqueeze(-1)).squeeze(-1), kv, z
    numerators, denominators = [], []
    for start in range(0, k.shape[-2], chunk_size):
        rows = slice(start, start + chunk_size)
        qc, kc, vc = q[..., rows, :], k[..., rows, :], v[..., rows, :]
        weights = (qc @ kc.mT).tril()  # [..., C, C]
        numerators.append(weights @ vc + qc @ kv)
        denominators.append(weights.sum(-1) + (qc @ z.unsqueeze(-1)).squeeze(-1))
        kv = kv + kc.mT @ vc
        z = z + kc.sum(-2)
    if not numerators:
        return q @ kv, q.sum(-1), kv, z
    return torch.cat(numerators, dim=-2), torch.cat(denominators, dim=-1), kv, z
