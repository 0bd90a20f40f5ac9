"use strict";
// The main tables are sorted by the buttons in their heads; what is missing stays last.
for (const table of document.querySelectorAll("table.main")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => {
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
