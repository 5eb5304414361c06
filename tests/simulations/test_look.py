"""The look: curves that everybody can tell apart, labels that do not touch, numbers with names and units."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from laser_fl.registry import SCHEMES
from simulations.look import DASHES, SPARE, STYLES, Quantity, drawing_order, quantity, spread, style_of

# Full protanopia, deuteranopia and tritanopia in linear RGB: G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A
# physiologically-based model for simulation of color vision deficiency", IEEE TVCG 15(6), 2009, severity 1.0.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
LEAST_DIFFERENCE = 20.0  # CIE76; some 2 can just be seen side by side, thin lines apart need far more
LEAST_STEP_OF_GREY = 15.0  # of L*, of 100 from black to white


def linear(colour):
    """Linear RGB of '#rrggbb'."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear RGB, for the white of sRGB."""
    t = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(colour, other):
    """WCAG's, from 1 to 21."""
    dark, light = sorted(float(XYZ[1] @ linear(c)) for c in (colour, other))
    return (light + 0.05) / (dark + 0.05)


PAIRS = list(combinations(STYLES, 2))


class TestCurvesAreToldApart:
    def test_every_strategy_has_its_own_style(self):
        assert set(SCHEMES._entries) == set(STYLES)

    @pytest.mark.parametrize("vision", VISIONS)
    def test_any_two_differ_in_colour_or_dash_under_every_vision(self, vision):
        seen = {name: lab(VISIONS[vision] @ linear(style.colour)) for name, style in STYLES.items()}
        for one, other in PAIRS:
            difference = float(np.linalg.norm(seen[one] - seen[other]))
            assert difference >= LEAST_DIFFERENCE or STYLES[one].dash != STYLES[other].dash, (one, other, difference)

    def test_any_two_differ_in_greyscale_or_dash(self):
        grey = {name: lab(linear(style.colour))[0] for name, style in STYLES.items()}
        for one, other in PAIRS:
            step = abs(grey[one] - grey[other])
            assert step >= LEAST_STEP_OF_GREY or STYLES[one].dash != STYLES[other].dash, (one, other, step)

    def test_any_two_differ_in_two_ways_at_least(self):
        for some in (STYLES.values(), SPARE):
            for one, other in combinations(some, 2):
                assert (one.colour != other.colour) + (one.dash != other.dash) + (one.marker != other.marker) >= 2

    @pytest.mark.parametrize("ground", ["#ffffff", "#131416"])
    def test_every_colour_is_readable_on_white_and_on_a_dark_page(self, ground):
        assert all(contrast(style.colour, ground) >= 3 for style in STYLES.values())

    def test_laser_stands_out_and_laser_adaptive_is_seen_through_its_gaps(self):
        assert all(STYLES["laser"].width > style.width for name, style in STYLES.items() if name != "laser")
        assert DASHES[STYLES["laser"].dash]
        assert STYLES["laser"].dash != STYLES["laser-adaptive"].dash
        assert drawing_order(["laser", "sgd", "laser-adaptive"]) == ["sgd", "laser-adaptive", "laser"]

    def test_other_labels_have_spare_styles_that_repeat_late(self):
        styles = [style_of(f"rank={i}", i) for i in range(54)]
        assert len({(style.colour, style.dash) for style in styles}) == 54
        assert style_of("laser", 3) == STYLES["laser"]


class TestLines:
    def test_matplotlib_draws_both_curves_of_a_style(self):
        axes = Figure().subplots()
        for style in (*STYLES.values(), *SPARE):
            averaged, current = (axes.plot([0, 1], [0, 1], **style.for_matplotlib(c))[0] for c in (False, True))
            assert averaged.get_color() == current.get_color() == style.colour
            assert averaged.get_linewidth() > current.get_linewidth()
            assert current.get_alpha() < 1

    def test_plotly_takes_both_lines_of_a_style(self):
        go = pytest.importorskip("plotly.graph_objects", reason="plotly is an extra")
        for style in STYLES.values():
            averaged, current = (go.Scatter(line=style.for_plotly(c)).line for c in (False, True))
            assert averaged.color == style.colour
            assert averaged.width > current.width
        assert STYLES["laser"].for_plotly()["dash"] == "25.2px,5.6px"
        assert STYLES["laser"].for_plotly(current=True)["color"] == "rgba(200,16,46,0.45)"


