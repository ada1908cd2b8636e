"""One sequence on as many ranks as torchrun starts, held against one rank that has all of it.

    torchrun --nproc-per-node=2 -m kernels.steps.parallel.two_ranks

With the word `disagree` behind it, the last rank makes another call than the others.
"""

import os
import sys

import torch
import torch.distributed as dist

from kernels import linear_attention, sequence_parallel_attention

N, H, D = 200, 2, 16


# [two-ranks:begin]
def main(disagree: bool):
    device = own_device()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend)  # torchrun tells each process who it is
    rank, ranks = dist.get_rank(), dist.get_world_size()
    whole = sequence(device)
    rows = slice(N * rank // ranks, N * (rank + 1) // ranks)  # this rank's tokens
    piece = [x.detach()[:, :, rows].requires_grad_() for x in whole]

    is_causal = not (disagree and rank == ranks - 1)
    o = sequence_parallel_attention(*piece, causal=is_causal, timeout=60)
    o.square().sum().backward()
    report(rank, rows, o, piece, whole)
    dist.destroy_process_group()
    # [two-ranks:end]


def sequence(device):
    """q, k and v of all tokens: the same on every rank, so that there is something to compare."""
    generator = torch.Generator().manual_seed(0)
    tensors = (torch.randn(1, H, N, D, generator=generator) for _ in "qkv")
    return [x.to(device).requires_grad_() for x in tensors]


def own_device() -> torch.device:
    """A GPU for each process that torchrun starts on this machine, or the CPU for all of them."""
    if torch.cuda.device_count() < int(os.environ["LOCAL_WORLD_SIZE"]):
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def report(rank, rows, o, piece, whole):
    """Prints how far this rank's rows are from those of one process."""
    want = linear_attention(*whole, causal=True)
    want.square().sum().backward()
    errors = [(o - want[:, :, rows]).norm() / want[:, :, rows].norm()]
    errors += [(x.grad - y.grad[:, :, rows]).norm() / y.grad.norm()
               for x, y in zip(piece, whole, strict=True)]  # fmt: skip
    words = ", ".join(
        f"{name} {error.item():.0e}"
        for name, error in zip(("o", "dq", "dk", "dv"), errors, strict=True)
    )
    print(f"rank {rank}, tokens {rows.start} to {rows.stop}: {words}", flush=True)


if __name__ == "__main__":
    try:
        main(disagree="disagree" in sys.argv[1:])
    except RuntimeError as error:
        rank = os.environ["RANK"]
        print(f"{type(error).__name__} on rank {rank}: {error}", flush=True)
        sys.exit(1)
