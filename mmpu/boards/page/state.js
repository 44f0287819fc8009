"use strict";
/* What is shown, kept in the address's fragment, so that a view can be sent. A view is what may be compared: one split,
   one baseline, one judge. */
mmpu.state = (() => {
  const defaults = { board: "0", view: "0", sort: "win rate", order: "descending", find: "", method: "", base: "", seed: "", system: "", only: "all", by: "order", search: "", sample: "", theme: "" };
  let now = read();
  const listeners = [];

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries(Object.entries(defaults).map(([key, value]) => [key, given.get(key) ?? value]));
  }

  function fragment(values) {
    const changed = Object.entries(values).filter(([key, value]) => value !== defaults[key]);
    return "#" + new URLSearchParams(changed).toString();
  }

  function set(changes) {
    const before = now;
    now = { ...now, ...changes };
    history.replaceState(null, "", fragment(now));
    tell(before);
  }

  function tell(before) {
    const changed = new Set(Object.keys(defaults).filter((key) => before[key] !== now[key]));
    if (changed.size) listeners.forEach((listener) => listener(changed));
  }

  addEventListener("hashchange", () => {
    const before = now;
    now = read();
    tell(before);
  });

  /** The board that is looked at, with what belongs to it. */
  const board = () => mmpu.numbers.boards[Number(now.board)] ?? mmpu.numbers.boards[0];

  /** The views of a board, largest first as they stand. */
  function views(of = board()) {
    const found = new Map();
    for (const entry of of.board.entries) {
      const parts = [entry.split, entry.baseline.name, entry.provenance.judge_identity];
      const key = JSON.stringify(parts);
      if (!found.has(key)) found.set(key, { key, split: parts[0], baseline: parts[1], judge: parts[2], entries: [] });
      found.get(key).entries.push(entry);
    }
    return [...found.values()];
  }

  function view() {
    const all = views();
    return all[Number(now.view)] ?? all[0] ?? { key: "", split: "–", baseline: "–", judge: "", entries: [] };
  }

  const same = (entry) => JSON.stringify(entry.system) === JSON.stringify(entry.baseline);

  /** The system whose answers are looked at: the one asked for, or the best that met the baseline. */
  function system() {
    const met = view().entries.filter((entry) => !same(entry)).sort((a, b) => b.win_rate.rate.value - a.win_rate.rate.value);
    return met.find((entry) => entry.system.name === now.system) ?? met[0] ?? null;
  }

  return { get now() { return now; }, set, board, views, view, same, system, listen: (listener) => listeners.push(listener) };
})();
