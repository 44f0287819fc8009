"use strict";
/* What the page's parts share: the data, elements made from text alone, numbers as people read them. A plug-in's script
   runs before `main.js` and calls `mmpu.column({key, title, value, cell})` or `mmpu.panel({title, draw})`. */
const mmpu = (() => {
  const numbers = JSON.parse(document.getElementById("numbers").textContent);
  const columns = [], panels = [];
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

  const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : (100 * value).toFixed(digits));
  const bounds = (found) => (found.low === null || found.low === undefined ? "[–]" : `[${percent(found.low)}, ${percent(found.high)}]`);
  const rate = (found) => (found ? `${percent(found.value)} ${bounds(found)}` : "–");
  const count = (n) => n.toLocaleString("en");

  return {
    numbers, columns, panels, make, draw, unpacked, pictures, percent, bounds, rate, count,
    column: (column) => columns.push(column),
    panel: (panel) => panels.push(panel),
  };
})();
