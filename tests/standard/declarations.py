"""What the bindings of one TensorRT declare (see bindings_dump.py), and whether a use of them fits that."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DUMP = Path(__file__).with_name("bindings_dump.py")
BINDINGS = Path(sys.prefix, "bindings")  # `make bindings` unpacks the bindings of standard TensorRT here

_KINDS = ("methods", "properties", "values", "classes")


@dataclass(frozen=True)
class Use:
    """One use of TensorRT's Python module in a source.

    owner: the class, "" for the module itself, None where the source does not show it. arguments: of a call, how many
    are positional and the names of the others; None if it is no call, or unpacks some. stored: it is assigned.
    overrides: it is a method of a class derived from TensorRT's, which TensorRT calls.
    """

    owner: str | None
    name: str
    place: str
    function: str = ""  # the source of the function that it stands in
    arguments: tuple[int, tuple[str, ...]] | None = None
    stored: bool = False
    overrides: bool = False

    @property
    def label(self) -> str:
        """As in "ITensor.dtype"."""
        return ".".join(filter(None, (self.owner, self.name)))


class Declarations:
    """version: of the TensorRT. classes: what each declares, by its name; nested ones have a dotted name."""

    def __init__(self, dumped: Mapping[str, Any]) -> None:
        self.dumped = dumped
        self.version: str = dumped["version"]
        self.classes: dict[str, Mapping[str, Any]] = {}
        self._add("", dumped["classes"])
        self._owners: dict[str, list[str]] = {}
        for owner, declared in self.classes.items():
            for name in {name for kind in _KINDS for name in declared[kind]}:
                self._owners.setdefault(name, []).append(owner)
        self._names = {*dumped["functions"], *dumped["classes"], *dumped["constants"], "__version__"}

    @classmethod
    def of(cls, where: str) -> "Declarations":
        """Of "tensorrt_rtx", or of a folder with unpacked bindings."""
        done = subprocess.run([sys.executable, str(DUMP), where], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return cls(json.loads(done.stdout))

    def _add(self, prefix: str, classes: Mapping[str, Any]) -> None:
        for name, declared in classes.items():
            self.classes[prefix + name] = declared
            self._add(f"{prefix}{name}.", declared["classes"])

    def owners(self, name: str) -> list[str]:
        """The classes that have a member of this name."""
        return self._owners.get(name, [])

    def _member(self, owner: str, name: str) -> str | None:
        """The kind of a class's member; None if it has none of this name."""
        return next((kind for kind in _KINDS if name in self.classes.get(owner, {}).get(kind, ())), None)

    def returned(self, owner: str, name: str) -> str:
        """The type of a property, or of a method's first overload."""
        declared = self.classes[owner]
        overloads = declared["methods"].get(name)
        return overloads[0]["returns"] if overloads else declared["properties"].get(name, {}).get("type", "")

    def problem(self, use: Use) -> str | None:
        """Why a use does not fit; None if it does."""
        if use.owner == "":
            return self._problem_of_name(use)
        owners = self.owners(use.name) if use.owner is None else [use.owner]
        problems = [self._problem_of_member(owner, use) for owner in owners] or ["no class has it"]
        return None if None in problems else problems[0]

    def _problem_of_name(self, use: Use) -> str | None:
        if use.name not in self._names:
            return "the module lacks it"
        declared = self.classes.get(use.name)
        overloads = self.dumped["functions"].get(use.name) if declared is None else declared["init"]
        return _problem_of_arguments(use, overloads)

    def _problem_of_member(self, owner: str, use: Use) -> str | None:
        kind = self._member(owner, use.name)
        if use.overrides and kind is None:  # pybind11 does not declare what it calls, but looks it up by its name
            return None if use.name in self.dumped["words"] else f"{owner} calls no such method"
        if kind is None:
            return f"{owner} lacks it"
        if use.stored and kind == "properties" and self.classes[owner]["properties"][use.name]["set"] is None:
            return f"{owner}.{use.name} cannot be assigned"
        return _problem_of_arguments(use, self.classes[owner]["methods"].get(use.name))


def _problem_of_arguments(use: Use, overloads: list[Mapping[str, Any]] | None) -> str | None:
    if use.arguments is None or not overloads or any(_fits(each, *use.arguments) for each in overloads):
        return None
    count, names = use.arguments
    return f"it takes no {count} arguments{''.join(f', {name}=' for name in names)}"


def _fits(overload: Mapping[str, Any], count: int, keywords: tuple[str, ...]) -> bool:
    parameters = [each for each in overload["parameters"] if each[0] != "self"]
    rest = {name: optional for name, _, optional in parameters[count:]}
    return (
        count <= len(parameters)
        and set(keywords) <= rest.keys()
        and all(optional or name in keywords for name, optional in rest.items())
    )
