"""The page of `bridge report` in a headless browser: it answers, and names in the file run nothing."""

import functools
import shutil

import pytest

from bridge.engine.report import page
from bridge.engine.report.measured import Row

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "chrome")
MOST_SECONDS = 3.0  # until 1,000 layers answer
SIZE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("needs a browser: apt-get install chromium-headless-shell")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens the page of an engine file; at the end, the browser has complained of nothing and fetched nothing."""
    complaints, requests, opened = [], [], []

    def show(file, rows=(), **settings):
        path = tmp_path / "report.html"
        path.write_text(page.content(file, rows))
        tab = browser.new_page(viewport=SIZE, **settings)
        opened.append(tab)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached")
        return tab

    show.complaints = complaints
    yield show
    for tab in opened:
        tab.close()
    assert complaints == []
    assert set(requests) <= {(tmp_path / "report.html").as_uri()}


@pytest.fixture
def tab(show, blocks):
    """The page of a hundred layers."""
    return show(blocks(20))


def text(tab, selector):
    return tab.locator(selector).inner_text()


def in_view(tab, name):
    """Whether the middle of a layer's box is within the frame."""
    box = tab.locator("g.box", has=tab.locator("title", has_text=name)).first.bounding_box()
    frame = tab.locator("#frame").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    return 0 < x - frame["x"] < frame["width"] and 0 < y - frame["y"] < frame["height"]


def test_a_thousand_layers_answer_soon(show, blocks):
    tab = show(blocks(200))
    assert float(tab.evaluate("document.documentElement.dataset.ready")) < 1000 * MOST_SECONDS
    assert tab.locator("g.box").count() == 803  # two inputs and an output, too; weights are left out
    assert tab.locator("g.box.plugin").count() == 200
    start = tab.evaluate("performance.now()")
    tab.fill("#search", "layers.150/add")
    tab.keyboard.press("Enter")
    assert "layers.150/add" in text(tab, "#details")
    assert tab.evaluate("performance.now()") - start < 1000 * MOST_SECONDS


def test_search_by_keyboard_shows_a_layer(tab):
    tab.keyboard.press("/")
    tab.keyboard.type("layers.17 plugin")
    assert tab.locator("#hits li").count() == 1
    assert tab.locator("g.box.hit").count() == 1
    tab.keyboard.press("Enter")
    assert not tab.locator("#hits").is_visible()
    assert text(tab, "#details h2") == "◆ relu" and text(tab, ".whole-name") == "layers.17/relu"
    assert in_view(tab, "layers.17/relu")
    assert tab.locator("g.box.selected").count() == 1 and tab.locator(".line.lit").count() == 2
    tab.keyboard.press("Escape")
    assert tab.locator("g.box.hit").count() == 0


def test_arrows_choose_among_hits_and_nothing_found_is_said(tab):
    tab.fill("#search", "layers.7/")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowUp")
    assert tab.locator("#hits li[aria-selected=true]").inner_text() == "MATRIX_MULTIPLY layers.7/matmul"
    tab.fill("#search", "no such layer")
    assert text(tab, "#hits") == "nothing found"
    tab.keyboard.press("Enter")
    assert "Click a layer" in text(tab, "#details")


def test_a_click_shows_details_that_lead_to_neighbours(show, told):
    tab = show(told)
    tab.locator("g.box.plugin").click()
    details = text(tab, "#details")
    for expected in ("a plugin", "negative_slope\n0.1", "acme.norm", "body Größe", "plugin: faster Größe"):
        assert expected in details
    assert text(tab, "#details li >> nth=0").split("\n") == ["float16 [?, 3, ?]", "x", "input x"]
    tab.locator("#details li button", has_text="CAST").click()
    assert text(tab, "#details h2") == "CAST"


def test_lines_have_dtype_and_shape(show, told):
    tab = show(told)
    assert tab.locator("text.type").all_text_contents() == [
        "float16 [?, 3, ?]",
        "float16 [?, 3, ?]",
        "bfloat16 [?, 3, ?]",
    ]


def scale(tab):
    return float(text(tab, "#scale").rstrip("%"))


