"""GPT-2 as the paper trains it: 12 layers, vocabulary 50304, context 512, no biases. Source: paper, Table 5."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from laser_fl.models.base import Network


def gpt2() -> Network:
    """Transformers' GPT-2 with its biases frozen at zero: 123,980,544 trained values.

    Its Conv1D layers store their weights as (inputs, outputs).
    """
    module = GPT2LMHeadModel(GPT2Config(vocab_size=50304, n_positions=512))
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.requires_grad = False
            torch.nn.init.zeros_(parameter)
    transposed = [f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, Conv1D)]
    return Network(module, tuple(transposed))
