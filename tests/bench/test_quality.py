"""Models with any mixer: causal, apart, of equal size; tasks that can be solved."""

import math

import pytest
import torch

from bench import hardware, quality, studies, tiny
from bench.quality import HYBRID, MIXERS, Mixer, Models, Plan, Training
from bench.studies import quality as study
from bench.studies import quality_lengths
from kernels import ops

ALL = [*MIXERS, HYBRID]  # compared


@pytest.fixture(autouse=True)
def reference(monkeypatch):
    """The operator's PyTorch reference, which the kernels are tested against elsewhere: it takes a
    hundredth of the interpreter's time."""
    monkeypatch.setattr(ops, "INTERPRETED", False)


def small(name, seeds=(0, 1), **sizes):
    return Models(name, 12, seeds, **({"width": 16, "heads": 2} | sizes))


@pytest.mark.parametrize("name", ALL)
def test_what_comes_later_changes_nothing(name):
    models = small(name)
    tokens = torch.randint(0, 256, (2, 3, 12), generator=torch.Generator().manual_seed(0))
    later = tokens.clone()
    later[..., 7:] = (later[..., 7:] + 1) % 256
    a, b = models(tokens), models(later)
    assert a.shape == (2, 3, 12, 256) and a.isfinite().all()
    assert torch.equal(a[:, :, :7], b[:, :, :7]) and not torch.equal(a[:, :, 7:], b[:, :, 7:])


@pytest.mark.parametrize("name", ALL)
def test_models_trained_together_are_apart(name):
    """Each gives what it gives alone, and its loss has a gradient in its own parameters alone."""
    tokens = torch.randint(0, 256, (1, 3, 12), generator=torch.Generator().manual_seed(0))
    both = small(name)
    out = both(tokens.expand(2, -1, -1))
    alone = small(name, seeds=(1,))(tokens)
    assert torch.allclose(out[1:], alone, atol=1e-4) and not torch.allclose(out[0], out[1])
    out[1].square().sum().backward()
    grad = both.flat.grad
    assert grad[0].abs().max() == 0 and grad[1].isfinite().all()
    used = [n for n, g in zip(both.shapes, grad[1].split(_sizes(both)), strict=True) if g.any()]
    assert used == list(both.shapes)


def _sizes(models):
    return [math.prod(shape) for shape in models.shapes.values()]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_all_mixers_have_the_same_parameters(heads):
    sizes = {}
    for name in ALL:
        if name == "Taylor" and heads < 4:
            with pytest.raises(ValueError, match="the operator takes up to 256"):
                Models(name, 8, (0,), heads=heads)
            continue
        if name == "selective decay" and heads == 1:
            with pytest.raises(ValueError, match="heads is 1: .* no whole number of rows"):
                Models(name, 8, (0,), heads=heads)
            continue
        sizes[name] = Models(name, 8, (0,), heads=heads).parameters_each
    assert len(set(sizes.values())) == 1, sizes


def test_the_taylor_map_is_the_series_to_the_second_power():
    q, k = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s = q @ k.mT / 7**0.5
    assert torch.allclose(quality.taylor(q) @ quality.taylor(k).mT, 1 + s + s * s / 2)
    assert quality.taylor(q).shape[-1] == Mixer("taylor").features(7)


def test_no_two_mixers_are_the_same():
    assert len(set(MIXERS.values())) == len(MIXERS)
    tokens = torch.randint(0, 256, (1, 2, 12), generator=torch.Generator().manual_seed(0))
    alike = [n for n in ALL if n not in ("learned φ", "selective decay")]  # the same parameters
    found = [small(name, seeds=(0,))(tokens).detach() for name in alike]
    for i, a in enumerate(found):
        for b in found[:i]:
            assert not torch.allclose(a, b, atol=1e-3)


def test_the_order_of_layers_can_be_turned():
    one, other = (quality.stack(name, 3) for name in (HYBRID, quality.SOFTMAX_FIRST))
    assert one == other[::-1] and [m.phi for m in one] == ["elu", "elu", quality.SOFTMAX]
    sizes = {small(name, seeds=(0,)).parameters_each for name in (HYBRID, quality.SOFTMAX_FIRST)}
    assert len(sizes) == 1


