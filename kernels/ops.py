"""The public operator: checks its arguments, chooses a path, and joins the kernels to autograd."""

import contextlib
import warnings
from typing import Optional

import torch
import triton
from torch.autograd import forward_ad

from . import bidirectional, causal, configs, decay_backward, decode, reference, short
from . import decay as decayed
from .arguments import (
    DTYPES,
    LinearAttentionState,
    check_attention,
    check_features,
    check_step,
    decay_of_each,
)
from .launch import modes_active, replayed, transforms_active

# Triton decides when its functions are defined; ours have been by now
INTERPRETED = not isinstance(bidirectional.state_kernel, triton.runtime.JITFunction)


def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    feature_map="elu",
    normalize: bool = True,
    scale: float | None = None,
    eps: float = 1e-6,
    initial_state: LinearAttentionState | None = None,
    return_state: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    enable_gqa: bool = False,
    decay: torch.Tensor | None = None,
):
    """Linear attention, o_t = φ(q_t)ᵀ S_t / (φ(q_t)·z_t + eps), with S = Σ φ(k) vᵀ and z = Σ φ(k).

    Args:
        q: [B, H, N, D], float16, bfloat16 or float32, any strides; D from 1 to 256.
        k: [B, H, M, D], dtype of q.
        v: [B, H, M, Dv], dtype of q; Dv from 1 to 256.
        causal: query t sees keys 0 to t only; needs M == N.
        feature_map: φ, one of "elu" (elu(x) + 1), "relu", "exp", "softmax" (over the features),
            "identity", or a callable applied to q and to k before the kernel; it may change D.
        normalize: divide by φ(q)·z + eps.
        scale: multiplies φ(q)φ(k)ᵀ; None is D**-0.5. Has no effect when `normalize`, since it
            cancels.
        eps: added to the denominator.
        initial_state: causal: what came before the first token. Bidirectional: a state to add to
            that of the keys.
        return_state: also return the state after all keys, the initial one included.
        cu_seqlens: [S + 1] int32, on q's device: S sequences packed into a batch of one, sequence
            i in rows cu_seqlens[i] to cu_seqlens[i + 1]; states are then [S, ...]. Checking its
            values waits for the GPU, except under torch.compile and CUDA graph capture.
        enable_gqa: k and v may have fewer heads than q, a divisor of H; states have k's heads.
        decay: float32 logarithms g ≤ 0 of the factors by which the state decays, with k's heads:
            [H], one for each head (RetNet, LION-D), or [B, H, N], one for each token too (simple
            GLA, Mamba-2, LION-S). On the way to token t the state is multiplied by exp(g_t):
            S_t = exp(g_t) S_{t-1} + φ(k_t) v_tᵀ, and z as well, the initial state included.
            Bidirectional: key j counts ``exp(-|G_t - G_j|)`` for query t, with G the running sum of
            g; then `initial_state` and `return_state` are refused. Below -100 counts as -100,
            which forgets everything. Above 0 is refused on a CPU; on a GPU, where to look would
            mean to wait, it counts as 0.

    Returns:
        o [B, H, N, Dv] in the dtype of q, or (o, LinearAttentionState) with `return_state`.
        Within `torch.autocast`, q, k and v are cast first, as for F.scaled_dot_product_attention.
        Every sum is kept in float32; float32 inputs are multiplied in float32. Gradients flow to
        q, k, v, decay and the initial state, also from the returned state; second derivatives
        raise RuntimeError. Two runs agree bit for bit.

        With `normalize`, gradients are computed from the values less their mean over a sequence:
        what they have in common cancels, and is not rounded first. So the gradients of a causal
        query depend on later keys and values in their last bits.

        Causal outputs do not depend on what comes later, to the last bit, as long as later values
        are finite: a NaN or infinity in v also spoils the rows before it in the same chunk of up
        to 128 tokens, since 0 · NaN is NaN. In q and k it spoils none. Of a decay for each token
        this does not hold to the last bit: where later tokens of the same part of a sequence forget
        almost everything, earlier ones are computed, and rounded, in another way.

    Raises:
        TypeError, ValueError: before anything runs, naming the argument, what came and what is
            allowed.

    On a CPU, and on GPUs older than sm_80, `kernels.reference.chunked` does the work.
    Source: Katharopoulos et al., Transformers are RNNs, 2020; decay: Sun et al., RetNet, 2023;
    Yang et al., Gated Linear Attention, 2024; in both directions: Afzal et al., LION, 2025.
    """
    if torch._C._is_any_autocast_enabled():
        q, k, v = _autocast(q, k, v)
    options = (causal, feature_map, normalize, scale, eps, enable_gqa)
    if initial_state is cu_seqlens is decay is None and return_state is False:
        if _can_be_replayed(q, k, v):
            return replayed(_linear_attention, (q, k, v), options)
    return _linear_attention(q, k, v, *options, initial_state, cu_seqlens, return_state, decay)


