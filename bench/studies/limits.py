"""The limits that the operator has to reach, and what this GPU says of it."""

from .. import limits

ABOUT = "the times, lengths and memory that the operator has to reach"


def measure(quick: bool, say) -> list[dict]:
    """A row for each limit."""
    return limits.measure(quick, say)
