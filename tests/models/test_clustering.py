"""Clustering accuracy against all matchings."""

from itertools import permutations

import pytest
import torch

from pyrovae import InputError
from pyrovae.models.clustering import clustering_accuracy


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(4, 4), (3, 5), (1, 3)])
def test_accuracy_is_that_of_the_best_matching(num_clusters: int, num_classes: int) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        assigned = torch.cat([torch.arange(num_clusters), torch.randint(num_clusters, (40,))])
        labels = torch.cat([torch.arange(num_classes), torch.randint(num_classes, (40,))])
        labels = labels[torch.randperm(len(labels))][:40]
        assigned = assigned[:40]
        best = max(
            (torch.tensor(matching)[assigned] == labels).double().mean().item()
            for matching in permutations(range(num_classes), num_clusters)
        )
        names = torch.randperm(100)  # the numbers of clusters and classes are arbitrary
        got = clustering_accuracy(names[assigned], names.flip(0)[labels])
        assert got == pytest.approx(best, abs=1e-12)


def test_surplus_clusters_get_their_most_frequent_class() -> None:
    assigned = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    labels = torch.tensor([5, 5, 6, 5, 5, 6, 6, 5])
    assert clustering_accuracy(assigned, labels) == 6 / 8


def test_clusters_that_do_not_occur_are_ignored() -> None:
    """Only two of ten clusters occur, so each is matched to one class."""
    assert clustering_accuracy(torch.tensor([9, 9, 3, 3]), torch.tensor([0, 1, 0, 0])) == 3 / 4


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="2 assigned clusters and 3 labels"):
        clustering_accuracy(torch.zeros(2, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="0 assigned"):
        clustering_accuracy(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
