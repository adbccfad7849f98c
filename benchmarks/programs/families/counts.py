"""Topic models, factorisations of counts, and models of annotators and of single cells."""

import functools
from argparse import Namespace
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions.util import broadcast_shape
from pyro.infer import (
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_feasible
from pyro.optim import AdagradRMSProp, ClippedAdam
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from ..program import Run, adam, always, cycle, program

TOPICS, WORDS, DOCUMENTS, LENGTH = 3, 20, 12, 8


def documents() -> Tensor:
    """The numbers of the words of each document, one document a column."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(WORDS, (LENGTH, DOCUMENTS), generator=generator)


def counts(num: int = 40) -> Tensor:
    """How often each word occurs in each document."""
    generator = torch.Generator().manual_seed(6)
    rates = torch.rand(num, WORDS, generator=generator) * 3
    return torch.poisson(rates, generator=generator)


def _amortised_lda(args: Namespace) -> Run:
    sizes = [args.words, *args.layers, args.topics]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        layer.weight.data.normal_(0, 0.001)
        layer.bias.data.normal_(0, 0.001)
        layers += [layer, nn.Sigmoid()]
    predictor = nn.Sequential(*layers[:-1], nn.Softmax(dim=-1))

    def model(data: Tensor | None = None, args: Any = None, batch_size: int | None = None) -> None:
        with pyro.plate("topics", args.topics):
            shape, rate = 1.0 / args.topics, 1.0
            pyro.sample("topic_weights", dist.Gamma(shape, rate))
            words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(args.words) / args.words))
        with pyro.plate("documents", args.documents) as index:
            if data is not None:
                data = data[:, index]
            topics = pyro.sample("doc_topics", dist.Dirichlet(torch.ones(args.topics)))
            with pyro.plate("words", args.length):
                topic = pyro.sample(
                    "word_topics", dist.Categorical(topics), infer={"enumerate": "parallel"}
                )
                pyro.sample("doc_words", dist.Categorical(words[topic]), obs=data)

    def guide(predictor: nn.Module, data: Tensor, args: Any, batch_size: int | None = None) -> None:
        posterior = pyro.param(
            "weights_posterior", lambda: torch.ones(args.topics), constraint=constraints.positive
        )
        words_posterior = pyro.param(
            "words_posterior",
            lambda: torch.ones(args.topics, args.words),
            constraint=constraints.greater_than(0.5),
        )
        with pyro.plate("topics", args.topics):
            pyro.sample("topic_weights", dist.Gamma(posterior, 1.0))
            pyro.sample("topic_words", dist.Dirichlet(words_posterior))
        pyro.module("predictor", predictor)
        with pyro.plate("documents", args.documents, batch_size) as index:
            data = data[:, index]
            found = torch.zeros(args.words, index.size(0)).scatter_add(
                0, data, torch.ones(data.shape)
            )
            topics = predictor(found.transpose(0, 1))
            pyro.sample("doc_topics", dist.Delta(topics, event_dim=1))

    bound = functools.partial(guide, predictor)
    data = always(documents(), args=args, batch_size=args.batch_size)
    loss = TraceEnum_ELBO(max_plate_nesting=2)
    return Run(model, bound, data, loss, ClippedAdam({"lr": 0.01}))


@program("LDA, amortised, settings in a Namespace")
def lda() -> Run:
    sizes = {"topics": TOPICS, "words": WORDS, "documents": DOCUMENTS, "length": LENGTH}
    return _amortised_lda(Namespace(**sizes, layers=[6, 6], batch_size=5))


class ProdLDA(nn.Module):
    """A product of experts over words (Srivastava and Sutton 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.fc1, self.fc2 = nn.Linear(WORDS, 10), nn.Linear(10, 10)
        self.mean, self.log_var = nn.Linear(10, TOPICS, bias=False), nn.Linear(10, TOPICS)
        self.mean_norm = nn.BatchNorm1d(TOPICS, affine=False)
        self.beta = nn.Linear(TOPICS, WORDS, bias=False)
        self.beta_norm = nn.BatchNorm1d(WORDS, affine=False)

    def model(self, docs: Tensor) -> None:
        pyro.module("decoder", self.beta)
        with pyro.plate("documents", docs.shape[0]):
            theta_loc = docs.new_zeros((docs.shape[0], TOPICS))
            theta_scale = docs.new_ones((docs.shape[0], TOPICS))
            log_theta = pyro.sample("theta", dist.Normal(theta_loc, theta_scale).to_event(1))
            theta = functional.softmax(log_theta, -1)
            probs = functional.softmax(self.beta_norm(self.beta(self.drop(theta))), dim=1)
            total_count = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total_count, probs), obs=docs)

    def guide(self, docs: Tensor) -> None:
        pyro.module("encoder", self)
        with pyro.plate("documents", docs.shape[0]):
            h = functional.softplus(self.fc1(docs))
            h = self.drop(functional.softplus(self.fc2(h)))
            loc, scale = self.mean_norm(self.mean(h)), (0.5 * self.log_var(h)).exp()
            pyro.sample("theta", dist.Normal(loc, scale).to_event(1))


