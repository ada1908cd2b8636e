"""What must hold for a page of the book. Each check returns the faults it found, as sentences.

`test_checks.py` shows for each of them that it finds a planted fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import axe_playwright_python

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}
PAGE_BYTES = 1_500_000
FIRST_PAINT_MS = 1000
# Heading order and landmarks are only "moderate" for axe; a textbook is read by its headings.
ALSO = {"heading-order", "page-has-heading-one", "image-alt", "empty-heading"}


@contextlib.contextmanager
def watched(page, origin: str) -> Iterator[list[str]]:
    """Collect console errors, failed requests and requests outside `origin` while it is open."""
    faults: list[str] = []

    def console(message):
        if message.type == "error":
            faults.append(f"console error: {message.text}")

    def request(asked):
        inside = asked.url.startswith((origin, "data:", "blob:"))
        if not inside:
            faults.append(f"request outside the page's origin: {asked.url}")

    def response(answer):
        if answer.status >= 400:
            faults.append(f"failed request: {answer.status} {answer.url}")

    watchers = {
        "console": console,
        "pageerror": lambda error: faults.append(f"page error: {error}"),
        "request": request,
        "requestfailed": lambda asked: faults.append(f"failed request: {asked.url}"),
        "response": response,
    }
    for event, watcher in watchers.items():
        page.on(event, watcher)
    yield faults
    for event, watcher in watchers.items():
        page.remove_listener(event, watcher)


def settle(page) -> None:
    """Wait until scripts, fonts, math and figures of a page are done."""
    page.wait_for_load_state("load")
    page.evaluate(
        """async () => {
          await document.fonts.ready;
          if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
          const drawn = () => [...document.querySelectorAll('.book-plotly')]
            .every((f) => f.querySelector('svg.main-svg'));
          for (let i = 0; i < 100 && window.Plotly && !drawn(); i++)
            await new Promise((done) => setTimeout(done, 50));
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
        }"""
    )


def set_theme(page, dark: bool) -> None:
    """As the reader's system switches, which the page follows without a reload."""
    page.emulate_media(color_scheme="dark" if dark else "light")
    wanted = "dark" if dark else "light"
    page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=wanted)
    page.evaluate(
        # the theme fades some colours in
        """async () => {
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)));
          for (const a of document.getAnimations()) { try { a.finish(); } catch { a.cancel(); } }
        }"""
    )


def unfold(page) -> None:
    """Open what is folded: hidden cells, hidden solutions, the numbers of figures."""
    page.evaluate(
        """async () => {
          for (const d of document.querySelectorAll('main details')) d.open = true;
          for (const b of document.querySelectorAll('main .toggle-button-hidden')) b.click();
          await new Promise((done) => setTimeout(done, 100));
          for (const a of document.getAnimations()) { try { a.finish(); } catch { a.cancel(); } }
        }"""
    )


# What is drawn: a function for the scripts below. Parts that are folded or hidden are not.
SEEN = """
  const seen = (e) => e.checkVisibility({ visibilityProperty: true }) &&
    !e.closest('.visually-hidden, .sr-only, mjx-assistive-mml, [aria-hidden=true] *') &&
    e.getBoundingClientRect().width > 0;
  const name = (e) => {
    const own = e.id ? '#' + e.id : [...e.classList].map((c) => '.' + c).join('');
    const text = (e.textContent || '').trim().replace(/\\s+/g, ' ').slice(0, 60);
    return e.tagName.toLowerCase() + own + (text ? ` "${text}"` : '');
  };
"""


def sideways(page) -> list[str]:
    """The page scrolls sideways, or something sticks out of it that cannot be scrolled to."""
    return page.evaluate(
        "() => {"
        + SEEN
        + """
          const faults = [];
          const root = document.documentElement, width = root.clientWidth;
          for (const e of [root, document.body])
            if (e.scrollWidth > width + 1)
              faults.push(`${name(e).slice(0, 20)} is ${e.scrollWidth} px in ${width} px`);
          const scrolls = (e) => {
            for (let up = e.parentElement; up && up !== document.body; up = up.parentElement)
              if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return true;
            return false;
          };
          for (const e of document.querySelectorAll('main *')) {
            const box = e.getBoundingClientRect();
            if (box.right > width + 1 && box.width > 1 && !e.closest('svg') && seen(e) &&
                !scrolls(e) && !['fixed', 'sticky'].includes(getComputedStyle(e).position))
              faults.push(`sticks out by ${Math.round(box.right - width)} px: ${name(e)}`);
          }
          return faults.slice(0, 8);
        }"""
    )


