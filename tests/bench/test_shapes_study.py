"""The shapes that lab 4 has beside its race by length: one thing changed at a time."""

from dataclasses import replace

from bench import any_two, contenders, results, studies
from bench.roofline import FORWARD
from bench.runner import Plan
from bench.studies import shapes


def test_each_race_changes_one_thing():
    usual = Plan()
    for plan in shapes.plans(False):
        names = ("heads", "head_dim", "dtype")
        assert sum(getattr(plan, n) != getattr(usual, n) for n in names) == 1
        assert set(plan.contenders) <= set(contenders.names()) and plan.works == (FORWARD,)
    assert len(shapes.plans(True)) == len(shapes.plans(False)) == len(shapes.CHANGES)


def test_what_was_raced_is_a_choice_of_any_two(record, monkeypatch):
    """The race by length shows first, and what was not raced together is said to be missing."""

    def run(*plans, say, limit_s):
        row = record.one(contender="book", B=8, N=4096, causal=False, work=FORWARD)
        ms = {"book": 1.0, "eager": 2.0}
        found = [
            replace(row, contender=name, H=s.H, D=s.D, N=s.N, causal=s.causal, dtype=s.dtype,
                    **dict.fromkeys(("p20_ms", "median_ms", "p80_ms"), ms.get(name, 3.0)))
            for plan in plans for s in plan.shapes() for name in plan.contenders
        ]  # fmt: skip
        return results.Record(record.provenance, found, complete=True)

    monkeypatch.setattr(shapes.isolated, "run", run)
    rows = shapes.measure(False, print)
    assert not studies.misfits("shapes", rows)
    study = studies.Study("shapes", record.provenance, rows)
    alone = any_two.AnyTwo([record])
    figure = any_two.AnyTwo([record], [study])
    shown = {name: [v for v, _ in options] for name, (_, options) in figure.choices().items()}
    assert shown["heads"] == [8, 1, 32] and shown["D"] == [64, 32, 128]
    assert shown["dtype"] == ["bfloat16", "float16", "float32"]
    assert figure.alt() == alone.alt()
    at = (8, 1, 64, "causal", "bfloat16", FORWARD)
    assert figure.ratios("book", "eager", 0, *at) == (
        list(shapes.LENGTHS), [2.0] * 3, any_two.RACES["shapes"]
    )  # fmt: skip
    assert figure.ratios("book", "eager", 0, 8, 1, 128, *at[3:])[0] == []
