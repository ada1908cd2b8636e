"""A kernel is not compiled anew when the length changes, but for what the length is divisible by.

Triton knows of a number at a launch whether it is 1 and whether it is a multiple of 16, and has
another form of the kernel for each. Of numbers of parts, which follow from the length, the second
is nothing to know.
"""

import ahead
import pytest

# Lengths of one divisibility, from those that one program or one launch can take to long ones.
CLASSES = {
    "odd": [1, 33, 101, 449, 513, 1025, 1153, 2049, 2101, 2305, 3001, 3501, 5003],
    "of 32": [32, 96, 480, 544, 1056, 1184, 2080, 2144, 2336, 3040, 3552, 5024],
    "of 128": [128, 256, 384, 512, 1024, 1152, 2048, 2176, 2304, 3072, 3200, 4096, 5120],
}
LONG = {
    "odd": [9001, 12345, 20001, 40001, 65537, 99999, 131071, 300001, 1000001],
    "of 32": [9056, 12320, 20000, 40032, 65568, 99936, 131104, 300000, 1000032],
    "of 128": [9088, 12416, 20096, 40064, 65536, 99968, 131072, 300032, 1000064],
}
SHAPES = [(1, 1, 64), (1, 8, 64), (8, 8, 64), (1, 8, 128)]

PROGRAM = """
import json, sys
import ahead
import torch
from kernels import configs, ops

arch, shapes, lengths, forgetful = map(json.loads, sys.argv[1:])
configs.hardware = lambda device: (arch, 132)
forms = {}  # of each shape by itself

def see(kernel, values, options):
    if forgetful:  # of what a kernel says of its parts
        for parameter in kernel.params:
            parameter.do_not_specialize_on_alignment = False
    types, known, aligned = ahead.form_of(kernel, values)
    names = [p.name for p in kernel.params]
    chosen = {n: str(values[n]) for n in names if types[n] == "constexpr"} | options
    form = kernel.fn.__name__, sorted(map(str, chosen.items())), [names[i] for (i,) in aligned]
    forms.setdefault(json.dumps([(B, H, D), *form]), N)

ahead.see_launches(see)
for B, H, D in shapes:
    for N in lengths:
        for causal in (False, True):
            q, k, v, do = torch.empty(4, B, H, N, D, dtype=torch.bfloat16, device="meta")
            for decay in (None, torch.empty(B, H, N, device="meta")):
                given = q, k, v, None, None, decay
                options = causal, "elu", True, 1.0, 1e-6
                o, state, kept = ops._run_forward(*given, *options, True)
                ops._run_backward(*given, state, kept, o, do, None, *options)
print(json.dumps([[*json.loads(form), N] for form, N in forms.items()]))
"""


def forms(arch, shapes, lengths, forgetful=False):
    """[shape, kernel, what it is compiled with, numbers known as multiples of 16, first N]."""
    return ahead.run(PROGRAM, arch, shapes, lengths, forgetful)


def told_apart(found):
    """Kernels with two forms that differ by nothing but what is known as a multiple of 16."""
    seen = [(kernel, str((shape, chosen))) for shape, kernel, chosen, _, _ in found]
    return sorted({kernel for kernel, chosen in seen if seen.count((kernel, chosen)) > 1})


@pytest.mark.parametrize("lengths", CLASSES, ids=lambda name: name.replace(" ", "-"))
def test_a_length_of_the_same_divisibility_needs_no_other_form(lengths):
    """But where a number of parts is 1, or where the kernels are others."""
    short, long = CLASSES[lengths], LONG[lengths]
    found = forms(90, SHAPES, [*long, *short])
    assert len({kernel for _, kernel, *_ in found}) > 15
    assert not told_apart(found)
    assert {N for *_, N in found} & set(long) == {long[0]}  # and a longer one none at all


@pytest.mark.parametrize("arch", [80, 100])
def test_so_it_is_on_other_gpus(arch):
    assert not told_apart(forms(arch, SHAPES[1:2], LONG["odd"] + CLASSES["odd"]))


def test_kernels_that_do_not_say_so_are_found():
    found = forms(90, SHAPES[1:2], [*LONG["odd"], *CLASSES["odd"]], forgetful=True)
    assert {"state_kernel", "combine_kernel", "causal_output_kernel"} <= set(told_apart(found))
    assert len({N for *_, N in found} & set(LONG["odd"])) > 1
