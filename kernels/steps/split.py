"""The rows of a head in parts: enough programs for every multiprocessor, and sums in a fixed order.

Each part leaves its own state; `combine_kernel` adds them up, first to last, so that two runs agree
to the last bit. Right for any strides, any N, D and Dv as for `strided`.
"""

import torch
import triton
import triton.language as tl

from . import strided
from .masked import block
from .normalized import elu_plus_one
from .state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS

PROGRAMS = 4  # programs of the state pass for each multiprocessor
LEAST_BLOCKS = 4  # a part is not worth less than this many blocks of rows
INTERPRETER = 8  # multiprocessors to pretend where there is no GPU
BLOCK_SIZE = 1024  # elements of a state that one program of the combine kernel adds up


# [state-pass:begin]
@triton.jit
def state_kernel(
    k,  # [B, H, N, D]
    v,  # [B, H, N, DV]
    states,  # [parts, B * H, D * DV + D] float32, written
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    N, H, share,
    D: tl.constexpr, DV: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """S = Σ φ(k) vᵀ and z = Σ φ(k) over one part, `share` rows, of one head."""
    head = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    first = part * share
    last = tl.minimum(first + share, N)  # at or before `first` if the part is empty
    offs_n = tl.arange(0, BLOCK_N).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D).to(tl.int64)
    offs_dv = tl.arange(0, BLOCK_DV).to(tl.int64)
    k += head // H * stride_kb + head % H * stride_kh
    v += head // H * stride_vb + head % H * stride_vh
    states += (part * tl.num_programs(0) + head) * (D * DV + D)

    b_s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
    b_z = tl.zeros([BLOCK_D], dtype=tl.float32)
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        keep_k = (rows[:, None] < last) & (offs_d[None, :] < D)
        keep_v = (rows[:, None] < last) & (offs_dv[None, :] < DV)
        # [BLOCK_N, BLOCK_D]
        b_k = tl.load(k + rows[:, None] * stride_kn + offs_d[None, :] * stride_kd, keep_k, 0.0)
        # [BLOCK_N, BLOCK_DV]
        b_v = tl.load(v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_v, 0.0)
        fk = tl.where(keep_k, elu_plus_one(b_k), 0.0)  # [BLOCK_N, BLOCK_D] float32
        b_z += tl.sum(fk, axis=0)
        b_s = tl.dot(tl.trans(fk.to(b_v.dtype)), b_v, b_s, input_precision="ieee")
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    tl.store(states + offs_d[:, None] * DV + offs_dv[None, :], b_s, keep_s)
    tl.store(states + D * DV + offs_d, b_z, offs_d < D)
    # [state-pass:end]


# [combine:begin]
@triton.jit
def combine_kernel(
    states,  # [parts, SIZE] float32
    total,  # [SIZE] float32, written
    parts, SIZE, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """total = states[0] + states[1] + …, in this order for every element."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    keep = offs < SIZE
    b_total = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
    for _ in range(0, parts):
        b_total += tl.load(states + offs, keep, 0.0)  # [BLOCK_SIZE]
        states += SIZE
    tl.store(total + offs, b_total, keep)
    # [combine:end]


# [parts:begin]
def number_of_parts(heads, N, device):
    """Enough for PROGRAMS programs on each multiprocessor; at least 1, and no tiny ones."""
    multiprocessors = INTERPRETER
    if device.type == "cuda":
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = multiprocessors * PROGRAMS // heads
    return max(1, min(wanted, triton.cdiv(N, LEAST_BLOCKS * BLOCK_N)))
    # [parts:end]


def partial_states(k, v, parts, share=None):
    """States [parts, B * H, D * Dv + D] float32 of k [B, H, N, D] and v [B, H, N, Dv].

    `share` is the rows of a part, in whole blocks; without it all parts together just reach N.
    """
    B, H, N, D = k.shape
    DV = v.shape[-1]
    states = torch.empty((parts, B * H, D * DV + D), dtype=torch.float32, device=k.device)
    share = share or triton.cdiv(triton.cdiv(N, parts), BLOCK_N) * BLOCK_N
    state_kernel[(B * H, parts)](
        k, v, states, *k.stride(), *v.stride(), N=N, H=H, share=share, D=D, DV=DV,
        BLOCK_N=BLOCK_N, BLOCK_D=block(D), BLOCK_DV=block(DV),
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return states


def combine(states):
    """The sum over parts, in order: states [parts, ...] float32 contiguous -> [...]."""
    total = torch.empty_like(states[0])
    SIZE = total.numel()
    combine_kernel[(triton.cdiv(SIZE, BLOCK_SIZE),)](
        states=states, total=total, parts=states.shape[0], SIZE=SIZE, BLOCK_SIZE=BLOCK_SIZE
    )
    return total


def forward(q, k, v, out=None, *, parts=None):
    """o [B, H, N, Dv] in q's dtype, float32 or bfloat16; written to `out` if given.

    q, k [B, H, N, D] and v [B, H, N, Dv], any strides; `out` is contiguous.
    """
    B, H, N, _ = k.shape
    parts = parts or number_of_parts(B * H, N, k.device)
    total = combine(partial_states(k, v, parts))
    return strided.output(q, total, v.shape[-1], out)
