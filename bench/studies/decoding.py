"""One token after another: the state of linear attention beside the cache of softmax attention.

Rows, by `what`:

- `token`: one token for B sequences of N tokens each. `state` is the book's step, `state-eager` the
  same in PyTorch; `cache-flash`, `cache-cudnn` and `cache-math` are backends of PyTorch's SDPA with
  one query and N keys. `graph_ms` is the same call replayed from a CUDA graph, and `host_ms` what
  Python needs to issue it. A step of the state has no N: it is measured once for each B.
- `prompt`: the N tokens before the first one that is generated, B = 1, and what is kept of them.
  Two long ones are read with a state only.
- `drift`: the state after N tokens if it is rounded after each, against float64.

`copy_ms` is a copy that moves the bytes of the row: the cache is read, a state read and written.
`held_bytes` is what the cache or the state takes by its shape, and `allocated_bytes` by how much
PyTorch's allocator holds more with it than without. `host_ms` of a step is that of one that is
replayed (`kernels/launch.py`), `checked_host_ms` that of one whose arguments are checked and whose
kernel is chosen anew.
"""

import time
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from kernels import LinearAttentionState, linear_attention, linear_attention_step, ops, reference
from kernels.feature_maps import FEATURE_MAPS
from kernels.steps.decoding import rounded

from .. import floor, gate, hardware
from ..runner import one_line
from ..timing import DeviceClock, GraphClock, Lane, Sampling, race

ABOUT = "decoding: time and memory of a token by length and batch, the prompt, and a rounded state"
KIND = "what"
COLUMNS = {
    "token": "way B N? bytes status reason | held_bytes error device_ms spread host_ms copy_ms",
    "prompt": "way B N status reason | held_bytes error device_ms spread host_ms copy_ms",
    "drift": "status reason | rounding N z_mean z_exact s_error z_error output_error",
}

H, D = 8, 64
STATE_BYTES = 4 * (D * D + D)  # of one head: S and z in float32
LENGTHS = tuple(2**i for i in range(10, 21))  # 1K … 1M
BATCHES = (1, 8, 64)
STATE_BATCHES = (1, 4, 8, 16, 64, 256, 1024)
PROMPTS = tuple(2**i for i in range(10, 18, 2))
LONG_PROMPTS = (2**18, 2**20)
BACKENDS = {
    "cache-flash": "FLASH_ATTENTION",
    "cache-cudnn": "CUDNN_ATTENTION",
    "cache-math": "MATH",
}
DRIFT_HEADS = 4
CHECKPOINTS = tuple(4**i for i in range(4, 11))  # 256 … 1M
QUICK_MOST = 2**16
SAMPLING = Sampling(least=5, most=60, budget_s=0.1)  # of a hundred rows
QUICK = Sampling(least=3, most=15, budget_s=0.05, warm_up=1)
FULL_S, QUICK_S = 50.0, 10.0  # after these seconds nothing further is begun


def measure(quick: bool, say) -> list[dict]:
    """All rows; in quick form fewer lengths, batches and samples."""
    dtype = hardware.default_dtype()
    sampling = QUICK if quick else SAMPLING
    watch = Watch(dtype, sampling, time.monotonic() + (QUICK_S if quick else FULL_S), quick)
    rows = []
    for part in (states, caches, prompts, drift):
        try:
            for row in part(watch):
                rows.append(row)
                say(describe(row))
        except Exception as problem:  # the other parts are still worth having
            say(f"{part.__name__} failed: {one_line(problem)}")
            rows.append({"what": part.__name__, "status": "failed", "reason": one_line(problem)})
        torch.cuda.empty_cache()
    return rows


def describe(row: dict) -> str:
    """One line of progress."""
    names = ("what", "way", "B", "N", "rounding", "status", "device_ms", "output_error")
    return ", ".join(f"{n} {row[n]}" for n in names if row.get(n) is not None)


