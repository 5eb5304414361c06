"""Texts as tokens: cut once, kept in a cache, and mapped into memory from there.

Tokens are the text's bytes, or those of GPT-2's vocabulary.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from laser_fl.data.sources import Source, cache_folder, found, missing
from laser_fl.errors import DataError, StorageError, brief, reason_of
from laser_fl.registry import Option
from laser_fl.shapes import Int32

Tokens = Annotated[Literal["bytes", "gpt2"], Option("unit of a text: its bytes, or GPT-2's 50,257 tokens")]

CACHE_VARIABLE = "LASER_FL_CACHE"
VOCABULARY = {"bytes": 256, "gpt2": 50304}  # GPT-2's 50,257, padded to a multiple of 64
GPT2_TOKENS = 50257
GPT2_MERGES = 50000
PIECE = 1 << 18  # characters that are cut into tokens by one thread at once
PIECES = 16  # pieces at a time
SUFFIX, TOKEN_BYTES = ".int32", 4  # a file of tokens; its name ends with its length in bytes


def tokenised(text: str, data_dir: Path, tokens: Tokens) -> Int32[Tensor, " tokens"]:
    """Cut a text into tokens, mapped into memory; it is cut once, and its tokens stay in the cache.

    Args:
        text: the whole text.
        data_dir: the folder of GPT-2's vocabulary, where the tokens are GPT-2's.
        tokens: their kind.

    Raises:
        DataError: the text or GPT-2's vocabulary is wrong or cannot be had.
        StorageError: the cache cannot be written.
    """
    return cached(hashlib.blake2b(text.encode()).hexdigest(), lambda: text, data_dir, tokens)


def cached(stamp: str, text: Callable[[], str], data_dir: Path, tokens: Tokens) -> Int32[Tensor, " tokens"]:
    """Return the tokens of the text that `stamp` stands for; it is read only where they are not in the cache, whole.

    Raises:
        DataError: the text or GPT-2's vocabulary is wrong or cannot be had.
        StorageError: the cache cannot be written.
    """
    vocabulary = _vocabulary(data_dir) if tokens == "gpt2" else ()
    digest = hashlib.blake2b(stamp.encode(), digest_size=16)
    for file in vocabulary:
        digest.update(file.read())
    stem = f"{tokens}-{digest.hexdigest()}"
    for path in cache_dir().glob(f"{stem}-*{SUFFIX}"):
        if (mapped := _whole(path, VOCABULARY[tokens])) is not None:
            return mapped
    return _mapped(_written(stem, _bpe(text(), *vocabulary) if vocabulary else _bytes(text())))


def cache_dir() -> Path:
    """Return the folder of the tokens: $LASER_FL_CACHE, else a cache folder of the user's."""
    return Path(os.environ.get(CACHE_VARIABLE) or cache_folder()) / "tokens"


def _mapped(path: Path) -> Int32[Tensor, " tokens"]:
    return torch.from_file(str(path), shared=False, size=path.stat().st_size // TOKEN_BYTES, dtype=torch.int32)


def _whole(path: Path, vocabulary: int) -> Int32[Tensor, " tokens"] | None:
    """Map the tokens in a file of the cache; None where its length is not the one in its name, or others are in it."""
    if not path.stem.endswith(f"-{path.stat().st_size}"):
        return None
    tokens = _mapped(path)
    if len(tokens) > 0:
        least, most = tokens.aminmax()
        return tokens if least >= 0 and most < vocabulary else None
    return tokens


def _written(stem: str, pieces: Iterator[Tensor]) -> Path:
    """Write a file of the cache, whole or not at all: another process may be doing the same. Raises StorageError."""
    part = cache_dir() / f"{stem}.{os.getpid()}.part"
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            for piece in pieces:
                file.write(piece.numpy().data)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        return part.replace(part.with_name(f"{stem}-{size}{SUFFIX}"))
    except OSError as error:
        mend = f"name another cache with ${CACHE_VARIABLE}"
        raise StorageError(f"{part}: cannot be written ({reason_of(error)}); {mend}") from None
    finally:
        with suppress(OSError):
            part.unlink()


def _bytes(text: str) -> Iterator[Tensor]:
    for start in range(0, len(text), PIECE):
        piece = bytearray(text[start : start + PIECE].encode())
        yield torch.frombuffer(piece, dtype=torch.uint8).to(torch.int32)


def _bpe(text: str, encoder: Source, merges: Source) -> Iterator[Tensor]:
    """Yield GPT-2's tokens, of pieces that end with a line."""
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


def _vocabulary(data_dir: Path) -> tuple[Source, Source]:
    """Find (encoder.json, vocab.bpe) in `data_dir`/gpt2-bpe, else at Hugging Face. Raises DataError."""
    folder = data_dir / "gpt2-bpe"
    if (here := found([folder], [("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")])) is None:
        from huggingface_hub import hf_hub_download

        try:
            here = [Source(Path(hf_hub_download("gpt2", name))) for name in ("vocab.json", "merges.txt")]
        except Exception as error:  # any error of the network, the hub or its cache
            reason = brief(reason_of(error))
            raise missing("gpt2 vocabulary", [folder], "encoder.json and vocab.bpe", reason) from None
    encoder, merges = here
    return encoder, merges


def _tokenizer(encoder: Source, merges: Source) -> Any:
    """Build GPT-2's tokenizer. Raises DataError where the files are not GPT-2's."""
    from tokenizers import ByteLevelBPETokenizer

    try:
        entries = json.loads(encoder.text())
        numbers = sorted(entries.values())
    except (ValueError, AttributeError, TypeError):
        numbers = []
    if numbers != list(range(GPT2_TOKENS)):
        raise DataError(f"{encoder}: must be GPT-2's {GPT2_TOKENS:,} tokens in JSON, got others")
    pairs = [tuple(line.split(" ")) for line in merges.text().split("\n")[1:] if line]
    if len(pairs) != GPT2_MERGES:
        raise DataError(f"{merges}: must be GPT-2's {GPT2_MERGES:,} merges, one a line, got {len(pairs):,}")
    try:
        return ByteLevelBPETokenizer(entries, pairs)
    except Exception as error:  # the library raises no narrower one
        raise DataError(f"{merges}: must be merges of tokens in {encoder} ({reason_of(error)})") from None
