"""What pages share: links, search, the buttons of the theme, and reading without a server."""

from __future__ import annotations

import re
import zipfile

import checks
import links
import pytest
import yaml
from book_ext import offline
from bs4 import BeautifulSoup
from pages import PAGES, ROOT, files, open_page

TOC = ROOT / "_toc.yml"


@pytest.fixture
def wide(browser):
    page = open_page(browser, "wide")
    yield page
    page.context.close()


@pytest.fixture
def narrow(browser):
    page = open_page(browser, "narrow")
    yield page
    page.context.close()


def test_links_and_anchors_inside_the_book_lead_somewhere(site):
    faults = links.broken(site)
    assert not faults, "\n".join(faults)


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<p id="x"><a href="b.html#y">b</a> <a href="#x">x</a>')
    (tmp_path / "b.html").write_text('<p id="y"><a href="https://example.org/no">elsewhere</a>')
    assert not links.broken(tmp_path)
    (tmp_path / "b.html").write_text('<p><a href="c.html">c</a> <img src="d.png">')
    assert len(links.broken(tmp_path)) == 3


def found(page, words: str) -> list[str]:
    """The titles that the search page lists, with the page it was asked on left as it is."""
    page.wait_for_function(
        "() => document.querySelector('.search-summary')?.textContent.trim() && "
        "!document.querySelector('#search-progress')?.textContent.includes('...') && "
        "!Search.isPending?.()"
    )
    page.wait_for_timeout(300)
    return page.eval_on_selector_all("#search-results li > a", "links => links.map((a) => a.text)")


def test_search_finds_a_known_term(wide, address):
    with checks.watched(wide, address) as faults:
        wide.goto(f"{address}/{PAGES[0]}")
        checks.settle(wide)
        wide.keyboard.press("Control+k")
        wide.keyboard.type("crossover")
        wide.keyboard.press("Enter")
        wide.wait_for_url("**/search.html?q=crossover*")
        titles = found(wide, "crossover")
    assert not faults
    assert any("quadratic problem" in title for title in titles), titles
    wide.locator("#search-results li > a", has_text="quadratic problem").first.click()
    wide.wait_for_url("**/02_quadratic_problem.html*")
    wide.goto(f"{address}/search.html?q=xyzzyplugh")
    assert not found(wide, "xyzzyplugh")


def test_search_finds_a_known_term_on_a_narrow_window(narrow, address):
    narrow.goto(f"{address}/{PAGES[0]}")
    checks.settle(narrow)
    narrow.locator("button.search-button__button, .search-button").locator(
        "visible=true"
    ).first.click()
    narrow.wait_for_function("() => document.activeElement.type === 'search'")
    narrow.keyboard.type("crossover")
    narrow.keyboard.press("Enter")
    narrow.wait_for_url("**/search.html?q=crossover*")
    assert any("quadratic problem" in title for title in found(narrow, "crossover"))
    entry = narrow.locator("#search-results li > a", has_text="quadratic problem").first
    assert 0 <= entry.bounding_box()["x"] < checks.WIDTHS["narrow"][0]
    entry.click()
    narrow.wait_for_url("**/02_quadratic_problem.html*")


@pytest.mark.parametrize("width", checks.WIDTHS)
def test_search_page_is_sound(browser, address, width):
    page = open_page(browser, width)
    page.goto(f"{address}/search.html?q=softmax")
    found(page, "softmax")
    faults = [*checks.axe(page), *checks.sideways(page), *checks.keyboard(page)]
    checks.set_theme(page, dark=True)
    faults += [*checks.axe(page, checks.COLOURS), *checks.light_boxes(page)]
    page.context.close()
    assert not faults


