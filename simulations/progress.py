"""What a person sees while a run goes: a bar on a terminal, plain lines elsewhere."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from laser_fl.loop import Metrics, Observer, Training


class Bar(Observer):
    """A live bar with round, loss, score, rounds per second and time left."""

    def __init__(self, console: Console, label: str) -> None:
        """label: stands before the bar. Use as a context manager."""
        self._progress = Progress(
            TextColumn(label),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(label, total=None, state="", pace="")
        self._seconds = 0.0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def on_round(self, training: Training, seconds: float) -> None:
        """Move on by one round."""
        self._seconds += seconds
        pace = f"{training.round / self._seconds:.0f} rounds/s"
        self._progress.update(self._task, completed=training.round, total=training.plan.rounds, pace=pace)

    def on_evaluation(self, training: Training, metrics: Metrics) -> None:
        """Show the loss and the scores."""
        scores = "  ".join(f"{name} {value:.3f}" for name, value in metrics.test.items() if name != "loss")
        self._progress.update(self._task, state=f"train loss {metrics.train_loss:.3f}  {scores}")


class Lines(Observer):
    """A line per evaluation."""

    def __init__(self, console: Console, label: str) -> None:
        """label: stands before each line. Use as a context manager."""
        self._console = console
        self._label = label

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def on_evaluation(self, training: Training, metrics: Metrics) -> None:
        """Print how far the run is and how well it does."""
        line = f"{self._label}  {metrics.line(training.plan.rounds)}"
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def watch(console: Console, label: str) -> Bar | Lines:
    """The observer that fits `console`."""
    return Bar(console, label) if console.is_terminal else Lines(console, label)
