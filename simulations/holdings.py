"""The labels of each client's examples, drawn by flwr-datasets' own plotting."""

import io
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from flwr_datasets.partitioner import NaturalIdPartitioner
from flwr_datasets.visualization import plot_label_distributions
from matplotlib.figure import Figure

from laser_fl.config import RunConfig
from laser_fl.data.examples import Examples
from laser_fl.data.sampler import deal
from laser_fl.errors import ConfigError


def draw(data: Examples, config: RunConfig, path: Path) -> pd.DataFrame:
    """Draw the config's partition of the examples' labels.

    Args:
        data: with labels as targets, (examples,).
        config: with the partition and the number of clients.
        path: of the picture.

    Returns:
        The numbers of examples, a row per client and a column per label.

    Raises:
        ConfigError: the picture cannot be written.
    """
    labels = data.targets
    shards = deal(labels, config, data.groups)
    owner = torch.cat([torch.full((len(part),), client) for client, part in enumerate(shards)])
    examples = torch.cat(list(shards))
    partitioner = NaturalIdPartitioner("client")
    partitioner.dataset = Dataset.from_dict({"label": labels[examples].tolist(), "client": owner.tolist()})
    picture = Figure(figsize=(8, 4.5))
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # labels without names, and its progress bar
        warnings.simplefilter("ignore")
        _, _, counts = plot_label_distributions(
            partitioner,
            label_name="label",
            axis=picture.subplots(),
            title=f"{config.task}, {config.partition}, {config.clients} clients",
            legend=True,
            legend_title="label",
            legend_kwargs={"loc": "center left", "bbox_to_anchor": (1.02, 0.5)},
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(path, dpi=150, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out: must be a picture that can be written ({error}), got {str(path)!r}") from None
    return pd.DataFrame(counts).rename(index=int).reindex(range(config.clients), fill_value=0)
