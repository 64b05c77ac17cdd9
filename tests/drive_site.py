"""Opens pages of the site in Chromium, offline, and writes what went wrong: CHROMIUM SITE OUT [PAGES [SHOTS]].

PAGES are names with commas between; without them, or with "all", every page is opened. SHOTS is a folder for pictures.
"""

import json
import pathlib
import sys
from typing import Any

from playwright.sync_api import sync_playwright

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
#: What a page says of itself once it is loaded.
LOOK = """() => ({
    equations: document.querySelectorAll(".math").length,
    typeset: document.querySelectorAll(".math > mjx-container, .math mjx-container").length,
    wrong: [...document.querySelectorAll("[data-mjx-error]")].map(e => e.getAttribute("data-mjx-error")),
    cut: [...document.querySelectorAll("div.math")].filter(e => e.scrollWidth > e.clientWidth)
        .map(e => e.innerText.replace(/\\s+/g, "")),
    broken: [...document.images].filter(i => i.loading != "lazy" && !(i.complete && i.naturalWidth)).map(i => i.src),
    silent: [...document.images].filter(i => !i.alt).map(i => i.src),
    paint: performance.getEntriesByName("first-contentful-paint").map(e => Math.round(e.startTime))[0],
})"""


def main(chromium: str, site: str, out: str, names: str = "all", shots: str = "") -> None:
    """Each page at two widths, light and dark: what it asks for elsewhere, what it reports, what is wide."""
    root = pathlib.Path(site).resolve()
    pages = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.html"))
    pages = pages if names == "all" else names.split(",")
    result: dict[str, Any] = {"pages": 0, "equations": 0, "paint": {}}
    result |= {fault: [] for fault in ("requests", "errors", "wide", "mathematics", "images")}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for scheme in SCHEMES:
            context = browser.new_context(
                viewport={"width": WIDTHS[0], "height": 900}, color_scheme=scheme, offline=True
            )
            page = context.new_page()
            page.set_default_timeout(120_000)  # a busy machine is no fault of a page
            where = {"page": ""}
            page.on("request", lambda r, where=where: _asked(r.url, root, where, result))
            page.on("requestfailed", lambda r, where=where: result["errors"].append(f"{where['page']}: no {r.url}"))
            page.on("pageerror", lambda e, where=where: result["errors"].append(f"{where['page']}: {e}"))
            page.on("console", lambda m, where=where: _said(m, where, result))
            for name in pages:
                where["page"] = name
                source = name.startswith("_modules/")
                if source and scheme != SCHEMES[0]:
                    continue  # the library's code: once is enough
                _open(page, root / name, name, result)
                for width in WIDTHS:
                    page.set_viewport_size({"width": width, "height": 900})
                    more = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    if more > 0 and not source:
                        result["wide"].append(f"{name} at {width}: {more}")
                    if shots:
                        stem = name.replace("/", "_").removesuffix(".html")
                        page.screenshot(path=f"{shots}/{stem}_{width}_{scheme}.png")
            context.close()
        browser.close()
    pathlib.Path(out).write_text(json.dumps(result, indent=1))


def _open(page: Any, path: pathlib.Path, name: str, result: dict[str, Any]) -> None:
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.goto(path.as_uri(), wait_until="load")
    if page.query_selector(".math"):
        page.wait_for_function("document.documentElement.dataset.typeset == 'yes'")
    for part in page.query_selector_all("details"):
        part.evaluate("e => e.open = true")  # what is folded may be wide as well
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    found = page.evaluate(LOOK)
    result["pages"] += 1
    result["equations"] += found["equations"]
    result["paint"][name] = found["paint"]
    if found["typeset"] != found["equations"] or found["wrong"]:
        result["mathematics"].append(f"{name}: {found['typeset']} of {found['equations']} typeset; {found['wrong']}")
    result["wide"] += [f"{name} at {WIDTHS[0]}, an equation: {text}" for text in found["cut"]]
    result["images"] += [f"{name}: {image}" for image in found["broken"] + found["silent"]]


def _asked(url: str, root: pathlib.Path, where: dict[str, str], result: dict[str, Any]) -> None:
    if not url.startswith((root.as_uri(), "data:")):
        result["requests"].append(f"{where['page']}: {url}")


def _said(message: Any, where: dict[str, str], result: dict[str, Any]) -> None:
    if message.type in ("error", "warning"):
        result["errors"].append(f"{where['page']}: {message.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
