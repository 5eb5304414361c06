"""Random generators keyed by meaning. Nothing else in the project draws.

The key of a draw is (seed, purpose, round, client, ...), never the order of calls: server and client, in every engine,
draw the same numbers from the same key.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Device = torch.device | str

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class RandomStreams:
    """All randomness of a run.

    seed: the run's seed, >= 0. shared: the device of draws that both sides of the air make alike; a GPU only where both
    are in one process. on_cpu: True where noise is drawn on the CPU, too, so that it is the same on all devices.
    """

    seed: int
    shared: str = "cpu"
    on_cpu: bool = False

    def key(self, purpose: str, *index: int) -> int:
        """Hash (seed, purpose, index) to 63 bits.

        PyTorch's CPU generator uses the low 32 of them: two of 30,000 draws of a run coincide with a chance of 10 %,
        and then serve different purposes or rounds.
        """
        text = repr((self.seed, purpose, *index)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1

    def keys(self, purpose: str, *index: int, rows: Sequence[int], columns: int) -> np.ndarray:
        """Hash (seed, purpose, index, row, column) to 64 bits, for many rows and columns at once.

        Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014 (SplitMix64).

        Args:
            purpose: of the draw.
            index: of the draw.
            rows: their numbers.
            columns: number of columns.

        Returns:
            Unsigned integers, (rows, columns).
        """
        start = np.array([self.key(purpose, *index)], dtype=np.uint64)
        each = _mixed(start + np.asarray(rows, dtype=np.uint64) * _GOLDEN)
        return _mixed(each[:, None] + np.arange(1, columns + 1, dtype=np.uint64) * _GOLDEN)

    def generator(self, purpose: str, *index: int, device: Device = "cpu") -> torch.Generator:
        """Make a fresh generator on `device`, seeded by (seed, purpose, index).

        CPU and GPU generators of one key draw different numbers.
        """
        return torch.Generator(device).manual_seed(self.key(purpose, *index))

    def normal_like(self, like: Tensor, purpose: str, *index: int) -> Tensor:
        """Draw noise of unit variance, of the shape, type and device of `like`, where that one's device draws it."""
        device = torch.device("cpu") if self.on_cpu else like.device
        generator = self.generator(purpose, *index, device=device)
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)

    @contextmanager
    def torch_global(self, purpose: str, *index: int, device: Device = "cpu") -> Iterator[None]:
        """Seed PyTorch's own generators for code that draws from them (initial weights, dropout).

        The earlier state is put back afterwards.
        """
        device, key = torch.device(device), self.key(purpose, *index)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(key)  # torch.manual_seed notes each call for GPUs not in use yet
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(key)
            yield


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Mix the bits of each number; products wrap around."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return mixed
