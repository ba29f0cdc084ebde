"""The module that starts the `bridge` command: what it answers without torch, and what it hands over."""

import json
from pathlib import Path

import pytest
from command_runs import run_outside

import bridge
from bridge import cli
from bridge.cli import command
from bridge.errors import LibraryError
from bridge.toolchain import tools


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--version"], 0, f"bridge {bridge.__version__}\n"),
        (["--help"], 0, "measure the ops on this GPU, beside what others have"),
        (["-h"], 0, "5    the engine file is missing, damaged, or no engine file"),
        ([], 2, "required: COMMAND"),
        (["--debug", "compil"], 2, "invalid choice: 'compil'"),
    ],
)
def test_what_names_no_command_is_answered_without_torch(arguments, code, text):
    result, printed, torch, package = run_outside(*arguments)
    assert result == code and text in printed
    assert not torch and not package


def test_a_command_is_handed_to_the_package():
    result, printed, torch, package = run_outside("ops", "relu", "--json")
    assert (result, torch, package) == (0, True, True)
    assert json.loads(printed)[0]["name"] == "relu"


def test_the_cmake_package_is_printed_without_torch():
    result, printed, torch, package = run_outside("cmake-dir")
    assert not torch and not package
    try:
        assert (result, printed) == (0, f"{tools.cmake_package()}\n")
    except LibraryError:
        assert result == 7 and "install it again" in printed
    assert cli.main(["cmake-dir"]) == result


def test_both_know_the_same_commands_and_print_the_same_help():
    assert list(cli._COMMANDS) == list(command.COMMANDS)
    assert cli._parser().format_help() == command.parser(bridge.__version__)[0].format_help()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["doctor"], True), (["--debug", "cache", "ls"], True), (["--", "doctor"], True), (["x", "doctor"], False)],
)
def test_which_arguments_name_a_command(arguments, named):
    assert command.names_command(arguments) is named


def test_the_build_installs_the_module_beside_the_package():
    root = Path(__file__).parents[2]
    assert 'bridge/cli/command.py" DESTINATION . RENAME bridge_command.py' in (root / "csrc/CMakeLists.txt").read_text()
    assert 'bridge = "bridge_command:main"' in (root / "pyproject.toml").read_text()
