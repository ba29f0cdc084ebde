// The network as the page's data has it: items (inputs, layers, outputs), tensors, and who makes and takes each tensor.

class Graph {
  constructor(data) {
    Object.assign(this, data);
    this.makers = new Map();
    this.takers = new Map();
    this.items.forEach((item, index) => {
      item.index = index;
      item.label = item.what === "plugin" ? `◆ ${item.kind}` : item.kind;
      item.type = item.outputs.map((tensor) => this.tensors[tensor].type).join(", ");
      for (const tensor of item.outputs) if (!this.makers.has(tensor)) this.makers.set(tensor, index);
      for (const tensor of new Set(item.inputs)) {
        if (!this.takers.has(tensor)) this.takers.set(tensor, []);
        this.takers.get(tensor).push(index);
      }
      const { name = "", op = "", module = "" } = item.node ?? {};
      item.text = [item.name, item.kind, item.what, name, op, module, item.type].join("\n").toLowerCase();
    });
    this.layers = this.items.filter((item) => item.what === "plugin" || item.what === "native");
    this.measured = this.layers.some((item) => item.us !== undefined);
  }

  // The items that have every word of a query.
  search(query, items = this.items) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    return items.filter((item) => words.every((word) => item.text.includes(word)));
  }
}

function milliseconds(us) {
  return `${(us / 1000).toFixed(us < 100 ? 4 : 3)} ms`;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

// What a class or a colour stands for.
function appearance(item) {
  if (item.what === "plugin") return "plugin";
  if (item.what === "input" || item.what === "output") return "end";
  return item.folded ? "folded" : "native";
}
