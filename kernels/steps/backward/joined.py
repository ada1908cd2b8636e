"""Forward and backward joined: two kernels of chapter 6, then the queries, then the keys.

Right for contiguous q, k, v and do, [B, H, N, D] and [B, H, N, Dv], any N, D and Dv powers of two
from 16 to 64 (64 for bfloat16), float32 or bfloat16. `query_pass` is the module whose kernel does
the first pass: `normalized`, `centred`, or `missing`, which is wrong on purpose.
"""

import torch
import triton

from .. import split, strided
from ..normalized import EPS
from ..state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS
from . import keys, normalized, plain, saved

COMPILED = {"BLOCK_N": BLOCK_N, "num_warps": NUM_WARPS, "num_stages": NUM_STAGES}


def state_of(k, v):
    """[B * H, D * Dv + D] float32: S row by row, then z."""
    B, H, N, _ = k.shape
    return split.combine(split.partial_states(k, v, split.number_of_parts(B * H, N, k.device)))


def queries(q, do, state, query_pass=normalized, **more):
    """dq like q, and the gradient of the state [B * H, D * Dv + D] float32."""
    B, H, N, D = q.shape
    DV = do.shape[-1]
    parts = split.number_of_parts(B * H, N, q.device)
    share = triton.cdiv(triton.cdiv(N, parts), BLOCK_N) * BLOCK_N  # in whole blocks
    dq = torch.empty_like(q)
    dstates = q.new_empty((parts, B * H, D * DV + D), dtype=torch.float32)
    query_pass.query_kernel[(B * H, parts)](
        q=q, do=do, states=state, dq=dq, dstates=dstates, N=N, share=share,
        D=D, DV=DV, **more, **COMPILED,
    )  # fmt: skip
    return dq, split.combine(dstates)


def keys_of(k, v, dstate):
    """dk like k and dv like v."""
    B, H, N, D = k.shape
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    keys.key_kernel[(B * H, triton.cdiv(N, BLOCK_N))](
        k=k, v=v, dstates=dstate, dk=dk, dv=dv, N=N, D=D, DV=v.shape[-1], **COMPILED
    )
    return dk, dv


# [backward:begin]
def backward(q, k, v, state, do, query_pass=normalized):
    """dq, dk, dv of `forward`, which also returned the state."""
    dq, dstate = queries(q, do, state, query_pass, eps=EPS)
    return dq, *keys_of(k, v, dstate)
    # [backward:end]


# [centre:begin]
def centre(state, D):
    """The state with S - z cᵀ in place of S, and c [heads, Dv, 1], which leaves least of S.

    Adding one vector to all values changes no dq, so any c may be taken out. z is not to be 0.
    """
    z = state[:, -D:].unsqueeze(-1)  # [heads, D, 1]
    S = state[:, :-D].unflatten(1, (D, -1))  # [heads, D, Dv]
    c = S.mT @ z / (z.mT @ z)
    return torch.cat([(S - z * c.mT).flatten(1), state[:, -D:]], 1), c


def backward_centred(q, k, v, state, do):
    """`backward` by the same kernels, given a state that bfloat16 takes less from."""
    D = q.shape[-1]
    state, c = centre(state, D)
    dq, dstate = queries(q, do, state, eps=EPS)
    dS = dstate[:, :-D].unflatten(1, (D, -1))  # [heads, D, Dv]
    dstate[:, -D:] -= (dS @ c).squeeze(-1)  # the keys are not centred
    return dq, *keys_of(k, v, dstate)
    # [centre:end]


def backward_saved(q, k, v, state, o, denominator, do):
    """The same, reading o and the denominator [B, H, N] float32 of the forward pass."""
    dq, dstate = queries(q, do, state, saved, o=o, denominator=denominator)
    return dq, *keys_of(k, v, dstate)


def backward_plain(q, k, v, state, do, scale):
    """dq, dk, dv of o = scale · φ(q) S, without a normalizer."""
    dq, dstate = queries(q, do, state, plain, scale=scale)
    return dq, *keys_of(k, v, dstate)


class Attention(torch.autograd.Function):
    """o = attention(q, k, v) by kernels, differentiable once."""

    @staticmethod
    def forward(ctx, q, k, v, query_pass):
        state = state_of(k, v)
        ctx.save_for_backward(q, k, v, state)
        ctx.query_pass = query_pass
        return strided.output(q, state, v.shape[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do):
        saved, do = ctx.saved_tensors, do.contiguous()
        if ctx.query_pass is None:
            return *backward_centred(*saved, do), None
        return *backward(*saved, do, ctx.query_pass), None


def attention(q, k, v, query_pass=normalized):
    """o [B, H, N, Dv] in q's dtype; `query_pass` None: `backward_centred`."""
    return Attention.apply(q, k, v, query_pass)
