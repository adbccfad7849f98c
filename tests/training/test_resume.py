"""A fit that was killed ends with the bits of one that was not."""

import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import VAE, History, InputError, fit
from pyrovae.errors import Interrupted
from pyrovae.training.snapshots import BEST, LAST, Snapshots

from .killed_fits import NUM_DATA, SETUPS, STEPS, Kill, counts, run

ONCE = ("compiled", "loader_of_two_workers")
"""Whose processes take seconds to begin."""


def small() -> VAE:
    torch.manual_seed(3)
    return VAE((1, 4, 4), 2, {"family": "Binomial", "total_count": 16})


def trained(vae: VAE, epochs: int = 2, x: torch.Tensor | None = None, **settings: Any) -> History:
    """A short fit, with a state at each step."""
    data = counts() if x is None else x
    options = {"batch_size": 10, "progress": False, "checkpoint_every": 0.0} | settings
    return fit(vae.model, vae.guide, data, epochs=epochs, **options)


def same(one: VAE, other: VAE) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def rows(history: History) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows()]


@pytest.mark.parametrize("setup", sorted(SETUPS.keys() - set(ONCE)))
def test_killed_at_random_moments_and_resumed(setup: str, tmp_path: Path) -> None:
    expected = run(setup, tmp_path / "whole", None, every=1e9)
    when = random.Random(setup)
    kills = [Kill(STEPS)]  # in the last step of a pass, whose batch is smaller
    kills += [Kill(when.randint(1, STEPS + 1), when.uniform(0, 0.01)) for _ in range(2)]
    found = [run(setup, tmp_path / "killed", kill) for kill in kills]
    assert found == [None, None, None]
    assert run(setup, tmp_path / "killed", None) == expected


@pytest.mark.parametrize("setup", ONCE)
def test_killed_where_a_smaller_batch_comes_next(setup: str, tmp_path: Path) -> None:
    expected = run(setup, tmp_path / "whole", None, every=1e9, epochs=2)
    assert run(setup, tmp_path / "killed", Kill(STEPS), epochs=2) is None
    assert run(setup, tmp_path / "killed", None, epochs=2) == expected


def test_a_state_is_kept_only_where_it_is_time_to(tmp_path: Path) -> None:
    """A killed fit goes back to it, and comes to the same end."""
    expected = run("vae_with_patience", tmp_path / "whole", None, every=1e9)
    assert run("vae_with_patience", tmp_path / "killed", Kill(STEPS + 4), every=0.02) is None
    assert run("vae_with_patience", tmp_path / "killed", None, every=1e9) == expected


def test_finished_is_finished(tmp_path: Path) -> None:
    one, other = small(), small()
    settings: dict[str, Any] = {"validation": counts()[:20], "patience": 1, "lr": 0.5}
    history = trained(one, 20, checkpoint=tmp_path, **settings)
    assert history.stopped_early
    kept = (tmp_path / "last.safetensors").read_bytes()
    drawn = torch.rand(3)
    again = trained(other, 20, resume=tmp_path, **settings)
    assert same(one, other)
    assert history.rows() == again.rows()
    assert again.stopped_early
    assert torch.equal(drawn, torch.rand(3))
    assert (tmp_path / "last.safetensors").read_bytes() == kept


def test_the_best_parameters_come_back_after_a_resume(tmp_path: Path) -> None:
    """The best epoch lies before the interruption, and the patience ends after it."""
    settings: dict[str, Any] = {"validation": counts()[:20], "patience": 3, "lr": 0.2}
    one, other = small(), small()
    whole = trained(one, 40, checkpoint=tmp_path / "whole", checkpoint_every=1e9, **settings)
    assert whole.stopped_early
    stop_after = whole.best.epoch + 1

    def stop(history: History) -> None:
        if len(history.epochs) > stop_after:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        trained(small(), 40, checkpoint=tmp_path / "part", on_epoch=stop, **settings)
    resumed = trained(other, 40, resume=tmp_path / "part", **settings)
    assert rows(resumed) == rows(whole)
    assert same(one, other)
    # Best and last are kept apart, each with the moments of its own step.
    snapshots = Snapshots(tmp_path / "part")
    best, last = snapshots.read(BEST).part("svi"), snapshots.read(LAST).part("svi")
    steps = NUM_DATA // 10
    assert best.record["num_steps"] == whole.best.epoch * steps
    assert last.record["num_steps"] == len(whole.epochs) * steps
    of_best, of_last = (each.tensors["optimiser.state.0.exp_avg"] for each in (best, last))
    assert not torch.equal(of_best, of_last)


def test_more_epochs(tmp_path: Path) -> None:
    one, other = small(), small()
    whole = trained(one, 4, checkpoint=tmp_path / "whole")
    trained(small(), 2, checkpoint=tmp_path / "part")
    more = trained(other, 4, resume=tmp_path / "part")
    assert rows(more) == rows(whole)
    assert same(one, other)