HEIGHTS = st.lists(st.floats(0, 100), max_size=12)


class TestLabels:
    @given(HEIGHTS)
    def test_no_two_touch_and_all_are_within_the_picture(self, heights):
        placed = sorted(spread(heights, 5, 0, 100))
        assert all(b - a >= 5 - 1e-6 for a, b in pairwise(placed))
        assert all(-1e-6 <= height <= 100 + 1e-6 for height in placed)

    @given(HEIGHTS)
    def test_they_keep_the_order_of_the_lines(self, heights):
        placed = spread(heights, 5, 0, 100)
        for one, other in combinations(range(len(heights)), 2):
            if heights[one] < heights[other]:
                assert placed[one] < placed[other]

    def test_they_stay_where_there_is_room_and_else_move_apart_evenly(self):
        assert spread([50, 10, 90], 5, 0, 100) == [50, 10, 90]
        assert spread([50, 50], 4, 0, 100) == [48, 52]
        assert spread([0, 1], 4, 0, 100) == [0, 4]

    def test_where_there_is_no_room_they_stand_as_far_apart_as_they_can(self):
        assert spread([3, 2, 1], 10, 0, 10) == [10, 5, 0]


class TestNumbers:
    @pytest.mark.parametrize(
        ("key", "value", "shown"),
        [
            ("test_accuracy", 0.8918, "89.2 %"),
            ("best_ema_test_accuracy", "0.5", "50.0 %"),
            ("test_f1", 0.51234, "0.512"),
            ("test_perplexity", 1234.5, "1,234"),
            ("test_clients_accuracy_worst_decile", 0.25, "25.0 %"),
            ("uplink_floats_per_round", 1572.0, "1,572"),
            ("uplink_bytes_per_round", 6288, "6.3 kB"),
            ("uplink_bytes_per_round", 12, "12 B"),
            ("uplink_bytes_per_round", 496e6, "496 MB"),
            ("seconds_total", 12.0, "12 s"),
            ("total_latency_seconds", 0.01608, "0.0161 s"),
            ("snr_db", -3.14, "-3.1 dB"),
            ("snr_db", math.inf, "no noise"),
            ("snr_db", "-inf", "nothing sent"),
            ("compression_ratio", 9.76, "9.76x"),
            ("compression_ratio", "inf", "nothing sent"),
            ("power", math.inf, "no limit"),
            ("energy", 203.4527, "203"),
            ("train_loss", math.nan, ""),
            ("stopped_early", True, "yes"),
            ("peak_device_mb", None, ""),
            ("status", "completed", "completed"),
            ("tiny", 1.5e-7, "1.5e-07"),
        ],
    )
    def test_a_value_is_shown_with_its_unit(self, key, value, shown):
        assert quantity(key).shown(value) == shown

    @pytest.mark.parametrize(
        ("key", "label", "head"),
        [
            ("test_accuracy", "test accuracy (%)", "last (%)"),
            ("ema_test_accuracy", "accuracy, averaged weights (%)", "averaged (%)"),
            ("best_ema_test_accuracy", "accuracy, best of averaged weights (%)", "best (%)"),
            ("test_mean_squared_error", "test mean squared error", "last"),
            ("test_clients_f1_mean", "clients' f1, mean", "clients' f1, mean"),
            ("latency_seconds", "time on the air (s)", "time on the air (s)"),
            ("uplink_bytes_per_round", "bytes sent per client and round", "bytes/round"),
            ("my_own-key", "my own key", "my own key"),
        ],
    )
    def test_every_key_has_a_name_for_people(self, key, label, head):
        found = quantity(key)
        assert (found.label, found.head, found.key) == (label, head, key)

    def test_a_column_whose_head_has_the_unit_has_bare_numbers(self):
        assert quantity("test_accuracy").bare(0.8918) == "89.2"
        assert Quantity("x", "x", "m").bare(1234) == "1,234"
