"use strict";
/* The header and the table: one row per system of a view. */
mmpu.table = (() => {
  const { make, draw, percent, bounds, count, state } = mmpu;
  const ALPHA = 0.05;

  const names = (view, key) => [...new Set(view.entries.flatMap((entry) => Object.keys(entry[key])))].sort();
  const value = (interval) => (interval ? interval.value : null);
  const own = (entry) => state.same(entry);

  /** A number, its interval, and both on one axis with a line at one half. */
  function bar(interval, text = "") {
    if (!interval) return text || "–";
    const x = (share) => 2 + 86 * share;
    const drawn = draw("svg", { viewBox: "0 0 90 16", width: 90, height: 16, "aria-hidden": "true" },
      draw("line", { class: "axis", x1: 2, x2: 88, y1: 8, y2: 8 }),
      draw("line", { class: "half", x1: x(0.5), x2: x(0.5), y1: 1, y2: 15 }));
    if (interval.low !== null) drawn.append(draw("rect", { class: "mark", x: x(interval.low), y: 6, width: Math.max(1, x(interval.high) - x(interval.low)), height: 4, opacity: 0.45 }));
    drawn.append(draw("circle", { class: "mark", cx: x(interval.value), cy: 8, r: 3.5 }));
    return [`${percent(interval.value)} `, make("span", { class: "small" }, bounds(interval)), " ", drawn];
  }

  /** The columns of a view. `value` is sorted by, `cell` is shown, `plain` is written to files. */
  function columns(view) {
    const shown = state.board();
    const places = (entry) => shown.ranks[view.key]?.[entry.system.name];
    const strength = (entry) => shown.strengths[view.key]?.[entry.system.name] ?? null;
    const interval = (key, of) => ({ key, value: (e) => value(of(e)), cell: (e) => bar(of(e)), plain: (e) => of(e) });
    const text = (key, of) => ({ key, value: of, cell: (e) => of(e) ?? "–", plain: of, text: true });
    const met = (of) => (entry) => (own(entry) ? null : of(entry));
    const found = [
      { key: "place", value: (e) => (places(e) ? -places(e)[0] - places(e)[1] / 1e3 : null), plain: (e) => places(e)?.join("–") ?? null,
        cell: (e) => (places(e) ? (places(e)[0] === places(e)[1] ? `${places(e)[0]}` : `${places(e)[0]}–${places(e)[1]}`) : "–") },
      { ...interval("win rate", met((e) => e.win_rate.rate)), cell: (e) => (own(e) ? "baseline" : bar(e.win_rate.rate)), value: (e) => (own(e) ? 0.5 : e.win_rate.rate.value) },
      ...names(view, "length_controlled").map((name) => interval(name, met((e) => e.length_controlled[name]))),
      ...(view.entries.some(strength) ? [interval("strength", strength)] : []),
      ...(view.entries.some((e) => e.accuracy) ? [interval("accuracy", (e) => e.accuracy)] : []),
      ...names(view, "metrics").map((name) => interval(name, (e) => e.metrics[name])),
      { key: "W / L / T / unread", value: met((e) => e.win_rate.wins), plain: met((e) => [e.win_rate.wins, e.win_rate.losses, e.win_rate.ties, e.win_rate.unread].join(" / ")),
        cell: (e) => (own(e) ? "–" : [e.win_rate.wins, e.win_rate.losses, e.win_rate.ties, e.win_rate.unread].map(count).join(" / ")) },
      { key: "words", value: (e) => e.mean_words, cell: (e) => e.mean_words.toFixed(1), plain: (e) => e.mean_words },
      { key: "n", value: (e) => e.n, cell: (e) => count(e.n), plain: (e) => e.n },
      text("method", (e) => e.system.method),
      text("base model", (e) => e.system.model),
      ...(view.entries.some((e) => e.system.origin.parameters) ? [{ key: "parameters", value: (e) => e.system.origin.parameters,
        cell: (e) => (e.system.origin.parameters ? mmpu.short(e.system.origin.parameters) : "–"), plain: (e) => e.system.origin.parameters }] : []),
      ...(view.entries.some((e) => e.system.origin.licence) ? [text("licence", (e) => e.system.origin.licence)] : []),
      ...(view.entries.some((e) => e.system.seed !== null) ? [text("seed", (e) => e.system.seed)] : []),
      ...mmpu.columns.map((column) => ({ plain: column.value, cell: (e) => column.value(e) ?? "–", ...column, key: column.title ?? column.key })),
    ];
    return found;
  }

  /** The rows that the filters leave, in order; rows without a value last. */
  function rows(view) {
    const { find, method, base, seed, sort, order } = state.now;
    const wanted = find.toLowerCase();
    const kept = view.entries.filter((e) =>
      (!wanted || [e.system.name, e.system.model, e.system.method ?? ""].join("\n").toLowerCase().includes(wanted)) &&
      (!method || (e.system.method ?? "–") === method) && (!base || e.system.model === base) && (!seed || String(e.system.seed) === seed));
    const by = sort === "system" ? (e) => e.system.name : columns(view).find((c) => c.key === sort)?.value ?? ((e) => e.win_rate.rate.value);
    const sign = order === "descending" ? -1 : 1;
    const compare = (a, b) => (typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : a - b);
    const lacks = (x) => x === null || x === undefined || Number.isNaN(x);
    return kept.map((e) => [by(e), e]).sort(([a], [b]) => (lacks(a) || lacks(b) ? Number(lacks(a)) - Number(lacks(b)) : sign * compare(a, b))).map(([, e]) => e);
  }

  /** By system, the number of its band: in order of win rate, a band ends before the first system that a paired test
      tells apart from the band's best. */
  function bands(view) {
    const tests = new Map();
    for (const c of state.board().board.comparisons) {
      if (c.metric === "raw" && c.split === view.split && c.baseline === view.baseline && c.judge_identity === view.judge) {
        tests.set(JSON.stringify([c.ours, c.theirs]), c.holm);
        tests.set(JSON.stringify([c.theirs, c.ours]), c.holm);
      }
    }
    const apart = (a, b) => {
      if (own(a) || own(b)) {
        const rate = (own(a) ? b : a).win_rate.rate;
        return rate.low !== null && (rate.low > 0.5 || rate.high < 0.5);
      }
      return (tests.get(JSON.stringify([a.system.name, b.system.name])) ?? 1) < ALPHA;
    };
    const worth = (e) => (own(e) ? 0.5 : e.win_rate.rate.value);
    const found = new Map();
    let best = null, band = 0;
    for (const entry of [...view.entries].sort((a, b) => worth(b) - worth(a))) {
      if (best && apart(best, entry)) { band += 1; best = entry; }
      best ??= entry;
      found.set(entry, band);
    }
    return found;
  }

  function head() {
    const shown = state.board(), view = state.view();
    const first = view.entries[0];
    const n = Math.min(...view.entries.map((e) => e.n));
    const least = (1.959964 + 0.841621) * 0.5 / Math.sqrt(n);
    const dates = view.entries.map((e) => e.created.slice(0, 10)).sort();
    const fact = (name, text) => make("div", {}, make("dt", {}, name), make("dd", {}, text));
    return [
      make("h1", {}, shown.board.task),
      make("p", {}, `Judge ${shown.board.judge}: ${shown.board.decided_by}.`),
      make("dl", { class: "facts" }, fact("split", view.split), fact("prompts", first ? count(n) : "–"), fact("baseline", view.baseline),
        fact("date", dates.length ? (dates[0] === dates.at(-1) ? dates[0] : `${dates[0]} to ${dates.at(-1)}`) : "–"),
        fact("smallest detectable difference", first ? `${percent(least)} points from 50 (80% power)` : "–")),
    ];
  }

  function filters() {
    const view = state.view();
    const choice = (label, key, options) => mmpu.choice(state, label, key, options);
    const any = (of) => [["", "any"], ...[...new Set(view.entries.map(of))].map((text) => [String(text), String(text)])];
    const views = state.views();
    const judges = [...new Set(views.map((v) => v.judge))];
    const described = (v) => `${v.split}, against ${v.baseline}` + (judges.length > 1 ? `, judge version ${judges.indexOf(v.judge) + 1}` : "");
    return make("div", { class: "row no-print" },
      mmpu.numbers.boards.length > 1 ? choice("board", "board", mmpu.numbers.boards.map((b, i) => [String(i), `${b.board.task} · ${b.board.judge}`])) : null,
      views.length > 1 ? choice("view", "view", views.map((v, i) => [String(i), described(v)])) : null,
      make("label", {}, "find", make("input", { type: "search", value: state.now.find, "data-key": "find", oninput: (event) => state.set({ find: event.target.value }) })),
      choice("method", "method", any((e) => e.system.method ?? "–")),
      choice("base", "base", any((e) => e.system.model)),
      view.entries.some((e) => e.system.seed !== null) ? choice("seed", "seed", any((e) => e.system.seed)) : null,
      choice("colours", "theme", mmpu.THEMES));
  }

  function sorter(key) {
    const { sort, order } = state.now;
    const next = sort === key && order === "descending" ? "ascending" : "descending";
    return make("button", { type: "button", onclick: () => state.set({ sort: key, order: next }) }, key);
  }

  function table() {
    const view = state.view(), shown = columns(view), band = bands(view), chosen = state.system();
    const title = (key, first) => make("th", { scope: "col", "aria-sort": state.now.sort === key ? state.now.order : "none", class: first ? "name" : null }, sorter(key));
    const body = rows(view).map((entry) => make("tr", { class: band.get(entry) % 2 ? "odd" : null, "aria-current": entry === chosen ? "true" : null },
      make("th", { scope: "row" }, own(entry) ? entry.system.name : make("button", { type: "button", onclick: () => state.set({ system: entry.system.name, sample: "" }) }, entry.system.name)),
      shown.map((column) => make("td", { class: column.text ? "name" : null }, column.cell(entry)))));
    return [
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "systems" },
        make("table", {}, make("thead", {}, make("tr", {}, title("system", true), shown.map((column) => title(column.key)))), make("tbody", {}, body))),
      make("p", { class: "small" }, "Brackets: 95% interval over prompts. Rows of one shade are a band: no paired test (Holm, 5%) tells them from the band's best. ",
        "A place is the middle 95% of those that a system has when prompts are drawn anew. Choose a system to read its answers."),
      shown.length && !body.length ? make("p", {}, "No system passes the filters.") : null,
    ];
  }

  return { bar, columns, rows, bands, head, filters, table };
})();
