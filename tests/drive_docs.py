"""Opens every page of the API reference in Chromium, offline, and writes what went wrong: CHROMIUM SITE OUT [SHOTS]."""

import json
import pathlib
import sys

from playwright.sync_api import sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
SIZES = (1280, 390)
SCHEMES = ("light", "dark")
SHOWN = ("index.html", "reference/gradient_flow.html", "reference/empirical_ntk.html", "howto/dynamics_rule.html",
         "topics/depth.html")  # fmt: skip


def main(chromium, site, out, shots=None):
    """Each page at two widths, light and dark: what it asks for elsewhere, what it reports, what is too wide."""
    root = pathlib.Path(site).resolve()
    result = {"pages": 0, "requests": [], "errors": [], "wide": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for scheme in SCHEMES:
            context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme, offline=True)
            page = context.new_page()
            page.set_default_timeout(120_000)  # a busy machine is no fault of a page
            where = {"page": ""}
            page.on("request", lambda r, where=where: _outside(r.url, root, where, result))
            page.on("pageerror", lambda e, where=where: result["errors"].append(f"{where['page']}: {e}"))
            page.on("console", lambda m, where=where: _said(m, where, result))
            for path in sorted(root.rglob("*.html")):
                where["page"] = path.relative_to(root).as_posix()
                source = where["page"].startswith("_modules/")
                if source and scheme != SCHEMES[0]:
                    continue  # the library's code: once is enough
                page.goto(path.as_uri(), wait_until="load")
                result["pages"] += 1
                for width in SIZES:
                    page.set_viewport_size({"width": width, "height": 900})
                    more = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    if more > 0 and not source:
                        result["wide"].append(f"{where['page']} at {width}: {more}")
                    if shots and where["page"] in SHOWN:
                        name = where["page"].replace("/", "_").removesuffix(".html")
                        page.screenshot(path=f"{shots}/{name}_{width}_{scheme}.png")
            context.close()
        browser.close()
    pathlib.Path(out).write_text(json.dumps(result, indent=1))


def _outside(url, root, where, result):
    if not url.startswith((root.as_uri(), "data:")):
        result["requests"].append(f"{where['page']}: {url}")


def _said(message, where, result):
    if message.type in ("error", "warning"):
        result["errors"].append(f"{where['page']}: {message.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
