"""Puzzle: the gradient of linear attention's queries, with that through the denominator."""


# [puzzle:begin]
def gradient(
    fq,  # [H, N, D], features of the queries
    fk,  # [H, M, D], features of the keys
    v,  # [H, M, Dv]
    do,  # [H, N, Dv], gradient of the output
):
    S = fk.mT @ v  # [H, D, Dv]
    z = fk.sum(1, keepdim=True)  # [H, 1, D]
    d = (fq * z).sum(-1, keepdim=True)  # [H, N, 1]
    dfq = do @ S.mT  # [H, N, D]
    # Your lines: the gradient through the denominator.
    return dfq / d
    # [puzzle:end]
