"""Tile shapes and the number of parts, in one place.

A tile is chosen by kernel, head sizes, dtype and architecture; the number of parts by how many
programs the GPU holds at a time. Nothing is tuned while a program runs.

HOPPER was chosen by timing every kernel alone, on an H100 at (8, 8, 65536, 64) and
(4, 16, 16384, 128) in bfloat16, over rows 64 and 128, values 64 and 128, 4 and 8 warps, 1 to 3
stages and 2 or 4 resident programs. `python -m bench tune` makes it anew, over more of each. The
rule for everything else, and NARROW, were chosen to compile within the shared memory of a block of
sm_86 (99 KiB) and, without spills, within the registers; tests/kernels/test_compile.py compiles
both.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl


class Tile(NamedTuple):
    """The shape of one program: how much it holds, and how it is compiled."""

    rows: int  # tokens of one step of the loop
    features: int  # D, rounded up to a power of two
    values: int  # columns of v that one program sees
    narrowest: int  # least width of a matrix product
    resident: int  # programs that fit on a multiprocessor at a time
    num_warps: int
    num_stages: int


ROOMY = (90, 100, 103)  # a program may have 227 KiB of shared memory

#   kernel, features: rows, values, resident, num_warps, num_stages
HOPPER = {
    ("short_kernel", 64): (64, 64, 1, 4, 3),
    ("state_kernel", 64): (128, 64, 2, 4, 3),
    ("output_kernel", 64): (128, 64, 4, 8, 3),
    ("backward_query_kernel", 64): (64, 64, 2, 4, 3),
    ("backward_key_kernel", 64): (64, 64, 4, 4, 2),
    ("causal_output_kernel", 64): (64, 64, 2, 4, 3),
    ("causal_backward_query_kernel", 64): (64, 64, 2, 4, 3),
    ("causal_backward_key_kernel", 64): (64, 64, 2, 4, 2),
    ("decay_state_kernel", 64): (128, 64, 2, 4, 3),
    ("decay_output_kernel", 64): (64, 64, 2, 4, 3),
    ("decay_backward_query_kernel", 64): (64, 64, 2, 4, 3),
    ("decay_backward_key_kernel", 64): (64, 64, 2, 4, 2),
    ("short_kernel", 128): (64, 64, 1, 4, 2),
    ("state_kernel", 128): (64, 128, 2, 4, 3),
    ("output_kernel", 128): (64, 128, 2, 8, 3),
    ("backward_query_kernel", 128): (64, 128, 1, 8, 3),
    ("backward_key_kernel", 128): (64, 128, 1, 8, 3),
    ("causal_output_kernel", 128): (64, 128, 1, 8, 3),
    ("causal_backward_query_kernel", 128): (32, 128, 1, 8, 3),
    ("causal_backward_key_kernel", 128): (32, 128, 1, 8, 3),
}


# Everywhere but on sm_90 and sm_100, tensor cores take and leave all in registers. These kernels
# hold products of rows with rows, or two results of a row, beside a state: there they take few
# rows, and on Blackwell more warps. Chosen by compiling alone, so that as little spills as can be.
CROWDED = (
    "short_kernel",
    "backward_query_kernel",
    "causal_output_kernel",
    "causal_backward_query_kernel",
    "causal_backward_key_kernel",
    "decay_output_kernel",
    "decay_backward_query_kernel",
    "decay_backward_key_kernel",
)
#   generation, dtype, kernel, and features and values, for which this rule does not do:
#   rows, values, num_warps, num_stages
NARROW = {
    (8, torch.bfloat16, "short_kernel", 64, 128): (32, 64, 4, 2),
    (8, torch.bfloat16, "backward_query_kernel", 64, 64): (32, 64, 8, 2),
    (8, torch.bfloat16, "causal_backward_query_kernel", 64, 64): (16, 64, 4, 3),
    (8, torch.bfloat16, "causal_backward_query_kernel", 64, 128): (16, 64, 4, 3),
    (8, torch.bfloat16, "short_kernel", 128, 128): (32, 64, 8, 1),
    (8, torch.bfloat16, "backward_query_kernel", 128, 128): (64, 128, 8, 1),
    (8, torch.bfloat16, "causal_backward_query_kernel", 128, 128): (32, 64, 8, 1),
    (8, torch.bfloat16, "decay_backward_query_kernel", 128, 128): (32, 64, 8, 1),
    (8, torch.bfloat16, "decay_backward_key_kernel", 128, 128): (32, 64, 8, 1),
    (8, torch.bfloat16, "short_kernel", 256, 64): (16, 32, 8, 1),
    (8, torch.bfloat16, "backward_key_kernel", 256, 32): (16, 32, 8, 1),
    (8, torch.float16, "backward_query_kernel", 64, 64): (16, 64, 4, 1),
    (8, torch.float16, "causal_backward_query_kernel", 64, 64): (32, 32, 4, 2),
    (8, torch.float16, "decay_backward_key_kernel", 64, 64): (16, 32, 4, 2),
    (8, torch.float16, "decay_backward_key_kernel", 128, 64): (16, 32, 8, 1),
    (10, torch.bfloat16, "causal_backward_query_kernel", 128, 64): (32, 64, 8, 1),
    (10, torch.bfloat16, "causal_backward_query_kernel", 128, 128): (32, 64, 8, 1),
    (10, torch.bfloat16, "decay_output_kernel", 128, 128): (64, 64, 8, 1),
    (10, torch.bfloat16, "decay_backward_query_kernel", 128, 128): (64, 64, 8, 1),
    (10, torch.bfloat16, "decay_output_kernel", 256, 64): (32, 64, 8, 1),
}


class Chained(NamedTuple):
    """The shape of `chained_kernel`."""

    segment: int  # rows of one link of the chain
    rows: int  # rows of one step of its loops
    fewest: int  # heads from which the links are not what it waits for
    kept: int  # segments from one state that is kept for the backward pass to the next
    part: int = 16  # segments, at most, of a part that is mild or not, see `decay_chained.py`

    def options(self, device: torch.device) -> dict:
        """How it is compiled: three programs to a multiprocessor; the interpreter has no choice."""
        arch, _ = hardware(device)
        return {"num_warps": 4, "maxnreg": 168} if arch else {}


CHAINED = Chained(segment=256, rows=64, fewest=48, kept=8)

# Up to this many tokens there is one launch, because issuing more takes the host longer than the
# GPU needs to run them. For heads wider than 64, whose states cost more to sum again, fewer.
SHORT = 1024
# The same for few heads, whose programs then share the sums; and what is other in their tile there,
# for heads of 64 on an H100.
SHARED = 2048
FEW_HEADS = 16
SHARING = {"rows": 128, "num_warps": 8, "num_stages": 2}


# Up to so many numbers, each program of the output pass adds up the states of all parts by itself:
# those of eight parts with heads of 64, of two with heads of 128.
FEW = 8 * 64 * 64


def chained_is_faster(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether `chained_kernel` takes q, k, v [B, H, N, D], and is the faster way.

    Where it was measured: bfloat16 on an H100, D and Dv 64.
    """
    B, H, N, D = q.shape
    return (
        D == v.shape[3] == 64
        and all(x.stride()[2:] == (64, 1) for x in (q, k, v))
        and B * H >= CHAINED.fewest
        and N % CHAINED.rows == 0
        and N >= 16 * CHAINED.segment
        and q.dtype == torch.bfloat16
        and hardware(q.device)[0] == 90
    )