def test_zooming_keeps_the_point_below_the_pointer(tab):
    box = tab.locator("g.box", has=tab.locator("title", has_text="layers.0/relu")).first
    tab.evaluate("document.getElementById('frame').scrollTo(0, 100)")
    before, first = box.bounding_box(), scale(tab)
    tab.mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    tab.keyboard.down("Control")
    tab.mouse.wheel(0, -200)
    playwright.expect(tab.locator("#scale")).not_to_have_text(f"{first:.0f}%")
    tab.keyboard.up("Control")
    after = box.bounding_box()
    assert after["width"] > 1.5 * before["width"]
    assert abs(after["y"] + after["height"] / 2 - before["y"] - before["height"] / 2) < 3


def test_buttons_and_keys_zoom(tab):
    first = scale(tab)
    tab.click("#zoom-in")
    assert scale(tab) == pytest.approx(1.25 * first, abs=1)
    tab.focus("#frame")
    tab.keyboard.press("-")
    assert scale(tab) == first
    tab.keyboard.press("0")
    assert scale(tab) < 15
    assert not tab.locator("g.box text").first.is_visible()  # too small to read


def test_dragging_and_the_overview_move_the_picture(tab):
    offset = functools.partial(tab.evaluate, "document.getElementById('frame').scrollTop")
    frame = tab.locator("#frame").bounding_box()
    tab.mouse.move(frame["x"] + 60, frame["y"] + 400)
    tab.mouse.down()
    tab.mouse.move(frame["x"] + 60, frame["y"] + 100, steps=3)
    tab.mouse.up()
    assert offset() == 300
    overview = tab.locator("#overview").bounding_box()
    tab.mouse.click(overview["x"] + overview["width"] / 2, overview["y"] + overview["height"] / 2)
    assert offset() > 2000


def test_folded_layers_are_drawn_where_asked_for(tab):
    tab.check("#all")
    assert tab.locator("g.box").count() == 103
    tab.uncheck("#all")
    tab.fill("#filter", "layers.9/weight")
    tab.locator("#layers tbody button").click()
    assert tab.locator("#all").is_checked() and in_view(tab, "layers.9/weight")


def test_the_table_filters_and_sorts(show, blocks):
    tab = show(blocks(60), [Row(f"layers.{index}/relu", 1.0 + index, (f"layers.{index}/relu",)) for index in range(20)])
    assert text(tab, "#layer-count") == "300" and tab.locator("#layers tbody tr").count() == 200
    tab.click("#more")
    assert tab.locator("#layers tbody tr").count() == 300
    tab.select_option("#filter-kind", "plugin")
    tab.locator("#layers th button", has_text="time").click()
    first = tab.locator("#layers tbody tr").first
    assert first.inner_text().split("\t")[2:] == ["layers.19/relu", "", "float16 [2, 3]", "0.0200 ms", "9.5%"]
    tab.locator("#layers th button", has_text="name").click()
    assert "layers.0/relu" in first.inner_text()
    tab.fill("#filter", "layers.12/")
    tab.select_option("#filter-kind", "")
    assert text(tab, "#layer-count") == "5 of 300"


def test_hostile_names_run_nothing(show, hostile):
    tab = show(hostile)
    tab.fill("#search", "attack")
    tab.keyboard.press("Enter")
    assert tab.locator("#details dd").first.bounding_box()["width"] > 100
    tab.locator("#details li button").first.click()
    tab.locator("#layers tbody tr").last.click()
    tab.wait_for_timeout(50)
    assert tab.title() == hostile.metadata["model"]
    assert tab.locator("img").count() == 0 and tab.locator("script").count() == 2


def test_the_policy_stops_a_script_that_gets_in(show, told, tmp_path):
    tab = show(told)
    blocked = tab.evaluate(
        """() => new Promise((done) => {
            addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
            document.body.insertAdjacentHTML("beforeend", '<button onclick="document.title = 1">')
            document.body.lastChild.click()
        })"""
    )
    assert blocked == "script-src-attr" and tab.title() == "Größe"
    assert len(show.complaints) == 1
    show.complaints.clear()


def test_dark_and_print(show, told):
    def paper(tab):
        return tab.evaluate("getComputedStyle(document.body).backgroundColor")

    assert paper(show(told)) != paper(show(told, color_scheme="dark"))
    tab = show(told)
    tab.emulate_media(media="print")
    assert not tab.locator("#search").is_visible() and tab.locator("#frame svg").is_visible()
    assert tab.evaluate(
        "document.querySelector('.scroll').scrollHeight <= document.querySelector('.scroll').clientHeight"
    )


def test_nothing_is_wider_than_the_window(show, hostile, told):
    for file in (hostile, told):
        tab = show(file)
        assert tab.evaluate("document.documentElement.scrollWidth") <= SIZE["width"]
