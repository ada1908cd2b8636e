"""The PDF of the book: pages joined, links kept, figures drawn."""

from __future__ import annotations

import pytest
from book_ext import pdf
from bs4 import BeautifulSoup
from pages import PAGES
from pypdf import PdfReader

NAMES = [name.removesuffix(".html") for name in PAGES]
SAMPLE = [NAMES[0], NAMES[1], "chapters/glossary", "chapters/references"]
SAMPLE += ["chapters/labs/complexity_analysis", "chapters/kernel_replay"]


@pytest.fixture(scope="module")
def printed(site, browser, tmp_path_factory):
    """(figures drawn, the PDF) of a few pages."""
    target = tmp_path_factory.mktemp("pdf") / "sample.pdf"
    figures = pdf.write(site, SAMPLE, target, browser)
    return figures, PdfReader(target)


def links(reader: PdfReader) -> tuple[int, list[str]]:
    """How many links lead to a place of the PDF, and the addresses of the others."""
    inside, addresses = 0, []
    for page in reader.pages:
        for one in page.get("/Annots") or []:
            found = one.get_object()
            if found.get("/Subtype") != "/Link":
                continue
            if "/URI" in found.get("/A", {}):
                addresses.append(found["/A"]["/URI"])
            else:
                inside += 1
    return inside, addresses


def test_figures_and_text_are_printed(printed, site):
    figures, reader = printed
    assert figures == sum(
        (site / f"{n}.html").read_text().count('class="book-plotly"') for n in SAMPLE
    )
    text = " ".join(page.extract_text() for page in reader.pages)
    for words in (
        "In this model linear attention is faster",
        "Step 1 of",
        "sequence length",
        "Road map",
        "Solution to Exercise",
        "Glossary",
        "References",
    ):
        assert words in text
    assert "Show code" not in text


def test_links_are_kept(printed):
    inside, addresses = links(printed[1])
    assert inside > 50
    assert any("arxiv.org" in address for address in addresses)
    assert not [a for a in addresses if "127.0.0.1" in a or a.startswith("file:")]


def test_the_outline_names_the_pages(printed):
    def titles(entries):
        for entry in entries:
            yield from titles(entry) if isinstance(entry, list) else [entry.title]

    found = " ".join(titles(printed[1].outline))
    assert "Attention mechanism basics" in found and "Glossary" in found


def test_places_and_links_are_named_after_their_page():
    html = (
        '<article><h2 id="x">X</h2><a href="#x">here</a><a href="b.html#y">there</a>'
        '<a href="../c.html">not in it</a><img src="../_images/i.png"></article>'
    )
    article = BeautifulSoup(html, "html.parser")
    pdf.rename(article, "chapters/a", {"chapters/a", "chapters/b"}, "../")
    assert article.h2["id"] == "chapters-a:x"
    here, there, other = article.select("a")
    assert here["href"] == "#chapters-a:x" and there["href"] == "#chapters-b:y"
    assert not other.has_attr("href")
    assert article.img["src"] == "../_images/i.png"
