"""The gate: nothing is timed before its result has been compared with float64.

Three things can be wrong with a fast kernel, and each has its check:

- a value that is not finite, anywhere in any tensor. Comparisons are written as
  `error <= tolerance`, which is false for NaN; `error > tolerance` would let NaN pass;
- a wrong function: the norm of the difference, relative to the norm of the truth;
- a wrong place: the same in each block of 16 rows. Causal outputs shrink along the sequence, and a
  tail block that was never written is too small a part of the whole norm to be seen there.

Memory that a kernel may be handed by `torch.empty` is filled with NaN before it runs (`poison`),
so that an output left unwritten does not show the result of whoever ran before.
"""

from dataclasses import dataclass

import torch

from .truth import Truth

TOLERANCE = {"float32": 2e-5, "float16": 3e-3, "bfloat16": 1e-2}
GRADIENT_FACTOR = 3  # gradients sum over more rounded values than outputs do
BLOCK_ROWS = 16
BLOCK_FACTOR = 8  # a block averages over fewer values than the whole tensor


@dataclass(frozen=True)
class Verdict:
    """Whether a result may be timed; `error` is the largest relative error, None if not finite."""

    ok: bool
    error: float | None
    reason: str | None
    verified: str


def tolerance(name: str, dtype: str) -> float:
    """Largest relative norm error of "o", "dq", "dk" or "dv" in `dtype`."""
    return TOLERANCE[dtype] * (1 if name == "o" else GRADIENT_FACTOR)


def judge(outputs: dict[str, torch.Tensor], truth: Truth, dtype: str) -> Verdict:
    """Compare outputs, by name [B, H, N, ·] in `dtype`, with the truth for some of their heads."""
    names = ", ".join(outputs)
    few = len(truth.heads) <= 4
    heads = f"heads {', '.join(map(str, truth.heads))}" if few else f"{len(truth.heads)} heads"
    verified = f"{names} of {heads} against {truth.how}"

    compared = [_compare(name, got, truth, dtype) for name, got in outputs.items()]
    errors = [error for error, _ in compared]
    reasons = [reason for _, reason in compared if reason is not None]
    worst = None if None in errors else max(errors)
    return Verdict(not reasons, worst, reasons[0] if reasons else None, verified)


def _compare(name, got, truth: Truth, dtype: str) -> tuple[float | None, str | None]:
    """(relative error, what is wrong or None) of one tensor."""
    want = truth.tensors[name]  # [heads, N, ·]
    if got is None:
        return None, f"{name} was not computed"
    shape = (*truth.batch, *want.shape[1:])
    if got.shape != shape:
        return None, f"{name} has shape {list(got.shape)}, not {list(shape)}"
    if str(got.dtype) != f"torch.{dtype}":
        return None, f"{name} is {got.dtype}, not torch.{dtype}"
    finite = int(torch.isfinite(got).sum())
    if finite != got.numel():
        return None, f"{name} is NaN or infinite in {got.numel() - finite} of {got.numel()} values"

    got = got.detach().flatten(0, 1)[truth.heads].double()
    error, place = relative_errors(got, want)
    limit = tolerance(name, dtype)
    whole = error.item()
    if not whole <= limit:
        return whole, f"{name} has relative error {whole:.2g}, allowed is {limit:.2g}"
    if not place.max().item() <= BLOCK_FACTOR * limit:
        h, block = divmod(int(place.argmax()), place.shape[1])
        rows = f"rows {block * BLOCK_ROWS} to {min((block + 1) * BLOCK_ROWS, want.shape[1]) - 1}"
        return whole, (
            f"{name} has relative error {place.max().item():.2g} in {rows} of head "
            f"{truth.heads[h]}, allowed is {BLOCK_FACTOR * limit:.2g}"
        )
    return whole, None


def relative_errors(got, want) -> tuple[torch.Tensor, torch.Tensor]:
    """‖got - want‖ / ‖want‖ of [heads, N, ·], whole: [] and by block of rows: [heads, blocks]."""
    tiny = torch.finfo(want.dtype).tiny
    squares = torch.stack([(got - want).square().sum(-1), want.square().sum(-1)])  # [2, heads, N]
    total = squares.sum((1, 2))
    squares = torch.nn.functional.pad(squares, (0, -squares.shape[-1] % BLOCK_ROWS))
    blocks = squares.unflatten(-1, (-1, BLOCK_ROWS)).sum(-1)  # [2, heads, blocks]
    return (
        (total[0] / total[1].clamp_min(tiny)).sqrt(),
        (blocks[0] / blocks[1].clamp_min(tiny)).sqrt(),
    )


def poison(like: list[torch.Tensor]) -> None:
    """Fill memory of the sizes of `like` with NaN and free it, so that `torch.empty` returns it.

    On a GPU the caching allocator hands freed blocks out again. On a CPU that is up to the C
    library, and this is a best effort.
    """
    if any(x.is_cuda for x in like):
        torch.cuda.empty_cache()  # no old result lies about in the allocator
    held = [torch.full_like(x, float("nan")) for x in like for _ in range(2)]
    del held
