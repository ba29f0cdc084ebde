"""bridge completion: scripts that complete in real shells, written without torch."""

import shutil
import subprocess

import pytest
from command_runs import run_outside

from bridge.cli import command

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
"$(complete -p bridge | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = "source $argv[1]; complete -C (string join ' ' -- $argv[2..])"
LINES = [
    (["comp"], {"compile", "completion"}),
    (["compile", "--ta"], {"--target"}),
    (["compile", "net.py", "--dtype", "fl"], {"float16", "float32"}),
    (["ops", "deform"], {"deform_conv2d", "deform_conv2d_fused", "deform_roi_pool"}),
    (["cache", ""], {"ls", "clear", "prune", "verify"}),
    (["cache", "prune", "--si"], {"--size"}),
    (["completion", "z"], {"zsh"}),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in command.SHELLS:
        code, printed, torch, package = run_outside("completion", shell)
        assert (code, torch, package) == (0, False, False)
        (folder / shell).write_text(printed)
    return folder


def completed(arguments, folder=None):
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=60, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return {line.split("\t")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_bash(scripts, line, expected):
    assert completed(["bash", "--norc", "-c", BASH, "bash", scripts / "bash", "bridge", *line]) == expected


def test_bash_completes_files(scripts, tmp_path):
    (tmp_path / "net.engine").touch()
    found = completed(["bash", "--norc", "-c", BASH, "bash", scripts / "bash", "bridge", "run", "ne"], tmp_path)
    assert found == {"net.engine"}


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
@pytest.mark.parametrize(("line", "expected"), LINES)
def test_fish(scripts, line, expected):
    assert completed(["fish", "--no-config", "-c", FISH, scripts / "fish", "bridge", *line]) == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh(scripts):
    setup = 'autoload -U compinit; compinit -u -D; eval "$(<$1)"; print -- $_comps[bridge]'
    assert completed(["zsh", "-f", "-c", setup, "zsh", scripts / "zsh"]) == {"_shtab_bridge"}


def test_a_shell_that_is_not_known():
    code, printed, *_ = run_outside("completion", "bsh")
    assert code == 2 and printed.startswith("usage: bridge completion") and printed.endswith("Did you mean 'bash'?\n")


def test_without_what_writes_the_scripts(capsys, monkeypatch):
    monkeypatch.setitem(command.sys.modules, "shtab", None)
    assert command.completion("bash") == 7
    assert capsys.readouterr().err.endswith("pip install shtab\n")
