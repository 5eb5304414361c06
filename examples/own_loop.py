"""A loop of your own: LASER beside Z-SGD, over the same channel at the same power.

$ python own_loop.py
z-sgd  test accuracy  48.9 %   last round: SNR -26.2 dB, max power 1.96
laser  test accuracy  90.9 %   last round: SNR  -9.6 dB, max power 1.66
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import laser_fl as lf

CLIENTS, ROUNDS, BATCH, POWER = 8, 150, 32, 2.0


def network() -> nn.Module:
    """Build the network, with the same initial weights every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8))


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw points from eight clouds, which overlap a little."""
    centres = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(8, (count,), generator=draw)
    return centres[labels] + 2.5 * torch.randn(count, 64, generator=draw), labels


def train(scheme: str) -> tuple[nn.Module, lf.OverTheAir]:
    """Train one network; after half of the rounds, go on from a saved state."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    ota = lf.OverTheAir(model, scheme=scheme, power=POWER, clients=CLIENTS)
    for round in range(ROUNDS):
        batches = [examples(BATCH, seed=1 + round * CLIENTS + client) for client in range(CLIENTS)]
        update = ota.aggregate(lf.gradients(model, cross_entropy, batches))
        lf.step(optimizer, model, update)
        if round == ROUNDS // 2:
            saved = ota.state_dict()  # for torch.save, beside the model's and the optimizer's
            ota = lf.OverTheAir(model, scheme=scheme, power=POWER, clients=CLIENTS)
            ota.load_state_dict(saved)
    return model, ota


if __name__ == "__main__":
    inputs, labels = examples(4000, seed=0)
    for scheme in ("z-sgd", "laser"):
        model, ota = train(scheme)
        accuracy = 100 * (model(inputs).argmax(dim=1) == labels).float().mean()
        last = ota.ledger[-1]
        costs = f"SNR {last.snr_db:5.1f} dB, max power {last.max_power_used:.2f}"
        print(f"{scheme}  test accuracy {accuracy:5.1f} %   last round: {costs}")
