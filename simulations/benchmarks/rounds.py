"""Whole rounds in one process, beside their floor: the work that no round can do without."""

from collections.abc import Iterator
from dataclasses import replace

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig, parse
from laser_fl.data.trees import tensors_of
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.local_training import LocalTrainer
from laser_fl.federated.optimizer import Optimizer, OptimizerConfig
from laser_fl.federated.setup import Setup, device_of, prepare
from laser_fl.registry import SCHEMES
from laser_fl.storage.peak_memory import forget_peak, peak_megabytes
from simulations.benchmarks import synthetic
from simulations.benchmarks.base import Line, Request, apart, line, milliseconds
from simulations.benchmarks.timing import MEGABYTE, PeakMemory, Side, in_turn, waits

WARM_UP = 5
GROWTH = (4, 16, 64, 256, 1000)
GROWTH_BATCH = 60  # examples that each of 1,000 clients has of MNIST's 60,000
SLACK = 0.25
WAITED = 4  # rounds in which waits are counted; LASER's even and odd ones differ


def mnist(request: Request) -> Iterator[Line]:
    """Time the paper's setting, 16 clients x 128 images, at a power at which the digital rival transmits, too."""
    return _every_strategy("mnist", request, request.config("mnist", power=1000), 200)


def resnet18(request: Request) -> Iterator[Line]:
    """Time ResNet18 at full width, 4 clients x 32 images, on all of PyTorch's threads."""
    return _every_strategy(
        "resnet18", request, request.config("cifar10", clients=4, batch_size=32, evaluate_examples=500), 6
    )


def cifar10(request: Request) -> Iterator[Line]:
    """Time ResNet18 at the paper's size, 16 clients x 128 random images."""
    return _every_strategy("cifar10", request, request.config("cifar10", task=_synthetic("images")), 20)


def gpt2_small(request: Request) -> Iterator[Line]:
    """Time GPT-2 with two layers, 119,104 values, 4 clients x 16 windows of 64 bytes."""
    return _every_strategy("gpt2-small", request, request.config("gpt2-small"), 50)


def gpt2(request: Request) -> Iterator[Line]:
    """Time GPT-2 with two layers at full width and vocabulary, 2 clients x 2 windows of 512 tokens."""
    config = request.config(
        "gpt2-wikitext103",
        task="wikitext-2",
        layers=2,
        clients=2,
        batch_size=2,
        accumulation_steps=1,
        evaluate_examples=8,
    )
    return _every_strategy("gpt2", request, config, 3)


def gpt2_full(request: Request) -> Iterator[Line]:
    """Time GPT-2 at the paper's size, 4 clients x 3 x 15 windows of 512 random tokens."""
    config = request.config("gpt2-wikitext103", task=_synthetic("text"), evaluate_examples=8)
    return _every_strategy("gpt2-full", request, config, 10)


