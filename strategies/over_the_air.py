"""The base of all strategies: a Flower Strategy whose aggregation happens in the air."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from logging import INFO, WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, TrainingError, WireError
from laser_fl.federated.callbacks import Observer
from laser_fl.federated.loop import Evaluate, train
from laser_fl.federated.schedule import Plan
from laser_fl.federated.server import Training
from laser_fl.federated.validation import Fault, Kind, Reply
from laser_fl.pipeline import Broadcast
from laser_fl.rng import Device
from laser_fl.transport.arrays import read_tensors, write_tensors
from laser_fl.transport.client_state import add_held, asks_for_everything, is_elsewhere
from laser_fl.transport.messages import write_broadcast
from laser_fl.transport.replies import hosted_by, read_reply
from laser_fl.transport.shared_memory import Board, NotHereError
from strategies.carrier import Carrier, addressed, nodes_of
from strategies.claims import ClaimError, Claims

PULL_SECONDS = 0.005  # between looks for replies, where the grid looks by itself

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


class OverTheAir(Strategy):
    """Models the multiple-access channel in `aggregate_train` and steps on what was heard.

    The loop is `laser_fl.federated.loop.train`, the same as in every other engine; `configure_train` and
    `aggregate_train` are its two halves. Where `config` does not name ``clients``, every node
    is one client.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        plan: Plan | None = None,
        evaluate: Evaluate | None = None,
        observers: Sequence[Observer] = (),
        transposed: Collection[str] = (),
        undecayed: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
        device: Device = "cpu",
    ) -> None:
        """plan: the run's calendar; without it, `start` counts rounds and evaluates after each.

        evaluate: weights -> metrics on test data, for the observers. transposed: names of the
        weights stored as (inputs, outputs). undecayed: of those without weight decay. buffers: what of the
        model is not trained but follows the data. device: where the server computes.
        """
        self.config = config
        self.training: Training | None = None
        self._plan = plan
        self._evaluate = evaluate
        self._observers = tuple(observers)
        self._transposed = transposed
        self._undecayed = undecayed
        self._buffers = {name: buffer.to(device) for name, buffer in (buffers or {}).items()}
        self._device = device
        self._board: Board | None = None
        self._elsewhere: set[int] = set()
        self._claims = Claims()
        self._carrier = Carrier()
        self._wants_arrays = True

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run `num_rounds` rounds; Flower's signature and Result.

        evaluate_fn: called with (0, initial arrays) and after each round, as in Flower.
        evaluate_config: not used, since evaluation is central.

        Raises:
            ConfigError: there are more nodes than clients.
            TrainingError: too few clients answered, as often as the config allows.
        """
        nodes = nodes_of(grid, self.config.min_available_nodes, timeout)
        config = self._for_nodes(nodes)
        plan = self._plan or Plan(num_rounds)
        weights = read_tensors(initial_arrays, self._device)
        training = Training(config, weights, plan, self._transposed, self._undecayed, self._buffers)
        self.training = training
        result = Result(arrays=initial_arrays)
        self.summary()
        if hasattr(grid, "pull_interval"):
            grid.pull_interval = min(grid.pull_interval, PULL_SECONDS)
        overridden = type(self).aggregate_train is not OverTheAir.aggregate_train
        self._wants_arrays = evaluate_fn is not None or overridden
        if evaluate_fn is not None and (metrics := evaluate_fn(0, initial_arrays)) is not None:
            result.evaluate_metrics_serverapp[0] = metrics

        def advance() -> bool:
            server_round = training.round + 1
            nodes_of(grid, 1, timeout)
            messages = self.configure_train(server_round, result.arrays, train_config or ConfigRecord(), grid)
            replies = self._send_and_receive(grid, list(messages), timeout)
            arrays, metrics = self.aggregate_train(server_round, replies)
            if arrays is None or metrics is None:
                return False
            result.train_metrics_clientapp[server_round] = metrics
            if evaluate_fn is not None and (scores := evaluate_fn(server_round, arrays)) is not None:
                result.evaluate_metrics_serverapp[server_round] = scores
            return True

        self._board = Board.with_room(_room(config, nodes, weights))
        self._elsewhere, self._claims = set(), Claims()
        if self._board is None:
            log(WARNING, "no room for files in memory or among temporary files: the model is sent to every node")
        try:
            train(training, advance, self._evaluate, self._observers)
        finally:
            if self._board is not None:
                self._board.close()
            self._board, self._wants_arrays = None, True
        result.arrays = write_tensors(self.weights())
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The first half of an exchange: one broadcast for every node that is not refused.

        Nodes on this host are told where the model lies, the others are sent it; `arrays` is not used.
        """
        connected = set(grid.get_node_ids())
        self._claims.keep(connected)
        nodes = connected - self._claims.refused.keys()
        plain = nodes if self._board is None else nodes & self._elsewhere
        messages = []
        show = None if self._board is None else self._board.show
        for some, how in ((nodes - plain, show), (plain, None)):
            if some:
                content = write_broadcast(self._running().broadcast(), how)
                content["config"] = config
                messages += [addressed(content, node) for node in sorted(some)]
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The second half: the air adds the signals up, the server hears, decodes and steps.

        Clients whose nodes fail, say nothing in time or make no sense are left out, as far as the config allows.
        Returns (None, None) between the phases of a round, and where one is to be repeated. The weights among the
        results are an empty record where nobody but the end of `start` needs them: no `evaluate_fn`, and no subclass
        with a method of its own.
        """
        training = self._running()
        if not training.absorb(*self._gather(replies)):
            return None, None
        entry = training.ledger[-1]
        metrics = MetricRecord(
            {
                "train-loss": math.nan if training.train_loss is None else training.train_loss,
                "speakers": entry.speakers,
                "power-budget": entry.power_budget,
                "max-power-used": entry.max_power_used,
                "snr-db": entry.snr_db,
            }
        )
        return write_tensors(training.server.weights if self._wants_arrays else {}), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No messages: evaluation is central, on the server, as in the paper."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Log what will run."""
        config = self.config
        log(INFO, "%s over %s, power %s per client and round", config.strategy, config.channel, config.power)

    def weights(self) -> Tensors:
        """What is trained of the current model; its buffers are in `training.server.buffers`."""
        return self._running().server.weights

    def _running(self) -> Training:
        if self.training is None:
            raise TrainingError("the strategy has not been started: call start(grid, initial_arrays, ...)")
        return self.training

    def _send_and_receive(self, grid: Grid, messages: list[Message], timeout: float) -> list[Message]:
        """Carry messages out and replies back; nodes that can make nothing of theirs are told again, in full."""
        replies = self._carrier.carry(grid, messages, timeout)
        asked = {
            reply.metadata.src_node_id: reply.content
            for reply in replies
            if not reply.has_error() and asks_for_everything(reply.content)
        }
        if not asked:
            return replies
        far = {node for node, request in asked.items() if is_elsewhere(request)}
        if far:
            log(INFO, "nodes %s are on other hosts: the model is sent to them", sorted(far))
            self._elsewhere |= far
        told = anew = self._running().broadcast()
        if asked.keys() - far or told.told is not None:
            anew = self._running().start_over(missed=bool(asked.keys() - far))
        again = [
            self._tell_again(message, told if node in far and told.told is None else anew, asked)
            for message in messages
            if (node := message.metadata.dst_node_id) in asked
        ]
        heard = [reply for reply in replies if reply.metadata.src_node_id not in asked]
        return heard + self._carrier.carry(grid, again, timeout)

    def _tell_again(self, message: Message, told: Broadcast, asked: Mapping[int, RecordDict]) -> Message:
        """The broadcast in full, with what the node's clients held where it lies in files that it cannot see."""
        node = message.metadata.dst_node_id
        far = node in self._elsewhere
        content = write_broadcast(told, None if far or self._board is None else self._board.show)
        content["config"] = message.content["config"]
        if far and self._board is not None:
            with suppress(WireError, NotHereError):  # then the node has lost it
                add_held(content, asked[node], self._board.path)
        return addressed(content, node)

    def _for_nodes(self, nodes: int) -> RunConfig:
        if "clients" not in self.config.model_fields_set:
            return self.config.model_copy(update={"clients": nodes})
        if nodes > self.config.clients:
            raise ConfigError(f"clients: must be at least the number of SuperNodes, {nodes}, got {self.config.clients}")
        return self.config

    def _gather(self, replies: Iterable[Message]) -> tuple[list[Reply], list[Fault]]:
        """What the nodes say, and whose replies are none."""
        board = None if self._board is None else self._board.path
        said: list[Reply] = []
        claimed: dict[int, range] = {}
        failed: dict[int, tuple[Kind, str]] = {node: ("twice", why) for node, why in self._claims.refused.items()}
        for message in replies:
            node = self._carrier.sender(message)
            if message.has_error():
                failed[node] = "raised", f"its node failed: {' '.join(str(message.error.reason).split())[:300]}"
                continue
            try:
                hosted, reply = hosted_by(message.content), read_reply(message.content, self._device, board)
                self._claims.settle(node, hosted)
                said.append(reply)
            except ClaimError as error:
                log(WARNING, "%s", error)
                failed[node], claimed[node] = ("twice", str(error)), hosted
            except (WireError, NotHereError) as error:
                failed[node] = "malformed", str(error)
        answered = {client for reply in said for client in reply.clients}
        clients, faults = range(self._running().config.clients), []
        for node, why in failed.items():
            theirs = {*self._claims.of(node, clients), *filter(claimed.get(node, ()).__contains__, clients)}
            faults += [Fault(client, *why) for client in sorted(theirs - answered)]
        return said, faults


def _room(config: RunConfig, nodes: int, weights: Tensors) -> int:
    """Bytes that a run may put into files: model, buffers, shared state, all that is held, and signals; at most."""
    of_clients = 3 + (config.downlink == "update")  # memory, signals and what they stand for, copies
    of_nodes = 4 if config.downlink == "compressed" else 0  # a replica with its optimizer's state
    return (3 + 2 * (of_clients * config.clients + of_nodes * nodes)) * sum(w.nbytes for w in weights.values())
