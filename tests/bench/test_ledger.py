"""The ledger counts what is known by hand, forward and backward, and forgets what is freed."""

import math

import pytest
import torch
import torch.nn.functional as F

from bench.ledger import Ledger

N, D = 256, 16
NARROW, SQUARE = 2 * 3 * N * D * 2, 2 * 3 * N * N * 2  # bytes of [2, 3, N, ·] in bfloat16


def tensors(count=3, **options):
    shape = (2, 3, N, D)
    return [torch.empty(shape, dtype=torch.bfloat16, device="meta", **options)
            for _ in range(count)]  # fmt: skip


def attention(q, k, v):
    s = q @ k.mT / math.sqrt(D)
    p = torch.softmax(s, -1)
    return p @ v


def test_attention_holds_two_squares_and_moves_six():
    q, k, v = tensors()
    with Ledger(q, k, v) as ledger:
        attention(q, k, v)
    assert [e.name for e in ledger.entries] == ["bmm", "div", "softmax", "bmm"]
    assert ledger.peak == 2 * SQUARE + 4 * NARROW
    assert ledger.moved == 6 * SQUARE + 4 * NARROW
    assert ledger.flops == 4 * 6 * N * N * D
    assert [e.read for e in ledger.entries] == [2 * NARROW, SQUARE, SQUARE, SQUARE + NARROW]


def test_the_backward_pass_holds_three():
    q, k, v = tensors(requires_grad=True)
    do = torch.empty_like(q)
    with Ledger(q, k, v, do) as ledger:
        torch.autograd.grad(attention(q, k, v), (q, k, v), do)
    assert ledger.peak == 3 * SQUARE + 6 * NARROW
    assert ledger.flops == 12 * 6 * N * N * D


def test_what_is_freed_is_no_longer_held():
    (x,) = tensors(1)
    with Ledger(x) as ledger:
        y = x + 1
        assert ledger.held == 2 * NARROW
        del y
        assert ledger.held == NARROW
        z = x.exp().exp()
    assert ledger.peak == 3 * NARROW
    assert ledger.held == 2 * NARROW
    del z


def test_views_move_nothing_and_writes_in_place_do():
    (x,) = tensors(1)
    with Ledger(x) as ledger:
        x.mT.reshape(6, D, N)[:, 1:].unsqueeze(0).expand(4, -1, -1, -1)
        assert ledger.entries == []
        x.mul_(2)
    (entry,) = ledger.entries
    assert (entry.read, entry.written, entry.held) == (NARROW, NARROW, NARROW)


def test_an_expanded_tensor_is_read_once():
    row = torch.empty(1, D, device="meta")
    with Ledger(row) as ledger:
        row.expand(N, D) + 1
    (entry,) = ledger.entries
    assert (entry.read, entry.written) == (4 * D, 4 * N * D)


def test_one_tensor_under_two_names_is_held_and_read_once():
    (x,) = tensors(1)
    with Ledger(x, x, x.mT) as ledger:
        x + x
    assert ledger.before == NARROW
    assert ledger.entries[0].read == NARROW


def test_real_tensors_are_counted_too():
    x = torch.randn(8, 8)
    with Ledger(x) as ledger:
        y = F.relu(x) @ x
    assert ledger.flops == 2 * 8**3
    assert ledger.peak == 3 * 8 * 8 * 4
    assert torch.equal(y, F.relu(x) @ x)


def test_a_kernel_in_one_piece_has_no_square():
    q, k, v = tensors()
    with Ledger(q, k, v) as ledger:
        torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)
    (entry,) = ledger.entries
    assert entry.moved == pytest.approx(4 * NARROW, rel=0.15)  # and one float32 a query
    assert ledger.flops == 4 * 6 * N * N * D


def test_the_table_adds_up():
    q, k, v = tensors()
    with Ledger(q, k, v) as ledger:
        attention(q, k, v)
    table = ledger.table(SQUARE, "squares", "Here.")
    assert table.rows[1] == ["div", "1.00", "1.00", "2.19"]
    assert table.rows[-1] == ["all", "3.19", "3.06", "peak 2.25"]
    assert Ledger(q).peak == NARROW
