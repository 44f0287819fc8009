"use strict";
/* A page of runs, top to bottom. */
(() => {
  const { make, numbers, count } = mmpu;
  const state = mmpu.remember({ stage: numbers.stages.at(-1) ?? "", run: "0", step: "", prompt: "", theme: "" });
  const part = () => make("section", {});
  const places = { choices: part(), differ: part(), curves: part(), rollouts: part(), settings: part() };
  const put = (place, ...content) => mmpu.put(places[place], ...content);

  const named = numbers.runs.map((run, i) => [String(i), run.name]);

  function choices() {
    return make("div", { class: "row no-print" },
      mmpu.choice(state, "stage", "stage", numbers.stages.map((stage) => [stage, stage])),
      named.length > 1 ? mmpu.choice(state, "rollouts of", "run", named) : null,
      mmpu.choice(state, "colours", "theme", mmpu.THEMES));
  }

  /** The settings in which runs differ. */
  function differ() {
    if (numbers.runs.length < 2) return null;
    const cells = (key) => numbers.runs.map((run) => make("td", { class: "name" }, run.settings[key] ?? "–"));
    return [make("h2", {}, "What the runs differ in"), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "what the runs differ in" }, make("table", {},
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "setting"), numbers.runs.map((run) => make("th", { scope: "col" }, run.name)))),
      make("tbody", {}, numbers.differ.map((key) => make("tr", {}, make("th", { scope: "row" }, key), cells(key))))))];
  }

  function settings() {
    const run = numbers.runs[Number(state.now.run)] ?? numbers.runs[0];
    const listed = (values, faint = () => false) => make("dl", { class: "listed" }, Object.entries(values).flatMap(([key, value]) => {
      const look = faint(key) ? { class: "default", title: "the default" } : {};
      return [make("dt", look, key), make("dd", look, typeof value === "number" ? count(value) : String(value))];
    }));
    const standing = (key) => run.defaults.some((name) => key === name || key.startsWith(`${name}.`));
    const own = Object.keys(run.settings).filter((key) => !standing(key)).length;
    return [make("h2", {}, `Settings and costs of ${run.name}`),
      run.warnings.length ? make("ul", { class: "audit" }, run.warnings.map(([text, times]) => make("li", { class: "doubt" }, times > 1 ? `${text} (${times} times)` : text))) : null,
      Object.keys(run.ledger).length ? listed(run.ledger) : make("p", {}, "No teacher or judge was asked."),
      make("details", {}, make("summary", {}, `All ${Object.keys(run.settings).length} settings, ${own} of them other than the defaults, which are grey and in italics`), listed(run.settings, standing))];
  }

  function refresh(changed) {
    const touched = (...keys) => keys.some((key) => changed.has(key));
    mmpu.theme(state.now.theme);
    put("choices", choices());
    if (touched("stage")) put("curves", mmpu.curves.section(state.now.stage));
    if (touched("stage", "run", "step", "prompt")) mmpu.rollouts.section(places.rollouts, state);
    if (touched("run")) put("settings", settings());
  }

  const head = document.getElementById("head");
  head.replaceChildren(make("h1", {}, numbers.runs.map((run) => run.name).join(", ")), make("p", {}, `Stages: ${numbers.stages.join(", ") || "none yet"}.`));
  document.getElementById("main").replaceChildren(...Object.values(places));
  put("differ", differ());
  state.listen(refresh);
  refresh(new Set(["stage", "run"]));
})();
