"""The page of `bridge report`: all of the file is on it, and nothing in the file becomes HTML."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from generated_row import GENERATED

from bridge.cli import main
from bridge.engine.report import data, page
from bridge.engine_file.contents import EngineFile

VOID = {"meta", "input"}


class Page(HTMLParser):
    """A page, read strictly: every element is closed in turn."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts = [], [], [], {}
        self.rows, self.titles = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        inside = self.open[-1] if self.open else ""
        self.texts.setdefault(inside, []).append(text)
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text

    def values(self):
        """What the page's scripts read."""
        return json.loads(self.texts["script"][0])


def opened(file, *rows):
    return Page(page.content(file, *rows))


def test_tables_have_all_of_the_file(told):
    rows = opened(told).rows
    for expected in (
        ["x", "float16", "[1, 3, 0]", "[4, 3, 8]", "[16, 3, 64]"],
        ["y", "bfloat16", "[?, 3, ?]"],
        ["rope", "replaced", "found Größe", "a.b", "net.py:7 Größe"],
        ["relu", "not replaced", "no clamp Größe", "c", "net.py:9"],
        ["node Größe", "relu", "plugin", "faster Größe", "relu(x) Größe"],
        ["acme", "libacme.so Größe", "acme-ops 1.2", "0" * 64],
        ["relu", "1", "1"],
        ["body Größe", "1", "1", "1"],
        [GENERATED["name"], "kernel", "row", "n.py Größe:3, 2 variants"],
        [GENERATED["name"], "input", "x", "float16 [n0: 1 to 8, 64]"],
    ):
        assert expected in rows
    assert GENERATED["operator"] in [row[0] for row in rows]


def test_facts_are_the_files(told):
    text = " ".join(opened(told).texts["bdi"])
    for expected in ("sm86", "tensorrt_rtx 1.7.1.116", "1.0 kB", "1,234,567", "1.5 s", "0.1.0", "1 relu"):
        assert expected in text


def test_the_scripts_data_are_the_files(told):
    found = opened(told).values()
    items = {item["name"]: item for item in found["items"]}
    assert list(items) == ["x", "n", "relu_1", "cast_2", "y"]
    assert [item["what"] for item in items.values()] == ["input", "input", "plugin", "native", "output"]
    assert items["relu_1"]["kind"] == "relu" and items["cast_2"]["kind"] == "CAST"
    assert items["relu_1"]["attributes"] == [["negative_slope", "0.1"], ["max_value", "inf"], ["tensors", "x"]]
    assert items["relu_1"]["node"] == {"name": "node Größe", "op": "acme.norm", "module": "body Größe"}
    assert items["relu_1"]["lowering"] == "plugin: faster Größe"
    tensors = [tensor["type"] for tensor in found["tensors"]]
    assert tensors == ["float16 [?, 3, ?]", "int64 []", "float16 [?, 3, ?]", "bfloat16 [?, 3, ?]"]
    drawn = found["views"]["values"]
    assert [(line["source"], line["target"]) for line in drawn["lines"]] == [(0, 2), (2, 3), (3, 4)]


def test_hostile_names_stay_text(hostile):
    read = opened(hostile)
    assert read.tags.count("script") == 2 and read.tags.count("style") == 1 and "img" not in read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    names = [item["name"] for item in read.values()["items"]]
    attack = hostile.layers[1]["name"]
    assert attack in names and hostile.metadata["model"] in read.texts["title"]
    assert hostile.metadata["passes"][1]["what"] in [cell for row in read.rows for cell in row]


def test_control_characters_are_shown_as_escapes(hostile):
    text = page.content(hostile)
    assert "\x1b" not in text and "\u202e" not in text
    assert repr("last\x1b[2J\u202e") in [item["name"] for item in Page(text).values()["items"]]


def test_data_have_no_letter_of_html():
    encoded = page.as_data({"<!--": "</script>&\u2028"})
    assert not set("<>&\u2028") & set(encoded)
    assert json.loads(encoded) == {"<!--": "</script>&\u2028"}


def test_the_policy_allows_the_pages_own_script_and_no_other(told):
    text = page.content(told)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none';")
    for tag, opening in (("style", "<style>"), ("script", '<script type="module">')):
        content = re.search(re.escape(opening) + f"(.*?)</{tag}>", text, re.DOTALL)[1]
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policy


def test_the_page_names_nothing_outside_it(told):
    text = page.content(told)
    assert set(re.findall(r"\w+://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, which is not fetched
    assert not re.findall(r"\b(?:src|href)=|@import|url\(", text)


def test_every_asset_is_on_the_page():
    scripts = {path.stem for path in page._ASSETS.glob("*.js")}
    assert scripts == set(page._SCRIPTS)


def test_a_file_that_says_little(make_engine_file):
    bare = make_engine_file(metadata={}, plugins={}, layers=[{"name": "a", "type": "CAST"}], inputs=(), output_map=[0])
    read = opened(bare)
    assert read.texts["title"] == ["engine"]
    assert "Graph rewrites" not in read.texts["bdi"]
    assert [item["what"] for item in read.values()["items"]] == ["native", "output"]


def test_a_network_too_large_to_draw_has_its_table(told, monkeypatch):
    monkeypatch.setattr(data, "MOST_DRAWN", 3)
    found = opened(told).values()
    assert found["views"] == {} and len(found["items"]) == 5


def test_endless_texts_are_cut(make_engine_file):
    layers = [{"name": "n" * 1_000_000, "type": "CAST", "inputs": ["i" * 1_000_000], "outputs": []}]
    assert len(page.content(make_engine_file(layers=layers))) < 100_000


def test_the_command_writes_the_page(told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told.save("net.engine")
    assert main(["report", "net.engine"]) == 0
    assert capsys.readouterr().out == "net.html\n"
    assert (tmp_path / "net.html").read_text() == page.content(EngineFile.load("net.engine"))
    assert main(["report", "net.engine", "-o", "other.html"]) == 0 and (tmp_path / "other.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.engine"], 5, "none.engine: cannot read it"),
        (["net.engine", "-o", "none/net.html"], 2, "cannot write none/net.html: No such file"),
        (["net.engine", "--profile", "none.json"], 2, "none.json"),
    ],
)
def test_what_the_command_cannot_do(told, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    told.save("net.engine")
    assert main(["report", *arguments]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))
