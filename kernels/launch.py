"""Launching kernels, and calls that are replayed.

For a short sequence the host takes longer to find out what to do than the GPU takes to do it: the
arguments are checked, tiles and parts chosen, tensors allocated, and Triton works out, argument by
argument, which compiled form of a kernel it needs. All of that follows from the *signature* of a
call: its options, and the shapes, strides and dtypes of its tensors.

So the first call with a signature is recorded: what it allocates, what it launches, and where in
the inputs and allocations each argument of a kernel points. Later calls are replayed: they allocate
the outputs one by one and everything else at once, and launch.

A recording holds no tensor but small counters. What a call needs only while its one kernel runs is
kept for each stream, by size, and used by all such calls, which follow one another there: one more
allocation is a good part of what the host does for a short sequence.

While a call is recorded its launches wait until it is known which kernels they are, so that those
that were never compiled can be compiled side by side.
"""

import copy
import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs
from triton.runtime import JITFunction, driver

MOST = 4096  # signatures that are remembered; then all are forgotten
ALIGNED = 256  # bytes, of what is cut out of one allocation
PLAIN = {bool, int, float, str, type(None)}
NOWHERE = (-1, 0)  # the place of an argument that is None

UNKNOWN = object()
_replays = {}  # signature -> Replay, or None where a call cannot be replayed
_compiled_forms = set()  # a kernel with dtypes and constants that it was compiled for
_scratch = {}  # device, stream and bytes -> memory that is used while one kernel runs
_here = threading.local()  # .recording: what records this thread's launches


def launch(kernel, programs: int, tensors: tuple, strides: tuple = (), **named) -> None:
    """The same as `kernel[(programs,)](*tensors, *strides, **named)`; `tensors` may hold None."""
    recording = getattr(_here, "recording", None)
    if recording is None:
        kernel[(programs,)](*tensors, *strides, **named)
    else:
        recording.launch(kernel, programs, tensors, strides, named)


def counters(count: int, device: torch.device) -> torch.Tensor:
    """[count] int64 for a kernel that counts on from call to call, and takes them from zero on.

    All calls of one kernel that use the same counters have the same signature and stream: those of
    a replay. Elsewhere, and within a CUDA graph, each call has new ones, which costs a launch.
    """
    recording = getattr(_here, "recording", None)
    if recording is None:
        return torch.zeros(count, dtype=torch.int64, device=device)
    return recording.counters(count, device)


def replayed(function, tensors: tuple, options: tuple, fresh: bool = False):
    """function(*tensors, *options), at less cost from the second time on.

    `tensors` may hold None. What the function returns is a tensor, None, or a tuple of these. It
    must do the same for all tensors of one signature: nothing may depend on values.
    `fresh`: nothing that is allocated outlives the call, counters neither.
    """
    key = signature(function, tensors, options)
    try:
        replay = None if key is None else _replays.get(key, UNKNOWN)
    except TypeError:  # an option that has no hash
        replay = None
    if replay is None:
        return function(*tensors, *options)
    if replay is UNKNOWN:
        return _record(key, function, tensors, options)
    return replay(tensors, fresh)


def _record(key, function, tensors, options):
    plain = PLAIN.issuperset(map(type, options))
    if not plain or _some_begin_together(tensors):  # then it could not be told which is meant
        return function(*tensors, *options)
    recording = Recording(tensors)
    _here.recording = recording
    try:
        with recording:
            result = function(*tensors, *options)
            recording.launch_all()
    finally:
        _here.recording = None
    if len(_replays) >= MOST:
        forget()
    _replays[key] = recording.replay(result)
    return result


def compile_together(launches: list[tuple]) -> None:
    """Compile the kernels of launches, side by side: each waits for other programs a good part.

    Where one cannot be compiled, or is needed in another form than is foreseen here, its launch
    says so or compiles it.
    """
    new = {}
    for kernel, programs, tensors, strides, named in launches:
        if isinstance(kernel, JITFunction):
            numbers = {p.name for p in kernel.params if not p.is_constexpr}
            constants = [(name, x) for name, x in named.items() if name not in numbers]
            dtypes = [None if x is None else x.dtype for x in tensors]
            form = kernel, *dtypes, *constants
            if form not in _compiled_forms:
                new[form] = kernel, programs, (*tensors, *strides), named
    _compiled_forms.update(new)
    if len(new) < 2:
        return

    def make(kernel, programs, arguments, named):
        with suppress(Exception), torch.cuda.device(device):
            compiled = kernel.warmup(*arguments, grid=(programs,), **named)
            compiled.run  # noqa: B018  (loads it, and compiles what launches it)

    with suppress(RuntimeError):  # Triton finds no GPU, or there can be no more threads
        device = driver.active.get_current_device()  # sets Triton up, once for all threads
        with ThreadPoolExecutor(len(new)) as pool:
            list(pool.map(lambda one: make(*one), new.values()))


