"""Puzzles of the chapters, and a checker that answers at once, with or without a GPU.

    check("normalizer")             # the file normalizer.py, as it stands now
    check("normalizer", kernel)     # a kernel that was written in a cell of the notebook

Each puzzle is two files: a stub, and its solution, which only adds lines to it.

Kernels that walk over tensors have a `Budget` beside being right: bytes, counted in the
interpreter, and most of them on a GPU the speed, as a share of the library's.
"""

import html
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
import triton
from torch.nn.functional import scaled_dot_product_attention

from bench import compiled, fresh, gate, timing
from bench.errors import BenchError
from bench.style import number
from bench.traffic import traffic
from kernels import (
    LinearAttentionState,
    bidirectional,
    configs,
    linear_attention,
    linear_attention_step,
)
from kernels.feature_maps import FEATURE_MAPS
from kernels.launch import launch
from kernels.steps.fences import fence, fenced

HERE = Path(__file__).parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
BLOCK_N = 64
PERSISTENT = 3  # programs of the puzzle with a fixed number of them
BESIDE = ThreadPoolExecutor(1)  # waits for the process that counts bytes
COUNTED: dict[str, Future] = {}  # puzzle -> the bytes of its solution, where they are `prepare`d
TIMED = torch.bfloat16  # what is timed
LARGE_TOLERANCE = (
    0.1  # of that, where a right kernel rounds as it likes, and a wrong one is far off
)
SLOW = "too low"  # what the verdict calls a speed that is
FENCE = 1000.0  # stands behind every tensor, where a kernel must neither read nor write


@dataclass(frozen=True)
class Verdict:
    """Whether a result is right, and in words why."""

    right: bool
    words: str
    alarm: str = ""  # the puzzle whose own solution this refuses: a warning of the book's build

    def __bool__(self):
        return self.right

    def _repr_html_(self):
        if not self.alarm:
            return None
        said = html.escape(self.words)
        return f'<pre data-refused="{html.escape(self.alarm)}">{said}</pre>'

    def __repr__(self):
        return self.words


def compare(got, want, name="o", tolerance=None) -> Verdict:
    """Compare a tensor with the true one (float64): shape, dtype, first wrong index, its value.

    `tolerance` takes the place of the one of the dtype.
    """
    if not isinstance(got, torch.Tensor):
        return Verdict(False, f"wrong: {name} is no tensor but {type(got).__name__}")
    kind = f"{name} {list(got.shape)} {str(got.dtype).removeprefix('torch.')}"
    if got.shape != want.shape:
        return Verdict(False, f"wrong: {kind} should have shape {list(want.shape)}")
    if got.dtype not in TOLERANCE:
        names = ", ".join(str(d).removeprefix("torch.") for d in TOLERANCE)
        return Verdict(False, f"wrong: {kind} should be one of {names}")
    x, y = got.detach().double().cpu(), want.detach().double().cpu()
    size = y.square().mean().sqrt() if y.numel() else 1.0
    # asked as "is it near", which NaN is not
    near = (x - y).abs() <= (tolerance or TOLERANCE[got.dtype]) * (y.abs() + size)
    if near.all():
        error = ((x - y).norm() / y.norm().clamp_min(1e-300)).item()
        return Verdict(True, f"right: {kind}, relative error {error:.1e}")
    first = tuple((~near).nonzero()[0].tolist())
    where = ", ".join(map(str, first))
    return Verdict(
        False,
        f"wrong: {kind}, {int((~near).sum())} of {near.numel()} values\n"
        f"  first: {name}[{where}] is {x[first].item():.6g}, should be {y[first].item():.6g}",
    )


@dataclass(frozen=True)
class Budget:
    """What a right kernel may still cost: bytes at `shapes`, and time at `large` on a GPU.

    Where there is no `large`, only the bytes are held against it.
    """

    shapes: tuple  # of the inputs whose bytes are counted
    ideal: Callable  # (*inputs) -> bytes that have to be loaded or stored
    most: float  # times as many are allowed
    large: tuple = ()  # of the inputs, in bfloat16, that are timed; heads come first
    library: Callable | None = None  # (*inputs) -> a call of the library's kernel for like work
    share: float = 0.0  # of its speed that is asked for
    whole: Callable = lambda got: got  # what of a timed result [heads, ...] is compared
    truth: Callable | None = None  # with (*inputs in float64), if it is not the puzzle's


@dataclass(frozen=True)
class Puzzle:
    """How to launch a puzzle's kernel, what it should return, and on which inputs.

    Where the puzzle is a plain PyTorch function, that stands for the kernel.
    """

    launch: Callable  # (kernel, *inputs) -> tensor
    truth: Callable  # (*inputs in float64) -> tensor
    cases: tuple  # the shapes of the inputs
    result: str  # what the tensor is called
    entry: str = "kernel"  # the name of the kernel, or function, in the puzzle's file
    fenced: bool = True  # whether a fence stands behind the result
    budget: Budget | None = None  # for what is right


def phi(x):
    return FEATURE_MAPS["elu"](x)


def unwritten(*shape):
    """Room for a float32 result: NaN where nothing is written, and a fence behind it."""
    nan = torch.full(shape, float("nan"), device=DEVICE)
    return fenced(nan, rows=BLOCK_N, value=FENCE)


def room(x, *shape):
    """Room for a result of x: what is checked is float32, what is timed is bfloat16."""
    if x.dtype == torch.float32:
        return unwritten(*shape)
    return torch.empty(shape, device=DEVICE)


def launch_normalizer(kernel, k):
    heads, N, D = k.shape
    z = room(k, heads, D)
    BLOCK_D = triton.next_power_of_2(D)
    kernel[(heads,)](k=k, z=z, N=N, D=D, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D)
    return z


