"use strict";
// The page is whole without this: it only searches and folds.
const find = document.getElementById("find");
const count = document.getElementById("count");
const logs = [...document.querySelectorAll("pre.log")].map((pre) => ({ pre, text: pre.textContent }));
const rows = [...document.querySelectorAll("[data-find]")];

function mark(log, word) {
  log.pre.textContent = "";
  let hits = 0, from = 0;
  const low = log.text.toLowerCase();
  for (let at = low.indexOf(word); word && at >= 0 && hits < 500; at = low.indexOf(word, from)) {
    log.pre.append(log.text.slice(from, at));
    const hit = document.createElement("mark");
    hit.textContent = log.text.slice(at, at + word.length);
    log.pre.append(hit);
    from = at + word.length;
    hits += 1;
  }
  log.pre.append(log.text.slice(from));
  return hits;
}

function search() {
  const word = find.value.trim().toLowerCase();
  let hits = 0, seen = 0;
  for (const log of logs) {
    const here = mark(log, word);
    hits += here;
    const fold = log.pre.closest("details");
    if (here && fold) fold.open = true;
  }
  for (const row of rows) {
    const fits = !word || row.dataset.find.toLowerCase().includes(word) || [...row.querySelectorAll("mark")].length > 0;
    row.hidden = !fits;
    seen += fits ? 1 : 0;
  }
  count.textContent = word ? `${seen} of ${rows.length} cases, ${hits} lines of logs marked` : "";
}

let waiting = 0;
find.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 150); });
for (const [id, open] of [["unfold", true], ["fold", false]]) {
  document.getElementById(id).addEventListener("click", () => {
    for (const fold of document.querySelectorAll("details")) fold.open = open;
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== find) { event.preventDefault(); find.focus(); }
});
document.querySelector(".tools").hidden = false;
