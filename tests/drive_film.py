"""Plays a film in Chromium, alone and in a frame, and writes what the page then says: CHROMIUM PAGE FRAME OUT."""

import json
import pathlib
import sys
from typing import Any

from playwright.sync_api import sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
#: Where the digits stand and what is written: [digit, x, y] in units of the panel, with y upwards.
DIGITS = """[...document.querySelectorAll('.image')].map((node) => {
  const [x, y] = node.style.transform.match(/-?[0-9.]+/g).map(Number);
  return [Number(node.textContent), (x - 150) / 138, (150 - y) / 138]; })"""
#: The grey values of the heat map as it is drawn, [N][N].
DRAWN = """async () => { const image = new Image();
  image.src = document.querySelector('#map image').getAttribute('href');
  await image.decode();
  const canvas = document.createElement('canvas'), n = canvas.width = canvas.height = image.width;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, n, n).data;
  const grey = (k) => 0.299 * pixels[4 * k] + 0.587 * pixels[4 * k + 1] + 0.114 * pixels[4 * k + 2];
  return Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => grey(n * i + j))); }"""


def told(page):
    """What the page says and draws at the present time."""
    return {
        "status": page.locator("#status").inner_text(),
        "digits": page.evaluate(DIGITS),
        "drawn": page.evaluate(DRAWN),
        "spoken": page.locator("#time").get_attribute("aria-valuetext"),
    }


def main(chromium, path, frame, out):
    """Slider, keys and button; two widths; a frame in a dark page."""
    result: dict[str, Any] = {"requests": [], "errors": [], "overflow": {}}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        urls = [pathlib.Path(name).resolve().as_uri() for name in (path, frame)]
        page = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True).new_page()
        page.on("request", lambda r: result["requests"].append(r.url) if r.url.startswith("http") else None)
        page.on("pageerror", lambda e: result["errors"].append(str(e)))
        page.on("console", lambda m: result["errors"].append(m.text) if m.type in ("error", "warning") else None)
        page.goto(urls[0])
        result["times"] = []
        for t in range(int(page.locator("#time").get_attribute("max") or 0) + 1):
            page.locator("#time").fill(str(t))
            result["times"].append(told(page))
        page.locator("#time").focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        result["by_key"] = page.locator("#time").input_value()
        page.locator("#time").fill(page.locator("#time").get_attribute("max") or "")
        page.locator("#play").click()  # from the end it begins anew
        result["playing"] = page.locator("#play").inner_text(), page.locator("#time").input_value()
        page.wait_for_function("document.getElementById('play').textContent === 'Play'", timeout=20_000)
        result["played"] = page.locator("#time").input_value()
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            page.wait_for_timeout(100)
            wide, high = page.evaluate("[document.documentElement.scrollWidth, document.body.offsetHeight]")
            result["overflow"][str(width)] = wide - width, high
        page.goto(urls[1])
        inner = page.frames[1]
        inner.wait_for_function("document.getElementById('status').textContent !== ''")
        page.wait_for_timeout(200)
        result["frame"] = {
            "dark": inner.evaluate("document.documentElement.className"),
            "left_out": inner.evaluate("document.documentElement.scrollHeight - innerHeight"),
            "status": inner.locator("#status").inner_text(),
            "around": page.locator("body").inner_text(),
        }
        page.evaluate("document.body.dataset.theme = 'light'")
        page.wait_for_timeout(100)
        result["frame"]["light"] = inner.evaluate("document.documentElement.className")
        browser.close()
    pathlib.Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
