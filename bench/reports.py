"""Studies as tables, for a terminal and for pages: each function returns what is to be shown."""

from . import limits as _limits
from . import style
from .studies import Study
from .tables import Table


def limits(study: Study) -> list:
    """The table of limits, then a line for each row that needs one."""
    shown = [_limits.table(study.rows, study.line)]
    why = [f"{r['work']} {r['shape']}: {r['reason']}" for r in study.rows if r["reason"]]
    return [*shown, "\n".join(why)] if why else shown


def memory(study: Study) -> list:
    """A table of peaks for each order and work, then one of the longest sequences."""
    shown = []
    peaks, sizes = study.select(kind="peak"), study.select(kind="fits")
    for causal in (False, True):
        for work in dict.fromkeys(r["work"] for r in peaks):
            case = {"causal": causal, "work": work}
            shown.append(_peaks([r for r in peaks if _is(r, case)], case, study))
    for causal in (False, True):
        for work in dict.fromkeys(r["work"] for r in sizes):
            case = {"causal": causal, "work": work}
            shown.append(_longest([r for r in sizes if _is(r, case)], case, study))
    return [table for table in shown if table.rows]


def _is(row, wanted) -> bool:
    return all(row.get(k) == v for k, v in wanted.items())


def _peaks(rows, case, study) -> Table:
    """Peak bytes beyond inputs and results, by contender and N, in MiB."""
    lengths = sorted({r["N"] for r in rows if r.get("N")})
    found = {(r["contender"], r.get("N")): r for r in rows}
    cells, notes = [], {}
    for i, name in enumerate(dict.fromkeys(r["contender"] for r in rows)):
        line = [next(r.get("label") or name for r in rows if r["contender"] == name)]
        for j, n in enumerate(lengths):
            r = found.get((name, n)) or found.get((name, None))
            if r is not None and r["status"] == "ok":
                extra, out = r["extra_bytes"], r["outputs_bytes"]
                line.append(f"{style.number(extra / 2**20)} ({style.number(100 * extra / out)} %)")
            else:
                line.append("–" if r is None else r["status"].replace("_", " "))
                notes[i, j + 1] = r["reason"] if r else ""
        cells.append(line)
    caption = (
        f"Peak memory beyond inputs and results [MiB], in brackets as a share of the results, "
        f"{style.order(case['causal'])}, {style.work_name(case['work'])}; {study.line}."
    )
    return Table(["contender", *map(style.length, lengths)], cells, caption, notes)


def _longest(rows, case, study) -> Table:
    """The longest sequence by contender and size: found, and as predicted."""
    sizes = sorted({r["limit_gib"] for r in rows})
    cells, notes = [], {}
    for i, name in enumerate(dict.fromkeys(r["contender"] for r in rows)):
        line = [next(r.get("label") or name for r in rows if r["contender"] == name)]
        for j, size in enumerate(sizes):
            r = next(x for x in rows if x["contender"] == name and x["limit_gib"] == size)
            if r["status"] == "ok":
                line.append(f"{r['fits_n']:,} ({r['predicted_n']:,})")
            elif r["status"] == "predicted":
                line.append(f"({r['predicted_n']:,})")
            else:
                line.append("–")
            if r["reason"]:
                notes[i, j + 1] = r["reason"]
        cells.append(line)
    caption = (
        f"Longest sequence that fits (in brackets: as predicted), "
        f"{style.order(case['causal'])}, {style.work_name(case['work'])}; {study.line}."
    )
    return Table(["contender", *(f"{s} GiB" for s in sizes)], cells, caption, notes)
