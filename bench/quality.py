"""Small language models that differ in the mixer alone, and tasks that tell the mixers apart.

Several models, each with a seed and a learning rate of its own, are trained at once: all tensors
have one dimension more, of M models, and no number passes from one model to another. On a GPU a
step is recorded as a CUDA graph and replayed, so that the host's time does not count.

All mixers have exactly as many parameters: what a mixer needs beyond the projections is taken from
the width of the layers behind it.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from kernels import linear_attention
from kernels.feature_maps import FEATURE_MAPS

from . import tiny

VOCABULARY = 256  # of all tasks: bytes, or as many symbols
WIDTH, LAYERS, HEADS = 64, 2, 4
EPS = 1e-6
SOFTMAX = "softmax attention"  # "softmax" is a feature map
TAYLOR, LEARNED = "taylor", "learned"
MOST_FEATURES = 256  # that the operator takes


# [taylor:begin]
def taylor(x):
    """[..., D] → [..., 1 + D + D(D + 1)/2]: φ(q)·φ(k) is 1 + s + s²/2 with s = q·k / √D."""
    D = x.shape[-1]
    x = x / D**0.25
    place = torch.arange(D, device=x.device)[:, None]
    i, j = torch.triu_indices(D, D, device=x.device)
    once = torch.where(i == j, 0.5, 1.0).sqrt()  # i < j stands for j < i as well
    # chosen by a product with zeros and ones, whose gradient is one too
    pairs = (x @ (place == i).to(x.dtype)) * (x @ ((place == j) * once).to(x.dtype))
    return torch.cat([torch.ones_like(x[..., :1]), x, pairs], -1)


# [taylor:end]


# [learned:begin]
def learned(x, w):
    """[M, B, H, N, D], w [M, 1, H, D, D] → [..., 2 D]: softmax of x W and of -x W."""
    y = x @ w
    return torch.cat([y.softmax(-1), (-y).softmax(-1)], -1)


# [learned:end]


@dataclass(frozen=True)
class Mixer:
    """What mixes tokens in a layer: `phi` is SOFTMAX, TAYLOR, LEARNED or a named feature map.

    `decay` is None, "fixed" (one for each head) or "selective" (one for each token and head).
    """

    phi: str
    decay: str | None = None

    def __post_init__(self):
        known = (SOFTMAX, TAYLOR, LEARNED, *FEATURE_MAPS)
        if self.phi not in known:
            raise ValueError(f"phi is {self.phi!r}; allowed are {', '.join(known)}")
        if self.decay not in (None, "fixed", "selective"):
            raise ValueError(f"decay is {self.decay!r}; allowed are None, 'fixed', 'selective'")
        if self.phi == SOFTMAX and self.decay:
            raise ValueError("softmax attention has no state that could decay")

    def features(self, D: int) -> int | None:
        """How many features φ makes of D; None for softmax attention, which has none."""
        if self.phi == SOFTMAX:
            return None
        return {TAYLOR: 1 + D + D * (D + 1) // 2, LEARNED: 2 * D}.get(self.phi, D)

    def own(self, width: int, heads: int) -> dict[str, tuple]:
        """Shapes of the parameters of one layer that other mixers do not have."""
        D = width // heads
        shapes = {"phi": (heads, D, D)} if self.phi == LEARNED else {}
        return shapes | ({"gate": (width, heads)} if self.decay == "selective" else {})


MIXERS = {
    "softmax": Mixer(SOFTMAX),
    "elu": Mixer("elu"),
    "relu": Mixer("relu"),
    "exp": Mixer("exp"),
    "softmax φ": Mixer("softmax"),
    "identity": Mixer("identity"),
    "Taylor": Mixer(TAYLOR),
    "learned φ": Mixer(LEARNED),
    "decay": Mixer("elu", "fixed"),
    "selective decay": Mixer("elu", "selective"),
}
HYBRID = "hybrid"  # elu, and softmax attention in the last layer
SOFTMAX_FIRST = "softmax first"  # the other way round


def stack(name: str, layers: int) -> list[Mixer]:
    """The mixers of all layers of a model."""
    if name == HYBRID:
        return [MIXERS["elu"]] * (layers - 1) + [MIXERS["softmax"]]
    if name == SOFTMAX_FIRST:
        return stack(HYBRID, layers)[::-1]
    if name not in MIXERS:
        known = ", ".join([*MIXERS, HYBRID, SOFTMAX_FIRST])
        raise ValueError(f"mixer is {name!r}; allowed are {known}")
    return [MIXERS[name]] * layers


def state_numbers(name: str, width=WIDTH, heads=HEADS, layers=LAYERS) -> int | None:
    """Numbers in S and z of all layers; None where a layer keeps all keys and values."""
    D = width // heads
    found = [mixer.features(D) for mixer in stack(name, layers)]
    return None if None in found else sum(heads * f * (D + 1) for f in found)


def horizons(heads: int, longest: int) -> list[float]:
    """After how many tokens each head's fixed decay has forgotten all but 1/e: 16 to `longest`."""
    if heads == 1:
        return [float(longest)]
    return [16 * (longest / 16) ** (h / (heads - 1)) for h in range(heads)]


