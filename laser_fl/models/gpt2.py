"""GPT-2 as the paper trains it: 12 layers, vocabulary 50304, context 512, no biases. Source: paper, Tables 4, 5."""

from typing import Annotated

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from laser_fl.models.base import Network
from laser_fl.registry import Option


def gpt2(
    vocabulary: int = 50304,
    layers: Annotated[int, Option("gpt2's blocks", ge=1, lt=2**31)] = 12,
    heads: Annotated[int, Option("gpt2's attention heads per block", ge=1, lt=2**31)] = 12,
    embedding: Annotated[int, Option("gpt2's width, a multiple of heads", ge=1, lt=2**31)] = 768,
    context: Annotated[int, Option("tokens that gpt2 reads at once", ge=1, lt=2**31)] = 512,
    dropout: Annotated[float, Option("gpt2's dropout; not with client-batching=vmap", ge=0, lt=1)] = 0.0,
) -> Network:
    """Build transformers' GPT-2 with its biases frozen at zero: 123,980,544 trained values at full size.

    Its Conv1D layers store their weights as (inputs, outputs). Weight decay leaves norms and embeddings alone.

    Args:
        vocabulary: number of tokens.
        layers: number of layers.
        heads: attention heads per layer.
        embedding: width; a multiple of `heads`.
        context: tokens that the model reads at once.
        dropout: probability, in [0, 1].
    """
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_layer=layers,
        n_head=heads,
        n_embd=embedding,
        activation_function="gelu_pytorch_tanh",  # gelu_new in one kernel
        attn_implementation="sdpa",  # causal without a mask
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
    return Network(module, tuple(transposed), tuple(undecayed), repeats=dropout == 0)


class LanguageModel(GPT2LMHeadModel):  # type: ignore[misc]
    """GPT-2 from tokens (batch, context) to logits (batch, context, vocabulary)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the token after each one.

        transformers' own forward pass looks for packed sequences, and a GPU would be waited for each time. Here every
        row is one sequence, so that the layers need no mask: their attention is causal.
        """
        body = self.transformer
        states = body.drop(body.wte(tokens) + body.wpe(torch.arange(tokens.shape[-1], device=tokens.device)))
        for layer in body.h:
            states = layer(states)
        logits: Tensor = self.lm_head(body.ln_f(states))
        return logits
