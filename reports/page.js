"use strict";
// Buttons in the heads sort the main tables; missing values stay last.
for (const table of document.querySelectorAll("table.main")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => {
    if (head.classList.contains("fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const value = (row) => row.cells[index].dataset.value;
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every((row) => value(row) === "" || Number.isFinite(Number(value(row))));
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
      });
      table.tBodies[0].append(...rows);
    });
  });
}
// Copy commands; if the page may not use the clipboard, select them for Ctrl+C.
for (const command of document.querySelectorAll("pre.copy")) {
  const button = document.createElement("button");
  const text = command.textContent;
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command.firstElementChild);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  const code = document.createElement("code");
  code.textContent = text;
  command.replaceChildren(code, button);
}
// Hovering shows the title of a dot; a tap or the keyboard shows the same text below it.
const tip = document.getElementById("tip");
for (const dot of document.querySelectorAll("svg .tip")) {
  dot.addEventListener("focus", () => {
    const box = dot.getBoundingClientRect();
    tip.textContent = dot.getAttribute("aria-label");
    tip.hidden = false;
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, 8) + scrollX}px`;
    tip.style.top = `${box.bottom + 6 + scrollY}px`;
  });
  dot.addEventListener("blur", () => { tip.hidden = true; });
}
addEventListener("resize", () => { if (tip) tip.hidden = true; });
