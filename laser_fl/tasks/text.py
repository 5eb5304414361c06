"""Language modelling: WikiText-2 and -103 (Merity, Xiong, Bradbury, Socher, 2016), and Python's documentation.

A text is cut into tokens once, which are kept in a cache and mapped into memory from there. Tokens are the
text's bytes, or those of GPT-2's vocabulary.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

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
GPT2_MERGES = 50000
PIECE = 1 << 18  # characters that are cut into tokens by one thread at once
PIECES = 16  # of these at a time
LOGITS = 1 << 26  # outputs of a forward pass in an evaluation
PYDOC_TEST_SHARE = 0.1


def load_wikitext_2(data_dir: Path, config: RunConfig) -> Task:
    """Read WikiText-2 from `data_dir`/wikitext-2, else from Hugging Face. Raises DataError."""
    return _wikitext("wikitext-2", data_dir, config)


def load_wikitext_103(data_dir: Path, config: RunConfig) -> Task:
    """Read WikiText-103 from `data_dir`/wikitext-103, else from Hugging Face. Raises DataError."""
    return _wikitext("wikitext-103", data_dir, config)


def load_pydoc(data_dir: Path, config: RunConfig) -> Task:
    """The standard library's pydoc_data/topics.py; its last tenth is the test."""
    text = (files("pydoc_data") / "topics.py").read_text(encoding="utf-8")
    cut = round(len(text) * (1 - PYDOC_TEST_SHARE))
    train, test = (tokenised(part, data_dir, config) for part in (text[:cut], text[cut:]))
    return _task("pydoc", train, test, config)


def _task(name: str, train: Tensor, test: Tensor, config: RunConfig) -> Task:
    vocabulary = VOCABULARY[config.tokens]
    if len(test) < 2:
        raise DataError(f"{name}: its validation text must have at least two tokens, got {len(test)}")
    return Task(
        train=Text(train, config.context),
        test=Text(test, config.context),
        models={"gpt2": gpt2},
        metric="perplexity",
        fixed={"vocabulary": vocabulary},
        evaluation_batch=max(1, LOGITS // (vocabulary * config.context)),
    )


def _wikitext(name: str, data_dir: Path, config: RunConfig) -> Task:
    """The files of the release, else Hugging Face's copy of them: words as they were cut, rare ones as <unk>."""
    paths = [data_dir / name / f"wiki.{split}.tokens" for split in ("train", "valid")]
    if all(path.is_file() for path in paths):
        train, test = (_cached(_stamp(p), partial(p.read_text, encoding="utf-8"), data_dir, config) for p in paths)
        return _task(name, train, test, config)
    from datasets import load_dataset

    try:
        splits = [load_dataset("Salesforce/wikitext", f"{name}-v1", split=s) for s in ("train", "validation")]
    except Exception as error:  # whatever the network, the hub and its cache may say
        raise DataError(
            f"{name}: not found in {data_dir / name} and not downloaded ({_reason(error)}); put wiki.train.tokens and "
            "wiki.valid.tokens there, or name their place with data-dir or $LASER_FL_DATA"
        ) from None
    train, test = (_cached(s._fingerprint, partial(_joined, s), data_dir, config) for s in splits)
    return _task(name, train, test, config)


def _joined(split: Any) -> str:
    return "".join(split["text"])


def tokenised(text: str, data_dir: Path, config: RunConfig) -> Int32[Tensor, " tokens"]:
    """A text as tokens, mapped into memory; cut once, and kept in the cache. Raises DataError as `_cached`."""
    return _cached(hashlib.blake2b(text.encode()).hexdigest(), lambda: text, data_dir, config)


def _cached(stamp: str, text: Callable[[], str], data_dir: Path, config: RunConfig) -> Int32[Tensor, " tokens"]:
    """The tokens of the text that `stamp` stands for; it is read only where they are not in the cache.

    Raises:
        DataError: GPT-2's vocabulary is wrong or cannot be had.
    """
    vocabulary = _vocabulary(data_dir) if config.tokens == "gpt2" else ()
    digest = hashlib.blake2b(stamp.encode(), digest_size=16)
    for path in vocabulary:
        digest.update(path.read_bytes())
    cached = cache_dir() / f"{config.tokens}-{digest.hexdigest()}.int32"
    if not cached.is_file():
        _write(cached, _bpe(text(), *vocabulary) if vocabulary else _bytes(text()))
    return torch.from_file(str(cached), shared=False, size=cached.stat().st_size // 4, dtype=torch.int32)


def _stamp(path: Path) -> str:
    """What tells a file from another, or from what it was before, without reading it."""
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def cache_dir() -> Path:
    """Where tokens are kept: $LASER_FL_CACHE, else a cache folder of the user's."""
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_path("laser-fl")) / "tokens"


def _write(path: Path, pieces: Iterator[Tensor]) -> None:
    """Whole or not at all: another process may be doing the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        for piece in pieces:
            piece.numpy().tofile(file)
    part.replace(path)


def _bytes(text: str) -> Iterator[Tensor]:
    for start in range(0, len(text), PIECE):
        piece = bytearray(text[start : start + PIECE].encode())
        yield torch.frombuffer(piece, dtype=torch.uint8).to(torch.int32)


def _bpe(text: str, encoder: Path, merges: Path) -> Iterator[Tensor]:
    """GPT-2's tokens, cut in pieces that end with a line."""
    tokenizer, pieces = _tokenizer(encoder, merges), _pieces(text)
    while some := list(islice(pieces, PIECES)):
        for encoded in tokenizer.encode_batch(some):
            yield torch.tensor(encoded.ids, dtype=torch.int32)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        yield text[start:end]
        start = end


def _vocabulary(data_dir: Path) -> tuple[Path, Path]:
    """(encoder.json, vocab.bpe) in `data_dir`/gpt2-bpe, else from Hugging Face. Raises DataError."""
    folder = data_dir / "gpt2-bpe"
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe"
    if not (encoder.is_file() and merges.is_file()):
        from huggingface_hub import hf_hub_download

        try:
            encoder, merges = (Path(hf_hub_download("gpt2", name)) for name in ("vocab.json", "merges.txt"))
        except Exception as error:  # whatever the network, the hub and its cache may say
            raise DataError(
                f"gpt2 vocabulary: encoder.json and vocab.bpe not found in {folder} and not downloaded "
                f"({_reason(error)}); put them there, or take tokens=bytes"
            ) from None
    return encoder, merges


def _tokenizer(encoder: Path, merges: Path) -> Any:
    """GPT-2's tokenizer. Raises DataError where the files are not GPT-2's."""
    from tokenizers import ByteLevelBPETokenizer

    rule = f"must be GPT-2's {GPT2_TOKENS:,} tokens and {GPT2_MERGES:,} merges"
    wrong = DataError(f"gpt2 vocabulary: {rule}, not so in {encoder.parent}")
    try:
        entries = json.loads(encoder.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").splitlines()
        if (
            sorted(entries.values()) != list(range(GPT2_TOKENS))
            or sum(" " in line for line in lines[1:]) != GPT2_MERGES
        ):
            raise wrong
        return ByteLevelBPETokenizer(str(encoder), str(merges))
    except DataError:
        raise
    except Exception:  # the library raises no narrower one
        raise wrong from None


def _reason(error: Exception) -> str:
    """The first line of what an error says, else its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]
