"""Runs as `limelm reproduce` would sum them up, and records as `limelm analyze` would measure them."""

import itertools
import json
import math

import numpy as np

from limelm.analysis.retrieval import ROUTERS
from limelm.routing.reader import REPRESENTATIONS

WORDS = ("is", "are", "was", "were")
VOCABULARY = (
    " is",
    " are",
    " was",
    "were",
    " Paris",
    " London",
    "\n",
    " because",
    "If",
    " however",
    "ing",
    " 7",
    "é",
    " of",
)
ENVIRONMENT = {"limelm": "0.1.0", "torch": "2.13.0", "device": "CPU", "threads": 1}
LONGEST = 512  # the ceiling of the entropy is its logarithm


class Study:
    """An analysis of models given as label: routing ("static", "dynamic", "kv" or None)."""

    def __init__(self, models, layers=8, heads=4, top_p=(), read_first_and_last=None, words=WORDS):
        self.models, self.layers, self.heads, self.words = models, layers, heads, words
        self.top_p = set(top_p)
        self.read = read_first_and_last  # how many sources a layer reads on either side; None: all
        self.random = np.random.default_rng(0)
        self.weights = {label: self._weights() for label, routing in models.items() if routing and layers > 1}

    def analysis(self):
        records = self.retrieval() | self.states() | self.collapse()
        if any(routing == "dynamic" for routing in self.models.values()) and self.layers > 1:
            records["circuits"] = self.circuits()
        records |= self.effects()
        kinds = {label: "lime" if routing else "llama" for label, routing in self.models.items()}
        notes = [
            {"model": label, "analysis": "retrieval", "reason": "it has no routers"}
            for label, routing in self.models.items()
            if routing is None
        ]
        return {
            "models": [
                {
                    "label": label,
                    "checkpoint": f"runs/{label}",
                    "model_type": kinds[label],
                    "routing": routing,
                    "has_routers": bool(routing),
                    "parameters": 1_176_770_784,
                    "num_layers": self.layers,
                    "hidden_size": 2048,
                }
                for label, routing in self.models.items()
            ],
            "facts": {
                "data": "text",
                "tokens": 32_768,
                "sequences": 64,
                "sequence_length": LONGEST,
                "alpha": 0.5,
                "probe": "logistic",
                "words": ", ".join(self.words),
            },
            "notes": notes,
            "cautions": ["One checkpoint of each model."],
            "records": {name: rows for name, rows in records.items() if rows},
        }

    def retrieval(self):
        rows = [
            {
                "model": model,
                "sources_are": REPRESENTATIONS,
                "layer": layer,
                "head": head,
                "source": source,
                "weight": float(matrix[head, source]),
            }
            for model, layers in self.weights.items()
            for layer, matrix in layers.items()
            for head in range(self.heads)
            for source in self._sources(layer)
        ]
        own = [
            {key: row[key] for key in ("model", "layer", "head", "weight")}
            | {"uniform": 1 / len(self._sources(row["layer"]))}
            for row in rows
            if row["layer"] == row["source"]
        ]
        by_layer = [
            {
                "model": model,
                "layer": layer,
                "weight": float(matrix[:, layer].mean()),
                "uniform": 1 / len(self._sources(layer)),
            }
            for model, layers in self.weights.items()
            for layer, matrix in layers.items()
        ]
        top_p = [model for model in self.weights if model in self.top_p]
        return {
            "mean_retrieval": [row for model in self.weights for row in self._mean_retrieval(model)],
            "self_retrieval": own,
            "self_retrieval_by_layer": by_layer,
            "expected_source": [row for model in self.weights for row in self._expected_source(model)],
            "weights": rows,
            "layer_mass": [row for model in self.weights for row in self._layer_mass(model)],
            "pruned_weights": [self._pruned(model) for model in top_p],
            "retrieval_under_top_p": [row for model in top_p for row in self._under_top_p(model, by_layer)],
        }

    def effects(self):
        route_effects, cell_effects, weight_and_effect, effect_estimates, by_token = [], [], [], [], []
        for model, layers in self.weights.items():
            for layer, matrix in layers.items():
                for head, source in itertools.product(range(self.heads), self._sources(layer)):
                    estimate = float(self.random.normal(0, 0.002) * matrix[head, source])
                    is_measured = self.random.uniform() < 0.2
                    route = {"model": model, "layer": layer, "set": "", "head": head, "source": source}
                    row = {**route, "weight": float(matrix[head, source]), "estimate": estimate}
                    row |= {"effect": 1.1 * estimate if is_measured else None, "kl": 1e-4 if is_measured else None}
                    row |= {"effect_to_mean": estimate / 2 if is_measured else None, "chosen": None}
                    route_effects.append(row)
                    if len(by_token) < 20:
                        token = {"token": str(self.random.choice(VOCABULARY)), "occurrences": 3, "part": estimate / 4}
                        by_token.append({**route, "estimate": estimate, **token})
                for source in self._sources(layer):
                    estimate = float(self.random.normal(0, 0.004))
                    cell = {"model": model, "layer": layer, "source": source, "sources_are": REPRESENTATIONS}
                    cell |= {"tokens": 1024, "weight": float(matrix[:, source].mean()), "estimate": estimate}
                    cell_effects.append(cell | {"effect": estimate if source == layer else None, "kl": None})
                correlation = float(self.random.uniform(-0.5, 1)) if layer > 1 else None
                weight_and_effect.append({"model": model, "layer": layer, "rank_correlation": correlation})
            numbers = {"mean_effect": 0.001, "largest_effect": -0.01, "mean_error": 1e-4, "correlation": 0.97}
            for chosen in ("largest", "random"):
                effect_estimates.append({"model": model, "chosen": chosen, "routes": 16, **numbers, "mean_kl": 1e-3})
        return {
            "cell_effects": cell_effects,
            "route_effects": route_effects,
            "weight_and_effect": weight_and_effect,
            "effect_estimates": effect_estimates,
            "effects_by_token": by_token,
        }

    def _sources(self, layer):
        if self.read is None:
            return list(range(layer + 1))
        return sorted({*range(min(self.read, layer + 1)), *range(max(0, layer + 1 - self.read), layer + 1)})

    def _weights(self):
        layers = {}
        for layer in range(1, self.layers):
            depth = np.arange(layer + 1)
            own = self.random.uniform(0.5, 3, (self.heads, 1)) * (1 - 0.7 * layer / self.layers)
            logits = own * (depth == layer) + 1.2 * np.cos(depth * self.random.uniform(0.2, 0.6, (self.heads, 1)))
            weights = np.exp(logits + 0.4 * self.random.standard_normal(logits.shape) + 0.8 * (depth == 0))
            unread = [source for source in depth if source not in self._sources(layer)]
            weights[:, unread] = 0
            layers[layer] = weights / weights.sum(axis=1, keepdims=True)
        return layers

    def _mean_retrieval(self, model):
        depends = self.models[model] == "dynamic"
        what_is_read = {"readers": ROUTERS, "depends_on_tokens": depends, "sources_are": REPRESENTATIONS}
        for source in range(self.layers):
            readers = [layer for layer in range(max(1, source), self.layers) if source in self._sources(layer)]
            if readers:
                weights = [self.weights[model][layer][:, source].mean() for layer in readers]
                uniform = float(np.mean([1 / len(self._sources(layer)) for layer in readers]))
                means = {"mean_weight": float(np.mean(weights)), "uniform": uniform}
                yield {"model": model, "source": source, **means, **what_is_read}

    def _expected_source(self, model):
        for layer, matrix in self.weights[model].items():
            expected = matrix @ np.arange(layer + 1)
            numbers = {
                "expected_source": expected.mean(),
                "lowest_head": expected.min(),
                "highest_head": expected.max(),
                "uniform": np.mean(self._sources(layer)),
            }
            yield {"model": model, "layer": layer, **{key: float(value) for key, value in numbers.items()}}

    def _layer_mass(self, model):
        is_kv = self.models[model] == "kv"
        for layer, matrix in self.weights[model].items():
            for source in self._sources(layer):
                share = float(matrix[:, source].mean())
                kv = {"absolute": 3 * share if is_kv else None, "same_head_share": 0.2 + 0.6 * share if is_kv else None}
                row = {"model": model, "sources_are": REPRESENTATIONS, "layer": layer, "source": source}
                yield {**row, "share": share, **kv}

    def _pruned(self, model):
        total = self.heads * (self.layers * (self.layers + 1) // 2 - 1)
        padded = self.heads * self.layers * (self.layers - 1)
        counts = {"pruned": total // 3, "weights": total, "pruned_share": 1 / 3}
        padding = {"padded_weights": padded, "padded_pruned_share": total // 3 / padded}
        return {"model": model, "layers": self.layers, "heads": self.heads, "top_p": 0.9, **counts, **padding}

    def _under_top_p(self, model, by_layer):
        mean = {row["source"]: row["mean_weight"] for row in self._mean_retrieval(model)}
        own = {row["layer"]: row["weight"] for row in by_layer if row["model"] == model}
        for depth in range(self.layers):
            yield {"model": model, "depth": depth, "mean_retrieval": mean.get(depth), "self_retrieval": own.get(depth)}

    def states(self):
        records = {"entropy": [], "effective_rank": [], "separability": [], "tsne": []}
        for place, (model, routing) in enumerate(self.models.items()):
            kinds = {"values": self.layers, "hidden states": self.layers + 1}
            if routing:
                kinds["values before routing"] = self.layers
            for states, count in kinds.items():
                depth = np.linspace(0, 1, count)
                fall = 0.9 - (0.35 - 0.05 * place) * depth**2 - 0.1 * (states == "values before routing")
                wave = fall + 0.02 * np.sin(9 * depth + place) + 0.005 * self.random.standard_normal(count)
                for layer, height in enumerate(wave.tolist()):
                    key = {"model": model, "states": states, "layer": layer}
                    error = {"standard_error": 0.01 * height, "sequences": 64}
                    ceiling = {"alpha": 0.5, "ceiling": math.log(LONGEST)}
                    records["entropy"].append({**key, "entropy": math.log(LONGEST) * height, **error, **ceiling})
                    records["effective_rank"].append({**key, "effective_rank": 300 * height, **error})
                    probe = {"deviation": 0.01, "chance": 1 / len(self.words), "occurrences": 600, "probe": "logistic"}
                    records["separability"].append({**key, "accuracy": min(1.0, 0.1 + height), **probe})
            for states in ("values", "hidden states"):
                records["tsne"] += self._clouds(model, states, place)
        return records

    def _clouds(self, model, states, place):
        for layer in sorted({int(layer) for layer in np.linspace(min(1, self.layers - 1), self.layers - 1, 6)}):
            for number, word in enumerate(self.words):
                apart = 12 * (1 - 0.8 * layer / self.layers) + 3 * place
                center = apart * np.array([math.cos(2.4 * number + place), math.sin(2.4 * number + place)])
                for x, y in (center + 4 * self.random.standard_normal((60, 2))).tolist():
                    yield {"model": model, "states": states, "layer": layer, "word": word, "x": x, "y": y}

    def collapse(self):
        records = {"cosine": [], "cka": [], "logit_lens": [], "gradients": []}
        for place, model in enumerate(self.models):
            for layer in range(self.layers):
                norm = 10.0 ** -(1 + (place + 1) * layer / self.layers)
                records["gradients"].append({"model": model, "layer": layer, "gradient_norm": norm})
            for layer in range(self.layers + 1):
                depth = layer / self.layers
                alike = 0.2 + 0.5 * depth**2 - 0.04 * place
                errors = {"standard_error": 0.01, "any_pair": alike - 0.1}
                records["cosine"].append({"model": model, "layer": layer, "neighbors": alike, **errors})
                loss = {"loss": 10 - 7 * depth**1.5 - 0.1 * place, "loss_standard_error": 0.05}
                rest = {"kl": 6 * (1 - depth**1.5), "agreement": depth**3}
                records["logit_lens"].append({"model": model, "layer": layer, **loss, **rest})
                for other in range(self.layers + 1):
                    block = 0.15 * (layer * 4 // (self.layers + 1) == other * 4 // (self.layers + 1))
                    alignment = (
                        1.0 if layer == other else math.exp(-3 * abs(layer - other) / self.layers) - 0.15 + block
                    )
                    records["cka"].append({"model": model, "layer": layer, "other": other, "cka": alignment})
        return records

    def circuits(self):
        rows = []
        dynamic = [model for model, routing in self.models.items() if routing == "dynamic"]
        for model in dynamic:
            for layer, matrix in self.weights[model].items():
                for head, source in itertools.product(range(self.heads), self._sources(layer)):
                    rows.append(self._route(model, layer, source, head, float(matrix[head, source])))
        return rows

    def _route(self, model, layer, source, head, usage):
        def tokens(weighted):
            logits = np.sort(self.random.normal(3, 1, 10))[::-1].tolist()
            names = self.random.choice(VOCABULARY, 10, replace=False).tolist()
            return [
                {"token": t, "logit": z, "weight": 0.5 if weighted else None}
                for t, z in zip(names, logits, strict=True)
            ]

        percentile, matched = (float(value) for value in self.random.uniform(0, 100, 2))
        bins = ("0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1")
        return {
            "model": model,
            "layer": layer,
            "source": source,
            "head": head,
            "is_own": source == layer,
            "usage": usage,
            "usage_bin": bins[min(4, int(5 * usage))],
            "tokens": tokens(True),
            "coherence": float(self.random.uniform(0, 0.6)),
            "control_tokens": tokens(False),
            "control_coherence": float(self.random.uniform(0, 0.4)),
            "coherence_percentile": percentile,
            "matched_coherence": float(self.random.uniform(-0.1, 0.4)),
            "matched_percentile": matched,
            "clear": "no" if percentile <= 95 else ("yes" if matched > 95 else "frequent tokens"),
            "examples": [
                {
                    "before": "The city that never sleeps, whose streets\n",
                    "token": str(self.random.choice(VOCABULARY)),
                    "after": " full of people, even late at night",
                    "weight": 0.9 - place / 10,
                }
                for place in range(5)
            ],
        }


def training(folder, label, place, seed=1, steps=2, eval_every=None):
    """A training of a run, with its metrics; the first model is LLaMA, held-out losses lie below the training's."""
    path = folder / f"seed-{seed}" / f"model-{place}"
    path.mkdir(parents=True)
    lines = [
        {"step": step, "tokens": 8 * step, "seconds": 0.5 * step, "loss": 8.0 - place - 0.01 * step + 0.5 * (step % 2)}
        for step in range(1, steps + 1)
    ]
    for line in lines:
        line["grad_norm"] = 1.0 + place
        if line["step"] == steps or (eval_every and line["step"] % eval_every == 0):
            line["eval_loss"] = line["loss"] - 3 - 0.1 * seed * place
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    losses = [line["loss"] for line in lines[-10:]]
    return {
        "seed": seed,
        "name": f"m{place}",
        "label": label,
        "model_type": "llama" if place == 0 else "lime",
        "parameters": 100,
        "trainable_parameters": None,
        "flops_per_token_forward": 100.0 + place,
        "paper_flops_per_token_forward": 50.0,
        "train_tokens": 8 * steps,
        "final_train_loss": sum(losses) / len(losses),
        "eval_loss": lines[-1]["eval_loss"],
        "eval_perplexity": 20.1,
        "seconds": 2.0,
        "tokens_per_second": 8.0,
        "mfu": None,
        "peak_memory_bytes": 1000,
        "routing": None,
        "movement": None,
        "environment": ENVIRONMENT,
        "checkpoint": str(path),
    }


def run(out, labels, text="books", seeds=(1,), base=None, folder="data", **options):
    """A run's summary, in which `text` stands wherever others have a say; `base` makes it one of a pretrained model."""
    labels = list(labels)
    trainings = [training(out, label, place, seed, **options) for seed in seeds for place, label in enumerate(labels)]
    for entry in trainings if base is not None else []:
        place = labels.index(entry["label"])
        entry |= {"trainable_parameters": 10 * place, "routing": {} if place >= 2 else None}
    data = {"folder": folder, "source": text, "content_sha256": "0" * 64, "sequence_length": 8, "vocab_size": 300}
    splits = {f"{split}_{what}": 10 for split in ("train", "validation") for what in ("documents", "tokens")}
    own = {entry["name"]: {"label": entry["label"], "model_type": entry["model_type"]} for entry in trainings}
    return {
        "name": "tiny",
        **({} if base is None else {"base": base}),
        "recipe": {
            "architecture": {"num_hidden_layers": 3, "hidden_size": 32},
            "models": own,
            "data": {},
            "training": {"steps": 2, "learning_rate": 1e-3, "seed": seeds[0]},
        },
        "data": {**data, **splits},
        "environment": ENVIRONMENT,
        "provenance": {
            "command": f"limelm reproduce --data {text}",
            "date": "2026-11-28T12:00:00+00:00",
            "commit": "abc",
        },
        "fingerprint": "f" * 64,
        "seeds": list(seeds),
        "trainings": trainings,
    }


def asked(labels, name):
    """The scores of models on the problems of a task, as of `score_run`."""
    scores = [
        {"task": name, "model": label, "seed": seed, "accuracy": 0.1 * seed} for label in labels for seed in (1, 2)
    ]
    counts = {"train_problems": 5, "problems": 5, "tested_on": name, "worked_steps": True}
    rates = {"chance": 0.1, "constant_rate": 0.2, "baseline": labels[0], "scores": scores}
    return {"made_of": "", "task": name, **counts, **rates}
