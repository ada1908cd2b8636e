"""Studies as tables, for a terminal and for pages: each function returns a Report."""

import html

from . import limits as _limits
from . import studies, style, tables
from .contenders import label as contender_label
from .results import STEADY
from .studies import Study
from .studies.launches import slow_and_others
from .studies.memory import batch_of
from .tables import Table


class Report(list):
    """Tables and sentences that are shown one below the other; `part(i)` shows some of them."""

    open = None  # how many a page shows at once, None: all; the others open on a click

    def part(self, *which: int) -> "Report":
        return Report(self[i] for i in which if i < len(self))

    def folded(self, shown: int) -> "Report":
        """The same with all but the first few behind a heading that opens."""
        report = Report(self)
        report.open = shown
        return report

    def _repr_html_(self) -> str:
        parts = [
            x._repr_html_() if isinstance(x, Table) else f"<p>{html.escape(x)}</p>" for x in self
        ]
        shown = len(parts) if self.open is None else self.open
        first, rest = "\n".join(parts[:shown]), "\n".join(parts[shown:])
        if not rest:
            return first
        heading = f"The other {len(parts) - shown} tables" if shown else "The tables"
        return f"{first}\n<details><summary>{heading}</summary>{rest}</details>"

    def __str__(self) -> str:
        return "\n\n".join(map(str, self))

    __repr__ = __str__


def recorded(name: str, directory=None) -> Report:
    """What is recorded of a study, the book's own GPU first, or a sentence where nothing is.

    For studies that take too long to be measured while a page is built. The tables of every further
    GPU follow; each says in its caption which GPU it is of.
    """
    found = studies.recorded(name, directory)
    if not found:
        return Report([f"Nothing is recorded yet: python -m bench study {name} measures it."])
    return Report(part for study in found for part in globals()[name](study))


def limits(study: Study) -> Report:
    """The table of limits, then a line for each row that needs one."""
    shown = [_limits.table(study.rows, study.line)]
    why = [f"{r['work']} {r['shape']}: {r['reason']}" for r in study.rows if r["reason"]]
    return Report([*shown, "\n".join(why)] if why else shown)


def launches(study: Study) -> Report:
    """The slow one of four launches beside the others: by arguments, then by contender."""
    own, theirs, notes = [], [], {}
    for rows in _together(study.select(part="arguments"), "arguments"):
        n = rows[0]["arguments"]
        own.append([str(n), f"{8 * n:,}", *_slow_and_others(rows)])
    for rows in _together(study.select(part="contenders"), "contender", "causal"):
        r = rows[0]
        if r["status"] != "ok":
            notes[len(theirs), 2] = r["reason"]
        launches = str(r["launches"]) if r["status"] == "ok" else r["status"].replace("_", " ")
        line = [contender_label(r["contender"]), style.order(r["causal"]), launches]
        theirs.append([*line, *_slow_and_others(rows)])
    times = ["one of four [µs]", "the other three [µs]", "ratio"]
    shape = "({B}, {H}, {N}, {D}), {work}".format(**study.select(part="contenders")[0])
    return Report([
        Table(
            ["arguments", "bytes", *times], own,
            f"A kernel of one thread that adds its arguments, median; {study.line}.",
        ),
        Table(
            ["contender", "order", "launches of a call", *times], theirs,
            f"{shape}, median, by the launches before the call; {study.line}.", notes,
            words=("order",),
        ),
    ])  # fmt: skip


def _together(rows: list[dict], *columns: str) -> list[list[dict]]:
    """Rows that have these columns in common, in their order."""
    found = {}
    for r in rows:
        found.setdefault(tuple(r[c] for c in columns), []).append(r)
    return list(found.values())


def _slow_and_others(rows: list[dict]) -> list[str]:
    """Time of the slow phase, median of the others' [µs], and their ratio."""
    if rows[0]["status"] != "ok":
        return ["–", "–", "–"]
    slow, others = slow_and_others(rows)
    return [style.number(1e3 * slow), style.number(1e3 * others), f"{slow / others:.3f}"]


def memory(study: Study) -> Report:
    """What calls need beside their tensors, the longest sequences, then the whole peaks: a table
    for each order and work."""
    shown = []
    for make, kind in ((_peaks, "peak"), (_longest, "fits"), (_held, "peak")):
        rows = [r for r in study.select(kind=kind) if "work" in r]
        for causal in (False, True):
            for work in dict.fromkeys(r["work"] for r in rows):
                case = {"causal": causal, "work": work}
                shown.append(make([r for r in rows if _is(r, case)], case, study))
    shown = [table for table in shown if table.rows]
    missed, gpu = [r for r in study.select(kind="peak") if "work" not in r], study.provenance.gpu
    return Report([*shown, *(f"{gpu}, {r['contender']}: {r['reason']}" for r in missed)])


