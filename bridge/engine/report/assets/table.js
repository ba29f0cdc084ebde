// The table of layers: sorted by a click on a heading, filtered by words and by kind. Rows are made as they are asked for.

const FIRST_ROWS = 200;
const SHORT = 24; // letters of a cell that stays on one line

class LayerTable {
  constructor(graph, elements, onSelect) {
    Object.assign(this, { graph, onSelect, most: FIRST_ROWS, by: 0, descending: false }, elements);
    const measured = graph.measured ? TIME_COLUMNS : [];
    this.columns = [...COLUMNS, ...measured];
    this.table.tHead.append(make("tr", {}, ...this.columns.map((column, at) => this.#heading(column, at))));
    this.filter.addEventListener("input", () => this.#again());
    this.kind.addEventListener("change", () => this.#again());
    this.more.addEventListener("click", () => {
      this.most = Infinity;
      this.draw();
    });
    this.table.tBodies[0].addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && !String(getSelection())) this.onSelect(Number(row.dataset.item));
    });
    this.draw();
  }

  draw() {
    const found = this.graph.search(this.filter.value, this.graph.layers);
    const items = this.#sorted(found.filter((item) => this.#isOf(item)));
    const rows = items.slice(0, this.most).map((item) => this.#row(item));
    this.table.tBodies[0].replaceChildren(...rows);
    const all = this.graph.layers.length;
    this.count.textContent = items.length === all ? all.toLocaleString("en") : `${items.length} of ${all}`;
    this.more.hidden = rows.length === items.length;
    this.more.textContent = `Show all ${items.length.toLocaleString("en")}`;
    [...this.table.tHead.rows[0].cells].forEach((cell, at) => {
      cell.setAttribute("aria-sort", at !== this.by ? "none" : this.descending ? "descending" : "ascending");
    });
  }

  mark(index) {
    for (const row of this.table.tBodies[0].rows) row.classList.toggle("selected", Number(row.dataset.item) === index);
  }

  #again() {
    this.most = FIRST_ROWS;
    this.draw();
  }

  #isOf(item) {
    const wanted = this.kind.value;
    return !wanted || (wanted === "folded" ? item.folded : item.what === wanted);
  }

  #sorted(items) {
    const { value } = this.columns[this.by];
    const collator = new Intl.Collator("en", { numeric: true });
    const compare = (a, b) => (typeof a === "number" ? a - b : collator.compare(a, b));
    const found = items.map((item) => [value(item), item]).sort(([a], [b]) => compare(a, b));
    return (this.descending ? found.reverse() : found).map(([, item]) => item);
  }

  #heading({ title, number }, at) {
    const sort = () => {
      this.descending = this.by === at ? !this.descending : Boolean(number) && at > 0; // large times first
      this.by = at;
      this.draw();
    };
    return make("th", { scope: "col", class: number ? "number" : "" }, make("button", { onclick: sort }, title));
  }

  #row(item) {
    const cells = this.columns.map(({ text, value, number }) => {
      const shown = String((text ?? value)(item));
      return make("td", { class: number ? "number" : shown.length <= SHORT ? "short" : "" }, make("bdi", {}, shown));
    });
    cells[1].classList.add(appearance(item));
    cells[2].replaceChildren(make("button", { class: "link" }, make("bdi", {}, item.name)));
    return make("tr", { "data-item": item.index }, ...cells);
  }
}

const COLUMNS = [
  { title: "#", value: (item) => item.index, number: true },
  { title: "kind", value: (item) => item.kind, text: (item) => item.label },
  { title: "name", value: (item) => item.name },
  { title: "module", value: (item) => item.node?.module ?? "" },
  { title: "outputs", value: (item) => item.type },
];
const TIME_COLUMNS = [
  {
    title: "time",
    value: (item) => item.us ?? -1,
    text: (item) => (item.us === undefined ? "" : milliseconds(item.us)),
    number: true,
  },
  {
    title: "share",
    value: (item) => item.share ?? -1,
    text: (item) => (item.share === undefined ? "" : percent(item.share)),
    number: true,
  },
];
