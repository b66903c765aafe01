"use strict";
(() => {
  const panel = document.getElementById("decisions");
  const marked = document.getElementById("marked");
  const classes = JSON.parse(panel.dataset.classes);
  const decisions = new Map();
  const tell = () => {
    const values = [...decisions.values()];
    const n = (what) => values.filter((d) => d.decision === what).length;
    const approve = document.getElementById("approve").checked;
    const boxes = values.length ? `${n("accept")} right, ${n("reject")} wrong, ${n("correct")} of another class` : "no box marked";
    marked.textContent = `${boxes}, ${approve ? "approved" : "not approved"}.`;
  };
  const mark = (box, what, more) => {
    const { image, digest, class: name, edges } = box.dataset;
    const key = JSON.stringify([image, box.dataset.box]);
    for (const button of box.querySelectorAll("button[data-decision]")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === what));
    }
    if (what !== "correct") box.querySelector("select").value = "";
    box.dataset.marked = what;
    const seen = { digest, annotation: { class: name, bbox: JSON.parse(edges) } };
    if (what) decisions.set(key, { decision: what, image, box: box.dataset.box, ...more, seen });
    else decisions.delete(key);
    tell();
  };
  for (const button of document.querySelectorAll("button[data-decision]")) {
    const pressed = () => button.getAttribute("aria-pressed") === "true";
    button.addEventListener("click", () => mark(button.closest("[data-box]"), pressed() ? "" : button.dataset.decision));
  }
  for (const select of document.querySelectorAll("select[data-decision]")) {
    const box = select.closest("[data-box]");
    const others = classes.filter((c) => c !== box.dataset.class);
    if (!others.length) select.hidden = true;
    select.append(new Option("it is a …", ""), ...others.map((c) => new Option(c, c)));
    select.addEventListener("change", () => mark(box, select.value ? "correct" : "", { class: select.value }));
  }
  document.getElementById("approve").addEventListener("change", tell);
  document.getElementById("save").addEventListener("click", () => {
    const file = { version: 1, annotations: panel.dataset.annotations, approve: document.getElementById("approve").checked };
    const reviewer = document.getElementById("reviewer").value.trim();
    if (reviewer) file.reviewer = reviewer;
    file.boxes = [...decisions.values()];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 2) + "\n"], { type: "application/json" }));
    link.download = "DECISIONS.json";
    link.click();
    URL.revokeObjectURL(link.href);
    tell();
  });
})();
