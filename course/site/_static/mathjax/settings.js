// Only what Sphinx has marked as an equation is read. The menu is off: it would load files that the site does not have.
window.MathJax = {
  options: { enableMenu: false },
  startup: {
    elements: [".math"],
    // An equation in a line that is wider than its column gets a bar to scroll with.
    pageReady: () => MathJax.startup.defaultPageReady().then(() => {
      const check = () => {
        for (const box of document.querySelectorAll("span.math")) {
          box.classList.remove("wide");
          const column = box.closest("td, th, li, p, dd, figcaption, summary") || box.parentElement;
          box.classList.toggle("wide", box.getBoundingClientRect().width > column.clientWidth);
        }
      };
      check();
      window.addEventListener("resize", check);
      document.documentElement.dataset.typeset = "yes";
    }),
  },
};
