"use strict";

/* Sorting: a heading becomes a button; what has no number stays last, and the foot where it is. */
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const up = now === "none" ? heading.dataset.first === "up" : now === "descending";
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(table.tBodies[0], place, up ? 1 : -1);
    });
  });
}

function sort(body, place, sign) {
  const rows = [...body.rows].map((row, before) => {
    const cell = row.cells[place];
    const text = cell.textContent.trim();
    const number = "value" in cell.dataset ? Number(cell.dataset.value) : null;
    return { row, before, text, number };
  });
  rows.sort((a, b) => {
    if (!a.text || !b.text) return Number(!a.text) - Number(!b.text) || a.before - b.before;
    const order =
      a.number !== null && b.number !== null
        ? a.number - b.number
        : a.text.localeCompare(b.text, "en", { numeric: true });
    return sign * order || a.before - b.before;
  });
  body.append(...rows.map((each) => each.row));
}

/* Choices: which rows, whether intervals, whether all metrics. */
for (const task of document.querySelectorAll("section.task")) {
  const form = task.querySelector("form.choices");
  const apply = () => {
    const group = form.elements.group.value;
    for (const part of task.querySelectorAll("section.group")) {
      part.classList.toggle("away", group !== "" && part.dataset.group !== group);
    }
    task.classList.toggle("no-ends", !form.elements.ends.checked);
    task.classList.toggle("brief", form.elements.minor !== undefined && !form.elements.minor.checked);
  };
  form.querySelector("input[name=group]").checked = true;
  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

/* On paper, everything is unfolded. */
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
