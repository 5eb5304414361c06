"""GPT-2 as the paper trains it: 12 layers, vocabulary 50304, context 512, no biases. Source: paper, Tables 4, 5."""

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from laser_fl.models.base import Network


def gpt2(
    vocabulary: int = 50304,
    context: int = 512,
    layers: int = 12,
    heads: int = 12,
    embedding: int = 768,
    dropout: float = 0.0,
) -> Network:
    """Build transformers' GPT-2 with its biases frozen at zero: 123,980,544 trained values at full size.

    Its Conv1D layers store their weights as (inputs, outputs). Weight decay leaves norms and embeddings alone.

    Args:
        vocabulary: number of tokens.
        context: tokens that the model reads at once.
        layers: number of layers.
        heads: attention heads per layer.
        embedding: width; a multiple of `heads`.
        dropout: probability, in [0, 1].
    """
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_layer=layers,
        n_head=heads,
        n_embd=embedding,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    module = LanguageModel(config)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.requires_grad = False
            torch.nn.init.zeros_(parameter)
    layers_by_name = dict(module.named_modules())
    transposed = [f"{name}.weight" for name, layer in layers_by_name.items() if isinstance(layer, Conv1D)]
    undecayed = [f"{n}.weight" for n, layer in layers_by_name.items() if isinstance(layer, nn.LayerNorm | nn.Embedding)]
    return Network(module, tuple(transposed), tuple(undecayed))


class LanguageModel(GPT2LMHeadModel):  # type: ignore[misc]
    """GPT-2 from tokens (batch, context) to logits (batch, context, vocabulary)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the token after each one."""
        logits: Tensor = super().forward(tokens).logits
        return logits
