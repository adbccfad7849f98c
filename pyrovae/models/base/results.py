"""What a trained model says about data: their codes, and their classes or clusters."""

from dataclasses import dataclass

from jaxtyping import Float, Int, Num
from torch import Tensor

__all__ = ["Encoding", "Prediction"]


@dataclass(frozen=True)
class Encoding:
    """q(z | x) of each datum, without gradients.

    Attributes:
        mean: the mean of q(z | x).
        sd: its standard deviation, for each dimension of z.
        draws: draws from q(z | x), if you asked for some.
    """

    mean: Float[Tensor, "data *code"]
    sd: Float[Tensor, "data *code"]
    draws: Num[Tensor, "draws data *code"] | None = None


@dataclass(frozen=True)
class Prediction:
    """The class or the cluster of each datum, without gradients.

    Attributes:
        label: number of the most probable class or cluster.
        probabilities: of each class or cluster.
        names: names of the classes, in the order of their numbers; None for clusters, and for
            classes that are numbers.
    """

    label: Int[Tensor, "data"]
    probabilities: Float[Tensor, "data classes"]
    names: tuple[str, ...] | None = None

    @property
    def words(self) -> list[str]:
        """The name of each label."""
        numbers = self.label.tolist()
        return [str(each) if self.names is None else self.names[each] for each in numbers]