@program("ProdLDA, total_count=int(x.sum(-1).max())")
def prod_lda() -> Run:
    net = ProdLDA()
    batches = cycle(10, counts())
    return Run(net.model, net.guide, batches, TraceMeanField_ELBO(), modules=(net,))


class GammaDEF:
    """A deep exponential family of sparse gammas (Ranganath et al. 2015)."""

    def __init__(self, widths: tuple[int, int, int] = (4, 3, 2)) -> None:
        self.widths, self.image = widths, WORDS
        self.alpha_z, self.beta_z = torch.tensor(0.1), torch.tensor(0.1)
        self.alpha_w, self.beta_w = torch.tensor(0.1), torch.tensor(0.3)

    def model(self, x: Tensor) -> None:
        size = x.size(0)
        top, middle, bottom = self.widths
        with pyro.plate("w_top_plate", top * middle):
            w_top = pyro.sample("w_top", dist.Gamma(self.alpha_w, self.beta_w))
        with pyro.plate("w_mid_plate", middle * bottom):
            w_mid = pyro.sample("w_mid", dist.Gamma(self.alpha_w, self.beta_w))
        with pyro.plate("w_bottom_plate", bottom * self.image):
            w_bottom = pyro.sample("w_bottom", dist.Gamma(self.alpha_w, self.beta_w))
        w_top, w_mid = w_top.reshape(-1, top, middle), w_mid.reshape(-1, middle, bottom)
        w_bottom = w_bottom.reshape(-1, bottom, self.image)
        with pyro.plate("data", size):
            prior = dist.Gamma(self.alpha_z, self.beta_z).expand([top]).to_event(1)
            z_top = pyro.sample("z_top", prior)
            mean = torch.matmul(z_top, w_top).squeeze(0)
            z_mid = pyro.sample("z_mid", self.layer(mean))
            mean = torch.matmul(z_mid, w_mid).squeeze(0)
            z_bottom = pyro.sample("z_bottom", self.layer(mean))
            mean = torch.matmul(z_bottom, w_bottom).squeeze(0)
            pyro.sample("obs", dist.Poisson(mean).to_event(1), obs=x)

    def layer(self, mean: Tensor) -> Any:
        return dist.Gamma(self.alpha_z, self.beta_z / mean.clamp(min=1e-6)).to_event(1)

    def guide(self, x: Tensor) -> None:
        size = x.size(0)
        top, middle, bottom = self.widths

        def local(name: str, width: int) -> None:
            alpha, mean = self.parameters(name, (size, width))
            pyro.sample(name, dist.Gamma(alpha, alpha / mean).to_event(1))

        def weights(name: str, number: int) -> None:
            alpha, mean = self.parameters(name, (number,))
            pyro.sample(name, dist.Gamma(alpha, alpha / mean))

        with pyro.plate("w_top_plate", top * middle):
            weights("w_top", top * middle)
        with pyro.plate("w_mid_plate", middle * bottom):
            weights("w_mid", middle * bottom)
        with pyro.plate("w_bottom_plate", bottom * self.image):
            weights("w_bottom", bottom * self.image)
        with pyro.plate("data", size):
            local("z_top", top)
            local("z_mid", middle)
            local("z_bottom", bottom)

    def parameters(self, name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        alpha = pyro.param(f"alpha_{name}", lambda: 0.5 + 0.1 * torch.randn(*shape))
        mean = pyro.param(f"mean_{name}", lambda: 0.1 * torch.randn(*shape))
        return functional.softplus(alpha) + 0.05, functional.softplus(mean) + 0.01


def clip_parameters() -> None:
    """Keep unconstrained parameters above a floor, as this family needs."""
    for name, value in pyro.get_param_store().named_parameters():
        floor = -2.5 if "alpha" in name else -4.5
        value.data.clamp_(min=floor)


@program("sparse gamma DEF, parameters clamped after each step")
def gamma_def() -> Run:
    net, x = GammaDEF(), counts(10)
    optim = AdagradRMSProp({"eta": 0.5, "t": 0.1})
    return Run(net.model, net.guide, always(x), optim=optim, after_step=lambda _: clip_parameters())


class GammaGuide(EasyGuide):
    """The same guide, as an EasyGuide that groups sites."""

    def guide(self, x: Tensor) -> None:  # type: ignore[override]
        weights = self.group(match="w_.*")
        loc = pyro.param("w_loc", lambda: torch.zeros(weights.event_shape))
        scale = pyro.param(
            "w_scale",
            lambda: 0.1 * torch.ones(weights.event_shape),
            constraint=constraints.positive,
        )
        weights.sample("weights", dist.Normal(loc, scale).to_event(1))
        with self.plate("data", x.size(0)):
            for name in ("z_top", "z_mid", "z_bottom"):
                self.map_estimate(name)

    def init(self, site: dict[str, Any]) -> Tensor:  # type: ignore[override]
        return torch.full(site["fn"].shape(), 0.5)


@program("sparse gamma DEF with an EasyGuide")
def gamma_def_easy() -> Run:
    model = GammaDEF().model
    return Run(model, GammaGuide(model), always(counts(10)), optim=adam(0.01))


@program("sparse gamma DEF with AutoNormal")
def gamma_def_auto() -> Run:
    model = GammaDEF().model
    guide = AutoNormal(model, init_loc_fn=init_to_feasible, init_scale=0.1)
    return Run(model, guide, always(counts(10)), optim=AdagradRMSProp({"eta": 0.5, "t": 0.1}))


@program("Dawid-Skene annotators, enumerated")
def dawid_skene() -> Run:
    generator = torch.Generator().manual_seed(8)
    truth = torch.randint(3, (15,), generator=generator)
    noise = torch.rand(15, 4, generator=generator) < 0.3
    given = torch.where(noise, (truth[:, None] + 1) % 3, truth[:, None])
    item, annotator = torch.arange(15).repeat_interleave(4), torch.arange(4).repeat(15)

    @config_enumerate
    def model(item: Tensor, annotator: Tensor, given: Tensor | None = None) -> None:
        classes, annotators = 3, int(torch.max(annotator)) + 1
        items = len(torch.unique(item))
        with pyro.plate("annotator", annotators, dim=-2), pyro.plate("class", classes):
            beta = pyro.sample("beta", dist.Dirichlet(torch.ones(classes)))
        pi = pyro.sample("pi", dist.Dirichlet(torch.ones(classes)))
        with pyro.plate("item", items, dim=-2):
            c = pyro.sample("c", dist.Categorical(pi))
            with pyro.plate("position", annotators):
                rows = beta[torch.arange(annotators), c, :]
                pyro.sample("y", dist.Categorical(rows), obs=given)

    guide = AutoNormal(poutine.block(model, hide=["c"]))
    batches = always(item, annotator, given)
    return Run(model, guide, batches, TraceEnum_ELBO(max_plate_nesting=2), adam(0.05))


@program("item difficulty of annotators, score function")
def item_difficulty() -> Run:
    generator = torch.Generator().manual_seed(9)
    given = torch.randint(2, (12, 3), generator=generator).to(torch.get_default_dtype())

    def model(y: Tensor) -> None:
        items, annotators = y.shape
        with pyro.plate("annotators", annotators, dim=-1):
            skill = pyro.sample("skill", dist.LogNormal(0.0, 0.5))
        with pyro.plate("items", items, dim=-2):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            with pyro.plate("both", annotators, dim=-1):
                pyro.sample("y", dist.Bernoulli(logits=(2 * c - 1) * skill), obs=y)

    def guide(y: Tensor) -> None:
        items, annotators = y.shape
        loc = pyro.param("loc", torch.zeros(annotators))
        scale = pyro.param("scale", torch.full((annotators,), 0.2), constraints.positive)
        with pyro.plate("annotators", annotators, dim=-1):
            pyro.sample("skill", dist.LogNormal(loc, scale))
        probs = pyro.param("probs", torch.full((items, 1), 0.4), constraints.unit_interval)
        with pyro.plate("items", items, dim=-2):
            options = {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}}
            pyro.sample("c", dist.Bernoulli(probs), infer=options)

    return Run(model, guide, always(given), TraceGraph_ELBO(), adam(0.02))


