"use strict";
// Tables sort by a click on a head and keep the rows that fit a filter.
(() => {
  const number = (text) => {
    const value = Number(text.replace("\u2212", "-").replace(/[%×]$/, ""));
    return text.trim() === "" || Number.isNaN(value) ? null : value;
  };
  const text = (row, i) => row.cells[i].textContent.trim();
  // empty cells and words stand behind numbers, whatever the direction
  const compare = (sign, i) => (a, b) => {
    const [x, y] = [text(a, i), text(b, i)], [n, m] = [number(x), number(y)];
    if (n !== null && m !== null) return sign * (n - m);
    if (n !== null || m !== null) return n === null ? 1 : -1;
    if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);
    return sign * x.localeCompare(y, undefined, { numeric: true });
  };
  const condition = (heads, query) => {
    const parts = query.match(/^(.+?)\s*(<=|>=|<|>|=)\s*(-?[\d.]+)$/);
    const i = parts ? heads.findIndex((head) => head.toLowerCase() === parts[1].toLowerCase()) : -1;
    if (i < 0) return (row) => row.textContent.toLowerCase().includes(query.toLowerCase());
    const wanted = Number(parts[3]);
    const holds = { "<": (v) => v < wanted, ">": (v) => v > wanted, "=": (v) => v === wanted,
      "<=": (v) => v <= wanted, ">=": (v) => v >= wanted }[parts[2]];
    return (row) => {
      const value = number(text(row, i));
      return value !== null && holds(value);
    };
  };
  for (const table of document.querySelectorAll("table.data")) {
    const body = table.tBodies[0], rows = [...body.rows], cells = [...table.tHead.rows[0].cells];
    const heads = cells.map((cell) => cell.textContent.trim());
    cells.forEach((cell, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = cell.textContent;
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        const falls = cell.getAttribute("aria-sort") === "ascending";
        cells.forEach((other) => other.removeAttribute("aria-sort"));
        cell.setAttribute("aria-sort", falls ? "descending" : "ascending");
        body.append(...[...rows].sort(compare(falls ? -1 : 1, i)));
      });
    });
    if (rows.length < 6) continue;
    const tools = document.createElement("div"), field = document.createElement("input");
    const count = document.createElement("span"), only = document.createElement("input");
    tools.className = "tools";
    field.type = "search";
    const measured = heads.findIndex((_, i) => i && number(text(rows[0], i)) !== null);
    field.placeholder = measured < 0 ? "filter" : `filter: a word, or ${heads[measured]} < ${text(rows[0], measured)}`;
    field.setAttribute("aria-label", "filter rows");
    count.className = "note";
    tools.append(field);
    only.type = "checkbox";
    if (rows.some((row) => row.classList.contains("marked"))) {
      const label = document.createElement("label");
      label.append(only, " only marked rows");
      tools.append(label);
    }
    tools.append(count);
    table.parentElement.before(tools);
    const filter = () => {
      const fits = field.value.trim() ? condition(heads, field.value.trim()) : () => true;
      let n = 0;
      for (const row of rows) {
        row.hidden = !fits(row) || (only.checked && !row.classList.contains("marked"));
        n += row.hidden ? 0 : 1;
      }
      count.textContent = n === rows.length ? `${n} rows` : `${n} of ${rows.length} rows`;
    };
    field.addEventListener("input", filter);
    only.addEventListener("change", filter);
    filter();
  }
})();
