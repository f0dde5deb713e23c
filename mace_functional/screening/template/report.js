// A click on a heading sorts the table by that column; missing values stay last.
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  const place = new Map([...body.rows].map((row, i) => [row, i]));
  const key = (row, column) => {
    const cell = row.cells[column];
    const spans = [...row.cells].some((each) => each.colSpan > 1);
    if (!cell || (spans && column > 0)) return null;
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const words = cell.textContent.trim();
    return words === "–" || words === "" ? null : words;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), undefined, { numeric: true });
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    if (heading.textContent.trim() === "files") return;
    // A span: Chromium does not repeat a heading with a real button on each printed page.
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        button.click();
      }
    });
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, other) => {
        const a = key(one, column), b = key(other, column);
        if (a === null || b === null) {
          return (a === null) - (b === null) || place.get(one) - place.get(other);
        }
        return sign * compare(a, b) || place.get(one) - place.get(other);
      });
      body.append(...rows);
    });
  });
});
document.querySelectorAll(".sorting").forEach((note) => note.removeAttribute("hidden"));
