"""Memory by contender and length, and the longest sequence that fits GPUs of several sizes."""

from .. import fresh
from ..roofline import FORWARD, FORWARD_BACKWARD

ABOUT = "peak memory by contender and length, and the longest sequence that fits"

CONTENDERS = (
    "book",
    "eager",
    "sdpa-flash",
    "sdpa-cudnn",
    "sdpa-efficient",
    "sdpa-math",
    "fla-fused-chunk",
    "fla-chunk",
    "fla-chunk-normalized",
    "compiled",
)
CASES = [(causal, work) for causal in (False, True) for work in (FORWARD, FORWARD_BACKWARD)]
LIMIT_S = 240.0  # what has not been measured by then is said to be missing


def measure(quick: bool, say) -> list[dict]:
    """Rows of kind "peak" (contender, order, work, N) and "fits" (contender, order, work, size)."""
    options = {"cases": CASES}
    if quick:
        options |= {"lengths": (4096, 16384), "sizes_gib": ()}
    names = list(CONTENDERS[:2] if quick else CONTENDERS)
    say(f"memory of {', '.join(names)}")
    return fresh.in_turn("bench.memory", "surveys", names, _failed, LIMIT_S, say, **options)


def _failed(name: str, reason: str) -> dict:
    return {"kind": "peak", "contender": name, "status": "failed", "reason": reason}
