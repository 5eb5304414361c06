"""The model and the data: points around ten centers, of which every client has a sample of its own."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLASSES, FEATURES, HIDDEN = 10, 20, 64
HELD, TESTED = 200, 2000  # examples of a client, and of the server
TEST = 10_000  # a sample that no client has


def build() -> nn.Module:
    """Make the network, with the same initial weights in every process."""
    torch.manual_seed(0)
    first, norm, last = nn.Linear(FEATURES, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, CLASSES)
    return nn.Sequential(first, norm, nn.ReLU(), last)


def sample(number: int, size: int) -> tuple[Tensor, Tensor]:
    """Draw points and their labels. number: the client's, which is its node's partition-id here."""
    centers = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(100 + number)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return centers[labels] + torch.randn(size, FEATURES, generator=generator), labels


def gradient(
    weights: dict[str, Tensor], buffers: dict[str, Tensor], client: int
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Return a client's gradients, its loss, and the batch-norm statistics after its forward pass."""
    model = build()
    model.load_state_dict(weights | buffers, strict=False)  # the number of batches is neither
    inputs, labels = sample(client, HELD)
    loss = cross_entropy(model(inputs), labels)
    loss.backward()
    return {name: w.grad for name, w in model.named_parameters()}, loss, dict(model.named_buffers())


@torch.no_grad()
def accuracy(state: dict[str, Tensor]) -> float:
    """Return the share of test points that a model with this state dict labels correctly."""
    model = build().eval()
    model.load_state_dict(state)
    inputs, labels = sample(TEST, TESTED)
    return (model(inputs).argmax(dim=1) == labels).double().mean().item()
