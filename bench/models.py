"""What each way to compute attention costs, as sums of monomials in the sizes.

    model.flops = 4 · B H N² D        written as  (Term(4, B=1, H=1, N=2, D=1),)

A script on a page and Python evaluate the same terms, so a slider and a test see one model. Sizes:
B sequences, H heads, N tokens, D = Dv the size of a head, C tokens of a chunk, b bytes of an
element. Counts are for the forward pass.
"""

from dataclasses import dataclass

from .chunks import PASSES

SIZES = ("B", "H", "N", "D", "C", "b")


class Term:
    """A number times sizes to some powers."""

    def __init__(self, factor: float, **powers: float):
        unknown = set(powers) - set(SIZES)
        if unknown:
            raise ValueError(f"unknown sizes: {', '.join(sorted(unknown))}")
        self.factor, self.powers = factor, powers

    def at(self, sizes: dict[str, float]) -> float:
        value = self.factor
        for name, power in self.powers.items():
            value *= sizes[name] ** power
        return value

    def plain(self) -> dict:
        """The term as JSON."""
        return {"c": self.factor, "p": self.powers}


@dataclass(frozen=True)
class Model:
    """FLOPs, bytes moved and bytes held of one way."""

    name: str
    label: str
    look: str  # as `bench.style.look` knows it
    measured: str  # the contender whose times it is to be compared with; "" for none
    causal: bool
    flops: tuple[Term, ...]
    moved: tuple[Term, ...]
    held: tuple[Term, ...]

    def value(self, what: str, **sizes: float) -> float:
        """The count `what`, "flops", "moved" or "held", for given values of all SIZES."""
        return sum(term.at(sizes) for term in getattr(self, what))

    def least_ms(self, bandwidth: float, rate: float, fixed_ms: float = 0.0, **sizes) -> float:
        """The larger of bytes / bandwidth [B/s] and FLOPs / rate [FLOP/s], and a fixed time."""
        seconds = max(self.value("moved", **sizes) / bandwidth, self.value("flops", **sizes) / rate)
        return 1e3 * seconds + fixed_ms


def _rows(factor: float) -> Term:
    """So many tensors of the size of q."""
    return Term(factor, b=1, B=1, H=1, N=1, D=1)


def _token(factor: float, **powers: float) -> Term:
    """So much for each token of each head."""
    return Term(factor, B=1, H=1, N=1, **powers)


_state, _weight, _number = (sum(p.values()) for p in PASSES.values())

MODELS = (
    Model(
        "defined", "softmax, as defined", "definition", "", False,
        flops=(Term(4, B=1, H=1, N=2, D=1),),
        moved=(Term(6, b=1, B=1, H=1, N=2), _rows(4)),
        held=(Term(2, b=1, B=1, H=1, N=2), _rows(4)),
    ),
    Model(
        "tiled", "softmax, tiled", "sdpa-flash", "sdpa-flash", False,
        flops=(Term(4, B=1, H=1, N=2, D=1),),
        moved=(_rows(4),),
        held=(_rows(4),),
    ),
    Model(
        "chunks", "linear, causal, chunks at once in PyTorch", "eager", "eager", True,
        flops=(_token(4, D=2), _token(4, C=1, D=1)),
        moved=(_token(_state, D=2, C=-1), _token(_weight, C=1), _token(_number, D=1)),
        held=(_token(4, D=2, C=-1), _token(2, C=1), _rows(4)),
    ),
    Model(
        "linear", "linear, in two passes", "book", "book", False,
        flops=(_token(4, D=2),),
        moved=(_rows(4),),
        held=(_rows(4), Term(4, B=1, H=1, D=2), Term(4, B=1, H=1, D=1)),
    ),
)  # fmt: skip


def get(name: str) -> Model:
    """The model of that name."""
    return next(model for model in MODELS if model.name == name)