def launch_ones_column(kernel, k, v):
    heads, N, D = k.shape
    DV = v.shape[-1]
    s = unwritten(heads, D, DV + 1)
    BLOCK_D, BLOCK_DV = (max(16, triton.next_power_of_2(n)) for n in (D, DV + 1))
    kernel[(heads,)](
        k=k, v=v, s=s, N=N, D=D, DV=DV, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D, BLOCK_DV=BLOCK_DV
    )
    return s


def last_tokens(q, k, v):
    """Causal attention of all tokens, of which the last ones are asked for."""
    N, M = q.shape[1], k.shape[1]
    q = torch.cat([torch.zeros_like(k[:, : M - N]), q], dim=1)
    return scaled_dot_product_attention(q, k, v, is_causal=True)[:, M - N :]


def spoiled(x):
    """Scores for a softmax: large, every third row half masked, and the last row wholly."""
    x = 400 * x
    x[..., 1::3, ::2] = float("-inf")
    x[..., -1, :] = float("-inf")
    return x


DECAY, CHUNK = 0.9, 5  # of the puzzle `decay`


def retention(q, k, v):
    """Linear attention with decay, all pairs multiplied out."""
    place = torch.arange(q.shape[1], device=q.device)
    age = place[:, None] - place  # [N, N]
    return (q @ k.mT * DECAY ** age.clamp(min=0)).tril() @ v


def query_gradient(q, k, v, do):
    """The gradient of φ(q) in normalized linear attention, by autograd."""
    fq, fk = phi(q).requires_grad_(), phi(k)
    weights = fq @ fk.mT
    o = weights @ (v + 1) / weights.sum(-1, keepdim=True)
    return torch.autograd.grad(o, fq, do)[0]


def positive(q):
    """Denominators [heads, N] for a puzzle: any positive numbers do."""
    return 1 + phi(q).sum(-1)


def normalizer_gradient(fq, o, do, d):
    """dz [heads, D] by autograd: what a change of z makes of the outputs."""
    change = fq.new_zeros(fq.shape[0], fq.shape[2], 1).requires_grad_()  # of z
    out = o * (d / (d + (fq @ change).squeeze(-1))).unsqueeze(-1)
    return torch.autograd.grad(out, change, do)[0].squeeze(-1)


def launch_normalizer_gradient(kernel, q, o, do):
    heads, N, D = q.shape
    DV = o.shape[-1]
    dz = room(q, heads, D)
    if q.dtype == torch.float32:
        d = fenced(positive(q), rows=BLOCK_N, value=FENCE)
    else:
        d = some_denominators(heads, N, q.device)
    BLOCK_D, BLOCK_DV = (triton.next_power_of_2(n) for n in (D, DV))
    kernel[(heads,)](
        q=q, o=o, do=do, d=d, dz=dz, N=N, D=D, DV=DV,
        BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D, BLOCK_DV=BLOCK_DV,
    )  # fmt: skip
    return dz


@cache
def some_denominators(heads, N, device):
    """Made once, as `some_state`."""
    return torch.full((heads, N), 2.0, device=device)


def keep_some(k):
    """Which keys of [H, M, D] may be seen: not the first 20, and then two of three."""
    place = torch.arange(k.shape[1], device=k.device)
    return (place >= 20) & (place % 3 != 0)


def kept_attention(q, k, v):
    """Attention to the kept keys alone; zeros where there is none."""
    keep = keep_some(k).expand(q.shape[0], q.shape[1], -1)
    return scaled_dot_product_attention(far(q), k, v, attn_mask=keep).nan_to_num(0.0)


def far(q):
    """Queries whose scores reach into the hundreds, above 0 and below."""
    return 100 * q


def parts_of(q, k, v, parts=3):
    """o [P, N, Dv], m and total [P, N, 1] of `parts` runs of the keys, and one part without any."""
    s = far(q) @ k.mT / q.shape[-1] ** 0.5  # [N, M]
    found = []
    for columns in torch.arange(s.shape[-1], device=s.device).chunk(parts):
        m = s[:, columns].amax(-1, keepdim=True)
        p = torch.exp(s[:, columns] - m)
        found.append((p @ v[columns], m, p.sum(-1, keepdim=True)))
    o, m, total = (torch.zeros_like(x) for x in found[0])
    found.append((o, m - float("inf"), total))
    return [torch.stack(x) for x in zip(*found, strict=True)]


def byte_addresses(x):
    """Where the lanes of each warp [..., 32] read 4 bytes, of random numbers: some together."""
    return (x.float().abs() * 60).long() * 4


