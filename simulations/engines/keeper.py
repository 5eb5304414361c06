"""A command that ends with its parent process: python -m simulations.engines.keeper HOME COMMAND...

The keeper reads a pipe into which only its parent can write. The pipe ends with the parent, whatever ends that, KILL
included; then the command ends and all that it started, in whichever session. Where the parent has not written STOP
before, it is dead, and the keeper removes in its place the folder HOME and the files in shared memory.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import psutil

from simulations.signals import ENDING

STOP = b"stop"
GRACE_SECONDS = 10
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
SERVER_APP = "flwr-serverapp"  # no process of its own in a simulation


def main() -> None:
    """Run a command to its end, or to the parent's."""
    home, *command = sys.argv[1:]
    over, alone = threading.Event(), threading.Event()
    _adopt_orphans()
    for number in (signal.SIGINT, *ENDING):
        signal.signal(number, lambda number, frame: over.set())
    process = subprocess.Popen(command, cwd=home, stdin=subprocess.DEVNULL)

    def watch_command() -> None:
        process.wait()
        over.set()

    def watch_parent() -> None:
        if os.read(sys.stdin.fileno(), len(STOP)) != STOP:
            alone.set()
        over.set()

    for watch in (watch_command, watch_parent):
        threading.Thread(target=watch, daemon=True).start()
    over.wait()
    _end_apps()
    _end_all()
    _clear_left()
    if alone.is_set():
        shutil.rmtree(home, ignore_errors=True)


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that none is lost. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_apps() -> None:
    """Let the server's app record in the run's folder that the run was interrupted, and remove its files in memory."""
    apps = [child for child in _descendants() if SERVER_APP in _name_of(child)]
    for app in apps:
        with suppress(psutil.NoSuchProcess):
            app.terminate()
    psutil.wait_procs(apps, timeout=GRACE_SECONDS)


def _end_all() -> None:
    """Kill the remaining processes, and those that they have started meanwhile."""
    while alive := _descendants():
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=1)


def _descendants() -> list[psutil.Process]:
    """Return all processes below this one that still run."""
    return [child for child in psutil.Process().children(recursive=True) if child.is_running() and not _is_over(child)]


def _is_over(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:2])
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def _clear_left() -> None:
    from laser_fl.transport.shared_folders import clear_left  # late: the command need not wait for its imports

    clear_left()


if __name__ == "__main__":
    main()
