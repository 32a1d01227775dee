"""Put the files of swagger-ui-dist that the page at /docs needs into the package, as scripts/docs-page pins them.

Run by `make docs-page`. The large files are kept compressed, as they are sent.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS = ROOT / "scripts" / "docs-page"
BUILD = ROOT / "build" / "docs-page"
PAGE = ROOT / "src" / "rest_bridge" / "docs_page"

ZIPPED = ("swagger-ui-bundle.js", "swagger-ui.css")
COPIED = ("favicon-32x32.png", "LICENSE", "NOTICE")


def install() -> Path:
    """The package's own files, whose integrity npm has checked against the lock."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(PINS / name, BUILD / name)
    npm = Path(sys.prefix) / "bin" / "npm"
    command = [npm if npm.exists() else "npm", "ci", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(command, cwd=BUILD, check=True)  # noqa: S603 - nothing of it comes from outside
    return BUILD / "node_modules" / "swagger-ui-dist"


def main() -> None:
    package = install()
    for name in ZIPPED:
        (PAGE / f"{name}.gz").write_bytes(gzip.compress((package / name).read_bytes(), 9, mtime=0))
    for name in COPIED:
        shutil.copy(package / name, PAGE / name)


if __name__ == "__main__":
    main()