def test_state_numbers():
    assert quality.state_numbers("softmax") is None and quality.state_numbers(HYBRID) is None
    assert quality.state_numbers("elu", width=64, heads=2, layers=1) == 2 * (32 * 32 + 32)
    assert quality.state_numbers("learned φ", 64, 2, 1) == 2 * (64 * 32 + 64)
    assert quality.state_numbers("Taylor", 64, 4, 1) == 4 * (153 * 16 + 153)


def test_a_decayed_state_forgets():
    """After its horizon the weight of a token is 1/e of what it was."""
    assert quality.horizons(2, 256) == pytest.approx([16, 256])
    assert quality.horizons(1, 256) == [256]
    models = small("decay")
    assert models.decay.exp().pow(torch.tensor([16.0, 12.0])).tolist() == pytest.approx(
        [1 / math.e] * 2
    )


@pytest.mark.parametrize(
    "wrong", [{"phi": "none"}, {"phi": "elu", "decay": "slow"}, {"phi": "softmaxx"}]
)
def test_unknown_mixers_are_refused(wrong):
    with pytest.raises(ValueError, match="allowed are"):
        Mixer(**wrong)


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match="allowed are softmax, elu"):
        Models("nothing", 8, (0,))
    with pytest.raises(ValueError, match="multiple of heads, 3"):
        Models("elu", 8, (0,), heads=3)
    with pytest.raises(ValueError, match="no state"):
        Mixer(quality.SOFTMAX, "fixed")


@pytest.fixture
def drawn():
    torch.manual_seed(0)
    return quality.recall_task(64).draw(40, "cpu")


def test_recall_can_be_solved_by_looking_back(drawn):
    """By someone who reads the pairs at the beginning; nothing else counts."""
    tokens, counts = drawn
    assert tokens.shape == (40, 65) and counts.shape == (40, 64)
    seen = set()
    for row, asked in zip(tokens.tolist(), counts.tolist(), strict=True):
        P = sum(asked)
        seen.add(P)
        pairs = dict(zip(row[: 2 * P : 2], row[1 : 2 * P : 2], strict=True))
        assert len(pairs) == P  # no key twice
        places = [t for t, here in enumerate(asked) if here]
        assert sorted(row[t] for t in places) == sorted(pairs)  # each key is asked for once
        assert all(t >= 2 * P and row[t + 1] == pairs[row[t]] for t in places)
        assert not set(row[2 * P :: 1]) & set(pairs) - {row[t] for t in places}
    assert seen == {4, 8, 16}


def test_keys_values_and_noise_are_told_apart(drawn):
    tokens, counts = drawn
    goal = tokens[:, 1:]
    keys, values = quality.NOISE, quality.NOISE + quality.KEYS
    assert ((tokens[:, :-1][counts] >= keys) & (tokens[:, :-1][counts] < values)).all()
    assert (goal[counts] >= values).all() and tokens.max() < quality.VOCABULARY


def test_an_exam_asks_for_its_number_of_pairs():
    task = quality.recall_task(256)
    for name, draw in task.exams.items():
        assert (draw(3, "cpu")[1].sum(1) == int(name)).all()
    assert list(quality.recall_task(40).exams) == ["4", "8"]
    with pytest.raises(ValueError, match="four times the fewest pairs"):
        quality.recall_task(14)


def test_copy_can_be_solved_by_looking_back():
    tokens, counts = quality.copy_task(20).draw(3, "cpu")
    assert tokens.shape == (3, 21) and counts.sum() == 3 * 10
    for b, t in counts.nonzero().tolist():
        assert tokens[b, t + 1] == tokens[b, t - 10]


def test_held_out_bytes_are_never_read_in_training():
    from bench import tiny

    train, held = quality.text_bytes(False), quality.text_bytes(True)
    assert len(train) + len(held) == len(tiny.text())
    assert 0.05 < len(held) / len(tiny.text()) < 0.11
    first = quality.HELD_BLOCK * (quality.HELD_EVERY - 1)
    assert bytes(held[:100].tolist()) == tiny.text()[first : first + 100]
    assert bytes(train[:first].tolist()) == tiny.text()[:first]
    tokens, counts = quality.text_task(24).exams["text"](2, "cpu")
    assert bytes(tokens[0].tolist()) in bytes(held.tolist()) and counts.all()