def clipped_code(page) -> list[str]:
    """On a wide window every line of code is seen whole."""
    return page.evaluate(
        "() => {"
        + SEEN
        + """
          return [...document.querySelectorAll('main pre')]
            .filter((e) => seen(e) && e.scrollWidth > e.clientWidth + 1)
            .map((e) => `code is clipped by ${e.scrollWidth - e.clientWidth} px: ${name(e)}`);
        }"""
    )


def clipped_tables(page) -> list[str]:
    """On a wide window every column of a table is seen."""
    return page.evaluate(
        "() => {"
        + SEEN
        + """
          return [...document.querySelectorAll('.book-table-wrap')]
            .filter((e) => seen(e) && e.scrollWidth > e.clientWidth + 1)
            .map((e) => `a table is ${e.scrollWidth} px in ${e.clientWidth}: ${name(e)}`);
        }"""
    )


def figures(page) -> list[str]:
    """Every figure is drawn, is not empty, and has an alternative text."""
    return page.evaluate(
        """() => {
          const faults = [];
          const short = (text) => (text || '').slice(0, 60);
          for (const f of document.querySelectorAll('.book-plotly')) {
            const label = f.getAttribute('aria-label');
            if (f.getAttribute('role') !== 'img' || !label?.trim())
              faults.push(`figure without role img and aria-label: ${f.outerHTML.slice(0, 80)}`);
            if (!f.checkVisibility()) continue;
            const marks = [...f.querySelectorAll(
              '.trace :is(path, image, circle), .heatmaplayer image, .shapelayer path, canvas')];
            const drawn = marks.some((m) => m.tagName !== 'path' || m.getAttribute('d'));
            const box = f.querySelector('svg.main-svg')?.getBoundingClientRect();
            if (!box || box.width < 200 || box.height < 100 || !drawn)
              faults.push(`figure is empty: ${short(label)}`);
          }
          for (const i of document.querySelectorAll('main img')) {
            if (!i.alt.trim() && i.getAttribute('role') !== 'presentation')
              faults.push(`image without alternative text: ${i.src}`);
            if (!i.naturalWidth) faults.push(`image is not drawn: ${i.src}`);
          }
          for (const c of document.querySelectorAll('main canvas')) {
            if (c.closest('.book-plotly') || !c.checkVisibility()) continue;
            if (c.getAttribute('role') !== 'img' || !c.ariaLabel?.trim())
              faults.push(`canvas without role img and aria-label: ${c.outerHTML.slice(0, 80)}`);
            const read = () => c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            const pixels = c.width && c.height ? new Uint32Array(read().buffer) : [];
            if (!pixels.length || pixels.every((p) => p === pixels[0]))
              faults.push(`canvas is empty: ${short(c.ariaLabel)}`);
          }
          for (const s of document.querySelectorAll('main article svg')) {
            if (s.closest('.book-plotly, a, button, summary, .sd-octicon, .sd-material-icon') ||
                !s.checkVisibility())
              continue;
            const labelled = s.closest('[role=img][aria-label], [role=img][aria-labelledby]');
            if (!labelled && s.getAttribute('aria-hidden') !== 'true')
              faults.push(`drawing without role img and aria-label: ${s.outerHTML.slice(0, 80)}`);
            if (!s.querySelector('path, rect, circle, line, text, polygon, image'))
              faults.push(`drawing is empty: ${s.outerHTML.slice(0, 80)}`);
          }
          return faults;
        }"""
    )


