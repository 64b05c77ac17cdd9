// Keys: arrows, space, page up and down, home and end; N for the notes, F for the whole screen. Touch: swipe.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]] },
  options: { enableMenu: false }, // the menu would load files that are not here
  svg: { fontCache: "local" },
  startup: {
    pageReady: () => MathJax.startup.defaultPageReady().then(() => { document.documentElement.dataset.typeset = "yes"; }),
  },
};
const stage = document.getElementById("stage");
const slides = [...document.querySelectorAll(".slide")];
const place = document.getElementById("place");
let now = 0;

function show(number) {
  now = Math.max(0, Math.min(slides.length - 1, number));
  slides.forEach((slide, i) => {
    slide.classList.toggle("now", i === now);
    slide.setAttribute("aria-hidden", i !== now);
  });
  place.textContent = `${now + 1} / ${slides.length}`;
  if (location.hash !== `#${now + 1}`) history.replaceState(null, "", `#${now + 1}`);
}

function fit() {
  const scale = Math.min(innerWidth / 1280, innerHeight / 720);
  stage.style.transform = `scale(${scale}) translate(-50%, -50%)`;
}

const keys = {
  ArrowRight: () => show(now + 1), ArrowDown: () => show(now + 1), PageDown: () => show(now + 1), " ": () => show(now + 1),
  ArrowLeft: () => show(now - 1), ArrowUp: () => show(now - 1), PageUp: () => show(now - 1),
  Home: () => show(0), End: () => show(slides.length - 1),
  n: () => document.body.classList.toggle("speaking"),
  f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || (event.key === " " && event.target.tagName === "BUTTON")) return;
  const act = keys[event.key] || keys[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});
document.getElementById("back").addEventListener("click", () => show(now - 1));
document.getElementById("on").addEventListener("click", () => show(now + 1));
let start = null;
addEventListener("touchstart", (event) => { start = event.touches[0].clientX; }, { passive: true });
addEventListener("touchend", (event) => {
  const moved = start === null ? 0 : event.changedTouches[0].clientX - start;
  if (Math.abs(moved) > 50) show(now + (moved < 0 ? 1 : -1));
  start = null;
}, { passive: true });
addEventListener("resize", fit);
addEventListener("hashchange", () => show(Number(location.hash.slice(1)) - 1 || 0));
fit();
show(Number(location.hash.slice(1)) - 1 || 0);
