"""What a figure with controls leaves for the PDF, when pages are joined for it."""

import pytest
from book_ext import pdf
from bs4 import BeautifulSoup

from bench import diagrams, linear_figures
from bench.any_two import AnyTwo
from bench.explorer import Explorer
from bench.replay import Replay
from bench.replay_figures import Player
from bench.results import available, load

REPLAY = Replay(tensors={"x": (2, 4)}, steps=["copy_kernel"], events=[])


def slider() -> str:
    """The explorer of chapter 3: a figure with a slider of its own."""
    panels = {"one": [diagrams.Curve("c", [1, 2], [1, 2], "book")]}
    plain = diagrams.curves(panels, x="x", y="y", alts=["A curve."])
    fields = {k: getattr(plain, k) for k in ("data", "layout", "alts", "switches", "numbers")}
    return linear_figures.Explorer(**fields, steps=["1", "2"], readings={"0": ["a", "b"]}).html()


@pytest.fixture(scope="module")
def article(tmp_path_factory):
    """The article of a joined page of each kind of figure."""
    records = [load(name) for name in available()]
    parts = (Explorer(records), AnyTwo(records), Player({"a copy": REPLAY}))
    body = slider() + "".join(f'<div class="output">{p._repr_html_()}</div>' for p in parts)
    site = tmp_path_factory.mktemp("site")
    (site / "a.html").write_text(
        '<html><head><script src="_static/plotly.min.js"></script></head><body>'
        f'<article class="bd-article"><h1>A</h1>{body}</article></body></html>'
    )
    joined = BeautifulSoup(pdf.join(site, ["a"]), "html.parser")
    assert [s.get("src") for s in joined.head.select("script")] == ["_static/plotly.min.js"]
    return joined.article


def test_every_figure_is_there_with_its_data(article):
    drawn = article.select(".book-plotly")
    assert len(drawn) == 3 and all(d.select_one("script") for d in drawn)
    assert not article.select(".book-figure input, .book-figure select")
    assert not article.select(".book-figure script:not(.book-plotly script)")


def test_the_explorer_of_lab_2_keeps_its_sentence_and_its_table(article):
    lab = article.select_one(".book-figure.book-explorer")
    assert len(lab.select("tbody tr")) == 4
    assert "In this model linear attention is faster" in lab.get_text()


def test_a_replay_keeps_what_draws_its_first_step(article):
    replay = article.select_one(".book-replay")
    assert replay.canvas and replay.select_one("script[type='application/json']").string
    assert replay.select_one("select") and replay.select_one("input"), "its script reads them"
    script = replay.find_next_sibling()
    assert script.name == "script" and "previousElementSibling" in script.string
    assert ".book-replay .book-switch { display: none" in pdf.STYLE
