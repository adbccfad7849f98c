"""A trained pair of your own in a folder: its parameters, without its code.

::

    FOLDER/pair.json               names and constraints of the parameters, the epochs of the fit
    FOLDER/parameters.safetensors  their values, and the states of modules

The programs themselves are yours: give them to :func:`pyrovae.open`, which puts the values back.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions.constraints as pyro_constraints
import safetensors.torch
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ..errors import InputError, error_reason, short_repr
from ..infer.pair.bound import PyroFunction
from ..infer.pair.pair import Pair
from ..storage import atomic
from ..storage.checksum import checksum
from ..storage.tensors import save_tensors
from ..storage.versions import versions

__all__ = ["PAIR", "epochs_of", "read_pair", "write_pair"]

PAIR = "pair.json"

_TENSORS = "parameters.safetensors"

_FORMAT = 1
_DIGEST = "sha256"
_MOST_CHARACTERS = 20_000_000

_OF_NETWORK = "$$$"
"""In Pyro's names of the parameters of a network, between the name of the network and the path."""

_OF_PACKAGE = "@"
"""In the names of parameters of models of this package, which are in their modules."""

_PARTS = ("model", "guide")

_PARAMETRIC = ("greater_than", "greater_than_eq", "less_than", "interval", "half_open_interval")
_BOUNDS = ("lower_bound", "upper_bound")


def write_pair(folder: Path, pair: Pair, epochs: list[Any]) -> None:
    """Write the parameters of a pair, and the epochs of its fit.

    Raises:
        InputError: if a parameter has a constraint of your own, or the folder cannot be written to.
    """
    state = pair.kept_state()
    tensors, texts = {}, {}
    for name, value in state["params"].items():
        if _OF_PACKAGE not in name:
            tensors[f"param/{name}"] = value
            texts[name] = _describe(name, state["constraints"][name])
    if isinstance(pair.put_back, _PutBack):  # of programs that have not run since they were opened
        for name, value in pair.put_back.values.items():
            tensors.setdefault(f"param/{name}", value)
            texts.setdefault(name, "real")
    for part, module in zip(_PARTS, pair.owners, strict=True):
        if module is not None:
            tensors |= {f"{part}/{key}": value for key, value in module.state_dict().items()}
    _refuse_buffers(pair, state["params"])
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    record = {
        "format": _FORMAT,
        "versions": versions(),
        "constraints": texts,
        "epochs": [asdict(epoch) for epoch in epochs],
    }
    text = json.dumps(record, indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(folder / _TENSORS, save_tensors(tensors, {_DIGEST: checksum(tensors, text)}))
        atomic.write(folder / PAIR, text.encode())
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error_reason(error)}") from error


def read_pair(
    folder: Path, model: PyroFunction, guide: PyroFunction, device: torch.device
) -> tuple[Pair, list[dict[str, Any]]]:
    """Put the parameters of a folder back into a model and a guide.

    Modules are changed in place and put into eval mode. Pyro's store is left as it is.

    Returns:
        The pair, and the epochs of its fit.

    Raises:
        InputError: if a file is damaged, or the parameters do not fit the model or the guide.
    """
    text = _read_text(folder / PAIR)
    tensors = _read_tensors(folder / _TENSORS, text)
    record = json.loads(text)
    pair = Pair(model, guide)
    params: dict[str, Tensor] = {}
    networks: dict[str, Tensor] = {}
    limits: dict[str, Constraint] = {}
    for name, described in record["constraints"].items():
        value = tensors[f"param/{name}"].to(device)
        if _OF_NETWORK in name:
            networks[name] = value
        else:
            params[name] = value.requires_grad_()
            limits[name] = _find_constraint(name, described)
    for part, module in zip(_PARTS, pair.owners, strict=True):
        own = {
            key.partition("/")[2]: value
            for key, value in tensors.items()
            if key.startswith(f"{part}/")
        }
        if module is not None:
            module.to(device)
            _load_module(module, own, f"the {part} of {folder}")
            module.eval()
        elif own:
            raise InputError(f"the {part} of {folder} is a module; give an object of its class")
    put_back = _PutBack(networks | params, folder)
    pair.start_from({"params": params, "constraints": limits}, put_back)
    return pair, record["epochs"]


class _PutBack(Messenger):
    """Give networks their saved parameters when the program first declares them."""

    def __init__(self, values: dict[str, Tensor], folder: Path) -> None:
        super().__init__()
        self.values = values
        self._folder = folder

    @torch.no_grad()
    def _pyro_param(self, msg: Any) -> None:
        name, args = msg["name"], msg["args"]
        given = args[1] if len(args) > 1 else None
        if not isinstance(given, nn.Parameter) or name not in self.values:
            return
        saved = self.values.pop(name)
        store = pyro.get_param_store()
        if name in store:  # a tensor of its own, where the program has this one
            del store[name]
        if saved.shape != given.shape:
            raise InputError(
                f"parameter {name!r} has shape {tuple(given.shape)} in the program, but "
                f"{tuple(saved.shape)} in {self._folder}; build the networks as in training"
            )
        given.copy_(saved)


