"""Commands that list what can be named: likelihoods, and the other parts of a model."""

from .commands import app, make_console

__all__ = ["likelihoods", "parts"]


@app.command
def likelihoods() -> None:
    """List the likelihoods with the values they allow, their arguments and defaults."""
    from ..runs.report import print_likelihoods

    print_likelihoods(make_console())


@app.command
def parts() -> None:
    """List the models, priors, posteriors, inferences and objectives with their settings."""
    from ..runs.report import print_parts

    print_parts(make_console())
