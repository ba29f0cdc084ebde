"""What users rely on stays: public names, signatures, exceptions, commands and flags are in public_api.txt."""

import public_api

import bridge


def recorded():
    return public_api.RECORD.read_text().splitlines()


def recorded_and_gone():
    now = public_api.lines()
    return [line for line in recorded() if line not in now]


def test_nothing_public_is_gone_or_changed():
    gone = recorded_and_gone()
    assert not gone, "gone, or changed: users' code relies on it"


def test_what_is_new_is_recorded():
    known = recorded()
    new = [line for line in public_api.lines() if line not in known]
    assert not new, "new: record it with `python tests/support/public_api.py`"


def test_a_changed_signature_shows(monkeypatch):
    def relu(x, slope=0.0):
        return x

    monkeypatch.setattr(bridge, "relu", relu)
    assert recorded_and_gone() == [line for line in recorded() if line.startswith("bridge.relu(")]


def test_a_name_that_leaves_all_shows(monkeypatch):
    monkeypatch.setattr(bridge, "__all__", [name for name in bridge.__all__ if name != "tune"])
    gone = recorded_and_gone()
    assert len(gone) == 1 and gone[0].startswith("bridge.tune(")


def test_the_flags_that_are_completed_are_those_of_the_commands():
    assert public_api.FLAGS.read_text() == public_api.flags(), "record them with `python tests/support/public_api.py`"
