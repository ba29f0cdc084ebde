// The whole picture in small, beside it: where plugins are, what the frame shows; a click goes there.

const LEAST_DOT = 2; // pixels

class Overview {
  constructor(picture, element) {
    this.picture = picture;
    this.element = element;
    [this.canvas, this.window] = element.children;
    const go = (event) => {
      if (event.buttons !== 1) return;
      const corner = element.getBoundingClientRect();
      this.#go((event.clientX - corner.left) / corner.width, (event.clientY - corner.top) / corner.height);
    };
    for (const name of ["pointerdown", "pointermove"]) element.addEventListener(name, go);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  draw() {
    const { view } = this.picture.drawing;
    const { graph } = this.picture;
    const { clientWidth: width, clientHeight: height } = this.element;
    const pixels = window.devicePixelRatio || 1;
    Object.assign(this.canvas, { width: width * pixels, height: height * pixels });
    const context = this.canvas.getContext("2d");
    context.scale((width * pixels) / view.width, (height * pixels) / view.height);
    const dot = [
      Math.max(graph.boxWidth, (LEAST_DOT * view.width) / width),
      Math.max(graph.boxHeight, (LEAST_DOT * view.height) / height),
    ];
    const style = getComputedStyle(this.element);
    const order = [...view.items.keys()].sort((a, b) => this.#isPlugin(a) - this.#isPlugin(b)); // plugins on top
    for (const place of order) {
      const [x, y] = view.centres[place];
      context.fillStyle = style.getPropertyValue(`--${appearance(graph.items[view.items[place]])}-dot`);
      context.fillRect(x - dot[0] / 2, y - dot[1] / 2, ...dot);
    }
    this.follow();
  }

  // Moves the window to what the frame shows.
  follow() {
    const { frame, scale, drawing } = this.picture;
    const part = (offset, extent, all) => {
      const from = Math.min(1, offset / scale / all);
      return [from, Math.min(1 - from, extent / scale / all)].map((value) => `${100 * value}%`);
    };
    const style = this.window.style;
    [style.left, style.width] = part(frame.scrollLeft, frame.clientWidth, drawing.view.width);
    [style.top, style.height] = part(frame.scrollTop, frame.clientHeight, drawing.view.height);
  }

  #isPlugin(place) {
    return this.picture.graph.items[this.picture.drawing.view.items[place]].what === "plugin";
  }

  #go(x, y) {
    const { frame, scale, drawing } = this.picture;
    const { width, height } = drawing.view;
    frame.scrollTo(x * width * scale - frame.clientWidth / 2, y * height * scale - frame.clientHeight / 2);
  }
}
