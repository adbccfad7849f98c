"""Make one call with nonsense among its arguments, and report how it ended."""

import contextlib
import io
import signal
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from types import FrameType

import pyro
import torch
from hypothesis import strategies as st

from pyrovae.errors import InputError

from .calls import CALLS
from .nonsense import NONSENSE

__all__ = ["NonsenseCall", "Result", "make_call", "nonsense_calls"]

_TIMEOUT = 30
"""Seconds after which a call counts as hanging. A valid call takes milliseconds."""


@dataclass(frozen=True)
class NonsenseCall:
    """A call with nonsense for some arguments.

    Attributes:
        name: what is called.
        replaced: for each argument that is replaced, the name of its value in the pool.
        seed: seed of the call.
    """

    name: str
    replaced: Mapping[str, str]
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """How a call ended.

    Attributes:
        kind: "success", "refused" (an InputError in one line), "not finite" (a FloatingPointError,
            which functions document), "hung", or the name of another exception.
        text: the message.
        traceback: of an exception that should not have been raised.
    """

    kind: str
    text: str = ""
    traceback: str = field(default="", repr=False)

    @property
    def is_good(self) -> bool:
        """Whether the call ended as it should."""
        return self.kind in ("success", "refused", "not finite")


class _TimeoutError(BaseException):
    """Not an ``Exception``, so that nothing handles it."""


def nonsense_calls() -> st.SearchStrategy[NonsenseCall]:
    """Calls of all functions with nonsense for one or two arguments."""

    # Hypothesis repeats and mutates its choices, which are words here; so it draws a seed alone.
    return st.integers(0, 2**62).map(_draw_call)


def _draw_call(seed: int) -> NonsenseCall:
    random = Random(seed)
    name = random.choice(sorted(CALLS))
    arguments = sorted(CALLS[name].arguments)
    chosen = random.sample(arguments, min(random.choice((1, 1, 2)), len(arguments)))
    replaced = {each: random.choice(sorted(NONSENSE)) for each in chosen}
    # A network raises errors of its own where its input does not fit it.
    functions = {"transform", "encode", "sample", "loss"} & {
        each for each, value in replaced.items() if value == "network"
    }
    return NonsenseCall(name, replaced | dict.fromkeys(functions, "function of nothing"), seed)


def make_call(case: NonsenseCall, timeout: int = _TIMEOUT) -> Result:
    """Make a call, and restore torch's and Pyro's global state."""
    call = CALLS[case.name]
    values = {name: NONSENSE[value] for name, value in case.replaced.items()}
    pyro.clear_param_store()
    with (
        _time_limit(timeout),
        torch.random.fork_rng(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(case.seed)
        try:
            call(**values)
        except InputError as error:
            text = str(error)
            is_line = text and "\n" not in text and len(text) < 1000
            return Result("refused" if is_line else "long message", text)
        except FloatingPointError as error:
            return Result("not finite", str(error))
        except _TimeoutError:
            return Result("hung", f"still running after {timeout} s", traceback.format_exc())
        except BaseException as error:
            return Result(type(error).__name__, str(error)[:300], traceback.format_exc())
    return Result("success")


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
