"""The Flower ClientApp: a node that computes the gradients of the clients it hosts."""

from functools import cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.node import hosted_here, reply
from laser_fl.config import RunConfig, parse
from laser_fl.setup import Setup, prepare
from laser_fl.worker import Crew

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One exchange of this node's clients."""
    config = parse(context.run_config)
    crew = _crew(config, hosted_here(context, config.clients))
    return reply(message, context, crew.answer, _setup(config).device)


@cache
def _setup(config: RunConfig) -> Setup:
    """Data and model, once per process: the nodes of one process share them."""
    return prepare(config)


@cache
def _crew(config: RunConfig, clients: range) -> Crew:
    setup = _setup(config)
    return Crew(setup.task, setup.network, config, clients)
