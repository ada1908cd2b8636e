"""Who waits for whom: a chain of programs, numbered in three ways, that gives up and never hangs.

Each program waits until the one before it has said that it is done. A GPU starts as many programs
as it can hold, and the others when those end, so a chain moves only if every program that is waited
for has been started. `program_id` says nothing about that; a ticket, taken at the start, does.
"""

import torch
import triton
import triton.language as tl

NUMBERINGS = ("ticket", "program_id", "reversed")


# [order:begin]
@triton.jit
def chain_kernel(
    tickets,  # [1] int32, zero: how many programs have started
    done,  # [programs] int32, zeros: which numbers are done
    started,  # [programs] int32, written: the ticket of each program_id
    gave_up,  # [programs] int32, written: 1 where a number waited in vain
    patience,  # how often to look
    NUMBERING: tl.constexpr,
):
    """One link of a chain: wait for the number before, then say that this one is done."""
    program = tl.program_id(0)
    ticket = tl.atomic_add(tickets, 1, sem="relaxed")
    tl.store(started + program, ticket)
    if NUMBERING == "ticket":
        number = ticket
    elif NUMBERING == "program_id":
        number = program
    else:  # as in a scan from the last segment to the first
        number = tl.num_programs(0) - 1 - program
    looks = 0
    if number > 0:
        while (tl.atomic_add(done + number - 1, 0, sem="acquire") == 0) & (looks < patience):
            looks += 1
    tl.store(gave_up + number, (looks == patience).to(tl.int32))
    tl.atomic_xchg(done + number, 1, sem="release")
    # [order:end]


def chain(programs, numbering, device, patience=1000):
    """(ticket of each program_id, whether each number gave up), both [programs] int32."""
    tickets = torch.zeros(1, dtype=torch.int32, device=device)
    done, started, gave_up = torch.zeros(3, programs, dtype=torch.int32, device=device)
    chain_kernel[(programs,)](
        tickets=tickets, done=done, started=started, gave_up=gave_up, patience=patience,
        NUMBERING=numbering, num_warps=1,
    )  # fmt: skip
    return started, gave_up
