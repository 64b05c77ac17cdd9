"""Moves the explorer's controls in Chromium and writes what the page then says: CHROMIUM PAGE OUT [SCREENSHOT]."""

import ast
import json
import os
import pathlib
import sys
from typing import Any

from playwright.sync_api import sync_playwright

FIELDS = ("phase", "q", "chi_1", "c", "xi_q", "xi_c", "one_minus_c", "diagonal", "off", "ratio")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


def read(page):
    return {field: page.locator(f"#{field}").get_attribute("data-value") for field in FIELDS}


def move(page, name, w_std, b_std, rho, depth):
    page.select_option("#activation", name)
    for control, value in (("w", w_std), ("b", b_std), ("rho", rho)):
        page.locator(f"#{control}").fill(str(value))
    slider = page.evaluate("depth => Math.round(Math.log10(depth) * 100) / 100", depth)
    page.locator("#depth").fill(str(slider))
    assert page.locator("#depth_text").inner_text() == str(depth), page.locator("#depth_text").inner_text()


def main(chromium, path, out, screenshot=None):
    """Each control, the button, the diagram, the keyboard, and two widths."""
    result: dict[str, Any] = {"requests": [], "errors": [], "overflow": {}}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
        page = context.new_page()
        url = pathlib.Path(path).resolve().as_uri()
        page.on("request", lambda r: result["requests"].append(r.url) if r.url != url else None)
        page.on("pageerror", lambda e: result["errors"].append(str(e)))
        page.goto(url)
        result["settings"] = []
        for setting in ast.literal_eval(os.environ["EXPLORER_SETTINGS"]):
            move(page, *setting)
            result["settings"].append(read(page))
        move(page, "tanh", 1.5, 0.3, 0.5, 20)
        for control, key in (("w", "ArrowRight"), ("b", "ArrowLeft"), ("rho", "ArrowRight")):
            page.locator(f"#{control}").focus()
            page.keyboard.press(key)
        result["by_key"] = [float(page.locator(f"#{c}").input_value()) for c in ("w", "b", "rho")]
        move(page, "tanh", 1.5, 0.3, 0.5, 20)
        page.locator("#edge").focus()
        page.keyboard.press("Enter")
        result["edge"] = read(page) | {"w": page.locator("#w").input_value()}
        page.locator("#diagram").scroll_into_view_if_needed()
        box = page.locator("#diagram").bounding_box()
        assert box
        scale = box["width"] / 320
        page.mouse.click(box["x"] + (42 + 134) * scale, box["y"] + (8 + 100) * scale)  # the middle of the plane
        result["clicked"] = [float(page.locator(f"#{c}").input_value()) for c in ("w", "b")]
        move(page, "tanh", 1.5, 0.3, 0.5, 20)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            result["overflow"][width] = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            if screenshot:
                page.screenshot(path=f"{screenshot}_{width}.png", full_page=True)
        browser.close()
    pathlib.Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