def parts_of_chain(N: int, unit: int) -> tuple[int, int]:
    """Into how many parts of whole segments N rows are cut, and how many segments each has.

    Parts are cut as `decay.part_of` cuts them, in multiples of `unit`.
    """
    parts = cdiv(N, CHAINED.part * CHAINED.segment)
    while (rows := cdiv(cdiv(N, parts), unit) * unit) % CHAINED.segment and parts > 1:
        parts += 1
    return parts, cdiv(rows, CHAINED.segment)


@functools.cache
def tile(kernel: str, D: int, DV: int, dtype: torch.dtype, arch: int) -> Tile:
    """The tile of the kernel of that name for head sizes D and DV, both 1 to 256.

    `arch` is the compute capability as one number, 90 for an H100; 0 for the interpreter.
    """
    hopper = arch == 90 and dtype == torch.bfloat16
    # With narrow tiles, Triton 3.6 gave wrong gradients or illegal memory accesses on an H100; a
    # known fault of ptxas 12 is the likely cause. There, heads below 64 are padded to 64.
    narrowest = 64 if hopper else 16
    features = max(narrowest, triton.next_power_of_2(D))
    values = max(narrowest, triton.next_power_of_2(DV))
    if hopper and (kernel, features) in HOPPER:
        rows, most, resident, warps, stages = HOPPER[kernel, features]
        return Tile(rows, features, min(values, most), narrowest, resident, warps, stages)
    if dtype == torch.float32 and arch and kernel != "step_kernel":
        # Without tensor cores every multiplication is an instruction. Larger tiles spill, and take
        # seconds to compile, at the first call. (The interpreter, arch 0, compiles nothing.)
        most = 32 if kernel == "causal_output_kernel" else 128
        return Tile(16, features, min(values, most, 4096 // features), narrowest, 2, 8, 1)
    # the state of a program is features × values in float32 registers: 64 KiB at the most.
    # backward_key_kernel also keeps it in shared memory, twice: operands of four bytes take half
    # the width where a program has 99 or 163 KiB.
    roomy = dtype == torch.bfloat16 or arch in ROOMY
    values = min(values, 128, (16384 if roomy else 8192) // features)
    if dtype == torch.bfloat16:
        rows = 64 if features <= 128 else 32
    else:  # operands of four bytes
        rows = 32 if features <= 64 else 16
    narrow = arch not in (0, *ROOMY)
    if kernel in CROWDED and (narrow or (arch >= 100 and features > 128)):
        rows = 32 if dtype == torch.bfloat16 and features <= 128 else 16
        values = values if dtype == torch.bfloat16 and features >= 64 else min(values, 64)
    entry = NARROW.get((8 if narrow else arch // 10, dtype, kernel, features, values))
    if entry:
        rows, values, warps, stages = entry
        return Tile(rows, features, values, narrowest, 2, warps, stages)
    wide = features * values > 4096 or (features > 64 and arch not in (0, 90))
    warps = 8 if wide or (arch >= 100 and kernel in CROWDED) else 4
    # on Blackwell, Triton 3.7 cannot pipeline a loop with two accumulators that are scaled and φ
    alone = wide or (arch >= 100 and kernel.startswith("decay_backward"))
    return Tile(rows, features, values, narrowest, 2, warps, 1 if alone else 2)


def constants(tile: Tile, x: torch.Tensor, DV: int, feature_map: str, cu_seqlens) -> dict:
    """What a kernel over the rows of x [B, H, N, D] and its values [B, H, N, DV] is compiled with.

    FULL: every tile is full, so that no mask is needed. The dictionary is shared: copy to change.
    """
    _, _, N, D = x.shape
    return _constants(tile, N % tile.rows == 0, D, DV, x.dtype, feature_map, cu_seqlens is not None)


@functools.cache
def _constants(tile, whole_rows, D, DV, dtype, feature_map, packed):
    whole = whole_rows and D == tile.features and DV % tile.values == 0
    return {
        "D": D,
        "DV": DV,
        "BLOCK_N": tile.rows,
        "BLOCK_D": tile.features,
        "BLOCK_DV": tile.values,
        "FEATURE_MAP": feature_map,
        "PACKED": packed,
        "FULL": whole and not packed,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
        **OPERANDS[dtype],
    }


# What the operands of a matrix product are converted to, by the dtype of the inputs.
# float32 is multiplied as float32 (`ieee`). A float16 operand could overflow: a state sums over all
# tokens and passes 65504. In float32 registers and multiplied as tf32 it keeps the 10 bits of
# mantissa that float16 has, and the range of float32.
OPERANDS = {
    torch.bfloat16: {"OPERAND": tl.bfloat16, "PRECISION": "tf32"},
    torch.float16: {"OPERAND": tl.float32, "PRECISION": "tf32"},
    torch.float32: {"OPERAND": tl.float32, "PRECISION": "ieee"},
}


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up. `triton.cdiv` does the same, but takes ten microseconds on the host."""
    return -(-a // b)


@functools.cache
def hardware(device: torch.device) -> tuple[int, int]:
    """Compute capability as one number and the multiprocessors; 0 and 8 for the interpreter."""
    if device.type != "cuda":
        return 0, 8
    properties = torch.cuda.get_device_properties(device)
    return 10 * properties.major + properties.minor, properties.multi_processor_count


def plan(kernel, x, DV, heads, cu_seqlens):
    """The tile, and into how many parts the rows of each head are cut.

    x [B, H, N, D] gives rows, D and dtype; `heads` counts the heads of all sequences. As many
    parts as it takes to give every multiprocessor all the programs it can hold at a time, but
    beyond the first few none shorter than four blocks of rows: adding up their states takes longer.
    """
    _, _, N, D = x.shape
    if cu_seqlens is not None:
        N = cdiv(N, cu_seqlens.numel() - 1)
    return _plan(kernel, N, D, DV, x.dtype, heads, *hardware(x.device))


def is_short(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether `short_kernel` takes q, k, v [B, H, N, D]."""
    length = _length(q, k, v)
    if SHORT < length <= SHARED:  # measured on an H100; 0 is the interpreter
        return q.shape[0] * q.shape[1] <= FEW_HEADS and hardware(q.device)[0] in (0, 90)
    return length <= SHORT


def _length(q, k, v):
    """Tokens, where heads wider than 64 count for more, in proportion."""
    return max(q.shape[2], k.shape[2]) * max(64, q.shape[3], v.shape[3]) // 64


def short_plan(q, k, v):
    """How `short_kernel` takes q, k, v [B, H, N, D]: its tile, the parts of each head, and whether
    the programs share the sums of the keys. A program writes outputs for each multiprocessor.
    """
    B, H, N, D = q.shape
    DV = v.shape[3]
    arch, multiprocessors = hardware(q.device)
    shared = _length(q, k, v) > SHORT
    shape = tile("short_kernel", D, DV, q.dtype, arch)
    if shared and arch == 90 and q.dtype == torch.bfloat16 and shape.features == 64:
        shape = shape._replace(**SHARING)
    wanted = multiprocessors * shape.resident // (B * H * cdiv(DV, shape.values))
    parts = max(1, min(wanted, cdiv(N, shape.rows)))
    return shape, parts, shared and parts > 1


def cuts(tile: Tile, device: torch.device, programs: int, rows: int) -> int:
    """Into how many cuts the state pass of `causal.py` divides each part.

    One cut makes `programs` of `rows` each; wanted are half as many again as the tile's own kernel
    has at a time, but none shorter than four blocks.
    """
    _, multiprocessors = hardware(device)
    wanted = 3 * multiprocessors * tile.resident // 2 // programs
    return max(1, min(wanted, rows // (4 * tile.rows)))


@functools.cache
def _plan(kernel, N, D, DV, dtype, heads, arch, multiprocessors):
    shape = tile(kernel, D, DV, dtype, arch)
    programs = heads * cdiv(DV, shape.values)
    wanted = multiprocessors * shape.resident // programs
    few = 16 if kernel == "output_kernel" or kernel.startswith("causal") else 8
    blocks = 2 if kernel == "output_kernel" else 4
    most = min(cdiv(N, shape.rows), max(few, cdiv(N, blocks * shape.rows)))
    return shape, max(1, min(wanted, most))
