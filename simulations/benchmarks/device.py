"""Checks and measurements on a GPU, in named parts and within a given time; ``.ci/device`` starts them.

The figures of each case lie in results.json as soon as they are there. With ``--device cpu`` all of it runs at toy
size, to see that it runs. Neither Flower nor Ray is needed.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock, Timer

import torch

from laser_fl.errors import ConfigError, did_you_mean
from laser_fl.storage.environment import environment
from laser_fl.storage.files import write_whole
from simulations.benchmarks.device_parts import PARTS, SKIPPED, Figures

RESULTS = "results.json"
PLANNED, BEGUN, DONE, FAILED, CUT_OFF = "planned", "begun", "done", "failed", "cut off"
AGAIN = 75  # exit status: the process is of no use any more, but another one may go on with the other cases
BROKEN = "CUDA error"  # in messages, after which a process can use its GPU no more
SMALLEST = 4.0  # seconds in which a case is begun


class Results:
    """The figures of all cases by PART:CASE, those of earlier calls included, in results.json and a table per part."""

    def __init__(self, out: Path, device: str) -> None:
        """Read what is there. out: their folder. device: cpu or cuda."""
        self._out, self._lock = out, Lock()
        self._about = {"device": device, **machine(device)}
        path = out / RESULTS
        self.cases: dict[str, Figures] = json.loads(path.read_text()) if path.exists() else {}

    def put(self, names: Iterable[str], **figures: object) -> None:
        """Replace the figures of cases."""
        with self._lock:  # the watch of a part is another thread
            for name in names:
                command = f".ci/device {name} --device {self._about['device']}"
                self.cases[name] = {**figures, "command": command, **self._about}
            write_whole(self._out / RESULTS, (json.dumps(self.cases, indent=1) + "\n").encode())

    def having(self, status: str, part: str = "") -> list[str]:
        """Return the names of the cases of a status, of a part or of all."""
        return [n for n, figures in self.cases.items() if figures["status"] == status and n.startswith(part)]

    def write_tables(self) -> None:
        """Write the cases of each part as a CSV file."""
        for part in PARTS:
            rows = [{"case": name, **one} for name, one in self.cases.items() if name.startswith(f"{part}:")]
            if rows:
                with (self._out / f"{part}.csv").open("w", newline="") as file:
                    table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
                    table.writeheader()
                    table.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run parts. Returns the exit status: 1 where a case failed or a part got nothing done, 2 for a wrong argument."""
    given = _parsed(arguments)
    try:
        if given.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device: must be cpu where PyTorch sees no GPU, got cuda")
        names = chosen(given.parts or list(PARTS), given.device == "cpu")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    results = Results(given.out, given.device)
    if given.go_on:
        results.put(results.having(BEGUN), status=FAILED, failed="its process was killed")
    else:
        results.put(names, status=PLANNED)
    run(results, given.device, given.seconds, given.out)
    results.put(results.having(PLANNED), status=CUT_OFF)
    results.write_tables()
    return _report({name: results.cases[name] for name in names}, given.out)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(".ci/device", description="Check and measure on a GPU.")
    parser.add_argument("parts", nargs="*", metavar="PART[:CASES]", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: all at toy size")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, required=True, help="for all parts")
    parser.add_argument("--go-on", action="store_true", help="with the cases of a call whose process broke")
    return parser.parse_args(arguments)


def chosen(parts: Iterable[str], toy: bool) -> list[str]:
    """Return the cases that are named, as PART:CASE.

    parts: PART, or PART:BEGINNING for the cases whose names begin so. toy: True at toy size.

    Raises:
        ConfigError: there is no such part or case.
    """
    names: dict[str, None] = {}
    for one in parts:
        part, _, beginning = one.partition(":")
        if part not in PARTS:
            hint = did_you_mean(part, PARTS)
            raise ConfigError(f"PART: must be one of {', '.join(PARTS)}, got {part!r}{hint}")
        cases = [name for name in PARTS[part].names(toy) if name.startswith(beginning)]
        if not cases:
            raise ConfigError(f"{part}: cases must begin as {', '.join(PARTS[part].names(toy))}, got {beginning!r}")
        names |= dict.fromkeys(f"{part}:{name}" for name in cases)
    return list(names)


def run(results: Results, device: str, seconds: float, out: Path) -> None:
    """Run the planned cases, part by part.

    Args:
        results: with the cases.
        device: cpu or cuda.
        seconds: for all of them; a part's share that it does not use goes to the next.
        out: folder of the results.
    """
    ends = time.monotonic() + seconds
    planned = {part: names for part in PARTS if (names := results.having(PLANNED, f"{part}:"))}
    shares = [PARTS[part].share for part in planned]
    for index, (part, names) in enumerate(planned.items()):
        allowed = (ends - time.monotonic()) * shares[index] / sum(shares[index:])
        deadline = time.monotonic() + allowed
        watch = Timer(allowed, _give_up, (results, part))
        watch.daemon = True
        watch.start()
        for name in names:
            if time.monotonic() < deadline - SMALLEST:
                _run_case(results, name, device, deadline, out)
        watch.cancel()


def _give_up(results: Results, part: str) -> None:
    """End this process, whose case does not end in time."""
    try:
        results.put([*results.having(BEGUN, f"{part}:"), *results.having(PLANNED, f"{part}:")], status=CUT_OFF)
        results.write_tables()
    finally:
        os._exit(AGAIN)


def _run_case(results: Results, name: str, device: str, deadline: float, out: Path) -> None:
    """Run a case and keep its figures.

    Args:
        results: of all cases.
        name: PART:CASE.
        device: cpu or cuda.
        deadline: of its part, on Python's monotonic clock.
        out: folder of the results.
    """
    results.put([name], status=BEGUN)
    part, _, case = name.partition(":")
    started = time.monotonic()
    figures = _figures(partial(PARTS[part].work, case, device, device == "cpu", deadline - started, out))
    results.put([name], **figures, seconds=round(time.monotonic() - started, 1))
    if BROKEN in str(figures.get(FAILED)):
        os._exit(AGAIN)


def _figures(work: "partial[Figures]") -> Figures:
    """Return what `work` measured, with its status; an error is a result, too."""
    try:
        figures = work()
    except Exception as error:
        return {"status": FAILED, FAILED: f"{type(error).__name__}: {error}"[:2000]}
    return figures | {"status": next((one for one in (FAILED, SKIPPED) if one in figures), DONE)}


def machine(device: str) -> dict[str, str]:
    """Describe the card and the versions from which figures come. device: cpu or cuda."""
    known = environment()
    card = torch.cuda.get_device_name() if device == "cuda" else "none"
    about = {"card": card, "driver": _driver() if device == "cuda" else "", "cuda": torch.version.cuda or ""}
    return about | {key: known[key] for key in ("torch", "python", "revision")}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def _report(found: dict[str, Figures], out: Path) -> int:
    """Print a line for each case; return the exit status."""
    for name, one in found.items():
        more = one["command"] if one["status"] == CUT_OFF else one.get(FAILED) or one.get(SKIPPED) or ""
        print(f"{one['status']:8} {name}  {more}".rstrip())
    print(f"The figures are in {out / RESULTS}.")
    statuses: dict[str, set[str]] = {}
    for name, one in found.items():
        statuses.setdefault(name.partition(":")[0], set()).add(one["status"])
    return int(any(FAILED in some or some == {CUT_OFF} for some in statuses.values()))


if __name__ == "__main__":
    sys.exit(main())
