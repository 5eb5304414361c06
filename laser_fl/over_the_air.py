"""Learning over the air in anybody's own loop: one object that aggregates gradients, and two helpers around it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.optim import Optimizer

from laser_fl.blocks import Tensors, num_values, pick, place, put
from laser_fl.channels.base import Channel
from laser_fl.channels.exchange import ClientUpdate, Instructions
from laser_fl.clipping import with_unsent
from laser_fl.config import RunConfig, parse
from laser_fl.config.keywords import only
from laser_fl.config.server_options import AirOptions
from laser_fl.errors import ConfigError, TrainingError, quoted
from laser_fl.federated.air_interface import AirInterface
from laser_fl.federated.ledger import Ledger, LedgerRecord
from laser_fl.federated.optimizer import OptimizerConfig, update_filter_of
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.models.base import Network, outputs_of
from laser_fl.pipeline import encode_finite
from laser_fl.registry import CHANNELS, SCHEMES, UPDATE_FILTERS
from laser_fl.schemes.base import RoundContext, Scheme

UNKNOWN_LENGTH = 2**31 - 1  # rounds of a loop whose length is not given

Loss = Callable[[Any, Any], Tensor]


class OverTheAir:
    """The air between clients and server: it takes all gradients, and returns the update that the server makes of them.

    It keeps the clients' error-feedback memory, splits the power, models channel and noise, decodes, and writes the
    ledger. The model and its optimizer stay the caller's.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(8, 4)
        >>> ota = OverTheAir(model, scheme="z-sgd", power=10.0, clients=3)
        >>> gradients = {name: torch.ones(3, *p.shape) for name, p in model.named_parameters()}
        >>> update = ota.aggregate(gradients)
        >>> {name: tuple(tensor.shape) for name, tensor in update.items()}
        {'weight': (4, 8), 'bias': (4,)}
        >>> ota.ledger[-1].max_power_used <= 10.0001
        True
    """

    _alone = True  # all clients are in this process

    def __init__(
        self,
        model: nn.Module | Mapping[str, Tensor],
        *,
        scheme: Scheme | str = "laser",
        channel: Channel | str = "awgn",
        rounds: int = 0,
        transposed: Collection[str] = (),
        sizes: Sequence[int] = (),
        **options: Unpack[AirOptions],
    ) -> None:
        """Prepare the first round.

        Args:
            model: the module, of which the parameters that require a gradient are trained; or these, by name.
            scheme: an object, or a name as in ``laser-fl list``.
            channel: likewise.
            rounds: length of the run; 0: not known, which a power policy that changes, or the update filter ``paced``,
                cannot do with.
            transposed: names of the parameters stored as (inputs, outputs).
            sizes: number of examples of each client, by which ``client_weighting="examples"`` weighs the mean; a client
                of size 0 never takes part. (): not known.
            options: keys of the run config in snake_case: power, clients, seed, fraction, power_policy... The keys
                optimizer, learning_rate and momentum tell the update filter ``paced`` of the caller's optimizer, and
                have no other effect.

        Raises:
            ConfigError: an option is unknown, or its value is wrong.
        """
        if rounds < 0:
            raise ConfigError(f"rounds: must be at least 0 (0: not known), got {rounds}")
        chosen = SCHEMES.choice(scheme), CHANNELS.choice(channel)
        config = parse(only(options, AirOptions.__annotations__, "a loop of one's own", *chosen))
        weights = Network(model).weights if isinstance(model, nn.Module) else dict(model)
        schedule = RoundSchedule(rounds or UNKNOWN_LENGTH)
        self._air = AirInterface(config, weights, schedule, transposed, sizes)
        if self._alone:
            self._air.draw_here()
        receiver = update_filter_of(config, self._air.scheme)
        _refuse_unknown_length(config, receiver, rounds)
        self._filter = UPDATE_FILTERS.load(receiver)
        self._filter_state: Tensors = {}
        self._like, self._rounds = next(iter(weights.values())), schedule.rounds
        self._optimizer_config = OptimizerConfig.of(config, schedule.rounds, receiver=receiver)
        self._memory: Tensors = {}
        self._air.begin_round()

    @property
    def config(self) -> RunConfig:
        """The options, with the defaults of those that were not given."""
        return self._air.config

    @property
    def participants(self) -> tuple[int, ...]:
        """The numbers of the clients that take part in the next round."""
        return self._air.participation.participants

    @property
    def ledger(self) -> Ledger:
        """The costs of every round: power, noise, values sent."""
        return self._air.ledger

    @torch.no_grad()
    def aggregate(self, gradients: Mapping[str, Tensor]) -> Tensors | None:
        """Send one round of gradients through the air.

        Args:
            gradients: by name (clients, *shape), a row for each client, or for each of `participants`; they are left
                as they are.

        Returns:
            The update by name, *shape, for an optimizer to step on; None where nobody transmitted, so that the model
            stays as it is.

        Raises:
            TrainingError: the gradients are not those of the model, or not finite; or all rounds are over.
            PowerError: a client exceeded its budget.
        """
        air = self._air
        if air.round >= self._rounds:
            raise TrainingError(f"round {air.round + 1}: must be among the {self._rounds} rounds that were given")
        sent: Tensors | None = self._rows_of_participants(gradients)
        air.accounting.broadcast_floats += sum(block.size for block in air.blocks)
        while air.phase < air.phases:
            self._exchange(sent)
            sent = None
        air.end_round()
        result = air.result
        air.begin_round()
        if result is None or result.update is None:
            return None
        due = self._optimizer_config.due(air.updates)
        update, self._filter_state = self._filter(result.update, result.noise, self._filter_state, result.weighs, due)
        weighed: Tensors = update
        return weighed

    def state_dict(self) -> dict[str, Any]:
        """Return all that determines the next rounds, as numbers and copies of tensors, for `torch.save`."""
        air = self._air
        return {
            "config": self.config.to_flat(),
            "round": air.round,
            "updates": air.updates,
            "sizes": list(air.population.sizes),
            "usual": dict(air.usual_norms.largest),
            "ledger": [asdict(record) for record in air.ledger],
            **{name: _copied(tree, self._like.device) for name, tree in self._trees.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, bit by bit as where it was taken. Raises ConfigError where it is another object's."""
        try:
            trees = {name: _copied(state[name], self._like.device) for name in self._trees}
            ledger = Ledger(LedgerRecord(**record) for record in state["ledger"])
            config, round, updates, usual = (state[name] for name in ("config", "round", "updates", "usual"))
            sizes = tuple(state["sizes"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"state: must come from OverTheAir.state_dict ({type(error).__name__}: {error})"
            ) from None
        if sizes != self._air.population.sizes:
            raise ConfigError(f"state: must be of an object with the same sizes, got {quoted(sizes)}")
        own = self.config.to_flat()
        if other := sorted(key for key in own.keys() | config.keys() if own.get(key) != config.get(key)):
            rule = f"must be of an object with the same {other[0]}"
            raise ConfigError(f"state: {rule}, {own.get(other[0])!r}, got {config.get(other[0])!r}")
        memory = {name: (tensor.shape, tensor.dtype) for name, tensor in trees["memory"].items()}
        if memory not in ({}, self._memory_kinds()):
            raise ConfigError("state: must be of an object with the same model")
        self._memory, self._filter_state = trees["memory"], trees["filter"]
        self._air.restore(round, updates, usual, trees["shared"], ledger)
        self._air.begin_round()

    @property
    def _trees(self) -> dict[str, Tensors]:
        return {"shared": self._air.shared, "memory": self._memory, "filter": self._filter_state}

    def _exchange(self, gradients: Tensors | None) -> None:
        """Carry out one exchange of the round; after the first one the gradients wait in the memory."""
        air, ctx = self._air, self._air.context
        rows, clients = list(ctx.participants), self.config.clients
        if gradients is not None and air.scheme.traits.error_feedback and not self._memory:
            self._memory = {n: g.new_zeros(clients, *g.shape[1:]) for n, g in gradients.items()}
        air.accounting.broadcast_floats += num_values(air.shared)
        instructions = Instructions(air.scheme, air.shared, ctx)
        losses = torch.zeros(len(rows), dtype=torch.float64, device=self._like.device)
        memory = pick(self._memory, rows)
        client_update = encode_finite(instructions, gradients, losses, memory)
        air.count_reports(client_update)
        air.aggregate(client_update)
        self._memory = place(self._memory, rows, self._with_unsent(memory, client_update, ctx), clients)

    def _with_unsent(self, memory: Tensors, client_update: ClientUpdate, ctx: RoundContext) -> Tensors:
        """Return participants' memory with what the norm cap has kept of their signals from being sent."""
        if not self._air.unsent:
            return memory
        for in_flight in client_update.in_flight:
            rows = [ctx.participants.index(client) for client in in_flight.clients]
            unsent = [self._air.unsent.get(client, {}) for client in in_flight.clients]
            own = pick(memory, rows)
            whole = with_unsent(own, in_flight.approximations, unsent)
            put(memory, rows, {name: block for name, block in whole.items() if block is not own[name]})
        return memory

    def _rows_of_participants(self, gradients: Mapping[str, Tensor]) -> Tensors:
        """Return the participants' rows of the gradients. Raises TrainingError where they are none of the model's."""
        participants, clients = self.participants, self.config.clients
        rows: Tensors = {}
        for block in self._air.blocks:
            gradient = gradients.get(block.name)
            allowed = [(count, *block.shape) for count in (clients, len(participants))]
            if not isinstance(gradient, Tensor) or tuple(gradient.shape) not in allowed:
                none = "nothing" if gradient is None else type(gradient).__name__
                got = tuple(gradient.shape) if isinstance(gradient, Tensor) else none
                hint = "" if got == none or got[1:] != block.shape else "; it needs a batch of each client"
                raise TrainingError(f"gradients: {block.name} must be of shape {allowed[0]}, got {got}{hint}")
            if gradient.dtype != self._like.dtype:
                raise TrainingError(f"gradients: {block.name} must be {self._like.dtype}, got {gradient.dtype}")
            rows[block.name] = gradient if len(gradient) == len(participants) else gradient[list(participants)]
        if unknown := gradients.keys() - rows.keys():
            raise TrainingError(f"gradients: must be of the model's parameters, got {quoted(sorted(unknown)[0])}, too")
        finite = torch.stack([gradient.isfinite().all() for gradient in rows.values()]).tolist()
        if not all(finite):
            raise TrainingError(f"gradients: must be finite, got others for {list(rows)[finite.index(False)]}")
        return rows

    def _memory_kinds(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        shapes = {block.name: torch.Size((self.config.clients, *block.shape)) for block in self._air.blocks}
        return {name: (shape, self._like.dtype) for name, shape in shapes.items()}


def gradients(model: nn.Module, loss: Loss, batches: Sequence[tuple[Any, Any]], batched: bool | None = None) -> Tensors:
    """Compute each client's gradient of its mean loss, all at the model's current weights.

    Args:
        model: in training mode, if it has one; its buffers change with every client's forward pass.
        loss: (outputs, targets) -> the mean loss, a scalar.
        batches: (inputs, targets), one of each client; inputs may be a tuple or a mapping, the model's arguments.
        batched: True: all clients in one call of vmap; False: one by one; None: in one call where that is known to be
            faster, for small models of common layers, and batches of one shape.

    Returns:
        Gradients by name, (clients, *shape); zeros for a parameter that the loss does not depend on.

    Raises:
        TrainingError: there are no batches.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> batches = [(torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])) for _ in range(4)]
        >>> gradients(model, torch.nn.functional.cross_entropy, batches)["weight"].shape
        torch.Size([4, 2, 3])
    """
    if not batches:
        raise TrainingError("batches: must have one (inputs, targets) of each client, got none")
    network = Network.of(model)
    if batched is None:
        alike = all(isinstance(part, Tensor) for batch in batches for part in batch)
        alike = alike and len({tuple(part.shape for part in batch) for batch in batches}) == 1
        batched = network.batches and len(batches) > 1 and alike

    def mean_loss(weights: Tensors, inputs: Any, targets: Any) -> Tensor:
        return loss(outputs_of(model, dict(weights), inputs), targets)

    if batched:
        inputs, targets = (torch.stack(part) for part in zip(*batches, strict=True))
        many: Tensors = vmap(grad_and_value(mean_loss), in_dims=(None, 0, 0))(network.weights, inputs, targets)[0]
        return many
    leaves = {name: weight.detach().requires_grad_() for name, weight in network.weights.items()}
    values = list(leaves.values())
    each = [torch.autograd.grad(mean_loss(leaves, *batch), values, materialize_grads=True) for batch in batches]
    return {name: torch.stack(rows) for name, rows in zip(leaves, zip(*each, strict=True), strict=True)}


def step(optimizer: Optimizer, model: nn.Module, update: Mapping[str, Tensor] | None) -> None:
    """Let an optimizer step on an update; None, of a round in which nobody transmitted, leaves all as it is.

    Args:
        optimizer: of the model's parameters.
        model: to change.
        update: by the parameters' names, as `OverTheAir.aggregate` returns it.

    Raises:
        TrainingError: it has a name that is no parameter's, or another shape.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> step(torch.optim.SGD(model.parameters(), lr=0.5), model, {"weight": torch.ones(1, 1)})
        >>> model.weight.item()
        0.5
    """
    if update is None:
        return
    parameters = dict(model.named_parameters())
    if unknown := update.keys() - parameters.keys():
        raise TrainingError(f"update: must be of the model's parameters, got {quoted(sorted(unknown)[0])}, too")
    for name, parameter in parameters.items():
        gradient = update.get(name)
        if gradient is not None and gradient.shape != parameter.shape:
            shapes = f"{tuple(parameter.shape)}, got {tuple(gradient.shape)}"
            raise TrainingError(f"update: {name} must be of shape {shapes}")
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _refuse_unknown_length(config: RunConfig, receiver: str, rounds: int) -> None:
    if not rounds and (config.power_policy != "constant" or receiver == "paced"):
        needs = f"power-policy {config.power_policy}" if config.power_policy != "constant" else f"receiver {receiver}"
        raise ConfigError(f"rounds: must be given for {needs}, got {rounds}")


def _copied(tensors: Mapping[str, Tensor], device: torch.device) -> Tensors:
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
