// Only what Sphinx has marked as an equation is read. The menu is off: it would load files that the site does not have.
window.MathJax = {
  options: { enableMenu: false },
  startup: {
    elements: [".math"],
    // An equation in a line that is wider than its column gets a bar to scroll with. One on a line of its own is made
    // smaller until it fits, down to three quarters of its size; what is still too wide scrolls.
    pageReady: () => MathJax.startup.defaultPageReady().then(() => {
      const check = () => {
        for (const box of document.querySelectorAll("div.math")) {
          box.style.fontSize = "";
          for (let size = 95; size >= 75 && box.scrollWidth > box.clientWidth; size -= 5) box.style.fontSize = `${size}%`;
        }
        for (const box of document.querySelectorAll("span.math")) {
          box.classList.remove("wide");
          const column = box.closest("td, th, li, p, dd, figcaption, summary") || box.parentElement;
          box.classList.toggle("wide", box.getBoundingClientRect().width > column.clientWidth);
        }
      };
      check();
      window.addEventListener("resize", check);
      document.addEventListener("toggle", check, true); // what was folded had no width
      document.documentElement.dataset.typeset = "yes";
    }),
  },
};
