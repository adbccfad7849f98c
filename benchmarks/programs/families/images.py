"""Networks for small images: autoencoders of several kinds, and attend, infer, repeat."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import (
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional

from ..program import Run, adam, cycle, program

PIXELS, CLASSES, HIDDEN, LATENT, BATCH = 36, 4, 16, 3, 20


def images(num: int = 100, seed: int = 0) -> Tensor:
    """Binary images of as many pixels."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.rand(2, PIXELS, generator=generator)
    weights = torch.rand(num, 2, generator=generator)
    return torch.bernoulli((weights @ basis).clamp(0, 1), generator=generator)


def labels(num: int = 100, seed: int = 1) -> Tensor:
    """A class for each image."""
    return torch.randint(CLASSES, (num,), generator=torch.Generator().manual_seed(seed))


class Encoder(nn.Module):
    """Maps images, and perhaps labels beside them, to mean and scale of a Gaussian."""

    def __init__(self, in_features: int = PIXELS, out_features: int = LATENT) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, HIDDEN)
        self.loc = nn.Linear(HIDDEN, out_features)
        self.log_scale = nn.Linear(HIDDEN, out_features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = functional.softplus(self.hidden(x))
        return self.loc(hidden), torch.exp(self.log_scale(hidden))


def make_decoder(in_features: int = LATENT) -> nn.Sequential:
    """Maps latents to the probabilities of pixels."""
    layers = [nn.Linear(in_features, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, PIXELS)]
    return nn.Sequential(*layers, nn.Sigmoid())


class VAE(nn.Module):
    """A variational autoencoder whose networks are registered with pyro.module."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), make_decoder()

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], LATENT, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], LATENT, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            probs = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x)
            return probs

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x)
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


@program("VAE")
def plain_vae() -> Run:
    vae = VAE()
    return Run(vae.model, vae.guide, cycle(BATCH, images()), optim=adam(1e-3))


class ModuleVAE(PyroModule):
    """The same as a PyroModule, with batch normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = PyroModule[nn.Sequential](
            # No bias, as batch normalisation would cancel it.
            PyroModule[nn.Linear](PIXELS, HIDDEN, bias=False),
            PyroModule[nn.BatchNorm1d](HIDDEN),
            PyroModule[nn.ReLU](),
            PyroModule[nn.Dropout](0.2),
        )
        self.head = PyroModule[nn.Linear](HIDDEN, 2 * LATENT)
        self.decoder = PyroModule[nn.Linear](LATENT, PIXELS)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", 100, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", 100, subsample_size=len(x)):
            loc, log_scale = self.head(self.body(x)).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@program("VAE as a PyroModule, batch norm and dropout")
def module_vae() -> Run:
    vae = ModuleVAE()
    batches = cycle(BATCH, images())
    return Run(vae.model, vae.guide, batches, TraceMeanField_ELBO(), modules=(vae,))


@program("VAE, convolutional")
def convolutional_vae() -> Run:
    encoder = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2 * LATENT)
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 36),
        nn.Unflatten(1, (4, 3, 3)),
        nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1),
    )

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Run(model, guide, cycle(10, images().view(-1, 1, 6, 6)))


class AnnealedVAE(VAE):
    """A VAE whose KL term has a weight that changes each step, as an attribute or argument."""

    beta = 0.0

    def model(self, x: Tensor, beta: float | None = None) -> None:  # type: ignore[override]
        with poutine.scale(scale=self.beta if beta is None else beta):
            super().model(x)

    def guide(self, x: Tensor, beta: float | None = None) -> None:
        with poutine.scale(scale=self.beta if beta is None else beta):
            super().guide(x)


@program("VAE, weight self.beta of each step")
def annealed_by_attribute() -> Run:
    vae = AnnealedVAE()

    def set_beta(step: int) -> None:
        vae.beta = min(1.0, 0.01 + step / 40)

    return Run(vae.model, vae.guide, cycle(BATCH, images()), before_step=set_beta)