def _autocast(q, k, v):
    """q, k and v in the dtype of `torch.autocast`, where that is on."""
    kind = q.device.type if isinstance(q, torch.Tensor) else "cpu"
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return q, k, v
    dtype = torch.get_autocast_dtype(kind)
    return [x.to(dtype) if getattr(x, "dtype", None) in DTYPES else x for x in (q, k, v)]


def _can_be_replayed(*tensors):
    """Whether kernels run on these, and autograd need not know."""
    if torch.compiler.is_compiling() or not _are_plain(tensors) or _autograd_asks(tensors):
        return False
    return INTERPRETED or tensors[0].is_cuda


def _linear_attention(
    q, k, v, causal, feature_map, normalize, scale, eps, enable_gqa,
    initial_state=None, cu_seqlens=None, return_state=False, decay=None,
):  # fmt: skip
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
    )
    if scale is None:
        scale = q.shape[-1] ** -0.5
    if not isinstance(feature_map, str):
        fq, fk = feature_map(q), feature_map(k)
        check_features(q, k, fq, fk, initial_state)
        q, k, feature_map = fq.to(v.dtype), fk.to(v.dtype), "identity"
    if not _kernels_run(q) or 0 in (*q.shape, *k.shape):
        return reference.chunked(
            q,
            k,
            v,
            causal=causal,
            feature_map=feature_map,
            normalize=normalize,
            scale=float(scale),
            eps=float(eps),
            initial_state=initial_state,
            return_state=return_state,
            cu_seqlens=cu_seqlens,
            enable_gqa=enable_gqa,
            decay=decay,
        )
    dtype = q.dtype
    if INTERPRETED and dtype == torch.bfloat16:  # the interpreter computes bfloat16 wrongly
        q, k, v = q.float(), k.float(), v.float()
    initial = None
    if initial_state is not None:
        initial = torch.cat([initial_state[0].flatten(2), initial_state[1]], dim=-1)
    if cu_seqlens is not None:
        cu_seqlens = cu_seqlens.contiguous()
    if decay is not None:
        decay = decay_of_each(decay, k)
    o, state, _ = _attend(
        q, k, v, initial, cu_seqlens, decay,
        causal, feature_map, normalize, float(scale), float(eps), return_state,
    )  # fmt: skip
    if o.dtype != dtype:
        o = o.to(dtype)
    if not return_state:
        return o
    D, Dv = k.shape[-1], v.shape[-1]
    kv = state[..., : D * Dv].unflatten(-1, (D, Dv))
    return o, LinearAttentionState(kv, state[..., D * Dv :])


def linear_attention_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    state: LinearAttentionState,
    *,
    feature_map="elu",
    normalize: bool = True,
    scale: float | None = None,
    eps: float = 1e-6,
    enable_gqa: bool = False,
    decay: torch.Tensor | None = None,
) -> tuple[torch.Tensor, LinearAttentionState]:
    """One more token of causal linear attention, in constant time and memory.

    Args:
        q: [B, H, D], k: [B, H, D], v: [B, H, Dv]; dtypes and sizes as in `linear_attention`.
        state: what came before: kv [B, H, D, Dv] and z [B, H, D], float32; zeros at the start.
        feature_map, normalize, scale, eps, enable_gqa: as in `linear_attention`.
        decay: what the state is multiplied by first, as a float32 logarithm: [H] or [B, H].

    Returns:
        o [B, H, Dv] in the dtype of q, and the new state; the given one is left as it was.
        Where a gradient is asked for, and within `torch.compile` and `torch.func`, PyTorch
        operations do the work instead of the kernel.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.
    """
    if torch._C._is_any_autocast_enabled():
        q, k, v = _autocast(q, k, v)
    options = (feature_map, normalize, scale, eps, enable_gqa)
    if type(state) is LinearAttentionState and _can_be_replayed(q, k, v, *state):
        if decay is None or (decay.__class__ is torch.Tensor and not _autograd_asks((decay,))):
            o, kv, z = replayed(_flat_step, (q, k, v, *state, decay), options)
            return o, LinearAttentionState(kv, z)
    return _step(q, k, v, state, decay, *options)


def _flat_step(q, k, v, kv, z, decay, *options):
    o, state = _step(q, k, v, LinearAttentionState(kv, z), decay, *options)
    return o, *state