def plan(**changes):
    return Plan(
        **({"steps": 4, "batch": 1, "seeds": (0, 1), "checkpoints": 2, "exam": 2} | changes)
    )


def test_overlap():
    eye = torch.eye(4)
    assert quality.overlap(eye).item() == 0
    assert quality.overlap(2 * torch.ones(3, 5)).item() == pytest.approx(1)
    x = torch.tensor([[1.0, 0], [1, 0], [0, 3]])
    assert quality.overlap(x).item() == pytest.approx(1 / 3)


def test_overlaps_are_of_the_stored_keys():
    """Those of elu + 1 point in one direction; the identity's do not."""
    found = {}
    for name in ("elu", "identity", "learned φ", HYBRID, "softmax"):
        training = Training(quality.recall_task(32), name, plan(), "cpu", width=16, heads=2)
        rows = training.overlaps(8)
        assert training.overlaps(8) == rows
        found[name] = [r["overlap"] for r in rows]
    assert len(found["elu"]) == 2 * 2 and len(found[HYBRID]) == 2 and found["softmax"] == []
    assert min(found["elu"]) > 0.5 > 0.3 > max(map(abs, found["identity"]))
    assert found[HYBRID] == found["elu"][:2]


@pytest.fixture
def trained():
    plan = Plan(40, 4, seeds=(0, 1), rates=(1e-2, 0.0), checkpoints=2, exam=4, warm_up=5)
    training = Training(quality.copy_task(8), "elu", plan, "cpu", width=16, heads=2)
    before = training.models.flat.detach().clone()
    return training, before, training.run()


def test_training_lowers_the_loss_and_a_rate_of_zero_changes_nothing(trained):
    training, before, (rows, ms) = trained
    after = training.models.flat.detach()
    moved = (after - before).abs().amax(1)
    assert moved[:2].min() > 1e-3 and moved[2:].max() == 0
    losses = training.losses[1:, :2]
    assert (losses[-5:].mean(0) < losses[:5].mean(0) - 0.3).all() and ms > 0
    assert sorted({r["step"] for r in rows}) == [20, 40] and len(rows) == 2 * 4


def test_exams_ask_the_same_of_all(trained):
    training, _, (rows, _) = trained
    state = torch.get_rng_state()
    assert training.examine() == [{k: v for k, v in r.items() if k != "step"} for r in rows[4:]]
    assert torch.equal(state, torch.get_rng_state())  # training goes on as without


def test_accuracy_and_loss_are_of_what_counts(monkeypatch, trained):
    """A model that is certain of the next token is right, one that is certain of another wrong."""
    training, *_ = trained
    tokens, counts = training.task.draw(4, "cpu")

    def certain(off):
        def logits(given, seen):
            goal = tokens.unflatten(0, (4, 1))[:, :, 1:]
            shown = torch.where(counts.unflatten(0, (4, 1)), goal + off, 7)
            return 50.0 * torch.nn.functional.one_hot(shown, 256)

        return logits

    monkeypatch.setattr(training, "models", certain(0))
    loss, right = training.losses_of(tokens, counts)
    assert right.tolist() == [1] * 4 and loss.max() < 1e-3
    monkeypatch.setattr(training, "models", certain(1))
    loss, right = training.losses_of(tokens, counts)
    assert right.tolist() == [0] * 4 and loss.min() > 40


def test_a_rate_is_judged_by_the_end():
    rows = [{"step": 1, "rate": 1, "bits": 0}, {"step": 1, "rate": 2, "bits": 9}]
    rows += [{"step": 2, "rate": 1, "bits": b} for b in (3, 3)]
    rows += [{"step": 2, "rate": 2, "bits": b} for b in (1, 4)]
    assert study.by_rate(rows) == {1: 3, 2: 2.5}


