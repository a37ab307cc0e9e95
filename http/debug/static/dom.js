// Elements, and tables that are changed in place, so that focus and selection stay.

/** element("button", {class: "x", onclick: f, "aria-label": "…"}, "text", child) */
export function element(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else e.setAttribute(name, value === true ? "" : value);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

export const byId = (id) => document.getElementById(id);

/** Change the text only if it is another one: what assistive technology reads stays quiet. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * A table of rows with keys. columns: [{label, title, kind, cell(row) -> text or node}].
 * kind: "text" (left) or "". A cell with text is changed in place; one that is a node is
 * replaced when its `same` changes: {node: () => element, same: string}.
 */
export class Table {
  constructor(table, columns, empty) {
    this.columns = columns;
    this.empty = empty;
    this.rows = new Map();
    this.body = element("tbody");
    table.replaceChildren(
      element("thead", {}, element("tr", {}, ...columns.map((c) =>
        element("th", { scope: "col", class: c.kind, title: c.title }, c.label)))),
      this.body);
  }

  update(items, keyOf, decorate) {
    const wanted = new Set();
    let at = 0;
    for (const item of items) {
      let key = String(keyOf(item));
      while (wanted.has(key)) key += "+";      // two that cannot be told apart are two rows
      wanted.add(key);
      let row = this.rows.get(key);
      if (!row) {
        row = { tr: element("tr"), cells: this.columns.map((c) => element("td", { class: c.kind })), same: [] };
        row.tr.append(...row.cells);
        this.rows.set(key, row);
      }
      this.columns.forEach((column, i) => this.fill(row, i, column.cell(item)));
      if (decorate) decorate(row.tr, item);
      if (this.body.children[at] !== row.tr) this.body.insertBefore(row.tr, this.body.children[at] ?? null);
      at += 1;
    }
    for (const [key, row] of this.rows) {
      if (!wanted.has(key)) {
        row.tr.remove();
        this.rows.delete(key);
      }
    }
    this.body.querySelector(".empty")?.parentElement.remove();
    if (at === 0)
      this.body.append(element("tr", {}, element("td", { class: "empty", colspan: this.columns.length }, this.empty)));
  }

  fill(row, i, cell) {
    const td = row.cells[i];
    if (cell !== null && typeof cell === "object") {
      if (row.same[i] === cell.same) return;
      row.same[i] = cell.same;
      td.replaceChildren(cell.node());
      if (cell.title) td.title = cell.title;
      return;
    }
    row.same[i] = undefined;
    setText(td, String(cell));
  }
}
