"""`bridge new op acme::corr`: a package with an op of one's own, which builds, tests and compiles as it stands."""

import argparse
import keyword
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bridge.core.signature import NAMESPACE_PATTERN
from bridge.errors import BridgeError

DESCRIPTION = (
    "Writes a package: reference, op struct, kernel, tests, build. In a folder that is such a package already, of the\n"
    "same namespace, the files of a further op.\n\nExample: bridge new op acme::corr && pip install ./acme_corr"
)
TEMPLATES = Path(__file__).parent / "templates" / "op"

_NAME = re.compile(rf"({NAMESPACE_PATTERN})::([a-z_][a-z0-9_]*)")
_EXPECTED = 'expected a namespace and a name in lower case, such as "acme::corr"'
_TAKEN_NAMESPACES = (
    "bridge",
    "aten",
    "prim",
    "prims",
    "torch",
    "torchvision",
    "torch_tensorrt",
    "tensorrt",
    "quantized",
)
_TAKEN_NAMES = ("torch", "bridge", "main", "tests", "csrc")
_CPP_WORDS = re.compile(
    r"auto|bool|case|catch|char|const|default|delete|do|double|enum|explicit|export|extern|float|friend|goto|inline|int|"
    r"long|mutable|namespace|new|operator|private|protected|public|register|short|signed|sizeof|static|struct|switch|"
    r"template|this|throw|typedef|typename|union|unsigned|using|virtual|void|volatile"
)
_ENTRY_POINT = re.compile(
    r'^\[project\.entry-points\."?bridge\.ops"?\]\s*\n(?:\s*#.*\n|\s*\n)*"?(\w+)"?\s*=\s*"([\w.]+)"', re.M
)
_PLACES = {"gitignore": ".gitignore"}  # a file that would mean something to bridge's own build


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand and its flags."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    op = commands.add_parser("op", help="an op with a CUDA kernel")
    op.add_argument("name", type=op_name, metavar="NAMESPACE::NAME", help="such as acme::corr")
    op.add_argument("--out", metavar="FOLDER", type=Path, help="of the package; default: ./<namespace>_<name>")


def run(options: argparse.Namespace) -> int:
    """Writes the files, and prints their names; returns the exit code."""
    namespace, name = options.name
    folder = options.out or Path(f"{namespace}_{name}")
    package = package_in(folder, namespace)
    for path in write(folder, namespace, name, package):
        print(path)
    print(f"Change the formula in {name}.py and {name}.cuh. README.md says how to build and test.")
    return 0


def op_name(text: str) -> tuple[str, str]:
    """The namespace and the name of an op. ArgumentTypeError: they are none, or taken."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of an op, {_EXPECTED}")
    namespace, name = match.groups()
    for word, taken in ((namespace, _TAKEN_NAMESPACES), (name, _TAKEN_NAMES)):
        if word in taken:
            raise argparse.ArgumentTypeError(f"{text!r}: {word} is taken; {_EXPECTED}")
        if keyword.iskeyword(word) or keyword.issoftkeyword(word) or _CPP_WORDS.fullmatch(word):
            raise argparse.ArgumentTypeError(f"{text!r}: {word} is a word of Python or C++; {_EXPECTED}")
    return namespace, name


def package_in(folder: Path, namespace: str) -> str | None:
    """The Python package of a folder that has ops of the namespace already; None where the folder is no such package.

    BridgeError: it has ops of another namespace.
    """
    project = folder / "pyproject.toml"
    match = _ENTRY_POINT.search(project.read_text()) if project.is_file() else None
    if match is None:
        return None
    if match[1] != namespace:
        raise BridgeError(
            f"{folder} is a package of the namespace {match[1]}, and a package has one: name another folder with "
            f"--out, or the op {match[1]}::…"
        )
    return match[2]


def write(folder: Path, namespace: str, name: str, package: str | None = None) -> list[Path]:
    """Writes the files of a package with an op, or, into `package`, those of the op; returns their paths.

    BridgeError: files of these names are there already.
    """
    words = {"mynamespace_myop": package or f"{namespace}_{name}", "mynamespace": namespace}
    words |= {
        "mynamespace-myop": f"{namespace}-{name}".replace("_", "-").strip("-"),
        "myop": name,
        "MyOp": _camel(name),
    }
    texts = {folder / _filled(place, words): text for place, text in _templates(of_op=package is not None)}
    if there := [str(path) for path in texts if path.exists()]:
        raise BridgeError(f"nothing is written, for it would overwrite {', '.join(there)}")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_filled(text, words))
    if package is not None:
        init = folder / package.replace(".", "/") / "__init__.py"
        with init.open("a") as file:
            file.write(f"from {package}.{name} import {name} as {name}\n")
        return [*texts, init]
    return list(texts)


def _templates(of_op: bool) -> Iterator[tuple[str, str]]:
    """Places and texts of the templates; of_op: those alone that are files of an op."""
    for path in sorted(path for path in TEMPLATES.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        if not of_op or "myop" in path.name:
            place = path.relative_to(TEMPLATES).as_posix()
            yield _PLACES.get(place, place), path.read_text()


def _filled(text: str, words: Mapping[str, str]) -> str:
    longest_first = sorted(words, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: words[match[0]], text)


def _camel(name: str) -> str:
    words = "".join(word.capitalize() for word in name.split("_"))
    return words if words[:1].isalpha() else f"Op{words}"
