"""The built website as one zip that opens without a server: `python -m book_ext.offline`.

Everything works from the unpacked folder: math, figures and their switches, the theme, and the
search, whose results come without the lines of text around what was found.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NAME = "gpu-optimization-book"
LEFT_OUT = {".buildinfo", ".nojekyll", "reports"}
NOTE = "Unpack this folder, and open index.html in a browser. No network is needed.\n"


def pack(site: Path, target: Path) -> list[str]:
    """Write the zip, in which all files lie in one folder; return their names."""
    files = [path for path in sorted(site.rglob("*")) if path.is_file() and wanted(path, site)]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{NAME}/README.txt", NOTE)
        for path in files:
            packed.write(path, Path(NAME, path.relative_to(site)))
        return packed.namelist()


def wanted(path: Path, site: Path) -> bool:
    """Whether readers need a file: not what serves the build, a server, or the theme's authors."""
    return path.suffix != ".map" and not LEFT_OUT & set(path.relative_to(site).parts)


def main() -> None:
    site = ROOT / "_build/html"
    if not (site / "index.html").exists():
        sys.exit("There is no book in _build/html: run `make book` first.")
    target = site.parent / f"{NAME}.zip"
    pack(site, target)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
