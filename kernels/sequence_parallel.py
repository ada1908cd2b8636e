"""Linear attention of one sequence that is cut over the ranks of a process group.

Each rank holds a piece of the sequence, in the order of the ranks. All that a piece needs to know
of the others is the sum of their states, D × Dv + D numbers for each head whatever the length:

    bidirectional   state pass,   all-reduce of (S, z),                        output pass
    causal          state pass,   all-gather, sum of the ranks before one's own,   output pass

The kernels are those of one GPU, where both orders take two passes as well: the exchange goes in
between, and no row is read once more than there. The backward pass has the same shape; in the
causal one the gradients of the states come from the ranks behind.

With `overlap=True`, batch or heads are cut in two, and the state of one half travels while the
other half is computed. Between the GPUs of one machine that was slower at every length that was
measured, and so a call computes its piece as a whole unless it is told otherwise.

Sums run in the order of the ranks: two runs with as many ranks agree bit for bit, as far as the
backend's all-reduce does.

Source: Sun et al., Linear Attention Sequence Parallelism, 2024; with an all-gather: Sun et al.,
LASP-2, 2025.
"""

import math
import numbers
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from . import agreement, bidirectional, causal, configs, ops, reference
from .arguments import LinearAttentionState, check_attention, check_features
from .feature_maps import FEATURE_MAPS
from .launch import replayed

TIMEOUT = 600.0  # seconds, as NCCL waits by default


def sequence_parallel_attention(
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
    enable_gqa: bool = False,
    group=None,
    overlap: bool = False,
    check: bool = True,
    timeout: float = TIMEOUT,
):
    """`linear_attention` of a sequence of which every rank of a process group holds a piece.

    Every rank of the group makes the same call, with its own tokens. Rank 0 has the first ones.

    Args:
        q: [B, H, N, D], this rank's queries, as in `linear_attention`. N may differ from rank to
            rank, and may be 0; all else is the same on every rank.
        k: [B, H, M, D], this rank's keys; M == N when causal.
        v: [B, H, M, Dv].
        causal, feature_map, normalize, scale, eps, enable_gqa: as in `linear_attention`.
        initial_state: what came before the whole sequence, as in `linear_attention`. Only rank 0
            may have one.
        return_state: also return the state after all keys of all ranks, the same on every rank.
            It has no gradient.
        group: the process group, None for the default one. It carries tensors of q's device: NCCL
            those of GPUs, gloo those of CPUs.
        overlap: cut the batch, or the heads if B is 1, in two halves, and compute one while the
            state of the other travels. Between GPUs that NVLink joins that is slower: an exchange
            takes less time there than it costs to have two halves. Where it takes longer, as
            between machines, it may be faster; measure it there.
        check: first compare with the other ranks what the call is. Without it a call costs the
            host less, and ranks that disagree wait for each other for ever.
        timeout: seconds to wait for the other ranks to make this call, or to run its backward pass.

    Returns:
        o [B, H, N, Dv] in the dtype of q, or (o, LinearAttentionState) with `return_state`.
        Gradients flow to this rank's q, k and v and to rank 0's initial state, those of the sum of
        all ranks' losses; every rank has to run the backward pass, also one with no tokens. They
        have to run the backward passes of several calls in the same order.

    Raises:
        TypeError, ValueError: on a rank whose arguments are wrong, as `linear_attention` does.
        RuntimeError: on the other ranks then, and on all where ranks disagree, where one has ended
            or where one does not make the same call in time; before any state is exchanged.
            A rank that is lost in the exchange itself is noticed by the group's own timeout.
    """
    link = Link.of(group, timeout, check)
    ranks = link.ranks
    with link.enter() as entry:
        _check_ways(overlap, check, timeout)
        if torch._C._is_any_autocast_enabled():
            q, k, v = ops._autocast(q, k, v)
        check_attention(
            q, k, v, causal=causal, feature_map=feature_map, normalize=normalize, scale=scale,
            eps=eps, initial_state=initial_state, return_state=return_state, cu_seqlens=None,
            enable_gqa=enable_gqa,
        )  # fmt: skip
        link.check_device(q.device)
        _check_initial(initial_state, ranks.rank, (q, k, v))
        if scale is None:
            scale = q.shape[-1] ** -0.5
        named = feature_map if isinstance(feature_map, str) else "callable"
        if named == "callable":
            fq, fk = feature_map(q), feature_map(k)
            check_features(q, k, fq, fk, initial_state)
            q, k, feature_map = fq.to(v.dtype), fk.to(v.dtype), "identity"
        kernels = ops._kernels_run(q) and 0 not in (*q.shape[:2], *k.shape[:2])
        options = Options(causal, feature_map, normalize, float(scale), float(eps))
        asked = torch.is_grad_enabled()
        terms = {
            "B": q.shape[0], "H": q.shape[1], "key heads": k.shape[1],
            "D": k.shape[3], "Dv": v.shape[3], "dtype": str(q.dtype).removeprefix("torch."),
            **options._asdict(), "feature_map": named, "overlap": overlap, "kernels": kernels,
            "gradients of": "".join(n for n, x in zip("qkv", (q, k, v), strict=True)
                                    if asked and x.requires_grad),
        }  # fmt: skip
        initial = None
        if initial_state is not None:
            initial = torch.cat([initial_state[0].flatten(2), initial_state[1]], dim=-1)
        dtype = q.dtype
        if kernels:
            if ops.INTERPRETED and dtype == torch.bfloat16:  # which it computes wrongly
                q, k, v = q.float(), k.float(), v.float()
            q, k, v = ops._readable(q, k, v)
            pieces = halves(q, k) if overlap and ranks.ranks > 1 else [WHOLE]
            plan = Plan(options, link, pieces, return_state)
            with ops._device_of(q):
                o, total = _Attention.apply(q, k, v, initial, plan, entry, terms)
        else:
            o, total = _reference(q, k, v, initial, options, link, entry, terms)
    if o.dtype != dtype:
        o = o.to(dtype)
    if not return_state:
        return o
    D, Dv = k.shape[-1], v.shape[-1]
    kv = total[..., : D * Dv].unflatten(-1, (D, Dv))
    return o, LinearAttentionState(kv, total[..., D * Dv :])