def _step(q, k, v, state, decay, feature_map, normalize, scale, eps, enable_gqa):
    check_step(
        q,
        k,
        v,
        state,
        feature_map=feature_map,
        normalize=normalize,
        scale=scale,
        eps=eps,
        enable_gqa=enable_gqa,
        decay=decay,
    )
    if decay is not None:  # [B, Hk]
        decay = decay.expand(k.shape[:2])
    if scale is None:
        scale = q.shape[-1] ** -0.5
    if not isinstance(feature_map, str):
        fq, fk = feature_map(q), feature_map(k)
        check_features(q, k, fq, fk, state, "state")
        q, k, feature_map = fq.to(v.dtype), fk.to(v.dtype), "identity"
    kv, z = state
    tensors = (q, k, v, kv, z) if decay is None else (q, k, v, kv, z, decay)
    if not _kernels_run(q) or _pytorch_asks(tensors) or 0 in (*q.shape, *k.shape):
        o, state = reference.recurrent(
            q.unsqueeze(2),
            k.unsqueeze(2),
            v.unsqueeze(2),
            causal=True,
            feature_map=feature_map,
            normalize=normalize,
            scale=float(scale),
            eps=float(eps),
            initial_state=state,
            return_state=True,
            enable_gqa=enable_gqa,
            decay=None if decay is None else decay.unsqueeze(2),
        )
        return o.squeeze(2), state
    dtype = q.dtype
    if INTERPRETED and dtype == torch.bfloat16:
        q, k, v = q.float(), k.float(), v.float()
    q, k, v, kv, z, decay = _readable(q, k, v, kv, z, decay)
    with _device_of(q):
        o, kv, z = decode.step(
            q, k, v, kv, z, decay, feature_map, normalize, float(scale), float(eps)
        )
    return o.to(dtype), LinearAttentionState(kv, z)


def _kernels_run(x):
    """Whether the Triton kernels can run on this tensor's device."""
    if x.device.type != "cuda":
        return INTERPRETED and x.device.type == "cpu"
    if INTERPRETED or torch.cuda.get_device_capability(x.device) >= (8, 0):
        return True
    _warn_once(torch.cuda.get_device_name(x.device))
    return False


_warned = set()


def _warn_once(name):
    if name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"{name} is older than sm_80, for which Triton generates no tensor-core code: "
            "linear attention runs there as the chunked PyTorch reference",
            stacklevel=4,
        )


def _readable(*tensors):
    """Tensors as the kernels can read them, copied where they are not; None stays None.

    PyTorch may keep the negative of what is stored, and a bit that says so. And the kernels take
    the distance of two features for a number of 32 bits.
    """
    found = []
    for x in tensors:
        if x is not None:
            x = x.resolve_neg() if x.is_neg() else x
            x = x.contiguous() if x.stride(-1) * (x.shape[-1] - 1) >= 2**31 else x
        found.append(x)
    return found


def _device_of(x):
    """Makes the tensor's GPU the current one, where there is more than one."""
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device_of(x)


def _attend(
    q, k, v, initial, cu_seqlens, decay, causal, feature_map, normalize, scale, eps, keep
):  # fmt: skip
    """o, the state and what is kept; the state is None unless `keep` or autograd wants it.

    Runs the kernels through the registered operator only where PyTorch has to see it, since its
    dispatch takes longer than the kernels of a short sequence."""
    tensors = (q, k, v) if initial is None else (q, k, v, initial)
    if decay is not None:
        tensors = (*tensors, decay)
    arguments = (q, k, v, initial, cu_seqlens, decay, causal, feature_map, normalize, scale, eps)
    save = _autograd_asks(tensors)
    if torch.compiler.is_compiling() or modes_active() or not _are_plain(tensors):
        return forward(*arguments, save)
    if transforms_active():
        return _Attention.apply(*arguments, save)
    if save:
        return _Eager.apply(*arguments, save)
    return _forward(*arguments, save, keep)


def _are_plain(tensors):
    """Whether these are tensors and nothing that stands for one."""
    for x in tensors:
        if type(x) is not torch.Tensor:
            return False
    return True


def _autograd_asks(tensors):
    """Whether a derivative may be asked for; forward mode reaches autograd too, which refuses."""
    if torch.is_grad_enabled():
        for x in tensors:
            if x.requires_grad:
                return True
    return forward_ad._current_level >= 0


def _pytorch_asks(tensors):
    """Whether a function that is registered nowhere has to consist of PyTorch's operations."""
    if torch.compiler.is_compiling() or modes_active() or transforms_active():
        return True
    return not _are_plain(tensors) or _autograd_asks(tensors)


