"""The environment of a run: versions, machine, and the revision of this code."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

SOURCE_FOLDERS = ("laser_fl", "strategies", "clients", "simulations")
SOURCE = Path(__file__).parents[1]
PACKAGES = ("laser-fl", "torchvision", "transformers", "flwr", "ray", "numpy")


@cache
def environment() -> dict[str, str]:
    """Describe the machine that computes a result; the text is empty where something is not there."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "revision": _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: _version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        "gpus": ", ".join(gpus),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _revision() -> str:
    """Return the source tree's commit, with a + if its code differs; empty outside a checkout, unknown without git."""
    if not (SOURCE / ".git").exists():
        return ""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + "+" if _git("status", "--porcelain", *SOURCE_FOLDERS) else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=SOURCE, capture_output=True, text=True, check=True).stdout.strip()
