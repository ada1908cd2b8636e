"""Each check of a page finds a planted fault, and lets a sound page pass."""

from __future__ import annotations

from pathlib import Path

import checks
import plotly
import pytest
from conftest import serve

from bench import figures

HEAD = (
    '<!doctype html><html lang="en" data-theme="{theme}"><head><title>T</title>'
    '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
    "</head><body><main><h1>Title</h1><article>{body}</article></main></body></html>"
)
TRACE = '<g class="trace"><path d="M0,0L9,9"/></g>'
PLOT = (
    '<div class="book-figure"><div class="book-plotly" role="img" aria-label="{label}">'
    '<svg class="main-svg" width="300" height="200">{inside}</svg></div></div>'
)
SOUND = PLOT.format(label="Time by length", inside=TRACE)


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    yield context.new_page()
    context.close()


def write(page, body: str, theme: str = "light") -> None:
    page.set_content(HEAD.format(body=body, theme=theme))


DRAWING = '<svg aria-hidden="true"><path d="M0,0"/></svg>'
SWITCH = (
    '<div class="book-figure"><label>Order <select onchange="{script}">'
    "<option>bidirectional</option><option>causal</option></select></label>"
    '<p class="said">bidirectional</p>' + DRAWING + "</div>"
)
CANVAS = '<canvas role="img" aria-label="{label}" width="90" height="{height}"></canvas>'
FILLED = CANVAS + "<script>document.querySelector('canvas').getContext('2d')"
FILLED += ".fillRect(0, 0, {width}, 50)</script>"
PAINTED = FILLED.format(label="A replay", width=50, height=50)
SAYS = "this.closest('.book-figure').querySelector('.said').textContent = "
RANGE = (
    '<div class="book-figure"><label>Chunk <input type="range" min="0" max="3" value="0" '
    'oninput="{script}"></label><p class="said">0</p></div>'
)
SMOOTH = RANGE.replace('value="0"', 'value="0" step="any"')

DRAWS = "this.closest('article').querySelector('path').dataset.d = 'M' + "
COUNT = "this.parentElement.querySelector('i').textContent"
BACK = f'<button onclick="{COUNT} = 0">Back</button>'

FAULTS = {
    # check: (a fault, something sound beside it)
    "sideways": [
        ('<div style="width: 500px">wide</div>', '<div style="width: 300px">narrow</div>'),
        (
            '<div style="overflow: hidden"><p style="width: 500px">cut off</p></div>',
            '<div tabindex="0" style="overflow-x: auto"><p style="width: 500px">scrolls</p></div>',
        ),
    ],
    "clipped_code": [("<pre style='overflow: auto'>" + "x" * 200 + "</pre>", "<pre>x = 1</pre>")],
    "clipped_tables": [
        (
            '<div class="book-table-wrap" style="overflow-x: auto; width: 300px">'
            '<table style="width: 500px"><tr><td>1</td></tr></table></div>',
            '<div class="book-table-wrap" style="overflow-x: auto; width: 300px">'
            "<table><tr><td>1</td></tr></table></div>",
        )
    ],
    "figures": [
        (PLOT.format(label="Time by length", inside=""), SOUND),
        (PLOT.format(label="", inside=TRACE), SOUND),
        ('<div class="book-plotly" role="img" aria-label="Not drawn">{}</div>', SOUND),
        (
            '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">',
            '<svg role="img" aria-label="A line"><line x1="0" x2="9"/></svg>',
        ),
        (CANVAS.format(label="A replay", height=50), PAINTED),
        (FILLED.format(label="A replay", width=50, height=0), PAINTED),
        (FILLED.format(label="One colour", width=90, height=50), PAINTED),
        (FILLED.format(label="", width=50, height=50), PAINTED),
        ('<svg><line x1="0" x2="9"/></svg>', '<svg aria-hidden="true"><path d="M0,0"/></svg>'),
    ],
    "math": [
        ('<span class="math">\\(x^2\\)</span>', "<code>\\(x^2\\)</code>"),
        ("<p>so $$x^2$$ it is</p>", "<p>$5 and $6</p>"),
        (
            '<span class="math"><mjx-container><mjx-merror>\\undefined</mjx-merror>'
            "</mjx-container></span>",
            '<span class="math"><mjx-container>x</mjx-container></span>',
        ),
    ],
    "axe": [
        ('<p style="color: #999">pale</p>', "<p>dark</p>"),
        ('<a href="#here"></a>', '<a href="#here">Here</a>'),
        ("<h4>Two levels too deep</h4>", "<h2>One level</h2>"),
        ("<select><option>1</option></select>", "<label>N <select><option>1</select></label>"),
    ],
    "controls": [
        (SWITCH.format(script=""), SWITCH.format(script=SAYS + "this.value")),
        (
            SWITCH.format(script=DRAWS + "this.value.length + ',0'"),
            SWITCH.format(script=DRAWS + "this.value.length;" + SAYS + "this.value"),
        ),
        (
            RANGE.format(script=SAYS + "Math.min(2, this.value)"),
            RANGE.format(script=SAYS + "this.value"),
        ),
        (SMOOTH.format(script=""), SMOOTH.format(script=SAYS + "this.value")),
        (
            "<label>N <input type=range min=0 max=x></label>",
            RANGE.format(script=SAYS + "this.value"),
        ),
        (
            "<div><button>Dead</button></div>",
            "<div><button onclick=\"this.after('pressed')\">Live</button></div>",
        ),
        (
            f"<div>{BACK}<button>Dead</button><i>0</i></div>",
            f'<div>{BACK}<button onclick="{COUNT} = 1">On</button><i>0</i></div>',
        ),
    ],
    "keyboard": [
        (
            '<div role="button" tabindex="0" onfocus="this.blur()">Runs away</div>'
            '<a href="#a" onkeydown="event.preventDefault()">Trap</a><a href="#b">Behind it</a>',
            '<button>One</button><a href="#a">Two</a><div tabindex="0">Three</div>',
        ),
    ],
    "plotly_where_needed": [
        ('<script src="data:text/javascript,//plotly"></script>', "<p>no figure</p>"),
        (SOUND, SOUND + '<script src="data:text/javascript,//plotly"></script>'),
    ],
}
CASES = [
    pytest.param(name, fault, sound, id=f"{name}-{i}")
    for name, cases in FAULTS.items()
    for i, (fault, sound) in enumerate(cases)
]


