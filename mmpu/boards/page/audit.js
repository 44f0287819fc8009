"use strict";
/* What is known of the judge's reliability, a sentence each; doubtful ones are marked in words and colour. */
mmpu.audit = (() => {
  const { make, percent, count, state } = mmpu;

  /** Sentences, each with whether it is a reason to doubt. */
  function sentences(entry) {
    const audit = entry.audit, found = [];
    const say = (text, doubt) => found.push([text, Boolean(doubt)]);
    if (!audit) return found;
    if (audit.flip_rate !== null) say(`${percent(audit.flip_rate)}% of the duels that were read in both orders had another winner in the other order.`, audit.flip_rate > 0.2);
    if (audit.first_slot !== null) say(`The answer shown first took ${percent(audit.first_slot)}% of the wins; 50% is without favour.`, Math.abs(audit.first_slot - 0.5) > 0.1);
    if (audit.tie_rate !== null) say(`${percent(audit.tie_rate)}% of the readings are ties.`, audit.tie_rate > 0.5);
    say(`${percent(audit.unread_rate)}% of ${count(audit.readings)} readings could not be read.`, audit.unread_rate > 0.01);
    if (audit.length_correlation !== null) say(`Wins correlate with being longer at ${audit.length_correlation.toFixed(2)}.`, Math.abs(audit.length_correlation) > 0.3);
    const agrees = (who, agreement) => say(`The judge agrees with ${who} on ${percent(agreement.share)}% of ${count(agreement.n)} duels.`, agreement.share < 0.7);
    if (audit.grade_agreement) agrees("the task's own grader", audit.grade_agreement);
    for (const [name, agreement] of Object.entries(audit.judges)) agrees(`the judge ${name}`, agreement);
    for (const [kind, trap] of Object.entries(audit.adversarial)) say(`Answers that must lose (${kind}): lost ${trap.lost} of ${trap.n}${trap.unread ? `, ${trap.unread} unread` : ""}.`, trap.lost < trap.n);
    for (const [name, reason] of Object.entries(entry.length_refused)) say(`${name} gives no number: ${reason}.`, false);
    for (const [name, model] of Object.entries(entry.length_models)) if (model.saved !== null && model.saved <= 0) say(`${name}: the fit predicts no better than a coin.`, true);
    for (const [name, n] of Object.entries(entry.counts)) say(`Out of the ordinary, ${name}: ${count(n)}.`, name.endsWith("missing"));
    if (entry.truncated) say(`${count(entry.truncated)} answers were cut by the length limit.`, entry.truncated > 0.05 * entry.n);
    return found;
  }

  function panel() {
    const entry = state.system();
    if (!entry) return null;
    const items = sentences(entry).map(([text, doubt]) => make("li", { class: doubt ? "doubt" : null }, doubt ? "Doubtful: " : "", text));
    return [make("h2", {}, `How far to trust the judge: ${entry.system.name}`), items.length ? make("ul", { class: "audit" }, items) : make("p", {}, "The board holds no audit of this system.")];
  }

  return { sentences, panel };
})();
