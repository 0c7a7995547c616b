// Swaps the precomputed pictures that lib/explore.py wrote into <figure class="explore">.
(() => {
  "use strict";
  const PLAY_INTERVAL = 250; // milliseconds between two positions

  // makes `shown` equal to `next` and leaves alone what is equal already: styling is the browser's cost
  const patch = (shown, next) => {
    const olds = [...shown.children], news = [...next.children];
    if (olds.length !== news.length) return shown.replaceChildren(...news);
    olds.forEach((old, k) => {
      if (old.isEqualNode(news[k])) return;
      if (old.children.length && old.cloneNode().isEqualNode(news[k].cloneNode())) patch(old, news[k]);
      else old.replaceWith(news[k]);
    });
  };

  const start = (figure) => {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const stage = figure.querySelector(".explore-stage");
    const caption = figure.querySelector("figcaption");
    const rows = [...figure.querySelectorAll(".explore-row")];
    const inputs = rows.map((row) => row.querySelector("input"));

    // a position is its own row of tags, or edits (place, tag, place, tag, ...) to the base row
    const tagsOf = ({ row, edits }) => {
      const tags = row || data.base.slice();
      for (let i = 0; edits && i < edits.length; i += 2) tags[edits[i]] = edits[i + 1];
      return tags.map((tag) => data.tags[tag]).join("");
    };
    // axes and labels stay; what moves is the last group of each panel
    const moving = [...stage.querySelectorAll("svg")].map((svg) => svg.lastElementChild);

    let shown = -1;
    const show = () => {
      let at = 0;
      inputs.forEach((input, k) => {
        const position = Number(input.value);
        const text = data.values[k][position];
        at = at * data.values[k].length + position;
        rows[k].querySelector("output").value = text;
        input.setAttribute("aria-valuetext", text);
      });
      if (at === shown) return;
      shown = at;
      const panels = tagsOf(data.positions[at]).split("\n");
      moving.forEach((group, k) => {
        const next = group.cloneNode();
        next.innerHTML = panels[k];
        patch(group, next);
      });
      caption.textContent = data.captions[at];
      figure.dataset.position = at;
    };

    let request = 0;
    const showSoon = () => {
      cancelAnimationFrame(request);
      request = requestAnimationFrame(show);
    };

    inputs.forEach((input, k) => {
      const button = rows[k].querySelector(".explore-play");
      let timer = 0;
      const stop = () => {
        clearInterval(timer);
        timer = 0;
        button.setAttribute("aria-pressed", "false");
      };
      const advance = () => {
        input.value = Number(input.value) + 1;
        show();
        if (input.value === input.max) stop();
      };
      const play = () => {
        if (input.value === input.max) input.value = 0;
        button.setAttribute("aria-pressed", "true");
        timer = setInterval(advance, PLAY_INTERVAL);
        show();
      };
      input.addEventListener("input", showSoon);
      input.addEventListener("pointerdown", stop);
      button.addEventListener("click", () => (timer ? stop() : play()));
    });
    figure.classList.add("explore-ready"); // the style sheet shows the sliders from here on
    show();
  };

  const startAll = () =>
    document.querySelectorAll("figure.explore:has(.explore-controls):not(.explore-ready)").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
