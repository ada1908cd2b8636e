"""The replay of a kernel as a picture that a slider walks through; it needs no library and no GPU.

The tensors are drawn as they lie in memory, a cell for each sector of 32 bytes. What is touched in
the current step has the colour of its program; what was touched before stays grey, and darker the
oftener it was loaded.
"""

import html
import json
from dataclasses import dataclass

from . import style, tables
from .diagrams import PALETTE
from .errors import BenchError
from .replay import SECTOR, Replay

SCRIPT = """
(() => {
  const root = document.currentScript.previousElementSibling;
  const replays = JSON.parse(root.querySelector("script").textContent);
  const [canvas, slider, words] = ["canvas", "input", "p"].map((x) => root.querySelector(x));
  const choice = root.querySelector("select");
  const palette = [...PALETTE, "#B5179E"]; // the matrix product has nine programs
  const label = 64, gap = 26, top = 40;

  // Tall tensors are drawn lying down, so that a row of memory is a column of the picture.
  const placed = ([rows, width]) => (rows > 3 * width ? [rows, width, true] : [width, rows, false]);

  function sectors(event) {
    return event.runs.flatMap(([first, length]) =>
      Array.from({ length }, (_, i) => first + i));
  }

  function sentence(replay, step) {
    const now = replay.events.filter((e) => e.step === step);
    const before = replay.events.filter((e) => e.step < step && e.kind === "loaded");
    const groups = new Map();
    for (const e of now) {
      const key = `${e.kind} ${e.tensor}`;
      groups.set(key, [...(groups.get(key) || []), e]);
    }
    const parts = [...groups.values()].map((events) => {
      const who = [...new Set(events.map((e) => e.program))];
      const asked = events.reduce((sum, e) => sum + e.asked, 0);
      const seen = new Set(
        before.filter((e) => e.tensor === events[0].tensor).flatMap(sectors));
      const fetched = events.flatMap(sectors);
      let again = 0;
      for (const s of fetched) {
        if (seen.has(s)) again += 1;
        seen.add(s);
      }
      const { kind, tensor } = events[0];
      const verb = kind === "loaded" ? "load" : "store";
      const name = who.length > 1
        ? `programs ${who.join(", ")} ${verb} ${tensor}` : `program ${who} ${verb}s ${tensor}`;
      const words = `${name}: ${asked} bytes in ${fetched.length} sectors`;
      const repeated = kind === "loaded" && again ? `, ${again} of them once more` : "";
      return words + repeated;
    });
    const place = `Step ${step + 1} of ${replay.steps.length}, ${replay.steps[step]}: `;
    return place + parts.join("; ") + ".";
  }

  function draw() {
    const replay = replays[choice.value];
    const step = Number(slider.value);
    slider.max = replay.steps.length - 1;
    const width = root.clientWidth, scale = window.devicePixelRatio || 1;
    const boxes = [];
    let y = top;
    for (const [name, size] of Object.entries(replay.tensors)) {
      const [columns, lines, lying] = placed(size);
      const w = Math.min(14, (width - label - 8) / columns);
      const h = Math.max(lines > 40 ? 4 : 9, Math.min(14, lines > 8 ? w : 14));
      boxes.push({ name, size, columns, lines, lying, w, h, y });
      y += lines * h + gap;
    }
    canvas.width = width * scale;
    canvas.height = y * scale;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${y}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const ink = getComputedStyle(root).color;
    pen.font = "14px " + getComputedStyle(root).fontFamily;
    pen.textBaseline = "middle";
    const now = replay.events.filter((e) => e.step === step).map((e) => e.program);
    let x = label;
    for (const program of [...new Set(now)].sort((a, b) => a - b)) {
      pen.fillStyle = palette[program % palette.length];
      pen.fillRect(x, 6, 12, 12);
      pen.fillStyle = ink;
      pen.fillText(program, x + 16, 13);
      x += 22 + pen.measureText(program).width;
    }
    pen.fillText("program", 0, 13);
    for (const box of boxes) {
      const [rows, across] = box.size;
      const at = (s) => {
        const r = Math.floor(s / across), c = s % across;
        return box.lying ? [r, c] : [c, r];
      };
      const cell = (s, part = 0, of = 1) => {
        const [c, l] = at(s);
        const inner = box.w > 4 ? box.w - 1 : box.w, high = box.h - 1;
        // Programs that share a cell share its longer side.
        const [x, y] = [label + c * box.w, box.y + l * box.h];
        if (high > inner) pen.fillRect(x, y + (part * high) / of, inner, high / of);
        else pen.fillRect(x + (part * inner) / of, y, inner / of, high);
      };
      pen.fillStyle = ink;
      pen.globalAlpha = 1;
      pen.fillText(box.name, 0, box.y + (box.lines * box.h) / 2);
      const counts = new Array(rows * across).fill(0);
      const present = new Map();
      for (const e of replay.events) {
        if (e.tensor !== box.name || e.step > step) continue;
        for (const s of sectors(e)) {
          if (e.step < step) counts[s] += 1;
          else present.set(s, [...(present.get(s) || []), e]);
        }
      }
      for (let s = 0; s < counts.length; s++) {
        pen.fillStyle = ink;
        pen.globalAlpha = 0.1 + Math.min(0.5, 0.2 * counts[s]);
        cell(s);
        const events = present.get(s) || [];
        pen.globalAlpha = 1;
        events.forEach((e, i) => {
          pen.fillStyle = palette[e.program % palette.length];
          cell(s, i, events.length);
        });
      }
    }
    words.textContent = sentence(replay, step);
    canvas.setAttribute("aria-label", words.textContent);
    for (const numbers of root.querySelectorAll("[data-replay]")) {
      numbers.hidden = numbers.dataset.replay !== choice.value;
    }
  }

  slider.addEventListener("input", draw);
  choice.addEventListener("change", () => { slider.value = 0; draw(); });
  const [back, on] = root.querySelectorAll("button");
  back.addEventListener("click", () => { slider.stepDown(); draw(); });
  on.addEventListener("click", () => { slider.stepUp(); draw(); });
  new ResizeObserver(draw).observe(root);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  draw();
})();
"""