def _load_module(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load the state of a module; a PyroModule may make its parameters later, from the store."""
    own = module.state_dict()
    wrong = [key for key in state if key in own and own[key].shape != state[key].shape]
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    if wrong or missing or (unknown and not isinstance(module, PyroModule)):
        key = (wrong or missing or unknown)[0]
        raise InputError(
            f"{what} does not fit the module that you gave, in {key!r}; build it as in training"
        )
    module.load_state_dict({key: state[key] for key in own})


def _refuse_buffers(pair: Pair, params: dict[str, Tensor]) -> None:
    """Refuse networks that functions register, and whose buffers no one would keep.

    Raises:
        InputError: naming the first of their buffers.
    """
    kept = {id(value) for name, value in params.items() if _OF_NETWORK in name}
    held = {id(each) for owner in pair.owners if owner is not None for each in owner.modules()}
    for network in pair.reachable_modules():
        is_registered = any(id(each) in kept for each in network.parameters())
        names = [name for name, _ in network.named_buffers()]
        if is_registered and names and id(network) not in held:
            raise InputError(
                f"a network of the program has a buffer {names[0]!r}, which is none of its "
                "parameters; let the model or the guide be a module that holds the network"
            )


def _known() -> Iterator[tuple[str, Constraint]]:
    for module in (constraints, pyro_constraints):
        for name in sorted(vars(module)):
            value = getattr(module, name)
            if isinstance(value, Constraint):
                yield name, value


def _describe(name: str, constraint: Constraint) -> Any:
    """A constraint in plain values.

    Raises:
        InputError: if it is one of the user's own.
    """
    for known, value in _known():
        if value is constraint or (
            type(value) is type(constraint) and vars(value) == vars(constraint)
        ):
            return known
    if isinstance(constraint, constraints.independent):
        base = _describe(name, constraint.base_constraint)
        return {"independent": base, "ndims": constraint.reinterpreted_batch_ndims}
    for kind in _PARAMETRIC:
        made = getattr(constraints, kind)
        if type(constraint) is made:
            own = vars(constraint)
            bounds = {key: float(own[key]) for key in _BOUNDS if key in own}
            return {kind: bounds}
    raise InputError(
        f"parameter {name!r} has the constraint {short_repr(constraint)}, which a file cannot "
        "keep; use one of torch.distributions.constraints"
    )


def _find_constraint(name: str, described: Any) -> Constraint:
    known = dict(_known())
    if isinstance(described, str) and described in known:
        return known[described]
    if isinstance(described, dict) and "independent" in described:
        base = _find_constraint(name, described["independent"])
        return constraints.independent(base, int(described.get("ndims", 0)))
    if isinstance(described, dict) and len(described) == 1:
        ((kind, bounds),) = described.items()
        if kind in _PARAMETRIC and isinstance(bounds, dict):
            made: Constraint = getattr(constraints, kind)(**{k: float(bounds[k]) for k in bounds})
            return made
    raise InputError(f"parameter {name!r} has an unknown constraint, {short_repr(described)}")


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_CHARACTERS)
        record = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error_reason(error)}") from error
    is_ours = isinstance(record, dict) and isinstance(record.get("constraints"), dict)
    if not is_ours or not isinstance(record.get("epochs"), list):
        raise InputError(f"{path} does not describe a pair of model and guide")
    if record.get("format") != _FORMAT:
        raise InputError(
            f"{path} has format {short_repr(record.get('format'))}, and this version of pyrovae "
            f"reads format {_FORMAT}; install a later version"
        )
    return text


def _read_tensors(path: Path, text: str) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is damaged, or not there: {error_reason(error)}") from error
    names = {f"param/{name}" for name in json.loads(text)["constraints"]}
    if metadata.get(_DIGEST) != checksum(tensors, text) or not names <= tensors.keys():
        raise InputError(f"{path} is damaged, or does not belong to {PAIR} beside it")
    if not all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point()):
        raise InputError(f"{path} holds numbers that are not finite")
    return tensors


def epochs_of(records: list[dict[str, Any]], kind: type[Any], path: Path) -> list[Any]:
    """The epochs of a fit, from plain values.

    Raises:
        InputError: if one has other names.
    """
    names = {each.name for each in fields(kind)}
    if any(not isinstance(each, dict) or each.keys() != names for each in records):
        raise InputError(f"{path} holds epochs that are not those of a fit")
    return [kind(**each) for each in records]