class Models(nn.Module):
    """M models [M, B, N] → logits [M, B, N, VOCABULARY]; one seed each.

    All parameters are one tensor [M, P], so that an optimizer is a few operations.
    """

    def __init__(self, name: str, longest: int, seeds, width=WIDTH, heads=HEADS, layers=LAYERS):
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width}; it has to be a multiple of heads, {heads}")
        self.name, self.longest, self.width, self.heads = name, longest, width, heads
        self.mixers = stack(name, layers)
        D = width // heads
        for mixer in self.mixers:
            if (mixer.features(D) or 0) > MOST_FEATURES:
                raise ValueError(
                    f"heads is {heads}: {mixer.phi} makes {mixer.features(D)} features of {D}, "
                    f"and the operator takes up to {MOST_FEATURES}"
                )
        self.shapes = self._shapes()
        first = torch.stack([self._drawn(seed) for seed in seeds])
        self.flat = nn.Parameter(first)
        decay = [-1 / h for h in horizons(heads, longest)]
        self.register_buffer("decay", torch.tensor(decay), persistent=False)

    def _shapes(self) -> dict[str, tuple]:
        W = self.width
        shapes = {"embed": (VOCABULARY, W), "place": (self.longest, W), "head": (W, VOCABULARY)}
        for i, mixer in enumerate(self.mixers):
            own = mixer.own(W, self.heads)
            fewer, rest = divmod(sum(map(math.prod, own.values())), 2 * W)
            if rest:
                raise ValueError(
                    f"heads is {self.heads}: what {mixer.phi} with decay {mixer.decay} needs is "
                    "no whole number of rows of the layers behind it"
                )
            hidden = 4 * W - fewer
            shapes |= {
                f"{i}.shift": (W,), f"{i}.project": (W, 3 * W), f"{i}.out": (W, W),
                f"{i}.up": (W, hidden), f"{i}.down": (hidden, W),
            }  # fmt: skip
            shapes |= {f"{i}.{part}": shape for part, shape in own.items()}
        return shapes

    def _drawn(self, seed: int):
        """The first parameters of one model [P]."""
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for name, shape in self.shapes.items():
            part = name.split(".")[-1]
            x = torch.randn(shape, generator=generator)
            if part == "shift":
                x = torch.full(shape, 0.5)
            elif part == "phi":
                x = torch.eye(shape[-1]).expand(shape)
            elif part in ("embed", "place"):
                x = x * {"embed": 1.0, "place": 0.1}[part]
            else:
                x = x * shape[0] ** -0.5
            parts.append(x.flatten())
        return torch.cat(parts)

    @property
    def parameters_each(self) -> int:
        """P, of one model."""
        return self.flat.shape[1]

    def parts(self) -> dict[str, torch.Tensor]:
        """Each parameter [M, ...], a view."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        split = self.flat.split(sizes, 1)
        return {n: x.unflatten(1, s) for (n, s), x in zip(self.shapes.items(), split, strict=True)}

    def forward(self, tokens, seen: list | None = None):
        """The logits; `seen` gets φ(k) [M B, H, N, features] of each layer that has a φ."""
        M, _, N = tokens.shape
        p = self.parts()
        one_hot = tokens.unsqueeze(-1) == torch.arange(VOCABULARY, device=tokens.device)
        dtype = self.flat.dtype
        if torch.is_autocast_enabled(tokens.device.type):
            dtype = torch.get_autocast_dtype(tokens.device.type)
        x = _times(one_hot.to(dtype), p["embed"]) + p["place"][:, None, :N]
        # [layers:begin]
        for i, mixer in enumerate(self.mixers):
            y = _norm(x)
            before = F.pad(y, (0, 0, 1, 0))[:, :, :-1]
            y = torch.lerp(y, before, p[f"{i}.shift"].view(M, 1, 1, -1))
            x = x + _times(self._mix(mixer, y, i, p, seen), p[f"{i}.out"])
            x = x + _times(F.gelu(_times(_norm(x), p[f"{i}.up"])), p[f"{i}.down"])
        # [layers:end]
        return _times(_norm(x), p["head"])

    def _mix(self, mixer: Mixer, x, i: int, p, seen):
        """[M, B, N, W] → [M, B, N, W]."""
        M, B, N, W = x.shape
        qkv = _times(x, p[f"{i}.project"]).view(M * B, N, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [M B, H, N, D] each
        if mixer.phi == SOFTMAX:
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            o = self._linear(mixer, q, k, v, x, i, p, seen)
        return o.transpose(1, 2).reshape(M, B, N, W)

    def _linear(self, mixer: Mixer, q, k, v, x, i: int, p, seen):
        """The book's operator, [M B, H, N, D]."""
        phi = mixer.phi
        if phi == TAYLOR:
            phi = taylor
        elif phi == LEARNED:
            w = p[f"{i}.phi"].unsqueeze(1)
            phi = lambda y: learned(y.unflatten(0, (len(w), -1)), w).flatten(0, 1)  # noqa: E731
        if seen is not None:
            seen.append(FEATURE_MAPS.get(phi, phi)(k.float()))
        options = {"causal": True, "feature_map": phi, "eps": EPS}
        if mixer.decay == "fixed":
            options["decay"] = self.decay
        elif mixer.decay == "selective":
            gate = _times(x, p[f"{i}.gate"]).flatten(0, 1).transpose(1, 2)  # [M B, H, N]
            options["decay"] = F.logsigmoid(gate.float() + 4)
        if phi != "identity":
            return linear_attention(q, k, v, **options)
        o = linear_attention(q, k, v, **options, normalize=False)  # its sum may be zero
        return F.rms_norm(o, o.shape[-1:])


