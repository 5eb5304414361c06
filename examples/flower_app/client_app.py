"""The clients: their gradients are `task.gradient`, and `respond` does the rest."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from task import gradient

from clients import respond

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a broadcast of the strategy."""
    return respond(message, context, gradient)
