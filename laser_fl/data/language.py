"""Language modelling: the task to predict each token of a text, and that on a text of one's own (task=text)."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.data.metrics import PERPLEXITY
from laser_fl.data.sources import Source, default_folder
from laser_fl.data.splits import TRAIN, name_of_test
from laser_fl.data.task import Task
from laser_fl.data.text import Text
from laser_fl.data.tokens import VOCABULARY, Tokens, cached, tokenised
from laser_fl.errors import ConfigError, DataError
from laser_fl.models.gpt2 import gpt2

LOGITS = 1 << 26  # outputs of a forward pass in an evaluation
TEST_SHARE = 0.1  # of a text, its end


def language_task(texts: Mapping[str, Tensor], config: RunConfig, tokens: Tokens) -> Task:
    """Make the task on two texts, by name, to train and to test on.

    Args:
        texts: as tokens.
        config: of the run.
        tokens: their kind.

    Raises:
        DataError: one is shorter than a context.
    """
    vocabulary = VOCABULARY[tokens]
    for name, text in texts.items():
        if len(text) <= config.context:
            raise DataError(f"{name}: must have more tokens than a context of {config.context}, got {len(text)}")
    train, test = texts.values()
    return Task(
        train=Text(train, config.context),
        test=Text(test, config.context),
        models={"gpt2": gpt2},
        metrics=PERPLEXITY,
        fixed={"vocabulary": vocabulary},
        evaluation_batch=max(1, LOGITS // (vocabulary * config.context)),
    )


def load_text(data_dir: Path, config: RunConfig, tokens: Tokens = "bytes") -> Task:
    """Read the file `data_dir`, or all files of that folder; the last tenth of the text is the test.

    A folder in which files or folders are called train and test (or valid, validation) is split by these.

    Args:
        data_dir: of UTF-8 texts, which may be compressed by gzip.
        config: of the run.
        tokens: their kind.

    Raises:
        ConfigError: data-dir is not set.
        DataError: there is no text, too little of it, or something else.
    """
    if not config.data_dir:
        raise ConfigError("data-dir: must name a UTF-8 file, or a folder of them, for task text, got ''")
    train, test = _files(data_dir)
    vocabularies = default_folder()
    if test:
        parts = {"train": train, "test": test}
        texts = {
            part: cached("\n".join(file.stamp for file in files), partial(_text, files), vocabularies, tokens)
            for part, files in parts.items()
        }
    else:
        text = _text(train)
        cut = round(len(text) * (1 - TEST_SHARE))
        halves = {"train": text[:cut], "test": text[cut:]}
        texts = {part: tokenised(some, vocabularies, tokens) for part, some in halves.items()}
    return language_task({f"{data_dir}, {part}": text for part, text in texts.items()}, config, tokens)


def _files(place: Path) -> tuple[list[Source], list[Source]]:
    """Find the files to train and to test on; none of the latter where nothing is called so. Raises DataError."""
    if place.is_file():
        return [Source(place)], []
    found = [path for path in sorted(place.rglob("*")) if path.is_file() and not _hidden(path, place)]
    if not found:
        raise DataError(f"text: must be a UTF-8 file or a folder of them, named by data-dir, got none in {place}")
    roles = [path.relative_to(place).parts[0].split(".")[0] for path in found]
    if not (test := name_of_test(roles)):
        return [Source(path) for path in found], []
    train, tested = (
        [Source(p) for p, role in zip(found, roles, strict=True) if role == name] for name in (TRAIN, test)
    )
    return train, tested


def _hidden(path: Path, place: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(place).parts)


def _text(files: Sequence[Source]) -> str:
    return "\n".join(file.text() for file in files)