def growth(request: Request) -> Iterator[Line]:
    """Time the paper's setting with 60 images per client, for a growing number of clients.

    The memory stands beside a bound: that of data, model and memories, and a quarter more.
    """
    request.only_laser()
    for clients in GROWTH:
        config = request.config("mnist", clients=clients, batch_size=GROWTH_BATCH)
        rounds = request.rounds or max(20, 2000 // clients)
        figures = apart(_measure, config, rounds)
        yield line("growth", **figures, bound_mb=_bound_mb(config))


def _every_strategy(name: str, request: Request, config: RunConfig, rounds: int) -> Iterator[Line]:
    for strategy in request.strategies or SCHEMES:
        case, count = parse(config.to_flat() | {"strategy": strategy}), request.rounds or rounds
        yield line(name, **(apart(_measure, case, count) if request.apart else _measure(case, count)))


def _measure(config: RunConfig, rounds: int) -> Line:
    """Measure the memory of a few rounds and an evaluation alone, then the times of rounds and their floor, in turn.

    A GPU's waits are counted at the end, in rounds that nobody times: PyTorch reports each by a warning.
    """
    whole_round(InProcess(prepare(_tiny(config))))  # makes the imports of a run
    memory, device = PeakMemory(), device_of(config)
    forget_peak(device)
    setup = prepare(config)
    if device.type == "cuda":  # both sides go the same way
        setup = replace(setup, config=_on_its_way(setup))
    engine = InProcess(setup)
    warm_up = min(WARM_UP, rounds // 2 + 1)
    for _ in range(warm_up):
        whole_round(engine)
    setup.evaluate(engine.server.global_model.tensors)
    peak, peak_device = memory.megabytes(), peak_megabytes(device)
    sides: dict[str, Side] = {"floor": Floor(setup), "round": lambda: whole_round(engine)}
    seconds = in_turn(sides, rounds, warm_up, device)
    return {
        "strategy": config.strategy,
        "clients": config.clients,
        "batch_size": config.batch_size,
        "device": str(device),
        "client_batching": setup.config.client_batching,
        "threads": config.threads,
        "rounds": rounds,
        "floor_ms": milliseconds(seconds["floor"]),
        "round_ms": milliseconds(seconds["round"]),
        "ratio": round(seconds["round"] / seconds["floor"], 3),
        "peak_mb": None if peak is None else round(peak, 1),
        "peak_device_mb": peak_device,
        "waits": waits(sides["round"], WAITED, device),
    }


def _on_its_way(setup: Setup) -> RunConfig:
    """Return the config with the way of the clients that a GPU measures to be the fastest."""
    trainer = LocalTrainer(setup.task, setup.network, setup.config, range(setup.config.clients))
    return parse(setup.config.to_flat() | {"client-batching": trainer.way})


def _tiny(config: RunConfig) -> RunConfig:
    """Return the config on a handful of images with two clients."""
    keys = {"task": _synthetic("tiny"), "model": "linear", "dropout": 0.0, "accumulation-steps": 1}
    return parse(config.to_flat() | keys | {"clients": 2, "batch-size": 2, "evaluate-examples": 2})


def _synthetic(task: str) -> str:
    return f"{synthetic.__name__}:{task}"


def _bound_mb(config: RunConfig) -> float:
    """Return the bound of `growth` in MB.

    It is the memory of data, model and each client's memory of the compressed blocks, and a quarter more.
    """
    setup = prepare(config)
    parts = (tensor for part in (setup.task.train, setup.task.test) for tensor in tensors_of(vars(part)))
    data = sum(tensor.nbytes for tensor in parts)
    compressed = setup.server().broadcast().shared  # the shared state has the compressed blocks
    model = sum(weight.nbytes for weight in setup.network.weights.values())
    memory = config.clients * sum(setup.network.weights[name].nbytes for name in compressed)
    return round((1 + SLACK) * (data + model + memory) / MEGABYTE, 1)


def whole_round(engine: InProcess) -> None:
    """Run all exchanges of a round."""
    while not engine.advance():
        pass


class Floor:
    """The least work of a round: fetch the examples, differentiate as the round does, average, step the optimizer."""

    def __init__(self, setup: Setup) -> None:
        """Start from the weights of a run of its own."""
        self.weights = {name: weight.clone() for name, weight in setup.network.weights.items()}
        self._broadcast = replace(setup.server().broadcast(), weights=self.weights)
        self._trainer = LocalTrainer(setup.task, setup.network, setup.config, range(setup.config.clients))
        self._optimizer = Optimizer(self.weights, OptimizerConfig.of(setup.config, 1, setup.network.undecayed), {})
        self._rates = (setup.config.learning_rate,) * self._optimizer.groups
        self._round = 0

    def __call__(self) -> None:
        """Run one round."""
        context = replace(self._broadcast.context, round=self._round)
        total: Tensors = {}
        for computed in self._trainer.compute(replace(self._broadcast, context=context)):
            for name, gradient in computed.gradients.items():
                summed = gradient.sum(dim=0) if len(gradient) > 1 else gradient[0]
                total[name] = total[name].add_(summed) if name in total else summed
        self._optimizer.step({name: summed.div_(context.clients) for name, summed in total.items()}, self._rates)
        self._round += 1
