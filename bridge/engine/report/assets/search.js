// The search field: "/" goes to it, arrows choose among what was found, Enter shows it in the picture.

const MOST_HITS = 50;

class Search {
  constructor(graph, picture, input, list, onSelect) {
    Object.assign(this, { graph, picture, input, list, onSelect, hits: [], chosen: 0 });
    input.addEventListener("input", () => this.#search());
    input.addEventListener("focus", () => this.#search());
    input.addEventListener("blur", () => this.#open(false));
    input.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the field keeps the focus
      const hit = event.target.closest("li[data-item]");
      if (hit) this.#take(Number(hit.dataset.item));
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.target.closest?.("input, select")) return;
      event.preventDefault();
      input.focus();
      input.select();
    });
  }

  #search() {
    const query = this.input.value.trim();
    this.hits = query ? this.graph.search(query) : [];
    this.chosen = 0;
    this.picture.drawing?.mark("hit", this.hits.map((item) => item.index));
    const shown = this.hits.slice(0, MOST_HITS).map((item, place) => this.#hit(item, place));
    const left = this.hits.length - shown.length;
    const note = !this.hits.length ? "nothing found" : left ? `and ${left} more` : "";
    this.list.replaceChildren(...shown, ...(note ? [make("li", { class: "note" }, note)] : []));
    this.#open(query !== "");
    this.#choose(0);
  }

  #hit(item, place) {
    const attributes = { role: "option", id: `hit-${place}`, "data-item": item.index };
    const kind = make("b", { class: appearance(item) }, item.label);
    return make("li", attributes, kind, " ", make("bdi", {}, short(item.name, 70)));
  }

  #open(open) {
    this.list.hidden = !open;
    this.input.setAttribute("aria-expanded", open);
  }

  #choose(place) {
    const count = Math.min(this.hits.length, MOST_HITS);
    if (!count) return this.input.removeAttribute("aria-activedescendant");
    this.chosen = (place + count) % count;
    [...this.list.children].forEach((hit, at) => hit.setAttribute("aria-selected", at === this.chosen));
    this.list.children[this.chosen].scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", `hit-${this.chosen}`);
  }

  #key(event) {
    const keys = {
      ArrowDown: () => this.#choose(this.chosen + 1),
      ArrowUp: () => this.#choose(this.chosen - 1),
      Enter: () => this.hits.length && this.#take(this.hits[this.chosen].index),
      Escape: () => this.#clear(),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }

  #take(index) {
    this.#open(false);
    this.onSelect(index);
  }

  #clear() {
    this.input.value = "";
    this.#search();
    this.input.blur();
  }
}
