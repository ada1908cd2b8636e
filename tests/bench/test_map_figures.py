"""Every choice of the switches of the attention maps draws something and says what."""

from itertools import product

import pytest
import torch

from bench import hardware, map_figures, studies
from bench.studies import attention_maps

GPU = hardware.Provenance("NVIDIA Test", "test", "2026-01-31T00:00:00Z", "", "3.12", "2.11")


RECORDED = studies.recorded("attention-maps")


@pytest.mark.parametrize("study", RECORDED, ids=lambda s: s.line)
def test_no_choice_of_the_states_is_empty(study):
    figure = map_figures.states(study)
    wanted = list(product(*(range(len(s.options)) for s in figure.switches)))
    assert sorted(tuple(trace["meta"]) for trace in figure.data) == wanted
    assert set(figure.alts) == {",".join(map(str, choice)) for choice in wanted}


@pytest.fixture
def older():
    """A record of maps alone, as an earlier form of the study left it."""
    about = {"task": "copy", "mixer": "elu", "status": "ok"}
    row = about | {"kind": "map", "layer": 1, "tokens": "a b", "size": 2, "largest": 1.0}
    row |= {"entropy_bits": 0.5, "rank": 1.5, "map": attention_maps.packed(torch.eye(2))}
    views = [*attention_maps.VIEWS]
    rows = [row | {"head": head, "view": view} for head in (1, 2) for view in views]
    rows.append(about | {"kind": "trained", "steps": 700})
    return studies.Study("attention-maps", GPU, rows)


def test_mask_and_temperature_of_an_older_record_are_switches_of_their_own(older):
    figure = map_figures.maps(older)
    options = {s.name: s.options for s in figure.switches}
    assert options["Mask"] == [*map_figures.MASKS] and options["Temperature"] == ["1", "2", "1/2"]
    assert options["Steps"] == ["700"] and len(options["Head"]) == 2
    wanted = {",".join(map(str, c)) for c in product(*(range(len(x)) for x in options.values()))}
    assert set(figure.alts) == wanted
    lacking = {key for key, alt in figure.alts.items() if "not measured" in alt}
    drawn = {",".join(map(str, trace["meta"])) for trace in figure.data}
    assert drawn == set(figure.numbers) == wanted - lacking
    assert {key[-3:] for key in lacking} == {"1,1", "1,2"}, "no mask, and a temperature"
    assert '<details class="book-numbers" open>' in figure.html()
