"""Feature maps φ: the functions that turn softmax attention's exp(q·k) into φ(q)·φ(k).

Each map is defined once: its name, its PyTorch function, its Triton function and its derivative.
All of them act on the last dimension of a tile that is already in float32.

==========  =========================  ==============================================
name        φ(x)                       source
==========  =========================  ==============================================
elu         elu(x) + 1                 Katharopoulos et al., Transformers are RNNs, 2020
relu        max(x, 0)                  Kasai et al., Finetuning Transformers into RNNs, 2021
exp         exp(x)                     Choromanski et al., Performers, 2021 (without the projection)
softmax     softmax over the features  Shen et al., Efficient Attention, 2021 (φ of the queries)
identity    x                          Sun et al., RetNet, 2023
==========  =========================  ==============================================
"""

import torch
import triton
import triton.language as tl


def elu(x: torch.Tensor) -> torch.Tensor:
    """elu(x) + 1, written so that exp(x) keeps its relative precision for very negative x."""
    return torch.where(x > 0, x + 1, torch.exp(torch.clamp(x, max=0)))


# name -> PyTorch function, any floating dtype, same shape out as in
FEATURE_MAPS = {
    "elu": elu,
    "relu": torch.relu,
    "exp": torch.exp,
    "softmax": lambda x: torch.softmax(x, dim=-1),
    "identity": lambda x: x,
}


@triton.jit
def phi(x, keep, AXIS: tl.constexpr, FEATURE_MAP: tl.constexpr, FULL: tl.constexpr):
    """φ of a float32 tile whose features lie along AXIS; zero where `keep` is false.

    Zero matters: φ(0) is 1 for "elu", so a padded row or column would count in the normalizer.
    FULL says that `keep` is true everywhere.
    """
    if FEATURE_MAP == "elu":
        # max(x, 0) + exp(min(x, 0)) is x + 1 above zero and exp(x) below, without a branch
        low = tl.minimum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
        y = tl.maximum(x, 0.0) + tl.exp(low)
    elif FEATURE_MAP == "relu":
        y = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif FEATURE_MAP == "exp":
        y = tl.exp(x)
    elif FEATURE_MAP == "softmax":
        shifted = tl.where(keep, x, float("-inf"))
        top = tl.max(shifted, axis=AXIS, keep_dims=True)
        # a row with nothing to keep has top = -inf, and -inf - -inf is NaN
        e = tl.exp(shifted - tl.where(top == float("-inf"), 0.0, top))
        total = tl.sum(e, axis=AXIS, keep_dims=True)
        y = e / tl.where(total == 0.0, 1.0, total)
    else:
        tl.static_assert(FEATURE_MAP == "identity", "unknown feature map")
        y = x
    return y if FULL else tl.where(keep, y, 0.0)


# Two bfloat16 numbers at a time: max(x + 1, min(exp(x), 1)) is elu(x) + 1, because exp(x) ≥ x + 1.
# exp is computed in float32, the rest in pairs; the result is that of `phi`, rounded once.
# [packed-elu:begin]
PACKED_ELU = tl.constexpr("""
{
    .reg .b32 low, high, e, line, one;
    mov.b32 one, 0x3f803f80;
    shl.b32 low, $1, 16;
    and.b32 high, $1, 0xffff0000;
    mul.ftz.f32 low, low, 0f3FB8AA3B;  // log2(e)
    mul.ftz.f32 high, high, 0f3FB8AA3B;
    ex2.approx.ftz.f32 low, low;
    ex2.approx.ftz.f32 high, high;
    cvt.rn.bf16x2.f32 e, high, low;
    min.NaN.bf16x2 e, e, one;
    fma.rn.bf16x2 line, $1, one, one;
    max.NaN.bf16x2 $0, line, e;
}
""")
# [packed-elu:end]


@triton.jit
def phi_operand(
    x, keep, AXIS: tl.constexpr, FEATURE_MAP: tl.constexpr, FULL: tl.constexpr,
    OPERAND: tl.constexpr,
):  # fmt: skip
    """φ of a tile as it was loaded, as an operand of a matrix product; zero where not `keep`.

    In bfloat16 "elu" takes less than half the instructions of `phi`. Said to have side effects
    (it has none), so that the compiler does not compute it once more for each use.
    """
    if FEATURE_MAP == "elu" and OPERAND == tl.bfloat16:
        y = tl.inline_asm_elementwise(
            PACKED_ELU, "=r,r", [x], dtype=tl.bfloat16, is_pure=False, pack=2
        )
        return y if FULL else tl.where(keep, y, 0.0)
    else:
        return phi(x.to(tl.float32), keep, AXIS, FEATURE_MAP, FULL).to(OPERAND)


# Two bfloat16 numbers at a time; as a product and a sum, since sm_80 has no product alone.
PACKED_PRODUCT = tl.constexpr("""
{
    .reg .b32 nothing;
    mov.b32 nothing, 0x80008000;  // -0.0, twice: x + -0.0 is x for every x
    fma.rn.bf16x2 $0, $1, $2, nothing;
}
""")


@triton.jit
def scaled(x, factor, OPERAND: tl.constexpr):
    """An operand times float32 factors that broadcast to it."""
    if OPERAND == tl.bfloat16:
        factor = tl.broadcast_to(factor.to(tl.bfloat16), x.shape)
        return tl.inline_asm_elementwise(
            PACKED_PRODUCT, "=r,r,r", [x, factor], dtype=tl.bfloat16, is_pure=False, pack=2
        )
    else:
        return x * factor


@triton.jit
def phi_backward(y, dy, AXIS: tl.constexpr, FEATURE_MAP: tl.constexpr):
    """Gradient with respect to x, given y = φ(x) and the gradient dy with respect to y."""
    if FEATURE_MAP == "elu":  # the derivative is 1 above zero, where y > 1, and y below
        return dy * tl.minimum(y, 1.0, propagate_nan=tl.PropagateNan.ALL)
    elif FEATURE_MAP == "relu":
        return tl.where(y > 0, dy, 0.0)
    elif FEATURE_MAP == "exp":
        return dy * y
    elif FEATURE_MAP == "softmax":
        return y * (dy - tl.sum(dy * y, axis=AXIS, keep_dims=True))
    else:
        return dy
