"""Data sets have the known sizes, and one that is missing says where it should be."""

import json
import pickle
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from laser_fl.config import parse
from laser_fl.data import tokens
from laser_fl.data.cifar import augment
from laser_fl.data.examples import Examples, stratified
from laser_fl.errors import ConfigError, DataError
from laser_fl.federated.setup import data_dir as resolve
from laser_fl.federated.setup import prepare
from laser_fl.registry import TASKS
from laser_fl.rng import RandomStreams


def test_the_embedded_digits_are_4000_and_1000_balanced():
    setup = prepare(parse({}))
    assert setup.task.train.inputs.shape == (4000, 1, 28, 28)
    assert setup.task.test.inputs.shape == (1000, 1, 28, 28)
    assert setup.task.train.targets.bincount().tolist() == [400] * 10
    assert setup.task.test.targets.bincount().tolist() == [100] * 10
    assert setup.task.train.inputs.mean().item() == pytest.approx(0, abs=0.02)
    assert setup.task.train.inputs.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("task", "first"), [("mnist", 5923), ("fashion-mnist", 6000)])
def test_the_full_sets_have_their_known_sizes(data_dir, task, first):
    setup = prepare(parse({"task": task, "data-dir": data_dir, "model": "linear"}))
    assert setup.task.train.inputs.shape == (60000, 1, 28, 28)
    assert setup.task.test.inputs.shape == (10000, 1, 28, 28)
    assert setup.task.train.targets.bincount()[0] == first
    assert setup.task.train.inputs.mean().item() == pytest.approx(0, abs=2e-3)
    assert setup.task.train.inputs.std().item() == pytest.approx(1, abs=2e-3)


def test_the_linear_model_has_the_papers_7850_values():
    assert sum(w.numel() for w in prepare(parse({"model": "linear"})).network.weights.values()) == 7850