def _forward(q, k, v, initial, cu_seqlens, decay, *options):
    return replayed(_run_forward, (q, k, v, initial, cu_seqlens, decay), options)


def _run_forward(
    q, k, v, initial, cu_seqlens, decay,
    is_causal, feature_map, normalize, scale, eps, save, keep=True,
):  # fmt: skip
    q, k, v, initial, decay = _readable(q, k, v, initial, decay)
    arguments = (q, k, v, initial, cu_seqlens, feature_map, normalize, scale, eps)
    with _device_of(q):
        if decay is not None:
            return decayed.forward(
                q, k, v, initial, cu_seqlens, decay,
                is_causal, feature_map, normalize, scale, eps, save,
            )  # fmt: skip
        if cu_seqlens is None and configs.is_short(q, k, v):
            return *short.forward(
                q, k, v, initial, is_causal, feature_map, normalize, scale, eps, keep
            ), None
        if is_causal:
            return causal.forward(*arguments, save)
        return *bidirectional.forward(*arguments, keep), None


def _backward(*arguments):
    return replayed(_run_backward, arguments[:11], arguments[11:])


def _run_backward(
    q, k, v, initial, cu_seqlens, decay, state, kept, o, do, dstate,
    is_causal, feature_map, normalize, scale, eps,
):  # fmt: skip
    q, k, v, initial, decay, do, dstate = _readable(q, k, v, initial, decay, do, dstate)
    if dstate is not None:  # autograd hands over any strides, the kernels count on these
        dstate = dstate.contiguous()
    with _device_of(q):
        if decay is not None:
            return decay_backward.backward(
                q, k, v, initial, cu_seqlens, decay, o, kept, do, dstate,
                is_causal, feature_map, normalize, scale,
            )  # fmt: skip
        if is_causal:
            return *causal.backward(
                q, k, v, initial, state, kept, do, dstate,
                cu_seqlens, feature_map, normalize, scale, eps,
            ), None  # fmt: skip
        return *bidirectional.backward(
            q, k, v, initial, state, do, dstate,
            cu_seqlens, feature_map, normalize, scale, eps,
        ), None  # fmt: skip


@torch.library.custom_op("triton_linear_attention::forward", mutates_args=())
def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    initial: Optional[torch.Tensor],
    cu_seqlens: Optional[torch.Tensor],
    decay: Optional[torch.Tensor],
    is_causal: bool,
    feature_map: str,
    normalize: bool,
    scale: float,
    eps: float,
    save: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o [B, H, N, Dv], state [S, Hk, D * Dv + D] float32, and what the forward pass keeps."""
    # fresh: `torch.compile` may run this within memory that it manages and will want back
    o, state, kept = replayed(
        _run_forward, (q, k, v, initial, cu_seqlens, decay),
        (is_causal, feature_map, normalize, scale, eps, save), fresh=True,
    )  # fmt: skip
    return o, _or_nothing(state, q), _or_nothing(kept, q)


def _or_nothing(x, like):
    """An operator returns no None: an empty tensor stands for it."""
    return like.new_empty(0, dtype=torch.float32) if x is None else x


@forward.register_fake
def _(q, k, v, initial, cu_seqlens, decay, is_causal, feature_map, normalize, scale, eps, save):
    B, H, N, D = q.shape
    Hk, Dv = v.shape[1], v.shape[3]
    S = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if decay is None:
        kept = causal.kept_shape(q, k, v, cu_seqlens, save and is_causal)
    else:
        kept = (B, H, N) if save and normalize else (0,)
    has_state = decay is None or is_causal
    return (
        q.new_empty((B, H, N, Dv)),
        q.new_empty((S, Hk, D * Dv + D) if has_state else (0,), dtype=torch.float32),
        q.new_empty(kept, dtype=torch.float32),
    )


@torch.library.custom_op("triton_linear_attention::backward", mutates_args=())
def backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    initial: Optional[torch.Tensor],
    cu_seqlens: Optional[torch.Tensor],
    decay: Optional[torch.Tensor],
    state: Optional[torch.Tensor],
    kept: Optional[torch.Tensor],
    o: Optional[torch.Tensor],
    do: torch.Tensor,
    dstate: Optional[torch.Tensor],
    is_causal: bool,
    feature_map: str,
    normalize: bool,
    scale: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq, dk, dv as q, k, v, and the gradients of the initial state and of decay, both float32.

    Of what was not given, the gradient is an empty tensor.
    """
    *found, dinitial, ddecay = _backward(
        q, k, v, initial, cu_seqlens, decay, state, kept, o, do, dstate,
        is_causal, feature_map, normalize, scale, eps,
    )  # fmt: skip
    return *found, _or_nothing(dinitial, q), _or_nothing(ddecay, q)


