"""From Bayes' rule to the amortised guide, on a mixture of three Gaussians.

A VAE learns a decoder p(x | z) and an encoder q(z | x) together, by maximising one bound. On a
Gaussian mixture you can maximise the same bound and compute everything exactly: the posterior is
known, and so is every gap. Read the script from the top. Every formula stands above the line that
computes it. The script checks each claim, prints the results and draws pictures at the end.

    python examples/gmm_em_vs_vi.py

 1  The model         z picks a component, x is drawn from it
 2  Bayes' rule       the posterior of z given x
 3  The bound         log p(x) = ELBO + KL, for any q   -> bounds.png
 4  EM                q by Bayes' rule, theta in closed form
 5  VI, free q        q and theta by gradients; the same maximum
 6  VI, amortised q   a network predicts q from x: a tiny VAE  -> densities.png, motion.gif
 7  The gap           the amortisation gap, for networks of several sizes
 8  Without sums      gradients from samples of z, and why they are noisy  -> gradient_variance.png
"""

from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from cyclopts import run
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from pyrovae.cli.compare_em_vi import write_pictures
from pyrovae.gmm import (
    AmortisedGuide,
    Mixture,
    MixtureModel,
    amortised_vi,
    em,
    floor_of,
    free_vi,
    k_means_plus_plus,
    record,
    toy,
)
from pyrovae.gmm.compare import Settings, compare
from pyrovae.runs.directory import RunDirectory


