"""Own data by the command line's keys: folders of images, tables, data sets of Hugging Face, texts."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from laser_fl.config import parse
from laser_fl.errors import ConfigError, DataError
from laser_fl.federated.setup import prepare
from simulations.engines import in_process

RUN = {"clients": 2, "rounds": 2, "batch-size": 4, "power": 100.0, "learning-rate": 0.01}


def images(folder, classes=("cats", "dogs"), count=10, size=(8, 8)):
    draw = np.random.default_rng(0)
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 100, (*size, 3), dtype=np.uint8) + 100 * shade
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")


def table(rows=40):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(rows, 3)), columns=["a", "b", "c"])
    frame["kind"] = draw.choice(["x", "y"], rows)
    frame["who"] = [f"client {row % 4}" for row in range(rows)]
    return frame.assign(label=np.where(frame["a"] > 0, "yes", "no"), price=frame["a"] + frame["b"])


def refused(**keys):
    with pytest.raises((ConfigError, DataError)) as error:
        prepare(parse(RUN | {key.replace("_", "-"): value for key, value in keys.items()}))
    line = str(error.value)
    assert "\n" not in line
    return line


class TestImages:
    def test_a_folder_per_class_is_trained_on(self, tmp_path):
        images(tmp_path)
        keys = {"task": "images", "data-dir": str(tmp_path)}
        setup = prepare(parse(RUN | keys))
        assert setup.task.train.inputs.shape == (16, 3, 8, 8)
        assert setup.task.test.targets.bincount().tolist() == [2, 2]
        prepared = setup.task.prepare(setup.task.train.inputs)
        assert prepared.mean().item() == pytest.approx(0, abs=1e-5)
        assert in_process.run(parse(RUN | keys), tmp_path / "run")["model"] == "cnn"

    def test_folders_called_train_and_test_divide_them(self, tmp_path):
        images(tmp_path / "train")
        images(tmp_path / "val", count=3)
        task = prepare(parse(RUN | {"task": "images", "data-dir": str(tmp_path)})).task
        assert (len(task.train), len(task.test)) == (20, 6)

    def test_of_several_sizes_are_cut_and_scaled(self, tmp_path):
        images(tmp_path, classes=("cats",), size=(8, 10))
        images(tmp_path / "more", classes=("dogs",), size=(12, 9))
        (tmp_path / "more" / "dogs").rename(tmp_path / "dogs")
        (tmp_path / "more").rmdir()
        assert "must have examples of one shape" in refused(task="images", data_dir=str(tmp_path))
        task = prepare(parse(RUN | {"task": "images", "data-dir": str(tmp_path), "image-size": 6})).task
        assert task.train.inputs.shape[1:] == (3, 6, 6)

    def test_that_are_not_there_are_named_in_a_line(self, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "for task images, got ''" in refused(task="images")
        assert "must have a folder of images for each class" in refused(task="images", data_dir=str(tmp_path / "no"))
        assert "must have a folder of images for each class" in refused(task="images", data_dir=str(tmp_path))
        images(tmp_path / "train")
        images(tmp_path / "test", classes=("cats", "eels"))
        line = refused(task="images", data_dir=str(tmp_path))
        assert line.endswith("must have the classes cats, dogs, got cats, eels")

    def test_a_damaged_one_is_named(self, tmp_path):
        images(tmp_path)
        (tmp_path / "cats" / "3.png").write_bytes(b"no image")
        line = refused(task="images", data_dir=str(tmp_path))
        assert "raised UnidentifiedImageError" in line
        assert "3.png" in line


class TestTable:
    @pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
    def test_texts_are_classes(self, tmp_path, ending):
        frame, path = table(), tmp_path / f"t.{ending}"
        frame.to_parquet(path) if ending == "parquet" else frame.to_csv(path, index=False)
        task = prepare(parse(RUN | {"task": "table", "data-dir": str(path), "target": "label"})).task
        assert task.train.inputs.shape == (32, 3 + 2 + 4 + 1)  # numbers, two texts by value, the price
        assert task.train.inputs.mean(dim=0).abs().max() < 1e-6
        assert set(task.train.targets.tolist()) == {0, 1}
        assert task.metric.name == "accuracy"

    def test_numbers_are_predicted_by_the_squared_error(self, tmp_path):
        table().drop(columns="label").to_csv(tmp_path / "t.csv", index=False)
        keys = {"task": "table", "data-dir": str(tmp_path), "target": "price"}
        summary = in_process.run(parse(RUN | keys), tmp_path / "run")
        assert "best_ema_test_loss" in summary
        assert "test_accuracy" not in summary

    def test_clients_are_those_of_a_column(self, tmp_path):
        table().to_csv(tmp_path / "train.csv", index=False)
        table(8).to_csv(tmp_path / "test.csv", index=False)
        keys = {"task": "table", "data-dir": str(tmp_path), "target": "label", "client-column": "who"}
        setup = prepare(parse(RUN | keys | {"partition": "by-column", "clients": 4}))
        assert setup.sizes == (10, 10, 10, 10)
        assert setup.task.train.inputs.shape[1] == 3 + 2 + 1

    def test_what_is_wrong_is_named_in_a_line(self, tmp_path):
        path = str(tmp_path / "t.csv")
        assert refused(task="table").startswith("data-dir: must name a CSV or Parquet file, or a folder with train and")
        assert refused(task="table", data_dir=path) == "target: must name the column to predict for task table, got ''"
        assert "must be a readable table (No such file" in refused(task="table", data_dir=path, target="label")
        table().to_csv(path, index=False)
        line = refused(task="table", data_dir=path, target="lable")
        assert line == f"{path}: must have the column 'lable' (target), got a, b, c, kind, who, label, price"
        assert "'whom' (client-column)" in refused(task="table", data_dir=path, target="label", client_column="whom")
        table().assign(b=lambda frame: frame["b"].where(frame.index != 7)).to_csv(path, index=False)
        line = refused(task="table", data_dir=path, target="label")
        assert line == f"{path}: must have no gaps, got nan in row 7 of column 'b'"
        (tmp_path / "none").mkdir()
        table().assign(who=lambda frame: frame["who"].where(frame.index != 7)).to_csv(
            tmp_path / "train.csv", index=False
        )
        table().to_csv(tmp_path / "test.csv", index=False)
        (tmp_path / "t.csv").unlink()
        line = refused(task="table", data_dir=str(tmp_path), target="label", client_column="who")
        assert line.endswith("must have no gaps, got nan in row 7 of column 'who'")
        assert "must have one table" in refused(task="table", data_dir=str(tmp_path / "none"), target="label")


class TestHuggingFace:
    def test_a_folder_is_read_and_divided(self, tmp_path):
        import datasets

        vectors = torch.randn(20, 4)
        made = datasets.Dataset.from_dict({"x": vectors.tolist(), "label": ["no", "yes"] * 10, "who": [1, 2] * 10})
        made.save_to_disk(str(tmp_path / "set"))
        keys = {"task": "huggingface", "dataset": str(tmp_path / "set"), "client-column": "who", "model": "mlp"}
        task = prepare(parse(RUN | keys)).task
        assert (len(task.train), len(task.test)) == (16, 4)
        assert torch.equal(task.train.groups, task.train.targets)
        line = refused(task="huggingface", dataset=str(tmp_path / "set"), target="lable")
        assert line == "train data: must have a column for the target, got no 'lable' among x, label, who"
        line = refused(task="huggingface", dataset=str(tmp_path / "set"))
        assert line == "train data: must have a column for the inputs, got none that is named among x, label, who"

    def test_a_file_is_read_as_well(self, tmp_path):
        lines = [json.dumps({"x": [float(row), 1.0], "label": row % 2}) for row in range(10)]
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        task = prepare(parse(RUN | {"task": "huggingface", "dataset": str(tmp_path / "t.jsonl"), "model": "mlp"})).task
        assert task.train.inputs.shape == (8, 2)

    def test_texts_become_tokens_for_a_transformer(self, tmp_path):
        import datasets
        from transformers import BertConfig

        made = datasets.Dataset.from_dict({"text": ["good", "bad ä"] * 10, "label": [0, 1] * 10})
        made.save_to_disk(str(tmp_path / "set"))
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        BertConfig(vocab_size=256, **sizes).save_pretrained(tmp_path / "bert")
        keys = {"task": "huggingface", "dataset": str(tmp_path / "set"), "model": f"transformers:{tmp_path / 'bert'}"}
        summary = in_process.run(parse(RUN | keys), tmp_path / "run")
        assert 0 <= summary["test_accuracy"] <= 1
        adapted = prepare(parse(RUN | keys | {"lora-rank": 2, "lora-train": "b"})).network
        assert all("lora_B" in name or "classifier" in name for name in adapted.weights)

    @pytest.mark.parametrize(
        ("columns", "line"),
        [
            ({"x": [[1.0]] * 4, "label": [1.0, None, 2.0, 3.0]}, "must have a number or a text as the target"),
            ({"x": [[1.0]] * 4, "label": [[1], [2], [3], [4]]}, "must have a number or a text as the target"),
            ({"x": ["a", None, "b", "c"], "label": [0, 1, 0, 1]}, "dataset: must have no gaps, got None in row"),
        ],
    )
    def test_gaps_are_named_in_a_line(self, tmp_path, columns, line):
        import datasets

        datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "set"))
        assert line in refused(task="huggingface", dataset=str(tmp_path / "set"))

    def test_one_that_cannot_be_had_is_named_in_a_line(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert "dataset: must name a folder, a file or" in refused(task="huggingface")
        line = refused(task="huggingface", dataset="./nothing-here")
        assert line.startswith(
            "dataset: './nothing-here' must be a folder or a file of a data set, or a name on the hub"
        )


TINY = {"task": "text", "context": 8, "layers": 1, "heads": 1, "embedding": 8}


class TestTexts:
    TEXT = "The sun rises.\nAnd sets.\n" * 30

    def tokens(self, place, **keys):
        task = prepare(parse(RUN | TINY | {"data-dir": str(place)} | keys)).task
        return bytes(torch.cat([task.train.tokens, task.test.tokens]).tolist()).decode()

    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LASER_FL_CACHE", str(tmp_path / "cache"))

    def test_byte_order_marks_and_line_ends_make_no_difference(self, tmp_path):
        (tmp_path / "t").mkdir()
        for name, mark, end in (("unix", b"", "\n"), ("windows", b"\xef\xbb\xbf", "\r\n"), ("mac", b"", "\r")):
            path = tmp_path / "t" / f"{name}.txt"
            path.write_bytes(mark + self.TEXT.replace("\n", end).encode())
            assert self.tokens(path) == self.TEXT

    def test_a_folder_is_read_as_a_whole_or_as_its_names_divide_it(self, tmp_path):
        (tmp_path / "t" / "part").mkdir(parents=True)
        (tmp_path / "t" / "a.txt").write_text(self.TEXT)
        (tmp_path / "t" / "part" / "b.md").write_text("End" * 20)
        (tmp_path / "t" / ".hidden").write_text("no")
        assert self.tokens(tmp_path / "t") == self.TEXT + "\n" + "End" * 20
        (tmp_path / "u").mkdir()
        (tmp_path / "u" / "train.txt").write_text(self.TEXT)
        (tmp_path / "u" / "valid.txt").write_text("End" * 20)
        assert self.tokens(tmp_path / "u") == self.TEXT + "End" * 20

    def test_what_is_wrong_is_named_in_a_line(self, tmp_path):
        def line(content):
            (tmp_path / "t.txt").write_bytes(content)
            return refused(**TINY, data_dir=str(tmp_path / "t.txt"))

        assert line(b"too short").endswith("train: must have more tokens than a context of 8, got 8")
        assert line(b"\xff" * 100).endswith("must be UTF-8, got 0xff as byte 0")
        assert refused(task="text") == "data-dir: must name a UTF-8 file, or a folder of them, for task text, got ''"
        (tmp_path / "none").mkdir()
        assert "got none in" in refused(task="text", data_dir=str(tmp_path / "none"))
