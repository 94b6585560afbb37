"""Linear probes: can close tokens be told apart by their states (Figures 7, 12)? And their t-SNE clouds (6, 15)."""

from dataclasses import dataclass

import numpy as np
import torch

from limelm.analysis.activations import OWN_VALUES
from limelm.analysis.words import WordStates
from limelm.extras import import_extra
from limelm.progress import progress_bar
from limelm.records import Records

FOLDS = 5
SEED = 42  # the authors'
PROBES = ("logistic", "paper")
PAPER_LEARNING_RATE, PAPER_BATCH = 1e-2, 64
CLOUD_POINTS = 100  # of each word
CLOUD_LAYERS = 6  # the paper shows six


@dataclass(frozen=True)
class Separability:
    """A probe's accuracy on the held-out folds, mean and standard deviation, and the accuracy of guessing."""

    accuracy: float
    deviation: float
    chance: float


def separability(features: np.ndarray, labels: np.ndarray, probe: str = "logistic") -> Separability:
    """The accuracy of a linear probe that tells labels apart, in 5-fold cross-validation (section 5.3).

    Args:
        features: `[n, D]`.
        labels: `[n]`.
        probe: "logistic" standardizes the features on the training folds and trains a logistic regression to
            convergence. "paper" is the authors': one epoch of Adam (learning rate 1e-2, batches of 64) on features as
            they are, which measures their scale as much as their separability.

    Raises:
        UserError: where scikit-learn is missing.
        ValueError: for an unknown probe, features that are not finite, or a label with fewer examples than folds.
    """
    if probe not in PROBES:
        raise ValueError(f"probe={probe!r} is not one of {', '.join(PROBES)}")
    if not np.isfinite(features).all():
        raise ValueError("features are not finite")
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < FOLDS:
        raise ValueError(
            f"label {str(classes[counts.argmin()])!r} has {counts.min()} examples, fewer than {FOLDS} folds"
        )
    selection = import_extra("sklearn.model_selection", "analysis")
    fit = _paper_accuracy if probe == "paper" else _logistic_accuracy
    folds = selection.StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    accuracies = [
        fit(features[train], labels[train], features[test], labels[test])
        for train, test in folds.split(features, labels)
    ]
    return Separability(float(np.mean(accuracies)), float(np.std(accuracies)), float(counts.max() / counts.sum()))


def separability_records(model: str, words: WordStates, probe: str) -> Records:
    """A record for every layer's states: `accuracy`, `deviation`, `chance`, `occurrences` and `probe`."""
    records = []
    places = [(name, index) for name, layers in words.states.items() for index in range(len(layers))]
    for name, index in progress_bar(f"{model}: probes", "layer", places):
        result = separability(words.states[name][index], words.words, probe)
        records.append(
            {
                "model": model,
                "states": name,
                "layer": index,
                "accuracy": result.accuracy,
                "deviation": result.deviation,
                "chance": result.chance,
                "occurrences": len(words.words),
                "probe": probe,
            }
        )
    return records


def clouds(model: str, words: WordStates) -> Records:
    """t-SNE in two dimensions of the states of at most six layers, `x` and `y` of each occurrence (Figures 6 and 15).

    Every vector is brought to length 1 first; scikit-learn's t-SNE with its defaults, seed 42, as the authors'.
    """
    manifold = import_extra("sklearn.manifold", "analysis")
    chosen = np.sort(np.concatenate([np.flatnonzero(words.words == w)[:CLOUD_POINTS] for w in np.unique(words.words)]))
    records = []
    shown = {name: shown_layers(len(layers)) for name, layers in words.states.items() if name != OWN_VALUES}
    places = [(name, index) for name, layers in shown.items() for index in layers]
    for name, index in progress_bar(f"{model}: clouds", "layer", places):
        points = words.states[name][index][chosen]
        points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
        tsne = manifold.TSNE(random_state=SEED, perplexity=min(30.0, (len(points) - 1) / 3))
        records += [
            {"model": model, "states": name, "layer": index, "word": str(word), "x": float(x), "y": float(y)}
            for word, (x, y) in zip(words.words[chosen], tsne.fit_transform(points), strict=True)
        ]
    return records


def shown_layers(count: int) -> list[int]:
    """Choose at most six layers to show, evenly spaced, the second and the last among them."""
    return sorted({int(i) for i in np.linspace(min(1, count - 1), count - 1, CLOUD_LAYERS).round()})


def _logistic_accuracy(features: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    linear_model = import_extra("sklearn.linear_model", "analysis")
    pipeline = import_extra("sklearn.pipeline", "analysis")
    preprocessing = import_extra("sklearn.preprocessing", "analysis")
    probe = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=10_000))
    return float(probe.fit(features, labels).score(test, test_labels))


def _paper_accuracy(features: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    classes, targets = np.unique(labels, return_inverse=True)
    generator = torch.Generator().manual_seed(SEED)
    x, y = torch.from_numpy(features).float(), torch.from_numpy(targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        probe = torch.nn.Linear(x.shape[1], len(classes))
    optimizer = torch.optim.Adam(probe.parameters(), lr=PAPER_LEARNING_RATE)
    for batch in torch.randperm(len(x), generator=generator).split(PAPER_BATCH):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(probe(x[batch]), y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        guesses = probe(torch.from_numpy(test).float()).argmax(dim=-1).numpy()
    return float((classes[guesses] == test_labels).mean())
