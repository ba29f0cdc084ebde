// The network as an SVG in a frame that scrolls. Zooming changes the size of the SVG, so that scrolling stays the browser's.

const LEAST_SCALE = 0.02;
const MOST_SCALE = 3;
const FIRST_SCALE = 0.8; // at least, so that texts can be read
const FAR_SCALE = 0.42; // below it, texts are left out
const ZOOM_STEP = 1.25;
const LETTERS = 29; // of a name in a box
const DRAG = 4; // pixels that the pointer moves before a click becomes a drag

class Picture {
  constructor(graph, frame, onSelect, onView) {
    this.graph = graph;
    this.frame = frame;
    this.onSelect = onSelect;
    this.onView = onView;
    this.scale = 1;
    this.drawings = new Map();
    this.#listen();
  }

  // Shows one of the data's views; it is drawn when it is first shown.
  show(name) {
    if (!this.drawings.has(name)) this.drawings.set(name, new Drawing(this.graph, this.graph.views[name]));
    this.name = name;
    this.drawing = this.drawings.get(name);
    this.frame.replaceChildren(this.drawing.svg);
    this.zoomTo(Math.min(1, Math.max(FIRST_SCALE, this.frame.clientWidth / this.drawing.view.width)));
    const [x] = this.drawing.view.centres[0] ?? [0];
    this.frame.scrollTo(x * this.scale - this.frame.clientWidth / 2, 0);
  }

  // Zooms, and keeps the point of the frame at (x, y) where it is.
  zoomTo(scale, x = this.frame.clientWidth / 2, y = this.frame.clientHeight / 2) {
    const { frame, drawing } = this;
    const next = Math.min(MOST_SCALE, Math.max(Math.min(LEAST_SCALE, this.#whole()), scale));
    const left = (frame.scrollLeft + x) / this.scale;
    const top = (frame.scrollTop + y) / this.scale;
    this.scale = next;
    drawing.svg.setAttribute("width", drawing.view.width * next);
    drawing.svg.setAttribute("height", drawing.view.height * next);
    drawing.svg.classList.toggle("far", next < FAR_SCALE);
    frame.scrollTo(left * next - x, top * next - y);
    this.onView();
  }

  zoomBy(factor, x, y) {
    this.zoomTo(this.scale * factor, x, y);
  }

  fit() {
    this.zoomTo(this.#whole());
  }

  // The scale at which the frame shows the whole picture.
  #whole() {
    const { width, height } = this.drawing.view;
    return Math.min(this.frame.clientWidth / width, this.frame.clientHeight / height, 1);
  }

  // Marks an item and its lines, and moves it to the middle of the frame.
  select(index) {
    const hidden = !this.drawing?.boxes.has(index);
    if (hidden && this.graph.views.all) this.show("all");
    if (!this.drawing?.boxes.has(index)) return;
    this.drawing.mark("selected", [index]);
    this.drawing.light(index);
    if (this.scale < FAR_SCALE) this.zoomTo(1);
    const [x, y] = this.drawing.centre(index);
    this.frame.scrollTo(x * this.scale - this.frame.clientWidth / 2, y * this.scale - this.frame.clientHeight / 2);
  }

  #listen() {
    const { frame } = this;
    frame.addEventListener("scroll", () => this.onView());
    frame.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // the browser scrolls
        event.preventDefault();
        const corner = frame.getBoundingClientRect();
        this.zoomBy(Math.exp(-event.deltaY / 300), event.clientX - corner.left, event.clientY - corner.top);
      },
      { passive: false },
    );
    const larger = () => this.zoomBy(ZOOM_STEP);
    const smaller = () => this.zoomBy(1 / ZOOM_STEP);
    const keys = { "+": larger, "=": larger, "-": smaller, 0: () => this.fit() };
    frame.addEventListener("keydown", (event) => {
      const action = keys[event.key];
      if (!action || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      action();
    });
    this.#drag();
  }

  #drag() {
    const { frame } = this;
    let start = null;
    let dragged = false;
    frame.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return; // a finger scrolls
      start = { x: event.clientX + frame.scrollLeft, y: event.clientY + frame.scrollTop, at: event };
      dragged = false;
    });
    frame.addEventListener("pointermove", (event) => {
      if (!start) return;
      const far = Math.hypot(event.clientX - start.at.clientX, event.clientY - start.at.clientY) > DRAG;
      if (far && !dragged) frame.setPointerCapture(event.pointerId);
      dragged ||= far;
      if (dragged) frame.scrollTo(start.x - event.clientX, start.y - event.clientY);
    });
    for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, () => (start = null));
    frame.addEventListener("click", (event) => {
      const box = event.target.closest("[data-item]");
      if (box && !dragged) this.onSelect(Number(box.dataset.item));
    });
  }
}

