"""The operator's arguments: the state it carries, and the checks made before anything runs."""

import numbers
from typing import NamedTuple

import torch

from .feature_maps import FEATURE_MAPS

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_HEAD_DIM = 256
LARGEST = torch.finfo(torch.float32).max  # the kernels take numbers as float32


class LinearAttentionState(NamedTuple):
    """What linear attention remembers of the keys and values it has seen: the same size for any N.

    H is the number of key heads: with `enable_gqa`, query heads of one group share one state.
    For packed sequences B is the number of sequences.
    """

    kv: torch.Tensor  # [B, H, D, Dv] float32, Σ φ(k) vᵀ
    z: torch.Tensor  # [B, H, D] float32, Σ φ(k)


def check_attention(
    q,
    k,
    v,
    *,
    causal,
    feature_map,
    normalize,
    scale,
    eps,
    initial_state,
    return_state,
    cu_seqlens,
    enable_gqa,
    decay=None,
    float64=False,
):
    """Raises TypeError or ValueError that names the argument, what came and what is allowed.

    q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv]. `float64` also admits that dtype.
    """
    for name, flag in (
        ("causal", causal),
        ("normalize", normalize),
        ("return_state", return_state),
        ("enable_gqa", enable_gqa),
    ):
        _check_bool(name, flag)
    _check_tensors({"q": q, "k": k, "v": v}, "BHND", float64)
    _check_heads(q, k, v, enable_gqa)
    if k.shape[2] != v.shape[2]:
        raise ValueError(
            f"k and v must have the same length: k has {k.shape[2]} tokens, v has {v.shape[2]}"
        )
    if causal and q.shape[2] != k.shape[2]:
        raise ValueError(
            "causal=True needs as many queries as keys: "
            f"q has {q.shape[2]} tokens, k has {k.shape[2]}"
        )
    _check_numbers(feature_map, scale, eps)
    sequences = q.shape[0]
    if cu_seqlens is not None:
        _check_cu_seqlens(cu_seqlens, q, k)
        sequences = cu_seqlens.numel() - 1
    if initial_state is not None:
        _check_state("initial_state", initial_state, q, k, v, sequences, feature_map, float64)
    if decay is not None:
        _check_decay(decay, k, "N", float64)
        if q.shape[2] != k.shape[2]:
            raise ValueError(
                "decay needs as many queries as keys: "
                f"q has {q.shape[2]} tokens, k has {k.shape[2]}"
            )
        if not causal and (initial_state is not None or return_state):
            name = "return_state=True" if initial_state is None else "initial_state"
            raise ValueError(
                f"{name} with decay needs causal=True: in both directions there is no one state"
            )


def check_step(q, k, v, state, *, feature_map, normalize, scale, eps, enable_gqa, decay=None):
    """The same for one token: q [B, H, D], k [B, Hk, D], v [B, Hk, Dv] and a state."""
    _check_bool("normalize", normalize)
    _check_bool("enable_gqa", enable_gqa)
    _check_tensors({"q": q, "k": k, "v": v}, "BHD", float64=False)
    _check_heads(q, k, v, enable_gqa)
    _check_numbers(feature_map, scale, eps)
    _check_state("state", state, q, k, v, q.shape[0], feature_map, float64=False)
    if decay is not None:
        _check_decay(decay, k, "", float64=False)


def check_features(q, k, fq, fk, state=None, state_name="initial_state"):
    """What a callable feature map returned: fq [..., N, F], fk [..., M, F], same F as the state."""
    for name, x, fx in (("q", q, fq), ("k", k, fk)):
        if not isinstance(fx, torch.Tensor):
            raise TypeError(f"feature_map({name}) must return a tensor, not {type(fx).__name__}")
        _check_dense(f"feature_map({name})", fx)
        if not fx.dtype.is_floating_point:
            raise TypeError(f"feature_map({name}) must return a floating dtype, not {fx.dtype}")
        if fx.device != x.device:
            raise ValueError(
                f"feature_map({name}) must stay on {x.device} like {name}, not move to {fx.device}"
            )
        if fx.shape[:-1] != x.shape[:-1]:
            raise ValueError(
                f"feature_map({name}) may change the last dimension only: "
                f"{tuple(x.shape)} became {tuple(fx.shape)}"
            )
    if fq.shape[-1] != fk.shape[-1]:
        raise ValueError(
            "feature_map must give q and k the same number of features, "
            f"not {fq.shape[-1]} and {fk.shape[-1]}"
        )
    _check_head_dim("feature_map(q)", fq.shape[-1])
    if state is not None and state[1].shape[-1] != fk.shape[-1]:
        raise ValueError(
            f"{state_name}.kv and {state_name}.z must have as many features as feature_map gives, "
            f"{fk.shape[-1]}, not {state[1].shape[-1]}"
        )


