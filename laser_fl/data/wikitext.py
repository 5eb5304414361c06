"""Texts by name: WikiText-2 and -103 (Merity, Xiong, Bradbury, Socher, 2016), and Python's documentation.

WikiText comes in two versions: with every word, raw, which the paper's experiments train on, or with rare words as
<unk>. Perplexities on the two cannot be compared.
"""

from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from laser_fl.config import RunConfig
from laser_fl.data.language import language_task
from laser_fl.data.sources import Source, found, missing
from laser_fl.data.task import Task
from laser_fl.data.tokens import Tokens, cached, tokenised
from laser_fl.errors import brief, packages_for, reason_of

PYDOC_TEST_SHARE = 0.1


def load_wikitext_2(data_dir: Path, config: RunConfig, tokens: Tokens = "bytes") -> Task:
    """Read WikiText-2 with rare words as <unk>. Raises DataError where it cannot be had or is damaged."""
    return _wikitext("wikitext-2", "tokens", data_dir, config, tokens)


def load_wikitext_103(data_dir: Path, config: RunConfig, tokens: Tokens = "bytes") -> Task:
    """Read WikiText-103 with rare words as <unk>. Raises DataError where it cannot be had or is damaged."""
    return _wikitext("wikitext-103", "tokens", data_dir, config, tokens)


def load_wikitext_2_raw(data_dir: Path, config: RunConfig, tokens: Tokens = "bytes") -> Task:
    """Read WikiText-2 with every word. Raises DataError where it cannot be had or is damaged."""
    return _wikitext("wikitext-2-raw", "raw", data_dir, config, tokens)


def load_wikitext_103_raw(data_dir: Path, config: RunConfig, tokens: Tokens = "bytes") -> Task:
    """Read WikiText-103 with every word. Raises DataError where it cannot be had or is damaged."""
    return _wikitext("wikitext-103-raw", "raw", data_dir, config, tokens)


def load_pydoc(data_dir: Path, config: RunConfig, tokens: Tokens = "bytes") -> Task:
    """Read the standard library's pydoc_data/topics.py; its last tenth is the test."""
    text = (files("pydoc_data") / "topics.py").read_text(encoding="utf-8")
    cut = round(len(text) * (1 - PYDOC_TEST_SHARE))
    parts = {"pydoc, train": text[:cut], "pydoc, test": text[cut:]}
    return language_task({name: tokenised(part, data_dir, tokens) for name, part in parts.items()}, config, tokens)


def _wikitext(name: str, ending: str, data_dir: Path, config: RunConfig, tokens: Tokens) -> Task:
    """Read the files of the release in `data_dir`/name, its archive in `data_dir`, else Hugging Face's copy of them."""
    folder, archive = data_dir / name, data_dir / f"{name}-v1.zip"
    names = [f"wiki.{split}.{ending}" for split in ("train", "valid")]
    here = found([folder], [(file, f"{file}.gz") for file in names])
    if here is None and archive.is_file():
        here = [Source(archive, f"{name}/{file}") for file in names]
    if here is not None:
        return language_task(
            {str(file): cached(file.stamp, file.text, data_dir, tokens) for file in here}, config, tokens
        )
    try:
        with packages_for("download", "laser-fl[hub]"):
            from datasets import load_dataset
        splits = [load_dataset("Salesforce/wikitext", f"{name}-v1", split=s) for s in ("train", "validation")]
    except Exception as error:  # any error of the network, the hub or its cache; no such package
        raise missing(name, [folder, archive], " and ".join(names), brief(reason_of(error))) from None
    read = {f"{name}, {s.split}": cached(s._fingerprint, partial(_joined, s), data_dir, tokens) for s in splits}
    return language_task(read, config, tokens)


def _joined(split: Any) -> str:
    return "".join(split["text"])
