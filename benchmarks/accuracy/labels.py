"""``python -m benchmarks.accuracy.labels``: how much unlabelled images help a classifier on MNIST.

The semi-supervised VAE (M2) is trained on images with labels, by default a hundred, ten per class,
and on all other images without labels. Classifiers of scikit-learn are trained on the labelled
images alone.
"""

import json
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from cyclopts import run
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import Tensor

from pyrovae import binarise, fit, load
from pyrovae.models.semi_supervised import SemiSupervisedVAE

_LEVELS = 255.0


def main(
    num_labels: tuple[int, ...] = (100,),
    epochs: int = 30,
    weight: float = 5.0,
    repeats: int = 50,
    latent_dim: int = 50,
    batch_size: int = 200,
    seed: int = 0,
    output: Path = Path("labels.json"),
) -> None:
    """Train, classify the 10,000 test images, print a table and write it as JSON.

    Args:
        num_labels: numbers of labels, equally many per class.
        epochs: passes through all training images.
        weight: weight of log q(y | x) for each occurrence of a labelled image.
        repeats: occurrences of each labelled image in an epoch.
        latent_dim: number of latents.
        batch_size: images in a batch.
        seed: seed of the choice of labels, and of parameters, batches and noise.
        output: path of the JSON file.
    """
    mnist = load("mnist")
    x, y = mnist.train.x.flatten(1), mnist.train.y
    test_x, test_y = mnist.test.x.flatten(1), mnist.test.y
    assert y is not None
    assert test_y is not None
    table = Table(title="Accuracy on MNIST's test images")
    for column in ("labels", "classifier", "accuracy", "± s.e."):
        table.add_column(column, justify="left" if column == "classifier" else "right")
    record: dict[str, Any] = {"epochs": epochs, "weight": weight, "repeats": repeats, "seed": seed}
    for num in num_labels:
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        labelled = torch.cat([order[y[order] == each][: num // 10] for each in range(10)])
        labelled_data = (x[labelled] / _LEVELS).numpy(), y[labelled].numpy()
        accuracies: dict[str, float] = {}
        for name, classifier in {
            "logistic regression": LogisticRegression(max_iter=2000),
            "support vectors": SVC(C=10.0),
            "perceptron, 400": MLPClassifier((400,), max_iter=1000, random_state=seed),
        }.items():
            classifier.fit(*labelled_data)
            predicted = torch.from_numpy(classifier.predict((test_x / _LEVELS).numpy()))
            accuracies[name] = (predicted == test_y).double().mean().item()
        torch.manual_seed(seed)
        label = torch.full_like(y, -1)
        label[labelled] = y[labelled]
        rows = torch.cat([torch.arange(len(y)), labelled.repeat(repeats - 1)])
        vae = SemiSupervisedVAE((784,), latent_dim, 10, weight=weight)
        start = perf_counter()
        fit(
            vae.model,
            vae.guide,
            (x[rows], label[rows]),
            epochs=epochs,
            batch_size=batch_size,
            schedule="cosine",
            objective="enumerated",
            transform=_binarise,
        )
        record[f"seconds, {num}"] = perf_counter() - start
        accuracies["M2, and images without labels"] = vae.label_accuracy(test_x / _LEVELS, test_y)
        record[str(num)] = accuracies
        for name, accuracy in accuracies.items():
            error = sqrt(accuracy * (1 - accuracy) / len(test_y))
            table.add_row(str(num), name, f"{accuracy:.4f}", f"{error:.4f}")
        print(record, flush=True)
        output.write_text(json.dumps(record, indent=2) + "\n")
    Console().print(table)


def _binarise(x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    return binarise(x, levels=_LEVELS), label


if __name__ == "__main__":
    run(main)
