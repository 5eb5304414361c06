"""Gradients and loss of many clients are those of torch.func."""

import pytest
import torch
from torch.func import grad_and_value, vmap

from laser_fl.data.task import cross_entropy_of_all
from laser_fl.federated import transforms
from laser_fl.federated.transforms import LANES, batched_cross_entropy, gradients_and_values


def with_loss(loss):
    def function(weights, inputs, targets):
        outputs = torch.nn.functional.linear(inputs, weights["w"], weights["b"])
        return loss(outputs, targets), {"outputs": outputs}

    return function


@pytest.mark.parametrize("has_parts", [True, False], ids=["by torch's parts", "by a torch without them"])
@pytest.mark.parametrize("classes", [2, 7, LANES - 1, LANES, 50])
@pytest.mark.parametrize("shape", [(4, 32, 20), (3, 5, 6, 11)], ids=["labels", "sequences"])
def test_many_clients_gradients_and_losses_are_those_of_torch_func(shape, classes, has_parts, monkeypatch):
    """To the last bit, but where few classes are taken along another axis."""
    if not has_parts:
        monkeypatch.setattr(transforms, "_private", None)
    draw = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(classes, shape[-1], generator=draw), "b": torch.randn(classes, generator=draw)}
    weights["idle"] = torch.randn(3)
    inputs = torch.randn(shape, generator=draw)
    targets = torch.randint(classes, shape[:-1], generator=draw)
    targets[..., 0] = -100  # which the loss ignores
    own = vmap(gradients_and_values(with_loss(batched_cross_entropy)), in_dims=(None, 0, 0))
    torchs = vmap(grad_and_value(with_loss(cross_entropy_of_all), has_aux=True), in_dims=(None, 0, 0))
    bits = {"rtol": 0, "atol": 0} if classes >= LANES else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(own(weights, inputs, targets), torchs(weights, inputs, targets), **bits)
