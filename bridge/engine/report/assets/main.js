// Puts the parts together. document.documentElement.dataset.ready is set once the page answers.

const graph = new Graph(JSON.parse(find("data").textContent));
const details = new Details(graph, find("details"), select);
const table = new LayerTable(
  graph,
  {
    table: find("layers"),
    filter: find("filter"),
    kind: find("filter-kind"),
    count: find("layer-count"),
    more: find("more"),
  },
  select,
);
const picture = new Picture(graph, find("frame"), select, followView);
const overview = new Overview(picture, find("overview"));
let overviewOf = null; // the drawing that the overview shows

function select(index) {
  picture.select(index);
  details.show(index);
  table.mark(index);
  find("network").scrollIntoView({ block: "nearest" });
  find("all").checked = picture.name === "all";
}

function followView() {
  find("scale").textContent = `${Math.round(100 * picture.scale)}%`;
  if (overviewOf === picture.drawing) return overview.follow();
  overviewOf = picture.drawing;
  overview.draw();
}

function start() {
  new Search(graph, picture, find("search"), find("hits"), select);
  const first = ["values", "all"].find((name) => graph.views[name]);
  if (!first) {
    find("frame").append(make("p", { class: "hint" }, "The network is too large for a picture; the table has all layers."));
    find("overview").hidden = true;
    return;
  }
  picture.show(first);
  find("zoom-in").addEventListener("click", () => picture.zoomBy(ZOOM_STEP));
  find("zoom-out").addEventListener("click", () => picture.zoomBy(1 / ZOOM_STEP));
  find("fit").addEventListener("click", () => picture.fit());
  const folded = graph.layers.filter((item) => item.folded).length;
  find("all-label").textContent = `weights and extents, too (${folded.toLocaleString("en")})`;
  find("all").disabled = !graph.views.all || !folded;
  find("all").addEventListener("change", (event) => picture.show(event.target.checked ? "all" : "values"));
  addEventListener("resize", () => overview.draw());
}

start();
document.documentElement.dataset.ready = Math.round(performance.now());
