"""The limits that the operator has to reach, and what this GPU says of it."""

from .. import limits

ABOUT = "the times, lengths and memory that the operator has to reach"
ROW = (
    "work shape causal? time_ms? p20_ms? p80_ms? against? against_ms? value? must? aim? reason met"
)
KIND = "kind"
COLUMNS = dict.fromkeys(("floor", "others", "crossover", "first", "memory"), ROW)


def measure(quick: bool, say) -> list[dict]:
    """A row for each limit."""
    return limits.measure(quick, say)
