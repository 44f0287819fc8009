"use strict";
/* Where a row's numbers come from, and the command that makes them again. */
mmpu.provenance = (() => {
  const { make, state } = mmpu;

  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

  function command(entry) {
    const { board } = state.board(), { sampling } = entry.provenance;
    const words = ["mmpu", "eval", `${entry.system.name}=${entry.system.model}`, "--task", board.task, "--judge", board.judge,
      "--baseline", `${entry.baseline.name}=${entry.baseline.model}`, "--split", entry.split.replace(/\[:\d+\]$/, ""),
      "--temperature", String(sampling.temperature), "--max-tokens", String(sampling.max_tokens), "--seed", String(sampling.seed)];
    const limit = entry.split.match(/\[:(\d+)\]$/);
    return [...words, ...(limit ? ["--limit", limit[1]] : [])].map(quoted).join(" ");
  }

  function listed(values) {
    const items = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
    return make("dl", { class: "listed" }, items.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value))]));
  }

  function panel() {
    const entry = state.system();
    if (!entry) return null;
    const { provenance, system, baseline } = entry, { text: asked, ...judge } = provenance.judge;
    return [
      make("h2", {}, "Provenance"),
      make("details", {}, make("summary", {}, `Everything that the numbers of ${system.name} depend on`),
        listed({
          "to reproduce": command(entry), made: entry.created, commit: provenance.commit, versions: provenance.versions, sampling: provenance.sampling,
          task: provenance.task_hash, data: provenance.data_hash, "judge identity": provenance.judge_identity, judge,
          system: system, baseline: baseline, counts: entry.counts, "equalised by": entry.equalised, clusters: entry.clusters,
          "why a procedure gives no number": entry.length_refused, "fits of length control": entry.length_models,
        })),
      asked ? make("details", {}, make("summary", {}, "The judge's prompt"), make("p", { class: "text turn" }, asked)) : null,
    ];
  }

  return { panel, command };
})();
