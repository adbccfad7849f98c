"""The semi-supervised VAE: its bounds and gradients against the formulas of the paper, and log p
against integration over a grid and a sum over all classes."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from pyrovae import InputError, evaluate, fit, importance_sample
from pyrovae.infer import EnumeratedELBO
from pyrovae.models.semi_supervised import SemiSupervisedVAE
from pyrovae.nn import MLP, ConvDecoder, ConvEncoder
from tests.graphs import assert_graph_matches_eager
from tests.pairs import pop_gradients

NUM_CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = (torch.rand(8, 4, generator=GENERATOR) > 0.5).float()
Y = torch.tensor([0, -1, 2, -1, -1, 1, 0, -1])
IMAGES = (torch.rand(8, 1, 8, 8, generator=GENERATOR) > 0.5).float()

enumerated_elbo = partial(TraceEnum_ELBO, max_plate_nesting=1)


def network_with_large_weights(in_shape: Any, out_shape: Any) -> nn.Module:
    """A small network with large weights, so that everything matters."""
    body = MLP(in_shape, out_shape, hidden=(6,), activation=nn.Tanh)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.normal_()
    return body


def small_vae(latent_dim: int = 2, **options: Any) -> SemiSupervisedVAE:
    return SemiSupervisedVAE(
        (4,),
        latent_dim,
        NUM_CLASSES,
        classifier=network_with_large_weights,
        decoder=network_with_large_weights,
        **options,
    )


def posterior_scale(h: Tensor) -> Tensor:
    """The scale of the posterior: a softplus with a floor."""
    return nn.functional.softplus(h[..., 1, :]) + 1e-7


def labelled_bound(vae: SemiSupervisedVAE, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """L(x, y) = log p(x | z, y) + log p(z) + log p(y) - log q(z | x, y), computed by hand."""
    c = nn.functional.one_hot(y, NUM_CLASSES).to(x.dtype)
    h = vae.guide.encoder(x, c)
    q = Normal(h[..., 0, :], posterior_scale(h))
    z = q.loc + q.scale * noise
    c = c.expand(*z.shape[:-1], NUM_CLASSES)
    eta = vae.model.decoder(torch.cat([z, c], -1)).squeeze(-2)
    log_p_x = -nn.functional.binary_cross_entropy_with_logits(
        eta, x.expand(eta.shape), reduction="none"
    ).sum(-1)
    log_p_z = Normal(torch.zeros(()), torch.ones(())).log_prob(z).sum(-1)
    return log_p_x + log_p_z - torch.tensor(float(NUM_CLASSES)).log() - q.log_prob(z).sum(-1)


def unlabelled_bound(vae: SemiSupervisedVAE, x: Tensor, noise: Tensor) -> Tensor:
    """U(x) = sum_y q(y | x) (L(x, y) - log q(y | x))."""
    log_q = vae.guide.classifier(x).log_softmax(-1)
    bounds = [
        labelled_bound(vae, x, torch.full(x.shape[:1], y), noise[y]) for y in range(NUM_CLASSES)
    ]
    return (log_q.exp() * (torch.stack(bounds, -1) - log_q)).sum(-1)


def guide_noise(seed: int, latent_dim: int = 2) -> Tensor:
    """The noise that the guide draws for z, for each class and datum, with this seed."""
    torch.manual_seed(seed)
    return torch.normal(
        torch.zeros(NUM_CLASSES, len(X), latent_dim), torch.ones(NUM_CLASSES, len(X), latent_dim)
    )


def by_hand(vae: SemiSupervisedVAE, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """The bound of each datum; L of labelled data is averaged over as many samples as classes."""
    labelled = torch.stack([labelled_bound(vae, x, y.clamp(0), each) for each in noise]).mean(0)
    return torch.where(y < 0, unlabelled_bound(vae, x, noise), labelled)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("labels", [Y, torch.full_like(Y, -1), Y.clamp(0)], ids=str)
def test_enumerated_elbo_and_its_gradient_match_the_paper(labels: Tensor) -> None:
    vae = small_vae().eval()
    x = X.double()
    parameters = dict(vae.named_parameters())
    bound = by_hand(vae, x, labels, guide_noise(5)).sum()
    (-bound + sum(p.sum() for p in parameters.values()) * 0).backward()
    exact = pop_gradients(parameters)
    torch.manual_seed(5)
    loss = enumerated_elbo().loss_and_grads(vae.model, vae.guide, x, labels)
    assert loss == pytest.approx(-bound.item(), rel=1e-12)
    for parameter in parameters.values():  # the classifier has no gradient if all y are known
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    torch.testing.assert_close(pop_gradients(parameters), exact, rtol=1e-9, atol=1e-9)
    if bool((labels < 0).any()):
        assert exact["guide.classifier.layers.0.weight"].abs().max() > 1e-3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("weight", [0.0, 0.1, 7.0])
def test_training_adds_the_classification_term(weight: float) -> None:
    vae = small_vae(weight=weight)
    x = X.double()
    losses = []
    for mode in (True, False):
        vae.train(mode)
        torch.manual_seed(5)
        losses.append(enumerated_elbo().differentiable_loss(vae.model, vae.guide, x, Y))
    is_known = Y >= 0
    log_q = Categorical(logits=vae.guide.classifier(x[is_known])).log_prob(Y[is_known]).sum()
    torch.testing.assert_close(losses[0] - losses[1], -weight * log_q)
    (gradient,) = torch.autograd.grad(losses[0] - losses[1], vae.guide.classifier.layers[0].weight)
    (exact,) = torch.autograd.grad(-weight * log_q, vae.guide.classifier.layers[0].weight)
    torch.testing.assert_close(gradient, exact, rtol=1e-9, atol=1e-9)


def trace_in_a_plate(vae: SemiSupervisedVAE, x: Tensor, y: Tensor) -> list[poutine.Trace]:
    """Traces of guide and model, with all classes along an outer plate."""
    values = torch.arange(NUM_CLASSES)[:, None].expand(-1, len(x))

    def within(program: Callable[..., Any]) -> Callable[..., Any]:
        def of_classes() -> Any:
            with pyro.plate("classes", NUM_CLASSES, dim=-2):
                return program(x, y)

        return of_classes

    guide = poutine.condition(within(vae.guide), data={"y_unobserved": values})
    guide_trace = poutine.trace(guide).get_trace()
    latents = {name: guide_trace.nodes[name]["value"] for name in ("y_unobserved", "z")}
    model = poutine.condition(within(vae.model), data=latents)
    return [guide_trace, poutine.trace(model).get_trace()]


def trace_as_rows(vae: SemiSupervisedVAE, x: Tensor, y: Tensor) -> list[poutine.Trace]:
    """Traces of guide and model, with each datum repeated for each class."""
    values = torch.arange(NUM_CLASSES).repeat(len(x))
    x, y = x.repeat_interleave(NUM_CLASSES, 0), y.repeat_interleave(NUM_CLASSES, 0)
    guide = poutine.condition(vae.guide, data={"y_unobserved": values})
    guide_trace = poutine.trace(guide).get_trace(x, y)
    latents = {name: guide_trace.nodes[name]["value"] for name in ("y_unobserved", "z")}
    model = poutine.condition(vae.model, data=latents)
    return [guide_trace, poutine.trace(model).get_trace(x, y)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("trace_classes", [trace_in_a_plate, trace_as_rows])
def test_classes_can_be_summed_in_a_plate_or_as_rows(trace_classes: Callable[..., Any]) -> None:
    """sum_y q(y) (log p - log q) of the sites is the bound by hand, for the z that were drawn."""
    vae = small_vae().eval()
    x = X.double()
    guide_trace, model_trace = trace_classes(vae, x, Y)
    weights = []
    total = 0.0
    for trace, sign in ((guide_trace, -1), (model_trace, 1)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or name in ("data", "classes"):
                continue
            assert site["mask"] is None
            log_prob = site["log_prob"]
            if trace_classes is trace_as_rows:
                log_prob = log_prob.reshape(-1, NUM_CLASSES).T
            assert log_prob.shape == (NUM_CLASSES, len(x)), name
            total = total + sign * log_prob
            if name == "y_unobserved" and sign == -1:
                weights.append(log_prob.exp())
    (weight,) = weights
    torch.testing.assert_close(weight.sum(0), torch.ones(len(x)))
    z = guide_trace.nodes["z"]["value"]
    z = z.reshape(-1, NUM_CLASSES, 2).transpose(0, 1) if trace_classes is trace_as_rows else z
    labels = torch.where(Y < 0, torch.arange(NUM_CLASSES)[:, None], Y)
    h = vae.guide.encoder(x, nn.functional.one_hot(labels, NUM_CLASSES).double())
    noise = (z - h[..., 0, :]) / posterior_scale(h)
    torch.testing.assert_close((weight * total).sum(0), by_hand(vae, x, Y, noise))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_importance_sampling_agrees_with_a_grid_and_all_classes() -> None:
    """The estimate is log p(x) if the label is missing, and log p(x, y) if it is known."""
    vae = small_vae(latent_dim=1)
    x = X.double()
    found = importance_sample(
        vae.model, vae.guide, (x, Y), num_samples=10000, compile=False, progress=False
    )
    z = torch.linspace(-12, 12, 4001)[:, None, None]
    with torch.no_grad():
        log_p_z = Normal(torch.zeros(()), torch.ones(())).log_prob(z).squeeze(-1)
        of_classes = [
            vae.decode(z, torch.full_like(Y, y)).log_prob(x) + log_p_z for y in range(NUM_CLASSES)
        ]
    step = (z[1] - z[0]).log().squeeze()
    log_joint = torch.stack(of_classes).logsumexp(1) + step - torch.tensor(3.0).log()
    known = log_joint.gather(0, Y.clamp(0)[None]).squeeze(0)
    exact = torch.where(Y < 0, log_joint.logsumexp(0), known)
    off = (found.log_likelihood - exact).abs()
    assert (off <= 4.5 * found.standard_error).all(), off / found.standard_error
    assert (found.standard_error < 0.3).all()
    assert (found.elbo < exact).all()


@pytest.mark.usefixtures("float64")
def test_sampled_labels_give_the_enumerated_elbo_on_average() -> None:
    vae = small_vae().eval()
    x = X.double()
    num = 4000
    with torch.no_grad():
        runs = by_hand(vae, x, Y, torch.randn(NUM_CLASSES, num, len(x), 2))
    with pyro.plate("many", num, dim=-2), poutine.trace() as of_guide:
        vae.guide(x, Y)
    replayed = poutine.replay(vae.model, trace=of_guide.trace)
    with pyro.plate("many", num, dim=-2), poutine.trace() as of_model:
        replayed(x, Y)
    log_weight = torch.zeros(())
    for trace, sign in ((of_guide.trace, -1), (of_model.trace, 1)):
        trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] == "sample":
                log_weight = log_weight + sign * site["log_prob"].detach()
    assert log_weight.shape == runs.shape
    error = (log_weight.var(0) / num + runs.var(0) / num).sqrt()
    assert ((log_weight.mean(0) - runs.mean(0)).abs() < 4.5 * error).all()


def test_networks_of_x_run_once_and_the_decoder_once_per_class() -> None:
    vae = small_vae().eval()
    rows: dict[str, int] = {}
    parts = {
        "body": vae.guide.encoder.body,
        "classifier": vae.guide.classifier,
        "decoder": vae.model.decoder,
    }
    for name, part in parts.items():
        part.register_forward_hook(
            lambda _, args, out, name=name: rows.update(
                {name: rows.get(name, 0) + args[0].shape[:-1].numel()}
            )
        )
    enumerated_elbo().loss(vae.model, vae.guide, X, Y)
    num = len(X)
    assert rows == {"body": num, "classifier": num, "decoder": NUM_CLASSES * num}


def test_methods_use_the_most_probable_label_if_missing() -> None:
    vae = SemiSupervisedVAE((1, 8, 8), 3, NUM_CLASSES)
    probabilities = vae.classify(IMAGES)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(8))
    likely = probabilities.argmax(-1)
    assert vae.label_accuracy(IMAGES, likely) == 1
    y = torch.where(torch.arange(8) < 4, (likely + 1) % NUM_CLASSES, likely)
    y[6:] = -1
    assert vae.label_accuracy(IMAGES, y) == pytest.approx(2 / 6)
    z = vae.embed(IMAGES)
    assert z.shape == (8, 3)
    assert torch.equal(vae.embed(IMAGES, likely), z)
    filled = torch.where(y < 0, likely, y)
    assert torch.equal(vae.embed(IMAGES, y), vae.embed(IMAGES, filled))
    assert not torch.equal(vae.embed(IMAGES, y)[0], z[0])
    torch.testing.assert_close(
        vae.reconstruct(IMAGES, num_samples=0), vae.decode_mean(z, likely).detach()
    )
    assert vae.embed(IMAGES[0]).shape == (3,)
    assert vae.decode(torch.zeros(7, 1, 3), likely).batch_shape == (7, 8)
    assert vae.sample(5).shape == (5, 1, 8, 8)
    assert vae.sample(5, torch.tensor(2), mean=True).shape == (5, 1, 8, 8)
    z, eta = vae.draw(8, likely)
    assert torch.equal(eta, vae.model.eta_given(z, likely))


def test_copies_and_state_dicts_give_the_same_pair() -> None:
    vae = SemiSupervisedVAE((4,), 2, NUM_CLASSES, "Normal", weight=0.5)
    x = 5 + 3 * X + torch.randn(X.shape)
    vae.standardise(x, Y)
    fresh = SemiSupervisedVAE((4,), 2, NUM_CLASSES, "Normal", weight=0.5)
    fresh.load_state_dict(vae.state_dict())
    expected = vae.reconstruct(x, num_samples=0)
    losses = []
    for pair in (vae, copy.deepcopy(vae), fresh):
        torch.testing.assert_close(pair.reconstruct(x, num_samples=0), expected)
        assert pair.model._guide[0] is pair.guide
        torch.manual_seed(0)
        losses.append(enumerated_elbo().loss(pair.model, pair.guide, x, Y))
    assert losses[0] == losses[1] == losses[2]
    stored = [t.data_ptr() for t in vae.state_dict().values()]
    assert len(stored) == len(set(stored))
    names = [name for name in vae.state_dict() if "classifier" in name]
    assert names
    assert all(name.startswith("guide.") for name in names)
    doubled = fresh.double().reconstruct(x.double(), num_samples=0)
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled, expected.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:y_unobserved:UserWarning")  # Trace_ELBO samples this site
@pytest.mark.parametrize("objective", [enumerated_elbo, Trace_ELBO])
@pytest.mark.parametrize("missing", [False, True])
def test_pyro_svi_trains_a_semi_supervised_vae(objective: Any, missing: bool) -> None:
    x = X.clone()
    if missing:
        x[::2, 1] = float("nan")
    vae = SemiSupervisedVAE((4,), 2, NUM_CLASSES, missing=missing)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective())
    losses = [svi.step(x, Y) for _ in range(30)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.slow
def test_training_learns_classes_from_few_labels() -> None:
    """Three clusters with two labels each; the model infers the other labels from the clusters."""
    y = torch.arange(150) % NUM_CLASSES
    x = 4 * torch.eye(NUM_CLASSES)[y] + 0.7 * torch.randn(150, NUM_CLASSES)
    few_labels = torch.where(torch.arange(150) < 6, y, -1)
    body = partial(MLP, hidden=(16,))
    vae = SemiSupervisedVAE(
        (3,), 1, NUM_CLASSES, "Normal", classifier=body, encoder=body, decoder=body, weight=50
    )
    vae.standardise(x)
    optimiser = torch.optim.Adam(vae.parameters(), lr=3e-2)
    for _ in range(50):
        optimiser.zero_grad()
        (
            enumerated_elbo().differentiable_loss(vae.model, vae.guide, x, few_labels) / 150
        ).backward()
        optimiser.step()
    assert vae.label_accuracy(x, y) > 0.95


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_recorded_steps_match_eager_steps() -> None:
    x = X.double()
    x[::2, 1] = float("nan")
    batches = [(x[:4], Y[:4]), (x[4:8], Y[4:8])] * 3
    assert_graph_matches_eager(partial(small_vae, missing=True), batches, EnumeratedELBO)


def test_convolutions_train_and_are_evaluated() -> None:
    vae = SemiSupervisedVAE(
        (1, 8, 8),
        3,
        NUM_CLASSES,
        classifier=ConvEncoder,
        encoder=ConvEncoder,
        decoder=ConvDecoder,
    )
    enumerated_elbo().loss_and_grads(vae.model, vae.guide, IMAGES, Y)
    assert vae.training
    assert all(p.grad is not None for p in vae.parameters())
    found = evaluate(vae.model, vae.guide, (IMAGES, Y), compile=False)
    assert found.elbo.mean < 0


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y + 1, r"contain 3; labels of 3 classes are from 0 to 2, or -1 where they are missing"),
        (Y - 1, r"contain -2"),
        (Y.float(), r"torch.float32; give integers"),
    ],
)
def test_invalid_labels_are_refused(y: Tensor, message: str) -> None:
    vae = small_vae()
    with pytest.raises(InputError, match=message):
        fit(vae.model, vae.guide, (X, y), epochs=1, progress=False)
    with pytest.raises(InputError, match=message):
        enumerated_elbo().loss(vae.model, vae.guide, X, y)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="latent_dim is 0"):
        SemiSupervisedVAE((3,), 0, 2)
    with pytest.raises(InputError, match="num_classes is 1"):
        SemiSupervisedVAE((3,), 2, 1)
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="weight is"):
            SemiSupervisedVAE((3,), 2, 2, weight=weight)
    vae = small_vae()
    with pytest.raises(InputError, match="all labels are missing"):
        vae.label_accuracy(X, torch.full_like(Y, -1))
    with pytest.raises(InputError, match=r"shape \(3,\) for x of shape \(8, 4\)"):
        vae.label_accuracy(X, Y[:3])
