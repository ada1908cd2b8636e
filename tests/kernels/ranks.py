"""What the processes of test_sequence_parallel.py do, all of them in one start.

Four ranks over gloo on CPUs, where Triton's interpreter runs the kernels, or a rank for each of
two GPUs or more over NCCL. Each case runs in a group of some of
them; what each rank got is handed back to the test. The cases that end with a rank lost come last.
"""

import multiprocessing
import os
import queue
import tempfile
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from unittest import mock

import torch
import torch.distributed as dist

from kernels import (
    LinearAttentionState,
    agreement,
    configs,
    launch,
    ops,
    sequence_parallel,
    sequence_parallel_attention,
)

ON_GPUS = os.environ.get("TRITON_INTERPRET") != "1" and torch.cuda.device_count() > 1
WORLD = min(4, torch.cuda.device_count()) if ON_GPUS else 4
PATIENCE = 60.0  # seconds, where nobody should have to wait
SHORT = 2.0  # seconds, where somebody will


@dataclass(frozen=True)
class Case:
    """One call, forward and backward: lengths[i] tokens on the i-th of `members`."""

    members: tuple
    lengths: tuple
    causal: bool
    heads: tuple = (4, 2)  # of queries and of keys
    sizes: tuple = (16, 16)  # D, Dv
    B: int = 1
    keys: tuple = None  # lengths of the keys, where they differ
    initial: bool = False
    kernels: bool = True  # or PyTorch's own operations
    other_parts: bool = False  # the backward pass cuts the rows otherwise
    beside: bool = False  # on CPUs as on GPUs: the group has no gloo, the hosts need their own
    dtype: torch.dtype = torch.float32
    options: dict = field(default_factory=dict)

    def inputs(self):
        """q, k, v, the gradient of o, and the initial state, of the whole sequence."""
        generator = torch.Generator().manual_seed(sum(self.lengths) + self.B)
        (H, Hk), (D, Dv) = self.heads, self.sizes
        N, M = sum(self.lengths), sum(self.keys or self.lengths)

        def normal(*shape):
            return torch.randn(self.B, *shape, generator=generator)

        tensors = normal(H, N, D), normal(Hk, M, D), normal(Hk, M, Dv), normal(H, N, Dv)
        tensors = [x.to(self.dtype) for x in tensors]
        return *tensors, LinearAttentionState(normal(Hk, D, Dv), normal(Hk, D).abs() + 1)

    def mine(self, i):
        """The tokens of member i: of q and o, and of k and v."""
        spans = []
        for lengths in (self.lengths, self.keys or self.lengths):
            at = sum(lengths[:i])
            spans.append(slice(at, at + lengths[i]))
        return spans


def squares(x):
    return x * x


CASES = {
    f"{'causal' if causal else 'bidirectional'}-{name}": Case(causal=causal, **case)
    for causal in (False, True)
    for name, case in {
        "two": {"members": (0, 1), "lengths": (40, 40), "initial": True},
        "two-overlap": {
            "members": (0, 1), "lengths": (40, 40), "initial": True, "options": {"overlap": True},
        },
        "two-uneven-overlap": {
            "members": (0, 1), "lengths": (51, 19), "heads": (2, 2), "sizes": (16, 24), "B": 3,
            "options": {"normalize": False, "scale": 0.5, "overlap": True},
        },
        "two-with-one-head": {  # which overlap cannot cut in two
            "members": (0, 1), "lengths": (9, 30), "heads": (2, 1), "dtype": torch.bfloat16,
            "options": {"overlap": True, "check": False, "feature_map": "relu"},
        },
        "two-cut-otherwise": {"members": (0, 1), "lengths": (70, 80), "other_parts": True},
        "three": {
            "members": (0, 1, 2), "lengths": (20, 0, 33), "options": {"feature_map": squares},
        },
        "four": {"members": (0, 1, 2, 3), "lengths": (0, 17, 1, 40)},
        "four-overlap": {
            "members": (0, 1, 2, 3), "lengths": (0, 17, 1, 40), "initial": True,
            "options": {"overlap": True},
        },
        "others": {"members": (1, 3), "lengths": (33, 5), "B": 2},
        "group-of-hosts": {
            "members": (0, 2), "lengths": (5, 9), "kernels": False, "beside": True,
        },
        "two-without-kernels": {
            "members": (0, 1), "lengths": (150, 7), "initial": True, "kernels": False,
        },
        "three-without-kernels": {
            "members": (0, 1, 2), "lengths": (3, 0, 200), "kernels": False,
            "dtype": torch.bfloat16, "options": {"normalize": False},
        },
        "four-without-kernels": {
            "members": (0, 1, 2, 3), "lengths": (0, 40, 1, 140), "B": 2, "kernels": False,
        },
    }.items()
}  # fmt: skip
CASES["bidirectional-fewer-queries"] = Case(
    (0, 1, 2), (0, 3, 20), False, keys=(40, 0, 17), initial=True
)

