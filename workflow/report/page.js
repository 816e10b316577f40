"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

// --- figures: drawn when they are first seen; colours are CSS variables ("var(--a)"), one description for both themes
const figures = Object.assign({}, ...[...document.querySelectorAll("script.figures")].map((data) => JSON.parse(data.textContent)));
const drawn = new Set();

// plotly.js takes a second: it is run when a figure is near, or else (figures may be printed unseen) a while later.
let running;
function plotly() {
  running ??= new Promise((resolve) => {
    const found = document.querySelector("script.plotly");
    const script = document.createElement("script");
    script.onload = script.onerror = resolve;
    if (found.hasAttribute("src")) script.src = found.getAttribute("src");
    else script.textContent = found.textContent;
    document.body.append(script);
    if (!script.src) resolve();
  });
  return running;
}
addEventListener("load", () => setTimeout(plotly, 3000));

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

function draw(box) {
  if (typeof Plotly === "undefined") {
    box.textContent = "This figure needs plotly.js, which lies beside the report.";
    return;
  }
  const figure = figures[box.id];
  const plot = coloured(figure, getComputedStyle(root));
  if (innerWidth < 640) plot.layout.margin = { ...plot.layout.margin, ...plot.layout.meta?.narrow };
  Plotly.react(box, plot.data, plot.layout, { displayModeBar: false });
  if (drawn.has(box)) return;
  drawn.add(box);
  fit.observe(box);
  if (figure.layout.meta?.linked) link(box, figure);
}

// Two maps of the same things (traces 0 and 1): pointing at one on either map rings it on both (traces 2 and 3).
function link(box, figure) {
  let ringed = -1;
  box.on("plotly_hover", (event) => {
    const at = event.points[0].pointNumber;
    if (at === ringed) return;
    ringed = at;
    const maps = figure.data.slice(0, 2);
    Plotly.restyle(box, { x: maps.map((map) => [map.x[at]]), y: maps.map((map) => [map.y[at]]) }, [2, 3]);
  });
}

const fit = new ResizeObserver((entries) => entries.forEach((entry) => entry.contentRect.width && Plotly.Plots.resize(entry.target)));
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting || drawn.has(entry.target)) continue;
    near.unobserve(entry.target);
    plotly().then(() => draw(entry.target));
  }
}, { rootMargin: "400px" });
const plots = [...document.querySelectorAll(".plot")];
plots.forEach((box) => near.observe(box));
dark.addEventListener("change", () => drawn.forEach(draw));

// --- theme
function button(text, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "plain";
  made.textContent = text;
  made.addEventListener("click", action);
  return made;
}

function remembered(value) {
  try {
    if (value !== undefined) localStorage.setItem("diptych-theme", value);
    return localStorage.getItem("diptych-theme");
  } catch {
    return null; // a browser that keeps nothing for files
  }
}
if (remembered()) root.dataset.theme = remembered();
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
for (const main of document.querySelectorAll("main")) {
  const toggle = button("light / dark", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    drawn.forEach(draw);
  });
  toggle.classList.add("theme");
  main.prepend(toggle);
}

// --- downloads
function save(name, type, text) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(new Blob([text], { type }));
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
}

