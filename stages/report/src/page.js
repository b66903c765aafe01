"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((th, i) => th.addEventListener("click", () => {
    const numeric = th.classList.contains("num");
    const up = th.getAttribute("aria-sort") === (numeric ? "descending" : "none") || (!numeric && th.getAttribute("aria-sort") !== "ascending");
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (tr) => {
      const td = tr.cells[i];
      return td.dataset.v === undefined ? td.textContent.trim() : Number(td.dataset.v);
    };
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => (up ? 1 : -1) * compare(value(a), value(b)));
    body.append(...rows);
  }));
}
const box = document.getElementById("lightbox");
for (const button of document.querySelectorAll("button.zoom")) {
  button.addEventListener("click", () => {
    const img = button.querySelector("img").cloneNode();
    img.classList.toggle("tiny", img.width < 300);
    const caption = document.createElement("p");
    const source = button.closest("figure").querySelector("figcaption").cloneNode(true);
    source.querySelectorAll("button").forEach((b) => b.remove());
    caption.append(...source.childNodes);
    while (box.children.length > 1) box.lastChild.remove();
    box.append(img, caption);
    box.showModal();
  });
}
box.addEventListener("click", (e) => { if (e.target === box) box.close(); });
const theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