@backward.register_fake
def _(
    q, k, v, initial, cu_seqlens, decay, state, kept, o, do, dstate,
    is_causal, feature_map, normalize, scale, eps,
):  # fmt: skip
    return (
        *(x.new_empty(x.shape) for x in (q, k, v)),
        *(q.new_empty(0 if x is None else x.shape, dtype=torch.float32) for x in (initial, decay)),
    )


def _setup_context(ctx, inputs, output):
    q, k, v, initial, cu_seqlens, decay, *ctx.options, _ = inputs
    o, state, kept = output
    _, _, normalize, _, _ = ctx.options
    if decay is None or not normalize:  # otherwise o is wanted, for do·o
        o = None
    ctx.save_for_backward(q, k, v, initial, cu_seqlens, decay, state, kept, o)
    ctx.set_materialize_grads(False)


def _gradients(run, ctx, do, dstate):
    """The gradients of all arguments of `forward`; `run` is `_backward` or its operator."""
    q, k, v, initial, cu_seqlens, decay, state, kept, o = ctx.saved_tensors
    if do is None:
        do = q.new_zeros(()).expand(*q.shape[:-1], v.shape[-1])
    dq, dk, dv, dinitial, ddecay = run(
        q, k, v, initial, cu_seqlens, decay, state, kept, o, do, dstate, *ctx.options
    )
    dinitial = None if initial is None else dinitial
    return dq, dk, dv, dinitial, None, None if decay is None else ddecay, *(None,) * 6


forward.register_autograd(
    lambda ctx, do, dstate, _: _gradients(backward, ctx, do, dstate), setup_context=_setup_context
)


def _fold(info, in_dims, tensors):
    """What `vmap` maps over becomes part of the batch: [B, ...] from [mapped, B, ...].

    What is not mapped over is the same for all. The kernels take q, k and v of any strides, but
    count on those of the states: a batch of one, repeated, has none of its own.
    """
    folded = []
    for i, (x, dim) in enumerate(zip(tensors, in_dims, strict=False)):
        if x is not None:
            x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            x = x.flatten(0, 1)
            x = x if i < 3 else x.contiguous()
        folded.append(x)
    return folded


def _unfold(info, outputs):
    outputs = [None if x is None else x.unflatten(0, (info.batch_size, -1)) for x in outputs]
    return tuple(outputs), tuple(None if x is None else 0 for x in outputs)


def _mapped(function, count):
    """How `vmap` runs a function whose first `count` arguments are tensors."""

    def run(info, in_dims, *arguments):
        if arguments[4] is not None:
            raise NotImplementedError(
                "vmap over linear_attention with cu_seqlens: packed sequences take the place of "
                "the batch, so there is none to map over; pack them all into one call instead"
            )
        tensors = _fold(info, in_dims, arguments[:count])
        return _unfold(info, function.apply(*tensors, *arguments[count:]))

    return staticmethod(run)


def _is_batched(grad):
    """Whether autograd hands over many gradients as one: `torch.autograd.grad(is_grads_batched)`.

    That is a `vmap` older than `torch.func.vmap`, which calls a registered operator once for each.
    """
    return grad is not None and torch._C._functorch.is_legacy_batchedtensor(grad)


class _Gradient(torch.autograd.Function):
    """`_backward` where autograd could want to differentiate it once more, and cannot."""

    forward = staticmethod(lambda *arguments: _backward(*arguments))

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError("linear_attention has no second derivative: its kernels compute one")


class _Attention(torch.autograd.Function):
    """The same as the operator, for `torch.func`."""

    forward = staticmethod(_forward)
    setup_context = staticmethod(_setup_context)

    @staticmethod
    def backward(ctx, do, dstate, _):
        if _is_batched(do) or _is_batched(dstate):
            return _gradients(backward, ctx, do, dstate)
        return _gradients(
            _Gradient.apply if torch.is_grad_enabled() else _backward, ctx, do, dstate
        )

    @staticmethod
    def jvp(ctx, *tangents):
        raise NotImplementedError("linear_attention has no forward-mode derivative")


class _Eager(_Attention):
    """The same in eager PyTorch. Where `forward` takes the context, PyTorch need not find out at
    each call, with `inspect`, which argument is which: that takes longer than to launch."""

    setup_context = staticmethod(torch.autograd.Function.setup_context)

    @staticmethod
    def forward(ctx, *arguments):
        output = _forward(*arguments)
        _setup_context(ctx, arguments, output)
        return output


_Attention.vmap = _mapped(_Attention, 6)
_Gradient.vmap = _mapped(_Gradient, 11)
