"""Models of other libraries, by name: ``torchvision:resnet18``, ``timm:vit_tiny_patch16_224``, ``transformers:PATH``.

Each function returns a builder, which takes the task's facts: classes, channels, vocabulary. Weights are drawn anew,
but for those that a folder of transformers holds.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn

from laser_fl.errors import ConfigError, brief, did_you_mean, packages_for, quoted, reason_of
from laser_fl.models.base import stored_transposed
from laser_fl.registry import Option

Builder = Callable[..., nn.Module]

WEIGHTS = ("*.safetensors", "*.bin")
Rank = Annotated[int, Option("rank of LoRA adapters, which alone are trained then; 0: none", ge=0, lt=2**31)]
Trained = Annotated[Literal["a-and-b", "b"], Option("trained matrices of LoRA adapters B A; b: A stays as drawn")]


def torchvision(name: str) -> Builder:
    """Return the builder of a classifier of torchvision. Raises ConfigError where it has no model of this name."""
    with packages_for(f"model=torchvision:{name}"):
        from torchvision import models
    _refuse_unknown("torchvision", name, models.list_models(module=models))

    def build(classes: int = 1000) -> nn.Module:
        built: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        return built

    return build


def timm(name: str) -> Builder:
    """Return the builder of a classifier of timm. Raises ConfigError where it has no model of this name."""
    with packages_for(f"model=timm:{name}", "laser-fl[timm]"):
        import timm as library
    _refuse_unknown("timm", name, library.list_models())

    def build(classes: int = 1000, channels: int = 3) -> nn.Module:
        built: nn.Module = library.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
        return built

    return build


def transformers(place: str) -> Builder:
    """Return the builder of a model of transformers: a causal language model for texts, else a classifier.

    place: a folder with config.json and, where training is to go on from them, weights; or a name on the hub.
    """
    with packages_for(f"model=transformers:{place}"):
        import transformers as library

    def build(
        classes: int = 2,
        channels: int = 0,
        vocabulary: int = 0,
        lora_rank: Rank = 0,
        lora_train: Trained = "a-and-b",
    ) -> nn.Module:
        kind = "CausalLM" if vocabulary else "ImageClassification" if channels else "SequenceClassification"
        facts = {"vocab_size": vocabulary} if vocabulary else {"num_labels": classes}
        auto: Any = getattr(library, f"AutoModelFor{kind}")
        try:
            if _has_weights(place):
                built: nn.Module = auto.from_pretrained(place, ignore_mismatched_sizes=True, **facts)
            else:
                built = auto.from_config(library.AutoConfig.from_pretrained(place, **facts))
        except Exception as error:  # of many kinds: no such folder, no network, another architecture
            rule = f"must be a folder or a name of a model for {kind}"
            reason = f"{type(error).__name__}: {brief(reason_of(error))}"
            raise ConfigError(f"model: transformers:{place} {rule} ({reason})") from None
        return with_lora(built, lora_rank, lora_train) if lora_rank else built

    return build


def with_lora(model: nn.Module, rank: int, train: Literal["a-and-b", "b"] = "a-and-b") -> nn.Module:
    """Add LoRA adapters to all linear layers of a transformer, W + B A, and freeze all else but a classifier's head.

    The mean of products is not the product of means: with A and B both trained, the mean of the clients' B and of their
    A is not the mean of their B A. With A frozen at its random start, B A is linear in B, and both are the same.

    Source: Hu et al., "LoRA: Low-rank adaptation of large language models", 2022; Sun, Li, Li, Ding, "Improving LoRA in
    privacy-preserving federated learning", 2024, for the frozen A.

    Args:
        model: of transformers, changed in place.
        rank: of the adapters.
        train: the matrices that are trained.

    Raises:
        ConfigError: peft is not installed, or finds no layer that it could adapt.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=1))
        >>> adapted = with_lora(model, rank=2, train="b")
        >>> {name.split(".")[-2] for name, p in adapted.named_parameters() if p.requires_grad}
        {'default'}
    """
    with packages_for("lora-rank", "laser-fl[peft]"):
        import peft
    task_type = "SEQ_CLS" if type(model).__name__.endswith("SequenceClassification") else None
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        task_type=task_type,
        fan_in_fan_out=bool(stored_transposed(model)),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is on its way out
            adapted: nn.Module = peft.get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(
            f"lora-rank: must be 0 for a model without layers to adapt ({brief(reason_of(error))})"
        ) from None
    if train == "b":
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad_(False)
    return adapted


def _has_weights(place: str) -> bool:
    """Return True for a folder with weights, and for a name on the hub, which has them."""
    folder = Path(place)
    return not folder.is_dir() or any(next(folder.glob(pattern), None) is not None for pattern in WEIGHTS)


def _refuse_unknown(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"model: {library} must have a model of this name, got {quoted(name)}{hint}")
