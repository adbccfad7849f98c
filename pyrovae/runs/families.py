"""Test figures that only some families have: accuracies, clusters, layers."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..models.clustering import clustering_accuracy
from ..models.hierarchical import HierarchicalVAE
from ..models.mixture import MixtureVAE
from ..models.semi_supervised import SemiSupervisedVAE
from .trained import EVALUATION_BATCH, Trained, in_chunks

__all__ = ["figures_of_family", "sentences_of"]

_SEED = 0


@torch.no_grad()
def figures_of_family(trained: Trained) -> dict[str, Any]:
    """What this family is judged by beside the bound, on test data."""
    family, test = trained.family, trained.data.test
    x, device = test.x, trained.device
    y = test.y
    if y is not None and bool((is_known := y >= 0).any()):
        if isinstance(family, SemiSupervisedVAE):
            likely = in_chunks(family.classify, x, device=device).argmax(-1)
            told = trained.data.train.label
            return {
                "label_accuracy": (likely == y)[is_known].double().mean().item(),
                "num_labels": 0 if told is None else int((told >= 0).sum()),
                "num_classes": family.num_classes,
            }
        if isinstance(family, MixtureVAE):
            clusters = in_chunks(family.cluster, x, device=device)[is_known]
            num_clusters, num_classes = len(clusters.unique()), len(y[is_known].unique())
            figure = "clustering_accuracy" if num_clusters <= num_classes else "purity"
            return {
                figure: clustering_accuracy(clusters, y[is_known]),
                "num_clusters": num_clusters,
                "num_components": family.num_components,
            }
    if isinstance(family, HierarchicalVAE):
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            kl = family.layer_kl(x[:EVALUATION_BATCH].to(device))
        return {"kl_of_layers": kl.tolist()}
    return {}


def sentences_of(figures: Mapping[str, Any]) -> Iterator[str]:
    """The same in words."""
    if "label_accuracy" in figures:
        yield (
            f"q(y|x) gives {figures['label_accuracy']:.1%} of the test data their class, after "
            f"{figures['num_labels']:,} labels"
        )
    if "clustering_accuracy" in figures:
        yield (
            f"{figures['num_clusters']} of {figures['num_components']} components are taken; "
            f"matched with classes they agree on {figures['clustering_accuracy']:.1%} of test data"
        )
    if "purity" in figures:
        yield (
            f"{figures['num_clusters']} of {figures['num_components']} components are taken; "
            f"{figures['purity']:.1%} of test data are of the commonest class of their component "
            "(purity, which rises with the number of components)"
        )
    if "kl_of_layers" in figures:
        layers = ", ".join(
            f"z{number} {kl:.2f}" for number, kl in enumerate(figures["kl_of_layers"], start=1)
        )
        yield f"KL of each layer, in nats: {layers}"
