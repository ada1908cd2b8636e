"""Memory by contender and length, and the longest sequence that fits GPUs of several sizes."""

from .. import fresh
from ..roofline import FORWARD, FORWARD_BACKWARD

ABOUT = "peak memory by contender and length, and the longest sequence that fits"

CONTENDERS = (
    "book",
    "eager",
    "compiled",
    "sdpa-flash",
    "sdpa-cudnn",
    "sdpa-efficient",
    "sdpa-math",
    "fla-chunk",
    "fla-fused-chunk",
    "fla-chunk-normalized",
)
CASES = [(causal, work) for causal in (False, True) for work in (FORWARD, FORWARD_BACKWARD)]
NO_SIZES = ("compiled",)  # a compilation for every length that is tried


def measure(quick: bool, say) -> list[dict]:
    """Rows of kind "peak" (contender, order, work, N) and "fits" (contender, order, work, size)."""
    rows = []
    for name in CONTENDERS[:2] if quick else CONTENDERS:
        say(f"memory of {name}")
        options = {"contender": name, "cases": CASES}
        if quick:
            options |= {"lengths": (4096, 16384), "sizes_gib": ()}
        elif name in NO_SIZES:
            options |= {"sizes_gib": ()}
        rows += _surveyed(options, say)
    return rows


def _surveyed(options: dict, say) -> list[dict]:
    """The rows of one contender; where its process dies, those of each case that does not."""
    found = fresh.call("bench.memory", "survey", options, timeout_s=300)
    if "failed" not in found:
        return found["rows"]
    if len(options["cases"]) > 1:
        say(f"    {found['failed']}; each order and work by itself")
        return [
            row for case in options["cases"] for row in _surveyed(options | {"cases": [case]}, say)
        ]
    ((causal, work),) = options["cases"]
    case = {"contender": options["contender"], "causal": causal, "work": work}
    return [{"kind": "peak", **case, "status": "failed", "reason": found["failed"]}]