def forget() -> None:
    """Records all calls anew: for those who change what follows from a signature."""
    _replays.clear()
    _scratch.clear()


def signature(function, tensors: tuple, options: tuple):
    """All that a call depends on but the values of its tensors; None if it cannot be replayed.

    Triton compiles a form of its own for pointers that are not multiples of 16 bytes, and someone
    who hooks into launches wants to see them: these go the long way, as do tensors that are none,
    which `vmap`, `torch.compile` and other modes of PyTorch put in place of tensors, and those that
    are the negative of what is stored.
    """
    # a recording is such a mode too
    if torch._C._len_torch_dispatch_stack() or transforms_active() or _hooked():
        return None
    key = [function, *options, *map(type, options)]  # the types, because True equals 1
    device = -1
    try:
        for x in tensors:
            if type(x) is torch.Tensor and not (x.data_ptr() & 15 or x.is_neg()):
                device = x.get_device()  # -1 for all but GPUs
                key += x.shape, x.stride(), x.dtype, device if device >= 0 else x.device
            elif x is None:
                key.append(None)
            else:
                return None
    except RuntimeError:  # a sparse tensor, say, has no strides
        return None
    if device >= 0 and device != torch._C._cuda_getDevice():
        return None
    return tuple(key)


def _some_begin_together(tensors: tuple) -> bool:
    addresses = [x.data_ptr() for x in tensors if x is not None and x.numel()]
    return len(set(addresses)) < len(addresses)


def modes_active() -> bool:
    """Whether a mode of PyTorch other than a recording sees every operation of this thread."""
    recording = getattr(_here, "recording", None) is not None
    return torch._C._len_torch_dispatch_stack() > recording


def transforms_active() -> bool:
    """Whether tensors may stand for others, as within `torch.func.vmap`."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _hooked() -> bool:
    """Whether a profiler asked Triton to be told of launches."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