def math(page) -> list[str]:
    """Every formula is typeset, and none is shown as it was typed."""
    return page.evaluate(
        """() => {
          const faults = [];
          for (const m of document.querySelectorAll('main .math'))
            if (!m.querySelector('mjx-container'))
              faults.push(`formula is not typeset: ${m.textContent.slice(0, 60)}`);
          for (const m of document.querySelectorAll('mjx-merror'))
            faults.push(`formula with an error: ${m.textContent.slice(0, 60)}`);
          const walk = document.createTreeWalker(document.querySelector('main') ?? document.body,
                                                 NodeFilter.SHOW_TEXT);
          for (let t = walk.nextNode(); t; t = walk.nextNode())
            if (/\\\\[([]|\\$\\$|\\\\(frac|sum|mathbb|phi)\\b/.test(t.data) &&
                !t.parentElement.closest('script, style, pre, code, mjx-container, textarea, svg'))
              faults.push(`formula is shown as typed: ${t.data.trim().slice(0, 60)}`);
          return faults;
        }"""
    )


COLOURS, ALL = ("color-contrast", "link-in-text-block"), ()
# Rules whose outcome can change with the width of the window.
STRUCTURE = ("aria-hidden-focus", "button-name", "link-name", "scrollable-region-focusable")
STRUCTURE += ("target-size", "heading-order", "nested-interactive", "label", "select-name")


def axe(page, only: tuple[str, ...] = ALL) -> list[str]:
    """What axe-core calls serious or critical, and a few of its rules beside."""
    if not page.evaluate("() => Boolean(window.axe)"):
        page.evaluate(AXE)
    found = page.evaluate(
        """async (only) => {
          // preload would fetch style sheets again, the ones they import from wrong addresses
          const options = { resultTypes: ['violations'], preload: false };
          if (only.length) options.runOnly = only;
          const { violations } = await axe.run(document, options);
          return violations.map((v) => ({ id: v.id, impact: v.impact, help: v.help,
            nodes: v.nodes.map((n) => [n.target.join(' '), n.html.slice(0, 120),
                                       (n.any[0] ?? n.all[0] ?? n.none[0])?.message ?? '']) }));
        }""",
        list(only),
    )
    return [
        f"{v['impact']} {v['id']} ({v['help']}), {len(v['nodes'])} times: {target} {html} {why}"
        for v in found
        if v["impact"] in ("serious", "critical") or v["id"] in ALSO
        for target, html, why in v["nodes"][:3]
    ]


def light_boxes(page) -> list[str]:
    """In dark mode nothing large stays light; the words of figures can be read in both."""
    return page.evaluate(
        "() => {"
        + SEEN
        + """
          const parse = (c) => {
            const n = (c.match(/[\\d.]+(?:e-?\\d+)?/g) ?? []).map(Number);
            if (c.startsWith('color(')) return [n[0] * 255, n[1] * 255, n[2] * 255, n[3] ?? 1];
            return [n[0], n[1], n[2], n[3] ?? 1];
          };
          const luminance = ([r, g, b]) => {
            const f = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
          };
          const behind = (e) => {
            for (let up = e; up; up = up.parentElement) {
              const c = parse(getComputedStyle(up).backgroundColor);
              if (c[3] > 0.5) return c;
            }
            return [255, 255, 255];
          };
          const contrast = (a, b) => {
            const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
            return (x + 0.05) / (y + 0.05);
          };
          const faults = [];
          if (document.documentElement.dataset.theme === 'dark')
            for (const e of document.querySelectorAll('main *')) {
              const box = e.getBoundingClientRect();
              if (e.closest('svg') || box.width * box.height < 3000 || !seen(e)) continue;
              const c = parse(getComputedStyle(e).backgroundColor);
              if (c[3] > 0.5 && luminance(c) > 0.5) faults.push(`light box: ${name(e)}`);
            }
          const words = '.book-plotly :is(.xtick, .ytick, .xtitle, .ytitle, .gtitle, ' +
            '.legendtext, .slider-label, .annotation-text, .g-xtitle, .g-ytitle) text, ' +
            '.book-plotly text:is(.legendtext, .xtitle, .ytitle, .gtitle)';
          const low = new Set();
          for (const t of document.querySelectorAll(words)) {
            if (!t.textContent.trim() || !seen(t)) continue;
            const c = contrast(parse(getComputedStyle(t).fill), behind(t.closest('.book-plotly')));
            if (c < 4.5) low.add(`contrast ${c.toFixed(1)} of "${t.textContent.slice(0, 40)}" in ` +
              t.closest('.book-plotly').getAttribute('aria-label')?.slice(0, 40));
          }
          return [...faults.slice(0, 8), ...low];
        }"""
    )