class Watch:
    """The clocks of a run, and when it has to end. `device` and `clocks` are for tests."""

    def __init__(self, dtype, sampling, deadline, quick, device="cuda", clocks=None):
        self.dtype, self.sampling, self.quick, self.device = dtype, sampling, quick, device
        self.deadline = deadline
        self.clock, self.graph = clocks or (DeviceClock(), GraphClock())
        self.generator = torch.Generator(device).manual_seed(0)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.deadline

    def random(self, *shape, dtype=None):
        x = torch.randn(shape, generator=self.generator, device=self.device)
        return x.to(dtype or self.dtype)

    def allocated(self) -> int:
        """Bytes that PyTorch's allocator holds; 0 where there is no GPU."""
        return torch.cuda.memory_allocated() if self.device == "cuda" else 0

    def more_than(self, before: int) -> dict:
        """{"allocated_bytes": how much more it holds than `before`}, or {} without a GPU."""
        return {"allocated_bytes": self.allocated() - before} if self.device == "cuda" else {}

    def times(self, call, context, nbytes) -> dict:
        """Device, host and graph time of a call in ms, and of a copy of `nbytes`."""
        lanes = [Lane(call, context), Lane(floor.copy_call(nbytes, self.device))]
        race(lanes, self.clock, self.sampling)
        graphs = [Lane(call, context)]
        race(graphs, self.graph, self.sampling)
        self.graph.forget()
        if lanes[0].failure is not None:
            raise lanes[0].failure
        replay = None if graphs[0].failure else graphs[0].percentile(50)
        return {
            "device_ms": lanes[0].percentile(50),
            "spread": lanes[0].spread,
            "host_ms": lanes[0].host_median_ms,
            "graph_ms": replay,
            "copy_ms": lanes[1].percentile(50),
            **lanes[0].marks,
        }


def _failed(problem) -> dict:
    oom = isinstance(problem, torch.cuda.OutOfMemoryError)
    return {"status": "oom" if oom else "failed", "reason": one_line(problem)}


def states(watch):
    """One step for B sequences; how long they are plays no part."""
    batches = (1, 8, 64) if watch.quick else STATE_BATCHES
    for B in batches:
        for way in ("state", "state-eager"):
            row = {"what": "token", "way": way, "B": B, "N": None, "bytes": 2 * STATE_BYTES * B * H}
            yield row | _state(watch, way, B)


def _state(watch, way, B) -> dict:
    if watch.over:
        return {"status": "skipped", "reason": "the time of this study was over"}
    try:
        q, k, v = (watch.random(B, H, D) for _ in "qkv")
        before = watch.allocated()
        kv = watch.random(B, H, D, D, dtype=torch.float32)
        state = LinearAttentionState(kv, 100 + watch.random(B, H, D).float().abs())
        held = {"held_bytes": STATE_BYTES * B * H, **watch.more_than(before)}
        call = {"state": linear_attention_step, "state-eager": eager_step}[way]
        step = torch.no_grad()(lambda: call(q, k, v, state))
        want = reference.recurrent(
            *(x.double().unsqueeze(2) for x in (q, k, v)), causal=True,
            initial_state=LinearAttentionState(*(x.double() for x in state)),
        )  # fmt: skip
        verdict = judged(step()[0], want.squeeze(2), watch.dtype)
        if verdict["status"] != "ok":
            return verdict
        timed = watch.times(step, nullcontext, 2 * STATE_BYTES * B * H)
        if way == "state":
            timed["checked_host_ms"] = host_of_checked(watch, q, k, v, state)
        return verdict | timed | held
    except Exception as problem:
        return _failed(problem)


def host_of_checked(watch, q, k, v, state) -> float | None:
    """What Python needs to issue a step that is not replayed, in ms; None where that fails."""
    options = ("elu", True, None, 1e-6, False)  # those of `linear_attention_step`
    lane = Lane(torch.no_grad()(lambda: ops._step(q, k, v, state, None, *options)))
    race([lane], watch.clock, watch.sampling)
    return None if lane.failure is not None else lane.host_median_ms