class Recording(TorchDispatchMode):
    """Sees the operations of PyTorch and the launches of one call.

    Allocations, views and fills can be replayed. Anything else, a sum say, makes `replayable`
    false; such a call goes the long way each time.
    """

    aten = torch.ops.aten
    FILLED = {
        aten.empty.memory_format: None,
        aten.empty_like.default: None,
        aten.empty_strided.default: None,
        aten.new_empty.default: None,
        aten.new_empty_strided.default: None,
        aten.zeros.default: 0,
        aten.zeros_like.default: 0,
        aten.new_zeros.default: 0,
    }

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would import its compiler, seconds at the first call, only to keep it out here;
        `replayed` is not reached while it compiles."""
        return False

    def __init__(self, inputs: tuple):
        super().__init__()
        self.inputs = inputs
        self.made = []  # tensors allocated, which keeps their addresses apart
        self.filled = {}  # place in `made` -> the value of all its elements
        self.counted = []  # places in `made` of counters
        self.steps = []
        self.waiting = []  # launches that nothing has needed so far
        self.replayable = True
        self.watching = True

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if self.waiting and operation not in self.FILLED and not operation.is_view:
            self.launch_all()  # it may read what they write
        result = operation(*args, **(kwargs or {}))
        if self.watching and self.replayable:
            self.replayable = self._note(operation, args, result)
        return result

    def _note(self, operation, args, result) -> bool:
        if not isinstance(result, torch.Tensor):
            return False
        if operation in self.FILLED:
            self.made.append(result)
            if self.FILLED[operation] is not None:
                self.filled[len(self.made) - 1] = self.FILLED[operation]
            return True
        owners = (x for x in (*self.inputs, *self.made) if x is not None)
        storage = result.untyped_storage().data_ptr()
        is_view = any(x.untyped_storage().data_ptr() == storage for x in owners)
        return is_view and not operation._schema.is_mutable

    def launch(self, *one) -> None:
        self.waiting.append(one)

    def launch_all(self) -> None:
        """Launch what waits, in its order."""
        waiting, self.waiting = self.waiting, []
        self.watching = False
        compile_together(waiting)
        self.watching = True
        for one in waiting:
            self._launch(*one)

    def _launch(self, kernel, programs, tensors, strides, named) -> None:
        self.watching = False
        compiled = kernel[(programs,)](*tensors, *strides, **named)
        self.watching = True
        others = kernel.arg_names[len(tensors) + len(strides) :]
        constants = (*strides, *(named[n] for n in others))
        places = [self._place(x) for x in tensors]
        if None in places:
            self.replayable = False
        elif isinstance(kernel, JITFunction):
            self.steps.append((_compiled, (compiled, programs, constants), places))
        else:
            kinds = [None if x is None or not x.numel() else (x.dtype, _extent(x)) for x in tensors]
            self.steps.append((_interpreted, (kernel, programs, kinds, constants), places))

    def counters(self, count, device) -> torch.Tensor:
        self.watching = False
        self.counted.append(len(self.made))
        self.made.append(torch.zeros(count, dtype=torch.int64, device=device))
        self.watching = True
        return self.made[-1]

    def _place(self, x) -> tuple[int, int] | None:
        """Which input or allocation a tensor begins in, and how many bytes from its beginning."""
        if x is None or x.numel() == 0:
            return NOWHERE
        if not isinstance(x, torch.Tensor) or x.data_ptr() % 16:
            return None
        for i, y in enumerate(self.inputs):
            if y is not None and y.data_ptr() == x.data_ptr():
                return i, 0
        for i, y in enumerate(self.made):
            offset = x.data_ptr() - y.data_ptr()
            if 0 <= offset < y.nbytes:
                return len(self.inputs) + i, offset
        return None

    def replay(self, result) -> "Replay | None":
        """What repeats the call that has returned `result`, or None."""
        outputs = result if isinstance(result, tuple) else (result,)
        if not self.replayable or not all(x is None or self._is_whole(x) for x in outputs):
            return None
        first = len(self.inputs)
        of_output = [None if x is None else self._place(x)[0] - first for x in outputs]
        allocations, moved, at = [], {}, 0  # moved: place in `made` -> new place, bytes from there
        for i, x in enumerate(self.made):
            if i in of_output or i in self.filled:
                x = outputs[of_output.index(i)] if i in of_output else x
                moved[i] = len(allocations), 0
                allocations.append((tuple(x.shape), x.stride(), x.dtype))
        scratch = [i for i in range(len(self.made)) if i not in moved and i not in self.counted]
        for i in scratch:
            moved[i] = len(allocations), at
            at += -(-self.made[i].nbytes // ALIGNED) * ALIGNED
        kept = at if self.counted and len(self.steps) == 1 else 0  # it lies with the counters
        if at and not kept:
            allocations.append(((at // 4,), (1,), torch.float32))
        for n, i in enumerate(self.counted):
            moved[i] = len(allocations) + n + bool(kept), 0

        def place(slot, offset):
            if slot < first:
                return slot, offset
            new, start = moved[slot - first]
            return first + new, start + offset

        return Replay(
            allocations,
            [(moved[i][0], value) for i, value in self.filled.items()],
            [make(*fixed, [place(*p) for p in places]) for make, fixed, places in self.steps],
            [None if i is None else moved[i][0] for i in of_output],
            isinstance(result, tuple),
            next(x for x in self.inputs if x is not None).device,
            [self.made[i].numel() for i in self.counted],
            kept,
        )

    def _is_whole(self, x) -> bool:
        """Whether a tensor is the whole of an allocation."""
        if not isinstance(x, torch.Tensor) or not x.is_contiguous():
            return False
        slot, offset = self._place(x) or NOWHERE
        return slot >= len(self.inputs) and self.made[slot - len(self.inputs)].nbytes == x.nbytes


def allocator(device: torch.device):
    """What allocates (shape, strides, dtype) on this device, which is the current one.

    The code that `torch.compile` writes calls a function of PyTorch's that goes past its dispatcher
    and takes less time; a PyTorch without it has `torch.empty_strided`.
    """
    guards = getattr(torch._C, "_dynamo", None)
    fast = getattr(getattr(guards, "guards", None), f"_empty_strided_{device.type}", None)
    if fast is not None:
        return fast
    return lambda shape, strides, dtype: torch.empty_strided(
        shape, strides, dtype=dtype, device=device
    )


class Replay:
    """A recorded call. Places count the inputs first, then the allocations, in bytes."""

    def __init__(self, allocations, filled, steps, outputs, is_tuple, device, counted, kept):
        self.allocations = allocations  # (shape, strides, dtype)
        self.filled = filled  # (which allocation, value)
        self.steps = steps
        self.outputs = outputs  # which allocations are returned; None for None
        self.is_tuple = is_tuple
        self.device = device
        self.counted = counted  # how many counters each of them has
        self.kept = kept  # bytes that lie before them
        self.counters = {}  # stream -> counters, which its calls use one after another; addresses
        self.empty = allocator(device)
        on_gpu = device.type == "cuda"
        self.stream_of = driver.active.get_current_stream if on_gpu else lambda index: None

    def __call__(self, tensors: tuple, fresh: bool = False):
        empty = self.empty
        made = [empty(shape, strides, dtype) for shape, strides, dtype in self.allocations]
        for i, value in self.filled:
            made[i].fill_(value)
        stream = self.stream_of(self.device.index)
        addresses = [0 if x is None else x.data_ptr() for x in tensors]
        addresses += [x.data_ptr() for x in made]
        if self.counted:
            counters, places = self._counters(stream, fresh)
            addresses += places
        addresses.append(0)  # NOWHERE
        for step in self.steps:
            step(stream, addresses)
        if not self.is_tuple:
            return made[self.outputs[0]]
        return tuple([None if i is None else made[i] for i in self.outputs])

    def _counters(self, stream, fresh):
        """Those of this stream, on which calls follow one another, and their addresses.

        New ones if `fresh`, and for a CUDA graph, which may run beside later calls: it sets them to
        zero each time. A stream destroyed with work pending, whose handle a new one gets, would mix
        up two calls; but so it does in PyTorch's allocator, and so in all that a call allocates.
        """
        if self.device.type == "cuda" and torch._C._cuda_isCurrentStreamCapturing():
            fresh = True
        found = None if fresh else self.counters.get(stream)
        if found is None:
            made = [torch.zeros(n, dtype=torch.int64, device=self.device) for n in self.counted]
            if self.kept:
                made.insert(0, self._memory(stream, fresh))
            found = made, [x.data_ptr() for x in made]
            if not fresh:
                self.counters[stream] = found
        return found

    def _memory(self, stream, fresh):
        """At least `kept` bytes; unless `fresh`, the same for all calls of this stream."""
        size = 1 << (self.kept - 1).bit_length()
        key = self.device, stream, size
        found = None if fresh else _scratch.get(key)
        if found is None:
            found = torch.empty(size, dtype=torch.uint8, device=self.device)
            if not fresh:
                _scratch[key] = found
        return found


def _compiled(compiled, programs, constants, places):
    """A launch of a compiled kernel, by addresses instead of tensors, and without hooks."""
    before = (compiled.function, compiled.packed_metadata, None, None, None)
    arguments = (*(0 for _ in places), *constants)
    run, before, nested = _entry(compiled.run, before, arguments)

    def step(stream, addresses):
        pointers = [addresses[slot] + offset for slot, offset in places]
        run(programs, 1, 1, stream, *before, *pointers, *constants)

    def step_nested(stream, addresses):
        pointers = [addresses[slot] + offset for slot, offset in places]
        run(programs, 1, 1, stream, *before, (*pointers, *constants))

    return step_nested if nested else step


def _entry(launcher, before, arguments):
    """What a launcher of Triton calls in C, with what in front of the kernel's arguments.

    Triton's own wrapper works that out at each launch, and passes the arguments one by one (3.5 and
    3.6) or as one tuple (3.7): a copy of the launcher says it without launching. Where it says
    something else, as when a kernel needs scratch memory, the launcher itself is the answer.
    """
    sizes = [getattr(launcher, f"{x}_scratch_size", None) for x in ("global", "profile")]
    if sizes == [0, 0] and hasattr(launcher, "launch"):
        said = []
        spy = copy.copy(launcher)
        spy.launch = lambda *everything: said.extend(everything)
        spy(1, 1, 1, 0, *before, *arguments)
        if said[:4] == [1, 1, 1, 0] and said[-1] == arguments:
            return launcher.launch, said[4:-1], True
        if said[:4] == [1, 1, 1, 0] and tuple(said[-len(arguments) :]) == arguments:
            return launcher.launch, said[4 : -len(arguments)], False
    return launcher, before, False


def _interpreted(kernel, programs, kinds, constants, places):
    """The same in Triton's interpreter, which asks for tensors: of a dtype and so many elements."""

    def tensor(address, dtype, elements):
        room = (ctypes.c_char * (dtype.itemsize * elements)).from_address(address)
        return torch.frombuffer(room, dtype=dtype)

    def step(stream, addresses):
        tensors = [
            None if kind is None else tensor(addresses[slot] + offset, *kind)
            for (slot, offset), kind in zip(places, kinds, strict=True)
        ]
        kernel[(programs,)](*tensors, *constants)

    return step


def _extent(x) -> int:
    """Elements from the first to the last of a tensor, whatever lies between."""
    return 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
