"""Where one method overtakes another: from measured times, and from a model of both.

The model of either: its work that grows with N, and a fixed time that does not,

    softmax(N) = fixed + B H N² · c₂        linear(N) = fixed + B H N · c₁
"""

import math


def crossing(lengths: list, slow: list, fast: list) -> float | None:
    """The N from which on `fast` takes less time than `slow`, between the lengths measured.

    Both times are lists over `lengths`, rising. Interpolates on logarithmic axes, where the times
    are nearly straight. None where `fast` is ahead, or behind, at every length.
    """
    ratios = [math.log(s / f) for s, f in zip(slow, fast, strict=True)]
    for i in range(len(ratios) - 1, 0, -1):
        if ratios[i - 1] < 0 <= ratios[i]:
            share = ratios[i - 1] / (ratios[i - 1] - ratios[i])
            low, high = math.log(lengths[i - 1]), math.log(lengths[i])
            return math.exp(low + share * (high - low))
    return None


def modelled(square: float, line: float, fixed: float = 0.0) -> float:
    """The N at which square · N² = fixed + line · N.

    `fixed` is by how much the method that grows with N starts later than the one that grows with
    N²; where that is negative enough, it is ahead at every N, and the answer is 0.
    """
    inside = line**2 + 4 * square * fixed
    return 0.0 if inside < 0 else max(0.0, (line + math.sqrt(inside)) / (2 * square))
