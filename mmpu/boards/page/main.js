"use strict";
/* The page, top to bottom; what a change of state touches is drawn anew. */
(() => {
  const { make, state } = mmpu;
  const part = () => make("section", {});
  const places = { filters: part(), table: part(), plots: part(), audit: part(), panels: part(), samples: part(), provenance: part(), takeaway: part() };

  const put = (place, content) => mmpu.put(places[place], content);
  const touches = (changed, ...keys) => keys.some((key) => changed.has(key));

  function refresh(changed) {
    mmpu.theme(state.now.theme);
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