def controls(page) -> list[str]:
    """Each state of each select, slider, box and button of the text shows something of its own.

    What a reader is shown is the text and the drawing of the nearest figure or output. Its words,
    the alternative text among them, name what was chosen, or at least change with it.
    """
    return page.evaluate(
        "async () => {"
        + SEEN
        + """
          const faults = [];
          const tick = () => new Promise((done) => setTimeout(done, 30));
          const inputs = 'select, input:is([type=range], [type=checkbox], [type=radio], ' +
            '[type=number]), button:not(.copybtn)';
          const scope = (e) => e.closest('.book-figure, .book-lab, .cell_output, .sd-tab-set, ' +
            '.admonition, details') ??
            e.parentElement;
          const words = (e) => {
            const walk = document.createTreeWalker(e, NodeFilter.SHOW_TEXT), found = [];
            for (let t = walk.nextNode(); t; t = walk.nextNode())
              if (!t.parentElement.closest('script, style, select, .js-plotly-plot') &&
                  t.parentElement.checkVisibility({ visibilityProperty: true }))
                found.push(t.data);
            for (const d of e.querySelectorAll('[role=img]')) found.push(d.ariaLabel);
            return found.join(' ');
          };
          const shown = (e) => words(e) + [...e.querySelectorAll('svg')]
            .filter((c) => c.checkVisibility())
            .map((c) => c.innerHTML.replace(/(clip|trace|defs-|id=")[-\\w]*/g, '')).join('');
          const say = async (e, value) => {
            if (e.type === 'checkbox' || e.type === 'radio') e.checked = value;
            else e.value = value;
            e.dispatchEvent(new Event('input', { bubbles: true }));
            e.dispatchEvent(new Event('change', { bubbles: true }));
            await tick();
          };
          for (const e of document.querySelectorAll(
               inputs.split(', ').map((i) => 'main article ' + i).join(', '))) {
            if (!seen(e) || e.disabled) continue;
            const label = (e.labels?.[0]?.innerText ?? e.ariaLabel ?? e.innerText).trim()
              .split('\\n')[0];
            const where = `${label || name(e)} of ${scope(e).querySelector('[role=img]')
              ?.ariaLabel?.slice(0, 50) ?? name(scope(e))}`;
            if (!label) faults.push(`control without a name: ${where}`);
            if (e.tagName === 'BUTTON') {
              const press = async (button) => {
                const before = shown(scope(e));
                button.click(); await tick();
                return shown(scope(e)) !== before;
              };
              let live = await press(e);
              // "Back" has nothing to do until "on" was pressed.
              for (const other of scope(e).querySelectorAll('button:not(.copybtn)'))
                if (!live && other !== e && await press(other)) live = await press(e);
              if (!live) faults.push(`nothing happens: ${where}`);
              continue;
            }
            const first = e.type === 'checkbox' || e.type === 'radio' ? e.checked : e.value;
            let values = e.type === 'checkbox' ? [!first, first]
              : e.type === 'radio' ? [true]
              : e.tagName === 'SELECT' ? [...e.options].map((o) => o.value) : [];
            if (e.type === 'range' || e.type === 'number') {
              const [low, high] = [+e.min, +(e.max || 100)];
              const step = e.step === 'any' ? (high - low) / 12 : +(e.step || 1);
              const all = Math.round((high - low) / step), jump = Math.max(1, Math.ceil(all / 12));
              for (let i = 0; i <= all; i += jump) values.push(String(low + i * step));
            }
            if (!values.length) faults.push(`nothing could be tried: ${where}`);
            if (e.tagName === 'SELECT' && values.length === 1)
              faults.push(`nothing to choose: ${where}`);
            // What shows the same as another state, and what no word speaks of.
            const walk = async () => {
              const states = new Map(), texts = new Map(), same = [];
              for (const value of values) {
                await say(e, value);
                const [state, text] = [shown(scope(e)), words(scope(e))];
                const word = e.selectedOptions?.[0].innerText.split(/ ?[,:(]/)[0].toLowerCase();
                if (states.has(state))
                  same.push(`${value} shows the same as ${states.get(state)}`);
                else if (word && !text.toLowerCase().includes(word) && texts.has(text))
                  same.push(`no word tells ${value} from ${texts.get(text)}`);
                states.set(state, value);
                texts.set(text, value);
              }
              return same;
            };
            let same = await walk();
            // It may be another switch of the figure that leaves this one nothing to do.
            for (const other of scope(e).querySelectorAll('select')) {
              if (!same.length || other === e) continue;
              const was = other.value;
              for (const o of other.options) {
                await say(other, o.value);
                if (same.length) same = await walk();
              }
              await say(other, was);
            }
            faults.push(...same.map((fault) => `${fault}: ${where}`));
            await say(e, first);
          }
          return faults;
        }"""
    )


