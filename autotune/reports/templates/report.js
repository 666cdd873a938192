"use strict";

// Tables are sorted by the raw numbers behind their cells; a cell without one comes last either way.
function sortKey(row, column) {
  const cell = row.cells[column];
  if (cell.classList.contains("words")) return cell.textContent;
  return "number" in cell.dataset ? Number(cell.dataset.number) : null;
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}

function sortBy(table, heading) {
  const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => [sortKey(row, heading.cellIndex), row]);
  const known = keyed.filter(([key]) => key !== null).sort(([a], [b]) => direction * compare(a, b));
  const unknown = keyed.filter(([key]) => key === null);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  body.append(...[...known, ...unknown].map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortBy(table, heading));
    heading.append(button);
  }
}

// Where the browser lets no page write to the clipboard, the text is selected instead.
async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

for (const block of document.querySelectorAll("div.copyable")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", () => copy(block.querySelector("code"), button));
  block.append(button);
  block.classList.add("can-copy");
}
