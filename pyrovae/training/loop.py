"""The loop over epochs: steps, validation, early stopping and saving."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter

from ..data.batches import Batches, LoaderBatches
from ..errors import NotFinite
from ..infer.parallel.processes import Processes
from ..infer.parallel.shards import Shards
from ..infer.svi.state import State
from ..infer.svi.svi import SVI
from .history import Epoch, History
from .passes import Figures, Pass, iterate_steps, validate
from .progress import TrainingProgress
from .resumable import Resumable
from .symptoms import Symptoms

__all__ = ["TrainingLoop"]

_ADVICE = "lower the learning rate (lr), clip the gradient (clip_norm=100), or standardise the data"


@dataclass
class TrainingLoop:
    """Runs the epochs of a fit.

    Attributes:
        svi: takes the steps.
        train: the training data.
        held_out: the validation data, or None.
        history: gets an entry for each epoch.
        epochs: passes through the data.
        patience: epochs without a lower validation loss after which to stop; None for never.
        skips: whether steps that are not finite are skipped.
        processes: those that share the fit.
        shards: parts of each batch that processes share; None for the whole batch.
        resumable: saves states; None where none are saved.
        symptoms: warns of signs of trouble.
        progress: the progress bar.
        on_epoch: called with the history after each epoch.
    """

    svi: SVI
    train: Batches | LoaderBatches
    held_out: Batches | LoaderBatches | None
    history: History
    epochs: int
    patience: int | None
    skips: bool
    processes: Processes
    shards: Shards | None
    resumable: Resumable | None
    symptoms: Symptoms
    progress: TrainingProgress
    on_epoch: Callable[[History], None] | None
    _best: State | None = field(default=None, init=False)

    def run(self) -> None:
        """Run the epochs that are left."""
        if self.resumable is not None:
            self._best = self.resumable.best
        while len(self.history.epochs) < self.epochs and not self.history.stopped_early:
            epoch = self._run_epoch(len(self.history.epochs) + 1)
            if self.shards is not None:
                self.shards.check_same_parameters(self.svi.parameters)
            if self.patience is not None:
                since_best = epoch.epoch - self.history.best.epoch
                self.history.stopped_early = since_best >= self.patience
            keeps_best = self.patience is not None or self.resumable is not None
            if keeps_best and self.held_out is not None and self.history.best is epoch:
                self._best = self.svi.state()
            self._report(is_last=epoch.epoch == self.epochs or self.history.stopped_early)

    def restore_best(self) -> None:
        """With patience, go back to the parameters of the best epoch."""
        if self.patience is not None and self._best is not None:
            self._best.load("parameter", self.svi.parameters)
            self._best.load("buffer", self.svi.buffers())

    def _run_epoch(self, number: int) -> Epoch:
        """Train for one epoch, validate, and add both to the history."""
        start = perf_counter()
        steps = iterate_steps(self.train, self.shards, number)
        pass_ = Pass(steps) if self.resumable is None else self.resumable.begin_pass(steps)
        # Between the batches of a DataLoader the code of others runs, which may change the program.
        steady = self.svi.steady() if isinstance(self.train, Batches) else nullcontext()
        with _name_batch(len(self.train)), steady:
            losses = self._take_steps(pass_)
        seconds = perf_counter() - start
        held_out = validate(self.svi, self.held_out, self.processes)
        epoch = Epoch(number, *losses, *held_out, self.svi.learning_rate, seconds)
        self.history.epochs.append(epoch)
        self.history.num_skipped = self.svi.num_skipped
        self.progress.epoch_done(epoch, self.train.size)
        return epoch

    def _take_steps(self, pass_: Pass) -> Figures:
        """Take the steps that are left in a pass; return the mean figures of all of it."""
        step, step_done, progress = self.svi.step, None, self.progress.step_done
        if self.resumable is not None:
            step_done = self.resumable.step_done
        for batch in pass_.batches:
            pass_.add(step(*batch), len(batch[0]), skip=self.skips)
            progress(pass_)
            if step_done is not None:
                step_done()
        self.svi.check_finite()
        figures = pass_.figures()
        if not (self.skips or isfinite(figures[0])):
            raise NotFinite("no loss since the start of the epoch was finite", self.svi.num_steps)
        return figures

    def _report(self, *, is_last: bool) -> None:
        """Warn of symptoms, call the user's function, and save a state if it is time to."""
        if self.processes.is_first or self.svi.is_split:  # split parameters need all processes
            self.symptoms.check(self.history.epochs, is_last)
        if self.on_epoch is not None:
            self.on_epoch(self.history)
        if self.resumable is not None:
            self.resumable.epoch_done(self._best, is_last=is_last)


@contextmanager
def _name_batch(num_batches: int) -> Iterator[None]:
    """Within, an error about a step that is not finite names its epoch and batch."""
    try:
        yield
    except NotFinite as error:
        epoch, batch = divmod(error.step - 1, num_batches)
        raise NotFinite(
            f"in batch {batch + 1} of epoch {epoch + 1}, {error}: {_ADVICE}", error.step
        ) from None
