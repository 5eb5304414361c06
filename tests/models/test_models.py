"""Batch-norms, dropout, accumulation and precision, whatever the batching and the engine."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2LMHeadModel

from laser_fl.config import parse
from laser_fl.data.examples import Examples
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.evaluation import evaluate
from laser_fl.federated.local_training import GroupTrainer, LocalTrainer
from laser_fl.federated.model import GlobalModel
from laser_fl.federated.setup import prepare
from laser_fl.models.base import outputs_of
from laser_fl.models.gpt2 import gpt2
from laser_fl.models.resnet18 import resnet18
from laser_fl.models.small import cnn
from laser_fl.rng import RandomStreams
from simulations.engines import in_process
from tests.grids import run_on_grid
from tests.helpers import context, scheme
from tests.standins import counting, here, there

CLIENTS = 3
TINY_TEXT = {
    "task": "pydoc", "model": "gpt2", "layers": 1, "heads": 2, "embedding": 16, "context": 12, "clients": 4,
    "batch-size": 2, "accumulation-steps": 2, "rounds": 4, "evaluate-every": 2, "evaluate-examples": 5,
    "optimizer": "adamw", "learning-rate": 0.01, "power": 1e4,
}  # fmt: skip


class Reads(TorchDispatchMode):
    """A list of the operations for whose values Python would wait on a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero"):
            self.seen.append(function)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def images():
    generator = RandomStreams(0).generator("toy")
    inputs = torch.randn(24, 3, 8, 8, generator=generator)
    data = Examples(inputs, torch.randint(10, (24,), generator=generator))
    return Task(data, data, {"resnet18": resnet18}, fixed={"classes": 10, "width": 4})


def told(network, round=0):
    shapes = {name: tuple(w.shape) for name, w in network.weights.items()}
    return Broadcast(
        scheme("z-sgd"), {}, context(shapes, CLIENTS, round), weights=network.weights, buffers=network.buffers
    )


def config_of(**values):
    keys = {name.replace("_", "-"): value for name, value in values.items()}
    return parse({"task": "cifar10", "model": "resnet18", "clients": CLIENTS, "batch-size": 4} | keys)


class TestBatchNorm:
    def test_gradients_and_buffers_are_those_of_the_module_in_training(self, images):
        """Two micro-steps: the buffers go from one to the next, and start from those of the model."""
        config = config_of(accumulation_steps=2)
        network = images.network(config)
        computed = GroupTrainer(images, network, config, range(CLIENTS)).compute(told(network))
        batch = images.train.sampler(config, range(CLIENTS)).batch(0)
        for client in range(CLIENTS):
            twin = images.network(config).module.train()
            for half in torch.split(batch[client], 4):
                loss = cross_entropy(twin(images.train.inputs[half]), images.train.targets[half]) / 2
                loss.backward()
            for name, parameter in twin.named_parameters():
                torch.testing.assert_close(computed.gradients[name][client], parameter.grad, rtol=1e-4, atol=1e-5)
            state = twin.state_dict()
            assert len(computed.buffers) == 40
            for name, buffer in computed.buffers.items():
                torch.testing.assert_close(buffer[client], state[name])

    def test_one_by_one_or_all_at_once_say_the_same(self, images):
        answers = []
        for batching in ("loop", "vmap"):
            config = config_of(client_batching=batching)
            network = images.network(config)
            answers.append(LocalTrainer(images, network, config, range(CLIENTS)).answer(told(network), {})[0])
        apart, together = answers
        for name in apart.signals:
            torch.testing.assert_close(apart.signals[name], together.signals[name], rtol=1e-3, atol=1e-5)
        for name in apart.buffers:
            torch.testing.assert_close(apart.buffers[name], together.buffers[name], rtol=1e-4, atol=1e-6)

    def test_an_evaluation_uses_the_buffers_it_is_given(self, images):
        config = config_of()
        network = images.network(config)
        state = network.weights | {name: b + 0.5 for name, b in network.buffers.items()}
        twin = images.network(config).module.eval()
        twin.load_state_dict(state, strict=False)  # but for the counts of batches
        loss = cross_entropy(twin(images.test.inputs), images.test.targets).item()
        assert evaluate(images, network.module, state, config)["loss"] == pytest.approx(loss, rel=1e-5)

    def test_the_server_averages_buffers_over_clients_and_over_rounds(self):
        model = GlobalModel({"w": torch.zeros(2)}, parse({"ema-decay": 0.5}), 2, buffers={"mean": torch.tensor([4.0])})
        for value in (1.0, 3.0):
            model.step({"w": torch.zeros(2)}, {}, {"mean": torch.tensor([value])})
        assert model.tensors["mean"].item() == 3
        assert model.averaged["mean"].item() == pytest.approx((0.5 * 1 + 1 * 3) / 1.5)

    def test_weight_decay_leaves_norms_alone_and_for_gpt2_embeddings(self):
        network = resnet18(width=4)
        assert len(network.undecayed) == 40
        assert all(name.split(".")[-2].startswith(("bn", "1")) for name in network.undecayed)
        assert set(gpt2(50, 1, 1, 4, 8).undecayed) == {
            "transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.ln_1.weight",
            "transformer.h.0.ln_2.weight", "transformer.ln_f.weight",
        }  # fmt: skip
        model = GlobalModel(
            {"a": torch.ones(2), "b": torch.ones(2)}, parse({"weight-decay": 0.5, "learning-rate": 1}), 2, ["b"]
        )
        model.step({"a": torch.zeros(2), "b": torch.zeros(2)}, {})
        assert (model.weights["a"].tolist(), model.weights["b"].tolist()) == ([0.5, 0.5], [1, 1])


