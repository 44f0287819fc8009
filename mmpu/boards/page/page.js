"use strict";
/* What the page's parts share: the data, elements made from text alone, numbers as people read them. A plug-in's script
   runs before `main.js` and calls `mmpu.column({key, title, value, cell})` or `mmpu.panel({title, draw})`. */
const mmpu = (() => {
  const numbers = JSON.parse(document.getElementById("numbers").textContent);
  const columns = [], panels = [];
  const LONG = 20000;
  let samples = null, read = null;

  /** An element; children are elements or texts, and a text is never markup. */
  function make(name, attributes = {}, ...children) {
    return fill(document.createElement(name), attributes, children);
  }

  /** An SVG element. */
  function draw(name, attributes = {}, ...children) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (key.startsWith("aria-") && value !== null) element.setAttribute(key, String(value));
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }

  /** The samples, unpacked when they are first asked for. */
  function unpacked() {
    read ??= (async () => {
      const packed = atob(document.getElementById("samples").textContent);
      const bytes = new Uint8Array(packed.length);
      for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      samples = JSON.parse(await new Response(stream).text());
      await Promise.all(numbers.pictures.map(beside));
      return samples;
    })();
    return read;
  }

  /** A script file with pictures; one that is gone costs its pictures only. */
  function beside(file) {
    return new Promise((done) => {
      const script = make("script", { src: encodeURIComponent(file), onload: done, onerror: done });
      document.head.append(script);
    });
  }

  /** Called by the script files beside the page. */
  function pictures(at, uris) {
    uris.forEach((uri, i) => { samples.pictures[at + i] = uri; });
  }

  /** A state that is kept in the address's fragment, so that a view can be sent; what is as by default is left out. */
  function remember(defaults) {
    let now = read();
    const listeners = [];

    function read() {
      const given = new URLSearchParams(location.hash.slice(1));
      return Object.fromEntries(Object.entries(defaults).map(([key, value]) => [key, given.get(key) ?? value]));
    }

    function tell(before) {
      const changed = new Set(Object.keys(defaults).filter((key) => before[key] !== now[key]));
      if (changed.size) listeners.forEach((listener) => listener(changed));
    }

    function set(changes) {
      const before = now;
      now = { ...now, ...changes };
      const told = Object.entries(now).filter(([key, value]) => value !== defaults[key]);
      history.replaceState(null, "", "#" + new URLSearchParams(told).toString());
      tell(before);
    }

    addEventListener("hashchange", () => {
      const before = now;
      now = read();
      tell(before);
    });

    return { get now() { return now; }, set, listen: (listener) => listeners.push(listener) };
  }

  /** New content in a place; a field that is typed into keeps the focus. */
  function put(place, ...content) {
    const focus = document.activeElement?.dataset?.key, caret = document.activeElement?.selectionStart;
    place.replaceChildren(...content.flat(3).filter(Boolean));
    const back = focus && place.querySelector(`[data-key="${focus}"]`);
    if (!back) return;
    back.focus();
    if (back.type === "search") back.setSelectionRange(caret, caret);
  }

  /** A choice of one key of a state. */
  function choice(state, label, key, options) {
    return make("label", {}, label, make("select", { "data-key": key, onchange: (event) => state.set({ [key]: event.target.value }) },
      options.map(([value, text]) => make("option", { value, selected: state.now[key] === value }, text))));
  }

  /** A text as text; a long one is opened on demand. */
  function told(value, runs) {
    if (value.length > LONG) {
      const place = make("p", { class: "text", dir: "auto" }, value.slice(0, LONG));
      const more = make("button", { type: "button", onclick: () => { place.textContent = value; more.remove(); } }, `Show all ${count(value.length)} characters`);
      return [place, more];
    }
    const parts = runs ? runs.map(([kind, run]) => (kind === "same" ? run : make(runs.mark, {}, run))) : [value];
    return make("p", { class: "text", dir: "auto" }, value ? parts : make("em", { class: "quiet" }, "empty"));
  }

  function theme(name) {
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
  }

  const THEMES = [["", "as the system"], ["light", "light"], ["dark", "dark"]];
  const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : (100 * value).toFixed(digits));
  const bounds = (found) => (found.low === null || found.low === undefined ? "[–]" : `[${percent(found.low)}, ${percent(found.high)}]`);
  const rate = (found) => (found ? `${percent(found.value)} ${bounds(found)}` : "–");
  const count = (n) => n.toLocaleString("en");
  const short = (n) => n.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 3 });

  return {
    numbers, columns, panels, make, draw, unpacked, pictures, remember, put, choice, told, theme, THEMES, LONG, percent, bounds, rate, count, short,
    column: (column) => columns.push(column),
    panel: (panel) => panels.push(panel),
  };
})();
