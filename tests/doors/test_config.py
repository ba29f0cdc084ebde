import io

import pytest

from bridge.config import Config


def test_settings_override_and_leave_the_original():
    config = Config(target="sm86")
    changed = config.with_settings({"target": "8.9", "tf32": False})
    assert (config.target, config.tf32) == ("sm86", True)
    assert (changed.target, changed.tf32) == ("8.9", False)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"targte": "sm86"}, TypeError, "no setting 'targte'; did you mean 'target'?"),
        ({"xyz": 1}, TypeError, "its settings are target, flavour, progress"),
        ({"target": 86}, TypeError, "target is 86 of type int; expected str or None"),
        ({"tf32": 1}, TypeError, "tf32 is 1 of type int; expected bool"),
        ({"workspace_size": True}, TypeError, "workspace_size is True of type bool; expected int or None"),
        ({"workspace_size": 0}, ValueError, "workspace_size is 0; expected a positive number of bytes"),
        ({"optimization_level": 6}, ValueError, "optimization_level is 6; expected 0 to 5"),
        ({"flavour": "onnx"}, ValueError, "flavour is 'onnx'; expected one of tensorrt, tensorrt_rtx"),
    ],
)
def test_bad_settings_are_named(settings, error, text):
    with pytest.raises(error) as caught:
        Config().with_settings(settings)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("progress", "terminal", "expected"), [(None, True, True), (None, False, False), (True, False, True)]
)
def test_progress_is_for_terminals_unless_asked_for(monkeypatch, progress, terminal, expected):
    stderr = io.StringIO()
    stderr.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", stderr)
    assert Config(progress=progress).reports_progress is expected
