/* A formula in a line that is wider than the line scrolls in its place; the theme would cut it off. */
(() => {
  "use strict";
  const fit = formula => {
    const wide = formula.scrollWidth > formula.clientWidth + 1;
    if (wide === formula.classList.contains("wide")) return;
    formula.classList.toggle("wide", wide);
    if (wide) formula.tabIndex = 0;  // what scrolls must be reached with the keyboard
    else formula.removeAttribute("tabindex");
  };
  // a formula changes its size when MathJax sets it, the window turns, or a folded solution opens
  const sizes = new ResizeObserver(entries => entries.forEach(entry => fit(entry.target)));
  const formulas = document.querySelectorAll("span.math");
  formulas.forEach(formula => sizes.observe(formula));
  addEventListener("load", () => window.MathJax?.startup?.promise.then(() => formulas.forEach(fit)));
})();
