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
        page.on("console", lambda m: result["errors"].append(m.text) if m.type in ("error", "warning") else None)
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
        scale = box["width"] / 340
        middle = box["x"] + (42 + 116) * scale, box["y"] + (8 + 100) * scale
        page.mouse.click(*middle)
        result["clicked"] = [float(page.locator(f"#{c}").input_value()) for c in ("w", "b")]
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] - 58 * scale, middle[1] + 50 * scale, steps=3)  # a quarter of the plane
        page.mouse.up()
        result["dragged"] = [float(page.locator(f"#{c}").input_value()) for c in ("w", "b")]
        move(page, "tanh", 1.5, 0.3, 0.5, 20)
        page.locator(".handle").focus()
        for key in ("ArrowRight", "ArrowUp", "Shift+ArrowLeft"):
            page.keyboard.press(key)
        result["cross_by_key"] = [float(page.locator(f"#{c}").input_value()) for c in ("w", "b")]
        page.select_option("#activation", "relu")
        result["edge_of_relu"] = page.locator("#edge_words").inner_text()
        page.wait_for_timeout(500)
        result["spoken"] = page.locator("#status").inner_text()
        result["edge_line"] = {}
        for name in ("tanh", "erf", "elu", "gelu"):
            result["edge_line"][name] = page.evaluate("name => edgeOf(name)", name)
        result["colors"] = [page.evaluate("share => color(share)", i / 64) for i in range(65)]
        move(page, "tanh", 1.5, 0.3, 0.5, 20)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            colors = "(({ backgroundColor, color }) => [backgroundColor, color])(getComputedStyle(document.body))"
            result[scheme] = page.evaluate(colors)
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 900})
                wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                result["overflow"][f"{width} {scheme}"] = wide
                if screenshot:
                    page.screenshot(path=f"{screenshot}_{width}_{scheme}.png", full_page=True)
        phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True).new_page()
        phone.goto(url)
        phone.locator("#diagram").scroll_into_view_if_needed()
        box = phone.locator("#diagram").bounding_box()
        assert box
        phone.touchscreen.tap(box["x"] + (42 + 116) * box["width"] / 340, box["y"] + (8 + 100) * box["width"] / 340)
        result["tapped"] = [float(phone.locator(f"#{c}").input_value()) for c in ("w", "b")]
        client = phone.context.new_cdp_session(phone)
        scale = box["width"] / 340
        for kind, k in (("touchStart", 0), *(("touchMove", k) for k in range(1, 9)), ("touchEnd", None)):
            across, down = (0, 0) if k is None else (158 - 14.5 * max(k - 4, 0), 108 + 12.5 * min(k, 4))  # first down
            spot = {"x": box["x"] + across * scale, "y": box["y"] + down * scale}
            client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [] if k is None else [spot]})
        phone.wait_for_timeout(100)
        result["finger"] = [float(phone.locator(f"#{c}").input_value()) for c in ("w", "b")]
        browser.close()
    pathlib.Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
