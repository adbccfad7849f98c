"""Open a trained model in Python, wherever its files are."""

from pathlib import Path
from typing import overload

from ..arguments import as_callable, as_path, as_text
from ..device import find_device
from ..errors import InputError
from ..infer.pair.bound import PyroFunction
from ..models.base import LatentVariableModel
from ..models.base.saved import DESCRIPTION, rebuild
from ..training.history import History
from ..training.saved import PAIR
from .trained import open_run

__all__ = ["open"]


@overload
def open(path: str | Path, *, device: str = "auto") -> LatentVariableModel: ...


@overload
def open(
    path: str | Path, *, model: PyroFunction, guide: PyroFunction, device: str = "auto"
) -> History: ...


def open(
    path: str | Path,
    *,
    model: PyroFunction | None = None,
    guide: PyroFunction | None = None,
    device: str = "auto",
) -> LatentVariableModel | History:
    """Open a model that ``pyrovae train`` or ``model.save`` has saved, in eval mode.

    For programs of your own, whose parameters ``history.save`` has saved, give the model and the
    guide, built as in training. You get the history of the fit, whose ``model`` and ``guide`` have
    these parameters. Modules are changed in place, networks that a function declares when it first
    runs.

    The training data and the machine of the training are not needed, and no code of the file runs.
    ``model.about`` says what the data were: names of columns, words, classes.

    Arguments:
        path: a run directory, or the folder of a saved model or history.
        model: p(x, z), for the folder of a history.
        guide: q(z | x), likewise.
        device: where to put the model: ``auto`` (CUDA if there is any, else the CPU), ``cpu``,
            ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        InputError: if there is no model, a file is damaged, or the device cannot be used.

    Example:
        >>> import tempfile
        >>> from pyrovae import VAE
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = VAE((3,), latent_dim=2, likelihood="Normal").save(folder)
        ...     model = open(folder)
        >>> model.sample(5).shape
        torch.Size([5, 3])
    """
    folder = as_path("path", path)
    name = as_text("device", device)
    place = find_device(name)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give a run directory, or where you saved a model")
    has_pair, is_given = (folder / PAIR).is_file(), model is not None or guide is not None
    if is_given:
        if not has_pair:
            raise InputError(f"{folder} holds no {PAIR}; model and guide are for a saved history")
        model = as_callable("model", model, "a Pyro function of x")
        guide = as_callable("guide", guide, "a Pyro function of x")
        return History.open(folder, model, guide, place)
    if has_pair:
        raise InputError(
            f"{folder} holds the parameters of programs of your own; give them too, as in "
            "open(path, model=model, guide=guide)"
        )
    if not (folder / DESCRIPTION).is_file():
        if (folder / "config.yaml").is_file():  # a run of a version that described no data
            return open_run(folder, name).family
        raise InputError(
            f"{folder} holds no {DESCRIPTION}; give a run directory, or where you saved a model"
        )
    model, description = rebuild(folder)
    if not isinstance(model, LatentVariableModel):
        raise InputError(f"{folder / DESCRIPTION} describes no model, but a part of one")
    model.about = description.data
    return model.to(place).eval()
