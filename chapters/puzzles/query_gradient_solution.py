"""Solution of the puzzle `query_gradient`."""


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
    o = fq @ S / d  # [H, N, Dv]
    dfq = dfq - (o * do).sum(-1, keepdim=True) * z
    return dfq / d
    # [puzzle:end]
