"""Gradients and loss of many clients are those of torch.func, to the last bit."""

import pytest
import torch
from torch.func import grad_and_value, vmap

from laser_fl.data.task import cross_entropy_of_all
from laser_fl.federated import transforms
from laser_fl.federated.transforms import batched_cross_entropy, gradients_and_values


def with_loss(loss):
    def function(weights, inputs, targets):
        outputs = torch.nn.functional.linear(inputs, weights["w"], weights["b"])
        return loss(outputs, targets), {"outputs": outputs}

    return function


@pytest.mark.parametrize("has_parts", [True, False], ids=["by torch's parts", "by a torch without them"])
@pytest.mark.parametrize("shape", [(4, 32, 20), (3, 5, 6, 11)], ids=["labels", "sequences"])
def test_many_clients_gradients_and_losses_are_those_of_torch_func(shape, has_parts, monkeypatch):
    if not has_parts:
        monkeypatch.setattr(transforms, "_private", None)
    weights = {"w": torch.randn(7, shape[-1]), "b": torch.randn(7), "idle": torch.randn(3)}
    inputs, targets = torch.randn(shape), torch.randint(7, shape[:-1])
    targets[..., 0] = -100  # which the loss ignores
    own = vmap(gradients_and_values(with_loss(batched_cross_entropy)), in_dims=(None, 0, 0))
    torchs = vmap(grad_and_value(with_loss(cross_entropy_of_all), has_aux=True), in_dims=(None, 0, 0))
    gradients, (losses, beside) = own(weights, inputs, targets)
    known, (known_losses, known_beside) = torchs(weights, inputs, targets)
    assert torch.equal(losses, known_losses)
    assert torch.equal(beside["outputs"], known_beside["outputs"])
    assert gradients.keys() == known.keys()
    assert all(torch.equal(gradients[name], known[name]) for name in known)
