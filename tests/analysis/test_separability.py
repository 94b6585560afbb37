import numpy as np
import pytest

from limelm.analysis import clouds, separability
from limelm.analysis.separability import shown_layers
from limelm.analysis.words import WordStates

WORDS = ["is", "are", "was", "were"]
LABELS = np.repeat(WORDS, 50)
RANDOM = np.random.default_rng(0)


def features(distance: float, labels=LABELS, width: int = 6) -> np.ndarray:
    """A cloud per word; `distance` of their centers."""
    centers = {word: RANDOM.normal(size=width) * distance for word in WORDS}
    return np.stack([centers[word] + RANDOM.normal(size=width) for word in labels]).astype(np.float32)


@pytest.mark.parametrize("probe", ["logistic", "paper"])
def test_separable_and_inseparable_features(probe):
    labels = np.repeat(WORDS, 500)  # the paper's probe takes 25 steps on them
    apart = separability(features(30, labels), labels, probe)
    assert apart.accuracy > (0.99 if probe == "logistic" else 0.8) and apart.chance == 0.25
    mixed = separability(features(0, labels), labels, probe)
    assert abs(mixed.accuracy - 0.25) < 0.05 and mixed.deviation > 0


def test_only_the_papers_probe_depends_on_scale():
    clear = features(5)
    assert separability(clear / 1000, LABELS).accuracy == separability(clear, LABELS).accuracy == 1
    assert separability(clear / 1000, LABELS, "paper").accuracy < 0.9


def test_accuracy_is_that_of_folds_by_hand():
    """Ten examples of each of two words; one feature that is right but for one example of each word."""
    labels = np.repeat(["a", "b"], 10)
    x = np.where(labels == "a", -1.0, 1.0)
    x[0], x[10] = 1, -1
    result = separability(x[:, None], labels)
    assert result.accuracy == pytest.approx(0.9) and result.chance == 0.5


def test_uneven_words_have_a_higher_chance_level():
    assert separability(features(3)[:80], LABELS[:80]).chance == pytest.approx(50 / 80)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": "deep"}, "probe='deep' is not one of logistic, paper"),
        ({"features": np.full((200, 2), np.nan)}, "not finite"),
        ({"labels": np.array(["a"] * 197 + ["b"] * 3)}, "label 'b' has 3 examples, fewer than 5 folds"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        separability(**({"features": features(1), "labels": LABELS} | change))


def test_clouds_keep_words_that_are_apart_apart_and_come_out_the_same_twice():
    states = WordStates(LABELS, {"values": [features(0), features(8)], "values before routing": [features(1)] * 2})
    records = clouds("m", states)
    assert records == clouds("m", states)
    assert {(row["states"], row["layer"]) for row in records} == {("values", 1)} and len(records) == 200
    points = np.array([[row["x"], row["y"]] for row in records])
    words = np.array([row["word"] for row in records])
    distances = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(len(points))
    assert (words[distances.argmin(axis=1)] == words).mean() > 0.97


@pytest.mark.parametrize(("count", "shown"), [(1, [0]), (2, [1]), (4, [1, 2, 3]), (16, [1, 4, 7, 9, 12, 15])])
def test_shown_layers(count, shown):
    assert shown_layers(count) == shown