@program("VAE, weight as a float argument")
def annealed_by_argument() -> Run:
    vae, data = AnnealedVAE(), cycle(BATCH, images())

    def batches(step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (x,), _ = data(step)
        return (x, min(1.0, 0.01 + step / 40)), {}

    return Run(vae.model, vae.guide, batches)


class ConditionalVAE(nn.Module):
    """Fills in three quarters of an image from one quarter, as in the CVAE of Sohn et al. 2015."""

    def __init__(self) -> None:
        super().__init__()
        self.baseline = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU())
        self.guess = nn.Sequential(nn.Linear(HIDDEN, PIXELS), nn.Sigmoid())
        self.prior, self.posterior = Encoder(2 * PIXELS), Encoder(2 * PIXELS)
        self.decoder = make_decoder()

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        pyro.module("generation", self)
        batch = x.shape[0]
        with pyro.plate("data"):
            with torch.no_grad():
                guess = self.guess(self.baseline(x)).view(batch, PIXELS)
            loc, scale = self.prior(torch.cat([x, guess], dim=1))
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            probs = self.decoder(z)
            if y is None:
                pyro.deterministic("y", probs.detach())
                return probs
            mask_loc = probs[(x == -1).view(-1, PIXELS)].view(batch, -1)
            mask_y = y[x == -1].view(batch, -1)
            likelihood = dist.Bernoulli(mask_loc, validate_args=False).to_event(1)
            pyro.sample("y", likelihood, obs=mask_y)
            return probs

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data"):
            if y is None:
                loc, scale = self.prior(torch.cat([x, self.guess(self.baseline(x))], dim=1))
            else:
                loc, scale = self.posterior(torch.cat([x, y], dim=1))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@program("conditional VAE, boolean masks of fixed count")
def conditional_vae() -> Run:
    net, y = ConditionalVAE(), images()
    x = y.clone()
    x[:, 9:] = -1.0
    return Run(net.model, net.guide, cycle(BATCH, x, y))