def _check_ways(overlap, check, timeout):
    for name, flag in (("overlap", overlap), ("check", check)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, not {flag!r} ({type(flag).__name__})")
    if not isinstance(timeout, numbers.Real) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be finite and above 0, not {timeout}")


def _check_initial(initial_state, rank, tensors):
    if initial_state is None:
        return
    if rank != 0:
        raise ValueError(
            "initial_state comes before the whole sequence: it must be None on all ranks but 0, "
            f"and this is rank {rank}"
        )
    if any(x.requires_grad for x in initial_state) and not any(x.requires_grad for x in tensors):
        raise ValueError(
            "initial_state can have a gradient only where q, k or v have one, on every rank: the "
            "other ranks would run no backward pass"
        )


class Options(NamedTuple):
    """What all ranks have to agree on, besides shapes."""

    causal: bool
    feature_map: str
    normalize: bool
    scale: float
    eps: float


class Link(NamedTuple):
    """The other ranks, as one call sees them."""

    group: object
    ranks: agreement.Agreement
    name: str  # of the call
    timeout: float
    check: bool

    @classmethod
    def of(cls, group, timeout, check) -> "Link":
        """A wrong `timeout` or `check` is for `_check_ways`, which can tell the other ranks."""
        if isinstance(timeout, bool) or not isinstance(timeout, numbers.Real):
            timeout = TIMEOUT
        timeout = float(timeout) if 0 < timeout < math.inf else TIMEOUT
        ranks = agreement.of(group, timeout)
        ranks.entered += 1
        name = f"sequence_parallel_attention, call {ranks.entered} with this group"
        group = dist.group.WORLD if group is None else group
        return cls(group, ranks, name, timeout, check is not False)

    def enter(self, what: str = "") -> agreement.Entry:
        return agreement.Entry(self.ranks, what + self.name, self.timeout, self.check)

    def check_device(self, device) -> None:
        known = agreement.backends(self.group)
        if device.type not in known:
            raise ValueError(
                f"q, k and v are on {device}, and group carries tensors of "
                f"{' and '.join(known)} only: use NCCL for GPUs and gloo for CPUs"
            )

    def start(self, mine: torch.Tensor, add: bool):
        """Sends `mine` to all ranks; calling what this returns waits for theirs.

        With `add` that is the sum over all ranks, otherwise [ranks, *mine.shape].
        """
        if self.ranks.ranks == 1:
            return lambda: mine if add else mine.unsqueeze(0)
        if add:
            everyone = mine
            work = dist.all_reduce(mine, group=self.group, async_op=True)
        else:
            everyone = mine.new_empty((self.ranks.ranks, *mine.shape))
            work = agreement.gather_into(everyone, mine, self.group)

        def wait():
            work.wait()  # with NCCL the stream waits and the host does not
            return everyone

        return wait


class Plan(NamedTuple):
    """All of a call that is no tensor."""

    options: Options
    link: Link
    pieces: list  # of the batch or the heads, one after the other
    keep: bool  # whether the state after all keys is wanted


WHOLE = (slice(None),), (slice(None),)


def halves(q, k):
    """How to take each half of q [B, H, N, D], and of k [B, Hk, M, D], contiguous if all is."""
    B, Hk, group = q.shape[0], k.shape[1], q.shape[1] // k.shape[1]
    whole = slice(None)
    if B > 1:
        return [((half,), (half,)) for half in (slice(0, B // 2), slice(B // 2, B))]
    if Hk == 1:
        return [WHOLE]
    return [
        ((whole, slice(a * group, b * group)), (whole, slice(a, b)))
        for a, b in ((0, Hk // 2), (Hk // 2, Hk))
    ]


# --- what a rank computes by itself --------------------------------------------------------------


def _sums(k, v, H, feature_map, is_causal):
    """The states of the parts of a piece [parts * cuts, B, Hk, SIZE], and cuts.

    When causal the parts are those of the output pass, with H query heads.
    """
    B, Hk, M, D = k.shape
    DV, cuts = v.shape[3], 1
    if is_causal:
        tile, parts = configs.plan("causal_output_kernel", k, DV, B * H, None)
        cuts = _cuts(tile, k, DV, B * Hk, parts)
    else:
        tile, parts = configs.plan("state_kernel", k, DV, B * Hk, None)
    states = k.new_empty((parts * cuts, B, Hk, D * DV + D), dtype=torch.float32)
    bidirectional.launch_state(k, v, states, tile, feature_map, None, cuts=cuts)
    return states, cuts


def _cuts(tile, x, DV, heads, parts):
    programs = heads * configs.cdiv(DV, tile.values) * parts
    return configs.cuts(tile, x.device, programs, x.shape[2] // parts)


def _state(k, v, initial, H, feature_map, is_causal):
    """The sum over this rank's keys, onto initial, [B, Hk, SIZE], and those of its parts."""
    states, _ = _sums(k, v, H, feature_map, is_causal)
    mine = torch.empty_like(states[0])
    bidirectional.launch_combine(states, initial, mine)
    return mine, states


def _output(q, total, o, *options):
    bidirectional.launch_output(q, o, total.unsqueeze(0), None, None, None, *options)
    return (None,)


def _causal_output(q, k, v, states, before, o, *options):
    """o; states [parts * cuts, B, Hk, SIZE] becomes what came before each of the parts."""
    B, H = q.shape[:2]
    tile, parts = configs.plan("causal_output_kernel", q, v.shape[3], B * H, None)
    bidirectional.launch_combine(states, before, missing=0)
    after = torch.empty_like(states[0])
    first = states[:: states.shape[0] // parts]
    causal.launch_output(q, k, v, o, first, after, None, tile, parts, *options)
    return (None,)


def _query_gradients(q, total, do, dq, feature_map, normalize, scale, eps):
    mean = bidirectional.mean_of_values(total, do.shape[3], q.dtype, normalize)
    options = feature_map, normalize, scale, eps
    return bidirectional.query_gradients(q, total, mean, do, dq, None, *options)


def _key_gradients(k, v, total, dtotal, dk, dv, feature_map, normalize):
    """Every rank makes the same mean of the same total: it need not be sent."""
    mean = bidirectional.mean_of_values(total, v.shape[3], v.dtype, normalize)
    if k.shape[2]:
        bidirectional.key_gradients(k, v, mean, dtotal, dk, dv, None, feature_map)
    return (bidirectional.shift(dtotal, mean, -1.0),)


def _causal_query_gradients(q, k, v, do, states, before, dq, *options):
    """dq, c, 1 / d and -do·(o - c), and Σ φ(q)ᵀ do / d of this rank's queries, by parts and whole.

    states is what came before each part of the output pass, before what came before the piece.
    c is a mean of the values up to this rank's last part; other ranks have their own.
    """
    B, H, _, D = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    tile, parts = configs.plan("causal_backward_query_kernel", q, DV, B * H, None)
    _, of_output = configs.plan("causal_output_kernel", q, DV, B * H, None)
    if parts == of_output:
        first = states[:: states.shape[0] // parts]
    else:
        first = causal._states_before(k, v, before, tile, parts, options[0], None)
    mean = bidirectional.mean_of_values(states[-1], DV, q.dtype, options[1])
    g, r = causal.query_gradients(q, k, v, mean, do, first, dq, None, tile, parts, *options)

    tile, parts = configs.plan("causal_backward_key_kernel", q, DV, B * H, None)
    cuts = _cuts(tile, q, DV, B * H, parts)
    dstates = q.new_empty((parts * cuts, B, H, D * DV + D), dtype=torch.float32)
    bidirectional.launch_state(q, do, dstates, tile, options[0], None, weights=(g, r), cuts=cuts)
    mine = torch.empty_like(dstates[0])
    bidirectional.launch_combine(dstates, None, mine)
    if H > Hk:
        mine = mine.unflatten(1, (Hk, H // Hk)).sum(2)
    return mean, g, r, dstates, bidirectional.shift(mine, mean, -1.0)


def _causal_key_gradients(
    q, k, v, do, mean, g, r, dstates, behind, dk, dv, feature_map, normalize, scale
):
    """dk, dv and the gradient of what came before the piece, [B, H, SIZE]."""
    B, H = q.shape[:2]
    tile, parts = configs.plan("causal_backward_key_kernel", q, v.shape[3], B * H, None)
    if behind is not None:
        behind = causal.spread(bidirectional.shift(behind, mean, 1.0), H)
    bidirectional.launch_combine(dstates, behind, reverse=True, missing=0)
    cuts = dstates.shape[0] // parts
    dbefore = torch.empty_like(dstates[0])
    causal.key_gradients(
        q, k, v, mean, do, g, r, dstates[cuts - 1 :: cuts], dk, dv, dbefore, None,
        tile, parts, feature_map, normalize, scale,
    )  # fmt: skip
    return (bidirectional.shift(dbefore, mean, -1.0),)


def _add(states):
    """The sum of states [some, B, Hk, SIZE] of other ranks, in their order; None without any."""
    return replayed(bidirectional.combine, (states, None), ()) if states.shape[0] else None


# --- between the ranks ---------------------------------------------------------------------------


class _Attention(torch.autograd.Function):
    """o and the state after all keys of all ranks, with the kernels."""

    @staticmethod
    def forward(ctx, q, k, v, initial, plan, entry, terms):
        options, link, pieces, keep = plan
        is_causal, rank = options.causal, link.ranks.rank
        o = q.new_empty((*q.shape[:3], v.shape[3]))
        # [exchange:begin]
        states, arrivals = [], []
        for of_q, of_k in pieces:
            first = None if initial is None else initial[of_k].contiguous()
            mine, sums = _local_state(k[of_k], v[of_k], first, q[of_q].shape[1], options)
            entry.agree(terms)  # in the first turn, while the GPU is at work
            states.append(sums)
            arrivals.append(link.start(mine, add=not is_causal))

        befores, totals = [], []
        for (of_q, of_k), sums, arrived in zip(pieces, states, arrivals, strict=True):
            everyone = arrived()
            if is_causal:
                before = _add(everyone[:rank])
                if rank == 0 and initial is not None:
                    before = initial[of_k].contiguous()
                if q.shape[2]:
                    tensors = (q[of_q], k[of_k], v[of_k], sums, before, o[of_q])
                    replayed(_causal_output, tensors, options[1:])
                befores.append(before)
                totals.append(_add(everyone) if keep else None)
            else:
                if q.shape[2]:
                    replayed(_output, (q[of_q], everyone, o[of_q]), options[1:])
                totals.append(everyone)
        # [exchange:end]
        total = _join(totals, q.shape[0]) if keep else None
        ctx.save_for_backward(q, k, v, *(states + befores if is_causal else totals))
        ctx.plan, ctx.has_initial = plan, initial is not None
        if keep:
            ctx.mark_non_differentiable(total)
        return o, total

    @staticmethod
    @once_differentiable
    def backward(ctx, do, _):
        q, k, v, *saved = ctx.saved_tensors
        options, link = ctx.plan[:2]
        (do,) = ops._readable(do)
        with ops._device_of(q), link.enter("the backward pass of ") as entry:
            dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
            run = _causal_backward if options.causal else _bidirectional_backward
            dinitials = run(q, k, v, do, dq, dk, dv, saved, ctx.plan, entry)
        dinitial = _join(dinitials, q.shape[0]) if ctx.has_initial else None
        return dq, dk, dv, dinitial, None, None, None


def _join(pieces, B):
    """The whole of what `halves` cut, [B, Hk, SIZE]."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=0 if B > 1 else 1)


def _local_state(k, v, initial, H, options):
    """This rank's state, which it may write to, and those of its parts; without keys: initial."""
    if k.shape[2]:
        return replayed(_state, (k, v, initial), (H, options.feature_map, options.causal))
    shape = (*k.shape[:2], k.shape[3] * (v.shape[3] + 1))
    mine = k.new_zeros(shape, dtype=torch.float32)
    return mine if initial is None else mine + initial, None


def _bidirectional_backward(q, k, v, do, dq, dk, dv, totals, plan, entry):
    options, link, pieces, _ = plan
    arrivals = []
    for (of_q, _), total in zip(pieces, totals, strict=True):
        mine = torch.zeros_like(total)
        if q.shape[2]:
            tensors = (q[of_q], total, do[of_q], dq[of_q])
            mine = replayed(_query_gradients, tensors, options[1:])
        entry.agree({})
        arrivals.append(link.start(mine, add=True))
    dtotals = []
    for (_, of_k), total, arrived in zip(pieces, totals, arrivals, strict=True):
        tensors = (k[of_k], v[of_k], total, arrived(), dk[of_k], dv[of_k])
        (dtotal,) = replayed(_key_gradients, tensors, options[1:3])
        dtotals.append(dtotal)
    return dtotals


def _causal_backward(q, k, v, do, dq, dk, dv, saved, plan, entry):
    options, link, pieces, _ = plan
    states, befores = saved[: len(pieces)], saved[len(pieces) :]
    locals_, arrivals = [], []
    for (of_q, of_k), sums, before in zip(pieces, states, befores, strict=True):
        if q.shape[2]:
            tensors = (q[of_q], k[of_k], v[of_k], do[of_q], sums, before, dq[of_q])
            *local, mine = replayed(_causal_query_gradients, tensors, options[1:])
        else:
            local, shape = None, (*k[of_k].shape[:2], k.shape[3] * (v.shape[3] + 1))
            mine = k.new_zeros(shape, dtype=torch.float32)
        locals_.append(local)
        entry.agree({})
        arrivals.append(link.start(mine, add=False))
    dbefores = []
    for (of_q, of_k), local, arrived in zip(pieces, locals_, arrivals, strict=True):
        everyone = arrived()
        behind = _add(everyone[link.ranks.rank + 1 :])
        if local is None:
            dbefores.append(torch.zeros_like(everyone[0]) if behind is None else behind)
            continue
        tensors = (q[of_q], k[of_k], v[of_k], do[of_q], *local, behind, dk[of_k], dv[of_k])
        (dbefore,) = replayed(_causal_key_gradients, tensors, options[1:4])
        Hk = k[of_k].shape[1]
        dbefores.append(dbefore.unflatten(1, (Hk, -1)).sum(2))
    return dbefores


class _Exchange(torch.autograd.Function):
    """The states [B, Hk, SIZE] that a rank needs of all: their sum, or that of those before it."""

    @staticmethod
    def forward(ctx, mine, options, link, entry, terms):
        ctx.options, ctx.link = options, link
        entry.agree(terms)
        everyone = link.start(mine.clone(), add=not options.causal)()
        needed, total = everyone, everyone.clone()
        if options.causal:
            needed, total = everyone[: link.ranks.rank].sum(0), everyone.sum(0)
        ctx.mark_non_differentiable(total)
        return needed, total

    @staticmethod
    @once_differentiable
    def backward(ctx, dneeded, _):
        link, is_causal = ctx.link, ctx.options.causal
        with link.enter("the backward pass of ") as entry:
            entry.agree({})
            everyone = link.start(dneeded.clone(), add=not is_causal)()
        if is_causal:
            everyone = everyone[link.ranks.rank + 1 :].sum(0)
        return everyone, None, None, None, None


def _reference(q, k, v, initial, options, link, entry, terms):
    """The same in PyTorch's own operations, where the kernels do not run."""
    fk = FEATURE_MAPS[options.feature_map](k.float())
    with reference.whole_precision(k):
        mine = torch.cat([(fk.mT @ v.float()).flatten(2), fk.sum(-2)], dim=-1)
    if initial is not None:
        mine = mine + initial
    needed, total = _Exchange.apply(mine, options, link, entry, terms)
    if options.causal and initial is not None:
        needed = needed + initial
    D, Dv = k.shape[3], v.shape[3]
    state = needed[..., : D * Dv].unflatten(-1, (D, Dv)), needed[..., D * Dv :]
    if not options.causal:  # the state has all keys already
        k, v = k[:, :, :0], v[:, :, :0]
    o = reference.chunked(
        q, k, v, initial_state=state, enable_gqa=True, **options._asdict()
    )  # fmt: skip
    return o, total
