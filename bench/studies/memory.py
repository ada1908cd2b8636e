"""Memory by contender and length, and the longest sequence that fits GPUs of several sizes."""

from .. import contenders, fresh, style
from ..roofline import FORWARD, FORWARD_BACKWARD

ABOUT = "peak memory by contender and length, and the longest sequence that fits"
KIND = "kind"
COLUMNS = {
    "peak": (
        "contender status reason | label causal work B H D dtype N outputs_bytes extra_bytes "
        "peak_allocated_bytes peak_reserved_bytes"
    ),
    "fits": (
        "contender label causal work B H D dtype limit_gib status reason | held_gib "
        "predicted_n fits_n fails_n"
    ),
    "fits, predicted": (
        "contender label causal work B H D dtype limit_gib status reason held_gib predicted_n"
    ),
}

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
    "fla-simple-gla",
    "fla-fused-recurrent",
    "flash-attn-2",
    "flash-attn-3",
    "flash-attn-4",
    "compiled",
)
SAME = "left out: its normalizer is made by the operations of fla-chunk-normalized"
TUNES = "left out: it tunes itself for minutes at each new length"
LEFT_OUT = {
    "fla-fused-chunk-normalized": SAME,
    "fla-fused-recurrent-normalized": SAME,
    "book-decay": "left out: the book with one more input",
    "flash-bla": TUNES,
    "flash-bla-simple": TUNES,
    "loop": "left out: it does not end in time at lengths that fill a GPU",
}
CASES = [(causal, work) for causal in (False, True) for work in (FORWARD, FORWARD_BACKWARD)]
LIMIT_S = 240.0  # what has not been measured by then is said to be missing


def batch_of(row: dict, between: str = " × ") -> str:
    """How a length was run into as b sequences of N tokens, 'b × N'; '' where it was not."""
    b, n = row.get("batch_fits"), row.get("batch_n")
    return f"{b:,}{between}{n:,}" if b and n else ""


def measure(quick: bool, say) -> list[dict]:
    """Rows of kind "peak" (contender, order, work, N) and "fits" (contender, order, work, size).

    And a row of kind "peak" without order and work for each contender that is not here or is left
    out, and for each case that ended its process or was not reached in time.
    """
    options = {"lengths": (4096, 16384), "sizes_gib": ()} if quick else {}
    names = list(CONTENDERS[:2] if quick else CONTENDERS)
    missing = {name: why for name in names if (why := contenders.get(name).available())}
    names = [name for name in names if name not in missing]
    say(f"memory of {', '.join(names)}")
    items = [[name, *case] for name in names for case in CASES]
    rows = fresh.in_turn("bench.memory", "surveys", items, _ended, LIMIT_S, say, **options)
    rows += [_failed(name, why) | {"status": "not_installed"} for name, why in missing.items()]
    return rows if quick else rows + [_failed(name, why) for name, why in LEFT_OUT.items()]


def _ended(item: list, reason: str) -> dict:
    name, causal, work = item
    return _failed(name, f"{style.order(causal)}, {style.work_name(work)}: {reason}")


def _failed(name: str, reason: str) -> dict:
    return {"kind": "peak", "contender": name, "status": "failed", "reason": reason}
