"""The base of all strategies: a Flower Strategy whose aggregation happens in the air."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from logging import INFO, WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.callbacks import Callback
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, TrainingError, reason_of
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.loop import Evaluate, train
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.federated.validation import Fault, Reply
from laser_fl.rng import Device
from laser_fl.transport.client_state import is_elsewhere
from laser_fl.transport.messages import write_broadcast
from laser_fl.transport.node_files import NodeFiles
from laser_fl.transport.shared_memory import SharedMemory
from strategies.claims import Claims
from strategies.gathering import gather
from strategies.model_arrays import Template, completed, read_model
from strategies.node_messenger import addressed, carry, nodes_of
from strategies.sizes import largest_state, room_of

PULL_SECONDS = 0.005  # between looks for replies, where the grid looks by itself
APART = "full-"  # begins the names of files beside those of the first messages, which nodes may be reading now

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


class OverTheAir(Strategy):
    """A strategy that models the multiple-access channel in `aggregate_train` and steps on the received signals.

    The loop is `laser_fl.federated.loop.train`, the same as in every other engine; `configure_train` and
    `aggregate_train` are its two halves. Where `config` does not name ``clients``, every node is one client.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        schedule: RoundSchedule | None = None,
        evaluate: Evaluate | None = None,
        callbacks: Sequence[Callback] = (),
        transposed: Collection[str] = (),
        undecayed: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
        device: Device = "cpu",
        sizes: Sequence[int] = (),
    ) -> None:
        """Prepare a run, which `start` starts.

        Args:
            config: of the run.
            schedule: of the run; None: `start` counts rounds and evaluates after each.
            evaluate: weights -> metrics on test data, for the callbacks.
            callbacks: called as the run goes on.
            transposed: names of the weights stored as (inputs, outputs).
            undecayed: names of the weights without weight decay.
            buffers: tensors of the model, by name, that are not trained but follow the data; clients return theirs.
                Integers among them stay as they are.
            device: where the server computes.
            sizes: number of examples of each client, by which ``client-weighting=examples`` weighs the mean; a client
                of size 0 never takes part. (): not known. The server needs them before the first transmission, so that
                they cannot come with the replies.
        """
        self.config = config
        self.server: Server | None = None
        self._schedule = schedule
        self._evaluate = evaluate
        self._callbacks = tuple(callbacks)
        self._transposed = transposed
        self._undecayed = undecayed
        self._buffers = {name: buffer.to(device) for name, buffer in (buffers or {}).items()}
        self._device = device
        self._sizes = sizes
        self._shared_memory: SharedMemory | None = None
        self._files = NodeFiles(None)
        self._elsewhere: set[int] = set()
        self._claims = Claims()
        self._template = Template()
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

        Args:
            grid: Flower's, with the nodes.
            initial_arrays: the initial model, as in ``ArrayRecord(model.state_dict())``, or its weights alone. What
                it has of `buffers` precedes their own values; integers in it stay as they are.
            num_rounds: not used where the strategy has a schedule.
            timeout: seconds to wait for nodes, and for the replies of an exchange, requests that are repeated included.
            train_config: sent to the nodes with every broadcast.
            evaluate_config: not used, since evaluation is central.
            evaluate_fn: called with (0, initial arrays) and after each round, as in Flower.

        Returns:
            Flower's Result, with the arrays of the final model, buffers included, and the metrics by round.

        Raises:
            ConfigError: there are more nodes than clients, or the arrays are no model that can be trained.
            TrainingError: too few clients answered, as often as the config allows.
        """
        nodes = nodes_of(grid, self.config.min_available_nodes, timeout)
        config = self._for_nodes(nodes)
        schedule = self._schedule or RoundSchedule(num_rounds)
        initial_arrays = completed(initial_arrays, self._buffers)
        weights, buffers, self._template = read_model(initial_arrays, self._buffers, self._device)
        server = Server(config, weights, schedule, self._transposed, self._undecayed, buffers, self._sizes)
        self.server, server.nodes = server, nodes
        result = Result(arrays=initial_arrays)
        self.summary()
        if hasattr(grid, "pull_interval"):
            grid.pull_interval = min(grid.pull_interval, PULL_SECONDS)
        overridden = type(self).aggregate_train is not OverTheAir.aggregate_train
        self._wants_arrays = evaluate_fn is not None or overridden
        if evaluate_fn is not None and (metrics := evaluate_fn(0, initial_arrays)) is not None:
            result.evaluate_metrics_serverapp[0] = metrics

        def advance() -> bool:
            server_round = server.round + 1
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

        self._shared_memory = SharedMemory.with_room(room_of(config, nodes, weights))
        self._files = NodeFiles(self._shared_memory.path if self._shared_memory else None)
        self._elsewhere = set()
        self._claims = Claims(-(-config.clients // config.min_available_nodes))
        if self._shared_memory is None:
            log(WARNING, "no room for files in memory or among temporary files: the model is sent to every node")
        try:
            train(server, advance, self._evaluate, self._callbacks)
        finally:
            if self._shared_memory is not None:
                self._shared_memory.close()
            self._shared_memory, self._wants_arrays = None, True
        result.arrays = self._template.fill(server.global_model.tensors)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Make the first half of an exchange: one broadcast for every node that is not refused.

        Nodes on this host get handles to the model, the others the model itself.

        Args:
            server_round: not used, the server counts rounds by itself.
            arrays: not used, the server has the model.
            config: sent with every broadcast.
            grid: Flower's, with the nodes.
        """
        connected = set(grid.get_node_ids())
        self._claims.keep(connected)
        self._files.keep(connected)
        nodes = connected - self._claims.refused.keys()
        plain = nodes if self._shared_memory is None else nodes & self._elsewhere
        messages = []
        for some, whole in ((nodes - plain, False), (plain, True)):
            if some:
                content = self._written(self._running().broadcast(), whole)
                content["config"] = config
                messages += [addressed(content, node) for node in sorted(some)]
        return messages

    def _written(self, broadcast: Broadcast, whole: bool, prefix: str = "") -> RecordDict:
        """Return a broadcast as records: whole, or with handles, as far as there is room for their files.

        Args:
            broadcast: to write.
            whole: True to write its tensors, too.
            prefix: of the files' names.
        """
        if (shared_memory := self._shared_memory) is not None and not whole:
            try:
                return write_broadcast(broadcast, lambda name, tensors: shared_memory.publish(prefix + name, tensors))
            except OSError as error:
                log(WARNING, "no room for the model in memory (%s): it is sent to every node", reason_of(error))
        return write_broadcast(broadcast)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Make the second half: the air adds the signals up, the server receives their sum, decodes and steps.

        A client is left out if its node fails, does not reply in time or makes no sense, as far as the config allows.

        Returns:
            The model, and the metrics of the round; (None, None) between the phases of a round, and where one is to be
            repeated. The model is an empty record where nobody but the end of `start` needs it: no `evaluate_fn`, and
            no subclass with a method of its own.
        """
        server = self._running()
        if not server.aggregate(*self._gather(replies)):
            return None, None
        record = server.ledger[-1]
        metrics = MetricRecord(
            {
                "train-loss": math.nan if server.train_loss is None else server.train_loss,
                "transmitters": record.transmitters,
                "power-budget": record.power_budget,
                "max-power-used": record.max_power_used,
                "snr-db": record.snr_db,
            }
        )
        arrays = self._template.fill(server.global_model.tensors) if self._wants_arrays else ArrayRecord()
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no messages: evaluation is central, on the server, as in the paper."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return None: there is nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Log the scheme, the channel and the power of the run."""
        config = self.config
        log(INFO, "%s over %s, power %s per client and round", config.strategy, config.channel, config.power)

    def weights(self) -> Tensors:
        """Return the trained weights of the current model; its buffers are in `server.global_model.buffers`."""
        return self._running().global_model.weights

    def _running(self) -> Server:
        if self.server is None:
            raise TrainingError("the strategy has not been started: call start(grid, initial_arrays, ...)")
        return self.server

    def _send_and_receive(self, grid: Grid, messages: list[Message], timeout: float) -> list[Message]:
        """Carry messages out and replies back; nodes that can make nothing of theirs get another one, in full."""
        behind: set[int] = set()  # nodes that missed messages: the ledger counts one resync for all of them

        def in_full(message: Message, request: RecordDict) -> Message:
            node, far = message.metadata.dst_node_id, is_elsewhere(request)
            if far:
                log(INFO, "node %s is on another host: the model is sent to it", node)
                self._elsewhere.add(node)
            broadcast = self._running().broadcast()
            if not far or broadcast.sync is not None:
                broadcast = self._running().resync(missed=not far and not behind)
            behind.update(() if far else (node,))
            return self._in_full(message, broadcast)

        return carry(grid, messages, timeout, in_full)

    def _in_full(self, message: Message, broadcast: Broadcast) -> Message:
        """Return the broadcast in full, with the node's client state where that lies in files that it cannot see."""
        node = message.metadata.dst_node_id
        far = node in self._elsewhere
        content = self._written(broadcast, whole=far, prefix=APART)
        content["config"] = message.content["config"]
        if far:
            hosted = len(list(self._claims.of(node, range(self._running().config.clients))))
            self._files.add_client_state(content, node, largest_state(self._running(), hosted))
        return addressed(content, node)

    def _gather(self, replies: Iterable[Message]) -> tuple[list[Reply], list[Fault]]:
        """Return the replies of nodes, and the faults of clients without a valid one."""
        return gather(replies, self._running(), self._claims, self._files, self._device)

    def _for_nodes(self, nodes: int) -> RunConfig:
        if "clients" not in self.config.model_fields_set:
            return self.config.model_copy(update={"clients": nodes})
        if nodes > self.config.clients:
            raise ConfigError(f"clients: must be at least the number of SuperNodes, {nodes}, got {self.config.clients}")
        return self.config
