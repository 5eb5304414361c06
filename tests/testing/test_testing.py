"""A right part of somebody's own passes; each wrong one is caught, with the broken promise by its name."""

import re
from dataclasses import replace

import pytest
import torch

from laser_fl.channels import mac
from laser_fl.channels.awgn import Awgn
from laser_fl.channels.base import Channel
from laser_fl.pipeline import encode_update
from laser_fl.schemes.z_sgd import ZSgd
from laser_fl.testing import BrokenPromiseError, channels, check_channel, check_scheme, walks
from tests.testing.channels import BROKEN_CHANNELS, Shadowed
from tests.testing.schemes import BROKEN_SCHEMES, Thawed, TopK

LINE = re.compile(r"\w+: [^\n]+")


def broken(check, part):
    """Return the message with which a check refuses a part."""
    with pytest.raises(BrokenPromiseError) as caught:
        check(part)
    assert isinstance(caught.value, AssertionError)
    return str(caught.value)


class TestSchemes:
    @pytest.mark.parametrize("keep", [0.05, 1.0])
    def test_a_right_one_of_somebodys_own_passes(self, keep):
        check_scheme(TopK(keep=keep))

    @pytest.mark.parametrize("wrong", BROKEN_SCHEMES, ids=lambda wrong: type(wrong).__name__)
    def test_a_wrong_one_is_caught_by_the_promise_that_it_breaks(self, wrong):
        message = broken(check_scheme, wrong)
        assert LINE.fullmatch(message)
        assert message.startswith(f"{type(wrong).__name__}: ")
        assert re.search(BROKEN_SCHEMES[wrong], message)

    def test_options_that_can_be_changed_are_refused(self):
        assert "must be a frozen dataclass" in broken(check_scheme, Thawed())

    def test_something_else_is_no_scheme(self):
        assert "must be an instance of a subclass of Scheme" in broken(check_scheme, Awgn(1.0))

    def test_a_memory_that_loses_something_is_caught(self, monkeypatch):
        def losing(*arguments):
            client_update, memory = encode_update(*arguments)
            return client_update, {name: 0.9 * m for name, m in memory.items()}

        monkeypatch.setattr(walks, "encode_update", losing)
        message = broken(check_scheme, TopK())
        assert re.search(
            r"kept \+ remaining memory must equal the corrected gradient \(block 'hidden', off by", message
        )

    def test_a_memory_without_error_feedback_is_caught(self, monkeypatch):
        monkeypatch.setattr(walks, "encode_update", lambda *a: (encode_update(*a)[0], {"hidden": torch.zeros(4)}))
        assert "without error feedback no memory may be kept (['hidden']" in broken(check_scheme, ZSgd())


class TestChannels:
    @pytest.mark.parametrize("chance", [2 / 3, 1.0, 0.0])
    def test_a_right_one_of_somebodys_own_passes(self, chance):
        check_channel(Shadowed(1.0, chance))

    @pytest.mark.parametrize("wrong", BROKEN_CHANNELS, ids=lambda wrong: type(wrong).__name__)
    def test_a_wrong_one_is_caught_by_the_promise_that_it_breaks(self, wrong):
        message = broken(check_channel, wrong)
        assert LINE.fullmatch(message)
        assert message.startswith(f"{type(wrong).__name__}: ")
        assert re.search(BROKEN_CHANNELS[wrong], message)

    def test_something_else_is_no_channel(self):
        assert "must be an instance of a subclass of Channel" in broken(check_channel, ZSgd())
        assert not isinstance(ZSgd(), Channel)

    @pytest.mark.parametrize(
        ("power", "noise", "bias", "promise"),
        [
            (1.1, 1.0, 0.0, "no client may exceed its power budget (spent 0.1099"),
            (1.0, 1.05, 0.0, "noise must have the variance of theory (1.1"),
            (1.0, 1.0, 0.001, "aligned signals must give the exact mean at infinite power (signal 'large', off by"),
        ],
    )
    def test_a_transmission_that_is_not_by_theory_is_caught(self, monkeypatch, power, noise, bias, promise):
        def transmit(signals, signal_norms, budget, state, ctx):
            received, usage = mac.transmit(
                signals, signal_norms, budget, state, replace(ctx, noise_std=noise * ctx.noise_std)
            )
            values = {name: value + bias for name, value in received.values.items()}
            return replace(received, values=values), replace(usage, client_power=power * usage.client_power)

        monkeypatch.setattr(channels, "transmit", transmit)
        assert promise in broken(check_channel, Awgn(1.0))
