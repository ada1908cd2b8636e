"""Segments of a head side by side: sum each, then what came before each, then walk each.

Three launches. The first is the state pass that `split` has for bidirectional attention, and k and
v are read twice.

Right for contiguous q, k and v, any N, D and Dv powers of two from 16 to 64 (64 for bfloat16).
"""

import torch
import triton
import triton.language as tl

from ..normalized import EPS, elu_plus_one
from ..split import partial_states
from ..state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS

BLOCK_SIZE = 1024  # numbers of a state that one program of the prefix kernel adds up
PROGRAMS = 4  # programs of the output pass for each multiprocessor
LEAST_CHUNKS = 4  # a segment is not worth less than this many chunks
INTERPRETER = 8  # multiprocessors to pretend where there is no GPU


# [prefix:begin]
@triton.jit
def prefix_kernel(
    states,  # [segments, SIZE] float32: the sum of each segment; written: what came before it
    segments, SIZE, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Each state becomes the sum of those before it, added up first to last."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    keep = offs < SIZE
    before = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
    for _ in range(0, segments):
        own = tl.load(states + offs, keep, 0.0)  # [BLOCK_SIZE]
        tl.store(states + offs, before, keep)
        before += own
        states += SIZE
    # [prefix:end]


# [chunked:begin]
@triton.jit
def segment_kernel(
    q,  # [heads, N, D] contiguous
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    states,  # [segments, heads, D * DV + D] float32: what came before each segment
    o,  # [heads, N, DV] contiguous, written
    N, share, eps,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o for one segment, `share` tokens, of one head, BLOCK_N of them at a time."""
    head = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1).to(tl.int64)
    first = segment * share
    last = tl.minimum(first + share, N)  # at or before `first` if the segment is empty
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    q += head * N * D
    k += head * N * D
    v += head * N * DV
    o += head * N * DV
    states += (segment * tl.num_programs(0) + head) * (D * DV + D)

    s = tl.load(states + offs_d[:, None] * DV + offs_dv[None, :])  # [D, DV]
    z = tl.load(states + D * DV + offs_d)  # [D]
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        keep = rows[:, None] < last
        # [BLOCK_N, D]
        b_q = tl.load(q + rows[:, None] * D + offs_d[None, :], keep, 0.0)
        # [D, BLOCK_N]: transposed by its addresses
        b_kt = tl.load(k + rows[None, :] * D + offs_d[:, None], rows[None, :] < last, 0.0)
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :], keep, 0.0)
        fq = elu_plus_one(b_q)  # [BLOCK_N, D] float32
        fkt = elu_plus_one(b_kt)  # [D, BLOCK_N] float32
        b_fq, b_fkt = fq.to(b_q.dtype), fkt.to(b_q.dtype)

        weights = tl.dot(b_fq, b_fkt, input_precision="ieee")  # [query, key]
        weights = tl.where(offs_n[:, None] >= offs_n[None, :], weights, 0.0)
        b_o = tl.dot(b_fq, s.to(b_q.dtype), input_precision="ieee")
        b_o = tl.dot(weights.to(b_v.dtype), b_v, b_o, input_precision="ieee")
        d = tl.sum(fq * z[None, :], axis=1) + tl.sum(weights, axis=1)  # [BLOCK_N]
        b_o = (b_o / (d + eps)[:, None]).to(o.dtype.element_ty)
        tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o, keep)
        s = tl.dot(b_fkt, b_v, s, input_precision="ieee")
        z += tl.sum(fkt, axis=1)
    # [chunked:end]


def number_of_segments(heads, N, chunk, device):
    """Enough for PROGRAMS programs on each multiprocessor; at least 1, and no tiny ones."""
    multiprocessors = INTERPRETER
    if device.type == "cuda":
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = multiprocessors * PROGRAMS // heads
    return max(1, min(wanted, triton.cdiv(N, LEAST_CHUNKS * chunk)))


# [launch:begin]
def forward(q, k, v, *, chunk=BLOCK_N, segments=None, num_warps=NUM_WARPS):
    """o [B, H, N, Dv] in q's dtype, from q, k [B, H, N, D] and v [B, H, N, Dv]."""
    B, H, N, _ = q.shape
    segments = segments or number_of_segments(B * H, N, chunk, q.device)
    block = max(chunk, BLOCK_N)  # a segment is a whole number of chunks in both passes
    share = triton.cdiv(triton.cdiv(N, segments), block) * block
    states = partial_states(k, v, segments, share)
    SIZE = states[0].numel()
    prefix_kernel[(triton.cdiv(SIZE, BLOCK_SIZE),)](
        states=states, segments=segments, SIZE=SIZE, BLOCK_SIZE=BLOCK_SIZE
    )
    return output(q, k, v, states, share, chunk, num_warps)
    # [launch:end]


def output(q, k, v, states, share, chunk=BLOCK_N, num_warps=NUM_WARPS):
    """o, given what came before each segment: states [segments, B * H, D * Dv + D] float32."""
    B, H, N, D = q.shape
    o = torch.empty_like(v)
    segment_kernel[(B * H, states.shape[0])](
        q=q, k=k, v=v, states=states, o=o, N=N, share=share, eps=EPS, D=D, DV=v.shape[-1],
        BLOCK_N=chunk, num_warps=num_warps, num_stages=NUM_STAGES,
    )  # fmt: skip
    return o
