"""A fit that is killed and resumed ends with the same bits as one that is not."""

import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import VAE, History, InputError, fit
from pyrovae.errors import Interrupted
from pyrovae.training.snapshots import BEST, LAST, Snapshots

from .killed_fits import NUM_DATA, SETUPS, STEPS, Kill, counts, run_fit

ONCE = ("compiled", "loader_of_two_workers")
"""Setups whose processes take seconds to start, so that they are killed once."""


def make_vae() -> VAE:
    torch.manual_seed(3)
    return VAE((1, 4, 4), 2, {"family": "Binomial", "total_count": 16})


def train(vae: VAE, epochs: int = 2, x: torch.Tensor | None = None, **settings: Any) -> History:
    """A short fit, with a state at each step."""
    data = counts() if x is None else x
    options = {"batch_size": 10, "progress": False, "checkpoint_every": 0.0} | settings
    return fit(vae.model, vae.guide, data, epochs=epochs, **options)


def have_equal_states(one: VAE, other: VAE) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def rows_without_seconds(history: History) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows()]


@pytest.mark.slow
@pytest.mark.parametrize("setup", sorted(SETUPS.keys() - set(ONCE)))
def test_killed_at_random_moments_and_resumed(setup: str, tmp_path: Path) -> None:
    expected = run_fit(setup, tmp_path / "whole", None, every=1e9)
    when = random.Random(setup)
    kills = [Kill(STEPS)]  # in the last step of a pass, whose batch is smaller
    kills += [Kill(when.randint(1, STEPS + 1), when.uniform(0, 0.01)) for _ in range(2)]
    found = [run_fit(setup, tmp_path / "killed", kill) for kill in kills]
    assert found == [None, None, None]
    assert run_fit(setup, tmp_path / "killed", None) == expected


@pytest.mark.slow
@pytest.mark.parametrize("setup", ONCE)
def test_killed_before_a_smaller_batch(setup: str, tmp_path: Path) -> None:
    expected = run_fit(setup, tmp_path / "whole", None, every=1e9, epochs=2)
    assert run_fit(setup, tmp_path / "killed", Kill(STEPS), epochs=2) is None
    assert run_fit(setup, tmp_path / "killed", None, epochs=2) == expected


@pytest.mark.slow
def test_states_are_saved_at_intervals(tmp_path: Path) -> None:
    """A killed fit goes back to the last saved state, and ends the same."""
    expected = run_fit("vae_with_patience", tmp_path / "whole", None, every=1e9)
    assert run_fit("vae_with_patience", tmp_path / "killed", Kill(STEPS + 4), every=0.02) is None
    assert run_fit("vae_with_patience", tmp_path / "killed", None, every=1e9) == expected


@pytest.mark.slow
def test_resuming_a_finished_fit_changes_nothing(tmp_path: Path) -> None:
    one, other = make_vae(), make_vae()
    settings: dict[str, Any] = {"validation": counts()[:20], "patience": 1, "lr": 0.5}
    history = train(one, 20, checkpoint=tmp_path, **settings)
    assert history.stopped_early
    saved = (tmp_path / "last.safetensors").read_bytes()
    drawn = torch.rand(3)
    again = train(other, 20, resume=tmp_path, **settings)
    assert have_equal_states(one, other)
    assert history.rows() == again.rows()
    assert again.stopped_early
    assert torch.equal(drawn, torch.rand(3))
    assert (tmp_path / "last.safetensors").read_bytes() == saved