@pytest.fixture
def tiny_groups(monkeypatch):
    monkeypatch.setattr(study, "DEVICE", "cpu")
    monkeypatch.setattr(study, "STEP_LENGTHS", (16, 32))
    monkeypatch.setattr(study, "QUICK_MIXERS", ("softmax", "Taylor"))
    monkeypatch.setattr(study, "STEP_TOKENS", 32)
    monkeypatch.setattr(study, "PAIRS", 4)
    groups = [
        study.Group("recall", quality.recall_task, 16, "elu", plan(rates=(1e-2, 1e-3))),
        study.Group("text", quality.text_task, 16, "softmax", plan(rates=(1e-2,))),
        study.Group("state", quality.recall_task, 16, "Taylor", plan(), 1),  # too many features
    ]
    monkeypatch.setattr(study, "groups", lambda quick: groups)


def test_the_study_gives_rows_that_a_study_can_hold(tiny_groups):
    said = []
    rows = study.measure(False, said.append)
    found = studies.Study("quality", hardware.Provenance("", "", "", "", "", ""), rows)
    recall = found.select(what="trained", group="recall")
    assert [(r["seed"], r["status"]) for r in recall] == [(0, "ok"), (1, "ok")]
    rates = {r["rate"]: r["bits"] for r in found.select(what="rate", group="recall")}
    assert set(rates) == {1e-2, 1e-3} and min(rates, key=rates.get) == recall[0]["rate"]
    mean = sum(r["bits"] for r in recall) / 2
    assert mean == pytest.approx(rates[recall[0]["rate"]])
    for end, curve in zip(recall, found.select(what="curve", group="recall"), strict=True):
        assert study.unpacked(curve["step_s"]) == [2, 4] and curve["seed"] == end["seed"]
        for column in ("bits", "accuracy"):
            way = study.unpacked(curve[f"{column}_s"])
            assert way[-1] == pytest.approx(end[column], rel=1e-3)
    assert found.one(what="trained", group="text", seed=0)["state_numbers"] is None
    (failed,) = found.select(what="trained", group="state")
    assert failed["status"] == "failed" and "features of 64" in failed["reason"]
    assert any("features of 64" in line for line in said)
    assert [r["status"] for r in found.select(what="step")] == ["ok"] * 4
    keys = found.select(what="overlap")
    assert [(r["when"], r["layer"], r["seed"]) for r in keys] == [
        (when, layer, seed) for when in ("before", "after") for layer in (1, 2) for seed in (0, 1)
    ]
    assert found.one(what="text")["held_bytes"] > 1000


def test_what_is_trained_in_quick_form_is_rehearsed_ahead(tiny_groups, monkeypatch):
    calls, rehearsed = [], []
    monkeypatch.setattr(study.compiled, "at_once", lambda given: [call() for call in given])
    real = Training.rehearse

    def rehearse(self):
        real(self)
        rehearsed.append((self.models.name, self.task.length, int(self.step)))

    monkeypatch.setattr(Training, "rehearse", rehearse)
    monkeypatch.setattr(study, "step_time", lambda mixer, N: calls.append((mixer, N)) or {})
    monkeypatch.setattr(study, "train_all", lambda wanted, over, say: [])
    two = study.groups(True)[:2]
    monkeypatch.setattr(study, "groups", lambda quick: two)
    study.measure(True, lambda text: None)
    assert set(calls) <= {(name, N) for name, N, _ in rehearsed} and calls
    assert rehearsed[0][0] != "softmax" and rehearsed[-1] == ("softmax", 16, 1)


def test_where_no_time_is_left_the_rows_say_so(tiny_groups, monkeypatch):
    monkeypatch.setattr(study, "LIMIT_S", -1)
    monkeypatch.setattr(study, "step_time", lambda mixer, N: {"what": "step"})
    rows = study.measure(False, lambda text: None)
    assert [r["reason"] for r in rows if r["what"] == "trained"] == [
        "TimeoutError: no time was left"
    ] * 3


