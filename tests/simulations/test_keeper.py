"""Who started a command ends it and all below it, by whatever it ends itself; and what it had goes with it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from simulations.engines.keeper import STOP
from simulations.signals import ending_on_signals

# A process in a session of its own, as Ray has them, and one whose parent is no more.
TREE = "setsid sleep 97 & (setsid sleep 98 &) ; echo $! ; exec sleep 99"


@pytest.fixture
def kept(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "simulations.engines.keeper", str(home), "sh", "-c", TREE]
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    keeper.stdout.readline()
    below = psutil.Process(keeper.pid).children(recursive=True)
    yield keeper, home
    keeper.stdin.close()
    keeper.stdout.close()
    keeper.wait()
    assert psutil.wait_procs(below, timeout=10)[1] == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process whose parent is no more is nobody's")
class TestACommandAndAllBelowIt:
    def test_end_with_who_started_it_and_its_folder_goes(self, kept):
        keeper, home = kept
        keeper.stdin.close()  # as the system does when a process ends
        assert keeper.wait(timeout=60) == 0
        assert not home.exists()

    @pytest.mark.parametrize("how", ["told", "SIGTERM", "SIGHUP"])
    def test_end_when_told_and_the_folder_is_whose_it_was(self, kept, how):
        keeper, home = kept
        if how == "told":
            keeper.stdin.write(STOP)
            keeper.stdin.flush()
        else:
            keeper.send_signal(getattr(signal, how))
        assert keeper.wait(timeout=60) == 0
        assert home.exists()

    def test_end_when_the_command_does(self, kept):
        keeper, _ = kept
        (command,) = (
            child for child in psutil.Process(keeper.pid).children() if child.cmdline()[:2] == ["sleep", "99"]
        )
        command.kill()
        assert keeper.wait(timeout=60) == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
class TestASignal:
    def test_ends_as_ctrl_c_does_with_the_status_of_the_signal(self, name):
        number, ends = getattr(signal, name), []

        def work():
            with ending_on_signals(), ending_on_signals():
                try:
                    signal.raise_signal(number)
                except KeyboardInterrupt:
                    ends.append("cleaned up")
                    raise

        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as ended:
            work()
        assert (ended.value.code, ends) == (128 + number, ["cleaned up"])
        assert signal.getsignal(number) == before

    def test_that_is_ignored_stays_so(self, monkeypatch, name):
        """As SIGHUP under nohup."""
        number = getattr(signal, name)
        before = signal.signal(number, signal.SIG_IGN)
        try:
            with ending_on_signals():
                signal.raise_signal(number)
        finally:
            signal.signal(number, before)


def test_ctrl_c_stays_ctrl_c():
    with pytest.raises(KeyboardInterrupt), ending_on_signals():
        raise KeyboardInterrupt


@pytest.mark.skipif(not hasattr(os, "fork"), reason="takes a fork")
def test_a_worker_ends_with_who_started_it():
    program = (
        "import multiprocessing, os, signal, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from simulations.signals import end_with_parent\n"
        "pool = ProcessPoolExecutor(1, multiprocessing.get_context('fork'), end_with_parent)\n"
        "print(pool.submit(os.getpid).result(), flush=True)\n"
        "pool.submit(time.sleep, 99)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", program], check=False, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
