"""The logger "bridge": silent unless asked, by the application, the environment or the command line."""

import logging
import re
from importlib.util import find_spec

import fresh_process
import pytest
import torch
from compile_models import Convolutional

import bridge
from bridge import cli
from bridge.base import log

compiles = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


@pytest.fixture
def restored():
    """Takes away what a test shows."""
    handlers, level = list(log.logger.handlers), log.logger.level
    yield
    log.logger.handlers[:] = handlers
    log.logger.setLevel(level)


def python(code, **variables):
    return fresh_process.run(code, **{log.VARIABLE: None, **variables})


HANDLERS = """
import logging, torch
before = logging.getLogger().handlers[:], logging.getLogger().level
import bridge
logger = logging.getLogger("bridge")
print((logging.getLogger().handlers, logging.getLogger().level) == before, logger.handlers, logger.level)
logger.info("some news")
"""


def test_an_import_configures_nothing():
    child = python(HANDLERS)
    assert (child.stdout, child.stderr) == ("True [] 0\n", "")


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("INFO", True), ("warning", False)])
def test_the_environment_asks_for_lines_on_stderr(level, shown):
    child = python(HANDLERS, BRIDGE_LOG=level)
    assert child.stdout.startswith("True [<_Handler")
    assert child.stderr == ("[bridge] some news\n" if shown else "")


def test_a_level_that_does_not_exist_is_a_warning():
    child = python("import bridge; print('still here')", BRIDGE_LOG="loud")
    assert child.stdout == "still here\n"
    assert "UserWarning: BRIDGE_LOG is 'loud', expected one of debug, info, warning; it is ignored" in child.stderr


def test_lines_go_to_the_stderr_of_the_time_and_once(capsys, restored):
    log.show(logging.DEBUG)
    log.show(logging.INFO)
    log.logger.debug("not shown")
    log.logger.info("50 %s", "%")
    log.logger.warning("strange")
    assert capsys.readouterr().err == "[bridge] 50 %\n[bridge] warning: strange\n"


def test_a_step_says_its_seconds_and_what_it_found(caplog):
    with caplog.at_level(logging.INFO, "bridge"), log.step("lowering") as note:
        note("7 nodes")
        note("all well")
    assert len(caplog.messages) == 1
    assert re.fullmatch(r"lowering: 0\.\d\d s, 7 nodes, all well", caplog.messages[0])


def test_a_step_that_fails_says_so(caplog):
    with caplog.at_level(logging.DEBUG, "bridge"), pytest.raises(KeyError), log.step("lowering"):
        raise KeyError("x")
    assert caplog.messages[0] == "lowering …"
    assert re.fullmatch(r"lowering: failed after 0\.\d\d s, KeyError", caplog.messages[1])


def compile_small():
    model = Convolutional().eval()
    bridge.compile(model, model.example(torch.float32)[0], target="sm86", cache=False)


@compiles
def test_where_each_node_went_is_logged_for_debugging(caplog):
    with caplog.at_level(logging.DEBUG, "bridge"):
        compile_small()
    assert "node relu, bridge.relu: [bridge::relu]-[/relu]" in caplog.messages
    assert "plugin layer [bridge::relu]-[/relu], relu: negative_slope=0.1, max_value=6.0, tensors=x" in caplog.messages
    assert any(re.match(r"node linear, aten\.linear in head: .*; \[ELEMENTWISE\]", text) for text in caplog.messages)
    assert any(re.fullmatch(r"node x, placeholder: no layer", text) for text in caplog.messages)


@compiles
def test_nodes_are_not_logged_at_info(caplog):
    with caplog.at_level(logging.INFO, "bridge"):
        compile_small()
    assert not any(text.startswith(("node ", "plugin layer ")) for text in caplog.messages)


MODEL = """
import torch, bridge

class Net(torch.nn.Module):
    def forward(self, x):
        return bridge.relu(x)

def bridge_model(argv):
    return Net().eval(), (torch.ones(2, 4),)
"""


@compiles
@pytest.mark.parametrize(
    ("flags", "shown"), [([], False), (["-v"], False), (["-vv"], True), (["-v", "--verbose"], True)]
)
def test_the_command_line_asks_for_more(flags, shown, tmp_path, capsys, restored, monkeypatch):
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "net.py").write_text(MODEL)
    output = str(tmp_path / "net.engine")
    code = cli.main(["compile", str(tmp_path / "net.py"), "--target", "sm86", "-q", "-o", output, *flags])
    err = capsys.readouterr().err
    assert code == 0, err
    assert ("[bridge] node relu, bridge.relu: [bridge::relu]-[/relu]\n" in err) is shown
