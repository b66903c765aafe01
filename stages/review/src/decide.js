"use strict";
(() => {
  const panel = document.getElementById("decisions");
  const marked = document.getElementById("marked");
  const decisions = new Map();
  const tell = () => {
    const values = [...decisions.values()];
    const wrong = values.filter((d) => d.decision === "reject").length;
    const approve = document.getElementById("approve").checked;
    const boxes = values.length ? `${values.length - wrong} right, ${wrong} wrong` : "no box marked";
    marked.textContent = `${boxes}, ${approve ? "approved" : "not approved"}.`;
  };
  for (const button of document.querySelectorAll("[data-decision]")) {
    button.addEventListener("click", () => {
      const box = button.closest("[data-box]");
      const key = JSON.stringify([box.dataset.image, box.dataset.box]);
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const other of box.querySelectorAll("[data-decision]")) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(on));
      box.dataset.marked = on ? button.dataset.decision : "";
      if (on) decisions.set(key, { decision: button.dataset.decision, image: box.dataset.image, box: box.dataset.box });
      else decisions.delete(key);
      tell();
    });
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