EVERYONE = Case(tuple(range(WORLD)), (7,) * WORLD, causal=True)

# What rank 1 does otherwise than the rest -> a pattern of what it says, and of what the rest say.
# None: the same. After all but the last two of them, the group is as good as before.
REST = "on rank 0[, 23]*"
WRONG = {
    "Dv": (None, f"RuntimeError: .* Dv is 16 {REST}; 24 on rank 1$"),
    "causal": (None, f"RuntimeError: .* causal is true {REST}; false on rank 1$"),
    "scale": (None, f"RuntimeError: .* scale is 0.25 {REST}; 0.5 on rank 1$"),
    "gradients": (None, f'RuntimeError: .* gradients of is "qkv" {REST}; "kv" on rank 1$'),
    "argument": (
        "ValueError: k and v must have the same length",
        "RuntimeError: .* rank 1: ValueError: k and v must have the same length",
    ),
    "initial": (
        "ValueError: initial_state comes before the whole sequence: .* this is rank 1",
        "RuntimeError: .* rank 1: ValueError: initial_state comes before the whole sequence",
    ),
    "timeout": (
        "TypeError: timeout must be a number of seconds, not str",
        "RuntimeError: .* rank 1: TypeError: timeout must be a number of seconds",
    ),
    "backward": (
        None,
        f'RuntimeError: .* call is "the backward pass .* call 1 .*" {REST}',
    ),
    "late": (None, f"RuntimeError: rank . is at sequence.* did not get there in {SHORT:g} seconds"),
    "ended": ("nothing, having ended", "RuntimeError: rank . is at sequence.* has ended"),
}

BY_GLOO = ("causal", "argument", "late")  # in groups of hosts; the others in groups as on GPUs


def wrong(what, rank, group, device, leave):
    """The call in which rank 1 of `group` does something else."""
    odd = rank == 1
    shape = (1, 2, 12, 16)
    q, k, v = (torch.ones(shape, device=device, requires_grad=True) for _ in range(3))
    options = {"causal": True, "group": group, "timeout": PATIENCE}
    if odd and what == "Dv":
        v = torch.ones(1, 2, 12, 24, device=device, requires_grad=True)
    elif odd and what == "causal":
        options["causal"] = False
    elif odd and what == "scale":
        options["scale"] = 0.5
    elif odd and what == "gradients":
        q = q.detach()
    elif odd and what == "argument":
        v = v[:, :, :5]
    elif odd and what == "initial":
        zeros = torch.zeros(1, 2, 16, 16, device=device)
        options["initial_state"] = LinearAttentionState(zeros, zeros[..., 0])
    elif odd and what == "timeout":
        options["timeout"] = "soon"
    elif what == "late":
        options["timeout"] = SHORT
        time.sleep(2 * SHORT if odd else 0)
    elif odd and what == "ended":
        leave()
    o = sequence_parallel_attention(q, k, v, **options)
    if what == "backward":
        later = sequence_parallel_attention(q, k, v, **options)
        (later if odd else o).sum().backward()


def run_case(case, rank, group, device):
    """What one member of a case gets: o, state, gradients, and how often it sent its states."""
    i = case.members.index(rank)
    q, k, v, do, state = case.inputs()
    of_q, of_k = case.mine(i)
    tensors = [q[:, :, of_q], k[:, :, of_k], v[:, :, of_k]]
    tensors = [x.to(device).requires_grad_() for x in tensors]
    if case.initial and i == 0:
        state = LinearAttentionState(*(x.to(device).requires_grad_() for x in state))
    else:
        state = None
    sent = SENT[0]
    o, after = sequence_parallel_attention(
        *tensors, causal=case.causal, initial_state=state, return_state=True,
        enable_gqa=case.heads[0] != case.heads[1], group=group,
        **{"timeout": PATIENCE, **case.options},
    )  # fmt: skip
    wanted = (*tensors, *(state or ()))
    gradients = torch.autograd.grad(
        o, wanted, do[:, :, of_q].to(device), materialize_grads=True, allow_unused=True
    )
    numbers = (o, *after, *gradients, torch.tensor(SENT[0] - sent))
    return [x.detach().cpu().float().numpy() for x in numbers]