def _is(row, wanted) -> bool:
    return all(row.get(k) == v for k, v in wanted.items())


def _peaks(rows, case, study) -> Table:
    """Peak bytes beyond inputs and results, by contender and N, in MiB."""

    def cell(r):
        extra, out = r["extra_bytes"], r["outputs_bytes"]
        return f"{style.number(extra / 2**20)} ({style.number(100 * extra / out)} %)"

    what = "Peak memory beyond inputs and results [MiB], in brackets as a share of the results"
    return _by_length(rows, case, study, cell, what)


def _held(rows, case, study) -> Table:
    """Peak bytes of all tensors, and of what the allocator took from the GPU, in MiB."""

    def cell(r):
        both = r["peak_allocated_bytes"], r["peak_reserved_bytes"]
        return " / ".join(style.number(b / 2**20, 4) for b in both)

    what = "Peak memory with inputs and results [MiB], allocated / reserved by PyTorch's allocator"
    return _by_length(rows, case, study, cell, what)


def _by_length(rows, case, study, cell, what: str) -> Table:
    """A row for each contender and a column for each N; `cell(row)` writes what was measured."""
    lengths = sorted({r["N"] for r in rows if r.get("N")})
    found = {(r["contender"], r.get("N")): r for r in rows}
    cells, notes = [], {}
    for i, name in enumerate(dict.fromkeys(r["contender"] for r in rows)):
        line = [next(r.get("label") or name for r in rows if r["contender"] == name)]
        for j, n in enumerate(lengths):
            r = found.get((name, n)) or found.get((name, None))
            if r is not None and r["status"] == "ok":
                line.append(cell(r))
            else:
                line.append("–" if r is None else r["status"].replace("_", " "))
                notes[i, j + 1] = r["reason"] if r else ""
        cells.append(line)
    order, work = style.order(case["causal"]), style.work_name(case["work"])
    caption = f"{what}, {order}, {work}; {study.line}."
    return Table(["contender", *map(style.length, lengths)], cells, caption, notes)


def _longest(rows, case, study) -> Table:
    """The longest sequence by contender and size: found, and as predicted."""
    sizes = sorted({r["limit_gib"] for r in rows})
    cells, notes = [], {}
    for i, name in enumerate(dict.fromkeys(r["contender"] for r in rows)):
        line = [next(r.get("label") or name for r in rows if r["contender"] == name)]
        for j, size in enumerate(sizes):
            mine = [x for x in rows if x["contender"] == name and x["limit_gib"] == size]
            r = mine[0] if mine else {"status": "missing", "reason": _why(study, name)}
            if r["status"] == "ok":
                line.append(f"{r['fits_n']:,} ({r['predicted_n']:,})")
            elif r["status"] == "predicted":
                line.append(f"{batch_of(r)} ({r['predicted_n']:,})".lstrip())
            else:
                line.append("–")
            if r["reason"]:
                notes[i, j + 1] = r["reason"]
        cells.append(line)
    caption = (
        f"Longest sequence that fits (in brackets: as predicted), "
        f"{style.order(case['causal'])}, {style.work_name(case['work'])}; {study.line}."
    )
    if any("×" in text for line in cells for text in line[1:]):
        caption += (
            " b × N: run as b sequences of N tokens, since a call of that length takes too long; "
            "together they have the tokens of a whole batch of predicted length, or nearly."
        )
    return Table(["contender", *(f"{s} GiB" for s in sizes)], cells, caption, notes)


def _why(study, name: str) -> str:
    """Why rows of a contender are missing."""
    ended = [r for r in study.select(kind="peak", contender=name) if "work" not in r]
    return "; ".join(r["reason"] for r in ended) or "not measured in time"