REACHABLE = "a[href], button, input, select, textarea, summary, [tabindex], [role=button]"


def keyboard(page) -> list[str]:
    """The Tab key reaches every control that is seen, and what takes clicks takes keys."""
    page.evaluate(
        # scrolled to the top first, where the theme hides its button that leads there
        "async () => {"
        + SEEN
        + f"""
          document.activeElement?.blur();
          window.scrollTo(0, 0);
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)));
          const left = 'a.headerlink, [type=hidden], [tabindex="-1"], :disabled';
          for (const e of document.querySelectorAll('{REACHABLE}'))
            if (seen(e) && !e.matches(left)) e.dataset.wanted = '';
        }}"""
    )
    limit = page.evaluate("() => document.querySelectorAll('[data-wanted]').length") * 2 + 200
    page.evaluate(
        """() => {
          window.stops = 0; window.wrapped = false;
          document.addEventListener('focusin', (event) => {
            delete event.target.dataset.wanted;
            for (let up = event.target; up; up = up.parentElement)
              delete up.dataset?.wanted;
            window.stops += 1;
          }, true);
        }"""
    )
    for pressed in range(limit):
        page.keyboard.press("Tab")
        if pressed % 20 == 19:
            left = page.evaluate("() => document.querySelectorAll('[data-wanted]').length")
            if not left:
                return []
    # The contents show the parts of the section that is scrolled to, and Tab scrolls: what was
    # hidden as Tab came by is reached from what stands before it.
    seen = (
        "() => {" + SEEN + "return [...document.querySelectorAll('[data-wanted]')].filter(seen);}"
    )
    for e in page.evaluate_handle(seen).get_properties().values():
        e.evaluate(
            "(e) => {"
            + SEEN
            + f"""
              const all = [...document.querySelectorAll('{REACHABLE}')].filter(
                (x) => x === e || (seen(x) && x.tabIndex >= 0 && !x.disabled));
              all[all.indexOf(e) - 1]?.focus({{ preventScroll: true }});
            }}"""
        )
        page.keyboard.press("Tab")
    return page.evaluate(
        "() => {"
        + SEEN
        + """
          return [...document.querySelectorAll('[data-wanted]')].filter(seen)
            .map((e) => `the Tab key does not reach ${name(e)}: ${e.outerHTML.slice(0, 120)}`);
        }"""
    )


def size(path: Path) -> list[str]:
    """A page by itself, without the scripts, styles and fonts that all pages share."""
    size = path.stat().st_size
    return [f"{path.name} has {size} bytes, of {PAGE_BYTES} at most"] * (size > PAGE_BYTES)


def plotly_where_needed(page) -> list[str]:
    """plotly.js is loaded by pages that have a figure, and by no others."""
    figure, loaded = page.evaluate(
        """() => [Boolean(document.querySelector('.book-plotly')),
                  Boolean(document.querySelector('script[src*="plotly"]'))]"""
    )
    if figure and not loaded:
        return ["a figure, and plotly.js is not loaded"]
    return ["plotly.js is loaded, and there is no figure"] * (loaded and not figure)


def first_paint(page) -> float:
    """Milliseconds to the first contentful paint of the page that was loaded."""
    entry = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    return page.wait_for_function(entry).json_value()


def origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
