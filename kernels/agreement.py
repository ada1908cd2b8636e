"""Ranks agree on a call before they exchange anything in it.

A collective operation in which one rank brings another number of bytes than the others, or which
one rank never enters, does not fail: it waits, or it mixes up memory. So the ranks first exchange
a header of fixed size that says what each of them is about to do. It travels between the hosts,
over gloo, while the GPUs are at work on what needs no other rank.

A header that differs, or that carries an error, is seen by every rank, so that every rank raises
and all of them are again at the same place. A rank that has ended closes its connections, which
the others notice at once; one that does not come is waited for as long as `timeout` says.
"""

import json
import weakref
from datetime import timedelta

import torch
import torch.distributed as dist

HEADER = 1024  # bytes that each rank sends

_agreements = weakref.WeakKeyDictionary()  # process group -> Agreement


class Agreement:
    """What the ranks of one process group agree through."""

    def __init__(self, group, timeout: float):
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.entered = 0  # calls so far, which have to be the same ones on every rank
        self.group = weakref.ref(group)  # whose entry in `_agreements` this is
        self.between_hosts = None
        if backends(group).get("cpu") != "gloo" and self.ranks > 1:
            # Not by `new_group`: that has to be called by ranks that are not in this group too, or
            # else gives a name that depends on how many groups a rank has already made.
            store = dist.distributed_c10d._get_default_store()
            store = dist.PrefixStore(f"agreement of {group.group_name}", store)
            limit = timedelta(seconds=timeout)
            try:
                self.between_hosts = dist.ProcessGroupGloo(store, self.rank, self.ranks, limit)
            except RuntimeError as error:
                raise self.lost("its first call", timeout) from error

    def gather(self, header: bytes, what: str, timeout: float) -> list[bytes]:
        """The headers of all ranks, by rank."""
        mine = torch.frombuffer(bytearray(header.ljust(HEADER)), dtype=torch.uint8)
        everyone = [torch.empty_like(mine) for _ in range(self.ranks)]
        options = dist.distributed_c10d.AllgatherOptions()
        # of the operation and not of `wait`, which would leave it to a rank that comes too late
        options.timeout = timedelta(seconds=timeout)
        try:
            (self.between_hosts or self.group()).allgather([everyone], [mine], options).wait()
        except RuntimeError as error:
            raise self.lost(what, timeout) from error
        return [bytes(row.tolist()).rstrip() for row in everyone]

    def lost(self, what, timeout) -> RuntimeError:
        return RuntimeError(
            f"rank {self.rank} is at {what}, but another of the group's {self.ranks} ranks has "
            f"ended, or did not get there in {timeout:g} seconds"
        )


def of(group, timeout: float) -> Agreement:
    """The agreement of a process group, None for the default one.

    The first call with a group that has no gloo connects its hosts, which is a collective call too.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "group needs torch.distributed: call torch.distributed.init_process_group() in each "
            "process, as those that torchrun starts can without arguments"
        )
    group = dist.group.WORLD if group is None else group
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group must be a process group that this rank is a member of")
    if group not in _agreements:
        _agreements[group] = Agreement(group, timeout)
    return _agreements[group]


def backends(group) -> dict[str, str]:
    """Kind of device -> what carries its tensors, such as {"cpu": "gloo", "cuda": "nccl"}."""
    pairs = (pair.split(":") for pair in dist.get_backend_config(group).split(","))
    return {pair[0]: pair[-1] for pair in pairs}


def gather_into(everyone, mine, group):
    """Starts to fill everyone [ranks, ...] with `mine` of each rank."""
    gather = getattr(dist, "all_gather_single", None)  # its name since PyTorch 2.13
    gather = gather or dist.all_gather_into_tensor
    return gather(everyone.flatten(0, 1), mine, group, async_op=True)


class Entry:
    """One collective call, as a context: its ranks agree once in it, or all of them raise.

    An exception before they have agreed is told to the other ranks in place of the terms.
    """

    def __init__(self, agreement: Agreement, what: str, timeout: float, check: bool = True):
        self.agreement, self.what, self.timeout = agreement, what, timeout
        self.open = check and agreement.ranks > 1  # whether the header is still to be sent

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is not None and self.open:
            self.open = False
            text = f"{type(error).__name__}: {error}"
            header = json.dumps({"error": text[: HEADER // 8]})  # a character takes 6 bytes at most
            try:
                self.agreement.gather(header.encode(), self.what, self.timeout)
            except RuntimeError:
                pass  # this rank has an error of its own to raise
        return False

    # [agree:begin]
    def agree(self, terms: dict) -> None:
        """Raises RuntimeError unless all ranks come here with the same terms, name -> value."""
        if not self.open:
            return
        self.open = False
        header = json.dumps({"call": self.what, **terms}).encode()
        headers = self.agreement.gather(header, self.what, self.timeout)
        if any(other != header for other in headers):
            raise RuntimeError(differences([json.loads(h) for h in headers]))
        # [agree:end]


def differences(headers: list[dict]) -> str:
    """What ranks do not agree on, or which of them failed and how."""
    failed = [f"rank {i}: {h['error']}" for i, h in enumerate(headers) if "error" in h]
    if failed:
        return f"another rank of the group failed, so that this one stops too: {'; '.join(failed)}"
    lines = []
    for name in {name: None for header in headers for name in header}:
        ranks = {}  # value -> ranks that have it
        for rank, header in enumerate(headers):
            ranks.setdefault(json.dumps(header.get(name)), []).append(str(rank))
        if len(ranks) > 1:
            said = "; ".join(f"{value} on rank {', '.join(r)}" for value, r in ranks.items())
            lines.append(f"{name} is {said}")
    return f"the ranks of the group disagree: {'. '.join(lines)}"
