// Makes elements. Text goes in as text alone: a name from an engine file is never read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function find(id) {
  return document.getElementById(id);
}

// The end of a long text says more than its beginning: names are paths.
function tail(text, longest) {
  return text.length > longest ? "…" + text.slice(-longest + 1) : text;
}

// What tells a layer from others, of a name such as "[RELU]-[aten_ops.relu.default]-[layer2.1.relu/relu_13]".
function short(name, longest) {
  return tail(name.replace(/\]$/, "").split("[").pop() || name, longest);
}
