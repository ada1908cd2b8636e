"""What causal linear attention costs at a chunk size, counted before anything is measured.

The counts are for `bench.eager.causal_attention`: every operation reads its operands from memory
and writes its result back, in bfloat16 except for the states, which are summed in float32. They
are for one token of one head with D = Dv; what is negligible at D = 32 and above is left out.
"""

import math
from dataclasses import dataclass

# bytes, read and written, that each operation moves for one number of what it works on
PASSES = {
    "number of a state": {
        "product φ(k)ᵀ v": 2,
        "convert to float32": 2 + 4,
        "sum over the chunks": 4 + 4,
        "fill with zeros, copy": 4 + 4 + 4,
        "convert to bfloat16": 4 + 2,
        "product φ(q) S": 2,
    },
    "weight": {
        "product φ(q) φ(k)ᵀ": 2,
        "cut to the triangle": 2 + 2,
        "sum of the row": 2,
        "product with v": 2,
    },
    "number of q": {
        "elu and + 1, of q and of k": 4 * (2 + 2),
        "pad q, k and v": 3 * (2 + 2),
        "read by products and sums": 8 * 2,
        "write both numerators, add, divide": 2 * 2 + (2 + 2 + 2) + (2 + 2),
    },
}


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes of one token of one head, the part of the states and that of the pairs."""

    state_flops: float
    pair_flops: float
    state_bytes: float
    pair_bytes: float
    row_bytes: float
    state_held: float
    pair_held: float

    @property
    def flops(self) -> float:
        return self.state_flops + self.pair_flops

    @property
    def bytes(self) -> float:
        """Bytes that cross the memory bus, read and written."""
        return self.state_bytes + self.pair_bytes + self.row_bytes

    @property
    def held(self) -> float:
        """Bytes of all states in float32 and all weights in bfloat16."""
        return self.state_held + self.pair_held


def cost(D: int, chunk: int) -> Cost:
    """What one token of one head costs in chunks of `chunk` tokens.

    A chunk of C tokens multiplies out a square of C × C weights, the masked half included, and
    makes one state of D × D numbers.
    """
    states = D * D / chunk  # numbers of all states, for each token
    per_state, per_weight, per_number = (sum(p.values()) for p in PASSES.values())
    return Cost(
        state_flops=2 * 2 * D * D,
        pair_flops=2 * 2 * chunk * D,
        state_bytes=per_state * states,
        pair_bytes=per_weight * chunk,
        row_bytes=per_number * D,
        state_held=4 * states,
        pair_held=2 * chunk,
    )


def best_chunk(D: int) -> float:
    """The chunk size at which `cost` moves the fewest bytes."""
    per_state, per_weight, _ = (sum(p.values()) for p in PASSES.values())
    return D * math.sqrt(per_state / per_weight)