@pytest.mark.parametrize("task", ["mnist", "fashion-mnist"])
def test_a_missing_data_set_says_where_it_was_looked_for_and_how_to_get_it(task, tmp_path, monkeypatch):
    import torchvision.datasets.mnist as module

    def no_network(*args, **kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr(module, "download_and_extract_archive", no_network)
    with pytest.raises(DataError) as missing:
        TASKS.build(task, parse({}))(tmp_path, parse({}))
    line = str(missing.value)
    assert str(tmp_path) in line
    assert "data-dir" in line
    assert "\n" not in line


def test_the_data_folder_is_the_keys_else_the_variables(monkeypatch):
    monkeypatch.setenv("LASER_FL_DATA", "/from/variable")
    assert str(resolve(parse({"data-dir": "/from/key"}))) == "/from/key"
    assert str(resolve(parse({}))) == "/from/variable"
    monkeypatch.delenv("LASER_FL_DATA")
    assert resolve(parse({})).name == "laser-fl"


@pytest.mark.parametrize("count", [10, 100, 250])
def test_some_of_the_test_digits_are_of_all_labels(count):
    """They lie one label after the other."""
    targets = [t for _, t in prepare(parse({})).task.test.batches(count, 32)]
    assert max(map(len, targets)) <= 32
    assert torch.cat(targets).bincount().tolist() == [count // 10] * 10


@pytest.mark.parametrize("batch", [7, 1000])
def test_some_examples_are_in_proportion_and_always_the_same(batch):
    labels = torch.tensor([3] * 900 + [7] * 100)
    examples = Examples(torch.arange(1000), labels)
    chosen = torch.cat([inputs for inputs, _ in examples.batches(50, batch)])
    assert torch.equal(chosen, stratified(labels, 50))
    assert (labels[chosen] == 7).sum() == 5
    assert chosen.unique().tolist() == chosen.tolist()
    assert chosen[:45].diff().max() < 150  # anywhere among the first 900
    assert torch.equal(stratified(labels, 1000), torch.arange(1000))


def test_more_test_examples_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="evaluate-examples: must be at most the 1000 test examples, got 1001"):
        prepare(parse({"evaluate-examples": 1001}))


class TestCifar:
    def test_cifar10_has_its_known_size_and_is_normalised(self, data_dir):
        task = TASKS.build("cifar10", parse({}))(Path(data_dir), parse({}))
        assert task.train.inputs.shape == (50000, 3, 32, 32)
        assert task.test.inputs.shape == (10000, 3, 32, 32)
        assert task.train.targets.bincount().tolist() == [5000] * 10
        images = task.prepare(task.train.inputs[:10000])
        assert images.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=0.02)
        assert images.std(dim=(0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=0.02)

    def test_files_of_cifar100s_form_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        cifar100_like(tmp_path)
        task = TASKS.build("cifar100", parse({}))(tmp_path, parse({}))
        assert task.train.inputs.shape == (200, 3, 32, 32)
        assert task.network(parse({"task": "cifar100", "model": "resnet18"})).module.fc.out_features == 100

    @pytest.mark.parametrize("task", ["cifar10", "cifar100"])
    def test_a_missing_or_broken_data_set_is_named_in_one_line(self, task, tmp_path, monkeypatch):
        import torchvision.datasets.cifar as module

        def no_network(*args, **kwargs):
            raise RuntimeError("no network")

        monkeypatch.setattr(module, "download_and_extract_archive", no_network)
        with pytest.raises(DataError, match=r"not found in .* and not downloaded \(no network\)"):
            TASKS.build(task, parse({}))(tmp_path, parse({}))
        (tmp_path / "cifar-10-batches-py").mkdir()
        with pytest.raises(DataError) as broken:
            TASKS.build("cifar10", parse({}))(tmp_path, parse({}))
        assert "\n" not in str(broken.value)

    def test_augmented_images_are_crops_of_the_padded_ones_some_flipped(self):
        """Each against all 162 possible ones; clients draw for themselves."""
        images = torch.randint(1, 255, (2, 40, 3, 32, 32), dtype=torch.uint8)
        generators = [RandomStreams(0).generator("augment", 0, client, 0) for client in range(2)]
        got = augment(images, generators)
        alone = augment(images[1:], [RandomStreams(0).generator("augment", 0, 1, 0)])
        assert torch.equal(alone[0], got[1])
        padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
        shifts, flips = set(), 0
        for client, place in ((c, i) for c in range(2) for i in range(40)):
            found = [
                (y, x, flip)
                for y in range(9)
                for x in range(9)
                for flip in (False, True)
                if torch.equal(got[client, place], crop(padded[client, place], y, x, flip))
            ]
            assert len(found) == 1
            shifts.add(found[0][:2])
            flips += found[0][2]
        assert len(shifts) > 40
        assert 20 < flips < 60


def crop(image, y, x, flip):
    part = image[:, y : y + 32, x : x + 32]
    return part.flip(-1) if flip else part


def cifar100_like(root, train=200, test=20):
    """Files of CIFAR-100's form."""
    folder = root / "cifar-100-python"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", train), ("test", test)):
        pixels = torch.randint(256, (count, 3072), dtype=torch.uint8, generator=generator).numpy()
        labels = [i % 100 for i in range(count)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "fine_labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))


class TestText:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LASER_FL_CACHE", str(tmp_path / "cache"))

    def test_pydoc_is_embedded_and_read_as_bytes(self):
        task = TASKS.build("pydoc", parse({"context": 32}))(Path("nowhere"), parse({"context": 32}))
        whole = bytes(torch.cat([task.train.tokens, task.test.tokens]).tolist()).decode()
        assert whole == (files("pydoc_data") / "topics.py").read_text(encoding="utf-8")
        assert len(task.test.tokens) == pytest.approx(0.1 * len(whole.encode()), rel=0.02)
        assert (
            task.network(parse({"layers": 1, "embedding": 12, "model": "gpt2", "task": "pydoc"})).blocks[0].shape[0]
            == 256
        )

    def test_tokens_are_cut_once_and_mapped_from_the_cache(self, tmp_path, monkeypatch):
        first = tokens.tokenised("a text", tmp_path, "bytes")
        monkeypatch.setattr(tokens, "_bytes", None)  # a second time would fail
        monkeypatch.setattr(tokens, "PIECE", 3)
        assert torch.equal(tokens.tokenised("a text", tmp_path, "bytes"), first)
        assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 1
        with pytest.raises(TypeError):
            tokens.tokenised("another text", tmp_path, "bytes")

    def test_gpt2s_tokens_are_known_and_wikitext2_is_read(self, data_dir):
        assert tokens.tokenised("Hello world\n", Path(data_dir), "gpt2").tolist() == [15496, 995, 198]
        task = TASKS.build("wikitext-2", parse({"tokens": "bytes"}))(Path(data_dir), parse({"tokens": "bytes"}))
        assert bytes(task.train.tokens[:41].tolist()).decode() == " \n = Valkyria Chronicles III = \n \n Senj\u014d"

    def test_a_wrong_vocabulary_is_refused(self, tmp_path):
        (tmp_path / "gpt2-bpe").mkdir()
        (tmp_path / "gpt2-bpe" / "vocab.bpe").write_text("")
        for wrong in ("{}", "[1]", "no json", json.dumps({str(i): i for i in range(50256)})):
            (tmp_path / "gpt2-bpe" / "encoder.json").write_text(wrong)
            with pytest.raises(DataError, match=r"encoder\.json: must be GPT-2's 50,257 tokens in JSON, got others"):
                tokens.tokenised("x", tmp_path, "gpt2")

    def test_wrong_merges_are_refused(self, tmp_path, data_dir):
        (tmp_path / "gpt2-bpe").mkdir()
        for name in ("encoder.json", "vocab.bpe"):
            shutil.copy(Path(data_dir) / "gpt2-bpe" / name, tmp_path / "gpt2-bpe")
        merges = tmp_path / "gpt2-bpe" / "vocab.bpe"
        lines = merges.read_text(encoding="utf-8").splitlines()
        others = "merges of tokens in .*encoder"
        for wrong, rule in ((lines[:-1], "50,000 merges, .*, got 49,999"), ([*lines[:-1], "zz qq"], others)):
            merges.write_text("\n".join(wrong), encoding="utf-8")
            with pytest.raises(DataError, match=rf"vocab\.bpe: must be .*{rule}"):
                tokens.tokenised("x", tmp_path, "gpt2")

    def test_a_file_is_read_once_and_again_where_it_has_changed(self, tmp_path, monkeypatch):
        folder = tmp_path / "wikitext-2"
        folder.mkdir()
        for split, content in (("train", 30 * "some words \n"), ("valid", "a few")):
            (folder / f"wiki.{split}.tokens").write_text(content)
        load = TASKS.load("wikitext-2")
        first = load(tmp_path, parse({"context": 4}))
        assert bytes(first.test.tokens.tolist()) == b"a few"
        (folder / "wiki.valid.tokens").write_text("a few more")
        assert bytes(load(tmp_path, parse({"context": 4})).test.tokens.tolist()) == b"a few more"

    def test_pieces_make_up_the_text(self, monkeypatch, data_dir, tmp_path):
        lines = "".join(f"line {i} of some text\n" for i in range(50))
        whole = tokens.tokenised(lines, Path(data_dir), "gpt2")
        monkeypatch.setattr(tokens, "PIECE", 40)
        monkeypatch.setenv("LASER_FL_CACHE", str(tmp_path / "other"))
        assert torch.equal(tokens.tokenised(lines, Path(data_dir), "gpt2"), whole)
        assert bytes(tokens.tokenised("äöü" * 50, Path(data_dir), "bytes").tolist()).decode() == "äöü" * 50

    def test_missing_texts_and_vocabularies_are_named_in_one_line(self, tmp_path, monkeypatch):
        import datasets
        import huggingface_hub

        def no_network(*args, **kwargs):
            raise ConnectionError("no network\nat all")

        monkeypatch.setattr(datasets, "load_dataset", no_network)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
        for make in (
            lambda: TASKS.build("wikitext-103", parse({}))(tmp_path, parse({})),
            lambda: tokens.tokenised("x", tmp_path, "gpt2"),
        ):
            with pytest.raises(DataError) as missing:
                make()
            assert str(tmp_path) in str(missing.value)
            assert "\n" not in str(missing.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="device: must be one of this machine's 0 GPUs, got cuda"):
        prepare(parse({"device": "cuda"}))