// A field that a spreadsheet would take for a formula is marked as text.
const field = (text) => `"${(/^[=+@\t\r]|^-(?![\d.])/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
const csv = (rows) => rows.map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
const plain = /^[−-]?[\d.,]+(e[−-]?\d+)?( ?%)?$/;

function cellText(cell) {
  const text = cell.textContent.trim();
  return cell.dataset.order !== undefined && plain.test(text) ? cell.dataset.order : text.replace(/^−(?=[\d.])/, "-");
}

const nameOf = (element) => element.closest("details.section, section")?.id ?? "table";
function tools(...buttons) {
  const box = document.createElement("div");
  box.className = "tools";
  box.append(...buttons);
  return box;
}

for (const box of plots) {
  const image = (format) => async () => {
    await plotly();
    if (!drawn.has(box)) draw(box);
    const paper = getComputedStyle(root).getPropertyValue("--paper").trim();
    const { data, layout } = coloured(figures[box.id], getComputedStyle(root));
    const size = { width: Math.max(box.clientWidth, 700), height: box.clientHeight };
    await Plotly.downloadImage({ data, layout: { ...layout, paper_bgcolor: paper } }, { format, filename: box.id, scale: format === "png" ? 2 : 1, ...size });
  };
  box.after(tools(button("SVG", image("svg")), button("PNG", image("png"))));
}

// --- tables: a click on a heading sorts, typing filters, a button saves
for (const box of document.querySelectorAll(".table")) {
  const body = box.querySelector("tbody");
  const heads = [...box.querySelectorAll("th")];
  const rows = [...body.rows];
  const titles = heads.map((head) => head.textContent);
  heads.forEach((head, column) => {
    if (rows.length && rows.every((row) => row.cells[column].classList.contains("number") || /^[–—]?$/.test(row.cells[column].textContent))) {
      head.classList.add("number");
      rows.forEach((row) => row.cells[column].classList.add("number"));
    }
    if (!box.classList.contains("interactive")) return;
    const sort = document.createElement("button");
    sort.type = "button";
    sort.append(...head.childNodes);
    head.replaceChildren(sort);
    sort.addEventListener("click", () => {
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
    for (const row of rows) row.hidden = !matches(row.textContent, input.value);
  });
  const number = [...document.querySelectorAll(".table")].indexOf(box) + 1;
  box.append(tools(button("CSV", () => save(`${nameOf(box)}-${number}.csv`, "text/csv", csv([titles, ...[...body.rows].map((row) => [...row.cells].map(cellText))])))));
}

function matches(text, words) {
  const lower = text.toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => lower.includes(word));
}

// --- cards of findings: filter, order, the first of each method and the rest behind a button
const MOST = 60; // cards of a method that a filter shows at once
for (const box of document.querySelectorAll(".cards")) {
  const form = box.querySelector("form");
  const groups = [...box.querySelectorAll(".group")].map((group) => ({
    group,
    list: group.querySelector(".list"),
    cards: [...group.querySelectorAll(".card")],
    shown: Number(group.dataset.first),
    more: button("", () => {}),
  }));
  const texts = new Map(groups.flatMap(({ cards }) => cards.map((card) => [card, card.textContent])));
  const chosen = (name) => form.elements[name].value;
  const filtered = () => chosen("words").trim() || chosen("side");
  const fits = (card) => (!chosen("side") || card.dataset.side === chosen("side")) && matches(texts.get(card), chosen("words").trim());
  function update() {
    let count = 0;
    for (const each of groups) {
      const wanted = !chosen("method") || each.group.dataset.method === chosen("method");
      const fitting = wanted ? each.cards.filter(fits) : [];
      const limit = filtered() ? Math.max(each.shown, MOST) : each.shown;
      each.cards.forEach((card) => { card.hidden = true; });
      fitting.slice(0, limit).forEach((card) => { card.hidden = false; });
      const rest = fitting.length - limit;
      each.more.hidden = rest <= 0;
      each.more.textContent = `Show ${rest > 0 ? Math.min(rest, MOST) : 0} more of ${fitting.length}`;
      each.group.hidden = !fitting.length;
      count += fitting.length;
    }
    form.querySelector("output").textContent = `${count} of ${texts.size}`;
  }
  function order() {
    const key = chosen("order");
    for (const each of groups) {
      each.cards.sort((x, y) => Number(y.dataset[key]) - Number(x.dataset[key]));
      each.list.append(...each.cards);
    }
    update();
  }
  for (const each of groups) {
    each.more.addEventListener("click", () => { each.shown = Math.max(each.shown, filtered() ? MOST : 0) + MOST; update(); });
    each.group.append(each.more);
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", update);
  form.elements.order.addEventListener("change", order);
  const columns = ["id", "method", "side", "status", "finding", "numbers"];
  const line = (method) => (card) => [card.id, method, card.dataset.side, card.dataset.status, card.querySelector(".name").textContent,
    [...card.querySelectorAll(":scope > summary > .facts > span")].map((fact) => fact.textContent.trim()).join("; ")];
  form.append(button("CSV", () => save(`${nameOf(box)}.csv`, "text/csv",
    csv([columns, ...groups.flatMap(({ group, cards }) => cards.filter(fits).map(line(group.dataset.method)))]))));
  update();
}

// --- explanations: by pointing, by the keyboard, by a touch
const tip = document.createElement("div");
tip.id = "tip";
tip.role = "tooltip";
tip.hidden = true;
document.body.append(tip);
function explain(target) {
  const about = target instanceof Element ? target.closest("[data-tip]") : null;
  tip.hidden = !about;
  if (!about) return;
  tip.textContent = about.dataset.tip;
  const at = about.getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  tip.style.top = `${at.bottom + size.height + 10 > innerHeight ? Math.max(4, at.top - size.height - 6) : at.bottom + 6}px`;
}
for (const event of ["pointerover", "focusin", "click"]) document.addEventListener(event, ({ target }) => explain(target));
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
addEventListener("keydown", ({ key, target }) => {
  if (key === "Escape") tip.hidden = true;
  if (key === "/" && !/^(INPUT|SELECT)$/.test(target.tagName)) {
    const input = [...document.querySelectorAll('.toolbar [type="search"]')].find((each) => each.offsetParent);
    if (input) setTimeout(() => input.focus());
  }
});

// --- addresses within the page: what is folded or hidden opens
const mains = [...document.querySelectorAll("main")];
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (mains.length > 1) mains.forEach((main, number) => { main.hidden = target ? !main.contains(target) : number > 0; });
  if (mains.length > 1) document.querySelectorAll("nav").forEach((nav, number) => { nav.hidden = mains[number].hidden; });
  if (!target) return;
  for (let fold = target; fold; fold = fold.parentElement) if (fold.tagName === "DETAILS") fold.open = true;
  target.hidden = false;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();

// The contents: folded on a phone, the section in view marked.
if (innerWidth < 1248) document.querySelectorAll(".contents").forEach((contents) => { contents.open = false; });
const links = new Map([...document.querySelectorAll("nav a")].map((anchor) => [anchor.hash.slice(1), anchor]));
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
}, { rootMargin: "-10% 0px -80% 0px" });
document.querySelectorAll("section, details.section").forEach((section) => seen.observe(section));

addEventListener("beforeprint", () => {
  document.querySelectorAll("details.section, .item:not([hidden])").forEach((fold) => { fold.open = true; });
  const unseen = plots.filter((box) => box.offsetParent && !drawn.has(box));
  const run = plotly(); // at once where it is in the page, so that this printing has the figures
  if (typeof Plotly === "undefined") run.then(() => unseen.forEach(draw));
  else unseen.forEach(draw);
});
