"""The Flower ClientApp: a node that computes the gradients of the clients it hosts."""

from functools import cache, lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.node import hosted_here, reply
from clients.own import settings
from laser_fl.config import RunConfig, parse
from laser_fl.federated.local_training import LocalTrainer
from laser_fl.federated.setup import Setup, prepare

CONFIGS = 64  # that a process keeps parsed; its nodes may have some of their own

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Carry out one exchange of this node's clients."""
    values = settings(context)
    config = _config(tuple(values.items()), tuple(map(type, values.values())))
    trainer = _trainer(config, hosted_here(context, config.clients))
    return reply(message, context, trainer.answer, _setup(config).device)


@lru_cache(maxsize=CONFIGS)
def _config(values: tuple[tuple[str, object], ...], types: tuple[type, ...]) -> RunConfig:
    """Parse a config, once per process and not once per message.

    values: by key. types: theirs, for the cache: 1, 1.0 and True are equal.
    """
    return parse(dict(values))


@cache
def _setup(config: RunConfig) -> Setup:
    """Prepare data and model, once per process: the nodes of one process share them."""
    return prepare(config)


@cache
def _trainer(config: RunConfig, clients: range) -> LocalTrainer:
    setup = _setup(config)
    return LocalTrainer(setup.task, setup.network, config, clients)
