"""Write the numbers of the texts, from files under docs/results: none is typed by hand.

$ python .ci/write_numbers.py            # writes them anew between the marks
$ python .ci/write_numbers.py --check    # says in a line which text is not as the files say

A place for numbers is ``<!-- numbers: NAME -->`` ... ``<!-- end -->``, NAME a key of `WRITERS`.
"""

import csv
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

TEXTS = ("README.md", "docs/start/first-comparison.md")
PLACE = re.compile(r"(?P<begin><!-- numbers: (?P<name>\S+) -->\n).*?(?P<end>\n<!-- end -->)", re.DOTALL)
SENTENCE = re.compile(r"^\| `(?P<strategy>[\w-]+)` \| (?P<sentence>.+) \|$", re.MULTILINE)
SCORE = "ema_test_accuracy"  # of the averaged weights, after the last round


@dataclass(frozen=True)
class Line:
    """A strategy's line of a comparison, over all of its seeds.

    scores: of the seeds whose run was completed, shares of 1. values: sent per client and round.
    reason: of a run that was not completed.
    """

    strategy: str
    scores: tuple[float, ...]
    values: float
    reason: str = ""

    @property
    def accuracy(self) -> str:
        """The mean score in per cent, with the standard deviation where there are several seeds."""
        if self.reason or not self.scores:
            end, round = "diverged" if "diverged" in self.reason else "failed", re.search(r"round (\d+)", self.reason)
            return f"{end} in round {round[1]}" if round else end
        mean = f"{100 * statistics.fmean(self.scores):.1f}"
        spread = f" ± {100 * statistics.stdev(self.scores):.1f}" if len(self.scores) > 1 else ""
        return f"{mean}{spread} %"


def comparison(path: Path) -> tuple[list[dict[str, str]], list[Line]]:
    """Return the rows of a comparison.csv, one per strategy and seed, and a line per strategy in its order."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    strategies = dict.fromkeys(row["strategy"] for row in rows)
    return rows, [line_of(name, [row for row in rows if row["strategy"] == name]) for name in strategies]


def line_of(strategy: str, rows: list[dict[str, str]]) -> Line:
    """Sum up the rows of one strategy."""
    reason = next((row["reason"] for row in rows if row.get("reason")), "")
    scores = [float(row[SCORE]) for row in rows if row.get(SCORE) and math.isfinite(float(row[SCORE]))]
    values = [float(row["uplink_floats_per_round"]) for row in rows if row.get("uplink_floats_per_round")]
    return Line(strategy, tuple(scores), statistics.fmean(values) if values else math.nan, reason)


def sentences() -> dict[str, str]:
    """Return the glossary's sentence about each strategy."""
    text = (ROOT / "docs/glossary.md").read_text()
    return {match["strategy"]: match["sentence"] for match in SENTENCE.finditer(text)}


def table(folder: Path) -> str:
    """Write the comparison as a table: what each strategy sends, how good it is, how much it sends."""
    return "\n".join(table_lines(comparison(folder / "comparison.csv")[1]))


def table_lines(lines: list[Line]) -> Iterator[str]:
    """Yield the lines of the table."""
    from simulations.look import BYTES_PER_VALUE, quantity

    about, values, size = sentences(), quantity("uplink_floats_per_round"), quantity("uplink_bytes_per_round")
    yield "| strategy | what it sends | test accuracy | values a round | bytes a round |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for line in lines:
        costs = f"{values.shown(line.values)} | {size.shown(line.values * BYTES_PER_VALUE)}"
        yield f"| `{line.strategy}` | {about.get(line.strategy, '')} | {line.accuracy} | {costs} |"


def setting(folder: Path) -> str:
    """Write the setting of a comparison, and what LASER gets out of each value beside Z-SGD, in two sentences."""
    rows, lines = comparison(folder / "comparison.csv")
    known = next(row for row in rows if row.get("clients"))
    seeds = sorted({int(row["seed"]) for row in rows if row.get("seed")})
    by_name = {line.strategy: line for line in lines}
    power = f"power {float(known['power']):g}"
    facts = f"Task `{known['task']}`, model `{known['model']}`, {known['clients']} clients, {power}"
    rounds, plural = max(int(row["rounds"]) for row in rows if row.get("rounds")), "s" * (len(seeds) > 1)
    return f"{facts}, {rounds} rounds, seed{plural} {', '.join(map(str, seeds))}. {ratio(by_name)}"


def ratio(lines: Mapping[str, Line]) -> str:
    """Write LASER's score and values beside those of Z-SGD."""
    laser, plain = lines["laser"], lines["z-sgd"]
    share = f"{plain.values / laser.values:,.0f} times fewer values than `z-sgd`"
    return f"`laser` sends {share} and reaches {laser.accuracy}; `z-sgd` {outcome(plain)}."


def outcome(line: Line) -> str:
    """Write the score of a strategy as the end of a sentence."""
    return f"reaches {line.accuracy}" if line.accuracy.endswith("%") else line.accuracy


WRITERS: dict[str, Callable[[], str]] = {
    "compare": lambda: table(ROOT / "docs/results/compare"),
    "compare-setting": lambda: setting(ROOT / "docs/results/compare"),
}


def written(text: str) -> str:
    """Return a text with all of its numbers as the files say. Exits with a line where a place has an unknown name."""

    def fill(match: re.Match[str]) -> str:
        if match["name"] not in WRITERS:
            sys.exit(f"numbers: must be one of {', '.join(WRITERS)}, got {match['name']}")
        return match["begin"] + WRITERS[match["name"]]() + match["end"]

    return PLACE.sub(fill, text)


def main(check: bool) -> None:
    """Write all texts, or compare them."""
    for place in TEXTS:
        path = ROOT / place
        before = path.read_text()
        if (after := written(before)) == before:
            continue
        if check:
            sys.exit(f"{place}: its numbers are not those of docs/results: run python .ci/write_numbers.py")
        path.write_text(after)


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
