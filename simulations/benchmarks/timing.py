"""Measurements of benchmarks: sides timed in turn in one process, and the process's memory."""

import gc
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil
import torch

from laser_fl.federated.heap import give_back

Side = Callable[[], object]

MEGABYTE = 1e6
WAIT = "called a synchronizing CUDA operation"  # PyTorch's warning
CLEAR_PEAK = "5"  # written to clear_refs, it makes Linux forget the peak


def in_turn(
    sides: Mapping[str, Side],
    rounds: int,
    warm_up: int,
    device: torch.device,
    block: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Call the sides in turn, and time the single calls.

    A temporary disturbance of the machine disturbs all sides alike.

    Args:
        sides: the calls, by name.
        rounds: number of timed calls of each side.
        warm_up: number of calls of each side before these.
        device: to wait for after every call.
        block: number of consecutive calls of a side before the next side's turn; a run's rounds follow each other, too.
        clock: returns seconds.

    Returns:
        Each side's median, in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        for _ in range(warm_up):
            side()
    for start in range(0, rounds, block):
        for name, side in sides.items():
            for _ in range(min(block, rounds - start)):
                started = clock()
                side()
                _synchronise(device)
                seconds[name].append(clock() - started)
    return {name: median(values) for name, values in seconds.items()}


def waits(side: Side, rounds: int, device: torch.device) -> float | None:
    """Count the waits for a GPU that PyTorch reports, per call of a side; None for a CPU.

    Args:
        side: the call.
        rounds: number of calls.
        device: of their tensors.
    """
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(rounds):
                side()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(WAIT in str(one.message) for one in caught) / rounds


def _synchronise(device: torch.device) -> None:
    """Wait for the device's work to be done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """The largest resident memory of this process since now, above what it has now."""

    def __init__(self) -> None:
        """Release free memory; forget earlier peaks, where the system can (Linux)."""
        gc.collect()
        give_back(most=0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
        self._before = psutil.Process().memory_info().rss

    def megabytes(self, whole: bool = False) -> float | None:
        """Return the peak so far, in MB; None where the system does not report it.

        whole: True for all that the process has, Python and PyTorch among it.
        """
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return (int(line.split()[1]) * 1024 - (0 if whole else self._before)) / MEGABYTE
        return None


class Family:
    """The processes of a run: this one, and those that it has started by now, as an engine's actors."""

    def __init__(self) -> None:
        """Look for them."""
        self._others = psutil.Process().children(recursive=True)

    def seconds(self) -> float:
        """Return their processor time; that of the others counts in ticks of the system's clock, mostly 10 ms."""
        total = time.process_time()
        for process in self._others:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total
