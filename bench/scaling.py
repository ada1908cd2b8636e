"""One sequence on more GPUs than there are: on paper, with constants measured on a few.

The time of N tokens on R ranks is that of a piece on one GPU, and of the exchanges:

    T(N, R) = t0 + t1 N / R + E · X(R)

t0 and t1 are fitted to times of one GPU, E is 1 for the forward and 2 for both passes, and X(R) is
made of x, the exchange of two ranks, which is measured or assumed:

- "in a row": R - 1 such exchanges, one after another, as a ring passes the states of all around;
- "rounds": log2(R) of them, as a scan does in which the distance doubles from round to round;
- "at once": one of them, as an all-gather would be, but R - 2 more states arrive over the same
  link, each of which takes y, from the exchanges of two ranks that were larger.

An all-reduce of R > 2 ranks takes more rounds than a scan, 2 log2(R) - 1: the sum has to come back.

That holds while all GPUs are joined in the same way. Between machines x is larger.
"""

import math
from dataclasses import dataclass

import numpy as np

from .results import Record
from .studies import Study

SHORTEST = 4096  # tokens to which times are fitted
WAYS = ("in a row", "rounds", "at once")


@dataclass(frozen=True)
class Scaling:
    """The constants of one order and one kind of work, times in ms."""

    fixed_ms: float
    token_ms: float
    exchange_ms: float  # of two ranks
    exchanges: int
    doubled: bool  # an all-reduce
    state_ms: float = 0.0  # of one more rank's states that arrive

    def piece_ms(self, tokens: float) -> float:
        """What a rank computes by itself."""
        return self.fixed_ms + self.token_ms * tokens

    def waited_ms(self, ranks: int, way: str) -> float:
        """One exchange of so many ranks; `way` is one of WAYS."""
        if ranks == 1:
            return 0.0
        if way == "at once":
            return self.exchange_ms + self.state_ms * (ranks - 2)
        rounds = math.ceil(math.log2(ranks))
        steps = ranks - 1 if way == "in a row" else 2 * rounds - 1 if self.doubled else rounds
        return self.exchange_ms * steps

    def time_ms(self, N: int, ranks: int, way: str) -> float:
        """A sequence of N tokens; `way` is one of WAYS."""
        return self.piece_ms(N / ranks) + self.exchanges * self.waited_ms(ranks, way)

    def speedup(self, N: int, ranks: int, way: str) -> float:
        """How many times faster than on one GPU."""
        return self.piece_ms(N) / self.time_ms(N, ranks, way)

    def ranks_at_half(self, N: int, way: str, most: int = 2**20) -> int:
        """The most ranks, a power of two, of which each is worth half a GPU or more."""
        found = 1
        while found < most and self.speedup(N, 2 * found, way) >= found:
            found *= 2
        return found


def of(study: Study, causal: bool, work: str) -> Scaling | None:
    """The constants that a study has measured, or None where it lacks some."""
    rows = study.select(what="piece", causal=causal, work=work, status="ok")
    op = "all-gather" if causal else "all-reduce"
    sent = study.select(what="exchange", op=op, ranks=2, status="ok")
    if len(rows) < 3 or not sent:
        return None
    small, large = (f(sent, key=lambda r: r["bytes"]) for f in (min, max))
    more = large["bytes"] / small["bytes"] - 1  # states, on top of those of one rank
    state_us = (large["device_us"] - small["device_us"]) / more if more else 0.0
    points = [(r["N"], r["device_ms"]) for r in rows]
    return _fitted(points, small["device_us"] / 1e3, causal, work, state_us / 1e3)


def on_paper(record: Record, causal: bool, work: str, exchange_ms: float) -> Scaling | None:
    """From what `linear_attention` takes on one GPU, B = 1, and an exchange that is assumed."""
    points = times_of_one(record, causal, work)
    return _fitted(points, exchange_ms, causal, work) if len(points) >= 3 else None


def times_of_one(record: Record, causal: bool, work: str) -> list[tuple[int, float]]:
    """(tokens, ms) of one GPU, where a sequence is longer than one launch takes."""
    rows = record.select(contender="book", B=1, causal=causal, work=work)
    return [(m.N, m.median_ms) for m in rows if m.ok and m.N >= SHORTEST]


def _fitted(points, exchange_ms, causal, work, state_ms=0.0) -> Scaling:
    N, t = np.array(points, dtype=float).T
    # least squares of relative errors: the short pieces say as much as the long ones
    (fixed, token), *_ = np.linalg.lstsq(np.stack([1 / t, N / t], 1), np.ones_like(t), rcond=None)
    return Scaling(
        fixed_ms=max(0.0, float(fixed)), token_ms=float(token), exchange_ms=exchange_ms,
        exchanges=2 if "backward" in work else 1, doubled=not causal,
        state_ms=state_ms,
    )  # fmt: skip


def sent_bytes(N: int, ranks: int, way: str, *, H: int = 8, D: int = 64, b: int = 2) -> float:
    """What each rank has to send in one causal forward pass over a sequence of N tokens.

    "state": float32 states to all others; "ring": k and v once around, as softmax attention needs
    them; "heads": q, k, v and o to those who hold the heads, and back.
    """
    if way == "state":
        return 4 * H * (D * D + D) * (ranks - 1)
    if way == "ring":
        return 2 * b * H * D * (N / ranks) * (ranks - 1)
    return 4 * b * H * D * (N / ranks) * (ranks - 1) / ranks
