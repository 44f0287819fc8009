"use strict";
/* The samples behind a number: a list that draws only what is seen of it, and two answers side by side. An item of the
   data is [sample, [[answer, thought], [answer, thought]], grades, words, verdicts], ours before the baseline's; a verdict
   is [order, win, soft, reason, detail, said]. */
mmpu.samples = (() => {
  const { make, told, percent, count, state, LONG } = mmpu;
  const HEIGHT = 46;
  const OPENS = ["all", "won", "lost", "tied", "orders disagree", "unread", "judge against grader"];
  let data = null, items = [], shown = [];

  const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);
  const text = (at) => (at === null || at === undefined ? "" : data.texts[at]);

  /** What is known of a duel without its texts. */
  function about(item, place) {
    const [sample, , grades, words, verdicts] = item;
    const read = verdicts.filter(([, win]) => win !== null);
    const win = mean(read.map(([, one]) => one));
    const graded = grades[0] !== null && grades[1] !== null && grades[0] !== grades[1];
    return {
      item, place, sample: data.samples[sample], win,
      flipped: read.length > 1 && Math.min(...read.map(([, one]) => one)) < 0.5 && Math.max(...read.map(([, one]) => one)) > 0.5,
      unread: read.length < verdicts.length,
      against: graded && win !== null && win !== 0.5 && (win > 0.5) !== (grades[0] > grades[1]),
      gap: words[0] - words[1],
    };
  }

  const word = (one) => (one.win === null ? "unread" : one.win > 0.5 ? "won" : one.win < 0.5 ? "lost" : "tied");
  const passes = {
    all: () => true, won: (one) => word(one) === "won", lost: (one) => word(one) === "lost", tied: (one) => word(one) === "tied",
    "orders disagree": (one) => one.flipped, unread: (one) => one.unread, "judge against grader": (one) => one.against,
  };

  function searched(one, wanted) {
    const [, [ours, theirs]] = one.item;
    const prompt = one.sample.prompt.flatMap((turn) => turn.parts.map((part) => part.text ?? ""));
    return [one.sample.id, ...prompt, one.sample.reference ?? "", text(ours[0]), text(theirs[0])].some((part) => part.toLowerCase().includes(wanted));
  }

  /** The items of the chosen system. */
  function load() {
    const system = state.system(), view = state.view();
    const match = system && data.matches[mmpu.numbers.boards.indexOf(state.board())].find((m) => m.view === view.key && m.system === system.system.name);
    items = match ? match.items.map(about) : [];
  }

  function select() {
    const { only, by, search } = state.now, wanted = search.toLowerCase();
    shown = items.filter((one) => (passes[only] ?? passes.all)(one) && (!wanted || searched(one, wanted)));
    if (by === "longer") shown.sort((a, b) => b.gap - a.gap);
    if (by === "shorter") shown.sort((a, b) => a.gap - b.gap);
  }

  const at = () => Math.max(0, shown.findIndex((one) => one.sample.id === state.now.sample));

  // ---------------------------------------------------------------------------------------------------- the list

  const prompt = (one) => one.sample.prompt.flatMap((turn) => turn.parts.map((part) => part.text ?? "▣")).join(" ").slice(0, 200);

  function option(one, place) {
    const chosen = place === at();
    const marks = [word(one), one.flipped ? "orders disagree" : "", one.against ? "against grader" : ""].filter(Boolean).join(" · ");
    const row = make("div", { role: "option", id: `option-${place}`, "aria-selected": chosen, "aria-setsize": shown.length, "aria-posinset": place + 1, onclick: () => state.set({ sample: one.sample.id }) },
      make("div", {}, prompt(one) || "–"), make("div", { class: "small" }, `${one.sample.id} · ${marks} · ${one.gap > 0 ? "+" : ""}${one.gap} words`));
    row.style.top = `${place * HEIGHT}px`;
    return row;
  }

  function drawn(list) {
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 4);
    const last = Math.min(shown.length, first + Math.ceil((list.clientHeight || 600) / HEIGHT) + 8);
    const all = make("div", {});
    all.style.height = `${shown.length * HEIGHT}px`;
    for (let place = first; place < last; place++) all.append(option(shown[place], place));
    all.setAttribute("role", "presentation");
    list.replaceChildren(all);
    list.setAttribute("aria-activedescendant", shown.length ? `option-${at()}` : "");
  }

  function reveal(list) {
    const top = at() * HEIGHT;
    if (top < list.scrollTop || top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top - list.clientHeight / 3;
    drawn(list);
  }

  function move(by) {
    if (shown.length) state.set({ sample: shown[Math.min(shown.length - 1, Math.max(0, at() + by))].sample.id });
  }

  // ---------------------------------------------------------------------------------------------------- one sample

  function picture(part) {
    const uri = data.pictures[part.picture];
    if (!uri) return make("span", { class: "tag" }, "a picture that is not here");
    const image = make("img", { src: uri, alt: "picture of the prompt", loading: "lazy" });
    image.addEventListener("error", () => image.replaceWith(make("span", { class: "tag" }, "a picture that cannot be shown")));
    return make("button", { type: "button", "aria-label": "enlarge the picture", onclick: () => enlarge(uri) }, image);
  }

  function enlarge(uri) {
    const dialog = document.getElementById("picture");
    dialog.replaceChildren(make("img", { src: uri, alt: "picture of the prompt, enlarged" }),
      make("form", { method: "dialog" }, make("button", {}, "Close")));
    dialog.showModal();
  }

  function turn(one) {
    const pictures = one.parts.filter((part) => "picture" in part).map(picture);
    const said = one.parts.filter((part) => !("picture" in part)).map((part) => (part.missing ? make("span", { class: "tag" }, part.missing) : told(part.text)));
    return make("div", { class: "turn" }, make("h3", {}, one.role), pictures.length ? make("div", { class: "pictures" }, pictures) : null, said);
  }

  function answer(name, place, one, which, runs) {
    const [, , grades, words] = one.item, grade = grades[which], thought = text(place[1]);
    return make("section", { class: "answer", "aria-label": name }, make("h3", {}, name),
      make("p", { class: "small" }, `${count(words[which])} words · ${count(text(place[0]).length)} characters${grade === null ? "" : ` · grade ${grade}`}`),
      told(text(place[0]), runs), thought ? make("details", {}, make("summary", {}, "thinking"), told(thought)) : null);
  }

  const ORDERS = { ours_first: ["ours", "baseline"], ours_second: ["baseline", "ours"] };

  function verdicts(one) {
    const detail = (all) => Object.entries(all).map(([key, value]) => `${key} ${value.toFixed(3)}`).join("  ");
    const row = ([order, win, soft, reason, details, said]) => make("tr", {},
      make("th", { scope: "row" }, ORDERS[order] ? `A ${ORDERS[order][0]}, B ${ORDERS[order][1]}` : order === "none" ? "by itself" : order),
      make("td", {}, win === null ? "unread" : win > 0.5 ? "ours" : win < 0.5 ? "baseline" : "tie"),
      make("td", {}, soft === null ? "–" : percent(soft)), make("td", { class: "name" }, detail(details) || "–"),
      make("td", { class: "name" }, reason || "", said === null ? null : make("details", {}, make("summary", {}, "what the judge said"), told(text(said)))));
    return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "verdicts" }, make("table", {},
      make("thead", {}, make("tr", {}, ["shown", "better", "P(ours) %", "probabilities", "words of the judge"].map((title) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, one.item[4].map(row))));
  }

  function detail() {
    const one = shown[at()];
    if (!one) return make("p", {}, "No sample passes the filters.");
    const [, [ours, theirs]] = one.item, system = state.system();
    const long = Math.max(text(ours[0]).length, text(theirs[0]).length) > LONG;
    const runs = long ? null : mmpu.diff.runs(text(theirs[0]), text(ours[0]));
    if (runs) { runs[0].mark = "del"; runs[1].mark = "ins"; }
    return make("article", { "aria-label": `sample ${one.sample.id}` },
      make("div", { class: "row" }, make("strong", {}, one.sample.id), make("span", { class: "tag" }, word(one)),
        one.flipped ? make("span", { class: "flag" }, "orders disagree") : null,
        one.against ? make("span", { class: "flag" }, "judge against grader") : null,
        one.unread ? make("span", { class: "flag" }, "unread") : null,
        make("a", { href: location.hash || "#", class: "no-print" }, "link to this sample")),
      one.sample.prompt.map(turn),
      one.sample.reference || one.sample.answer ? make("div", { class: "turn" }, make("h3", {}, "reference"), told(one.sample.reference ?? ""), one.sample.answer ? make("p", { class: "small" }, `answer: ${one.sample.answer}`) : null) : null,
      make("div", { class: "answers" }, answer(system.system.name, ours, one, 0, runs?.[1]), answer(system.baseline.name === "baseline" ? "baseline" : `${system.baseline.name} (baseline)`, theirs, one, 1, runs?.[0])),
      make("h3", {}, "Verdicts"), verdicts(one));
  }

  // ---------------------------------------------------------------------------------------------------- the section

  function controls() {
    const pressed = (name) => state.now.only === name;
    return make("div", { class: "row no-print" },
      OPENS.map((name) => make("button", { type: "button", "aria-pressed": pressed(name), onclick: () => state.set({ only: name, sample: "" }) }, `${name} ${count(items.filter(passes[name]).length)}`)),
      make("label", {}, "order", make("select", { "data-key": "by", onchange: (event) => state.set({ by: event.target.value, sample: "" }) },
        [["order", "as judged"], ["longer", "ours longer first"], ["shorter", "ours shorter first"]].map(([value, title]) => make("option", { value, selected: state.now.by === value }, title)))),
      make("label", {}, "search", make("input", { type: "search", value: state.now.search, "data-key": "search", oninput: (event) => state.set({ search: event.target.value, sample: "" }) })),
      make("span", { class: "small" }, `${count(shown.length)} of ${count(items.length)}; `, make("kbd", {}, "j"), " and ", make("kbd", {}, "k"), " move"));
  }

  let list = null, place = null, bar = null;

  async function section(into) {
    const board = state.board(), system = state.system();
    const title = make("h2", {}, "Samples");
    if (!board.samples || !system) {
      list = null;
      into.replaceChildren(title, make("p", { id: "samples-list" }, board.silent || "There are no samples of this board."));
      return;
    }
    if (!data) {
      into.replaceChildren(title, make("p", { id: "samples-list", role: "status" }, "Unpacking…"));
      data = await mmpu.unpacked();
    }
    load();
    list = make("div", { id: "samples-list", role: "listbox", tabindex: 0, "aria-label": "samples", onscroll: () => drawn(list) });
    list.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
      if (step) { move(step); event.preventDefault(); }
    });
    bar = make("div", {});
    place = make("div", { "aria-live": "polite" });
    into.replaceChildren(title, make("p", { class: "quiet" }, `${system.system.name} against ${system.baseline.name}`), bar,
      board.silent ? make("p", { class: "flag" }, board.silent) : "", make("div", { class: "browse" }, list, place));
    refresh();
  }

  /** After filters or the chosen sample changed; the controls keep the focus that they have. */
  function refresh() {
    if (!list) return;
    select();
    mmpu.put(bar, controls());
    reveal(list);
    place.replaceChildren(detail());
  }

  document.addEventListener("keydown", (event) => {
    if (event.target.closest?.("input, select, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j") move(1);
    if (event.key === "k") move(-1);
  });

  return { section, refresh };
})();
