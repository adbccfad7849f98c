"""Whole epochs over 60,000 images: loading, shuffling, binarisation and steps."""

import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pyrovae import VAE, Batches, binarise
from pyrovae.infer import ELBO, SVI

from .data import images
from .torch_steps import LATENT, fused_adam

__all__ = ["ours", "pyros_example", "pythaes_trainer"]

Run = Callable[[int], None]


def ours(batch_size: int) -> Run:
    """This package: data on the device; shuffling, binarisation and the step in one graph."""
    torch.manual_seed(0)
    vae = VAE((784,), LATENT, "Bernoulli")
    batches = Batches(images(), batch_size, transform=partial(binarise, levels=255))
    svi = SVI(vae.model, vae.guide, fused_adam, ELBO(60_000), compile=True, transform=batches.take)

    def run(epochs: int) -> None:
        for _ in range(epochs):
            with svi.steady():  # as fit does
                for index in batches.indices():
                    svi.step(index)

    return run


class _Images(torch.utils.data.Dataset[Any]):
    """The same work as torchvision's MNIST: a PIL image, converted to a tensor, and its class."""

    def __init__(self) -> None:
        from torchvision.transforms import ToTensor

        self._images = images().view(-1, 28, 28)
        self._transform = ToTensor()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        image = Image.fromarray(self._images[index].numpy(), mode="L")
        return self._transform(image), 0


def pyros_example(batch_size: int) -> Run:
    """Pyro's own VAE example: softplus networks, DataLoader, SVI, Adam."""
    softplus = nn.Softplus()
    hidden, loc, log_scale = nn.Linear(784, 400), nn.Linear(400, LATENT), nn.Linear(400, LATENT)
    encoder = nn.ModuleList([hidden, loc, log_scale])
    decoder = nn.Sequential(nn.Linear(LATENT, 400), softplus, nn.Linear(400, 784), nn.Sigmoid())

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            zeros = x.new_zeros(len(x), LATENT)
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            obs = x.reshape(-1, 784)
            pyro.sample("obs", dist.Bernoulli(decoder(z), validate_args=False).to_event(1), obs=obs)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            h = softplus(hidden(x.reshape(-1, 784)))
            pyro.sample("latent", dist.Normal(loc(h), log_scale(h).exp()).to_event(1))

    loader = DataLoader(_Images(), batch_size, shuffle=True)
    svi = PyroSVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())

    def run(epochs: int) -> None:
        for _ in range(epochs):
            for x, _ in loader:
                svi.step(x)

    return run


def pythaes_trainer(batch_size: int) -> Run:
    """The trainer of pythae, with the same networks and batches; grey pixels, in memory."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(784, 400)
            self.loc, self.log_scale = nn.Linear(400, LATENT), nn.Linear(400, LATENT)

        def forward(self, x: Tensor) -> Any:
            h = torch.relu(self.hidden(x))
            return ModelOutput(embedding=self.loc(h), log_covariance=self.log_scale(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(LATENT, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid()
            )

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z))

    config = VAEConfig(input_dim=(784,), latent_dim=LATENT, reconstruction_loss="bce")
    data = images().float() / 255
    trainer = BaseTrainer(
        PythaeVAE(config, encoder=Encoder(), decoder=Decoder()),
        BaseDataset(data, torch.zeros(len(data))),
        training_config=BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            num_epochs=1,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-3,
            no_cuda=True,
        ),
    )
    trainer.prepare_training()

    def run(epochs: int) -> None:
        with (
            Path(os.devnull).open("w") as devnull,
            redirect_stdout(devnull),
            redirect_stderr(devnull),
        ):
            for epoch in range(epochs):
                trainer.train_step(epoch)

    return run
