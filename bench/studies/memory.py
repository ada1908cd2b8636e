"""Memory by contender and length, and the longest sequence that fits GPUs of several sizes."""

import time

from .. import fresh
from ..roofline import FORWARD, FORWARD_BACKWARD

ABOUT = "peak memory by contender and length, and the longest sequence that fits"

CONTENDERS = (
    "book",
    "eager",
    "sdpa-flash",
    "sdpa-cudnn",
    "sdpa-math",
    "sdpa-efficient",
    "fla-fused-chunk",
    "fla-chunk",
    "fla-chunk-normalized",
    "compiled",
)
CASES = [(causal, work) for causal in (False, True) for work in (FORWARD, FORWARD_BACKWARD)]
LIMIT_S = 100.0  # what has not been measured by then is said to be missing


def measure(quick: bool, say) -> list[dict]:
    """Rows of kind "peak" (contender, order, work, N) and "fits" (contender, order, work, size)."""
    options = {"cases": CASES}
    if quick:
        options |= {"lengths": (4096, 16384), "sizes_gib": ()}
    rows, left = [], list(CONTENDERS[:2] if quick else CONTENDERS)
    begin = time.monotonic()
    while left:
        rest_s = LIMIT_S - (time.monotonic() - begin)
        if rest_s <= 0:
            rows += [_failed(name, f"not measured within {LIMIT_S:.0f} s") for name in left]
            break
        say(f"memory of {', '.join(left)}")
        found, failure = fresh.stream(
            "bench.memory", "surveys", options | {"names": left}, timeout_s=rest_s
        )
        done = [row["done"] for row in found if "done" in row]
        rows += [row for row in found if "done" not in row]
        left = [name for name in left if name not in done]
        if left:  # the first of them was under way when the process ended
            say(f"    {left[0]}: {failure}; going on without it")
            rows.append(_failed(left[0], failure or "it ended early"))
            left = left[1:]
    return rows


def _failed(name: str, reason: str) -> dict:
    return {"kind": "peak", "contender": name, "status": "failed", "reason": reason}
