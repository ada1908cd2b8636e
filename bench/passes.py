"""Which tensors each pass of the library reads and writes: the model of the backward pass's bytes.

A pass is one kernel. What it moves for one token of one head is counted in tensors, rows of D
numbers in the dtype of the inputs, and in float32 words. States are left out: there is one for each
part of a head, and a part is thousands of tokens long. A state pass leaves out the part whose sum
nobody needs, the last one, or for dS the first.

tests/bench/test_passes.py holds this to the kernels' arguments and to what is launched.
"""

from dataclasses import dataclass

from .roofline import ITEM_BYTES, Shape

IDEAL = {"forward": 4, "backward": 7}  # tensors: q k v, o; and q k v do, dq dk dv


@dataclass(frozen=True)
class Pass:
    """One kernel: tensors and float32 words a token that it reads and writes, states by name."""

    name: str
    kernel: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    word_reads: tuple[str, ...] = ()
    word_writes: tuple[str, ...] = ()
    states: tuple[str, ...] = ()  # which of S, z, dS and dz it is given; → before those it leaves
    skips: bool = False  # it leaves out one of the parts of a head

    @property
    def tensors(self) -> int:
        return len(self.reads) + len(self.writes)

    @property
    def words(self) -> int:
        return len(self.word_reads) + len(self.word_writes)

    def bytes(self, shape: Shape, parts: int | None = None) -> int:
        """What it moves, for D = Dv, where a head is cut into `parts` (None: very many)."""
        rows = shape.B * shape.H * shape.N
        if self.skips and parts is not None:
            rows = rows * (parts - 1) // parts
        return rows * (self.tensors * shape.D * ITEM_BYTES[shape.dtype] + 4 * self.words)


FORWARD = {
    False: (
        Pass("state pass", "state_kernel", ("k", "v"), (), states=("→ S, z",)),
        Pass("output pass", "output_kernel", ("q",), ("o",), states=("S, z",)),
    ),
    True: (
        Pass("state pass", "state_kernel", ("k", "v"), (), states=("→ S, z",), skips=True),
        Pass(
            "output pass", "causal_output_kernel", ("q", "k", "v"), ("o",),
            states=("S, z",),
        ),
    ),
}  # fmt: skip
BACKWARD = {
    False: (
        Pass(
            "query pass", "backward_query_kernel", ("q", "do"), ("dq",),
            states=("S, z", "→ dS, dz"),
        ),
        Pass(
            "key pass", "backward_key_kernel", ("k", "v"), ("dk", "dv"), states=("dS, dz",),
        ),
    ),
    True: (
        Pass("state pass", "state_kernel", ("k", "v"), (), states=("→ S, z",), skips=True),
        Pass(
            "query walk", "causal_backward_query_kernel", ("q", "k", "v", "do"), ("dq",),
            (), ("g", "r"), ("S, z",),
        ),
        Pass(
            "weighted state pass", "state_kernel", ("q", "do"), (), ("g", "r"),
            states=("→ dS, dz",), skips=True,
        ),
        Pass(
            "key walk", "causal_backward_key_kernel", ("q", "k", "v", "do"), ("dk", "dv"),
            ("g", "r"), (), ("dS, dz",),
        ),
    ),
}  # fmt: skip


def backward(causal: bool, kept: bool = False) -> tuple[Pass, ...]:
    """The passes of a backward pass; `kept`: S was kept by the forward pass, not summed again."""
    return BACKWARD[causal][1:] if kept else BACKWARD[causal]


def tensors(passes: tuple[Pass, ...]) -> int:
    """Tensors that the passes move together."""
    return sum(p.tensors for p in passes)


def moved(passes: tuple[Pass, ...], shape: Shape, parts: int | None = None) -> int:
    """Bytes that the passes move together."""
    return sum(p.bytes(shape, parts) for p in passes)


def of_kernel(kernel: str, causal: bool, launches: float | None = None) -> tuple[Pass, ...]:
    """The passes of the backward pass that a kernel does, none for one that moves states alone.

    With fewer `launches` than passes they are the last: it is the first state pass that is spared.
    """
    found = tuple(p for p in BACKWARD[causal] if p.kernel == kernel)
    return found if launches is None else found[-max(1, round(launches)) :]