// One view, drawn.
class Drawing {
  constructor(graph, view) {
    this.graph = graph;
    this.view = view;
    this.places = new Map(view.items.map((index, place) => [index, place]));
    this.boxes = new Map(view.items.map((index) => [index, this.#box(graph.items[index])]));
    this.lines = view.lines.map((line) => makeSvg("path", { d: path(line), class: line.lane ? "line lane" : "line" }));
    this.svg = makeSvg(
      "svg",
      { viewBox: `0 0 ${view.width} ${view.height}`, role: "img", "aria-label": "The network" },
      makeSvg("g", {}, ...this.lines),
      makeSvg("g", {}, ...this.boxes.values()),
      makeSvg("g", { class: "types" }, ...this.#types()),
    );
  }

  centre(index) {
    return this.view.centres[this.places.get(index)];
  }

  // Gives a class to the boxes of these items alone.
  mark(name, indices) {
    for (const box of this.svg.querySelectorAll(`.box.${name}`)) box.classList.remove(name);
    for (const index of indices) this.boxes.get(index)?.classList.add(name);
  }

  // Marks the lines to and from an item.
  light(index) {
    this.view.lines.forEach((line, at) => {
      this.lines[at].classList.toggle("lit", line.source === index || line.target === index);
    });
  }

  #box(item) {
    const { boxWidth: width, boxHeight: height } = this.graph;
    const [x, y] = this.centre(item.index);
    const box = makeSvg(
      "g",
      {
        class: `box ${appearance(item)}`,
        transform: `translate(${x - width / 2} ${y - height / 2})`,
        "data-item": item.index,
      },
      makeSvg("title", {}, `${item.label}\n${item.name}\n${item.type}`),
      makeSvg("rect", { width, height, rx: appearance(item) === "end" ? height / 2 : 6 }),
      makeSvg("text", { x: width / 2, y: 19, class: "kind" }, tail(item.label, LETTERS - 4)),
      makeSvg("text", { x: width / 2, y: 36, class: "name" }, short(item.name, LETTERS)),
    );
    if (item.share !== undefined) {
      box.append(
        makeSvg("rect", { class: "share", x: 4, y: height - 5, height: 3, width: (width - 8) * item.share }),
        makeSvg("text", { class: "time", x: width - 6, y: 12 }, percent(item.share)),
      );
    }
    return box;
  }

  // dtype and shape of each tensor, where its first line leaves its maker; the second of several a little lower.
  *#types() {
    const seen = new Map();
    for (const line of this.view.lines) {
      const tensors = seen.get(line.source) ?? seen.set(line.source, new Set()).get(line.source);
      if (tensors.has(line.tensor)) continue;
      const [x, y] = line.points[0];
      const text = tail(this.graph.tensors[line.tensor].type, 40);
      yield makeSvg("text", { x: x + 5, y: y + 13 + 11 * (tensors.size % 2), class: "type" }, text);
      tensors.add(line.tensor);
    }
  }
}

// A line in a lane has corners; another curves between ranks and is straight within one.
function path(line) {
  const [[x, y], ...rest] = line.points;
  let [lastX, lastY] = [x, y];
  const parts = [`M${x} ${y}`];
  rest.forEach(([nextX, nextY], index) => {
    const middle = (lastY + nextY) / 2;
    const curved = !line.lane && index % 2 === 0 && nextX !== lastX;
    parts.push(curved ? `C${lastX} ${middle} ${nextX} ${middle} ${nextX} ${nextY}` : `L${nextX} ${nextY}`);
    [lastX, lastY] = [nextX, nextY];
  });
  return parts.join("");
}
