"use strict";
/* The rows that are shown, in the forms that papers and programs take. */
mmpu.takeaway = (() => {
  const { make, percent, state } = mmpu;

  const flat = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? percent(value.value, 2) : String(value));

  /** Titles and rows of the table as it is filtered; an interval is three columns. */
  function cells() {
    const view = state.view(), columns = mmpu.table.columns(view), rows = mmpu.table.rows(view);
    const spread = columns.map((column) => rows.some((row) => typeof column.plain(row) === "object" && column.plain(row) !== null));
    const titles = ["system", ...columns.flatMap((column, i) => (spread[i] ? [`${column.key} %`, `${column.key} low`, `${column.key} high`] : [column.key]))];
    const bound = (value) => (value === null || value === undefined ? "" : percent(value, 2));
    return [titles, ...rows.map((row) => [row.system.name, ...columns.flatMap((column, i) => {
      const value = column.plain(row);
      return spread[i] ? [flat(value), bound(value?.low), bound(value?.high)] : [flat(value)];
    })])];
  }

  /** A cell that a spreadsheet would take for a formula begins with a quote. */
  const csv = () => cells().map((row) => row.map((cell) => `"${(/^[=+@\t\r]/.test(cell) || /^-[^\d.]/.test(cell) ? `'${cell}` : cell).replaceAll('"', '""')}"`).join(",")).join("\r\n") + "\r\n";

  const escapes = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
  const tex = (text) => text.replace(/[\\~^]|[&%$#_{}]/g, (c) => escapes[c] ?? `\\${c}`);

  function latex() {
    const view = state.view(), columns = mmpu.table.columns(view);
    const cell = (value) => (value && typeof value === "object" ? `${percent(value.value)} \\scriptsize{${mmpu.bounds(value)}}` : tex(flat(value) || "--").replaceAll("–", "--"));
    const lines = mmpu.table.rows(view).map((row) => [tex(row.system.name), ...columns.map((column) => cell(column.plain(row)))].join(" & ") + " \\\\");
    return ["% booktabs", `\\begin{tabular}{l${"r".repeat(columns.length)}}`, "\\toprule", ["system", ...columns.map((column) => tex(column.key))].join(" & ") + " \\\\", "\\midrule", ...lines, "\\bottomrule", "\\end{tabular}", ""].join("\n");
  }

  function bibtex() {
    const { board } = state.board(), dates = board.entries.map((entry) => entry.created).sort();
    return [
      `@misc{mmpu-${board.task}-${board.judge},`.replace(/[^\w@{,-]/g, "-"),
      `  title = {${tex(board.task)} under ${tex(board.judge)}: pairwise win rates of ${board.entries.length} systems},`,
      `  year = {${(dates.at(-1) ?? "").slice(0, 4)}},`, `  note = {Leaderboard made with mmpu ${mmpu.numbers.mmpu}, ${(dates.at(-1) ?? "").slice(0, 10)}},`, "}",
      "@misc{purld, title = {PU-RLD}, note = {arXiv:2601.20687}, eprint = {2601.20687}, archivePrefix = {arXiv}}", "",
    ].join("\n");
  }

  const FORMS = {
    JSON: ["json", "application/json", () => JSON.stringify(state.board().board, null, 2)],
    CSV: ["csv", "text/csv", csv],
    Markdown: ["md", "text/markdown", () => state.board().markdown],
    LaTeX: ["tex", "text/x-tex", latex],
    BibTeX: ["bib", "text/x-bibtex", bibtex],
    "Every Eval Ever": ["eee.json", "application/json", () => JSON.stringify(state.board().every_eval_ever, null, 2)],
  };

  function save(name) {
    const [ending, type, make_] = FORMS[name], { board } = state.board();
    const url = URL.createObjectURL(new Blob([make_()], { type }));
    make("a", { href: url, download: `${board.task}.${board.judge}.${ending}`.replace(/[^\w.-]/g, "-") }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  const panel = () => [make("h2", {}, "Take away"), make("div", { class: "row" }, Object.keys(FORMS).map((name) => make("button", { type: "button", onclick: () => save(name) }, name)))];
  return { panel, text: (name) => FORMS[name][2]() };
})();
