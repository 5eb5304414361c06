"""A communication hook: one line lets a loop of `DistributedDataParallel` train over the air, each rank a client.

DDP hands over the gradients bucket by bucket, while schemes, power and ledger are about the whole model. So the hook
collects the buckets of a backward pass, and answers all of them when the last one has come:

    buckets  ->  this rank's gradient, compensated and encoded        as a client does
             ->  all ranks' norms, then all ranks' signals            two all-gathers per exchange, nothing else
             ->  power, channel, noise, decoding                      as the server does, on every rank alike
             ->  the update, in place of the gradients' mean

Every rank has the same signals in the same order, and draws the same noise from the same streams: all get the same
update, which is that of `OverTheAir` with the gradients of all ranks, bit by bit.

Source: the interface is that of ``torch.distributed.algorithms.ddp_comm_hooks``.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any, Unpack

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # torch exports it, but not by name
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from laser_fl.blocks import Tensors, num_values, take
from laser_fl.channels.base import Channel
from laser_fl.channels.exchange import ClientUpdate, Instructions
from laser_fl.config.server_options import AirOptions
from laser_fl.errors import ConfigError, TrainingError, quoted, reason_of
from laser_fl.over_the_air import OverTheAir
from laser_fl.pipeline import encode_finite
from laser_fl.schemes.base import RoundContext, Scheme, Shapes, owners


def ddp_hook(
    model: DistributedDataParallel,
    *,
    scheme: Scheme | str = "laser",
    channel: Channel | str = "awgn",
    rounds: int = 0,
    transposed: Collection[str] = (),
    sizes: Sequence[int] = (),
    **options: Unpack[AirOptions],
) -> "RankOverTheAir":
    """Let the gradients of a DDP model go over the air: call it once, on every rank, before the first backward pass.

    Each backward pass outside of ``no_sync()`` is a round, in which each rank is a client. It leaves the server's
    update in the parameters' ``grad``, the same on all ranks, where DDP by itself leaves the gradients' mean. In a
    round in which nobody transmits the update is zero: an optimizer with momentum or weight decay moves all the same.
    A rank that is not among a round's participants contributes nothing, and receives the update.

    Args:
        model: the wrapped module; its parameters must be dense floats of one type, on one device per rank.
        scheme: an object, or a name as in ``laser-fl list``.
        channel: likewise.
        rounds: length of the run; 0: not known, which a power policy that changes, or the update filter ``paced``,
            cannot do with.
        transposed: names of the parameters stored as (inputs, outputs), as in ``model.module``.
        sizes: number of examples of each rank, by which ``client_weighting="examples"`` weighs the mean; (): not known.
        options: those of `OverTheAir`, the same on all ranks, but for ``clients``, which is the number of ranks.

    Returns:
        This rank's end of the air, with `config`, `participants` and `ledger`. Its `state_dict` belongs into a
        checkpoint of this rank: with error feedback, each rank keeps its own memory.

    Raises:
        ConfigError: the model is no DDP model, or has a hook; an option is wrong, or differs between ranks.

    Example:
        >>> import torch, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 4))
        >>> hook = ddp_hook(model, scheme="z-sgd", power=10.0)
        >>> model(torch.ones(3, 8)).sum().backward()
        >>> hook.ledger[-1].max_power_used <= 10.0001
        True
        >>> dist.destroy_process_group()
    """
    parameters = _parameters_of(model)
    air = RankOverTheAir(
        {name: parameter.detach() for name, parameter in parameters.items()},
        model.process_group,
        scheme=scheme,
        channel=channel,
        rounds=rounds,
        transposed=transposed,
        sizes=sizes,
        **options,
    )
    try:
        model.register_comm_hook(_Buckets(air, parameters), _collect)
    except RuntimeError as error:
        raise ConfigError(f"model: cannot have this hook ({reason_of(error)})") from None
    return air


class RankOverTheAir(OverTheAir):
    """One rank's end of an air between the ranks of a process group; rank r is client r.

    It carries out the clients' half of a round for its own rank alone, and the server's half as every rank does.
    """

    _alone = False

    def __init__(self, weights: Mapping[str, Tensor], group: dist.ProcessGroup, **options: Any) -> None:
        """Prepare the first round, on all ranks of the group at once.

        Args:
            weights: the parameters to train, by name, the same on all ranks.
            group: of the clients.
            options: those of `OverTheAir`, the same on all ranks, but for ``clients``.

        Raises:
            ConfigError: an option is unknown, or its value is wrong, or another one than on other ranks.
        """
        self.rank, self._group = dist.get_rank(group), group
        ranks = dist.get_world_size(group)
        if "clients" in options:
            raise ConfigError(f"clients: is the number of ranks here, {ranks}, got {options['clients']}")
        super().__init__(weights, clients=ranks, **options)
        self._refuse_other_settings()

    def aggregate(self, gradients: Mapping[str, Tensor]) -> Tensors | None:
        """Send one round of this rank's gradients through the air, on all ranks at once.

        Args:
            gradients: by name, *shape, without a clients axis; a gradient may be overwritten.

        Returns:
            The update by name, *shape, the same on all ranks; None where nobody transmitted.

        Raises:
            TrainingError: the gradients of a participant are not finite, or a rank is in another round; all ranks
                raise it.
            PowerError: a client exceeded its budget.
        """
        return super().aggregate(gradients)

    def state_dict(self) -> dict[str, Any]:
        """Return all that determines this rank's next rounds, as numbers and copies of tensors, for `torch.save`."""
        return super().state_dict() | {"rank": self.rank}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, bit by bit as where it was taken. Raises ConfigError where it is another rank's."""
        rank = state.get("rank", "no rank")
        if rank != self.rank:
            raise ConfigError(f"state: must be of rank {self.rank}, got {quoted(rank)}")
        super().load_state_dict(state)

    def _rows_of_participants(self, gradients: Mapping[str, Tensor]) -> Tensors:
        """Return this rank's row of the gradients, in the order of blocks."""
        if missing := [block.name for block in self._air.blocks if block.name not in gradients]:
            raise TrainingError(f"gradients: must be of all parameters, got none for {missing[0]}")
        return {block.name: gradients[block.name].unsqueeze(0) for block in self._air.blocks}

    def _exchange(self, gradients: Tensors | None) -> None:
        """Carry out one exchange of the round: encode the own row, gather all, and do as the server does."""
        air, ctx = self._air, self._air.context
        here, client_update = ctx.of((self.rank,)), ClientUpdate.none()
        intact = gradients is None or not here.participants or _are_finite(gradients)
        if intact and here.participants:
            if gradients is not None and air.scheme.traits.error_feedback and not self._memory:
                self._memory = {name: g.new_zeros(g.shape) for name, g in gradients.items()}
            instructions = Instructions(air.scheme, air.shared, here)
            loss = torch.zeros(1, dtype=torch.float64, device=self._like.device)
            client_update = encode_finite(instructions, gradients, loss, self._memory)
        air.accounting.broadcast_floats += num_values(air.shared)
        gathered = self._gather(client_update, intact, ctx)
        air.count_reports(gathered)
        air.aggregate(gathered)
        self._memory = self._with_unsent(self._memory, client_update, here)

    def _gather(self, own: ClientUpdate, intact: bool, ctx: RoundContext) -> ClientUpdate:
        """Gather the updates of all ranks. A rank that does not transmit sends zeros, which nobody reads."""
        shapes = {name: shape for block in ctx.blocks for name, shape in self._air.scheme.shapes(block, ctx).items()}
        norms, rows = self._gather_norms(own, intact, shapes, ctx.round), list(ctx.transmitters)
        losses = torch.zeros(len(ctx.participants), dtype=torch.float64)
        if not rows:
            return ClientUpdate.in_outage(losses, {})
        signals = take(self._gather_signals(own, shapes), rows)
        signal_norms, gradient_norms = norms[rows].tensor_split([len(shapes)], dim=1)
        return ClientUpdate(signals, signal_norms, gradient_norms, losses)

    def _gather_norms(self, own: ClientUpdate, intact: bool, shapes: Shapes, round: int) -> Tensor:
        """Return the norms of all ranks' signals and gradients, (ranks, norms).

        In front of them goes the round that a rank is in, or NaN where its gradient is not finite.
        """
        count = len(shapes) + len(owners(shapes))
        report = torch.zeros(1 + count, dtype=torch.float64, device=self._like.device)
        report[0] = round if intact else math.nan
        if len(own.signal_norms) > 0:
            report[1:] = torch.cat((own.signal_norms[0], own.gradient_norms[0]))
        reports = self._all_gather(report)
        _refuse_broken(reports[:, 0].tolist(), round)
        return reports[:, 1:]

    def _gather_signals(self, own: ClientUpdate, shapes: Shapes) -> Tensors:
        """Return the signals of all ranks, by name (ranks, *shape)."""
        sizes = [prod(shape) for shape in shapes.values()]
        sent = [own.signals[name].flatten() for name in shapes if own.signals] or [self._like.new_zeros(sum(sizes))]
        values = self._all_gather(torch.cat(sent))
        parts = torch.split(values, sizes, dim=1) if sizes else ()
        return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def _all_gather(self, own: Tensor) -> Tensor:
        """Return the values of all ranks, (ranks, values)."""
        sent = own.cpu() if dist.get_backend(self._group) == "gloo" else own  # which gathers no tensors of GPUs
        rows = sent.new_empty(self.config.clients, len(sent))
        if len(sent) > 0:
            dist.all_gather(list(rows.unbind()), sent, group=self._group)
        return rows.to(own.device)

    def _refuse_other_settings(self) -> None:
        """Raise ConfigError on every rank where they differ between ranks: they would compute different updates."""
        settings = repr((self.config.to_flat(), self._air.population.sizes, self._air.blocks, self._rounds))
        key = int.from_bytes(hashlib.blake2b(settings.encode(), digest_size=7).digest(), "little")
        keys = self._all_gather(torch.tensor([key], device=self._like.device)).flatten().tolist()
        if others := [rank for rank, key in enumerate(keys) if key != keys[0]]:
            raise ConfigError(f"options: must be the same on all ranks, got others on rank {others[0]} than on rank 0")

    def _memory_kinds(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {name: (torch.Size((1, *shape[1:])), dtype) for name, (shape, dtype) in super()._memory_kinds().items()}


class _Buckets:
    """The buckets of a backward pass that wait for the update."""

    def __init__(self, air: RankOverTheAir, parameters: Mapping[str, nn.Parameter]) -> None:
        self._air, self._parameters = air, parameters  # kept, so that no other object gets the id of one
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._waiting: list[tuple[Tensor, Future[Tensor]]] = []
        self._gradients: Tensors = {}

    def add(self, bucket: GradBucket) -> Future[Tensor]:
        """Let a bucket wait. DDP hands the buckets over in order, and waits for all of them after the last one."""
        if bucket.index() == 0:  # an earlier backward pass may have ended with an error
            self._waiting, self._gradients = [], {}
        buffer = bucket.buffer()
        future: Future[Tensor] = Future(devices=[buffer.device] if buffer.is_cuda else None)
        self._waiting.append((buffer, future))
        self._gradients |= self._gradients_in(bucket)
        if bucket.is_last():
            self._answer()
        return future

    def _gradients_in(self, bucket: GradBucket) -> Tensors:
        """View a bucket's values as gradients, laid out like their parameters, which `bucket.gradients()` is not."""
        parameters = bucket.parameters()
        parts = torch.split(bucket.buffer(), [p.numel() for p in parameters])
        return {
            self._names[id(p)]: part.as_strided(p.shape, p.stride(), part.storage_offset())
            for p, part in zip(parameters, parts, strict=True)
        }

    def _answer(self) -> None:
        """Carry out the round, and write the update into the buckets."""
        waiting, gradients = self._waiting, self._gradients
        self._waiting, self._gradients = [], {}
        update = self._air.aggregate(gradients)
        for name, gradient in gradients.items():
            gradient.copy_(update[name]) if update is not None else gradient.zero_()
        for buffer, future in waiting:
            future.set_result(buffer)


def _collect(buckets: _Buckets, bucket: GradBucket) -> Future[Tensor]:
    return buckets.add(bucket)


def _parameters_of(model: DistributedDataParallel) -> dict[str, nn.Parameter]:
    """Return the parameters whose gradients DDP hands over. Raises ConfigError where the hook cannot serve them."""
    if not isinstance(model, DistributedDataParallel):
        raise ConfigError(f"model: must be a DistributedDataParallel model, got {type(model).__name__}")
    if not dist.is_initialized():
        raise ConfigError("model: must have a process group that is initialised, got none")
    tables = [(name, m) for name, m in model.module.named_modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    if sparse := [name for name, table in tables if table.sparse]:
        raise ConfigError(f"model: its gradients must be dense, got the sparse layer {quoted(sparse[0])}")
    named, ignored = model.module.named_parameters(), model.parameters_to_ignore
    parameters = {name: p for name, p in named if p.requires_grad and name not in ignored}
    if len(devices := sorted({str(p.device) for p in parameters.values()})) > 1:
        raise ConfigError(f"model: must be on one device per rank, got {', '.join(devices)}")
    return parameters


def _are_finite(gradients: Tensors) -> bool:
    return bool(torch.stack([gradient.isfinite().all() for gradient in gradients.values()]).all())


def _refuse_broken(rounds: list[float], round: int) -> None:
    """Raise TrainingError where a rank reports another round, or NaN, which stands for a gradient that is not one."""
    for rank, reported in enumerate(rounds):
        if math.isnan(reported):
            raise TrainingError(f"round {round + 1}: the gradients must be finite, got others on rank {rank}")
        if reported != round:
            rule = "all ranks must be in the same round"
            raise TrainingError(f"round {round + 1}: {rule}, got rank {rank} in round {int(reported) + 1}")
