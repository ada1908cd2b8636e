"""A small causal language model whose mixer is the only thing that changes, and tasks to train it.

The mixers are softmax attention and this book's own operator with one of its feature maps; both get
the same projections, so parameters are equal. It is small enough to be trained in seconds.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from kernels import linear_attention
from kernels.feature_maps import FEATURE_MAPS

from .hardware import ROOT

SOFTMAX = "softmax attention"
EPS = 1e-6


class Mixer(nn.Module):
    """Attention over [B, N, width]; `kind` is SOFTMAX or the name of a feature map."""

    def __init__(self, width: int, heads: int, kind: str):
        super().__init__()
        if kind != SOFTMAX and kind not in FEATURE_MAPS:
            known = ", ".join([SOFTMAX, *FEATURE_MAPS])
            raise ValueError(f"kind is {kind!r}; allowed are {known}")
        self.heads, self.kind = heads, kind
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def queries_keys_values(self, x):
        """q, k, v: [B, H, N, D]."""
        q, k, v = self.project(x).chunk(3, -1)
        return [t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v)]

    def forward(self, x):
        q, k, v = self.queries_keys_values(x)
        if self.kind == SOFTMAX:
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            o = linear_attention(q, k, v, causal=True, feature_map=self.kind, eps=EPS)
        return self.out(o.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Each token with a share of the one before it; attention; two layers for each token."""

    def __init__(self, width: int, heads: int, kind: str):
        super().__init__()
        self.norm_mixer, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.shift = nn.Parameter(torch.full((width,), 0.5))
        self.mixer = Mixer(width, heads, kind)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def mixed(self, x):
        """What the mixer sees: [B, N, width]."""
        x = self.norm_mixer(x)
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        return x + self.shift * (before - x)

    def forward(self, x):
        x = x + self.mixer(self.mixed(x))
        return x + self.mlp(self.norm_mlp(x))