def test_a_rate_at_which_a_loss_is_not_finite_is_not_taken(tiny_groups, monkeypatch):
    real = Training.examine

    def diverged(rate):
        def examine(self):
            rows = real(self)
            return [r | {"bits": math.nan} if r["rate"] >= rate else r for r in rows]

        return examine

    (group, *_) = study.groups(False)
    monkeypatch.setattr(Training, "examine", diverged(1e-2))
    found = study.trained(group)
    assert {r["rate"] for r in found if r["what"] == "trained"} == {1e-3}
    assert {r["rate"]: r["bits"] is None for r in found if r["what"] == "rate"} == {
        1e-2: True, 1e-3: False,
    }  # fmt: skip
    monkeypatch.setattr(Training, "examine", diverged(0))
    with pytest.raises(ArithmeticError, match="not finite at any rate"):
        study.trained(group)


def test_the_full_sweep_has_every_mixer_at_every_task():
    full = study.groups(quick=False)
    for task in ("recall", "copy", "text"):
        assert [g.mixer for g in full if g.name == task and g.length == 256] == ALL
    assert all(len(g.plan.seeds) == 3 for g in full)
    assert len({(g.name, g.length, g.mixer, g.heads) for g in full}) == len(full)
    assert {g.mixer for g in study.groups(quick=True)} < set(ALL)


def test_the_second_half_trains_as_the_first_does(monkeypatch):
    full = quality_lengths.groups(quick=False)
    first = [g.about for g in study.groups(False)]
    assert {g.length for g in full if g.name == "recall"} == set(quality_lengths.LENGTHS)
    assert not [g for g in full if g.about in first]
    assert {g.plan.batch * g.length for g in full if g.length >= 256} == {2**14}
    assert all(len(g.plan.seeds) == 3 for g in full)
    asked = []
    monkeypatch.setattr(study, "trained", lambda group: asked.append(group) or _row(group))
    said = []
    rows = quality_lengths.measure(True, said.append)
    quick = quality_lengths.groups(True)
    assert [g.about for g in asked] == [g.about for g in quick] and len(said) == len(rows) - 1
    assert rows[0] == study.text_row() and rows[0]["sha256"] == tiny.fingerprint()
    heads = {(g.mixer, g.heads) for g in study.groups(False) + full if g.name == "state"}
    both = {("elu", h) for h in (1, 2, 4, 8, 16)} | {("learned φ", h) for h in (1, 2, 4, 8, 16)}
    assert heads == both | {("softmax", 16)}


def test_in_equal_seconds_a_slower_mixer_makes_fewer_steps(monkeypatch):
    ms = {"softmax": 2.0, "elu": 1.0, "Taylor": 5.0}

    def short_step(task, mixer, plan):
        if mixer not in ms:
            raise RuntimeError("out of memory")
        return ms[mixer]

    asked = []
    monkeypatch.setattr(study, "short_step", short_step)
    monkeypatch.setattr(study, "trained", lambda group: asked.append(group) or _row(group))
    options = quality.recall_task, (*ms, "decay"), quality.Plan(1000, 64)
    rows = study.equal_seconds(*options, math.inf, lambda text: None)
    assert {g.mixer: g.plan.steps for g in asked} == {"softmax": 500, "elu": 1000, "Taylor": 200}
    assert {g.plan.steps * ms[g.mixer] for g in asked} == {1000}
    assert {r["mixer"]: r["status"] for r in rows} == dict.fromkeys(ms, "ok") | {"decay": "failed"}
    assert {r["group"] for r in rows} == {"seconds"}
    late = study.equal_seconds(*options, -math.inf, lambda text: None)
    assert [r["mixer"] for r in late] == [*ms, "decay"]
    assert all("no time was left" in r["reason"] for r in late) and len(asked) == 3
    monkeypatch.setattr(quality_lengths, "groups", lambda quick: [])
    monkeypatch.setattr(quality_lengths, "equal_seconds", lambda *given: [{"given": given[:3]}])
    found = [r["given"] for r in quality_lengths.measure(False, print)[1:]]
    assert found == [(task, quality_lengths.RIVALS, plan) for task, plan in quality_lengths.SECONDS]


def test_a_step_is_timed_of_models_of_the_same_kind(monkeypatch):
    monkeypatch.setattr(study, "DEVICE", "cpu")
    assert study.short_step(quality.copy_task(8), "elu", plan(steps=40)) > 0


def _row(group):
    fact = {"status": "ok", "accuracy": 1.0, "rate": 0.1, "step_ms": 1.0}
    return [{"what": "trained", **group.about, **fact}]