def main(steps: int = 1000, output: Path = Path("runs/gmm-em-vs-vi")) -> None:
    """Run the eight parts in order.

    Arguments:
        steps: number of steps of each gradient method.
        output: directory for the pictures.
    """
    RunDirectory.refuse_used(output)
    torch.manual_seed(0)
    x, _ = toy(400)
    n, d = x.shape
    floor = floor_of(x, 1e-6)
    start = k_means_plus_plus(x, 3, "full", floor)

    print("1  The model")
    # log p(x, z = k) = log weights_k + log Normal(x; locs_k, Sigma_k)
    normal = dist.MultivariateNormal(start.locs, scale_tril=start.scales)
    log_joint = start.log_weights + normal.log_prob(x.unsqueeze(1))
    assert torch.allclose(log_joint, start.log_joint(x))  # the package's own method agrees

    print("2  Bayes' rule")
    # log p(x) = log sum_k p(x, z = k)
    log_evidence = log_joint.logsumexp(1)
    # p(z = k | x) = p(x, z = k) / p(x)
    log_posterior = log_joint - log_evidence.unsqueeze(1)

    print("3  The bound, for a uniform q and for the posterior")
    for name, log_q in (
        ("uniform q", torch.full_like(log_joint, 1 / 3).log()),
        ("posterior", log_posterior),
    ):
        q = log_q.exp()
        # ELBO = E_q[log p(x, z)] - E_q[log q(z)]
        elbo = (q * (log_joint - log_q)).sum(1)
        # KL(q || p) = E_q[log q(z) - log p(z | x)]
        kl = (q * (log_q - log_posterior)).sum(1)
        # log p(x) = ELBO + KL for every datum. KL >= 0, so the ELBO is a lower bound; it is tight
        # if q is the posterior.
        assert torch.allclose(log_evidence, elbo + kl, atol=1e-12)
        print(
            f"   {name}: log p(x) {log_evidence.mean():.4f} = ELBO {elbo.mean():.4f} "
            f"+ KL {abs(kl.mean()):.4f}"
        )

    print("4  EM: maximise the ELBO over q, then over theta")
    # E-step: q = argmax_q ELBO = p(z | x), which closes the gap
    q = log_posterior.exp()
    # M-step: theta = argmax_theta sum_n E_q[log p(x_n, z)], given by moments weighted by q
    counts = q.sum(0)
    weights = counts / n
    locs = (q.T @ x) / counts.unsqueeze(1)
    centred = x.unsqueeze(1) - locs
    covariances = torch.einsum("nk,nki,nkj->kij", q, centred, centred) / counts.view(-1, 1, 1)
    by_hand = Mixture.of(weights, locs, covariances)
    print(f"   one round by hand: log p(x) {by_hand.log_prob(x).mean():.4f}")
    exact = record(em(x, start, floor, max_iter=1000, tol=1e-12), x)
    assert torch.allclose(exact.mixtures[1].locs, locs)
    best = exact.log_likelihood[-1]
    print(f"   EM, {exact.phases.count('M')} rounds: log p(x) {best:.4f}, gap {exact.kl[-1]:.0e}")

    print("5  VI with a free q: maximise the same bound by gradient steps")
    # q has its own logits for every datum.
    logits = torch.randn(n, 3, dtype=x.dtype).requires_grad_()
    log_q = logits.log_softmax(1)
    # d ELBO / d logits_k = q_k (log p(x, z = k) - log q_k - ELBO), zero if q is the posterior
    elbo = (log_q.exp() * (log_joint - log_q)).sum(1)
    (gradient,) = torch.autograd.grad(elbo.sum(), logits)
    baseline = elbo.detach().unsqueeze(1)  # for part 8
    by_formula = log_q.exp() * (log_joint - log_q - elbo.unsqueeze(1))
    assert torch.allclose(gradient, by_formula.detach())
    history = record(free_vi(x, start, floor, num_steps=steps), x)
    print(
        f"   {steps} steps: log p(x) {history.log_likelihood[-1]:.4f}, gap {history.kl[-1]:.0e}, "
        f"below EM by {best - history.elbo[-1]:.0e}"
    )

    print("6  VI with an amortised q: the mixture as a tiny VAE, in Pyro")
    network = nn.Sequential(nn.Linear(d, 32), nn.Tanh(), nn.Linear(32, 3)).to(x)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            # p(z) p(x | z): the prior and the decoder
            z = pyro.sample("z", dist.Categorical(weights))
            component = dist.MultivariateNormal(locs[z], covariances[z])
            pyro.sample("x", component, obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            # q(z | x) = softmax(network(x)): the encoder, one function for all data
            q = dist.Categorical(logits=network(x))
            pyro.sample("z", q, infer={"enumerate": "parallel"})

    # E_q[log p(x, z) - log q(z | x)], where Pyro sums over z: the ELBO of part 3 again
    elbo_by_pyro = -TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    log_q = network(x).log_softmax(1)
    elbo = (log_q.exp() * (by_hand.log_joint(x) - log_q)).sum()
    assert abs(elbo_by_pyro - elbo.item()) < 1e-8 * abs(elbo_by_pyro)
    # The package provides the same model and guide. You can train them with any Pyro SVI.
    pair = MixtureModel(start, floor), AmortisedGuide(x, 3)
    before = -TraceEnum_ELBO(max_plate_nesting=1).loss(*pair, x) / n
    print(f"   Pyro's ELBO before training: {before:.4f}")

    print("7  The gap, for networks of several sizes")
    # The gap is KL(q || p) to the posterior of the trained model. A guide that is too simple can
    # pull the model towards a posterior that is simple too. The gap is then small, but log p(x) is
    # lower.
    for hidden in ((), (2,), (8,), (32,), (32, 32)):
        history = record(amortised_vi(x, start, floor, hidden=hidden, num_steps=steps), x)
        print(
            f"   hidden layers {list(hidden)!s:9} log p(x) {history.log_likelihood[-1]:.4f} = "
            f"ELBO {history.elbo[-1]:.4f} + gap {history.kl[-1]:.4f}; ELBO below EM by "
            f"{best - history.elbo[-1]:.4f}"
        )

    print("8  Without sums over z: the score function, and all methods compared")
    # d/dphi E_q[f(z)] = E_q[(f(z) - b) d/dphi log q(z)] for any baseline b that does not depend on
    # z. Here f(z) = log p(x, z) - log q(z), phi are the logits of part 5, and z is drawn from q.
    log_q = logits.detach().log_softmax(1)
    z = dist.Categorical(logits=log_q).sample((4000,))
    f = (log_joint - log_q).expand(4000, n, 3).gather(2, z.unsqueeze(2))
    # d/d logits_k log q(z) = 1[z = k] - q_k
    score = nn.functional.one_hot(z, 3) - log_q.exp()
    for name, b in (("no baseline", torch.zeros(n, 1)), ("b = ELBO", baseline)):
        estimates = (f - b) * score
        error = estimates.std(0) / 4000**0.5
        assert ((estimates.mean(0) - gradient).abs() < 6 * error + 1e-9).all()
        print(f"   {name}: unbiased, variance per draw {estimates.var(0).mean():.3f}")
    # The same for the network. From here on, and in the pictures, the data are standardised.
    comparison = compare(Settings(num_steps=steps, num_draws=0))
    for name in ("VI, score", "VI, score, baseline"):
        history = comparison.results[name].climb
        assert history is not None
        variance = [v for v in history.gradient_variance if v == v]
        print(f"   {name}: variance of the gradient {variance[-1]:.1e}, gap {history.kl[-1]:.4f}")
    write_pictures(RunDirectory.create(output), comparison)
    print(f"pictures in {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")


if __name__ == "__main__":
    run(main)
