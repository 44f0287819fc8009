"use strict";
/* What two texts have in common, word by word. */
mmpu.diff = (() => {
  const CELLS = 4e6;

  const words = (text) => text.match(/\s+|[^\s]+/g) ?? [];

  /** Runs `[kind, text]` of both texts, kind being `same`, `only` or, between them, nothing of the other; null where the
      texts are too long to be compared. */
  function runs(left, right) {
    const a = words(left), b = words(right);
    let start = 0, endA = a.length, endB = b.length;
    while (start < endA && start < endB && a[start] === b[start]) start++;
    while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA--; endB--; }
    const n = endA - start, m = endB - start;
    if (n * m > CELLS) return null;
    const length = new Uint16Array((n + 1) * (m + 1));
    for (let i = n - 1; i >= 0; i--) {
      for (let j = m - 1; j >= 0; j--) {
        const at = i * (m + 1) + j;
        length[at] = a[start + i] === b[start + j] ? length[at + m + 2] + 1 : Math.max(length[at + m + 1], length[at + 1]);
      }
    }
    const one = [["same", a.slice(0, start).join("")]], two = [["same", b.slice(0, start).join("")]];
    const add = (to, kind, word) => (to.at(-1)[0] === kind ? (to.at(-1)[1] += word) : to.push([kind, word]));
    let i = 0, j = 0;
    while (i < n || j < m) {
      const at = i * (m + 1) + j;
      if (i < n && j < m && a[start + i] === b[start + j]) { add(one, "same", a[start + i++]); add(two, "same", b[start + j++]); }
      else if (j >= m || (i < n && length[at + m + 1] >= length[at + 1])) add(one, "only", a[start + i++]);
      else add(two, "only", b[start + j++]);
    }
    add(one, "same", a.slice(endA).join(""));
    add(two, "same", b.slice(endB).join(""));
    return [one, two];
  }

  return { runs };
})();
