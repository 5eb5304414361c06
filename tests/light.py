"""A node's work in a process in which no package can be imported but those of a light install.

docs/howto/deployment.md says which they are.

``python -m tests.light DATA OUT`` serves a short run on the files in DATA, and prints the errors that a user meets.
Imports of this project wait until the other packages are out of reach.
"""

import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LIGHT = ("torch", "numpy", "flwr", "pydantic", "safetensors")


def with_dependencies(names):
    """Return the names of packages and of all that they require, extras asked for included."""
    found, waiting = set(), [(name, ()) for name in names]
    while waiting:
        name, extras = waiting.pop()
        if (name := canonicalize_name(name), extras) in found:
            continue
        found.add((name, extras))
        try:
            required = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:  # of another platform, or left out by whoever installed
            continue
        for one in required:
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((one.name, tuple(sorted(one.extras))))
    return {name for name, _ in found}


def hide_other_packages():
    """Let imports find this project, the light install's packages and the standard library only."""
    light = with_dependencies(LIGHT) | {"laser-fl"}
    hidden = {
        module
        for module, packages in packages_distributions().items()
        if light.isdisjoint(map(canonicalize_name, packages))
    }

    assert not hidden & sys.modules.keys()
    sys.meta_path[:] = finders_without(hidden)
    return hidden


def finders_without(hidden):
    """Return the finders of this process, to which some packages are not installed."""

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name in hidden else super().find_spec(name, path, target)

    return [Finder if finder is PathFinder else finder for finder in sys.meta_path]


def serve(data, out):
    """Let two nodes compute a run with LASER over a fading channel, whose server alone asks for scipy."""
    import torch
    from flwr.supercore.task_identity import TaskIdentity

    from laser_fl.channels.fading import Fading
    from laser_fl.errors import LaserError
    from laser_fl.federated import traced
    from tests.grids import run_config, run_on_grid

    traced.CALLS = sys.maxsize  # as in all tests: the run is too short for it
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    values = {"task": "mnist", "model": "mlp", "data-dir": data, "channel": "fading", "rounds": 2, "evaluate-every": 2}
    try:
        run_on_grid(run_config(f"{out}-refused", **values), 2)
    except LaserError as error:
        print(error)
    Fading.transmission_probability = lambda self, clients, streams: torch.ones(clients)
    run_on_grid(run_config(out, **values), 2)


def refuse(*arguments):
    """Run a command that a light install does without."""
    from typer.testing import CliRunner

    from simulations.cli import app

    result = CliRunner().invoke(app, [*map(str, arguments)])
    print(result.exit_code, result.stderr, end="")


if __name__ == "__main__":
    others = hide_other_packages()
    assert {"pandas", "matplotlib", "ray", "transformers", "torchvision", "scipy", "jaxtyping"} <= others
    data, out = sys.argv[1:]
    serve(data, out)
    refuse("report", out)
    refuse("compare", "--out", f"{out}-compared")
    refuse("run", "--out", f"{out}-embedded")
    refuse("run", "-c", "task=pydoc", "--out", f"{out}-text")
    refuse("run", "-c", "task=mnist", "-c", f"data-dir={out}", "--out", f"{out}-absent")
    refuse("run", "--engine", "flower", "--out", f"{out}-flower")