def _times(x, w):
    """[M, B, N, I] times [M, I, O]."""
    return (x.flatten(1, 2) @ w).unflatten(1, x.shape[1:3])


def _norm(x):
    return F.layer_norm(x, x.shape[-1:])


def overlap(features) -> torch.Tensor:
    """[..., P, features] → [...]: mean cosine of the angle between two of the P."""
    unit = F.normalize(features.double(), dim=-1)
    P = unit.shape[-2]
    return (unit.sum(-2).square().sum(-1) - unit.square().sum((-1, -2))) / (P * (P - 1))


@dataclass(frozen=True)
class Task:
    """What is learned, and what is asked afterwards.

    `draw(B, device)` gives tokens [B, N + 1] and which of the N predictions count [B, N], a new
    batch at each call, from PyTorch's generator of the device. `exams` maps what is asked to a
    draw of the same kind.
    """

    name: str
    length: int  # N
    draw: Callable
    exams: dict[str, Callable]


NOISE, KEYS, VALUES = 32, 112, 112  # symbols of recall, in this order
PAIRS = (4, 8, 16, 32, 64)
COPIED = 64  # symbols that are copied are the first so many, after a bar


# [recall:begin]
def recall(B: int, N: int, pairs, device):
    """Pairs of key and value, then some keys once more, each with its value, among noise.

    `pairs` [B] is how many: 2 tokens each at the beginning, and 2 each somewhere behind.
    """
    most = int(max(PAIRS))
    slots = torch.arange(N // 2, device=device)
    keys = torch.rand((B, KEYS), device=device).argsort(-1)[:, :most] + NOISE
    values = torch.randint(NOISE + KEYS, VOCABULARY, (B, most), device=device)
    shown = slots < pairs[:, None]  # [B, N/2]
    order = torch.rand((B, N // 2), device=device).masked_fill(shown, 2.0)
    rank = order.argsort(-1).argsort(-1)  # of the slots behind; those of rank r ask for key r
    asked = (rank < pairs[:, None]) & ~shown
    which = torch.where(shown, slots, rank).clamp(max=most - 1)
    pair = torch.stack([x.gather(1, which) for x in (keys, values)], -1)  # [B, N/2, 2]
    noise = torch.randint(0, NOISE, (B, N // 2, 2), device=device)
    tokens = torch.where((shown | asked)[..., None], pair, noise).flatten(1)
    counts = torch.stack([asked, torch.zeros_like(asked)], -1).flatten(1)
    return F.pad(tokens, (0, 1)), counts


# [recall:end]


def recall_task(N: int, pairs=PAIRS) -> Task:
    """Recall in N tokens: trained with any number of pairs that fits, asked for each number."""
    pairs = tuple(p for p in pairs if 4 * p <= N)
    if not pairs or N % 2:
        raise ValueError(f"N is {N}; it has to be even and at least four times the fewest pairs")

    def exam(P):
        return lambda B, device: recall(B, N, torch.full((B,), P, device=device), device)

    def draw(B, device):
        chosen = torch.randint(0, len(pairs), (B,), device=device)
        many = torch.full_like(chosen, pairs[0])
        for i in range(1, len(pairs)):  # nothing is copied from the host, or a graph cannot hold it
            many = many.masked_fill(chosen == i, pairs[i])
        return recall(B, N, many, device)

    return Task("recall", N, draw, {str(P): exam(P) for P in pairs})


def copy_task(N: int) -> Task:
    """N/2 symbols, a bar, and the same again."""
    half = N // 2

    def draw(B, device):
        x = torch.randint(1, COPIED + 1, (B, half), device=device)
        tokens = torch.cat([x, torch.zeros_like(x[:, :1]), x], 1)  # [B, 2 half + 1]
        counts = (torch.arange(2 * half, device=device) >= half).expand(B, -1)
        return tokens, counts

    return Task("copy", 2 * half, draw, {"copy": draw})


HELD_BLOCK, HELD_EVERY = 4096, 10


@cache
def text_bytes(held: bool, device: str = "cpu"):
    """The bytes of the book's chapters on a device: each tenth block of 4 KiB is held out."""
    data = torch.frombuffer(bytearray(tiny.text()), dtype=torch.uint8).long()
    out = torch.arange(len(data)) // HELD_BLOCK % HELD_EVERY == HELD_EVERY - 1
    return data[out if held else ~out].to(device)


def text_task(N: int) -> Task:
    """The next byte of the book's chapters; asked on blocks that training does not see."""

    def reader(held):
        def draw(B, device):
            data = text_bytes(held, str(device))
            at = torch.randint(0, len(data) - N, (B, 1), device=device)
            tokens = data[at + torch.arange(N + 1, device=device)]
            return tokens, torch.ones_like(tokens[:, 1:], dtype=torch.bool)

        return draw

    return Task("text", N, reader(False), {"text": reader(True)})


@dataclass(frozen=True)
class Plan:
    """How one group of models is trained: M = seeds times rates, all at once."""

    steps: int
    batch: int  # sequences of each model in a step
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = (3e-3,)
    checkpoints: int = 10
    exam: int = 64  # sequences of each exam
    anneal: bool = True  # lower the rate to zero; else it stays, and all checkpoints are equal
    warm_up: int = 50


BETAS, TINY, DECAY, CLIP = (0.9, 0.98), 1e-8, 0.01, 1.0


class Training:
    """M models of a mixer on a task; `advance` trains them, `examine` asks."""

    def __init__(self, task: Task, name: str, plan: Plan, device="cuda", **sizes):
        self.task, self.plan, self.device = task, plan, torch.device(device)
        runs = [(seed, rate) for rate in plan.rates for seed in plan.seeds]
        self.runs = runs
        torch.manual_seed(plan.seeds[0])
        self.models = Models(name, task.length, [seed for seed, _ in runs], **sizes).to(device)
        flat = self.models.flat
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)
        self.rates = torch.tensor([[rate] for _, rate in runs], device=device)
        self.step = torch.zeros((), device=device)
        self.losses = torch.zeros((plan.steps + 1, len(runs)), device=device)  # [nats]
        self.done, self.graph = 0, None

    def _logits(self, tokens, seen: list | None = None):
        cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda):
            return self.models(tokens, seen)

    def losses_of(self, tokens, counts):
        """Mean loss of the predictions that count [M], and how many of them are right [M]."""
        M = len(self.runs)
        tokens, counts = (x.unflatten(0, (M, -1)) for x in (tokens, counts))
        logits = self._logits(tokens[:, :, :-1])
        goal = tokens[:, :, 1:]
        loss = F.cross_entropy(logits.float().flatten(0, 2), goal.flatten(), reduction="none")
        right = (logits.argmax(-1) == goal) & counts
        asked = counts.sum((1, 2))
        return (loss.view_as(goal) * counts).sum((1, 2)) / asked, right.sum((1, 2)) / asked

    def _train_once(self):
        plan, flat = self.plan, self.models.flat
        tokens, counts = self.task.draw(len(self.runs) * plan.batch, self.device)
        flat.grad = None
        loss, _ = self.losses_of(tokens, counts)
        loss.sum().backward()
        with torch.no_grad():
            self.step += 1
            share = (self.step / plan.warm_up).clamp(max=1)
            if plan.anneal:
                share = share * (0.5 + 0.5 * torch.cos(math.pi * self.step / plan.steps))
            g = flat.grad
            g = g * (CLIP / g.norm(dim=1, keepdim=True).clamp(min=CLIP))
            self.mean.lerp_(g, 1 - BETAS[0])
            self.square.lerp_(g * g, 1 - BETAS[1])
            m = self.mean / (1 - BETAS[0] ** self.step)
            v = self.square / (1 - BETAS[1] ** self.step)
            rate = self.rates * share
            flat.mul_(1 - DECAY * rate).sub_(rate * m / (v.sqrt() + TINY))
            self.losses.index_copy_(0, self.step.long().view(1), loss.detach().unsqueeze(0))

    def rehearse(self) -> None:
        """A step and the exams, for the sake of what they compile."""
        self._train_once()
        self.examine()

    def _record(self):
        """Some steps, and then a graph of one: what is compiled must be so before."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._train_once()
        torch.cuda.current_stream().wait_stream(side)
        self.done += 3
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._train_once()

    def advance(self, steps: int) -> float:
        """Train for so many steps; returns ms a step, of those that were replayed."""
        if self.device.type != "cuda":
            begin = time.perf_counter()
            for _ in range(steps):
                self._train_once()
            self.done += steps
            return 1e3 * (time.perf_counter() - begin) / steps
        if self.graph is None:
            self._record()
            steps = max(1, steps - 3)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(steps):
            self.graph.replay()
        end.record()
        end.synchronize()
        self.done += steps
        return begin.elapsed_time(end) / steps

    @torch.no_grad()
    def examine(self) -> list[dict]:
        """For each exam and model: loss in bits, and the share that is right."""
        rows = []
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(10_000)  # the same questions for all mixers and at all times
            for name, draw in self.task.exams.items():
                tokens, counts = draw(self.plan.exam, self.device)
                both = (x.repeat(len(self.runs), 1) for x in (tokens, counts))
                found = torch.stack(self.losses_of(*both), 1).tolist()
                for (seed, rate), (loss, right) in zip(self.runs, found, strict=True):
                    rows.append(
                        {
                            "exam": name, "seed": seed, "rate": rate,
                            "bits": loss / math.log(2), "accuracy": right,
                        }
                    )  # fmt: skip
        return rows

    @torch.no_grad()
    def overlaps(self, P: int) -> list[dict]:
        """How much the keys of P pairs overlap after φ, by layer and model, on average over heads.

        Of recall, where the value behind a key has a share of that key: there the pair is stored.
        """
        rows, M = [], len(self.runs)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(10_000)
            tokens, _ = self.task.exams[str(P)](self.plan.exam, self.device)
        seen = []
        self._logits(tokens[:, :-1].expand(M, -1, -1), seen)
        for layer, features in enumerate(seen, 1):
            stored = features[..., 1 : 2 * P : 2, :]  # [M B, H, P, features]
            found = overlap(stored).view(M, -1).mean(1).tolist()
            for (seed, rate), value in zip(self.runs, found, strict=True):
                rows.append({"seed": seed, "rate": rate, "layer": layer, "overlap": value})
        return rows

    def run(self) -> tuple[list[dict], float]:
        """All steps: rows of all checkpoints, and the median ms of a step."""
        rows, times, plan = [], [], self.plan
        for i in range(plan.checkpoints):
            goal = plan.steps * (i + 1) // plan.checkpoints
            times.append(self.advance(goal - self.done))
            rows += [{"step": self.done, **row} for row in self.examine()]
        return rows, statistics.median(times)
