"""Works the playground in Chromium as a reader does, and writes what the page then says: CHROMIUM PAGE SETTINGS OUT."""

import json
import pathlib
import sys
from typing import Any

from playwright.sync_api import sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
#: Every setting through the function that the page draws from: mean and variance at the inputs of its table.
COMPUTE = """settings => settings.map(setting => {
  const { mean, variance, draws, notes } = playground.compute({ seed: 1, draws: 0, ...setting });
  const numbers = [...mean, ...variance, ...draws.flatMap((f) => [...f])];
  const rows = [...Array(13).keys()].map((i) => 10 * i);
  return { mean: rows.map((m) => mean[m]), variance: rows.map((m) => variance[m]), notes,
    finite: numbers.every(Number.isFinite) };
})"""
ANGLES = "nets => nets.map(net => playground.angleKernels(net, [0, 30, 60, 90, 120, 150, 180]))"
#: A sample of networks at one time: mean and variance over many seeds.
SAMPLE = """setting => { const at = [0, 35, 60, 95], n = 2000, found = [];
  for (let seed = 0; seed < n / 8; seed++)
    for (const f of playground.compute({ ...setting, draws: 8, seed }).draws) found.push(at.map((m) => f[m]));
  const mean = at.map((_, k) => found.reduce((s, f) => s + f[k], 0) / n);
  const { mean: exact, variance } = playground.compute({ ...setting, draws: 0, seed: 1 });
  return { mean, variance: at.map((_, k) => found.reduce((s, f) => s + (f[k] - mean[k]) ** 2, 0) / (n - 1)),
    exact: at.map((m) => exact[m]), exact_variance: at.map((m) => variance[m]) }; }"""
POINTS = "[...document.querySelectorAll('.point')].map((node) => [node.point.x, node.point.y])"
DRAWN = "[...document.querySelectorAll('svg *')].map((node) => node.cloneNode().outerHTML).join()"
NAN = f"/NaN|undefined|Infinity/.test(document.body.innerText + {DRAWN})"


def table(page):
    """What the page's tables say: x, mean, deviation; angle, Σ, Θ."""
    read = "id => [...document.getElementById(id).rows].map(r => [...r.cells].map(c => Number(c.dataset.value)))"
    return {name: page.evaluate(read, name) for name in ("values", "kernel_values")}


def settle(page):
    """Wait until the page has drawn, and has put its state into the address."""
    page.wait_for_timeout(450)


def at(page, x, y):
    """Where in the window a point of the plane lies."""
    return page.evaluate(
        "([x, y]) => { const box = document.getElementById('plane').getBoundingClientRect();"
        " return [box.left + plane.sx(x), box.top + plane.sy(y)]; }",
        [x, y],
    )


def slide(page, control, value):
    page.locator(f"#{control}").fill(str(value))


def by_controls(page, result):
    """Every control once, and then what the table says."""
    page.select_option("#activation", "gelu")
    for control, value in (("depth", 4), ("w", 1.25), ("b", 0.35), ("ridge", 31), ("t", 101), ("draws", 5)):
        slide(page, control, value)
    page.get_by_label("the last only").check()
    settle(page)
    result["controls"] = table(page) | {"hash": page.evaluate("location.hash"), "points": page.evaluate(POINTS)}


def by_mouse(page, result):
    page.get_by_role("button", name="Remove all").click()
    settle(page)
    result["empty"] = {"notes": page.locator("#notes").inner_text(), "nan": page.evaluate(NAN)}
    page.locator("#plane").scroll_into_view_if_needed()
    for x, y in ((-1.0, 0.5), (1.0, -0.5), (2.0, 1.0)):
        page.mouse.click(*at(page, x, y))
    settle(page)
    result["clicked"] = page.evaluate(POINTS)
    page.mouse.move(*at(page, 1.0, -0.5))
    page.mouse.down()
    page.mouse.move(*at(page, 0.5, 0.0), steps=4)
    page.mouse.move(*at(page, 0.0, 1.5), steps=4)
    page.mouse.up()
    settle(page)
    result["dragged"] = page.evaluate(POINTS)
    page.mouse.move(*at(page, 2.0, 1.0))
    page.mouse.down()
    page.mouse.move(*at(page, 2.0, 5.5), steps=6)
    page.mouse.up()
    settle(page)
    result["dragged_out"] = page.evaluate(POINTS)