def count_sectors(x):
    """The sectors of each warp counted one by one."""
    flat = byte_addresses(x).reshape(-1, x.shape[-1]).tolist()
    counts = [len({address // 32 for address in warp}) for warp in flat]
    return torch.tensor(counts, dtype=torch.float64).reshape(x.shape[:-1])


def launch_persistent_sum(kernel, x):
    sums = unwritten(PERSISTENT)
    kernel[(PERSISTENT,)](x=x, sums=sums, size=x.numel(), BLOCK=BLOCK_N)
    return sums


def persistent_sums(x):
    """[PERSISTENT]: the sum of every PERSISTENT-th block of BLOCK_N, from each of the first on."""
    blocks = [block.sum() for block in x.split(BLOCK_N)]
    return torch.stack([sum(blocks[p::PERSISTENT], x.new_zeros(())) for p in range(PERSISTENT)])


def launch_rms_norm(kernel, x, w):
    """Rows of large float16 numbers, with other numbers between them."""
    R, C = x.shape
    apart = torch.full((R, C + 3), FENCE, dtype=torch.float16, device=DEVICE)
    apart[:, :C] = 128 * x.half()  # their squares leave float16
    out = unwritten(R, C)
    kernel[(R,)](x=apart, w=w, out=out, stride_r=C + 3, C=C, eps=1.0,
                 BLOCK_C=triton.next_power_of_2(C))  # fmt: skip
    return out


def rms_norm(x, w):
    x = 128 * x.half().double()
    return x / (x.square().mean(-1, keepdim=True) + 1.0).sqrt() * w


def launch_long_rows(kernel, x):
    R, C = x.shape
    out = unwritten(R, 1)
    kernel[(R,)](x=100 * x, out=out, C=C, BLOCK_C=BLOCK_N)
    return out[:, 0]


PART = 512  # rows of a part, in the puzzles that have parts


def shares(N):
    """How many parts N rows are cut into, at most 8, and how many rows each has."""
    parts = min(8, configs.cdiv(N, PART))
    return parts, configs.cdiv(configs.cdiv(N, parts), BLOCK_N) * BLOCK_N


def state_of(q):
    """Some state [heads, D * D + D] for queries [heads, N, D]: the same for every N."""
    return some_state(q.shape[0], q.shape[2], q.device)


@cache
def some_state(heads, D, device):
    """Made once: a puzzle that is timed does not pay for it."""
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(heads, D * D + D, generator=generator) + 0.5).to(device)


def launch_output_pass(kernel, q):
    heads, N, D = q.shape
    o = unwritten(heads, N, D) if q.dtype == torch.float32 else torch.empty_like(q)
    parts, share = shares(N)
    kernel[(heads, parts)](q=q, states=state_of(q), o=o, N=N, share=share, eps=1e-6, D=D,
                           BLOCK_N=BLOCK_N)  # fmt: skip
    return o


def output_pass(q):
    """o = φ(q) S / (φ(q)·z + eps) [heads, N, D] in float64."""
    heads, _, D = q.shape
    state = state_of(q).double()
    s, z = state[:, : D * D].reshape(heads, D, D), state[:, D * D :, None]
    return phi(q) @ s / (phi(q) @ z + 1e-6)


def library_output(q):
    """A call of the library's output pass for q [heads, N, D]."""
    q, state = q[None], state_of(q)
    _, heads, N, D = q.shape
    o = torch.empty_like(q)
    tile, parts = configs.plan("output_kernel", q, D, heads, None)
    return lambda: launch(
        bidirectional.output_kernel, heads * parts, (q, o, state, None, None, None), q.stride(),
        stride_states=0, sums=1, N=N, H=heads, parts=parts, scale=1.0, eps=1e-6,
        GROUP=1, NORMALIZE=True, HAS_INITIAL=False, KEEP=False,
        **configs.constants(tile, q, D, "elu", None),
    )  # fmt: skip


def launch_two_maps(kernel, k, v):
    heads, N, D = k.shape
    parts, share = shares(N)
    checked = k.dtype == torch.float32  # and else timed
    room = unwritten if checked else partial(torch.empty, device=DEVICE)
    states = room(parts, heads, 2, D, D)
    kernel[(heads, parts)](k=k, v=v, states=states, N=N, share=share, D=D, BLOCK_N=BLOCK_N)
    if parts == 1 or not checked:
        return states
    return fenced(states.sum(0, keepdim=True), BLOCK_N, FENCE)


def two_maps(k, v):
    """[1, heads, 2, D, D]: the states under elu + 1 and relu, summed over all parts."""
    return torch.stack([phi(k).mT @ v, k.relu().mT @ v], dim=1)[None]


def library_state(k, v):
    """A call of the library's state pass for k, v [heads, N, D], under one map."""
    k, v = k[None], v[None]
    _, heads, _, D = k.shape
    tile, parts = configs.plan("state_kernel", k, D, heads, None)
    states = k.new_empty((parts, 1, heads, D * D + D), dtype=torch.float32)
    return lambda: bidirectional.launch_state(k, v, states, tile, "elu", None)


FORGET = 0.75  # of the puzzle `forget`


def launch_forget(kernel, q, k, v):
    """o of one token, and behind it the state: [heads, DV + D * DV + D]."""
    heads, D = q.shape
    DV = v.shape[-1]
    before = state_before(heads, D, DV, q.device)
    after, o = room(q, heads, D * DV + D), room(q, heads, DV)
    kernel[(heads,)](q=q, k=k, v=v, before=before, after=after, o=o, decay=FORGET, eps=1e-6,
                     D=D, DV=DV)  # fmt: skip
    if q.dtype != torch.float32:
        return o
    for what in (after, o):
        if (fence(what) != FENCE).any():
            raise ValueError("it writes behind the end of what is to be written")
    return torch.cat([o, after], -1)


@cache
def state_before(heads, D, DV, device):
    """Some state [heads, D * DV + D], made once."""
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(heads, D * DV + D, generator=generator) + 0.5).to(device)


def forget(q, k, v):
    """The same in float64."""
    heads, D = q.shape
    before = state_before(heads, D, v.shape[-1], q.device).double()
    s, z = before[:, :-D].unflatten(1, (D, -1)), before[:, -D:]
    s = FORGET * s + phi(k)[:, :, None] * v[:, None, :]
    z = FORGET * z + phi(k)
    o = (phi(q)[:, None] @ s)[:, 0] / ((phi(q) * z).sum(-1, keepdim=True) + 1e-6)
    return torch.cat([o, s.flatten(1), z], -1)


def library_step(q, k, v):
    """A call of the library's step for q, k, v [heads, D]: the same without forgetting."""
    heads, D = q.shape
    state = state_before(heads, D, v.shape[-1], q.device)
    kv, z = state[:, :-D].unflatten(1, (D, -1)).contiguous(), state[:, -D:].contiguous()
    x = [t[None] for t in (q, k, v)]
    state = LinearAttentionState(kv[None], z[None])
    return lambda: linear_attention_step(*x, state)


PROMPT, PIECE = 7, 3  # of the puzzle `generate`; cases may be shorter


def launch_generate(generate, q, k, v):
    """With a prompt, and without one."""
    tensors = [x[None] for x in (q, k, v)]
    some = generate(*tensors, min(PROMPT, q.shape[1]), PIECE)
    return torch.cat([some, generate(*tensors, 0, PIECE)], 2)[0]


def generated(q, k, v):
    """Causal linear attention of all tokens at once, twice."""
    weights = (phi(q) @ phi(k).mT).tril()
    o = weights @ v / weights.sum(-1, keepdim=True)
    return torch.cat([o, o], 1)


def launch_two_halves(add, x):
    """The sum over the rows of x [N, H, D] of numbers around 2, one after another."""
    high = torch.zeros(x.shape[1:], dtype=torch.bfloat16, device=x.device)
    low = torch.zeros_like(high)
    for row in x:
        high, low = add(high, low, row + 2)
    if not high.dtype == low.dtype == torch.bfloat16:
        raise TypeError(f"high and low should be bfloat16, not {high.dtype} and {low.dtype}")
    return high.float() + low.float()


def causal_denominators(q, k):
    """d [heads, N], all pairs multiplied out."""
    return (phi(q) @ phi(k).mT).tril().sum(-1)


def launch_causal_normalizer(kernel, q, k):
    heads, N, D = q.shape
    d = room(q, heads, N)
    BLOCK_D = max(16, triton.next_power_of_2(D))
    rows = 16 if q.dtype == torch.float32 else BLOCK_N  # small blocks meet more edges
    kernel[(heads,)](q=q, k=k, d=d, N=N, D=D, BLOCK_N=rows, BLOCK_D=BLOCK_D)
    return d


def library_causal(q, k):
    """A call of the library's causal attention for q, k [heads, N, D], with k for its values."""
    q, k = q[None], k[None]
    return lambda: linear_attention(q, k, k, causal=True)


def launch_later_states(kernel, sums):
    segments, SIZE = sums.shape
    after = unwritten(segments, SIZE)
    programs = triton.cdiv(SIZE, BLOCK_N)
    kernel[(programs,)](sums=sums, after=after, segments=segments, SIZE=SIZE, BLOCK=BLOCK_N)
    return after


def suspects(q):
    """(forward, where it leaks, [N - 1]) of what `find_the_leak` is tried on."""
    N = q.shape[0]
    rows = torch.arange(N, device=q.device)
    ends = (rows[: N - 1] % 4 == 3).double()  # the last tokens of chunks of 4
    none, everywhere = torch.zeros_like(ends), torch.ones_like(ends)

    def attention(keep):
        return lambda q, k, v: torch.where(keep, phi(q) @ phi(k).mT, 0.0) @ v

    past = rows[:, None] >= rows
    right = attention(past)
    return (
        (right, none),
        (attention(rows[:, None] >= rows - 1), everywhere),
        (attention(past | (rows[:, None] // 4 == rows // 4)), 1 - ends),
        (lambda q, k, v: right(q, k, v) / q.square().mean(), everywhere),
        (lambda q, k, v: right(q, k - k.mean(0), v), everywhere),
        (lambda q, k, v: right(q, k, v - v.mean(0)), everywhere),
    )


def fading(x):
    """Log decays [H, N] of random numbers: most of them mild, some as strong as they come."""
    return -20 * x.abs() ** 3


def full_mask(x):
    """Products of the factors between two tokens, one after the other."""
    factors = fading(x).double().exp()
    N = factors.shape[1]
    pairs = [(min(i, j) + 1, max(i, j) + 1) for i in range(N) for j in range(N)]
    return torch.stack([factors[:, a:b].prod(1) for a, b in pairs], 1).unflatten(1, (N, N))


def causal_sum(q, k, v, log_decay):
    """What `both_directions` is given."""
    total = log_decay.cumsum(1)
    between = total[:, :, None] - total[:, None, :]
    return ((q @ k.mT) * torch.exp(-between.abs()).tril()) @ v


def last_is_large(states):
    """states [ranks, SIZE] of which the last is so large that nothing can be subtracted from it."""
    states = states.clone()
    states[-1] *= 1e5
    return states


def sums_before(states):
    """What came before each of [ranks, SIZE]."""
    states = last_is_large(states)
    return torch.stack([states[:i].sum(0) for i in range(len(states))])


CUTS = (0.5, 0.6, 0.6)  # of a sequence on four ranks, of which the third has nothing


def launch_own_piece(own_piece, q, k, v):
    """The rows of all ranks, one after the other; each asks for the states of the others."""
    N = q.shape[1]
    ends = [0, *(int(N * cut) for cut in CUTS), N]
    pieces = [[x[None, :, a:b] for x in (q, k, v)] for a, b in zip(ends, ends[1:], strict=False)]
    states = [linear_attention(*p, causal=True, return_state=True)[1] for p in pieces]

    def gather(rank):
        return lambda mine: [mine if i == rank else state for i, state in enumerate(states)]

    outs = [own_piece(*piece, rank, gather(rank)) for rank, piece in enumerate(pieces)]
    return torch.cat(outs, 2)[0]


def of_length_one(k):
    """Keys [H, N, D] of length 1, of which the second half repeats the first."""
    half = k[:, : k.shape[1] // 2]
    k = torch.cat([half, half, k[:, 2 * half.shape[1] :]], 1)
    return k / k.norm(dim=-1, keepdim=True)


def replaced(q, k, v):
    """The delta rule without a loop: what each token adds, u, solves a triangular system."""
    k = of_length_one(k)
    before = (k @ k.mT).tril(-1)  # [H, N, N]
    one = torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    u = torch.linalg.solve_triangular(one + before, v, upper=False, unitriangular=True)
    return (q @ k.mT).tril() @ u


def launch_second_order(features, q, k):
    """φ(q)·φ(k), of features that are no more than they have to be."""
    fq, fk = features(q), features(k)
    D = q.shape[-1]
    if fq.shape[-1] != 1 + D + D * (D + 1) // 2:
        raise ValueError(f"{fq.shape[-1]} features of {D} are not 1 + D + D (D + 1) / 2")
    return fq @ fk.mT


def second_order(q, k):
    s = q @ k.mT / q.shape[-1] ** 0.5
    return 1 + s + s * s / 2


PUZZLES = {
    "doubling": Puzzle(
        launch=lambda before, states: before(last_is_large(states)),
        truth=sums_before,
        cases=(((1, 4),), ((2, 3),), ((5, 8),), ((8, 2),), ((13, 5),)),
        result="sums",
        entry="before",
        fenced=False,
    ),
    "own_piece": Puzzle(
        launch=launch_own_piece,
        truth=lambda q, k, v: generated(q, k, v)[:, : q.shape[1]],
        cases=(
            ((1, 20, 16), (1, 20, 16), (1, 20, 16)),
            ((2, 33, 8), (2, 33, 8), (2, 33, 5)),
        ),
        result="o",
        entry="own_piece",
        fenced=False,
    ),
    "forget": Puzzle(
        launch=launch_forget,
        truth=forget,
        cases=(
            ((1, 16), (1, 16), (1, 16)),
            ((3, 32), (3, 32), (3, 16)),
            ((2, 64), (2, 64), (2, 128)),
        ),
        result="o, S, z",
        fenced=False,
        budget=Budget(
            shapes=((4, 32), (4, 32), (4, 32)),
            # q, k, v and o once, and the state twice: it is read, and written
            ideal=lambda q, k, v: 4 * q.nbytes + 2 * 4 * 4 * (32 * 32 + 32),
            most=1.05,
            large=((8192, 64), (8192, 64), (8192, 64)),
            library=library_step,
            share=0.5,
            truth=lambda q, k, v: forget(q, k, v)[:, : v.shape[-1]],  # o
        ),
    ),
    "decay_mask": Puzzle(
        launch=lambda mask, x: mask(fading(x)),
        truth=full_mask,
        cases=(((1, 6),), ((3, 20),), ((2, 1),)),
        result="mask",
        entry="decay_mask",
        fenced=False,
    ),
    "both_directions": Puzzle(
        launch=lambda both, q, k, v, x: both(causal_sum, q, k, v, fading(x)),
        truth=lambda q, k, v, x: ((q @ k.mT) * full_mask(x)) @ v,
        cases=(
            ((1, 6, 4), (1, 6, 4), (1, 6, 4), (1, 6)),
            ((2, 20, 8), (2, 20, 8), (2, 20, 5), (2, 20)),
            ((2, 1, 4), (2, 1, 4), (2, 1, 4), (2, 1)),
        ),
        result="o",
        entry="both_directions",
        fenced=False,
    ),
    "delta_rule": Puzzle(
        launch=lambda replace, q, k, v: replace(q, of_length_one(k), v),
        truth=replaced,
        cases=(
            ((1, 6, 8), (1, 6, 8), (1, 6, 8)),
            ((2, 9, 16), (2, 9, 16), (2, 9, 5)),
            ((1, 20, 4), (1, 20, 4), (1, 20, 4)),
        ),
        result="o",
        entry="replace",
        fenced=False,
    ),
    "second_order": Puzzle(
        launch=launch_second_order,
        truth=second_order,
        cases=(((5, 8), (7, 8)), ((3, 1), (3, 1)), ((20, 16), (4, 16))),
        result="weights",
        entry="features",
        fenced=False,
    ),
    "generate": Puzzle(
        launch=launch_generate,
        truth=generated,
        cases=(
            ((1, 12, 8), (1, 12, 8), (1, 12, 8)),
            ((2, 9, 16), (2, 9, 16), (2, 9, 5)),
            ((1, 3, 4), (1, 3, 4), (1, 3, 4)),
        ),
        result="o",
        entry="generate",
        fenced=False,
    ),
    "two_halves": Puzzle(
        launch=launch_two_halves,
        truth=lambda x: (x + 2).sum(0),
        cases=(((500, 1, 4),), ((1000, 2, 8),)),
        result="sum",
        entry="add",
        fenced=False,
    ),
    "merge_parts": Puzzle(
        launch=lambda merge, q, k, v: merge(*parts_of(q, k, v)),
        truth=lambda q, k, v: scaled_dot_product_attention(far(q)[None], k[None], v[None])[0],
        cases=(((4, 8), (12, 8), (12, 8)), ((1, 16), (50, 16), (50, 5)), ((7, 4), (3, 4), (3, 4))),
        result="o",
        entry="merge",
        fenced=False,
    ),
    "masked_blocks": Puzzle(
        launch=lambda attention, q, k, v: attention(far(q), k, v, keep_some(k)),
        truth=kept_attention,
        cases=(
            ((2, 6, 8), (2, 64, 8), (2, 64, 8)),
            ((3, 5, 16), (3, 75, 16), (3, 75, 4)),
            ((1, 4, 8), (1, 25, 8), (1, 25, 8)),
            ((2, 8, 8), (2, 22, 8), (2, 22, 8)),  # one key, for some queries with a low score
            ((2, 3, 8), (2, 16, 8), (2, 16, 8)),  # none
        ),
        result="o",
        entry="attention",
        fenced=False,
    ),
    "stable_softmax": Puzzle(
        launch=lambda softmax, x: softmax(spoiled(x)),
        truth=lambda x: torch.softmax(spoiled(x), -1).nan_to_num(0.0),
        cases=(((1, 8),), ((5, 8),), ((2, 7, 5),), ((4, 1),)),
        result="weights",
        entry="softmax",
        fenced=False,
    ),
    "last_tokens": Puzzle(
        launch=lambda attention, q, k, v: attention(q, k, v),
        truth=last_tokens,
        cases=(
            ((2, 6, 8), (2, 6, 8), (2, 6, 8)),
            ((2, 3, 8), (2, 6, 8), (2, 6, 8)),
            ((3, 1, 4), (3, 9, 4), (3, 9, 4)),
        ),
        result="o",
        entry="attention",
        fenced=False,
    ),
    "sectors": Puzzle(
        launch=lambda sectors, x: sectors(byte_addresses(x)),
        truth=count_sectors,
        cases=(((3, 32),), ((2, 5, 32),)),
        result="sectors",
        entry="sectors",
        fenced=False,
    ),
    "persistent_sum": Puzzle(
        launch=launch_persistent_sum,
        truth=persistent_sums,
        cases=(((15 * BLOCK_N,),), ((1000,),), ((40,),)),
        result="sums",
    ),
    "normalizer": Puzzle(
        launch=launch_normalizer,
        truth=lambda k: phi(k).sum(1),
        cases=(
            ((1, 64, 16),),
            ((2, 128, 32),),
            ((2, 100, 32),),
            ((2, 64, 24),),
            ((3, 1, 5),),
            ((1, 0, 16),),
        ),
        result="z",
        budget=Budget(
            shapes=((2, 1024, 32),),
            ideal=lambda k: k.nbytes + 2 * 32 * 4,  # k once, and z
            most=1.05,
            large=((1024, 2048, 64),),
            library=lambda k: library_state(k, k),  # which has two tensors to read
            share=0.7,
        ),
    ),
    "ones_column": Puzzle(
        launch=launch_ones_column,
        truth=lambda k, v: phi(k).mT @ torch.cat([v, torch.ones_like(v[..., :1])], dim=-1),
        cases=(
            ((1, 64, 16), (1, 64, 15)),
            ((2, 128, 32), (2, 128, 32)),
            ((2, 100, 32), (2, 100, 20)),
            ((2, 70, 24), (2, 70, 7)),
        ),
        result="s",
        budget=Budget(
            shapes=((2, 1024, 32), (2, 1024, 31)),
            ideal=lambda k, v: k.nbytes + v.nbytes + 2 * 32 * 32 * 4,  # both once, and S with z
            most=1.05,
        ),
    ),
    "causal_normalizer": Puzzle(
        launch=launch_causal_normalizer,
        truth=causal_denominators,
        cases=(
            ((1, 16, 16), (1, 16, 16)),
            ((2, 48, 16), (2, 48, 16)),
            ((2, 50, 24), (2, 50, 24)),
            ((3, 1, 5), (3, 1, 5)),
        ),
        result="d",
        budget=Budget(
            shapes=((2, 256, 16), (2, 256, 16)),
            ideal=lambda q, k: q.nbytes + k.nbytes + 2 * 256 * 4,  # both once, and d
            most=1.05,
            large=((1024, 2048, 64), (1024, 2048, 64)),
            library=library_causal,  # which has two tensors more, and products in bfloat16
            share=0.18,
        ),
    ),
    "later_states": Puzzle(
        launch=launch_later_states,
        truth=lambda sums: sums.flip(0).cumsum(0).flip(0) - sums,
        cases=(((3, 64),), ((5, 200),), ((1, 10),)),
        result="after",
        budget=Budget(
            shapes=((32, 256),),
            ideal=lambda sums: 2 * sums.nbytes,  # every sum read once, and written once
            most=1.05,
        ),
    ),
    "find_the_leak": Puzzle(
        launch=lambda leaks, q, k, v: torch.stack(
            [leaks(forward, q, k, v) for forward, _ in suspects(q)]
        ),
        truth=lambda q, k, v: torch.stack([where for _, where in suspects(q)]),
        cases=(((10, 8), (10, 8), (10, 8)), ((2, 4), (2, 4), (2, 4))),
        result="leaks",
        entry="leaks",
        fenced=False,
    ),
    "decay": Puzzle(
        launch=lambda retention, q, k, v: retention(q, k, v, DECAY, CHUNK),
        truth=retention,
        cases=(
            ((1, 5, 4), (1, 5, 4), (1, 5, 4)),
            ((2, 20, 8), (2, 20, 8), (2, 20, 8)),
            ((2, 13, 8), (2, 13, 8), (2, 13, 3)),
            ((1, 3, 4), (1, 3, 4), (1, 3, 4)),
        ),
        result="o",
        entry="retention",
        fenced=False,
    ),
    "query_gradient": Puzzle(
        # values of mean 1: with centred ones some of what is missing would cancel
        launch=lambda gradient, q, k, v, do: gradient(phi(q), phi(k), v + 1, do),
        truth=query_gradient,
        cases=(
            ((1, 6, 4), (1, 6, 4), (1, 6, 4), (1, 6, 4)),
            ((2, 30, 8), (2, 50, 8), (2, 50, 5), (2, 30, 5)),
            ((1, 1, 4), (1, 9, 4), (1, 9, 4), (1, 1, 4)),
        ),
        result="dfq",
        entry="gradient",
        fenced=False,
    ),
    "normalizer_gradient": Puzzle(
        launch=launch_normalizer_gradient,
        truth=lambda q, o, do: normalizer_gradient(phi(q), o, do, positive(q)),
        cases=(
            ((1, 64, 16), (1, 64, 16), (1, 64, 16)),
            ((2, 128, 32), (2, 128, 16), (2, 128, 16)),
            ((2, 100, 24), (2, 100, 20), (2, 100, 20)),
            ((3, 1, 5), (3, 1, 3), (3, 1, 3)),
            ((1, 0, 16), (1, 0, 16), (1, 0, 16)),
        ),
        result="dz",
        budget=Budget(
            shapes=((2, 512, 16), (2, 512, 16), (2, 512, 16)),
            ideal=lambda q, o, do: 3 * q.nbytes + 2 * 4 * (512 + 16),  # and d, and dz
            most=1.05,
            large=((1024, 2048, 64), (1024, 2048, 64), (1024, 2048, 64)),
            library=lambda q, o, do: library_state(
                q, o
            ),  # a sum over rows of two tensors, not three
            share=0.4,
            truth=lambda q, o, do: normalizer_gradient(
                phi(q), o, do, some_denominators(*q.shape[:2], q.device).double()
            ),
        ),
    ),
    "causal_dv": Puzzle(
        launch=lambda gradient, fq, fk, gdo: gradient(phi(fq), phi(fk), gdo, CHUNK),
        truth=lambda fq, fk, gdo: (phi(fk) @ phi(fq).mT).triu() @ gdo,
        cases=(
            ((1, 5, 4), (1, 5, 4), (1, 5, 4)),
            ((2, 20, 8), (2, 20, 8), (2, 20, 8)),
            ((2, 13, 8), (2, 13, 8), (2, 13, 3)),
            ((1, 3, 4), (1, 3, 4), (1, 3, 4)),
        ),
        result="dv",
        entry="values_gradient",
        fenced=False,
    ),
    "rms_norm": Puzzle(
        launch=launch_rms_norm,
        truth=rms_norm,
        cases=(
            ((1, 64), (64,)),
            ((3, 64), (64,)),
            ((4, 100), (100,)),
            ((2, 1), (1,)),
        ),
        result="out",
    ),
    "long_rows": Puzzle(
        launch=launch_long_rows,
        truth=lambda x: torch.logsumexp(100 * x, -1),
        cases=(((1, 64),), ((2, 256),), ((3, 100),), ((2, 7),), ((1, 1000),)),
        result="out",
    ),
    "output_pass": Puzzle(
        launch=launch_output_pass,
        truth=output_pass,
        cases=(((1, 64, 16),), ((2, 128, 32),), ((2, 100, 32),), ((3, 700, 16),), ((1, 1, 16),)),
        result="o",
        budget=Budget(
            shapes=((2, 1024, 32),),
            # q and o once, and for each part of 512 rows a state
            ideal=lambda q: 2 * q.nbytes + 2 * state_of(q).nbytes,
            most=1.05,
            large=((64, 32768, 64),),
            library=library_output,
            share=0.5,
        ),
    ),
    "two_maps": Puzzle(
        launch=launch_two_maps,
        truth=two_maps,
        cases=(
            ((1, 64, 16), (1, 64, 16)),
            ((2, 128, 32), (2, 128, 32)),
            ((2, 100, 32), (2, 100, 32)),
            ((2, 700, 16), (2, 700, 16)),
            ((1, 3, 16), (1, 3, 16)),
        ),
        result="states",
        budget=Budget(
            shapes=((2, 1024, 16), (2, 1024, 16)),
            # k and v once, and for each part of 512 rows two states
            ideal=lambda k, v: k.nbytes + v.nbytes + 2 * 2 * 2 * 16 * 16 * 4,
            most=1.05,
            large=((64, 32768, 64), (64, 32768, 64)),
            library=library_state,
            share=0.5,
            whole=lambda states: states.sum(0),
            truth=lambda k, v: two_maps(k, v)[0],
        ),
    ),
}


def load(name: str):
    """The kernel in a puzzle's file, as the file stands now."""
    entry = PUZZLES[name.removesuffix("_solution")].entry
    path = HERE / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"puzzle_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, entry)


def check(name: str, kernel=None, *, solution: bool = False) -> Verdict:
    """Run a puzzle's kernel on its cases, and report the first one that is not right.

    `kernel` is a Triton kernel, or the function asked for; without one, that of the file
    `<name>.py`, or of the solution. BenchError says which puzzles there are, or what it takes.
    """
    found = checked(name, kernel, solution)
    if found or kernel is not None or not solution:
        return found
    if SLOW in found.words:
        return found  # the page says it; a time is no reason to build no book
    return replace(found, alarm=name)


def checked(name: str, kernel, solution: bool) -> Verdict:
    """What `check` says, without the alarm where it is the solution that is refused."""
    if name not in PUZZLES:
        raise BenchError(f"There is no puzzle {name!r}; known: {', '.join(PUZZLES)}.")
    puzzle = PUZZLES[name]
    given = kernel is not None
    wanted, has = ("a function", callable(kernel))
    if puzzle.entry == "kernel":
        wanted, has = "a Triton kernel, with @triton.jit above it", hasattr(kernel, "run")
    if given and not has:
        raise BenchError(f"{name!r} is checked with {wanted}, not with {kernel!r}.")
    if kernel is None:
        kernel = load(f"{name}_solution" if solution else name)
    generator = torch.Generator().manual_seed(0)
    cases = [
        [torch.randn(s, generator=generator).to(DEVICE) for s in shapes] for shapes in puzzle.cases
    ]
    cases = [[fenced(x, rows=BLOCK_N, value=FENCE) for x in inputs] for inputs in cases]
    counting = None
    for inputs in cases:
        sizes = " and ".join(str(list(x.shape)) for x in inputs)
        try:
            got = puzzle.launch(kernel, *inputs)
        except Exception as problem:
            reason = " ".join(str(problem).split())
            return Verdict(False, f"{name}, input {sizes}:\n  it does not run: {reason}")
        verdict = compare(got, puzzle.truth(*(x.double() for x in inputs)), puzzle.result)
        if not verdict:
            return Verdict(False, f"{name}, input {sizes}:\n  {verdict.words}")
        if puzzle.fenced and (fence(got) != FENCE).any():
            words = f"wrong: it writes behind the end of {puzzle.result}"
            return Verdict(False, f"{name}, input {sizes}:\n  {words}")
        if DEVICE == "cuda" and inputs is cases[0] and puzzle.entry == "kernel":
            if puzzle.budget and not given:
                counting = COUNTED.pop(name, None) if solution else None
                # else while the rest compiles
                counting = counting or BESIDE.submit(count_apart, name, solution)
            calls = [partial(puzzle.launch, kernel, *x) for x in cases]
            if puzzle.budget and puzzle.budget.large and solution and not given:
                calls += [partial(rehearse, puzzle, kernel, i) for i in range(2)]
            compiled.at_once(calls)
    found = Verdict(True, f"{name}: right on all {len(puzzle.cases)} inputs")
    if puzzle.budget is None:
        return found
    verdicts = [found, frugal(name, kernel, counting)]
    if verdicts[-1] and DEVICE == "cuda" and puzzle.budget.large:
        verdicts.append(fast(puzzle, kernel))
    return Verdict(all(verdicts), "\n".join(v.words for v in verdicts))


def prepare(*names: str) -> None:
    """On a GPU: begin to count the bytes of solutions now, while the page measures.

    That is a process on the CPU, which would be in the way of a host with two cores.
    """
    if DEVICE == "cuda" and (os.cpu_count() or 1) > 2:
        COUNTED.update({name: BESIDE.submit(count_apart, name, True) for name in names})


def some_inputs(shapes, dtype=torch.float32, device=DEVICE):
    """Drawn where they are used: what is timed is large, and a CPU takes seconds to draw it."""
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(s, generator=generator, device=device, dtype=dtype) for s in shapes]


def count(name: str, solution: bool = False, kernel=None) -> dict:
    """{"bytes": those that a puzzle's kernel moves, "ideal": those that it has to}."""
    budget = PUZZLES[name].budget
    kernel = kernel or load(f"{name}_solution" if solution else name)
    inputs = some_inputs(budget.shapes)
    moved = traffic(lambda: PUZZLES[name].launch(kernel, *inputs)).total
    return {"bytes": moved, "ideal": budget.ideal(*inputs)}


def count_apart(name: str, solution: bool) -> dict:
    """`count` in a process of its own, in which Triton interprets."""
    path = os.pathsep.join(map(str, (HERE.parent, HERE.parent.parent)))
    without = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    return fresh.call("puzzles", "count", {"name": name, "solution": solution}, **without)


def frugal(name: str, kernel, counting: Future | None) -> Verdict:
    """Whether a right kernel keeps to its bytes; on a GPU another process is `counting` them."""
    if DEVICE == "cpu":
        found = count(name, kernel=kernel)
    elif counting is None:
        return Verdict(True, "  bytes: not counted; on a GPU that needs the kernel in its file")
    else:
        found = counting.result()
        if "failed" in found:
            # the kernel ran on the GPU, so it is the interpreter that cannot run it here
            return Verdict(True, f"  bytes: not counted, {found['failed']}")
    ratio = found["bytes"] / found["ideal"]
    most = PUZZLES[name].budget.most
    words = f"{number(ratio)} times the ideal {found['ideal']:,}, allowed are {most}"
    kind = "within the budget" if ratio <= most else "too many"
    return Verdict(ratio <= most, f"  bytes {kind}: {words}")


def timed(puzzle: Puzzle, kernel) -> list[Callable]:
    """The calls whose speed is compared: the kernel's and the library's."""
    inputs = some_inputs(puzzle.budget.large, TIMED)
    return [partial(puzzle.launch, kernel, *inputs), puzzle.budget.library(*inputs)]


def right_at_large(puzzle: Puzzle, call: partial, heads: int = 2) -> Verdict:
    """Whether what is timed is right: all of it is written, and the first heads are near.

    Before the call that is looked at, memory of the size of its result is filled with NaN, so that
    what it does not write is not by chance what the library left there.
    """
    budget, (_, *inputs) = puzzle.budget, call.args
    gate.poison([call()])
    got = budget.whole(call())
    truth = budget.truth or puzzle.truth
    want = truth(*(x[:heads].double() for x in inputs))
    found = compare(got[:heads], want, puzzle.result, LARGE_TOLERANCE)
    if found and not torch.isfinite(got).all():
        found = Verdict(False, f"wrong: {puzzle.result} is not finite behind the first heads")
    sizes = " and ".join(str(list(x.shape)) for x in inputs)
    return found if found else Verdict(False, f"  at the size that is timed, {sizes}:\n  {found!r}")


def rehearse(puzzle: Puzzle, kernel, which: int) -> None:
    """One of these calls, for the sake of what it compiles; not of a kernel that may be wrong."""
    if torch.cuda.get_device_capability() >= (8, 0):
        timed(puzzle, kernel)[which]()


def fast(puzzle: Puzzle, kernel) -> Verdict:
    """Whether a right kernel has its share of the library's speed on this GPU."""
    budget = puzzle.budget
    if torch.cuda.get_device_capability() < (8, 0):
        return Verdict(True, "  speed: not asked for on a GPU without bfloat16")
    calls = timed(puzzle, kernel)
    try:
        verdict = right_at_large(puzzle, calls[0])
    except Exception as problem:
        return Verdict(False, f"  speed: it does not run at {budget.large}: {problem}")
    if not verdict:
        return verdict
    lanes = [timing.Lane(call) for call in calls]
    timing.race(lanes, timing.DeviceClock(), timing.QUICK)
    for lane in lanes:
        if lane.failure is not None:
            return Verdict(False, f"  speed: it does not run at {budget.large}: {lane.failure}")
    share = lanes[1].percentile(50) / lanes[0].percentile(50)
    kind = "enough" if share >= budget.share else SLOW
    words = f"{number(share)} of the library's, asked for are {budget.share}"
    return Verdict(share >= budget.share, f"  speed {kind}: {words}")