@pytest.mark.parametrize("network", [resnet18(width=4), cnn()], ids=["resnet18", "cnn"])
def test_a_gpu_convolves_with_the_channels_last_and_the_gradients_lie_as_the_weights(network, monkeypatch):
    """On the CPU the order of the images stays."""
    seen = []
    convolution = next(m for m in network.module.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_pre_hook(lambda _, args: seen.append(here(args[0])))
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        network.module.train()(images)
        with counting(monkeypatch):
            outputs_of(network.module, there(network.weights | network.buffers), there(images))
    orders = [image.is_contiguous(memory_format=torch.channels_last) for image in seen]
    assert orders == [False, True]


class TestSchedules:
    def rates(self, rounds, **values):
        keys = {name.replace("_", "-"): value for name, value in values.items()}
        model = GlobalModel({"w": torch.zeros(1)}, parse({"learning-rate": 1.0} | keys), rounds)
        rates = []
        for _ in range(rounds):
            rates.append(model.replica.rates[0])
            model.step({"w": torch.zeros(1)}, {})
        return rates

    def test_one_cycle_rises_from_a_hundredth_and_falls_to_a_fifth_of_the_peak(self):
        rates = self.rates(1000, lr_schedule="one-cycle")
        assert rates[0] == pytest.approx(0.01)
        assert max(rates) == pytest.approx(1, rel=1e-3)
        assert rates.index(max(rates)) == pytest.approx(20, abs=2)
        assert rates[-1] == pytest.approx(0.2, rel=1e-3)

    @pytest.mark.parametrize("rounds", [1, 2, 3, 49, 50, 51, 100])
    def test_one_cycle_takes_any_number_of_rounds(self, rounds):
        assert len(self.rates(rounds, lr_schedule="one-cycle")) == rounds

    def test_a_step_divides_by_ten(self):
        assert self.rates(8, lr_schedule="step", lr_decay_at=0.75) == pytest.approx([1] * 6 + [0.1] * 2)


class TestText:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path_factory, monkeypatch):
        monkeypatch.setenv("LASER_FL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

    def test_the_perplexity_is_that_of_every_token_after_the_first(self):
        config = parse(TINY_TEXT | {"evaluate-examples": 0})
        setup = prepare(config)
        short = Task(setup.task.train, type(setup.task.test)(setup.task.test.tokens[:100], 12), setup.task.models,
                     "perplexity", setup.task.fixed, evaluation_batch=3)  # fmt: skip
        scores = evaluate(short, setup.network.module, setup.network.weights, config)
        tokens, losses = short.test.tokens.long(), []
        for start in range(0, 99, 12):
            window = tokens[start : start + 13]
            logits = setup.network.module(window[:-1].unsqueeze(0))[0]
            losses += cross_entropy(logits, window[1:], reduction="none").tolist()
        assert len(losses) == 99
        mean = sum(losses) / 99
        assert scores["loss"] == pytest.approx(mean, rel=1e-5)
        assert scores["perplexity"] == pytest.approx(torch.tensor(mean).exp().item(), rel=1e-5)

    def test_biases_stay_zero_and_are_not_sent(self, tmp_path):
        in_process.run(parse(TINY_TEXT | {"strategy": "z-sgd"}), tmp_path / "run")
        saved = load_file(tmp_path / "run" / "weights.safetensors")
        assert not [name for name in saved if name.endswith("bias")]
        assert saved.keys() == prepare(parse(TINY_TEXT)).network.weights.keys()

    def test_dropout_draws_the_same_wherever_a_client_is(self, tmp_path):
        """Client by client, whatever the engine and the number of nodes."""
        options = TINY_TEXT | {"dropout": 0.3, "client-batching": "loop"}
        in_process.run(parse(options), tmp_path / "direct")
        run_on_grid(parse(options | {"out-dir": str(tmp_path / "grid")}), 2)
        in_process.run(parse(options | {"dropout": 0.0}), tmp_path / "none")
        files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("direct", "grid", "none")]
        assert files[0] == files[1] != files[2]

    def test_dropout_needs_clients_one_by_one(self):
        with pytest.raises(
            ConfigError, match="client-batching: must be loop or auto for a model with dropout, got 'vmap'"
        ):
            prepare(parse(TINY_TEXT | {"dropout": 0.3, "client-batching": "vmap"}))

    def test_bfloat16_is_close_to_float32_and_not_the_same(self, tmp_path):
        losses = []
        for precision in ("float32", "bfloat16"):
            options = TINY_TEXT | {"precision": precision, "client-batching": "loop"}
            summary = in_process.run(parse(options), tmp_path / precision)
            losses.append(summary["test_loss"])
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
        assert losses[0] != losses[1]

    def test_no_pass_reads_values_so_that_no_gpu_is_waited_for(self):
        network = gpt2(32, 2, 2, 8, 6)
        tokens = torch.randint(32, (3, 6), generator=torch.Generator().manual_seed(0))
        with Reads() as reads:
            loss = cross_entropy(network.module.train()(tokens).flatten(end_dim=-2), tokens.flatten())
            torch.autograd.grad(loss, [p for p in network.module.parameters() if p.requires_grad])
        assert reads.seen == []

    def test_the_logits_are_those_of_transformers_own_forward_pass(self):
        module = gpt2(32, 2, 2, 8, 6).module.eval()
        tokens = torch.randint(32, (3, 5), generator=torch.Generator().manual_seed(0))
        assert torch.equal(module(tokens), GPT2LMHeadModel.forward(module, tokens).logits)

    def test_heads_must_divide_the_embedding(self):
        with pytest.raises(ConfigError, match="embedding: must be a multiple of heads, 3, got 16"):
            parse(TINY_TEXT | {"heads": 3})

    def test_vmap_and_loop_agree(self, tmp_path):
        for batching in ("loop", "vmap"):
            in_process.run(parse(TINY_TEXT | {"client-batching": batching}), tmp_path / batching)
        a, b = (load_file(tmp_path / batching / "weights.safetensors") for batching in ("loop", "vmap"))
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
