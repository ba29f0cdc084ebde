"""tests/support/fresh_process.py: its processes are as fresh, and end, as those of `python -c`, but for torch."""

import subprocess

import fresh_process
import pytest


def test_nothing_but_torch_is_imported():
    child = fresh_process.run("import sys; print([name in sys.modules for name in ('torch', 'bridge', 'pytest')])")
    assert (child.returncode, child.stdout, child.stderr) == (0, "[True, False, False]\n", "")


def test_parts_of_torch_are_imported_where_that_is_asked_for():
    names = ("torch._inductor.graph", "torch_tensorrt", "bridge")
    code = f"import sys; print([name in sys.modules for name in {names}])"
    assert fresh_process.run(code, imported=fresh_process.COMPILER).stdout == "[True, False, False]\n"
    assert fresh_process.run(code).stdout == "[False, False, False]\n"


def test_arguments_and_variables_are_of_one_process(monkeypatch):
    monkeypatch.setenv("GONE", "here")
    code = "import os, sys; print(sys.argv[1:], os.environ.get('GONE'), os.environ.get('NEW'), sep='|')"
    assert fresh_process.run(code, 1, "a b", GONE=None, NEW="x").stdout == "['1', 'a b']|None|x\n"
    assert fresh_process.run(code).stdout == "[]|here|None\n"


def test_an_error_is_a_traceback_and_a_code():
    child = fresh_process.run("import atexit; atexit.register(print, 'end'); print('begun'); 1 / 0")
    assert child.returncode == 1 and child.stdout == "begun\nend\n"
    assert child.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert fresh_process.run("import os; os.kill(os.getpid(), 11)").returncode == -11


def test_one_that_takes_too_long_is_ended_and_the_next_one_starts():
    with pytest.raises(subprocess.TimeoutExpired):
        fresh_process.run("import time; time.sleep(60)", timeout=0.5)
    assert fresh_process.run("print('next')").stdout == "next\n"
