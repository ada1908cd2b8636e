"""Puzzle: dv of causal linear attention, chunk by chunk."""

# What is computed here is for the lines that you write.
# ruff: noqa: F841
import torch


# [puzzle:begin]
def values_gradient(
    fq,  # [H, N, D], features of the queries
    fk,  # [H, N, D], features of the keys
    gdo,  # [H, N, Dv], gradient of the outputs over their denominators
    C,  # tokens of a chunk
):
    dS = fq.new_zeros(fq.shape[0], fq.shape[2], gdo.shape[2])  # [H, D, Dv]
    out = []
    for i in reversed(range(0, fq.shape[1], C)):
        fqc, fkc = fq[:, i : i + C], fk[:, i : i + C]  # [H, C, D]
        gdoc = gdo[:, i : i + C]  # [H, C, Dv]
        dv = fkc @ dS  # [H, C, Dv]: the queries of later chunks
        # Your lines: the queries of this chunk, each of which sees the keys up to its own.
        out.append(dv)
        # Your line: what this chunk's queries add for the keys of earlier chunks.
    return torch.cat(out[::-1], 1)  # [H, N, Dv]
    # [puzzle:end]
