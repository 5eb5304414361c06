"""Data sets' files are read as people have them, checked once when read, and refused in a line that names the file."""

import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from laser_fl.config import parse
from laser_fl.data import tokens, wikitext
from laser_fl.data.mnist import KNOWN
from laser_fl.errors import DataError, StorageError
from laser_fl.registry import TASKS
from tests.simulations.test_cli import call

PARTS = {"train-images-idx3": 20, "train-labels-idx1": 20, "t10k-images-idx3": 10, "t10k-labels-idx1": 10}


def idx(shape, values=None):
    """A file of this shape with these values, by default 0, 1, ... 9, 0, ..."""
    head = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    count = torch.Size(shape).numel()
    return head + bytes(range(10)) * (count // 10) + bytes(range(count % 10)) if values is None else head + values


def contents():
    """The four files of a small set, by their distributed names without .gz."""
    return {f"{part}-ubyte": idx((count, 28, 28) if "images" in part else (count,)) for part, count in PARTS.items()}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def load(task, folder, **options):
    return TASKS.build(task, parse(options))(folder, parse(options))


IMAGE_FAULTS = {
    "an HTML page": (
        "train-images-idx3-ubyte",
        lambda data: b"\n<!DOCTYPE html><html>not found",
        "must be data, got a web page",
    ),
    "a truncated file": (
        "t10k-images-idx3-ubyte",
        lambda data: data[:-5],
        "must hold 10 x 28 x 28 bytes, as its header states, got 7835",
    ),
    "more than it says": ("train-labels-idx1-ubyte", lambda data: data + b"x", "must hold 20 bytes, .*got 21"),
    "a header alone": ("train-images-idx3-ubyte", lambda data: data[:9], "must be an idx file .* got 00000803"),
    "an empty file": ("train-images-idx3-ubyte", lambda data: b"", "must be an idx file .* got nothing"),
    "labels as images": ("train-images-idx3-ubyte", lambda data: idx((20,)), "in 3 dimensions, .* got 00000801"),
    "smaller images": (
        "train-images-idx3-ubyte",
        lambda data: idx((20, 14, 14)),
        "must hold images of 28 x 28 pixels, got 20 x 14 x 14",
    ),
    "no images": ("t10k-images-idx3-ubyte", lambda data: idx((0, 28, 28)), "must hold images .* got 0 x 28 x 28"),
    "too few labels": (
        "train-labels-idx1-ubyte",
        lambda data: idx((19,)),
        "must hold a label for each of 20 images, got 19",
    ),
    "a label of 77": (
        "t10k-labels-idx1-ubyte",
        lambda data: idx((10,), bytes([1, 77] * 5)),
        "must hold labels below 10, got 77",
    ),
    "a cut gzip file": (
        "train-images-idx3-ubyte",
        lambda data: gzip.compress(data)[:-9],
        "must be a whole, readable file .Compressed file ended",
    ),
    "a changed gzip file": (
        "train-images-idx3-ubyte",
        lambda data: gzip.compress(data)[:-8] + b"12345678",
        "must be a whole, readable file .CRC check failed",
    ),
}


class TestImages:
    @pytest.fixture(autouse=True)
    def _no_network(self, monkeypatch):
        def refuse(*args, **kwargs):
            raise RuntimeError("no network:\nnone at all")

        monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)

    @pytest.mark.parametrize(
        ("task", "folder"),
        [("mnist", "MNIST/raw"), ("mnist", "mnist"), ("mnist", "."), ("fashion-mnist", "fashion-mnist")],
    )
    @pytest.mark.parametrize("form", ["plain", "gzip", "dotted", "gzip without its name", "unpacked by a browser"])
    def test_are_read_from_every_usual_place_packed_or_not(self, tmp_path, task, folder, form):
        for name, data in contents().items():
            packed = gzip.compress(data, 1)
            files = {
                "plain": {name: data},
                "gzip": {f"{name}.gz": packed},
                "dotted": {name.replace("-idx", ".idx"): data},
                "gzip without its name": {name: packed},
                "unpacked by a browser": {f"{name}.gz": data},
            }
            write(tmp_path / folder, files[form])
        read = load(task, tmp_path)
        assert read.train.inputs.shape == (20, 1, 28, 28)
        assert read.test.targets.tolist() == list(range(10))
        mean, std = (0.1307, 0.3081) if task == "mnist" else (0.2860, 0.3530)
        assert read.train.inputs[3, 0, 0, :3].tolist() == pytest.approx(
            [(pixel / 255 - mean) / std for pixel in (2, 3, 4)]  # 3 * 784 values before it
        )

    @pytest.mark.parametrize("fault", IMAGE_FAULTS)
    def test_that_are_damaged_are_refused_by_name(self, tmp_path, fault):
        name, spoil, rule = IMAGE_FAULTS[fault]
        files = contents()
        write(tmp_path / "MNIST" / "raw", files | {name: spoil(files[name])})
        with pytest.raises(DataError) as refusal:
            load("mnist", tmp_path)
        line = str(refusal.value)
        assert line.startswith(f"{tmp_path / 'MNIST' / 'raw' / name}: ")
        assert re.search(rule, line)
        assert "\n" not in line

    def test_of_which_one_is_missing_are_refused(self, tmp_path):
        files = contents()
        del files["t10k-labels-idx1-ubyte"]
        write(tmp_path, files)
        with pytest.raises(
            DataError, match=r"must have t10k-labels-idx1-ubyte or .*\.gz or .* beside train-images-idx3-ubyte, not f"
        ):
            load("mnist", tmp_path)

    def test_that_are_nowhere_are_refused_with_all_places_and_the_whole_reason(self, tmp_path):
        with pytest.raises(DataError) as refusal:
            load("mnist", tmp_path)
        line = str(refusal.value)
        assert all(str(place) in line for place in (tmp_path / "MNIST" / "raw", tmp_path / "mnist"))
        assert "none at all" in line
        assert "\n" not in line

    def test_of_the_other_set_are_told_by_their_labels(self, tmp_path, monkeypatch):
        """The files of MNIST and Fashion-MNIST have the same names."""
        digest = hashlib.blake2b(contents()["t10k-labels-idx1-ubyte"], digest_size=8).hexdigest()
        monkeypatch.setattr("laser_fl.data.mnist.KNOWN", {digest: "FashionMNIST"})
        write(tmp_path, contents())
        assert len(load("fashion-mnist", tmp_path).train) == 20
        with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: must be MNIST's, got FashionMNIST's"):
            load("mnist", tmp_path)

    def test_that_are_refused_cost_a_line_and_exit_status_2(self, tmp_path):
        files = contents()
        write(tmp_path, files | {"train-images-idx3-ubyte": b"<html>"})
        result = call("run", "--preset", "mnist", "-c", f"data-dir={tmp_path}", "--out", tmp_path / "run")
        line = f"{tmp_path / 'train-images-idx3-ubyte'}: must be data, got a web page\n"
        assert (result.exit_code, result.stderr) == (2, line)


