"""Where several samples of each datum lie in the tensors of a trace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .bound import Bound
from .sites import Site, data_dim, is_local, sample_sites, subsample_scale

__all__ = ["PARTICLE_PLATE", "ParticleLayout", "PerSample"]

PARTICLE_PLATE = "_particles"
"""Name of the outer plate of samples."""

PerSample = Float[Tensor, "particles batch"]


@dataclass(frozen=True)
class ParticleLayout:
    """Where K samples of each datum lie in the tensors of a trace.

    Either the pair runs in an outer plate of K, and samples have a dimension of their own; or the
    rows of the batch are repeated, and the K samples of a datum are rows in succession.

    Attributes:
        num: K.
        plate: name of the plate over data.
        particle_dim: the dimension of the outer plate, counted from the right of a batch shape;
            None without an outer plate.
    """

    num: int
    plate: str
    particle_dim: int | None = None

    @property
    def uses_plate(self) -> bool:
        """Whether there is an outer plate."""
        return self.particle_dim is not None

    @property
    def repeats_rows(self) -> bool:
        """Whether each datum of the batch is repeated."""
        return self.num > 1 and not self.uses_plate

    def is_local(self, site: Site) -> bool:
        """Whether each datum has a value of its own at the site."""
        return is_local(site, self.plate)

    def data_dim(self, site: Site) -> int:
        """The dimension over data of a local site, counted from the right of its batch shape."""
        return data_dim(site, self.plate)

    def total(self, sites: Sequence[Site]) -> PerSample:
        """Sum the unscaled log-densities of local sites for each sample and datum."""
        terms = [self._per_sample(site, site["log_prob"]) for site in sites]
        return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]

    def rows(
        self, x: Float[Tensor, "..."], num_batch_dims: int, data_dim: int
    ) -> Float[Tensor, "particles batch dims"]:
        """Bring samples and data to the front of a tensor, and flatten the rest.

        Arguments:
            x: a tensor whose leading dimensions are the batch shape of a local site.
            num_batch_dims: how many dimensions that batch shape has.
            data_dim: which of them is over data, counted from their right.
        """
        if self.particle_dim is None:
            x = x.movedim(num_batch_dims + data_dim, 0)
            return x.reshape(-1, self.num, x[0].numel()).transpose(0, 1)
        x = x.movedim((num_batch_dims + self.particle_dim, num_batch_dims + data_dim), (0, 1))
        return x.reshape(*x.shape[:2], -1)

    def scale_gradient(self, site: Site, scale: Callable[[], PerSample]) -> None:
        """Multiply the gradient in a sampled value by a factor for each sample and datum.

        Arguments:
            site: a local site with a value that requires a gradient.
            scale: gives the factors when the backward pass reaches the value.
        """
        dims: tuple[int, ...] = (self.data_dim(site),)
        if self.particle_dim is not None:
            dims = (self.particle_dim, *dims)
        dims = tuple(dim - site["fn"].event_dim for dim in dims)

        def multiply(gradient: Tensor) -> Tensor:
            factors = scale() if self.uses_plate else scale().T.reshape(-1)
            shape = [1] * gradient.dim()
            for dim, size in zip(dims, factors.shape, strict=True):
                shape[dim] = size
            return gradient * factors.reshape(shape)

        site["value"].register_hook(multiply)

    def particle_numbers(self, site: Site) -> tuple[int, Int[Tensor, "along"]] | None:
        """The dimension of a site along which its particles lie, and their numbers along it.

        The dimension is counted from the right of the batch shape. With repeated rows the numbers
        run through the particles of all data. None for a site that has one value for all particles.
        """
        if self.particle_dim is not None:
            dim = self.particle_dim
        elif self.is_local(site):
            dim = self.data_dim(site)
        else:
            return None
        return dim, torch.arange(site["fn"].batch_shape[dim])

    def num_data(self, bound: Bound) -> int:
        """N: the declared number of data, or else the number of data in the batch."""
        sizes = {
            frame.full_size or frame.size
            for site in sample_sites(bound.model_trace)
            if self.repeats_rows and bound.declared_size is None
            for frame in site["cond_indep_stack"]
            if frame.name == self.plate and frame.full_size in (None, frame.size)
        }
        return bound.size // self.num if sizes else bound.size

    def _per_sample(self, site: Site, log_prob: Tensor) -> PerSample:
        """Sum a term of a local site over its other plates, without the scale."""
        dim, scale = self.data_dim(site), subsample_scale(site, self.plate)
        kept = (dim,) if self.particle_dim is None else (dim, self.particle_dim)
        summed = [d for d in range(-log_prob.dim(), 0) if d not in kept]
        terms: Tensor = (log_prob.sum(summed) if summed else log_prob) / scale
        if self.uses_plate:
            return terms
        return terms.view(-1, self.num).T
