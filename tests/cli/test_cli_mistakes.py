"""Command lines that are wrong: exit code 2, the usage of the command that is meant, and the nearest name."""

import pytest
from command_runs import run

import bridge
from bridge.base.text import did_you_mean, listing
from bridge.cli import command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["explain"], "the following arguments are required: FILE.engine"),
        (["explain", "a", "b"], "unrecognized arguments: b"),
        (["compile", "a.py", "b.py"], "unrecognized arguments: b.py"),
        (["compile", "a.py", "--optimization-level", "9"], "argument --optimization-level: invalid choice: 9"),
        (["compile", "a.py", "--lowering", "fast"], "lowering is 'fast'; expected one of auto, plugin, native"),
        (["compile", "a.py", "--workspace-size", "-1"], "'-1' is no positive number of bytes"),
        (["ops", "--", "x"], "ops takes nothing after --: x"),
        (["compile", "none/a.py"], "there is no model file none/a.py\n"),
        (["cache", "clear", "--generated", "abc"], "--generated removes all generated libraries, and takes no KEY"),
    ],
)
def test_usage_errors(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "usage", "near"),
    [
        (["compil", "a.py"], "bridge [-h]", "compile"),
        (["compile", "a.py", "--taget", "sm86"], "bridge compile [options] MODEL.py", "--target"),
        (["compile", "a.py", "--optimization-levl=3"], "bridge compile [options] MODEL.py", "--optimization-level"),
        (["compile", "a.py", "--flavour", "tensort_rtx"], "bridge compile [options] MODEL.py", "tensorrt_rtx"),
        (["compile", "a.py", "--lowering", "rlu=native"], "bridge compile [options] MODEL.py", "relu"),
        (["compile", "a.py", "--passes", "rope,rop"], "bridge compile [options] MODEL.py", "rope"),
        (["cache", "lst"], "bridge cache [-h]", "ls"),
        (["cache", "prune", "--sise", "1 GB"], "bridge cache prune [-h]", "--size"),
        (["ops", "deform_conv"], "bridge ops [-h]", "deform_conv2d"),
        (["ops", "--generated", "none"], "bridge ops [-h]", None),
        (["bench", "rlu", "--list"], "bridge bench [OP ...]", "relu"),
        (["bench", "relu", "--peers", "inductr"], "bridge bench [OP ...]", "inductor"),
        (["test", "roi_alin"], "bridge test [-h]", "roi_align"),
        (["sanitize", "nsm"], "bridge sanitize [-h]", "nms"),
        (["eject", "none", "-o", "folder"], "bridge eject [-h]", None),
        (["zoo", "--list", "--filter", "resnet_dnc"], "bridge zoo [-h]", "resnet_dcn"),
    ],
)
def test_the_nearest_name_and_the_usage_of_the_command(capsys, arguments, usage, near):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"usage: {usage}")
    assert err.endswith(f"Did you mean {near!r}?\n") if near else "Did you mean" not in err


def test_a_model_file_that_is_nearly_there(capsys, model):
    code, _, err = run(capsys, "compile", model.with_name("nett.py"))
    assert code == 2 and err.endswith(f"there is no model file {model.with_name('nett.py')}. Did you mean '{model}'?\n")


def test_a_traceback_only_with_debug(capsys):
    assert "Traceback" not in run(capsys, "ops", "none")[2]
    assert "Traceback" in run(capsys, "ops", "none", "--debug")[2]


def test_names_that_exist():
    assert did_you_mean(["relu", "rope"], "rlu") == ". Did you mean 'relu'?"
    assert did_you_mean(["relu", "rope"], "conv") == did_you_mean([], "relu") == ""
    assert listing(["rope", "relu"], "rlu") == "rope, relu. Did you mean 'relu'?"
    assert listing(iter(["a b", "c"]), "xyz", "; ") == "a b; c" and listing([], "x") == "none"


def test_every_command_has_a_usage_of_its_own():
    _, commands = command.parser(bridge.__version__)
    assert {type(each) for each in commands.values()} == {command.Parser}
