"""A text as data: an example is a window of its tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.data.examples import Batch
from laser_fl.data.sampler import Sampler, Windows
from laser_fl.errors import ConfigError
from laser_fl.rng import Device
from laser_fl.shapes import Int64, Shaped


@dataclass(frozen=True)
class Text:
    """A text as tokens; an example is a window of `context` of them, and its targets the next ones.

    tokens: may be memory-mapped. context: tokens that a model reads at once.
    """

    tokens: Shaped[Tensor, " tokens"]
    context: int

    def __len__(self) -> int:
        """Count the windows that fill the text, the last one perhaps short."""
        return math.ceil((len(self.tokens) - 1) / self.context)

    @property
    def device(self) -> torch.device:
        """The device on which the data lies."""
        return self.tokens.device

    @property
    def stacked(self) -> bool:
        """True: all windows have one shape, so that clients can be computed in one call."""
        return True

    def to(self, device: Device) -> "Text":
        """Return the same text on `device`."""
        return Text(self.tokens.to(device), self.context)

    def at(self, starts: Int64[Tensor, "*rows"], into: Tensor | None = None) -> Batch:
        """Return (tokens, the tokens after them) of the windows that begin at `starts`; `into` is left alone."""
        places = starts.unsqueeze(-1) + torch.arange(self.context + 1, device=starts.device)
        windows = self.tokens[places].long()
        return windows[..., :-1], windows[..., 1:]

    def batches(self, count: int, size: int, workers: int = 0) -> Iterator[Batch]:
        """Yield `count` windows, evenly spread over the text (0: all, the last perhaps short), `size` at a time."""
        some, whole = 0 < count < len(self), (len(self.tokens) - 1) // self.context
        places = torch.arange(count if some else whole, device=self.tokens.device)
        if some:
            places = places * whole // count
        for starts in torch.split(places * self.context, size) if len(places) else ():
            yield self.at(starts)
        if not some and (rest := len(self.tokens) - 1 - whole * self.context):
            yield replace(self, context=rest).at(places.new_tensor([whole * self.context]))

    def held_out(self, config: RunConfig) -> Sequence[Tensor]:
        """Return no examples: windows overlap, so that none can be held out."""
        return ()

    def sampler(self, config: RunConfig, clients: range) -> Sampler:
        """Return windows at random places.

        Raises:
            ConfigError: the text is shorter than the context, or a client's stretch of it is; or the partition goes by
                labels, which a text does not have.
        """
        if config.partition != "iid":
            raise ConfigError(f"partition: must be iid for a text, got {config.partition!r}")
        if len(self.tokens) <= self.context:
            raise ConfigError(f"context: must be below the text's {len(self.tokens)} tokens, got {self.context}")
        return Windows(config, len(self.tokens), self.context + 1, clients)
