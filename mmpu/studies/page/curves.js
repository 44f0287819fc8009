"use strict";
/* Curves of a stage, one small plot per metric; runs that differ in their seed alone are one line with its interval. */
mmpu.curves = (() => {
  const { make, draw } = mmpu;
  const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 2", "12 4"];
  const number = (value) => (Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(1) : Number(value.toPrecision(3)).toString());

  function plot({ metric, lines }) {
    const points = lines.flatMap((line) => line.points);
    const ys = points.flatMap(([, mean, reach]) => [mean - (reach ?? 0), mean + (reach ?? 0)]);
    const last = Math.max(1, ...points.map(([step]) => step));
    let low = Math.min(...ys), high = Math.max(...ys);
    if (low === high) { low -= Math.abs(low) / 2 || 0.5; high += Math.abs(high) / 2 || 0.5; }
    const x = (step) => 46 + (244 * step) / last, y = (value) => 130 - (118 * (value - low)) / (high - low);
    const svg = draw("svg", { viewBox: "0 0 300 160", role: "img", "aria-label": `${metric} over steps` },
      draw("line", { class: "axis", x1: 46, x2: 290, y1: 130, y2: 130 }), draw("line", { class: "axis", x1: 46, x2: 46, y1: 12, y2: 130 }),
      [low, high].map((at) => draw("text", { class: "soft", x: 42, y: y(at) + 4, "text-anchor": "end" }, number(at))),
      [0, last].map((at) => draw("text", { class: "soft", x: x(at), y: 146, "text-anchor": at ? "end" : "start" }, at ? `step ${at}` : "0")));
    lines.forEach((line, i) => {
      const path = (of) => line.points.map((point) => `${x(point[0]).toFixed(1)},${y(of(point)).toFixed(1)}`);
      if (line.points.some(([, , reach]) => reach !== null)) {
        const upper = path(([, mean, reach]) => mean + (reach ?? 0)), lower = path(([, mean, reach]) => mean - (reach ?? 0)).reverse();
        svg.append(draw("polygon", { class: `line-${i % 6} area`, points: [...upper, ...lower].join(" ") }));
      }
      const title = draw("title", {}, `${line.label}: ${number(line.points.at(-1)[1])} at step ${line.points.at(-1)[0]}`);
      svg.append(line.points.length > 1
        ? draw("polyline", { class: `line-${i % 6}`, points: path(([, mean]) => mean).join(" "), "stroke-dasharray": DASHES[i % 6] || null }, title)
        : draw("circle", { class: `line-${i % 6} dot`, cx: x(line.points[0][0]), cy: y(line.points[0][1]), r: 3 }, title));
    });
    return make("figure", {}, make("figcaption", {}, metric), svg);
  }

  /** Which line is which, by colour and by dashes. */
  function legend(labels) {
    return make("div", { class: "row" }, labels.map((label, i) => make("span", {},
      draw("svg", { viewBox: "0 0 40 10", width: 40, height: 10, "aria-hidden": "true", class: "inline" }, draw("line", { class: `line-${i % 6}`, x1: 0, x2: 40, y1: 5, y2: 5, "stroke-dasharray": DASHES[i % 6] || null })), ` ${label}`)));
  }

  function section(stage) {
    const shown = mmpu.numbers.curves.filter((curve) => curve.stage === stage);
    const labels = [...new Set(mmpu.numbers.curves.flatMap((curve) => curve.lines.map((line) => line.label)))];
    return [make("h2", {}, `Curves of ${stage}`), labels.length > 1 ? legend(labels) : null, make("div", { class: "small-plots" }, shown.map((curve) =>
      plot({ ...curve, lines: labels.map((label) => curve.lines.find((line) => line.label === label)).filter(Boolean) })))];
  }

  return { section };
})();
