"""Test metrics of some models only: accuracy of labels, clusters, KL of layers."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ...models.clustering import clustering_accuracy
from ...models.hierarchical import HierarchicalVAE
from ...models.mixture import MixtureVAE
from ...models.semi_supervised import SemiSupervisedVAE
from ..trained import EVALUATION_BATCH, Trained, apply_in_chunks

__all__ = ["compute_family_metrics", "describe_family_metrics"]

_SEED = 0


@torch.no_grad()
def compute_family_metrics(trained: Trained) -> dict[str, Any]:
    """Compute the test metrics of this kind of model other than the ELBO; empty if it has none."""
    family, test = trained.family, trained.test
    x, device = test.x, trained.device
    y = test.y
    if y is not None and bool((is_known := y >= 0).any()):
        if isinstance(family, SemiSupervisedVAE):
            predicted = apply_in_chunks(family.classify, x, device=device).argmax(-1)
            num_labels = trained.config.num_labels or trained.about.num["training"]
            return {
                "label_accuracy": (predicted == y)[is_known].double().mean().item(),
                "num_labels": num_labels,
                "num_classes": family.num_classes,
            }
        if isinstance(family, MixtureVAE):
            clusters = apply_in_chunks(family.cluster, x, device=device)[is_known]
            num_clusters, num_classes = len(clusters.unique()), len(y[is_known].unique())
            metric = "clustering_accuracy" if num_clusters <= num_classes else "purity"
            return {
                metric: clustering_accuracy(clusters, y[is_known]),
                "num_clusters": num_clusters,
                "num_components": family.num_components,
            }
    if isinstance(family, HierarchicalVAE):
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            kl = family.layer_kl(x[:EVALUATION_BATCH].to(device))
        return {"kl_of_layers": kl.tolist()}
    return {}


def describe_family_metrics(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Describe these metrics, in a sentence each."""
    if "label_accuracy" in metrics:
        yield (
            f"accuracy of q(y|x) on these data: {metrics['label_accuracy']:.1%}, trained with "
            f"{metrics['num_labels']:,} labels"
        )
    if "clustering_accuracy" in metrics:
        yield (
            f"{metrics['num_clusters']} of {metrics['num_components']} components are used; "
            "matched to classes, they are right for "
            f"{metrics['clustering_accuracy']:.1%} of these data"
        )
    if "purity" in metrics:
        yield (
            f"{metrics['num_clusters']} of {metrics['num_components']} components are used; "
            f"{metrics['purity']:.1%} of these data have the commonest class of their component "
            "(purity, which rises with the number of components)"
        )
    if "kl_of_layers" in metrics:
        layers = ", ".join(
            f"z{number} {kl:.2f}" for number, kl in enumerate(metrics["kl_of_layers"], start=1)
        )
        yield f"KL of each layer, in nats per datum: {layers}"
