"""Opens slides in Chromium, offline, and writes what went wrong: CHROMIUM FOLDER OUT [SHOTS]."""

import json
import pathlib
import sys

from playwright.sync_api import sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
#: What a slide shows beyond its edges, each figure's height, and what was not typeset.
LOOK = r"""() => {
  const slide = document.querySelector(".slide.now"), edge = slide.getBoundingClientRect(), found = [];
  for (const part of slide.querySelectorAll(".body, .body *:not(svg *)")) {
    const box = part.getBoundingClientRect();
    if (box.bottom > edge.bottom - 20 || box.right > edge.right - 40 || box.left < edge.left || box.top < edge.top)
      found.push(`${part.tagName} sticks out: ${Math.round(box.bottom)} of ${edge.bottom}, ${Math.round(box.right)}`);
  }
  for (const part of slide.querySelectorAll("pre, td, p, li"))
    if (part.scrollWidth > part.clientWidth + 1)
      found.push(`${part.tagName} is too wide: ${part.innerText.slice(0, 40)}`);
  for (const image of slide.querySelectorAll("img")) {
    const height = image.getBoundingClientRect().height;
    if (height < 230) found.push(`a figure of ${height} px`);
  }
  if (/\$|\\[([]/.test(slide.querySelector(".body").innerText)) found.push("a formula is not typeset");
  if (slide.querySelector("mjx-merror, [data-mjx-error]")) found.push("a formula is wrong");
  return found;
}"""


def main(chromium, folder, out, shots=None):
    """Each slide by itself; the keys; the notes."""
    result = {"slides": {}, "requests": [], "errors": [], "faults": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        context = browser.new_context(viewport={"width": 1280, "height": 720}, offline=True)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a busy machine is no fault of a page
        page.on("pageerror", lambda error: result["errors"].append(str(error)))
        page.on("console", lambda m: result["errors"].append(m.text) if m.type in ("error", "warning") else None)
        page.on(
            "request", lambda r: result["requests"].append(r.url) if not r.url.startswith(("file:", "data:")) else None
        )
        for path in sorted(pathlib.Path(folder).glob("*.html")):
            page.goto(path.resolve().as_uri(), wait_until="load")
            page.wait_for_selector("html[data-typeset]")
            page.keyboard.press("End")
            count = page.evaluate("document.querySelectorAll('.slide').length")
            if page.inner_text("#place") != f"{count} / {count}":
                result["faults"].append(f"{path.stem}: the key End does not lead to the last slide")
            page.keyboard.press("Home")
            result["slides"][path.stem] = count
            for number in range(1, count + 1):
                found = page.evaluate(LOOK)
                result["faults"] += [f"{path.stem}, slide {number}: {fault}" for fault in dict.fromkeys(found)]
                if shots:
                    page.screenshot(path=f"{shots}/{path.stem}_{number:02}.png")
                page.keyboard.press("ArrowRight")
        browser.close()
    pathlib.Path(out).write_text(json.dumps(result, indent=1, ensure_ascii=False))


def _keep(text, wrong, where):
    if wrong:
        where.append(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
