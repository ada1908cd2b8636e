"""The small model and its tasks: causal, trainable, and its weights are what the mixer applies."""

import pytest
import torch

from bench import hardware, studies, tiny
from bench.studies import attention_maps

KINDS = (tiny.SOFTMAX, "elu", "exp")


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_changes_nothing(kind):
    torch.manual_seed(0)
    model = tiny.Tiny(32, 12, kind, width=32)
    tokens = torch.randint(0, 32, (2, 12))
    later = tokens.clone()
    later[:, 7:] = (later[:, 7:] + 1) % 32
    a, b = model(tokens), model(later)
    assert torch.equal(a[:, :7], b[:, :7]) and not torch.equal(a[:, 7:], b[:, 7:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_the_mixer(kind):
    """Applied to the values they give what the mixer gives."""
    torch.manual_seed(0)
    model = tiny.Tiny(32, 12, kind, width=32)
    tokens = torch.randint(0, 32, (1, 12))
    block = model.blocks[0]
    x = block.mixed(model.embed(tokens) + model.place[:12])
    q, k, v = block.mixer.queries_keys_values(x)
    w = tiny.weights(q, k, kind)
    o = block.mixer.out((w @ v.double()).float().transpose(1, 2).flatten(2))
    assert torch.allclose(o, block.mixer(x), atol=1e-5)
    assert torch.allclose(w.sum(-1), torch.ones_like(w.sum(-1)), atol=1e-5)
    (found, _), *_ = model.queries_and_keys(tokens)
    assert torch.allclose(found, q)


def test_all_mixers_have_the_same_parameters():
    counts = {sum(p.numel() for p in tiny.Tiny(32, 8, kind).parameters()) for kind in KINDS}
    assert len(counts) == 1
    with pytest.raises(ValueError, match="allowed are softmax attention, elu"):
        tiny.Mixer(8, 1, "nothing")


def test_the_tasks_can_be_solved_by_looking_back():
    generator = torch.Generator().manual_seed(0)
    text, copy, recall = tiny.tasks()
    tokens, counts = copy.draw(3, generator)
    assert tokens.shape == (3, 33) and counts.sum() == 3 * 16
    for b, t in counts.nonzero().tolist():
        assert tokens[b, t + 1] == tokens[b, t - 16]
    tokens, counts = recall.draw(3, generator)
    assert tokens.shape == (3, 32) and counts.sum() == 3 * tiny.PAIRS
    for b, t in counts.nonzero().tolist():
        pairs = dict(tokens[b, : 2 * tiny.PAIRS].reshape(-1, 2).tolist())
        assert pairs[tokens[b, t].item()] == tokens[b, t + 1].item()
    tokens, counts = text.draw(2, generator)
    assert bytes(tokens[0].tolist()) in tiny.text() and counts.all()


def test_another_text_has_another_fingerprint(monkeypatch):
    before = tiny.fingerprint()
    assert len(before) == 16 and before == tiny.fingerprint()
    monkeypatch.setattr(tiny, "text", lambda: b"another edition")
    assert tiny.fingerprint() != before


def test_entropy_and_rank():
    even = torch.full((4, 4), 0.25, dtype=torch.float64)
    assert tiny.entropy(even) == pytest.approx(2) and tiny.effective_rank(even) == pytest.approx(1)
    eye = torch.eye(4, dtype=torch.float64)
    assert tiny.entropy(eye) == 0 and tiny.effective_rank(eye) == pytest.approx(4)


def test_training_lowers_the_loss():
    text = tiny.tasks()[0]
    _, fact = tiny.train(text, tiny.SOFTMAX, steps=12, device="cpu", batch=2)
    assert fact["loss_last"] < 0.98 * fact["loss_first"] and 0 <= fact["accuracy"] <= 1


def test_gradients_flow_through_the_books_operator():
    _, fact = tiny.train(tiny.tasks()[2], "elu", steps=3, device="cpu", batch=2)
    assert fact["loss_first"] != fact["loss_last"]


def test_a_map_survives_packing():
    x = torch.tensor([[0.0, 0.5], [1.0, 0.25]])
    assert attention_maps.unpacked(attention_maps.packed(x), 2) == [[0, 128], [255, 64]]
    with pytest.raises(ValueError, match="no rows of 3"):
        attention_maps.unpacked(attention_maps.packed(x), 3)


def test_queries_and_keys_survive_packing():
    x = torch.tensor([[0.0, 0.5, -3.0], [1.0, 0.25, 2e-5]])
    found = attention_maps.unpacked_16(*attention_maps.packed_16(x), 3)
    assert torch.allclose(found, x.double(), atol=3.0 / 65534)


def test_the_study_gives_rows_that_a_study_can_hold(monkeypatch):
    monkeypatch.setattr(attention_maps, "DEVICE", "cpu")
    monkeypatch.setattr(attention_maps, "KINDS", (tiny.SOFTMAX, "elu"))
    monkeypatch.setattr(attention_maps, "SHOWN", 12)
    real = tiny.train
    monkeypatch.setattr(
        tiny, "train", lambda task, kind, steps, device: real(task, kind, 1, device, batch=2)
    )
    rows = attention_maps.measure(True, lambda text: None)
    assert all(r["status"] == "ok" for r in rows), [r["reason"] for r in rows]
    study = studies.Study("attention-maps", hardware.Provenance("", "", "", "", "", ""), rows)
    maps = study.select(kind="map", task="copy", mixer="elu")
    assert len(maps) == 2 * 2 * len(attention_maps.VIEWS) and not any("map" in r for r in maps)
    assert not studies.misfits("attention-maps", rows)
    for row in maps:  # its numbers are those of the queries and keys
        place = {
            "layer": row["layer"],
            "head": row["head"],
            "steps": attention_maps.QUICK_STEPS[-1],
        }
        head = study.one(kind="head", task="copy", mixer="elu", **place)
        q, k = (attention_maps.unpacked_16(head[n], head[f"{n}_largest"], 32) for n in "qk")
        w = tiny.weights(q, k, "elu", **attention_maps.VIEWS[row["view"]])
        assert tiny.entropy(w) == pytest.approx(row["entropy_bits"], rel=1e-3)
        assert tiny.effective_rank(w) == pytest.approx(row["rank"], rel=1e-3)
    assert [r["after"] for r in study.select(kind="state", task="text")] == [1, 2, 4, 8, 12]


def test_a_model_that_fails_is_a_row(monkeypatch):
    def fail(*args):
        raise RuntimeError("no GPU")

    monkeypatch.setattr(tiny, "train", fail)
    text, *rows = attention_maps.measure(True, lambda text: None)
    assert text["sha256"] == tiny.fingerprint() and text["bytes"] == len(tiny.text())
    assert len(rows) == 12 and all(r["reason"] == "RuntimeError: no GPU" for r in rows)