def eager_step(q, k, v, state):
    """`linear_attention_step` for φ = elu + 1 in PyTorch operations."""
    fq, fk = (FEATURE_MAPS["elu"](x.float()) for x in (q, k))
    kv = state[0] + fk.unsqueeze(-1) * v.float().unsqueeze(-2)
    z = state[1] + fk
    o = (fq.unsqueeze(-2) @ kv).squeeze(-2) / ((fq * z).sum(-1, keepdim=True) + 1e-6)
    return o.to(q.dtype), (kv, z)


def judged(got, want, dtype) -> dict:
    """The gate's rule for a single token: finite, and near the truth as a whole."""
    error = ((got.double() - want).norm() / want.norm()).item()
    limit = gate.tolerance("o", str(dtype).removeprefix("torch."))
    if not error <= limit:
        return {"status": "wrong", "reason": f"relative error {error:.2g}, allowed is {limit:.2g}"}
    return {"status": "ok", "reason": None, "error": error}


def caches(watch):
    """One query against N keys and values, as long as they fit."""
    lengths = LENGTHS[::2] if watch.quick else LENGTHS
    for B in BATCHES[:2] if watch.quick else BATCHES:
        for N in lengths:
            if watch.quick and B > 1 and N > QUICK_MOST:
                continue
            nbytes = 2 * B * H * N * D * torch.empty(0, dtype=watch.dtype).element_size()
            row = {"what": "token", "B": B, "N": N, "bytes": nbytes, "held_bytes": nbytes}
            if watch.over:
                fact = {"status": "skipped", "reason": "the time of this study was over"}
                yield row | {"way": "cache-flash"} | fact
                continue
            try:
                yield from _caches(watch, row, B, N)
            except Exception as problem:
                yield row | {"way": "cache-flash"} | _failed(problem)
            if watch.device == "cuda":
                torch.cuda.empty_cache()


def _caches(watch, row, B, N):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    nbytes = row["bytes"]
    if watch.device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        if 2.3 * nbytes > free:  # the cache, and the copy that is the floor
            reason = f"the cache of {nbytes / 2**30:.0f} GiB and its copy do not fit"
            yield row | {"way": "cache-flash", "status": "oom", "reason": reason}
            return
    q = watch.random(B, H, 1, D)
    before = watch.allocated()
    k, v = (_cache(watch, B, N) for _ in "kv")
    row = row | watch.more_than(before)
    want = exact_token(q, k, v)
    for way, backend in BACKENDS.items():
        if way == "cache-math" and (B > 1 or N > 2**17):  # it copies the cache to float32
            continue

        def context(backend=backend):
            return sdpa_kernel(getattr(SDPBackend, backend))

        call = torch.no_grad()(lambda: F.scaled_dot_product_attention(q, k, v))
        try:
            with context():
                fact = judged(call(), want, watch.dtype)
            if fact["status"] == "ok":
                fact |= watch.times(call, context, nbytes)
        except Exception as problem:
            fact = _failed(problem)
        yield row | {"way": way} | fact


def _cache(watch, B, N):
    """[B, H, N, D], made in pieces: random numbers in float32 would take twice the room."""
    x = torch.empty(B, H, N, D, dtype=watch.dtype, device=watch.device)
    for i in range(0, N, 2**16):
        x[:, :, i : i + 2**16] = watch.random(B, H, min(2**16, N - i), D)
    return x


def exact_token(q, k, v):
    """Softmax attention of one query in float64, a batch at a time."""
    out = []
    for q1, k1, v1 in zip(q, k, v, strict=True):
        s = (k1.double() @ q1.double().mT).squeeze(-1) * D**-0.5  # [H, N]
        out.append(torch.softmax(s, -1).unsqueeze(1) @ v1.double())
    return torch.stack(out)


