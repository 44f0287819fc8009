"use strict";
/* What is shown. A view is what may be compared: one split, one baseline, one judge. */
mmpu.state = (() => {
  const defaults = { board: "0", view: "0", sort: "win rate", order: "descending", find: "", method: "", base: "", seed: "", system: "", only: "all", by: "order", search: "", sample: "", theme: "" };
  const kept = mmpu.remember(defaults);

  /** The board that is looked at, with what belongs to it. */
  const board = () => mmpu.numbers.boards[Number(kept.now.board)] ?? mmpu.numbers.boards[0];

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
    return all[Number(kept.now.view)] ?? all[0] ?? { key: "", split: "–", baseline: "–", judge: "", entries: [] };
  }

  const same = (entry) => JSON.stringify(entry.system) === JSON.stringify(entry.baseline);

  /** The system whose answers are looked at: the one asked for, or the best that met the baseline. */
  function system() {
    const met = view().entries.filter((entry) => !same(entry)).sort((a, b) => b.win_rate.rate.value - a.win_rate.rate.value);
    return met.find((entry) => entry.system.name === kept.now.system) ?? met[0] ?? null;
  }

  return { ...kept, get now() { return kept.now; }, board, views, view, same, system };
})();