def profile(study: Study) -> Report:
    """Ceilings, shapes against them, kernels of each shape, what was compiled, and counters."""
    shown = [
        _columns(
            study.select(kind="ceiling"),
            {"what": "ceiling", "median_ms": "ms", "GBps": "GB/s", "TFLOPs": "TFLOP/s"},
            f"Measured ceilings; {study.line}.",
        ),
        _columns(
            [r | {"shape": _shape(r)} for r in study.select(kind="case")],
            {
                "shape": "shape",
                "work": "work",
                "median_ms": "ms",
                "GBps": "GB/s",
                "share_of_copy": "of copy",
                "TFLOPs": "TFLOP/s",
                "share_of_matmul": "of matmul",
                "flops_per_byte": "FLOPs / byte",
            },
            f"Ideal bytes and FLOPs over the time; {study.line}.",
        ),
        _columns(
            [r | {"shape": _shape(r)} for r in study.select(kind="kernel") if "kernel" in r],
            {
                "shape": "shape",
                "work": "work",
                "kernel": "kernel",
                "launches": "launches",
                "ms": "ms",
                "share": "share",
            },
            f"Kernel by kernel, from torch.profiler; {study.line}.",
        ),
    ]
    compiled = study.select(kind="compiled")
    shown.append(
        _columns(
            compiled,
            {
                "kernel": "kernel",
                "num_warps": "warps",
                "num_stages": "stages",
                "registers": "registers",
                "spills": "spills",
                "shared_bytes": "shared [B]",
                "constants": "compiled with",
            },
            f"What the compiler made; {study.line}.",
        )
    )
    for mark, what in (
        ("loop: ", "SASS instructions of one turn of the main loop, by class"),
        ("all: ", "SASS instructions in all, by class"),
        ("ptx: ", "PTX instructions that tell how a kernel computes, in all"),
    ):
        kinds = sorted({k for r in compiled for k in r if k.startswith(mark)})
        # there are so many classes that one long name makes the table wider than a page
        named = {k: k.removeprefix(mark).replace("asynchronous", "async.") for k in kinds}
        columns = {"kernel": "kernel", **named}
        shown.append(_columns(compiled if kinds else [], columns, f"{what}; {study.line}."))
    counters = study.select(kind="counters")
    names = {k: k.replace("_", " ") for r in counters for k in r if k.endswith(("_percent",))}
    good = [r for r in counters if r["status"] == "ok"]
    if good:
        columns = {"kernel": "kernel", "read_bytes": "read [B]", "written_bytes": "written [B]"}
        shown.append(_columns(good, columns | names, f"Hardware counters by ncu; {study.line}."))
    shown = [table for table in shown if table.rows]
    others = dict.fromkeys(
        r["contender"] for r in study.rows if r.get("contender", "book") != "book"
    )
    shown += [f"All of it is of {contender_label(name)}, not of the book." for name in others]
    reasons = dict.fromkeys(r["reason"] for r in study.rows if r.get("reason"))
    return Report([*shown, *(["\n".join(reasons)] if reasons else [])])


def _shape(row) -> str:
    causal = style.order(row["causal"])
    return f"({row['B']}, {row['H']}, {row['N']}, {row['D']}) {causal}"


def _columns(rows, columns: dict[str, str], caption: str) -> Table:
    """The named columns of rows; numbers in three digits, a dash where there is none."""

    def cell(value):
        if value is None or isinstance(value, str):
            return value or "–"
        return style.number(value) if isinstance(value, float) else str(value)

    words = ("shape", "work", "kernel", "compiled with")
    cells = [[cell(row.get(name)) for name in columns] for row in rows]
    return Table(list(columns.values()), cells, caption, words=words)


def contenders(study: Study) -> Report:
    """A table for each length, order and work: every contender, the fastest first."""
    shown = []
    keys = ("B", "N", "causal", "work")
    for case in sorted({tuple(r[k] for k in keys) for r in study.rows}, reverse=True):
        _, n, causal, work = case
        rows = study.select(**dict(zip(keys, case, strict=True)))
        rows.sort(key=lambda r: (r["status"] != "ok", r.get("median_ms") or 0))
        cells, notes = [], {}
        for i, r in enumerate(rows):
            good = r["status"] == "ok"
            void = good and r["p80_ms"] > STEADY * r["p20_ms"]
            share = style.number(r["share_of_floor"], 2) if good else "–"
            if void or (r.get("floor_spread") or 1.0) > STEADY:
                share = tables.VOID
            time = style.number(r["median_ms"]) if good else r["status"].replace("_", " ")
            time += tables.marks(void, r.get("host_included"))
            function = r["family"] + ("" if r.get("normalized", True) else ", not normalized")
            cells.append([r["label"], function, r["outside"] or "nothing", time, share])
            if r["reason"]:
                notes[i, 3] = r["reason"]
        first = rows[0]
        caption = (
            f"({first['B']}, {first['H']}, {style.length(n)}, {first['D']}), "
            f"{style.order(causal)}, {style.work_name(work)}; {study.line}."
        )
        caption += tables.footnote(cells)
        columns = ["contender", "computes", "made ready", "time [ms]", "share of copy speed"]
        words = ("computes", "made ready")
        shown.append(Table(columns, cells, caption, notes, words=words))
    return Report(shown)
