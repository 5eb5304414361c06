"""The options of all built-in parts as keys of the run config. Written by .ci/generate.py: do not edit."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from laser_fl.config.rules import Number, part


class PartOptions(BaseModel):
    """The options of all built-in parts; where several parts share one, with the loosest of their rules."""

    tokens: Literal["bytes", "gpt2"] = Field(
        "bytes",
        description="unit of a text: its bytes, or GPT-2's 50,257 tokens",
    )
    image_size: Annotated[int, Field(ge=0, le=8192)] = Field(
        0,
        description="height and width of images, cut and scaled; 0: as they are",
    )
    target: str = Field(
        "",
        description="column to predict: texts and integers are classes, other numbers are numbers",
    )
    client_column: str = Field(
        "",
        description="column that names each example's client, for partition=by-column",
    )
    dataset: str = Field(
        "",
        description="folder or file here, or name on the hub",
    )
    input_column: str = Field(
        "",
        description="column that the model reads; empty: the only one beside the others",
    )
    width: Annotated[int, Field(ge=1, lt=2147483648)] = Field(
        64,
        description="channels of resnet18's first stage",
    )
    layers: Annotated[int, Field(ge=1, lt=2147483648)] = Field(
        12,
        description="gpt2's blocks",
    )
    heads: Annotated[int, Field(ge=1, lt=2147483648)] = Field(
        12,
        description="gpt2's attention heads per block",
    )
    embedding: Annotated[int, Field(ge=1, lt=2147483648)] = Field(
        768,
        description="gpt2's width, a multiple of heads",
    )
    context: Annotated[int, Field(ge=1, lt=2147483648)] = Field(
        512,
        description="tokens that gpt2 reads at once",
    )
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        0.0,
        description="gpt2's dropout; not with client-batching=vmap",
    )
    dirichlet_alpha: Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)] = Field(
        0.5,
        description="concentration of the draw; small: uneven",
    )
    shards_per_client: Annotated[int, Field(ge=1, lt=2147483648)] = Field(
        2,
        description="pieces per client",
    )
    compression_factor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        0.1,
        description="values sent per value; 0: as many as the power carries",
    )
    sparsity: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        0.5,
        description="largest values in the approximation, per number sent",
    )
    recovery: Annotated[str, part("recovery")] = Field(
        "lmmse",
        description="method by which the server recovers the sparse mean",
    )
    rank: Annotated[int, Field(ge=0, lt=2147483648)] = Field(
        2,
        description="rank of bases and factors; 0: as the power allows",
    )
    factor_exchange: Annotated[str, part("factor-exchange")] = Field(
        "alternating",
        description="way of the factors to the server",
    )
    phase_split: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        0.5,
        description="power share of the first of two-phase's phases",
    )
    noise_variance: Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)] = Field(
        1.0,
        description="variance σ² of the channel noise per received value",
    )
    rician_k_db: Number = Field(
        -math.inf,
        description="line of sight K over scattered energy, in dB; -inf: Rayleigh, inf: none scattered",
    )
    csi_error_variance: Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)] = Field(
        0.0,
        description="variance v of the error in the gain that a client estimates",
    )
    gain_threshold: Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)] = Field(
        0.1,
        description="least |gain|^2 at which a client transmits; 0: all do",
    )
    path_loss_exponent: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(
        0.0,
        description="exponent α of the loss over distance; 0: none",
    )
    cell_radius: Annotated[float, Field(ge=1, le=1000000.0, allow_inf_nan=False)] = Field(
        10.0,
        description="radius R of the clients' cell, over the distance of no path loss",
    )
    antennas: Annotated[int, Field(ge=1, le=65536)] = Field(
        64,
        description="antennas M of the server",
    )
    monitor: str = Field(
        "",
        description="score that callbacks watch, as test_accuracy; empty: the task's, of averaged weights",
    )
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0,
        description="least change that early-stopping and reduce-on-plateau count as better",
    )
    patience: Annotated[int, Field(ge=1, lt=2147483648)] = Field(
        5,
        description="evaluations in a row without a better score after which early-stopping ends a run",
    )
    plateau_patience: Annotated[int, Field(ge=1, lt=2147483648)] = Field(
        2,
        description="evaluations in a row without a better score after which reduce-on-plateau acts",
    )
    plateau_factor: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        0.5,
        description="factor by which reduce-on-plateau multiplies the learning rate",
    )


# The options of each part, by (key, name): their rules and descriptions.
DECLARED: dict[tuple[str, str], dict[str, tuple[Any, str]]] = {
    ("task", "wikitext-2"): {
        "tokens": (Literal["bytes", "gpt2"], "unit of a text: its bytes, or GPT-2's 50,257 tokens"),
    },
    ("task", "wikitext-2-raw"): {
        "tokens": (Literal["bytes", "gpt2"], "unit of a text: its bytes, or GPT-2's 50,257 tokens"),
    },
    ("task", "wikitext-103"): {
        "tokens": (Literal["bytes", "gpt2"], "unit of a text: its bytes, or GPT-2's 50,257 tokens"),
    },
    ("task", "wikitext-103-raw"): {
        "tokens": (Literal["bytes", "gpt2"], "unit of a text: its bytes, or GPT-2's 50,257 tokens"),
    },
    ("task", "pydoc"): {
        "tokens": (Literal["bytes", "gpt2"], "unit of a text: its bytes, or GPT-2's 50,257 tokens"),
    },
    ("task", "text"): {
        "tokens": (Literal["bytes", "gpt2"], "unit of a text: its bytes, or GPT-2's 50,257 tokens"),
    },
    ("task", "images"): {
        "image_size": (
            Annotated[int, Field(ge=0, le=8192)],
            "height and width of images, cut and scaled; 0: as they are",
        ),
    },
    ("task", "table"): {
        "target": (str, "column to predict: texts and integers are classes, other numbers are numbers"),
        "client_column": (str, "column that names each example's client, for partition=by-column"),
    },
    ("task", "huggingface"): {
        "dataset": (str, "folder or file here, or name on the hub"),
        "input_column": (str, "column that the model reads; empty: the only one beside the others"),
        "target": (str, "column to predict: texts and integers are classes, other numbers are numbers"),
        "client_column": (str, "column that names each example's client, for partition=by-column"),
    },
    ("model", "resnet18"): {
        "width": (Annotated[int, Field(ge=1, lt=2147483648)], "channels of resnet18's first stage"),
    },
    ("model", "gpt2"): {
        "layers": (Annotated[int, Field(ge=1, lt=2147483648)], "gpt2's blocks"),
        "heads": (Annotated[int, Field(ge=1, lt=2147483648)], "gpt2's attention heads per block"),
        "embedding": (Annotated[int, Field(ge=1, lt=2147483648)], "gpt2's width, a multiple of heads"),
        "context": (Annotated[int, Field(ge=1, lt=2147483648)], "tokens that gpt2 reads at once"),
        "dropout": (
            Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)],
            "gpt2's dropout; not with client-batching=vmap",
        ),
    },
    ("partition", "dirichlet"): {
        "dirichlet_alpha": (
            Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)],
            "concentration of the draw; small: uneven",
        ),
    },
    ("partition", "balanced-dirichlet"): {
        "dirichlet_alpha": (
            Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)],
            "concentration of the draw; small: uneven",
        ),
    },
    ("partition", "shards"): {
        "shards_per_client": (Annotated[int, Field(ge=1, lt=2147483648)], "pieces per client"),
    },
    ("strategy", "random-k"): {
        "compression_factor": (
            Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)],
            "values sent per value; 0: as many as the power carries",
        ),
    },
    ("strategy", "sketch"): {
        "compression_factor": (Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)], "buckets per value"),
    },
    ("strategy", "a-dsgd"): {
        "compression_factor": (Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)], "numbers sent per value"),
        "sparsity": (
            Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)],
            "largest values in the approximation, per number sent",
        ),
        "recovery": (Annotated[str, part("recovery")], "method by which the server recovers the sparse mean"),
    },
    ("strategy", "laser"): {
        "rank": (Annotated[int, Field(gt=0, lt=2147483648)], "largest rank of a matrix's factors"),
        "factor_exchange": (Annotated[str, part("factor-exchange")], "way of the factors to the server"),
        "phase_split": (
            Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)],
            "power share of the first of two-phase's phases",
        ),
    },
    ("strategy", "laser-adaptive"): {
        "rank": (Annotated[int, Field(ge=0, lt=2147483648)], "rank of bases and factors; 0: as the power allows"),
    },
    ("channel", "awgn"): {
        "noise_variance": (
            Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)],
            "variance σ² of the channel noise per received value",
        ),
    },
    ("channel", "fading"): {
        "noise_variance": (
            Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)],
            "variance σ² of the channel noise per received value",
        ),
        "rician_k_db": (Number, "line of sight K over scattered energy, in dB; -inf: Rayleigh, inf: none scattered"),
        "csi_error_variance": (
            Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)],
            "variance v of the error in the gain that a client estimates",
        ),
        "gain_threshold": (
            Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)],
            "least |gain|^2 at which a client transmits; 0: all do",
        ),
        "path_loss_exponent": (
            Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)],
            "exponent α of the loss over distance; 0: none",
        ),
        "cell_radius": (
            Annotated[float, Field(ge=1, le=1000000.0, allow_inf_nan=False)],
            "radius R of the clients' cell, over the distance of no path loss",
        ),
    },
    ("channel", "blind"): {
        "noise_variance": (
            Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)],
            "variance σ² of the channel noise per received value",
        ),
        "antennas": (Annotated[int, Field(ge=1, le=65536)], "antennas M of the server"),
    },
    ("callbacks", "early-stopping"): {
        "monitor": (str, "score that callbacks watch, as test_accuracy; empty: the task's, of averaged weights"),
        "min_delta": (
            Annotated[float, Field(ge=0, allow_inf_nan=False)],
            "least change that early-stopping and reduce-on-plateau count as better",
        ),
        "patience": (
            Annotated[int, Field(ge=1, lt=2147483648)],
            "evaluations in a row without a better score after which early-stopping ends a run",
        ),
    },
    ("callbacks", "reduce-on-plateau"): {
        "monitor": (str, "score that callbacks watch, as test_accuracy; empty: the task's, of averaged weights"),
        "min_delta": (
            Annotated[float, Field(ge=0, allow_inf_nan=False)],
            "least change that early-stopping and reduce-on-plateau count as better",
        ),
        "plateau_patience": (
            Annotated[int, Field(ge=1, lt=2147483648)],
            "evaluations in a row without a better score after which reduce-on-plateau acts",
        ),
        "plateau_factor": (
            Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)],
            "factor by which reduce-on-plateau multiplies the learning rate",
        ),
    },
    ("callbacks", "best-weights"): {
        "monitor": (str, "score that callbacks watch, as test_accuracy; empty: the task's, of averaged weights"),
    },
}
