"""`make docs-shot`: a person's way through the page at /docs, in Chromium, and a picture of where it ends.

The key is entered, a chat completion is tried, and its 200 waited for. Whatever the page's policy forbids, or any
request to another place, fails it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import FloatRect, Page, sync_playwright

from tests.e2e.gateway import Gateway

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "docs-page.png"
CHROMIUM = "/usr/bin/chromium"
OPERATION = "#operations-Chat-createChatCompletion"
LIVE = ".live-responses-table .response"
WIDTH = 1100
MAX_BYTES = 300_000

HIDE_KEY = """key => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    texts.currentNode.data = texts.currentNode.data.replaceAll(key, "aistats_v1_sk_…");
  }
}"""


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        gateway = Gateway(Path(directory), local_model=True, workers=1).start()
        try:
            complaints = take(gateway)
        finally:
            gateway.stop()
    for complaint in complaints:
        print(complaint)
    size = PICTURE.stat().st_size
    print(f"{PICTURE.relative_to(PICTURE.parents[2])}: {size} bytes")
    return int(bool(complaints) or size > MAX_BYTES)


def take(gateway: Gateway) -> list[str]:
    """The picture; what the browser complained of meanwhile."""
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.on("console", lambda said: complaints.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(f"page: {error}"))
        page.on("request", lambda asked: _check(asked.url, gateway.url, complaints))
        try_it(page, gateway)
        page.evaluate(HIDE_KEY, gateway.key)
        page.screenshot(path=PICTURE, full_page=True, clip=_frame(page))
        browser.close()
    return complaints


def try_it(page: Page, gateway: Gateway) -> None:
    page.goto(f"{gateway.url}/docs")
    page.get_by_role("button", name="Authorize").first.click()
    page.get_by_label("auth-bearer-value").fill(gateway.key)
    page.get_by_role("button", name="Apply credentials").first.click()
    page.get_by_role("button", name="Close").first.click()
    operation = page.locator(OPERATION)
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Execute").click()
    live = operation.locator(LIVE)
    live.filter(has_text="200").wait_for(timeout=30_000)
    assert "chat.completion" in live.inner_text()


def _frame(page: Page) -> FloatRect:
    """From the operation's name to the end of the reply."""
    page.evaluate("scrollTo(0, 0)")
    first, last = (page.locator(f"{OPERATION} {part}").bounding_box() for part in (".opblock-summary", LIVE))
    assert first is not None
    assert last is not None
    return {"x": 0, "y": first["y"] - 16, "width": WIDTH, "height": last["y"] + last["height"] - first["y"] + 32}


def _check(url: str, origin: str, complaints: list[str]) -> None:
    if not url.startswith((f"{origin}/", "data:")):
        complaints.append(f"request: {url}")


if __name__ == "__main__":
    sys.exit(main())