@dataclass(frozen=True)
class Player:
    """Replays under names, of which one is shown; a slider walks its steps.

    Raises BenchError where there is none, or one without a step.
    """

    replays: dict[str, Replay]

    def __post_init__(self):
        empty = [name for name, replay in self.replays.items() if not replay.steps]
        if not self.replays or empty:
            which = f"{empty[0]!r} of it has no step" if empty else "there is none"
            raise BenchError(f"A player needs a replay with a step or more, and {which}.")

    def _repr_html_(self) -> str:
        data = json.dumps(list(map(plain, self.replays.values()))).replace("</", "<\\/")
        options = "".join(
            f'<option value="{i}">{html.escape(name)}</option>'
            for i, name in enumerate(self.replays)
        )
        first = next(iter(self.replays.values()))
        numbers = "".join(
            f'<div data-replay="{i}"{" hidden" if i else ""}>{table._repr_html_()}</div>'
            for i, table in enumerate(map(summary, self.replays.values()))
        )
        script = SCRIPT.replace("PALETTE", json.dumps(PALETTE))
        return (
            '<div class="book-replay">'
            f'<script type="application/json">{data}</script>'
            '<div class="book-switch">'
            f'<label>Kernel <select autocomplete="off">{options}</select></label>'
            '<button type="button" aria-label="One step back">◀</button>'
            '<label>Step <input type="range" autocomplete="off" min="0" '
            f'max="{len(first.steps) - 1}" value="0"></label>'
            '<button type="button" aria-label="One step on">▶</button></div>'
            '<p aria-live="polite" style="min-height: 4.5em"></p>'
            '<canvas role="img" aria-label="The accesses of a kernel"></canvas>'
            f"{numbers}</div><script>{script}</script>"
        )

    def __repr__(self) -> str:
        return "\n\n".join(f"{name}\n{summary(r)}" for name, r in self.replays.items())


def plain(replay: Replay) -> dict:
    """A replay as JSON that the script reads."""
    return {
        "tensors": replay.tensors,
        "steps": replay.steps,
        "events": [vars(event) for event in replay.events],
    }


def summary(replay: Replay) -> tables.Table:
    """For each tensor what was asked for, what was fetched, and how often at most."""
    rows = []
    for name in replay.tensors:
        loads = replay.fetched(name)
        stores = replay.fetched(name, "stored")
        asked = sum(e.asked for e in replay.events if (e.tensor, e.kind) == (name, "loaded"))
        rows.append(
            [
                name,
                str(asked),
                str(SECTOR * sum(loads)),
                style.number(replay.use(name)) if asked else "–",
                str(max(loads)),
                str(SECTOR * sum(stores)),
            ]
        )
    columns = ["tensor", "asked [B]", "fetched [B]", "use", "loaded at most", "stored [B]"]
    return tables.Table(columns, rows, "Counted while the kernel ran in Triton's interpreter.")
