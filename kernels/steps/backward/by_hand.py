"""The gradients of linear attention, written out in PyTorch as they are derived.

Right for q, k [..., N, D], v and do [..., N, Dv] of one floating dtype, float64 included: so
`torch.autograd.gradcheck` can judge the derivation, and the kernels are judged by it.
`drop=True` leaves out the gradient through the denominator: wrong on purpose.

Source: Katharopoulos et al., Transformers are RNNs, 2020, without their normalizer; derived in the
chapter "The backward pass".
"""

import torch

from ...feature_maps import elu as phi

EPS = 1e-6  # added to the denominator, as in the operator


# [slope:begin]
def slope(y):
    """φ'(x) from y = φ(x) = elu(x) + 1: y where y < 1, else 1."""
    return y.clamp(max=1)
    # [slope:end]


def bidirectional(q, k, v):
    """o [..., N, Dv]: the forward pass, whose gradients are below."""
    fq, fk = phi(q), phi(k)
    S, z = fk.mT @ v, fk.sum(-2).unsqueeze(-1)  # [..., D, Dv], [..., D, 1]
    return fq @ S / (fq @ z + EPS)


# [bidirectional:begin]
def bidirectional_gradients(q, k, v, do, drop=False):
    """dq, dk, dv [..., N, ·]: a pass over the queries, then one over the keys."""
    fq, fk = phi(q), phi(k)
    S, z = fk.mT @ v, fk.sum(-2).unsqueeze(-1)  # [..., D, Dv], [..., D, 1]
    g = 1 / (fq @ z + EPS)  # [..., N, 1]

    # the queries: reads q and do, writes dq, and leaves dS and dz
    a = do @ S.mT  # [..., N, D]
    r = -(fq * a).sum(-1, keepdim=True) * g * g  # [..., N, 1]
    if drop:
        r = torch.zeros_like(r)
    dq = (a * g + r * z.mT) * slope(fq)
    dS, dz = fq.mT @ (g * do), fq.mT @ r  # [..., D, Dv], [..., D, 1]

    # the keys: reads k and v, writes dk and dv
    dk = (v @ dS.mT + dz.mT) * slope(fk)
    dv = fk @ dS
    return dq, dk, dv
    # [bidirectional:end]


def causal(q, k, v, C=16):
    """o [..., N, Dv], in chunks of C tokens."""
    S, z, out = *_nothing(q, v), []
    for qc, kc, vc in zip(*(x.split(C, -2) for x in (q, k, v)), strict=True):
        fq, fk = phi(qc), phi(kc)
        p = (fq @ fk.mT).tril()  # [..., C, C]
        d = fq @ z + p.sum(-1, keepdim=True) + EPS
        out.append((fq @ S + p @ vc) / d)
        S, z = S + fk.mT @ vc, z + fk.sum(-2).unsqueeze(-1)
    return torch.cat(out, -2)


# [forward-walk:begin]
def query_walk(q, k, v, do, C, drop=False):
    """dq, and the g and r [..., N, 1] that the keys need; from the first chunk to the last."""
    S, z, out = *_nothing(q, v), []
    for qc, kc, vc, doc in zip(*(x.split(C, -2) for x in (q, k, v, do)), strict=True):
        fq, fk = phi(qc), phi(kc)
        p = (fq @ fk.mT).tril()  # [..., t, j]
        g = 1 / (fq @ z + p.sum(-1, keepdim=True) + EPS)
        o = (fq @ S + p @ vc) * g
        r = -(doc * o).sum(-1, keepdim=True) * g
        if drop:
            r = torch.zeros_like(r)
        w = (doc @ vc.mT * g + r).tril()  # [..., t, j]
        dfq = doc @ S.mT * g + r * z.mT + w @ fk
        out.append((dfq * slope(fq), g, r))
        S, z = S + fk.mT @ vc, z + fk.sum(-2).unsqueeze(-1)
    return tuple(torch.cat(x, -2) for x in zip(*out, strict=True))
    # [forward-walk:end]


# [backward-walk:begin]
def key_walk(q, k, v, do, g, r, C):
    """dk and dv, from the last chunk to the first."""
    dS, dz, out = *_nothing(q, v), []
    chunks = list(zip(*(x.split(C, -2) for x in (q, k, v, g * do, r)), strict=True))
    for qc, kc, vc, gdo, rc in reversed(chunks):
        fq, fk = phi(qc), phi(kc)
        w = (vc @ gdo.mT + rc.mT).triu()  # [..., j, t]
        p = (fk @ fq.mT).triu()  # [..., j, t]
        dfk = vc @ dS.mT + dz.mT + w @ fq
        out.append((dfk * slope(fk), fk @ dS + p @ gdo))
        dS, dz = dS + fq.mT @ gdo, dz + fq.mT @ rc
    return tuple(torch.cat(x[::-1], -2) for x in zip(*out, strict=True))
    # [backward-walk:end]


def causal_gradients(q, k, v, do, C=16, drop=False):
    """dq, dk, dv [..., N, ·] of `causal`."""
    dq, g, r = query_walk(q, k, v, do, C, drop)
    return dq, *key_walk(q, k, v, do, g, r, C)


def _nothing(q, v):
    """The state before the first token, [..., D, Dv] and [..., D, 1]."""
    shape = (*q.shape[:-2], q.shape[-1])
    return q.new_zeros(*shape, v.shape[-1]), q.new_zeros(*shape, 1)


class Attention(torch.autograd.Function):
    """o = attention(q, k, v) with the gradients above: what autograd is told of it."""

    @staticmethod
    def forward(ctx, q, k, v, is_causal, drop):
        ctx.save_for_backward(q, k, v)
        ctx.options = is_causal, drop
        return causal(q, k, v) if is_causal else bidirectional(q, k, v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do):
        is_causal, drop = ctx.options
        gradients = causal_gradients if is_causal else bidirectional_gradients
        return *gradients(*ctx.saved_tensors, do, drop=drop), None, None


def attention(q, k, v, is_causal=False, drop=False):
    """o [..., N, Dv], differentiable once."""
    return Attention.apply(q, k, v, is_causal, drop)
