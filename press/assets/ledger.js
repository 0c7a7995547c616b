// The ledger's filter, and what a node of its graph carries. The state of the filter is the fragment `#?...`.
(() => {
  "use strict";
  const form = document.getElementById("ledger-filter");
  const table = form.closest("section").querySelector("table");
  const rows = [...table.tBodies[0].rows].map((row) => {
    const link = row.querySelector("a"), anchor = link.hash.slice(1);
    const section = document.getElementById(anchor).closest("section");
    return {
      anchor, row, section,
      id: link.textContent,
      place: row.cells[1].textContent,
      verdict: row.querySelector(".verdict").textContent,
      text: row.textContent.toLowerCase() + [...section.children].map((e) => e.matches("section") ? "" : e.textContent.toLowerCase()).join(" "),
      menu: document.querySelector(`.bd-toc-nav a[href="#${section.id}"]`)?.parentElement,
    };
  });
  const partsOf = (whole) => rows.filter((row) => row.id.startsWith(whole.id + "/"));
  const leaves = rows.filter((row) => !partsOf(row).length);

  const show = () => {
    const chosen = new FormData(form), verdicts = chosen.getAll("verdict"), words = chosen.get("words").trim().toLowerCase();
    for (const leaf of leaves)
      leaf.shown = (!verdicts.length || verdicts.includes(leaf.verdict)) &&
        (!chosen.get("section") || chosen.get("section") === leaf.place) && leaf.text.includes(words);
    for (const row of rows) {
      const shown = leaves.includes(row) ? row.shown : partsOf(row).some((part) => part.shown);
      for (const element of [row.row, row.section, row.menu]) if (element) element.hidden = !shown;
    }
    const count = leaves.filter((leaf) => leaf.shown).length;
    document.getElementById("ledger-count").textContent = `${count} of ${leaves.length} statements shown`;
  };
  const remember = () => {
    const state = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(null, "", "#" + (state.size ? "?" + state : ""));
    show();
  };
  const recall = () => {
    if (location.hash.startsWith("#?")) {
      const state = new URLSearchParams(location.hash.slice(2));
      for (const box of form.elements.namedItem("verdict").length ? form.elements.namedItem("verdict") : [form.elements.namedItem("verdict")])
        box.checked = state.getAll("verdict").includes(box.value);
      for (const name of ["section", "words"]) form.elements.namedItem(name).value = state.get(name) || "";
    } else if (document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("[hidden]")) {
      form.reset(); // a link leads to a claim that the filter hides
      show();
      document.getElementById(decodeURIComponent(location.hash.slice(1))).scrollIntoView();
    }
    show();
  };
  form.addEventListener("input", remember);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(remember));
  addEventListener("hashchange", recall);
  form.hidden = false;
  recall();

  const graph = document.querySelector(".graph svg");
  const light = (start) => {
    const reached = new Set([start]);
    const edges = [...graph.querySelectorAll(".edge")];
    for (let size = 0; size < reached.size;) {
      size = reached.size;
      for (const { dataset } of edges) if (reached.has(dataset.from)) reached.add(dataset.to);
    }
    graph.classList.toggle("lit", Boolean(start));
    for (const edge of edges) edge.classList.toggle("on", reached.has(edge.dataset.from));
    for (const node of graph.querySelectorAll(".node")) node.classList.toggle("on", reached.has(node.dataset.claim));
  };
  for (const node of graph?.querySelectorAll(".node") || []) {
    for (const event of ["pointerenter", "focus"]) node.addEventListener(event, () => light(node.dataset.claim));
    for (const event of ["pointerleave", "blur"]) node.addEventListener(event, () => light());
  }
})();
