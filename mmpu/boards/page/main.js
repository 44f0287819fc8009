"use strict";
/* The page, top to bottom; what a change of state touches is drawn anew. */
(() => {
  const { make, state } = mmpu;
  const part = () => make("section", {});
  const places = { filters: part(), table: part(), plots: part(), audit: part(), panels: part(), samples: part(), provenance: part(), takeaway: part() };

  function put(place, content) {
    const focus = document.activeElement?.dataset?.key, caret = document.activeElement?.selectionStart;
    places[place].replaceChildren(...[content].flat(2).filter(Boolean));
    const back = focus && places[place].querySelector(`[data-key="${focus}"]`);
    if (back) { back.focus(); if (back.type === "search") back.setSelectionRange(caret, caret); }
  }

  function theme() {
    if (state.now.theme) document.documentElement.dataset.theme = state.now.theme;
    else delete document.documentElement.dataset.theme;
  }

  const touches = (changed, ...keys) => keys.some((key) => changed.has(key));

  function refresh(changed) {
    theme();
    const other = touches(changed, "board", "view");
    if (other) document.getElementById("head").replaceChildren(...mmpu.table.head());
    if (other || touches(changed, "find", "method", "base", "seed", "theme")) put("filters", mmpu.table.filters());
    if (other || touches(changed, "find", "method", "base", "seed", "sort", "order", "system")) put("table", mmpu.table.table());
    if (other || touches(changed, "find", "method", "base", "seed", "sort", "order")) put("plots", [make("h2", {}, "Plots"), mmpu.plots.all()]);
    if (other || touches(changed, "system")) {
      put("audit", mmpu.audit.panel());
      put("panels", mmpu.panels.map((panel) => [make("h2", {}, panel.title), panel.draw(state.view(), state.system())]));
      put("provenance", mmpu.provenance.panel());
      mmpu.samples.section(places.samples);
    } else if (touches(changed, "only", "by", "search", "sample")) mmpu.samples.refresh();
    if (other) put("takeaway", mmpu.takeaway.panel());
  }

  document.getElementById("main").replaceChildren(...Object.values(places));
  state.listen(refresh);
  refresh(new Set(["board", "view", "system"]));
})();
