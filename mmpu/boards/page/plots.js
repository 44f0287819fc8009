"use strict";
/* Three plots of a view: intervals, length against win rate, and who differs from whom. */
mmpu.plots = (() => {
  const { make, draw, percent, bounds, state } = mmpu;

  const met = () => mmpu.table.rows(state.view()).filter((entry) => !state.same(entry));
  const figure = (caption, ...content) => make("figure", {}, make("figcaption", {}, caption), ...content);
  const short = (name, most = 22) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

  function forest() {
    const lines = met().flatMap((entry) => [
      [entry.system.name, "win rate", entry.win_rate.rate, "mark"],
      ...Object.entries(entry.length_controlled).map(([name, rate]) => ["", name, rate, "second"]),
    ]);
    const lows = lines.map(([, , rate]) => rate.low ?? rate.value), highs = lines.map(([, , rate]) => rate.high ?? rate.value);
    const from = Math.max(0, Math.min(0.48, ...lows) - 0.02), to = Math.min(1, Math.max(0.52, ...highs) + 0.02);
    const x = (share) => 250 + (240 * (share - from)) / (to - from), height = 22 * lines.length + 40;
    const svg = draw("svg", { viewBox: `0 0 500 ${height}`, role: "img", "aria-label": "win rates with 95% intervals" },
      draw("line", { class: "half", x1: x(0.5), x2: x(0.5), y1: 6, y2: height - 26 }),
      [from, 0.5, to].map((at) => draw("text", { class: "soft", x: x(at), y: height - 8, "text-anchor": "middle" }, percent(at, 0))));
    lines.forEach(([name, what, rate, kind], i) => {
      const y = 18 + 22 * i;
      svg.append(draw("text", { x: 0, y: y + 4 }, draw("title", {}, name), short(name)), draw("text", { class: "soft", x: 150, y: y + 4 }, short(what, 16)));
      if (rate.low !== null) svg.append(draw("line", { class: kind === "mark" ? "mark" : "arrow", x1: x(rate.low), x2: x(rate.high), y1: y, y2: y, "stroke-width": 2 }));
      svg.append(draw(kind === "mark" ? "circle" : "rect", kind === "mark" ? { class: kind, cx: x(rate.value), cy: y, r: 4.5 } : { class: kind, x: x(rate.value) - 4, y: y - 4, width: 8, height: 8 },
        draw("title", {}, `${name} ${what}: ${percent(rate.value)} ${bounds(rate)}`)));
    });
    return figure("Win rates with 95% intervals; dots are raw, squares length-controlled, the line is 50.", svg);
  }

  function lengths() {
    const shown = met();
    const words = shown.map((e) => e.mean_words), span = Math.max(1, Math.max(...words) - Math.min(...words));
    const least = Math.max(0, Math.min(...words) - 0.2 * span), most = Math.max(...words) + 0.2 * span;
    const values = shown.flatMap((e) => [e.win_rate.rate, ...Object.values(e.length_controlled)].map((rate) => rate.value));
    const from = Math.max(0, Math.min(0.45, ...values) - 0.03), to = Math.min(1, Math.max(0.55, ...values) + 0.03);
    const x = (count) => 40 + (440 * (count - least)) / (most - least), y = (share) => 240 - (220 * (share - from)) / (to - from);
    const svg = draw("svg", { viewBox: "0 0 500 280", role: "img", "aria-label": "words of an answer against win rate" },
      draw("defs", {}, draw("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, draw("path", { class: "arrow", d: "M0 0 L8 4 L0 8 z" }))),
      draw("line", { class: "axis", x1: 40, x2: 480, y1: 240, y2: 240 }), draw("line", { class: "axis", x1: 40, x2: 40, y1: 20, y2: 240 }),
      draw("line", { class: "half", x1: 40, x2: 480, y1: y(0.5), y2: y(0.5) }),
      [from, 0.5, to].map((at) => draw("text", { class: "soft", x: 34, y: y(at) + 4, "text-anchor": "end" }, percent(at, 0))),
      [least, (least + most) / 2, most].map((at) => draw("text", { class: "soft", x: x(at), y: 256, "text-anchor": "middle" }, at.toFixed(most - least < 20 ? 1 : 0))),
      draw("text", { class: "soft", x: 260, y: 274, "text-anchor": "middle" }, "mean words of an answer"));
    for (const entry of shown) {
      const at = x(entry.mean_words), raw = y(entry.win_rate.rate.value);
      for (const [name, rate] of Object.entries(entry.length_controlled)) {
        if (Math.abs(y(rate.value) - raw) > 3) svg.append(draw("line", { class: "arrow", x1: at, x2: at, y1: raw, y2: y(rate.value), "marker-end": "url(#tip)" }, draw("title", {}, `${name}: ${percent(rate.value)}`)));
      }
      svg.append(draw("circle", { class: "mark", cx: at, cy: raw, r: 4.5 }, draw("title", {}, `${entry.system.name}: ${percent(entry.win_rate.rate.value)}`)),
        draw("text", { x: at > 380 ? at - 8 : at + 8, y: raw - 6, "text-anchor": at > 380 ? "end" : "start" }, short(entry.system.name)));
    }
    return figure("Length against win rate; arrows lead from the raw rate to length-controlled ones.", svg);
  }

  /** Row against column, in points of the metric, with the p-value after Holm's correction. */
  function pairs() {
    const view = state.view();
    const found = state.board().board.comparisons.filter((c) => c.split === view.split && c.baseline === view.baseline && c.judge_identity === view.judge && c.metric === "raw");
    const names = met().map((e) => e.system.name).filter((name) => found.some((c) => c.ours === name || c.theirs === name));
    if (!names.length) return null;
    const cell = (row, column) => {
      if (row === column) return make("td", {}, "–");
      const c = found.find((one) => (one.ours === row && one.theirs === column) || (one.ours === column && one.theirs === row));
      if (!c) return make("td", {}, "–");
      const gap = c.ours === row ? c.difference.value : -c.difference.value, sure = c.holm < 0.05;
      return make("td", { class: sure ? (gap > 0 ? "better" : "worse") : null }, `${gap > 0 ? "+" : ""}${percent(gap)}`, sure ? " *" : "", make("div", { class: "small" }, `p ${c.holm.toPrecision(2)}`));
    };
    return figure("Row minus column, in points of raw win rate; p after Holm's correction, * below 5%.",
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "pairs of systems" }, make("table", {},
        make("thead", {}, make("tr", {}, make("td", {}, ""), names.map((name) => make("th", { scope: "col" }, name)))),
        make("tbody", {}, names.map((row) => make("tr", {}, make("th", { scope: "row" }, row), names.map((column) => cell(row, column))))))));
  }

  const all = () => (met().length ? make("div", { class: "plots" }, forest(), lengths(), pairs()) : make("p", { class: "quiet" }, "Nothing met the baseline."));
  return { all };
})();
