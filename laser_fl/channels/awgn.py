"""The additive white Gaussian noise multiple-access channel.

y_l = Σ_i a_l s_il + z, z ~ N(0, σ² I), with one amplitude a_l = √P_l / c_l, c_l = max_i ‖s_il‖,
for all clients, so that the air adds up what the server wants and nobody exceeds P_l. The
estimate is y_l / (k a_l) = mean_i s_il + (c_l σ / (k √P_l)) z. A signal that is zero at every
client is heard as exactly zero. At infinite power the amplitude is 1 and there is no noise.

Source: paper, Eq. (1), (2), (noisy channel) and §F.1.
"""

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float64
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.channels.base import Usage
from laser_fl.norms import norm
from laser_fl.schemes.base import Context, Heard

# Signals weaker than this are scaled as if they were this strong: less than the budget is
# spent, and the amplitude stays within the range of float32.
WEAKEST_NORM = 1e-30


@dataclass(frozen=True)
class Awgn:
    """Every client is heard equally well.

    noise_variance: σ² per value, >= 0.
    """

    noise_variance: float

    def transmit(
        self,
        signals: Tensors,
        signal_norms: Float64[Tensor, "clients signals"],
        power: Float64[Tensor, " signals"],
        ctx: Context,
    ) -> tuple[Heard, Usage]:
        """Scale to the budget, add up, add noise, scale back."""
        amplitude = amplitudes(signal_norms.amax(dim=0), power)
        client_power = torch.zeros_like(signal_norms[:, 0])
        signal_energy, noise_energy = client_power.new_zeros(2)
        values, stds = {}, {}
        noises = draw_noise(signals, ctx)
        for (name, signal), a, z in zip(signals.items(), amplitude, noises, strict=True):
            transmitted = signal * a
            summed = transmitted.sum(dim=0)
            scale = torch.where(a > 0, 1 / (ctx.clients * a), 0.0)
            values[name] = (summed + ctx.noise_std * z) * scale
            stds[name] = ctx.noise_std * scale
            client_power += norm(transmitted).square()
            signal_energy += (norm(summed.unsqueeze(0))[0] * scale).square()
            noise_energy += stds[name].square() * z.numel()
        uses = sum(z.numel() for z in noises)
        return Heard(values, stds), Usage(client_power, uses, float(signal_energy), float(noise_energy))


def amplitudes(
    strongest: Float64[Tensor, " signals"], power: Float64[Tensor, " signals"]
) -> Float64[Tensor, " signals"]:
    """a_l = √P_l / c_l; 0 where nobody has anything to say, 1 at infinite power."""
    scaled = power.sqrt() / strongest.clamp_min(WEAKEST_NORM)
    return torch.where(strongest == 0, 0.0, torch.where(torch.isinf(power), 1.0, scaled))


def draw_noise(signals: Tensors, ctx: Context) -> list[Tensor]:
    """Unit-variance noise shaped like each signal without its clients axis, drawn in one call."""
    first = next(iter(signals.values()))
    shapes = [signal.shape[1:] for signal in signals.values()]
    sizes = [prod(shape) for shape in shapes]
    generator = ctx.streams.generator("channel noise", ctx.round, ctx.phase, device=first.device)
    flat = torch.randn(sum(sizes), generator=generator, dtype=first.dtype, device=first.device)
    return [z.view(shape) for z, shape in zip(torch.split(flat, sizes), shapes, strict=True)]
