"""What `face.py` and `audio.py` report: how well a network recognises, in numbers and figures."""

from chapter02_siamese import siamese
from common import plots, verification, verification_figures
from common.results import Result

import numpy as np

SHOWN = 500  # embeddings kept for the figure
NAMES = {"siamese": "siamese network", "random": "untrained network", "raw": "raw items"}


def measure(learners, judged, config, history):
    """Verification and identification by each learner and by the bare items' distance."""
    metrics, extra = {}, {"energies": {}}
    data, tested = judged["test"]
    people = np.stack([data.labels[tested.first], data.labels[tested.second]], axis=-1)
    raw = siamese.Euclidean()
    for name in (*learners, "raw"):
        energy = learners[name].energy if name in learners else raw
        embedded = {
            part: embed(learners.get(name), items.items) for part, (items, _) in judged.items()
        }
        validation = judged["validation"][1]
        chosen = verification.pair_energies(energy, embedded["validation"], validation)
        threshold = verification.best_threshold(chosen, validation.same)
        energies = verification.pair_energies(energy, embedded["test"], tested)
        measures = {
            "auc": verification.area_under_curve,
            "equal_error_rate": verification.equal_error_rate,
            "accuracy": lambda *a, at=threshold, **k: verification.accuracy(*a, at, **k),
        }
        for kind, function in measures.items():
            metrics[f"{name}_{kind}"] = verification.over_people(
                function, energies, tested.same, people, config.run.seed
            )
        way = n_way(config, data)
        metrics[f"{name}_{way}_way_{config.k_shot}_shot"] = verification.identification(
            data, embedded["test"], energy, n_way=way, k_shot=config.k_shot,
            n_episodes=config.eval_episodes, seed=config.run.seed,
        )  # fmt: skip
        extra["energies"][name] = energies.round(5).tolist()
        if name == "siamese":
            extra |= {"threshold": threshold, "input_shape": list(data.items.shape[1:])}
            shown = np.linspace(0, len(data.items) - 1, min(SHOWN, len(data.items))).astype(int)
            extra |= {"embedded": shown.tolist()}
            extra["embeddings"] = embedded["test"][shown].round(4).tolist()
    extra |= {"same": tested.same.tolist(), "pairs": np.stack(tested[:2], -1).tolist()}
    return Result(metrics, history=history, extra=extra, learner=learners["siamese"])


def embed(learner, items):
    """Embeddings `(items, d)`; without a learner the items themselves as vectors."""
    x = np.asarray(items, np.float32) / (255.0 if items.dtype == np.uint8 else 1.0)
    if learner is None:
        return x.reshape(len(x), -1)
    return np.concatenate([learner(x[i : i + 256]) for i in range(0, len(x), 256)])


def n_way(config, data):
    """Classes to choose from in identification: by default all that there are, at most 10."""
    return config.n_way or min(10, len(data.class_names))


def draw(result, config, data, directory, show):
    """Saves the figures of a run: pairs, energies, ROC, embeddings, learning curve.

    Args:
        result: What `measure` returned, also as it comes back from `result.json`.
        config: The script's settings.
        data: The test data.
        directory: Where to.
        show: `show(axis, item)` draws one item.
    """
    extra = result.extra
    same, energies = np.array(extra["same"]), extra["energies"]
    own, threshold = np.array(energies["siamese"]), extra["threshold"]
    chosen = verification_figures.examples(own, same)
    items = [data.items[np.array(extra["pairs"])[chosen, side]] for side in (0, 1)]
    figures = {
        "pairs": verification_figures.draw_pairs(
            *items, own[chosen], same[chosen], threshold, show
        ),
        "energies": verification_figures.draw_energies(own, same, threshold),
        "roc": verification_figures.draw_roc(
            {NAMES[name]: verification.roc(values, same) for name, values in energies.items()}
        ),
    }
    points = verification_figures.plane(np.array(extra["embeddings"]), config.run.seed)
    labels = data.labels[np.array(extra["embedded"])]
    figures["embedding"] = verification_figures.draw_plane(points, labels, data.class_names)
    figures["learning_curve"], axis = plots.figure(size=(5.6, 3.2))
    plots.learning_curve(axis, result.history["step"], result.history["loss"])
    axis.set(xlabel="step", ylabel=f"{config.loss.replace('_', '-')} loss in training")
    for name, figure in figures.items():
        plots.save(figure, directory / f"{name}.png")