def test_theme_button_switches_page_and_figures(wide, address):
    wide.goto(f"{address}/{PAGES[0]}")
    checks.settle(wide)
    look = """() => [getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector('.book-plotly .xtick text')).fill,
      getComputedStyle(document.documentElement).getPropertyValue('--pst-color-text-base')]"""
    seen = {}
    for _ in range(3):  # auto, light and dark
        wide.locator("button.theme-switch-button").locator("visible=true").first.click()
        wide.wait_for_timeout(200)
        theme = wide.evaluate("() => document.documentElement.dataset.theme")
        back, words, text = wide.evaluate(look)
        red = int(text.strip()[1:3], 16)
        assert words.startswith(f"rgb({red},")
        seen[theme] = back
    assert len(set(seen.values())) == 2
    # the choice stays on the next page
    chosen = wide.evaluate("() => document.documentElement.dataset.mode")
    wide.goto(f"{address}/{PAGES[1]}")
    assert wide.evaluate("() => document.documentElement.dataset.mode") == chosen


def test_buttons_of_the_page_do_what_they_say(wide, address):
    wide.goto(f"{address}/{PAGES[1]}")
    checks.settle(wide)
    menu = wide.locator(".dropdown-download-buttons")
    menu.locator("button").first.click()
    entries = menu.locator(".dropdown-menu .dropdown-item")
    assert entries.first.is_visible()
    assert wide.request.get(
        entries.first.get_attribute("href") and entries.first.evaluate("a => a.href")
    ).ok
    wide.evaluate("() => { window.print = () => { window.printed = true; }; }")
    menu.locator(".btn-download-pdf-button").click()
    assert wide.evaluate("() => window.printed")
    wide.locator(".btn-fullscreen-button").click()
    wide.wait_for_function("() => document.fullscreenElement")


def test_copy_button_copies_the_code(wide, address):
    wide.context.grant_permissions(["clipboard-read", "clipboard-write"])
    wide.goto(f"{address}/{PAGES[1]}")
    checks.settle(wide)
    cell = wide.locator(".cell_input .highlight").locator("visible=true").first
    cell.hover()
    cell.locator("button.copybtn").click()
    wide.wait_for_timeout(200)
    copied = wide.evaluate("() => navigator.clipboard.readText()")
    assert copied.strip() == cell.locator("pre").inner_text().strip()


def test_contents_open_on_a_narrow_window(narrow, address):
    narrow.goto(f"{address}/{PAGES[1]}")
    checks.settle(narrow)
    entry = narrow.locator(".bd-sidebar-primary a.reference.internal", has_text="quadratic").first
    assert not entry.is_visible() or entry.bounding_box()["x"] < 0
    narrow.locator("button.primary-toggle").locator("visible=true").first.click()
    narrow.wait_for_timeout(500)
    entry.click()
    narrow.wait_for_url("**/02_quadratic_problem.html")


def with_figures(site) -> list[str]:
    return [name for name in PAGES if 'class="book-plotly"' in (site / name).read_text()]


@pytest.fixture(scope="module")
def folder(site, tmp_path_factory):
    """What a reader has after unpacking the zip of `make offline`."""
    place = tmp_path_factory.mktemp("offline")
    offline.pack(site, place / "book.zip")
    with zipfile.ZipFile(place / "book.zip") as packed:
        packed.extractall(place)
    return place / offline.NAME


def test_the_zip_is_whole(folder):
    assert not links.broken(folder)
    assert (folder / "README.txt").exists() and not list(folder.rglob("*.map"))


@pytest.mark.parametrize("sample", [0, 1, -1])
def test_pages_open_from_a_folder(wide, folder, sample):
    """Scripts, fonts, math, figures and switches work without a server."""
    name = with_figures(folder)[sample]
    with checks.watched(wide, "file://") as faults:
        wide.goto((folder / name).as_uri())
        checks.settle(wide)
        faults += [*checks.figures(wide), *checks.math(wide), *checks.sideways(wide)]
        checks.set_theme(wide, dark=True)
        faults += [*checks.light_boxes(wide), *checks.controls(wide)]
    assert not faults
    fonts = "() => [...document.fonts].filter((f) => f.status === 'error').map((f) => f.family)"
    assert not wide.evaluate(fonts)