class Tiny(nn.Module):
    """Tokens [B, N] → logits [B, N, vocabulary], for N up to `longest`."""

    def __init__(self, vocabulary: int, longest: int, kind: str, width=64, heads=2, layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(0.02 * torch.randn(longest, width))
        self.blocks = nn.ModuleList([Block(width, heads, kind) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def queries_and_keys(self, tokens):
        """(q, k) [B, H, N, D] of each layer."""
        x, found = self.embed(tokens) + self.place[: tokens.shape[1]], []
        for block in self.blocks:
            found.append(tuple(block.mixer.queries_keys_values(block.mixed(x))[:2]))
            x = block(x)
        return found


def weights(q, k, kind: str, *, causal: bool = True, temperature: float = 1.0):
    """The weights [..., N, N] of a mixer; rows sum to 1, q is divided by `temperature`."""
    q, k = q.double() / temperature, k.double()
    if kind == SOFTMAX:
        s = q @ k.mT / q.shape[-1] ** 0.5
        if causal:
            s = s.masked_fill(~torch.ones_like(s).tril().bool(), float("-inf"))
        return torch.softmax(s, -1)
    phi = FEATURE_MAPS[kind]
    w = phi(q) @ phi(k).mT
    if causal:
        w = w.tril()
    return w / (w.sum(-1, keepdim=True) + EPS)


def entropy(w) -> float:
    """Mean over the queries of -Σ w log₂ w, in bits; w [..., N, N] with rows that sum to 1."""
    return torch.special.entr(w).sum(-1).mean().item() / 0.6931471805599453


def effective_rank(w) -> float:
    """The exponential of the entropy of the singular values of w [N, N], divided by their sum.

    Source: Roy and Vetterli, The effective rank, 2007.
    """
    s = torch.linalg.svdvals(w)
    return torch.exp(torch.special.entr(s / s.sum()).sum()).item()


@dataclass(frozen=True)
class Task:
    """How to draw a batch: (tokens [B, N + 1], which of the N predictions count [B, N])."""

    name: str
    vocabulary: int
    length: int  # N
    draw: Callable  # (B, generator) -> (tokens, counts)
    show: Callable  # token -> text


PAIRS, SYMBOLS = 8, 32


def _copy(B, generator):
    """16 symbols, a bar, and the same again."""
    device = generator.device
    half = torch.randint(1, SYMBOLS, (B, 16), generator=generator, device=device)
    bar = torch.zeros((B, 1), dtype=half.dtype, device=device)
    tokens = torch.cat([half, bar, half], 1)  # [B, 33]
    counts = torch.zeros((B, 32), dtype=torch.bool, device=device)
    counts[:, 16:] = True
    return tokens, counts


def _recall(B, generator):
    """8 pairs of key and value, and then the keys in another order, each with its value."""
    device = generator.device
    noise = torch.rand((B, SYMBOLS), generator=generator, device=device)
    keys = noise.argsort(-1)[:, :PAIRS]  # without repetition
    values = torch.randint(SYMBOLS, 2 * SYMBOLS, (B, PAIRS), generator=generator, device=device)
    order = torch.rand((B, PAIRS), generator=generator, device=device).argsort(-1)
    asked = [t.gather(1, order) for t in (keys, values)]
    tokens = torch.cat([torch.stack(x, 2).flatten(1) for x in ((keys, values), asked)], 1)
    counts = torch.zeros_like(tokens, dtype=torch.bool)[:, 1:]
    counts[:, 2 * PAIRS :: 2] = True  # the predictions made at the keys of the second half
    return tokens, counts


def text() -> bytes:
    """The prose of the book's own chapters, as they stand: each edition trains on its own."""
    pages = sorted(Path(ROOT, "chapters").glob("[0-9][0-9]_*.md"))
    return b"\n".join(page.read_bytes() for page in pages)


def fingerprint() -> str:
    """Sixteen digits that change with the text: who trains on another edition sees that here."""
    return hashlib.sha256(text()).hexdigest()[:16]


@cache
def _bytes(device: str):
    """The bytes of the text on a device: a batch is drawn from them at every step."""
    return torch.frombuffer(bytearray(text()), dtype=torch.uint8).long().to(device)


def _text(length):
    def draw(B, generator):
        data = _bytes(str(generator.device))
        at = torch.randint(
            0, len(data) - length - 1, (B, 1), generator=generator, device=generator.device
        )
        columns = torch.arange(length + 1, device=generator.device)
        tokens = data[at + columns]
        return tokens, torch.ones_like(tokens[:, 1:], dtype=torch.bool)

    return draw


def tasks() -> tuple[Task, ...]:
    """The tasks, in the order in which they are shown."""

    def letter(t):
        return chr(t) if 32 < t < 127 else "·"

    def symbol(t):
        return "|" if t == 0 else _name(t - 1)

    def pair(t):
        return _name(t) if t < SYMBOLS else str(t - SYMBOLS)

    return (
        Task("text", 256, 96, _text(96), letter),
        Task("copy", SYMBOLS, 32, _copy, symbol),
        Task("recall", 2 * SYMBOLS, 4 * PAIRS - 1, _recall, pair),
    )


def _name(i: int) -> str:
    """a … z, A …"""
    return chr(ord("a") + i) if i < 26 else chr(ord("A") + i - 26)


def train(task: Task, kind: str, steps: int, device="cuda", batch=128, seed=0) -> tuple[Tiny, dict]:
    """A trained model, and facts: first and last loss [nats], accuracy where it counts."""
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    model = Tiny(task.vocabulary, task.length, kind).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(2, steps))
    losses = []
    for _ in range(steps):
        tokens, counts = task.draw(batch, generator)
        loss = F.cross_entropy(model(tokens[:, :-1])[counts], tokens[:, 1:][counts])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    tokens, counts = task.draw(512 if device == "cuda" else 16, generator)
    with torch.no_grad():
        right = model(tokens[:, :-1]).argmax(-1) == tokens[:, 1:]
    losses = torch.stack(losses).tolist()
    return model, {
        "loss_first": losses[0],
        "loss_last": sum(losses[-20:]) / len(losses[-20:]),
        "accuracy": right[counts].float().mean().item(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