class SemiSupervised(nn.Module):
    """Model M2 of Kingma et al. 2014, with an auxiliary loss of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(PIXELS, CLASSES), nn.Softmax(dim=-1))
        self.encoder, self.decoder = Encoder(PIXELS + CLASSES), make_decoder(LATENT + CLASSES)

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        pyro.module("ss_vae", self)
        batch, options = x.size(0), {"dtype": x.dtype, "device": x.device}
        with pyro.plate("data"):
            zeros, ones = (
                torch.zeros(batch, LATENT, **options),
                torch.ones(batch, LATENT, **options),
            )
            z = pyro.sample("z", dist.Normal(zeros, ones).to_event(1))
            probs = torch.ones(batch, CLASSES, **options) / (1.0 * CLASSES)
            y = pyro.sample("y", dist.OneHotCategorical(probs), obs=y)
            joined = torch.cat([z, y.expand(*z.shape[:-1], -1)], -1)
            pixels = self.decoder(joined)
            pyro.sample("x", dist.Bernoulli(pixels, validate_args=False).to_event(1), obs=x)
            return pixels

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data"):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(self.classifier(x)))
            wide = x.expand(*y.shape[:-1], -1)
            loc, scale = self.encoder(torch.cat([wide, y], -1))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def model_classify(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("ss_vae", self)
        with pyro.plate("data"):
            alpha = self.classifier(x)
            if y is not None:
                with poutine.scale(scale=46.0):
                    pyro.sample("y_aux", dist.OneHotCategorical(alpha), obs=y)

    def guide_classify(self, x: Tensor, y: Tensor | None = None) -> None:
        """There is nothing to infer."""


def _semi_supervised(guide: Any, loss: Any) -> Run:
    net, optim = guide.__self__ if hasattr(guide, "__self__") else guide, adam(3e-3)
    one_hot = functional.one_hot(labels(), CLASSES).to(torch.get_default_dtype())
    data = cycle(BATCH, images(), one_hot)

    def batches(step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (x, y), _ = data(step)
        return ((x, y) if step % 3 == 0 else (x,)), {}

    auxiliary = Run(net.model_classify, net.guide_classify, batches, Trace_ELBO(), optim)
    return Run(net.model, guide, batches, loss, optim, then=(auxiliary,))


@program("semi-supervised VAE, sampled labels and auxiliary loss")
def semi_supervised() -> Run:
    return _semi_supervised(SemiSupervised().guide, Trace_ELBO())


@program("semi-supervised VAE, enumerated labels and auxiliary loss")
def semi_supervised_enumerated() -> Run:
    net = SemiSupervised()
    run = _semi_supervised(net.guide, TraceEnum_ELBO(max_plate_nesting=1))
    guide = config_enumerate(net.guide, "parallel", expand=True)
    return Run(run.model, guide, run.batches, run.loss, run.optim, then=run.then)


class AIR(nn.Module):
    """Attend, infer, repeat (Eslami et al. 2016): up to two objects, with baselines."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTMCell(PIXELS + 4, HIDDEN)
        self.predict = nn.Linear(HIDDEN, 5)
        self.encode, self.decode = Encoder(9, 2), nn.Sequential(nn.Linear(2, 9), nn.Sigmoid())
        self.bl_rnn, self.bl_predict = nn.LSTMCell(PIXELS + 4, HIDDEN), nn.Linear(HIDDEN, 1)
        self.h0 = nn.Parameter(torch.zeros(1, HIDDEN))
        self.c0 = nn.Parameter(torch.zeros(1, HIDDEN))

    def model(self, x: Tensor) -> None:
        pyro.module("decode", self.decode)
        with pyro.plate("data", x.size(0)) as index:
            batch = x[index]
            n = batch.size(0)
            canvas, present = batch.new_zeros(n, 6, 6), batch.new_ones(n, 1)
            for t in range(2):
                canvas, present = self.draw(t, n, canvas, present)
            image = dist.Normal(canvas.view(n, PIXELS), 0.3).to_event(1)
            pyro.sample("obs", image, obs=batch)

    def draw(self, t: int, n: int, canvas: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        present = pyro.sample(f"present_{t}", dist.Bernoulli(0.5 * before).to_event(1))
        mean, scale = canvas.new_tensor([3.0, 0.0, 0.0]), canvas.new_tensor([0.2, 1.0, 1.0])
        place = dist.Normal(mean.expand(n, 3), scale.expand(n, 3)).mask(present).to_event(1)
        where = pyro.sample(f"where_{t}", place)
        content = dist.Normal(canvas.new_zeros(n, 2), 1.0).mask(present).to_event(1)
        what = pyro.sample(f"what_{t}", content)
        window = _transform(self.decode(what).view(n, 1, 3, 3), where, 6)
        return canvas + window.squeeze(1) * present.view(-1, 1, 1), present

    def guide(self, x: Tensor) -> None:
        pyro.module("rnn", self.rnn)
        pyro.module("predict", self.predict)
        pyro.module("encode", self.encode)
        pyro.module("bl_rnn", self.bl_rnn)
        pyro.module("bl_predict", self.bl_predict)
        h, c = pyro.param("h0", self.h0), pyro.param("c0", self.c0)
        with pyro.plate("data", x.size(0), subsample_size=5) as index:
            batch = x[index]
            n = batch.size(0)
            state = h.expand(n, -1), c.expand(n, -1)
            bl_state = batch.new_zeros(n, HIDDEN), batch.new_zeros(n, HIDDEN)
            seen, present, mask = batch.new_zeros(n, 3), batch.new_ones(n, 1), batch.new_ones(n, 1)
            for t in range(2):
                inputs = torch.cat([batch, seen, present], 1)
                state = self.rnn(inputs, state)
                bl_state = self.bl_rnn(inputs.detach(), bl_state)
                baseline = (self.bl_predict(bl_state[0]) * mask).squeeze(-1)
                out = self.predict(state[0])
                p = torch.sigmoid(out[:, :1]) * present
                present = pyro.sample(
                    f"present_{t}",
                    dist.Bernoulli(p).to_event(1),
                    infer={"baseline": {"baseline_value": baseline}},
                )
                loc, scale = out[:, 1:4] + batch.new_tensor([3.0, 0.0, 0.0]), out[:, 4:5].exp()
                place = dist.Normal(loc, 0.1 * scale.expand(n, 3)).mask(present).to_event(1)
                seen = pyro.sample(f"where_{t}", place)
                inverse = torch.cat([1 / seen[:, :1], -seen[:, 1:] / seen[:, :1]], 1)
                glimpse = _transform(batch.view(n, 1, 6, 6), inverse, 3).reshape(n, 9)
                mean, deviation = self.encode(glimpse)
                content = dist.Normal(mean, deviation).mask(present).to_event(1)
                pyro.sample(f"what_{t}", content)
                mask = mask * present.detach()


def _transform(image: Tensor, where: Tensor, size: int) -> Tensor:
    """Scale and shift images into windows of a size."""
    n, out = image.size(0), torch.cat([where.new_zeros(1).expand(image.size(0), 1), where], 1)
    theta = torch.index_select(out, 1, torch.tensor([1, 0, 2, 0, 1, 3])).view(n, 2, 3)
    grid = functional.affine_grid(theta, [n, 1, size, size], align_corners=False)
    return functional.grid_sample(image, grid, align_corners=False)


@program("AIR, with baselines and a subsampled plate")
def air() -> Run:
    net, data = AIR(), images(30)

    def options(name: str) -> dict[str, float]:
        return {"lr": 1e-2 if "bl_" in name else 1e-3}

    optim = pyro.optim.Adam(options)
    return Run(net.model, net.guide, lambda step: ((data,), {}), TraceGraph_ELBO(), optim)
