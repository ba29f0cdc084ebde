// What is known of one item: a list beside the picture. Inputs and outputs lead to the items at their other ends.

const MOST_TAKERS = 20;

class Details {
  constructor(graph, element, onSelect) {
    this.graph = graph;
    this.element = element;
    this.onSelect = onSelect;
    element.append(make("p", { class: "hint" }, "Click a layer for its details."));
  }

  show(index) {
    const item = this.graph.items[index];
    this.element.replaceChildren(
      make("h2", { class: appearance(item) }, item.label),
      make("p", { class: "whole-name" }, make("bdi", {}, item.name)),
      make("dl", {}, ...this.#facts(item).flatMap(([term, value]) => this.#fact(term, value))),
      ...this.#tensors("Inputs", item.inputs, (tensor) => this.#makers(tensor)),
      ...this.#tensors("Outputs", item.outputs, (tensor) => this.graph.takers.get(tensor) ?? []),
    );
    this.element.scrollTop = 0;
  }

  #facts(item) {
    const node = item.node ?? {};
    const facts = [
      ["what", WHAT[appearance(item)]],
      ["time", item.us !== undefined && this.#time(item)],
      ["node", node.name],
      ["operator", node.op],
      ["module", node.module],
      ["lowering", item.lowering],
      ...item.attributes,
    ];
    return facts.filter(([, value]) => value);
  }

  #time(item) {
    const others = item.together - 1;
    const together = others ? `, measured together with ${others} other${others > 1 ? "s" : ""}` : "";
    return `${milliseconds(item.us)}, ${percent(item.share)} of all${together}`;
  }

  #fact(term, value) {
    return [make("dt", {}, term), make("dd", {}, make("bdi", {}, value))];
  }

  #makers(tensor) {
    return this.graph.makers.has(tensor) ? [this.graph.makers.get(tensor)] : [];
  }

  #tensors(title, tensors, ends) {
    if (!tensors.length) return [];
    return [make("h3", {}, title), make("ul", {}, ...tensors.map((tensor) => this.#tensor(tensor, ends(tensor))))];
  }

  #tensor(tensor, ends) {
    const { name, type } = this.graph.tensors[tensor];
    const links = ends.slice(0, MOST_TAKERS).map((index) => this.#link(index));
    const left = ends.length - links.length;
    const texts = [make("code", {}, type), make("bdi", { class: "tensor" }, name)];
    return make("li", {}, ...texts, ...links, left ? `and ${left} more` : "");
  }

  #link(index) {
    const item = this.graph.items[index];
    const title = `${item.label}\n${item.name}`;
    const attributes = { class: "link", title, onclick: () => this.onSelect(index) };
    return make("button", attributes, `${item.label} ${short(item.name, 40)}`);
  }
}

const WHAT = {
  plugin: "a plugin: a kernel of a library of ops",
  native: "a layer of TensorRT's own",
  folded: "of weights and extents alone: TensorRT computes it without values of the inputs",
  end: "an input or an output of the engine",
};