def prompts(watch):
    """All tokens before the first generated one, and what is kept of them."""
    for N in PROMPTS[:2] if watch.quick else (*PROMPTS, *LONG_PROMPTS):
        if watch.over:
            fact = {"status": "skipped", "reason": "the time of this study was over"}
            yield {"what": "prompt", "way": "state", "B": 1, "N": N} | fact
            continue
        q = watch.random(1, H, N, D)
        before = watch.allocated()
        k, v = (watch.random(1, H, N, D) for _ in "kv")
        cache = watch.more_than(before)
        for way, call in prompt_calls(q, k, v).items():
            if way == "cache" and N in LONG_PROMPTS:  # pairs of tokens take seconds
                continue
            row = {"what": "prompt", "way": way, "B": 1, "N": N}
            row["held_bytes"] = {
                "state": STATE_BYTES * H,
                "cache": 2 * k.numel() * k.element_size(),
            }[way]
            try:
                # the last token has seen all that the state has to hold
                fact = judged(last_of(call()), prompt_truth(way, q, k, v), watch.dtype)
                if fact["status"] == "ok":
                    fact |= cache if way == "cache" else allocated_by_state(watch, call)
                    fact |= watch.times(call, nullcontext, 4 * k.numel() * k.element_size())
            except Exception as problem:
                fact = _failed(problem)
            yield row | fact


def allocated_by_state(watch, call) -> dict:
    """How much more the allocator holds once a prompt is read and its outputs are gone."""
    before = watch.allocated()
    result = call()
    state = result[1]
    del result
    found = watch.more_than(before)
    del state
    return found


def prompt_calls(q, k, v) -> dict:
    """What makes the state, or the output beside a cache, of a whole prompt."""
    calls = {
        "state": lambda: linear_attention(q, k, v, causal=True, return_state=True),
        "cache": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    return {way: torch.no_grad()(call) for way, call in calls.items()}


def last_of(result):
    o = result[0] if isinstance(result, tuple) else result
    return o[:, :, -1:]


def prompt_truth(way, q, k, v):
    """The last token's output in float64."""
    if way == "cache":
        return exact_token(q[:, :, -1:], k, v)
    fq, fk = (FEATURE_MAPS["elu"](x.double()) for x in (q[:, :, -1:], k))
    weights = fq @ fk.mT
    return weights @ v.double() / (weights.sum(-1, keepdim=True) + 1e-6)


def drift(watch):
    """The error of a rounded state by the number of tokens that it has seen."""
    last = QUICK_MOST if watch.quick else CHECKPOINTS[-1]
    points = [n for n in CHECKPOINTS if n <= last]
    state = {
        to: (torch.zeros(DRIFT_HEADS, D, D), torch.zeros(DRIFT_HEADS, D))
        for to in rounded.ROUNDINGS
    }
    state = {to: [x.to(watch.device) for x in pair] for to, pair in state.items()}
    s, z = (x.double() for x in state["float32"])
    fq = FEATURE_MAPS["elu"](watch.random(DRIFT_HEADS, 256, D, dtype=torch.float64))
    done = 0
    for n in points:
        # in pieces, since a million tokens in float32 would not fit every GPU
        for begin in range(done, n, 2**17):
            size = min(2**17, n - begin)
            fk = FEATURE_MAPS["elu"](watch.random(DRIFT_HEADS, size, D, dtype=torch.float32))
            v = watch.random(DRIFT_HEADS, size, D, dtype=torch.float32) + 0.5
            rounded.exact(fk, v, s, z)
            for to, (rs, rz) in state.items():
                rounded.walk(fk, v, rs, rz, to, seed=begin)
        done = n
        for to, (rs, rz) in state.items():
            o, want = (
                (fq @ a.double()) / (fq @ b.double().unsqueeze(-1)) for a, b in ((rs, rz), (s, z))
            )
            yield {
                "what": "drift",
                "rounding": to,
                "N": n,
                "z_mean": rz.mean().item(),
                "z_exact": z.mean().item(),
                "s_error": relative(rs, s),
                "z_error": relative(rz, z),
                "output_error": relative(o, want),
                "status": "ok",
                "reason": None,
            }


def relative(got, want) -> float:
    return ((got.double() - want).norm() / want.norm()).item()
