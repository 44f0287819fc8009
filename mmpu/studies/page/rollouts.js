"use strict";
/* What the student said: the prompts of a step, a group's candidates with what they were worth, and the same prompt at
   other steps. */
mmpu.rollouts = (() => {
  const { make, told, count } = mmpu;
  const number = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());
  let data = null;

  const groups = (state) => data.groups[Number(state.now.run)] ?? [];
  const here = (state) => groups(state).filter((group) => group.stage === state.now.stage);

  /** What a method calls the weight of a response. */
  const WEIGHTS = { ldl_grpo: "D", grpo: "advantage", dapo: "advantage", ppo: "advantage", srpo: "advantage" };

  /** The method of a stage, by the run's settings. */
  function method(run, stage) {
    const { settings } = run;
    for (let i = 0; settings[`stages.${i}.name`] !== undefined; i++) {
      if (settings[`stages.${i}.name`] === stage) return { name: settings[`stages.${i}.method.name`] ?? settings[`stages.${i}.method`], form: settings[`stages.${i}.method.form`] ?? "mean" };
    }
    return {};
  }

  /** LDL-GRPO's q(k) before the update, by what the sampler recorded; null where it recorded nothing. */
  function shares(responses, form) {
    const taken = responses.map((r) => (typeof r.weight === "number" && typeof r.logp === "number" && r.tokens ? r.logp : null));
    const z = taken.map((logp, i) => (logp === null ? null : form === "ratio" ? 0 : form === "sum" ? logp : logp / responses[i].tokens));
    const known = z.filter((value) => value !== null), top = Math.max(...known);
    const total = known.reduce((sum, value) => sum + Math.exp(value - top), 0);
    return z.map((value) => (value === null ? null : Math.exp(value - top) / total));
  }

  /** What a score is made of. */
  const anatomy = (parts) => make("details", {}, make("summary", {}, "made of"),
    make("dl", { class: "listed" }, Object.entries(parts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, number(value))])));

  function candidate(response, place, share) {
    return make("tr", {}, make("th", { scope: "row" }, String(place + 1)), make("td", { class: "name" }, told(response.text), response.parts ? anatomy(response.parts) : null),
      ...[response.score, response.weight, ...(share === undefined ? [] : [share]), response.grade].map((value) => make("td", {}, number(value))),
      make("td", {}, `${response.tokens}${response.finished ? "" : " cut"}`));
  }

  function table(responses, name, by = {}) {
    const q = by.name === "ldl_grpo" && responses.some((r) => typeof r.logp === "number") ? shares(responses, by.form) : null;
    const titles = ["", "said", "score", WEIGHTS[by.name] ?? "weight", ...(q ? ["q before"] : []), "grade", "tokens"];
    return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, make("table", {},
      make("thead", {}, make("tr", {}, titles.map((title) => (title ? make("th", { scope: "col" }, title) : make("td", {}, ""))))),
      make("tbody", {}, responses.map((response, place) => candidate(response, place, q ? q[place] : undefined)))));
  }

  /** A picture, or its name where the run kept none. */
  const picture = (name) => (Object.hasOwn(data.named ?? {}, name) ? make("img", { src: data.named[name], alt: `picture of the prompt: ${name}` }) : make("span", { class: "tag" }, name));

  /** One group in full. */
  function shown(group, by) {
    const notes = Object.entries(group.notes ?? {}).map(([name, text]) => make("span", { class: "flag" }, `${name}: ${text}`));
    return make("article", { "aria-label": `prompt ${group.id}` },
      make("div", { class: "row" }, make("strong", {}, group.id), group.dropped ? make("span", { class: "flag" }, "not trained on") : null, notes),
      make("div", { class: "turn" }, make("h3", {}, "prompt"), (group.images ?? []).map(picture), told(group.prompt ?? "")),
      group.anchor === null || group.anchor === undefined ? null : make("div", { class: "turn" },
        make("h3", {}, "anchor"), make("p", { class: "small" }, `score of its own: ${number(group.anchor_score)}${group.anchor_finished === false ? " · cut" : ""}`), told(group.anchor)),
      group.context ? make("details", {}, make("summary", {}, "as the privileged teacher sees it"), told(group.context)) : null,
      make("h3", {}, "The student's answers"), table(group.responses, "answers", by),
      group.teacher_responses ? [make("h3", {}, "The privileged teacher's answers"), table(group.teacher_responses, "answers of the teacher")] : null);
  }

  /** The same prompt at other steps. */
  function course(state, group) {
    const same = here(state).filter((other) => other.id === group.id);
    if (same.length < 2) return null;
    const mean = (values) => { const known = values.filter((v) => v !== null && v !== undefined); return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null; };
    return [make("h3", {}, "This prompt over steps"), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "this prompt over steps" }, make("table", {},
      make("thead", {}, make("tr", {}, ["step", "mean score", "mean grade", "first answer"].map((title) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, same.map((other) => make("tr", { "aria-current": other === group ? "true" : null },
        make("th", { scope: "row" }, make("button", { type: "button", onclick: () => state.set({ step: String(other.step) }) }, String(other.step))),
        make("td", {}, number(mean(other.responses.map((r) => r.score)))), make("td", {}, number(mean(other.responses.map((r) => r.grade)))),
        make("td", { class: "name" }, (other.responses[0]?.text ?? "").slice(0, 200)))))))];
  }

  async function section(into, state) {
    const run = mmpu.numbers.runs[Number(state.now.run)];
    const title = make("h2", {}, "Rollouts");
    if (!run?.groups) {
      into.replaceChildren(title, make("p", {}, "This run holds no sampled groups."));
      return;
    }
    data ??= await mmpu.unpacked();
    const all = here(state), steps = [...new Set(all.map((group) => group.step))];
    if (!steps.length) {
      into.replaceChildren(title, make("p", {}, `Nothing was sampled in ${state.now.stage}.`));
      return;
    }
    const step = steps.includes(Number(state.now.step)) && state.now.step !== "" ? Number(state.now.step) : steps[0];
    const of = all.filter((group) => group.step === step), chosen = of.find((group) => group.id === state.now.prompt) ?? of[0];
    const move = (by) => state.set({ step: String(steps[Math.min(steps.length - 1, Math.max(0, steps.indexOf(step) + by))]) });
    mmpu.put(into, title,
      make("div", { class: "row no-print" },
        make("button", { type: "button", onclick: () => move(-1) }, "step before"), make("button", { type: "button", onclick: () => move(1) }, "step after"),
        make("label", {}, "step", make("input", { type: "range", "data-key": "step", min: 0, max: steps.length - 1, value: steps.indexOf(step), oninput: (event) => state.set({ step: String(steps[Number(event.target.value)]) }) })),
        make("span", {}, `step ${step}, ${of.length} prompts`),
        mmpu.choice({ now: { prompt: chosen.id }, set: state.set }, "prompt", "prompt", of.map((group) => [group.id, group.id]))),
      run.left_out ? make("p", { class: "flag" }, `${count(run.left_out)} groups of other steps are left out of this page; they are in groups.jsonl.`) : null,
      shown(chosen, method(run, state.now.stage)), course(state, chosen));
  }

  return { section };
})();