@pytest.mark.parametrize(("name", "fault", "sound"), CASES)
def test_a_planted_fault_is_found(page, name, fault, sound):
    check = getattr(checks, name)
    write(page, sound)
    assert not check(page)
    write(page, fault)
    assert check(page)


BOX = '<div style="background: {colour}; width: 200px; height: 90px">Box</div>'
WORD = (
    '<div class="book-plotly" style="background: #111"><svg width="90" height="30">'
    '<g class="xtick"><text y="20" style="fill: {colour}">512</text></g></svg></div>'
)


@pytest.mark.parametrize(
    ("fault", "sound"),
    [(BOX.format(colour="#eee"), BOX.format(colour="#222"))]
    + [(WORD.format(colour="#333"), WORD.format(colour="#eee"))],
)
def test_what_does_not_follow_the_dark_theme_is_found(page, fault, sound):
    write(page, sound, theme="dark")
    assert not checks.light_boxes(page)
    write(page, fault, theme="dark")
    assert checks.light_boxes(page)


WATCHED = {
    "console error": "<script>console.error('no')</script>",
    "page error": "<script>throw new Error('no')</script>",
    "failed request: 404": '<img alt="" src="missing.png">',
    "outside the page's origin": '<script src="http://elsewhere.example/a.js"></script>',
}


@pytest.mark.parametrize("fault", [*WATCHED, "nothing"])
def test_faults_of_loading_are_found(page, tmp_path, fault):
    body = WATCHED.get(fault, "<p>sound</p>")
    (tmp_path / "a.html").write_text(HEAD.format(body=body, theme="light"))
    server, address = serve(tmp_path)
    with checks.watched(page, address) as faults:
        page.goto(f"{address}/a.html")
    server.shutdown()
    assert any(fault in found for found in faults) if fault in WATCHED else not faults


def test_a_large_page_is_found(tmp_path):
    path = Path(tmp_path, "a.html")
    path.write_text("x" * checks.PAGE_BYTES)
    assert not checks.size(path)
    path.write_text("x" * (checks.PAGE_BYTES + 1))
    assert checks.size(path)


def test_a_late_paint_is_found(page, tmp_path):
    slow = "<script>const end = Date.now() + 1200; while (Date.now() < end);</script>"
    for name, body in (("slow", slow), ("quick", "")):
        html = HEAD.format(body="Text", theme="light").replace("</head>", f"{body}</head>")
        (tmp_path / f"{name}.html").write_text(html)
    server, address = serve(tmp_path)
    paints = {}
    for name in ("quick", "slow"):
        page.goto(f"{address}/{name}.html")
        checks.settle(page)
        paints[name] = checks.first_paint(page)
    server.shutdown()
    assert paints["quick"] < checks.FIRST_PAINT_MS < paints["slow"]


def test_a_choice_without_curves_says_that_it_was_not_measured(page):
    trace = {"type": "scatter", "x": [1, 2], "y": [1, 2], "meta": [0], "visible": True}
    shared = trace | {"meta": [None]}  # drawn whatever is chosen
    alts = {"0": "A GPU: time by length.", "1": "A GPU: not measured."}
    switch = figures.Switch("Batch", ["B = 8", "B = 64"])
    figure = figures.Figure([trace, shared], {"height": 300}, alts, [switch])
    write(page, figure.html())
    page.add_script_tag(path=Path(plotly.__file__).parent / "package_data/plotly.min.js")
    page.evaluate(
        "() => { const plot = document.querySelector('.book-plotly');"
        "const spec = JSON.parse(plot.querySelector('script').textContent);"
        "return Plotly.newPlot(plot, spec.data, spec.layout).then(() => null); }"
    )
    for choice, said in (("B = 64", ["not measured"]), ("B = 8", [])):
        page.select_option("select", label=choice)
        page.wait_for_timeout(200)
        assert page.locator(".annotation-text").all_text_contents() == said