def by_keys(page, result):
    page.locator("#add").focus()
    page.keyboard.press("Enter")
    settle(page)
    result["added"] = page.evaluate(POINTS)
    for key in ("ArrowUp", "Shift+ArrowLeft", "ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    settle(page)
    result["moved"] = page.evaluate(POINTS)
    result["spoken"] = page.locator("#status").inner_text()
    outline = "getComputedStyle(document.querySelector('.point:focus-visible .ring')).strokeWidth"
    result["focus"] = page.evaluate(outline)
    page.keyboard.press("PageUp")
    page.keyboard.press("Delete")
    settle(page)
    result["deleted"] = page.evaluate(POINTS)
    result["heir"] = page.evaluate("document.activeElement.closest('.point') !== null")


def by_touch(browser, url, result):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, offline=True)
    page = context.new_page()
    page.goto(f"{url}#points=")
    page.touchscreen.tap(*at(page, -1.0, 0.5))
    page.touchscreen.tap(*at(page, 1.5, -1.0))
    settle(page)
    result["tapped"] = page.evaluate(POINTS)
    client = context.new_cdp_session(page)
    path = [at(page, 1.5 - 0.25 * k, -1.0 + 0.5 * k) for k in range(5)]
    for kind, spot in (("touchStart", path[0]), *(("touchMove", p) for p in path[1:]), ("touchEnd", None)):
        points = [{"x": spot[0], "y": spot[1]}] if spot else []
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    settle(page)
    result["finger"] = page.evaluate(POINTS)
    context.close()


def main(chromium, path, settings, out):
    """Numbers, mouse, keyboard, touch, the address, motion, and two widths in light and dark."""
    given = json.loads(pathlib.Path(settings).read_text())
    for setting in [*given["settings"], *given["samples"]]:
        setting["t"] = float("inf") if setting["t"] == "inf" else setting["t"]
    result: dict[str, Any] = {"requests": [], "errors": [], "overflow": {}}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        url = pathlib.Path(path).resolve().as_uri()

        def opened(**options):
            page = browser.new_context(offline=True, **options).new_page()
            page.on("request", lambda r: result["requests"].append(r.url) if r.url.split("#")[0] != url else None)
            page.on("pageerror", lambda e: result["errors"].append(str(e)))
            page.on("console", lambda m: result["errors"].append(m.text) if m.type in ("error", "warning") else None)
            page.goto(url)
            return page

        page = opened(viewport={"width": 1280, "height": 900})
        result["settings"] = page.evaluate(COMPUTE, given["settings"])
        result["angles"] = page.evaluate(ANGLES, given["nets"])
        result["sample"] = [page.evaluate(SAMPLE, setting) for setting in given["samples"]]
        page.goto(f"{url}#points={given['points']}")
        by_controls(page, result)
        page.goto("about:blank")
        page.goto(url + result["controls"]["hash"])
        settle(page)
        result["again"] = table(page)
        by_mouse(page, result)
        by_keys(page, result)
        result["presets"] = []
        for name in ("gap", "chaos", "stop"):
            page.locator(f"[data-preset={name}]").click()
            settle(page)
            result["presets"].append([page.evaluate("location.hash"), page.evaluate(NAN)])
        page.goto(url + "#depth=99&points=1,2;x&activation=tanh&w=")
        settle(page)
        result["wrong"] = page.locator("#notes").inner_text()
        for name, options in (("film", {}), ("still", {"reduced_motion": "reduce"})):
            moving = opened(**options)
            slide(moving, "t", 150)
            moving.locator("#play").click()
            moving.wait_for_timeout(600)
            result[name] = [moving.locator("#t").input_value(), moving.locator("#play").inner_text()]
        by_touch(browser, url, result)
        for scheme in ("light", "dark"):
            page = opened(color_scheme=scheme)
            for width in (1280, 768, 390):
                page.set_viewport_size({"width": width, "height": 844})
                wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                result["overflow"][f"{width} {scheme}"] = wide
            paper, ink = page.evaluate("(({ backgroundColor, color }) => [backgroundColor, color])"
                                       "(getComputedStyle(document.body))")  # fmt: skip
            result[scheme] = [paper, ink]
        browser.close()
    pathlib.Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
