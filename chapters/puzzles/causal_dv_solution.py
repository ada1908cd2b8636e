"""Solution of the puzzle `causal_dv`."""

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
        pairs = (fkc @ fqc.mT).triu()  # [H, key, query], query ≥ key
        dv = dv + pairs @ gdoc
        out.append(dv)
        dS = dS + fqc.mT @ gdoc
    return torch.cat(out[::-1], 1)  # [H, N, Dv]
    # [puzzle:end]
