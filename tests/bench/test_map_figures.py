"""Every choice of the switches of the attention maps draws something and says what."""

from itertools import product

import pytest

from bench import map_figures, studies


@pytest.mark.parametrize("draw", [map_figures.maps, map_figures.states])
@pytest.mark.parametrize("study", studies.recorded("attention-maps"), ids=lambda s: s.line)
def test_no_choice_is_empty(draw, study):
    figure = draw(study)
    wanted = list(product(*(range(len(s.options)) for s in figure.switches)))
    assert sorted(tuple(trace["meta"]) for trace in figure.data) == wanted
    assert set(figure.alts) == {",".join(map(str, choice)) for choice in wanted}


def test_numbers_of_the_maps_are_unfolded():
    (study, *_) = studies.recorded("attention-maps")
    assert '<details class="book-numbers" open>' in map_figures.maps(study).html()