def test_the_real_files_are_known_by_their_labels(data_dir):
    for name in ("MNIST", "FashionMNIST"):
        labels = (Path(data_dir) / name / "raw" / "t10k-labels-idx1-ubyte").read_bytes()
        assert KNOWN[hashlib.blake2b(labels, digest_size=8).hexdigest()] == name


class TestCifar:
    """Files as large as real ones take half a second; of these the checksums are those of the release."""

    @pytest.fixture(autouse=True)
    def _release(self, monkeypatch):
        """A release of one small file of each kind, with their checksums."""
        from torchvision.datasets import CIFAR10

        def file(content):
            data = pickle.dumps(content)
            return data, hashlib.md5(data).hexdigest()

        self.batches = {
            name: file({"data": torch.zeros(count, 3072, dtype=torch.uint8).numpy(), "labels": list(range(count))})
            for name, count in (("data_batch_1", 6), ("test_batch", 4))
        }
        self.batches["batches.meta"] = file({"label_names": [str(i) for i in range(10)]})
        listed = [[name, checksum] for name, (_, checksum) in self.batches.items()]
        monkeypatch.setattr(CIFAR10, "train_list", listed[:1])
        monkeypatch.setattr(CIFAR10, "test_list", listed[1:2])
        monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": listed[2][1]})
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(self.archive()).hexdigest())
        monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", self.refuse)

    @staticmethod
    def refuse(*args, **kwargs):
        raise OSError("no network")

    def archive(self):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, (data, _) in self.batches.items():
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return gzip.compress(packed.getvalue(), mtime=0)

    def unpacked(self, folder):
        write(folder / "cifar-10-batches-py", {name: data for name, (data, _) in self.batches.items()})
        return folder / "cifar-10-batches-py"

    def test_is_read_from_its_folder(self, tmp_path):
        self.unpacked(tmp_path)
        assert load("cifar10", tmp_path).train.inputs.shape == (6, 3, 32, 32)

    def test_is_read_from_its_archive_as_distributed(self, tmp_path):
        write(tmp_path, {"cifar-10-python.tar.gz": self.archive()})
        assert load("cifar10", tmp_path).test.targets.tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
    def test_nothing_is_unpickled_that_is_not_of_the_release(self, tmp_path, name):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "sprung"),)

        folder = self.unpacked(tmp_path)
        (folder / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(DataError, match=rf"{name}: must be CIFAR10's as released, .* got another in [0-9]+ bytes"):
            load("cifar10", tmp_path)
        assert not (tmp_path / "sprung").exists()

    def test_a_truncated_or_missing_batch_is_named(self, tmp_path):
        batch = self.unpacked(tmp_path) / "test_batch"
        batch.write_bytes(batch.read_bytes()[:-20])
        with pytest.raises(DataError, match="test_batch: must be CIFAR10's as released"):
            load("cifar10", tmp_path)
        batch.unlink()
        with pytest.raises(DataError, match=r"test_batch: must be CIFAR10's as released, of MD5 sum .*, got none"):
            load("cifar10", tmp_path)

    def test_a_truncated_archive_is_named(self, tmp_path):
        write(tmp_path, {"cifar-10-python.tar.gz": self.archive()[:-20]})
        with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: must be CIFAR10's as released"):
            load("cifar10", tmp_path)


TEXT_FAULTS = {
    "not UTF-8": ("wiki.valid.raw", b"Caf\xe9 " * 9, "must be UTF-8, got 0xe9 as byte 3"),
    "a web page": ("wiki.train.raw", b"<!doctype HTML>" + b" words" * 9, "must be data, got a web page"),
    "too short": ("wiki.train.raw", b"eight by", "must have more tokens than a context of 8, got 8"),
    "empty": ("wiki.valid.raw", b"", "must have more tokens than a context of 8, got 0"),
    "cut": ("wiki.train.raw", gzip.compress(bytes(range(99)))[:-9], "must be a whole, readable file"),
}


class TestTexts:
    LINES = " \n = Title = \n \n Some unknown words , and more . \n" * 3

    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LASER_FL_CACHE", str(tmp_path / "cache"))

    @pytest.mark.parametrize(
        ("task", "ending"),
        [("wikitext-2", "tokens"), ("wikitext-2-raw", "raw"), ("wikitext-103", "tokens"), ("wikitext-103-raw", "raw")],
    )
    @pytest.mark.parametrize("form", ["plain", "gzip", "zip"])
    def test_are_read_in_each_version_packed_or_not(self, tmp_path, task, ending, form):
        files = {f"wiki.{split}.{ending}": f"{split}{self.LINES}".encode() for split in ("train", "valid")}
        if form == "zip":
            with zipfile.ZipFile(tmp_path / f"{task}-v1.zip", "w") as archive:
                for name, data in files.items():
                    archive.writestr(f"{task}/{name}", data)
        else:
            packed = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
            write(tmp_path / task, files if form == "plain" else packed)
        read = load(task, tmp_path, context=8)
        assert bytes(read.train.tokens.tolist()).decode() == f"train{self.LINES}"
        assert bytes(read.test.tokens.tolist()).decode() == f"valid{self.LINES}"

    def test_of_one_version_do_not_stand_for_the_other(self, tmp_path, monkeypatch):
        """Hugging Face is asked for the version that was asked for."""
        asked = []

        def load_dataset(path, name, split):
            asked.append((path, name, split))
            lines = {"text": [f"{name}\n", "of the hub\n"]}
            return SimpleNamespace(_fingerprint=f"{name}{split}", split=split, **lines)

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        monkeypatch.setattr(wikitext, "_joined", lambda split: "".join(split.text))
        write(tmp_path / "wikitext-103", {f"wiki.{split}.tokens": self.LINES.encode() for split in ("train", "valid")})
        read = load("wikitext-103-raw", tmp_path, context=8)
        assert bytes(read.train.tokens.tolist()) == b"wikitext-103-raw-v1\nof the hub\n"
        assert asked == [("Salesforce/wikitext", "wikitext-103-raw-v1", s) for s in ("train", "validation")]

    @pytest.mark.parametrize("fault", TEXT_FAULTS)
    def test_that_are_damaged_are_refused_by_name(self, tmp_path, fault):
        name, data, rule = TEXT_FAULTS[fault]
        files = {f"wiki.{split}.raw": self.LINES.encode() for split in ("train", "valid")}
        write(tmp_path / "wikitext-2-raw", files | {name: data})
        with pytest.raises(DataError) as refusal:
            load("wikitext-2-raw", tmp_path, context=8)
        assert str(refusal.value).startswith(f"{tmp_path / 'wikitext-2-raw' / name}: {rule}")

    def test_in_a_damaged_archive_or_without_one_of_both_are_refused(self, tmp_path):
        write(tmp_path, {"wikitext-2-raw-v1.zip": b"PK\3\4 cut off"})
        with pytest.raises(DataError, match=r"wikitext-2-raw-v1\.zip.wikitext-2-raw.wiki\.train\.raw: must be a whole"):
            load("wikitext-2-raw", tmp_path)
        write(tmp_path / "wikitext-2-raw", {"wiki.train.raw": self.LINES.encode()})
        with pytest.raises(DataError, match=r"must have wiki\.valid\.raw or .* beside wiki\.train\.raw, not found"):
            load("wikitext-2-raw", tmp_path)

    def test_that_were_replaced_with_their_size_and_times_kept_are_cut_anew(self, tmp_path):
        write(tmp_path / "wikitext-2", {f"wiki.{split}.tokens": self.LINES.encode() for split in ("train", "valid")})
        file = tmp_path / "wikitext-2" / "wiki.train.tokens"
        before = file.stat()
        load("wikitext-2", tmp_path, context=8)
        file.write_bytes(self.LINES.upper().encode())
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        read = load("wikitext-2", tmp_path, context=8)
        assert bytes(read.train.tokens.tolist()).decode() == self.LINES.upper()

    @pytest.mark.parametrize("spoil", ["truncate", "append", "empty", "other values"])
    def test_whose_kept_tokens_are_damaged_are_cut_anew(self, tmp_path, spoil):
        first = tokens.tokenised(self.LINES, tmp_path, "bytes").tolist()
        (kept,) = (tmp_path / "cache" / "tokens").iterdir()
        data = kept.read_bytes()
        kept.write_bytes(
            {"truncate": data[:-4], "append": data + b"four", "empty": b"", "other values": data[:-4] + b"\0\0\0\xff"}[
                spoil
            ]
        )
        assert tokens.tokenised(self.LINES, tmp_path, "bytes").tolist() == first
        assert kept.read_bytes() == data

    def test_whose_tokens_cannot_be_kept_say_so_in_a_line(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("LASER_FL_CACHE", str(tmp_path / "file"))
        with pytest.raises(StorageError, match=r"cannot be written \(Not a directory\); name another cache"):
            tokens.tokenised(self.LINES, tmp_path, "bytes")

    def test_are_the_papers_in_the_full_preset_alone(self):
        from simulations import presets

        assert presets.load("gpt2-wikitext103")["task"] == "wikitext-103-raw"
        assert presets.load("gpt2-small")["task"] == "wikitext-2"