def test_a_loss_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    vae = small()
    with pytest.raises(FloatingPointError):
        trained(vae, 50, checkpoint=tmp_path, optimiser=partial(SGD, lr=1e30))
    for tensor in Snapshots(tmp_path).read(LAST).part("svi").of("parameter"):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_ends_a_step_and_keeps_it(number: signal.Signals, at: int, tmp_path: Path) -> None:
    """At the end of the first epoch, and of the last."""
    before = signal.getsignal(number)

    def interrupt(history: History) -> None:
        if len(history.epochs) == at:
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match=f"stopped after epoch {at} and 0 steps; go on") as found:
        trained(small(), checkpoint=tmp_path / "part", on_epoch=interrupt, checkpoint_every=1e9)
    assert found.value.number == number
    assert signal.getsignal(number) is before
    one, other = small(), small()
    whole = trained(one, checkpoint=tmp_path / "whole")
    assert rows(trained(other, resume=tmp_path / "part")) == rows(whole)
    assert same(one, other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"x": counts()[:40]}, "50 data in 5 batches; these are 40 in 4"),
        ({"x": counts() // 2}, "or other values"),
        ({"batch_size": 7}, "50 data in 5 batches; these are 50 in 8"),
        ({"optimiser": partial(SGD, lr=1.0)}, "had optimiser Adam, and now has SGD"),
        ({"lr": 0.5}, "and now has 0.5: give what it had"),
        ({"clip_norm": 3.0}, "had clip_norm None, and now has 3.0"),
        ({"accumulate": 2}, "had accumulate 1, and now has 2"),
        ({"shards": 2}, "had shards None, and now has 2"),
        ({"objective": {"name": "iwae", "num_particles": 2}}, "had objective "),
        ({"schedule": partial(LambdaLR, lr_lambda=lambda n: 1.0)}, "no schedule"),
        ({"schedule": "cosine"}, "the schedule and the epochs that it had"),
        ({"objective": {"name": "beta", "beta": 2.0}}, "had objective "),
    ],
)
def test_another_fit_is_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    trained(small(), 1, checkpoint=tmp_path)
    with pytest.raises(InputError, match=words):
        trained(small(), 2, resume=tmp_path, **settings)


def test_another_model_is_refused(tmp_path: Path) -> None:
    trained(small(), 1, checkpoint=tmp_path)
    wider = VAE((1, 4, 4), 3, {"family": "Binomial", "total_count": 16})
    with pytest.raises(InputError, match="of another model, likelihood or optimiser: parameter"):
        trained(wider, 2, resume=tmp_path)


def test_a_cosine_over_other_epochs_is_refused(tmp_path: Path) -> None:
    trained(small(), 1, checkpoint=tmp_path, schedule="cosine")
    with pytest.raises(InputError, match="over 5 steps, and is now over 10"):
        trained(small(), 2, resume=tmp_path, schedule="cosine")


class _OfAnObject(LambdaLR):
    """A schedule whose state holds what is no plain value."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"function": object()}


def _refused_schedules() -> dict[str, Any]:
    return {
        "a checkpoint does not hold": partial(_OfAnObject, lr_lambda=lambda n: 1.0),
        "it gave ReduceLROnPlateau": ReduceLROnPlateau,
        "it gave int": lambda optimiser: 3,
    }


@pytest.mark.parametrize("words", _refused_schedules())
def test_schedules_are_refused_before_the_first_step(words: str, tmp_path: Path) -> None:
    vae, before = small(), small()
    with pytest.raises(InputError, match=words):
        trained(vae, checkpoint=tmp_path, schedule=_refused_schedules()[words])
    assert same(vae, before)
    assert not Snapshots(tmp_path).exist()


def test_folders_are_refused_before_the_first_step(tmp_path: Path) -> None:
    vae, before = small(), small()
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "last.safetensors").mkdir(parents=True)
    for folder, words in {
        tmp_path / "file": "cannot write to .*file: File exists",
        tmp_path / "file" / "in it": "cannot write to .*Not a directory",
        Path("/proc/states"): "cannot write to /proc/states: No such file or directory",
        tmp_path / "taken": "last.safetensors is a folder",
    }.items():
        with pytest.raises(InputError, match=words):
            trained(vae, checkpoint=folder)
    with pytest.raises(InputError, match="there is no checkpoint"):
        trained(vae, resume=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="give one of them"):
        trained(vae, checkpoint=tmp_path / "one", resume=tmp_path / "one")
    with pytest.raises(InputError, match="checkpoint_every is nan"):
        trained(vae, checkpoint=tmp_path / "one", checkpoint_every=float("nan"))
    assert same(vae, before)
    trained(vae, 1, checkpoint=tmp_path / "one")
    with pytest.raises(InputError, match="holds states of a fit; go on with resume="):
        trained(vae, checkpoint=tmp_path / "one")


def test_random_numbers_of_a_loader_of_its_own(tmp_path: Path) -> None:
    def loader() -> Any:
        generator = torch.Generator().manual_seed(1)
        return DataLoader(TensorDataset(counts()), 10, shuffle=True, generator=generator)

    one, other = small(), small()
    whole = trained(one, 4, loader(), checkpoint=tmp_path / "whole")
    trained(small(), 2, loader(), checkpoint=tmp_path / "part")
    more = trained(other, 4, loader(), resume=tmp_path / "part")
    assert rows(more) == rows(whole)
    assert same(one, other)