@pytest.mark.slow
def test_best_parameters_are_restored_after_a_resume(tmp_path: Path) -> None:
    """The best epoch lies before the interruption, and the patience ends after it."""
    settings: dict[str, Any] = {"validation": counts()[:20], "patience": 3, "lr": 0.2}
    one, other = make_vae(), make_vae()
    whole = train(one, 40, checkpoint=tmp_path / "whole", checkpoint_every=1e9, **settings)
    assert whole.stopped_early
    stop_after = whole.best.epoch + 1

    def stop(history: History) -> None:
        if len(history.epochs) > stop_after:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        train(make_vae(), 40, checkpoint=tmp_path / "part", on_epoch=stop, **settings)
    resumed = train(other, 40, resume=tmp_path / "part", **settings)
    assert rows_without_seconds(resumed) == rows_without_seconds(whole)
    assert have_equal_states(one, other)
    # Best and last are separate states, each with the moments of its own step.
    snapshots = Snapshots(tmp_path / "part")
    best, last = snapshots.read(BEST).get_state("svi"), snapshots.read(LAST).get_state("svi")
    steps = NUM_DATA // 10
    assert best.record["num_steps"] == whole.best.epoch * steps
    assert last.record["num_steps"] == len(whole.epochs) * steps
    of_best, of_last = (each.tensors["optimiser.state.0.exp_avg"] for each in (best, last))
    assert not torch.equal(of_best, of_last)


@pytest.mark.slow
def test_resume_for_more_epochs(tmp_path: Path) -> None:
    one, other = make_vae(), make_vae()
    whole = train(one, 4, checkpoint=tmp_path / "whole")
    train(make_vae(), 2, checkpoint=tmp_path / "part")
    more = train(other, 4, resume=tmp_path / "part")
    assert rows_without_seconds(more) == rows_without_seconds(whole)
    assert have_equal_states(one, other)


def test_states_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    vae = make_vae()
    with pytest.raises(FloatingPointError):
        train(vae, 50, checkpoint=tmp_path, optimiser=partial(SGD, lr=1e30))
    for tensor in Snapshots(tmp_path).read(LAST).get_state("svi").tensors_of("parameter"):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 2])
def test_signal_ends_the_step_and_saves_it(number: signal.Signals, at: int, tmp_path: Path) -> None:
    """At the end of the first epoch, and of the last."""
    before = signal.getsignal(number)

    def interrupt(history: History) -> None:
        if len(history.epochs) == at:
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match=f"stopped after epoch {at} and 0 steps; go on") as found:
        train(make_vae(), checkpoint=tmp_path / "part", on_epoch=interrupt, checkpoint_every=1e9)
    assert found.value.number == number
    assert signal.getsignal(number) is before
    one, other = make_vae(), make_vae()
    whole = train(one, checkpoint=tmp_path / "whole")
    assert rows_without_seconds(train(other, resume=tmp_path / "part")) == rows_without_seconds(
        whole
    )
    assert have_equal_states(one, other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"x": counts()[:40]}, "50 data in 5 batches; these are 40 in 4"),
        ({"x": counts() // 2}, "or other values"),
        ({"batch_size": 7}, "50 data in 5 batches; these are 50 in 8"),
        ({"optimiser": partial(SGD, lr=1.0)}, "had optimiser Adam, and now has SGD"),
        ({"lr": 0.5}, "and now has 0.5: give the one it had"),
        ({"clip_norm": 3.0}, "had clip_norm None, and now has 3.0"),
        ({"accumulate": 2}, "had accumulate 1, and now has 2"),
        ({"shards": 2}, "had shards None, and now has 2"),
        ({"objective": {"name": "iwae", "num_particles": 2}}, "had objective "),
        ({"schedule": partial(LambdaLR, lr_lambda=lambda n: 1.0)}, "no schedule"),
        ({"schedule": "cosine"}, "the schedule and epochs that it had"),
        ({"objective": {"name": "beta", "beta": 2.0}}, "had objective "),
    ],
)
def test_resume_with_other_settings_is_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    train(make_vae(), 1, checkpoint=tmp_path)
    with pytest.raises(InputError, match=words):
        train(make_vae(), 2, resume=tmp_path, **settings)


def test_resume_with_another_model_is_refused(tmp_path: Path) -> None:
    train(make_vae(), 1, checkpoint=tmp_path)
    wider = VAE((1, 4, 4), 3, {"family": "Binomial", "total_count": 16})
    with pytest.raises(InputError, match="of another model, likelihood or optimiser: parameter"):
        train(wider, 2, resume=tmp_path)


