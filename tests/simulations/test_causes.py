"""Messages about Flower's processes say what went wrong, in plain text."""

import pytest

from simulations.engines.causes import cause, cause_in

TAKEN = """\x1b[93mWARNING \x1b[0m:   Option `--insecure` was set. Proceed only if you understand the risks.
\x1b[92mINFO \x1b[0m:      Starting Flower SuperLink
2026-11-28T08:48:38.125Z ERROR [uvicorn.error] [Errno 98] address already in use
2026-11-28T08:48:38.125Z INFO [uvicorn.error] Waiting for application shutdown.
\x1b[92mINFO \x1b[0m:      FastAPI lifespan: shutdown
"""
REFUSED = """\x1b[92mINFO \x1b[0m:      Starting Flower SuperLink
\x1b[91mERROR \x1b[0m:     Exit Code: 605
The certificate does not fit its key.

For more information, visit: <https://flower.ai/605.html>
"""
CRASHED = """Traceback (most recent call last):
  File "x.py", line 1, in <module>
    import flwr
ModuleNotFoundError: No module named 'flwr'
"""
RAY = """INFO :      run folder: /tmp/run
ERROR :     Traceback (most recent call last):
    raise Exception(
Exception: The current node timed out during startup.
WARNING :   Stopping Simulation Runtime.
RuntimeError: Simulation Runtime crashed.
ERROR :     Simulation raised an exception
    raise RuntimeError("An error was encountered. Ending simulation.") from ex
RuntimeError: An error was encountered. Ending simulation.
ERROR :     Exit Code: 700
An unhandled exception occurred when running the simulation.

For more information, visit: <https://flower.ai/700.html>
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (TAKEN, "[Errno 98] address already in use"),
        (REFUSED, "The certificate does not fit its key."),
        (CRASHED, "ModuleNotFoundError: No module named 'flwr'"),
        (RAY, "Exception: The current node timed out during startup."),
        ("ERROR :     round 2: client 0: not finite", "round 2: client 0: not finite"),
        ("\x1b[92mINFO \x1b[0m:      all is well", ""),
    ],
    ids=["port taken", "Flower's exit", "traceback", "Ray", "ours", "none"],
)
def test_the_cause_is_the_last_error_that_says_something(log, line):
    assert cause(log.splitlines()) == line


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (TAKEN, "[Errno 98] address already in use"),
        ("\x1b[93mWARNING \x1b[0m:   it is late\n", "WARNING :   it is late"),
    ],
)
def test_without_an_error_it_is_the_last_line(tmp_path, log, line):
    (tmp_path / "log").write_text(log)
    assert cause_in(tmp_path / "log") == line


def test_of_an_empty_log_is_said_that_it_is(tmp_path):
    (tmp_path / "log").touch()
    assert cause_in(tmp_path / "log") == "its log is empty"
