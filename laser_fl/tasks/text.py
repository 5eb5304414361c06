"""Language modelling: WikiText-2 and -103 (Merity, Xiong, Bradbury, Socher, 2016), and Python's documentation.

A text is cut into tokens once, which are kept in a cache and mapped into memory from there. Tokens are the
text's bytes, or those of GPT-2's vocabulary.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Int32
from platformdirs import user_cache_path
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.errors import DataError
from laser_fl.models.gpt2 import gpt2
from laser_fl.tasks.base import Task, Text

CACHE_VARIABLE = "LASER_FL_CACHE"
VOCABULARY = {"bytes": 256, "gpt2": 50304}  # GPT-2's 50,257, padded to a multiple of 64
GPT2_TOKENS = 50257
PIECE = 1 << 20  # characters that are cut into tokens at once
LOGITS = 1 << 26  # outputs of a forward pass in an evaluation
PYDOC_TEST_SHARE = 0.1


def load_wikitext_2(data_dir: Path, config: RunConfig) -> Task:
    """Read WikiText-2 from `data_dir`/wikitext-2, else from Hugging Face. Raises DataError."""
    return _task(*_wikitext(data_dir, "wikitext-2"), data_dir, config)


def load_wikitext_103(data_dir: Path, config: RunConfig) -> Task:
    """Read WikiText-103 from `data_dir`/wikitext-103, else from Hugging Face. Raises DataError."""
    return _task(*_wikitext(data_dir, "wikitext-103"), data_dir, config)


def load_pydoc(data_dir: Path, config: RunConfig) -> Task:
    """The standard library's pydoc_data/topics.py; its last tenth is the test."""
    text = (files("pydoc_data") / "topics.py").read_text(encoding="utf-8")
    cut = round(len(text) * (1 - PYDOC_TEST_SHARE))
    return _task(text[:cut], text[cut:], data_dir, config)


def _task(train: str, test: str, data_dir: Path, config: RunConfig) -> Task:
    vocabulary = VOCABULARY[config.tokens]
    return Task(
        train=Text(tokenised(train, data_dir, config), config.context),
        test=Text(tokenised(test, data_dir, config), config.context),
        models={"gpt2": gpt2},
        metric="perplexity",
        fixed={"vocabulary": vocabulary},
        evaluation_batch=max(1, LOGITS // (vocabulary * config.context)),
    )


def _wikitext(data_dir: Path, name: str) -> tuple[str, str]:
    """(training text, validation text): the files of the release, else Hugging Face's copy of the raw text."""
    for ending in ("tokens", "raw"):
        paths = [data_dir / name / f"wiki.{split}.{ending}" for split in ("train", "valid")]
        if all(path.is_file() for path in paths):
            train, test = (path.read_text(encoding="utf-8") for path in paths)
            return train, test
    from datasets import load_dataset

    try:
        splits = [load_dataset("Salesforce/wikitext", f"{name}-raw-v1", split=s) for s in ("train", "validation")]
    except Exception as error:  # whatever the network, the hub and its cache may say
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{name}: not found in {data_dir / name} and not downloaded ({reason}); put wiki.train.tokens and "
            "wiki.valid.tokens there, or name their place with data-dir or $LASER_FL_DATA"
        ) from None
    train, test = ("".join(split["text"]) for split in splits)
    return train, test


def tokenised(text: str, data_dir: Path, config: RunConfig) -> Int32[Tensor, " tokens"]:
    """The text as tokens, mapped into memory; cut once, and kept in the cache under what they were made of.

    Raises:
        DataError: GPT-2's vocabulary is wrong or cannot be had.
    """
    vocabulary = _vocabulary(data_dir) if config.tokens == "gpt2" else None
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for path in vocabulary or ():
        digest.update(path.read_bytes())
    cached = cache_dir() / f"{config.tokens}-{digest.hexdigest()}.int32"
    if not cached.is_file():
        pieces = _bytes(text) if vocabulary is None else _bpe(text, *vocabulary)
        _write(cached, torch.cat([torch.tensor(piece, dtype=torch.int32) for piece in pieces]))
    return torch.from_file(str(cached), shared=False, size=cached.stat().st_size // 4, dtype=torch.int32)


def cache_dir() -> Path:
    """Where tokens are kept: $LASER_FL_CACHE, else a cache folder of the user's."""
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_path("laser-fl")) / "tokens"


def _write(path: Path, tokens: Tensor) -> None:
    """Whole or not at all: another process may be doing the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    tokens.numpy().tofile(part)
    part.replace(path)


def _bytes(text: str) -> Iterator[list[int]]:
    yield list(text.encode())


def _bpe(text: str, encoder: Path, merges: Path) -> Iterator[list[int]]:
    """GPT-2's tokens, cut in pieces that end with a line."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer(str(encoder), str(merges))
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        pieces.append(text[start:end])
        start = end
    for encoded in tokenizer.encode_batch(pieces):
        yield encoded.ids


def _vocabulary(data_dir: Path) -> tuple[Path, Path]:
    """(encoder.json, vocab.bpe) in `data_dir`/gpt2-bpe, else from Hugging Face. Raises DataError."""
    folder = data_dir / "gpt2-bpe"
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe"
    if not (encoder.is_file() and merges.is_file()):
        from huggingface_hub import hf_hub_download

        try:
            encoder, merges = (Path(hf_hub_download("gpt2", name)) for name in ("vocab.json", "merges.txt"))
        except Exception as error:  # whatever the network, the hub and its cache may say
            reason = str(error).splitlines()[0]
            raise DataError(
                f"gpt2 vocabulary: encoder.json and vocab.bpe not found in {folder} and not downloaded ({reason}); "
                "put them there, or take tokens=bytes"
            ) from None
    try:
        entries = json.loads(encoder.read_text(encoding="utf-8"))
        whole = sorted(entries.values()) == list(range(GPT2_TOKENS))
    except (ValueError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise DataError(f"gpt2 vocabulary: must be GPT-2's {GPT2_TOKENS:,} tokens, not so in {encoder}")
    return encoder, merges
