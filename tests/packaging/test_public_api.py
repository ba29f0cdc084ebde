"""What users rely on stays: public names, signatures, exceptions, commands and flags are in public_api.txt."""

import public_api

import bridge


def recorded():
    return public_api.RECORD.read_text().splitlines()


def test_nothing_public_is_gone_or_changed():
    gone = [line for line in recorded() if line not in public_api.lines()]
    assert not gone, "gone, or changed: users' code relies on it"


def test_what_is_new_is_recorded():
    new = [line for line in public_api.lines() if line not in recorded()]
    assert not new, "new: record it with `python tests/support/public_api.py`"


def test_a_changed_signature_shows(monkeypatch):
    def relu(x, slope=0.0):
        return x

    monkeypatch.setattr(bridge, "relu", relu)
    assert [line for line in recorded() if line not in public_api.lines()] == [
        line for line in recorded() if line.startswith("bridge.relu(")
    ]


def test_a_name_that_leaves_all_shows(monkeypatch):
    monkeypatch.setattr(bridge, "__all__", [name for name in bridge.__all__ if name != "tune"])
    gone = [line for line in recorded() if line not in public_api.lines()]
    assert len(gone) == 1 and gone[0].startswith("bridge.tune(")