def decay_of_each(decay, k):
    """decay as [B, Hk, N], without a copy: one for each token of k [B, Hk, N, D]."""
    return decay if decay.ndim == 3 else decay[None, :, None].expand(k.shape[:3])


def sequence_bounds(cu_seqlens):
    """cu_seqlens [S+1] as a list of (first query, end, first key, end) of each sequence."""
    ends = cu_seqlens.tolist()
    return [(a, b, a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def _check_bool(name, flag):
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be True or False, not {flag!r} ({type(flag).__name__})")


def _check_tensors(tensors, dims, float64):
    allowed = (*DTYPES, torch.float64) if float64 else DTYPES
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
        _check_dense(name, x)
        if x.ndim != len(dims):
            raise ValueError(
                f"{name} must have {len(dims)} dimensions [{', '.join(dims)}], "
                f"not {x.ndim}: {tuple(x.shape)}"
            )
        if x.dtype not in allowed:
            names = ", ".join(str(d).removeprefix("torch.") for d in allowed)
            raise TypeError(f"{name} must be one of {names}, not {x.dtype}")
        _check_head_dim(name, x.shape[-1])
    first = next(iter(tensors))
    for name, x in tensors.items():
        if x.dtype != tensors[first].dtype:
            raise TypeError(
                f"{first} and {name} must have the same dtype, "
                f"not {tensors[first].dtype} and {x.dtype}"
            )
        if x.device != tensors[first].device:
            raise ValueError(
                f"{first} and {name} must be on the same device, "
                f"not {tensors[first].device} and {x.device}"
            )


def _check_dense(name, x):
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, not of layout {x.layout}")
    if x.is_nested:
        raise TypeError(f"{name} must be a dense tensor, not a nested one")


def _check_head_dim(name, size):
    if not 1 <= size <= MAX_HEAD_DIM:
        raise ValueError(f"the last dimension of {name} must be 1 to {MAX_HEAD_DIM}, not {size}")


def _check_heads(q, k, v, enable_gqa):
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise ValueError(
            "q, k and v must have the same batch size, "
            f"not {q.shape[0]}, {k.shape[0]} and {v.shape[0]}"
        )
    if k.shape[1] != v.shape[1]:
        raise ValueError(
            f"k and v must have the same number of heads, not {k.shape[1]} and {v.shape[1]}"
        )
    if q.shape[1] != k.shape[1]:
        if not enable_gqa:
            raise ValueError(
                f"q has {q.shape[1]} heads, k and v have {k.shape[1]}: they must be equal, "
                "or pass enable_gqa=True"
            )
        if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
            raise ValueError(
                "enable_gqa=True needs a number of query heads that the number of key heads "
                f"divides, not {q.shape[1]} and {k.shape[1]}"
            )
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"q and k must have the same last dimension, not {q.shape[-1]} and {k.shape[-1]}"
        )


def _check_numbers(feature_map, scale, eps):
    if isinstance(feature_map, str):
        if feature_map not in FEATURE_MAPS:
            raise ValueError(
                f"feature_map must be one of {', '.join(FEATURE_MAPS)} or a callable, "
                f"not {feature_map!r}"
            )
    elif not callable(feature_map):
        raise TypeError(
            f"feature_map must be a name or a callable, not {type(feature_map).__name__}"
        )
    if scale is not None:
        if not isinstance(scale, numbers.Real) or isinstance(scale, bool):
            raise TypeError(f"scale must be None or a number, not {type(scale).__name__}")
        if not -LARGEST <= scale <= LARGEST:  # as torch.compile can follow it; NaN is not less
            raise ValueError(f"scale must be finite in float32, not {scale}")
    if not isinstance(eps, numbers.Real) or isinstance(eps, bool):
        raise TypeError(f"eps must be a number, not {type(eps).__name__}")
    if not 0 <= eps <= LARGEST:
        raise ValueError(f"eps must be finite and at least 0, in float32, not {eps}")


def _check_state(name, state, q, k, v, sequences, feature_map, float64):
    if not isinstance(state, tuple) or len(state) != 2:
        raise TypeError(
            f"{name} must be a LinearAttentionState or a pair (kv, z), not {type(state).__name__}"
        )
    D = k.shape[-1] if isinstance(feature_map, str) else None  # a callable may change it
    heads = (sequences, k.shape[1])
    for part, tensor, shape in (
        ("kv", state[0], (*heads, D, v.shape[-1])),
        ("z", state[1], (*heads, D)),
    ):
        label = f"{name}.{part}"
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{label} must be a tensor, not {type(tensor).__name__}")
        _check_dense(label, tensor)
        if tensor.dtype != torch.float32 and not (float64 and tensor.dtype == torch.float64):
            raise TypeError(f"{label} must be float32, not {tensor.dtype}")
        fits = len(tensor.shape) == len(shape) and all(
            want in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            want = ", ".join("D" if s is None else str(s) for s in shape)
            raise ValueError(f"{label} must have shape ({want}), not {tuple(tensor.shape)}")
        if tensor.device != q.device:
            raise ValueError(f"{label} must be on {q.device} like q, not on {tensor.device}")
    if state[0].shape[2] != state[1].shape[2]:
        raise ValueError(
            f"{name}.kv and {name}.z must have the same number of features, "
            f"not {state[0].shape[2]} and {state[1].shape[2]}"
        )


def _check_decay(decay, k, dims, float64):
    """decay [Hk] or, for k [B, Hk, N, D], [B, Hk, N]; for k [B, Hk, D] and no `dims`, [B, Hk]."""
    if not isinstance(decay, torch.Tensor):
        raise TypeError(f"decay must be a tensor or None, not {type(decay).__name__}")
    _check_dense("decay", decay)
    if decay.dtype != torch.float32 and not (float64 and decay.dtype == torch.float64):
        raise TypeError(f"decay must be float32, the logarithm of a factor, not {decay.dtype}")
    allowed = (tuple(k.shape[1:2]), tuple(k.shape[:-1]))
    if tuple(decay.shape) not in allowed:
        raise ValueError(
            f"decay must have shape [H] {allowed[0]} or [B, H{', ' + dims if dims else ''}] "
            f"{allowed[1]}, with the heads of k, not {tuple(decay.shape)}"
        )
    if decay.device != k.device:
        raise ValueError(f"decay must be on {k.device} like q, not on {decay.device}")
    if decay.device.type == "cpu" and _values_can_be_read(decay) and (decay > 0).any():
        raise ValueError(
            "decay is the logarithm of a factor of at most 1, and must not be positive; "
            f"its largest value is {decay.max().item():g}"
        )


def _check_cu_seqlens(cu_seqlens, q, k):
    if not isinstance(cu_seqlens, torch.Tensor):
        raise TypeError(f"cu_seqlens must be a tensor, not {type(cu_seqlens).__name__}")
    _check_dense("cu_seqlens", cu_seqlens)
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(f"cu_seqlens must be int32, not {cu_seqlens.dtype}")
    if cu_seqlens.ndim != 1 or cu_seqlens.numel() < 2:
        raise ValueError(
            "cu_seqlens must have shape [S + 1] for S sequences, S at least 1, "
            f"not {tuple(cu_seqlens.shape)}"
        )
    if cu_seqlens.device != q.device:
        raise ValueError(f"cu_seqlens must be on {q.device} like q, not on {cu_seqlens.device}")
    if q.shape[0] != 1:
        raise ValueError(
            f"cu_seqlens packs all sequences into one batch: B must be 1, not {q.shape[0]}"
        )
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            "cu_seqlens needs as many queries as keys: "
            f"q has {q.shape[2]} tokens, k has {k.shape[2]}"
        )
    if _values_can_be_read(cu_seqlens):
        ends = cu_seqlens.tolist()
        rising = all(a <= b for a, b in zip(ends[:-1], ends[1:], strict=True))
        if ends[0] != 0 or ends[-1] != q.shape[2] or not rising:
            raise ValueError(
                f"cu_seqlens must rise from 0 to the number of tokens, {q.shape[2]}, "
                f"not {ends if len(ends) <= 8 else [*ends[:4], '...', *ends[-3:]]}"
            )


def _values_can_be_read(x):
    """Reading a tensor's values waits for the GPU: not while compiling or capturing a graph.

    Nor where they are those of many, as within `vmap`. The kernels clamp the bounds they read, so
    that wrong ones never reach outside the tensors.
    """
    if torch.compiler.is_compiling() or isinstance(x, torch._subclasses.FakeTensor):
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())