class Head(nn.Module):
    """A small network with batch normalisation, whose output is split into parts."""

    def __init__(self, inputs: int, *outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        hidden = nn.Linear(inputs, 10, bias=False)
        self.net = nn.Sequential(hidden, nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, sum(outputs)))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        shape = broadcast_shape(*[each.shape[:-1] for each in inputs])
        x = torch.cat([each.expand(*shape, -1) for each in inputs], -1)
        y = self.net(x.reshape(-1, x.size(-1))).reshape(*shape, -1)
        return y.split(self.outputs, -1)


class ScANVI(nn.Module):
    """Counts of genes with a library size and some known labels (Xu et al. 2021)."""

    def __init__(self, classes: int = 3, alpha: float = 0.1, scale_factor: float = 0.05) -> None:
        super().__init__()
        self.classes, self.alpha, self.scale_factor = classes, alpha, scale_factor
        self.z2_decoder, self.x_decoder = Head(2 + classes, 2, 2), Head(2, WORDS, WORDS)
        self.z2l_encoder, self.classifier = Head(WORDS, 2, 2, 1, 1), Head(2, classes)
        self.z1_encoder = Head(2 + classes, 2, 2)
        self.epsilon = 0.006

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("scanvi", self)
        theta = pyro.param("inverse_dispersion", x.new_ones(WORDS), constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(2)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.classes)), obs=y)
            loc, scale = self.z2_decoder(z1, y)
            z2 = pyro.sample("z2", dist.Normal(loc, functional.softplus(scale)).to_event(1))
            size = pyro.sample("l", dist.LogNormal(3.0, x.new_ones(1)).to_event(1))
            gates, mean = self.x_decoder(z2)
            logits = (size * torch.softmax(mean, -1) + self.epsilon).log() - theta.log()
            genes = dist.ZeroInflatedNegativeBinomial(theta, gate_logits=gates, logits=logits)
            pyro.sample("x", genes.to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            loc, scale, size_loc, size_scale = self.z2l_encoder(torch.log(1 + x))
            size = dist.LogNormal(size_loc, functional.softplus(size_scale))
            pyro.sample("l", size.to_event(1))
            z2 = pyro.sample("z2", dist.Normal(loc, functional.softplus(scale)).to_event(1))
            (logits,) = self.classifier(z2)
            q_y = dist.OneHotCategorical(logits=logits)
            if y is None:
                y = pyro.sample("y", q_y)
            else:
                pyro.factor("classification", -self.alpha * q_y.log_prob(y), has_rsample=False)
            z1_loc, z1_scale = self.z1_encoder(z2, y)
            pyro.sample("z1", dist.Normal(z1_loc, functional.softplus(z1_scale)).to_event(1))


@program("scANVI, labelled and unlabelled cells")
def scanvi() -> Run:
    net, x = ScANVI(), counts()
    y = torch.eye(3)[torch.randint(3, (40,), generator=torch.Generator().manual_seed(1))]
    data = cycle(10, x, y)

    def batches(step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (x, y), _ = data(step)
        return (x, y if step % 2 else None), {}

    guide = config_enumerate(net.guide, "parallel", expand=True)
    loss = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    return Run(net.model, guide, batches, loss, adam(0.005), modules=(net,))


@program("VAE of counts, zero-inflated Poisson")
def zero_inflated() -> Run:
    encoder, decoder = nn.Linear(WORDS, 4), nn.Linear(2, WORDS)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        gate = pyro.param("gate", torch.full((WORDS,), 0.2), constraints.unit_interval)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            rate = functional.softplus(decoder(z))
            pyro.sample("x", dist.ZeroInflatedPoisson(rate, gate=gate).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, scale = encoder(x.log1p()).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, functional.softplus(scale) + 1e-3).to_event(1))

    return Run(model, guide, cycle(10, counts()), Trace_ELBO(num_particles=2))