def test_resume_of_a_cosine_over_other_epochs_is_refused(tmp_path: Path) -> None:
    train(make_vae(), 1, checkpoint=tmp_path, schedule="cosine")
    with pytest.raises(InputError, match="over 5 steps, and would now decay over 10"):
        train(make_vae(), 2, resume=tmp_path, schedule="cosine")


class _WithObjectInState(LambdaLR):
    """A schedule with an object in its state that cannot be saved."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"function": object()}


def _refused_schedules() -> dict[str, Any]:
    return {
        "a checkpoint cannot hold": partial(_WithObjectInState, lr_lambda=lambda n: 1.0),
        "it returned ReduceLROnPlateau": ReduceLROnPlateau,
        "it returned int": lambda optimiser: 3,
    }


@pytest.mark.parametrize("words", _refused_schedules())
def test_bad_schedules_are_refused_before_the_first_step(words: str, tmp_path: Path) -> None:
    vae, before = make_vae(), make_vae()
    with pytest.raises(InputError, match=words):
        train(vae, checkpoint=tmp_path, schedule=_refused_schedules()[words])
    assert have_equal_states(vae, before)
    assert not Snapshots(tmp_path).exist()


def test_bad_folders_are_refused_before_the_first_step(tmp_path: Path) -> None:
    vae, before = make_vae(), make_vae()
    (tmp_path / "file").write_text("")
    (tmp_path / "occupied" / "last.safetensors").mkdir(parents=True)
    for folder, words in {
        tmp_path / "file": "cannot write to .*file: File exists",
        tmp_path / "file" / "in it": "cannot write to .*Not a directory",
        Path("/proc/states"): "cannot write to /proc/states: No such file or directory",
        tmp_path / "occupied": "last.safetensors is a folder",
    }.items():
        with pytest.raises(InputError, match=words):
            train(vae, checkpoint=folder)
    with pytest.raises(InputError, match="there is no checkpoint"):
        train(vae, resume=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="give one of them"):
        train(vae, checkpoint=tmp_path / "one", resume=tmp_path / "one")
    with pytest.raises(InputError, match="checkpoint_every is nan"):
        train(vae, checkpoint=tmp_path / "one", checkpoint_every=float("nan"))
    assert have_equal_states(vae, before)
    train(vae, 1, checkpoint=tmp_path / "one")
    with pytest.raises(InputError, match="holds states of a fit already; resume it with resume="):
        train(vae, checkpoint=tmp_path / "one")


@pytest.mark.slow
def test_resume_restores_the_generator_of_a_loader(tmp_path: Path) -> None:
    def loader() -> Any:
        generator = torch.Generator().manual_seed(1)
        return DataLoader(TensorDataset(counts()), 10, shuffle=True, generator=generator)

    one, other = make_vae(), make_vae()
    whole = train(one, 4, loader(), checkpoint=tmp_path / "whole")
    train(make_vae(), 2, loader(), checkpoint=tmp_path / "part")
    more = train(other, 4, loader(), resume=tmp_path / "part")
    assert rows_without_seconds(more) == rows_without_seconds(whole)
    assert have_equal_states(one, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pyro.optim.Adam(lambda name: {"lr": 0.01 if "bias" in name else 0.02}),
        lambda: pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.99}),
        lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}, {"clip_norm": 1.0}),
        lambda: pyro.optim.AdagradRMSProp({"eta": 0.02}),
    ],
)
def test_optimisers_of_pyro_go_on(make: Any, tmp_path: Path) -> None:
    one, other = make_vae(), make_vae()
    whole = train(one, 3, checkpoint=tmp_path / "whole", optimiser=make())
    train(make_vae(), 1, checkpoint=tmp_path / "part", optimiser=make())
    more = train(other, 3, resume=tmp_path / "part", optimiser=make())
    assert rows_without_seconds(more)[2]["loss"] == rows_without_seconds(whole)[2]["loss"]
    assert have_equal_states(one, other)
