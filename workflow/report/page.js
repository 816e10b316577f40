"use strict";

// Figures name colours by CSS variable ("var(--a)"), so that one description serves light and dark.
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

function coloured(value, style) {
  if (typeof value === "string") {
    return value.replace(/var\((--[a-z-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  }
  if (Array.isArray(value)) return value.map((item) => coloured(item, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  }
  return value;
}

function draw() {
  const style = getComputedStyle(document.documentElement);
  const narrow = innerWidth < 640;
  for (const [id, figure] of Object.entries(figures)) {
    const plot = coloured(figure, style);
    if (narrow) plot.layout.margin = { ...plot.layout.margin, ...plot.layout.meta?.narrow };
    Plotly.react(id, plot.data, plot.layout, { displayModeBar: false });
  }
}
draw();

// Two maps of the same things (traces 0 and 1): pointing at one on either map rings it on both (traces 2 and 3).
for (const [id, figure] of Object.entries(figures)) {
  if (!figure.layout.meta?.linked) continue;
  const box = document.getElementById(id);
  let ringed = -1;
  box.on("plotly_hover", (event) => {
    const at = event.points[0].pointNumber;
    if (at === ringed) return;
    ringed = at;
    const maps = figure.data.slice(0, 2);
    Plotly.restyle(box, { x: maps.map((map) => [map.x[at]]), y: maps.map((map) => [map.y[at]]) }, [2, 3]);
  });
}
dark.addEventListener("change", draw);
const fit = new ResizeObserver((entries) => entries.forEach((entry) => Plotly.Plots.resize(entry.target)));
document.querySelectorAll(".plot").forEach((plot) => fit.observe(plot));

// Tables: a click on a heading sorts, typing filters.
for (const box of document.querySelectorAll(".table")) {
  const body = box.querySelector("tbody");
  const heads = [...box.querySelectorAll("th")];
  const rows = [...body.rows];
  heads.forEach((head, column) => {
    if (rows.length && rows.every((row) => row.cells[column].classList.contains("number") || /^[–—]?$/.test(row.cells[column].textContent))) {
      head.classList.add("number");
      rows.forEach((row) => row.cells[column].classList.add("number"));
    }
    if (!box.classList.contains("interactive")) return;
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.order ?? row.cells[column].textContent;
      const compare = (x, y) => (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
      body.append(...rows.sort((x, y) => sign * compare(key(x), key(y))));
    });
  });
  const input = box.querySelector("input");
  input?.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
}

// The contents: folded on a phone, the section in view marked.
if (innerWidth < 1248) document.querySelector(".contents").open = false;
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
}, { rootMargin: "-10% 0px -80% 0px" });
document.querySelectorAll("section").forEach((section) => seen.observe(section));

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => { fold.open = true; }));
