"""Solution of the puzzle `sectors`."""


# [puzzle:begin]
def sectors(addresses):  # [..., 32] int64: byte where a lane reads 4
    numbers = addresses  # [..., 32]
    numbers = numbers // 32
    numbers = numbers.sort(-1).values
    count = (numbers[..., 1:] != numbers[..., :-1]).sum(-1)  # [...]
    count = count + 1
    return count.float()
    # [puzzle:end]