def test_first_page_and_search_work_from_a_folder(wide, folder):
    wide.goto((folder / "index.html").as_uri())
    wide.wait_for_url(f"**/{PAGES[0]}")
    wide.goto((folder / "search.html").as_uri() + "?q=crossover")
    assert any("quadratic problem" in title for title in found(wide, "crossover"))
    wide.locator("#search-results li > a", has_text="quadratic problem").first.click()
    wide.wait_for_url("**/02_quadratic_problem.html*")


def soup(site, name: str) -> BeautifulSoup:
    return BeautifulSoup((site / f"chapters/{name}.html").read_text(), "html.parser")


def test_status_page_has_each_page_that_runs_code(site):
    rows = soup(site, "status").select("table.book-status")[0].select("tbody tr")
    listed = {row.a["href"]: [cell.get_text() for cell in row.select("td")] for row in rows}
    sources = {name: (ROOT / name).with_suffix(".md").read_text() for name in PAGES}
    running = {name.removeprefix("chapters/") for name, t in sources.items() if "{code-cell}" in t}
    assert set(listed) == running
    for cells in listed.values():
        assert cells[-1] == "complete" and cells[-2].isdigit()


def test_road_map_has_each_chapter_and_its_time(site):
    entries = soup(site, "index").find(id="road-map").select("li")
    times = {e.a["href"]: re.search(r"\((\d+) min\)", e.get_text()) for e in entries}
    parts = {part["caption"]: part for part in yaml.safe_load(TOC.read_text())["parts"]}
    for name in files([parts["Chapters"], parts["Labs"]]):
        found = times[f"{name.removeprefix('chapters/')}.html"]
        assert found and 5 <= int(found.group(1)) <= 120


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("api_kernels", ["kernels.linear_attention", "kernels.sequence_parallel_attention"]),
        ("api_bench", ["bench.session", "bench.claim", "bench.contenders.register"]),
    ],
)
def test_reference_pages_have_the_public_names(site, page, names):
    shown = soup(site, page)
    for name in names:
        assert shown.find(id=name).find_next("dd").get_text().strip()


def test_first_page_has_what_a_visitor_looks_for(site):
    shown = soup(site, "index")
    headings = [h.find(string=True) for h in shown.select("h2")]
    for wanted in ("What you will learn", "Who it is for", "Three ways in", "Road map"):
        assert wanted in headings
    assert shown.select_one(".book-plotly") and len(shown.select(".sd-card")) == 3


def test_failed_ideas_have_the_failed_claims(site):
    every = soup(site, "claims").select("table.book-claims tbody tr")
    failed = [row for row in every if row.td.get_text().startswith("Did not hold")]
    shown = soup(site, "what_did_not_work").select("table.book-claims tbody tr")
    assert len(shown) == len(failed) > 0


def uncontrolled(shown: BeautifulSoup) -> set[str]:
    """What the panel of a lab offers in a notebook and the page's likest figure does not.

    A control of one choice is hidden and counts; N may be an axis.
    """
    (note,) = shown.find_all("p", string=re.compile("controls stand here"))
    names = {n.strip().lower() for n in note.string.rpartition(": ")[2].rstrip(".").split(",")}
    figures = (
        {label.find(string=True).split(":")[0].strip().lower() for label in f.select("label")}
        for f in shown.select(".book-figure")
    )
    return min((names - {"n"} - labels for labels in figures), key=len)


@pytest.mark.parametrize(
    "lab", ["attention_visualization", "memory_profiling", "benchmark_comparison"]
)
def test_a_page_has_the_controls_of_its_panel(site, lab):
    assert not uncontrolled(soup(site, f"labs/{lab}"))


def test_a_control_of_a_panel_alone_is_found():
    note = "<p>In the notebook of this page, on a GPU, controls stand here: way, N, order.</p>"
    figure = '<div class="book-figure"><label>Way <select></select></label>{}</div>'
    order = "<label hidden>Order <select></select></label>"
    whole = BeautifulSoup(note + figure.format(order), "html.parser")
    assert not uncontrolled(whole)
    assert uncontrolled(BeautifulSoup(note + figure.format(""), "html.parser")) == {"order"}