SENT = [0]  # how many exchanges of states this rank has started
_START = sequence_parallel.Link.start


def _counted(*arguments, **options):
    SENT[0] += 1
    return _START(*arguments, **options)


sequence_parallel.Link.start = _counted


def settings(case):
    """Makes a small machine of the interpreter's, with several parts to a piece nevertheless."""
    launch.forget()
    ops._kernels_run = _KERNELS_RUN if case.kernels else (lambda x: False)
    if not ON_GPUS:
        configs.hardware = lambda device: (0, 4)
    configs.plan = _one_part_fewer if case.other_parts else _PLAN
    pretend = case.beside and not ON_GPUS
    agreement.backends = (lambda group: {"cpu": "none"}) if pretend else _BACKENDS


_KERNELS_RUN, _PLAN, _BACKENDS = ops._kernels_run, configs.plan, agreement.backends


def _one_part_fewer(kernel, *arguments):
    tile, parts = _PLAN(kernel, *arguments)
    return tile, max(1, parts - (kernel == "causal_backward_query_kernel"))


def meet(store, name):
    """Returns when all ranks have come here, by a file: none depends on the socket of another."""
    store.add(f"meet/{name}", 1)
    until = time.monotonic() + PATIENCE
    while store.add(f"meet/{name}", 0) < WORLD:
        if time.monotonic() > until:
            raise TimeoutError(f"not all ranks came to {name}")
        time.sleep(0.01)


def work(rank, store, results):
    """One rank: every case that fits, then everything that goes wrong."""
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if ON_GPUS else torch.device("cpu")
    if ON_GPUS:
        torch.cuda.set_device(device)
    store, patience = dist.FileStore(store, WORLD), timedelta(seconds=PATIENCE)
    dist.init_process_group(
        "nccl" if ON_GPUS else "gloo", store=store, rank=rank, world_size=WORLD, timeout=patience
    )
    sets = dict.fromkeys(c.members for c in CASES.values() if max(c.members) < WORLD)
    groups = {members: dist.new_group(members, timeout=patience) for members in sets}
    for name, case in CASES.items():
        if rank in case.members and case.members in groups:
            settings(case)
            twice = [run_case(case, rank, groups[case.members], device) for _ in range(2)]
            if case.beside:
                assert agreement.of(groups[case.members], PATIENCE).between_hosts is not None
            results.put((name, rank, twice))

    def leave():
        results.close()
        results.join_thread()
        os._exit(0)  # a group that has lost a rank cannot be taken down in order

    for what in WRONG:  # each in a group of its own, all ranks in it
        settings(replace(EVERYONE, beside=what not in BY_GLOO))
        group = dist.new_group(list(range(WORLD)), timeout=patience)
        agreement.of(group, PATIENCE)  # else the first call would connect hosts that have no gloo
        meet(store, what)  # nobody leaves before all are connected
        begin, said, afterwards = time.monotonic(), None, None
        try:
            wrong(what, rank, group, device, leave)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - begin
        if what not in ("late", "ended"):
            afterwards = run_case(EVERYONE, rank, group, device)
        results.put((what, rank, (said, seconds, afterwards)))
    leave()


def run_all():
    """Name of a case -> rank -> what it handed back."""
    # one GPU is of no use to ranks: then the kernels run in the interpreter
    with mock.patch.dict(os.environ, {} if ON_GPUS else {"TRITON_INTERPRET": "1"}):
        return _run_all()


def _run_all():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kernels"])
    with tempfile.TemporaryDirectory() as folder:
        channel = context.Queue()
        processes = [
            context.Process(target=work, args=(rank, f"{folder}/store", channel))
            for rank in range(WORLD)
        ]
        for p in processes:
            p.start()
        results = {}
        until = time.monotonic() + 300
        while any(p.is_alive() for p in processes) or not channel.empty():
            if any(p.exitcode for p in processes):  # the others would wait for it
                until = min(until, time.monotonic() + 5)
            try:
                name, rank, result = channel.get(timeout=0.2)
                results.setdefault(name, {})[rank] = result
            except queue.Empty:
                if time.monotonic() > until:
                    break
        for p in processes:
            p.kill()
            p.join()
        return results, [p.exitcode for p in processes]
