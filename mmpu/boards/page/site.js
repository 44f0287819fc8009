"use strict";
/* The index of a site: every board's best system, with how the best went over dates. */
(() => {
  const { make, draw, percent, rate, count, numbers } = mmpu;
  const state = mmpu.remember({ find: "", theme: "" });
  const filters = make("section", {}), table = make("section", {});

  /** Best win rates over dates, as steps. */
  function trend(points) {
    if (points.length < 2) return "–";
    const days = points.map(([date]) => Date.parse(date) / 864e5), values = points.map(([, value]) => value);
    const low = Math.min(0.5, ...values), high = Math.max(0.5, ...values) || 1, wide = days.at(-1) - days[0] || 1;
    const x = (day) => 2 + (76 * (day - days[0])) / wide, y = (value) => 18 - (16 * (value - low)) / (high - low || 1);
    const path = days.flatMap((day, i) => (i ? [`${x(day)},${y(values[i - 1])}`, `${x(day)},${y(values[i])}`] : [`${x(day)},${y(values[0])}`]));
    return draw("svg", { viewBox: "0 0 80 20", width: 80, height: 20, role: "img", "aria-label": points.map(([date, value]) => `${date}: ${percent(value)}`).join(", ") },
      draw("polyline", { class: "line-0", points: path.join(" ") }));
  }

  function row(line) {
    return make("tr", {}, make("th", { scope: "row" }, make("a", { href: line.page }, line.task)), make("td", { class: "name" }, line.judge, make("div", { class: "small" }, line.decided_by)),
      make("td", { class: "name" }, line.best), make("td", {}, rate(line.rate)), make("td", {}, trend(line.trend)), make("td", { class: "name" }, `${line.split}, against ${line.baseline}`),
      make("td", {}, count(line.systems)), make("td", {}, count(line.n)), make("td", {}, line.date), make("td", {}, make("a", { href: line.file }, "JSON")));
  }

  function refresh() {
    mmpu.theme(state.now.theme);
    const wanted = state.now.find.toLowerCase();
    const lines = numbers.lines.filter((line) => [line.task, line.judge, line.best].join("\n").toLowerCase().includes(wanted));
    mmpu.put(filters, make("div", { class: "row no-print" },
      make("label", {}, "find", make("input", { type: "search", value: state.now.find, "data-key": "find", oninput: (event) => state.set({ find: event.target.value }) })),
      mmpu.choice(state, "colours", "theme", mmpu.THEMES)));
    const titles = ["task", "judge", "best system", "win rate %", "over time", "met", "systems", "n", "latest", "data"];
    mmpu.put(table, make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "boards" }, make("table", {},
      make("thead", {}, make("tr", {}, titles.map((title) => make("th", { scope: "col" }, title)))), make("tbody", {}, lines.map(row)))));
  }

  document.getElementById("head").replaceChildren(make("h1", {}, "Leaderboards"),
    make("p", {}, "Pairwise win rates; brackets are 95% intervals over prompts. Rates of different tasks, judges or baselines are not comparable. ",
      "Board files follow ", make("a", { href: "board.schema.json" }, "this schema"), "."));
  document.getElementById("main").replaceChildren(filters, table);
  state.listen(refresh);
  refresh();
})();
