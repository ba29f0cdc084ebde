"""README and docs: every code block runs or says why it cannot, links lead somewhere, results are those recorded."""

import dataclasses
import re
import runpy
from pathlib import Path

import doc_blocks
import fresh_process
import pytest
import torch
from own_ops import forgotten
from run_folder import link_host_objects
from test_house import WINGS

import bridge
from bridge import cli
from bridge.core.op import written
from bridge.generate import cache

ROOT = Path(__file__).parents[2]
APART = {"own_op.md"}  # loads a native library of its own, which torch keeps for as long as the process lives
PAGES = sorted([*(ROOT / folder / "README.md" for folder in ("", "models", "csrc")), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to run in; ops that a page defines are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch._dynamo.reset()
    with forgotten():
        yield tmp_path
    bridge.register()
    torch._dynamo.reset()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks(page, folder, host_objects):
    if problem := (run_apart(page, folder, host_objects) if page.name in APART else run(page)):
        pytest.skip(problem)


def run(page):
    torch.manual_seed(0)
    return doc_blocks.check_page(page, ROOT)


def run_apart(page, folder, host_objects):
    """Runs the page in a process of its own; returns what is not run there and why, or ""."""
    generated = cache.root_of()
    generated.mkdir(mode=0o700, parents=True)
    link_host_objects(host_objects, generated)
    code = (
        "import os, sys; from pathlib import Path; os.chdir(sys.argv[3]); import doc_blocks\n"
        "print(doc_blocks.check_page(*map(Path, sys.argv[1:3])) or '')"
    )
    done = fresh_process.run(code, page, ROOT, folder, imported=fresh_process.COMPILER)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    text = re.sub(r"^(`{3,}).*?^\1", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), f"{target}: there is no such file"
            assert not anchor or anchor in anchors(found), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page):
    named = re.findall(r"`((?:bridge|csrc|docs|models|tests)/[\w./-]+)`", page.read_text())
    built = "bridge/lib"  # is where the package is installed
    kept = [path for path in named if "my_op" not in path and not path.startswith(built)]
    assert not [path for path in kept if not (ROOT / path).exists()]


def anchors(page):
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_names_every_op_and_is_short():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 140
    assert not [op for op in written() if f"`{op}`" not in readme]


def test_results_are_those_recorded():
    generated = runpy.run_path(str(ROOT / "docs" / "generate_results.py"))
    assert (ROOT / "docs" / "results.md").read_text() == generated["page"](), "run `make results`"
    assert (ROOT / "README.md").read_text() == generated["readme"](), "run `make results`"


def test_settings_are_told():
    text = (ROOT / "docs" / "settings.md").read_text()
    assert not [field.name for field in dataclasses.fields(bridge.Config) if f"| `{field.name}` |" not in text]
    sources = [path.read_text() for path in (ROOT / "bridge").rglob("*.py")]
    variables = {name for source in sources for name in re.findall(r"\"(BRIDGE_[A-Z_]+)\"", source)}
    assert "BRIDGE_CACHE_DIR" in variables
    assert not [name for name in variables if f"| `{name}` |" not in text]


def test_exit_codes_are_told(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    codes = re.findall(r"^ {4}(\d+) +(.+)$", capsys.readouterr().out, flags=re.MULTILINE)
    text = (ROOT / "docs" / "command_line.md").read_text()
    assert len(codes) > 5 and not [code for code in codes if "| {} | {} |".format(*code) not in text]


def test_architecture_has_the_wings_in_their_order():
    text = (ROOT / "docs" / "architecture.md").read_text()
    first = re.findall(r"^\| (.+?) \|", text, flags=re.MULTILINE)
    named = [name for cell in first for name in re.findall(r"`(\w+)/?`", cell)]
    wings = [name for name in WINGS if name and "." not in name]
    parts = [name.removeprefix("tensorrt.") for name in WINGS if name.startswith("tensorrt.")]
    assert [name for name in named if name in wings] == wings
    assert [name for name in named if name in parts] == parts


FAILING = {
    "a python block that raises": "```python\nraise KeyError('k')\n```",
    "a command that fails": "```bash\nbridge explain missing.engine\n```",
    "a command that is no bridge's": "```bash\nmake test\n```",
    "another language": "```toml\na = 1\n```",
    "no language": "```\nbridge doctor\n```",
    "a reason of one word": "<!-- not run: GPU -->\n```python\nraise\n```",
    "lines that are in no file": "<!-- from: Makefile -->\n```make\nnothing: of that\n```",
    "another output": "```python\nprint(1)\n```\n\n<!-- output -->\n```text\n2\n```",
    "another exit code": "<!-- exit code: 4 -->\n```bash\nbridge explain missing.engine\n```",
}
PASSING = {
    "names are shared": "```python\nx = 1\n```\n\n```python\nassert x == 1\n```",
    "output with anything in it": "```python\nprint('a [1] b')\n```\n\n<!-- output -->\n```text\na [1] ...\n```",
    "the exit code that is told": "<!-- exit code: 5 -->\n```bash\nbridge explain missing.engine\n```",
    "a reason": "<!-- not run: needs a GPU -->\n```bash\nmake sanitize\n```",
    "lines of a file": "<!-- from: Makefile -->\n```make\ndemo: build\n```",
    "lines of a file that is written": (
        "<!-- file: a.toml -->\n```toml\nb = 1\nc = 2\n```\n\n<!-- from: a.toml -->\n```toml\nc = 2\n```"
    ),
    "a file that is written": "<!-- file: m.py -->\n```python\na = 2\n```\n\n```python\nimport m\nassert m.a == 2\n```",
}


@pytest.mark.parametrize("text", FAILING.values(), ids=FAILING)
def test_a_wrong_block_is_found(text, folder):
    page = folder / "page.md"
    page.write_text(text)
    with pytest.raises(doc_blocks.BlockError, match=r"page\.md:\d"):
        doc_blocks.check_page(page, ROOT)


@pytest.mark.parametrize("text", PASSING.values(), ids=PASSING)
def test_a_right_block_passes(text, folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    page = folder / "page.md"
    page.write_text(text)
    doc_blocks.check_page(page, ROOT)


def test_what_needs_a_compiler_is_left_out_with_the_reason(folder, monkeypatch):
    page = folder / "page.md"
    page.write_text("```python\nx = 1\n```\n\n<!-- needs nvcc from here on -->\n```python\nraise KeyError\n```\n")
    monkeypatch.setenv("CUDACXX", "no-such-compiler")
    problem = doc_blocks.check_page(page, ROOT)
    assert problem == "page.md:7 and what follows is not run: CUDACXX='no-such-compiler': no such program"


def test_an_error_names_the_line_of_the_page(folder):
    page = folder / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\nraise ValueError(x)\n```\n")
    with pytest.raises(doc_blocks.BlockError, match=r"page\.md:4: ValueError: 1") as caught:
        doc_blocks.check_page(page, ROOT)
    frame = caught.value.__cause__.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    assert (Path(frame.tb_frame.f_code.co_filename), frame.tb_lineno) == (page, 5)
