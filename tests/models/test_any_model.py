"""Any model is trained over the air by every strategy: networks of all kinds, from configs, without a download."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from laser_fl.experiment import train
from laser_fl.models.libraries import timm, with_lora
from laser_fl.registry import SCHEMES
from tests.effort import pairs

CLASSES, TOKENS, WORDS = 3, 8, 20


class UNet(nn.Module):
    """Down, up, and across: a class for each pixel."""

    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, CLASSES, 1)

    def forward(self, x):
        across = self.down(x).relu()
        up = self.up(self.deep(across).relu())
        return self.out(torch.cat([across, up], dim=1)).movedim(1, -1)


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.lstm, self.out = nn.Embedding(WORDS, 6), nn.LSTM(6, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, tokens):
        return self.out(self.lstm(self.words(tokens))[0][:, -1])


class Tied(nn.Module):
    """An embedding that is the output layer, too."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, 6), nn.Linear(6, WORDS, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens):
        return self.out(self.words(tokens))


class Odd(nn.Module):
    """A scalar, a vector, a weight without effect, one with effect in one round of two, and an odd name."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(CLASSES))
        self.unused = nn.Linear(2, 2)
        self.odd = nn.ParameterDict({"a b/ä": torch.randn(4, CLASSES)})

    def forward(self, x):
        return self.scale * x @ self.odd["a b/ä"] + self.shift


class Dropping(nn.Module):
    """Dropout by a call, which no layer shows."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.b(F.dropout(self.a(x).relu(), 0.5, self.training))


def frozen():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    net[0].requires_grad_(False)
    return net


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_positions=TOKENS, n_embd=8, n_layer=1, n_head=2))


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS, num_labels=CLASSES, **sizes))


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=CLASSES, **sizes))


def resnet():
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=CLASSES, **sizes))


def layers(*parts):
    return lambda: nn.Sequential(*parts)


def floats(*shape):
    return torch.randn(shape, generator=DRAWS)


def numbers(below, *shape):
    return torch.randint(below, shape, generator=DRAWS)


DRAWS = torch.Generator().manual_seed(0)
VECTORS = floats(8, 4), numbers(CLASSES, 8)
IMAGES = floats(8, 1, 8, 8), numbers(CLASSES, 8)
# Of smaller images the last batch norms see one value per example: two that are nearly equal give a huge gradient.
COLOURS = floats(4, 3, 64, 64), numbers(CLASSES, 4)
TEXTS = numbers(WORDS, 8, TOKENS), numbers(CLASSES, 8)
NEXT = TEXTS[0][:, :-1], TEXTS[0][:, 1:]
SERIES, VOLUMES = (floats(8, 2, 16), VECTORS[1]), (floats(8, 1, 4, 4, 4), VECTORS[1])
PIXELS = IMAGES[0], numbers(CLASSES, 8, 8, 8)
MASKED = {"input_ids": TEXTS[0], "attention_mask": torch.ones_like(TEXTS[0])}, TEXTS[1]

MODELS = OrderedDict(
    {
        "mlp": (layers(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, CLASSES)), VECTORS),
        "float64": (lambda: nn.Linear(4, CLASSES, dtype=torch.float64), (VECTORS[0].double(), VECTORS[1])),
        "frozen": (frozen, VECTORS),
        "odd weights": (Odd, VECTORS),
        "dropout by a call": (Dropping, VECTORS),
        "batch norm": (layers(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)), VECTORS),
        "cnn": (layers(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES)), IMAGES),
        "group norm": (layers(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, CLASSES)), IMAGES),
        "conv1d": (layers(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(56, CLASSES)), SERIES),
        "conv3d": (layers(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, CLASSES)), VOLUMES),
        "u-net": (UNet, PIXELS),
        "lstm": (Lstm, TEXTS),
        "tied": (Tied, NEXT),
        "gpt2": (gpt2, NEXT),
        "bert": (bert, MASKED),
        "vit": (vit, IMAGES),
        "lora": (lambda: with_lora(gpt2(), rank=2), NEXT),
        "lora, A frozen": (lambda: with_lora(bert(), rank=2, train="b"), MASKED),
        "resnet": (resnet, IMAGES),
        "mobilenet": (lambda: timm("mobilenetv3_small_050")(classes=CLASSES), COLOURS),
    }
)


@pytest.mark.parametrize(("name", "strategy"), pairs(MODELS, SCHEMES))
def test_three_rounds_are_within_the_budget(name, strategy):
    build, data = MODELS[name]
    torch.manual_seed(0)
    keys = {"clients": 2, "batch_size": 2, "rounds": 3, "power": 1e4, "learning_rate": 1e-5}
    result = train(build(), data, data, strategy=strategy, **keys)
    assert len(result.ledger) == 3
    used = result.ledger["max_power_used"]
    assert strategy == "sgd" or (0 < used.max() <= 1e4 * (1 + 1e-5))
