"""How well gradient-based learners of images withstand attacks, before and after adaptation.

Every learner is attacked at its own weights: its support set at theta, before adaptation, and its
queries at the weights that answer for them.
"""

from functools import partial

from common import adaptation_figures, attack_figures, attacks, plots
from common.errors import UserError
from common.results import Estimate, Result

import numpy as np
import tensorflow as tf

ATTACKS = ("fgsm", "pgd")
CASES = {  # which images of a task are attacked; "before" has seen no support set
    "queries_before": "queries, before adaptation",
    "queries": "queries",
    "support": "support set",
    "both": "support set and queries",
}


def check_images(data):
    """Refuses data that is no images with pixels in 0..1: an epsilon would mean nothing there.

    Raises:
        UserError: If it is none.
    """
    items = getattr(data, "items", None)
    if items is None or items.dtype != np.uint8 or items.ndim != 4:
        found = "tasks without items" if items is None else f"{items.dtype} {items.shape[1:]}"
        raise UserError(
            f"expected images with pixels from 0 to 255, found {found} in {data.name}; choose "
            "--dataset glyphs, omniglot, faces or folder:PATH"
        )


def attacked_scores(learner, episodes, epsilons, *, pgd_steps=10, seed=0):
    """The accuracy of every task in each of the `CASES`, under each attack and epsilon.

    Args:
        learner: A gradient-based `MetaLearner` such as `MAML`.
        episodes: Batches of `Episode`, such as `sampler.fixed(1000, 32)`.
        epsilons: The strengths of the attacks; 0 leaves all images as they are.
        pgd_steps: Steps of PGD.
        seed: Seed of the random starts of PGD, which are the same for every learner.

    Returns:
        `{attack: {case: NumPy (n_episodes, epsilons)}}`.
    """
    adapt = tf.function(partial(learner.adapt))
    score = tf.function(partial(_scores, learner))
    attack = {
        "fgsm": tf.function(partial(_attack, learner, attacks.fgsm)),
        "pgd": tf.function(partial(_attack, learner, partial(attacks.pgd, steps=pgd_steps))),
    }
    found = {name: {case: [] for case in CASES} for name in ATTACKS}
    for number, episode in enumerate(episodes):
        support_x, support_y, query_x, query_y = episode
        theta = learner.adapt(support_x, support_y, steps=0)
        adapted = adapt(support_x, support_y)
        for name in ATTACKS:
            random = {"seed": tf.constant([seed, number])} if name == "pgd" else {}
            changed = partial(attack[name], **random)
            rows = {case: [] for case in CASES}
            for epsilon in map(tf.constant, epsilons):
                misled = adapt(changed(theta, support_x, support_y, epsilon), support_y)
                queries = {
                    "queries_before": (theta, changed(theta, query_x, query_y, epsilon)),
                    "queries": (adapted, changed(adapted, query_x, query_y, epsilon)),
                    "support": (misled, query_x),
                    "both": (misled, changed(misled, query_x, query_y, epsilon)),
                }
                for case, (weights, x) in queries.items():
                    rows[case].append(score(weights, x, query_y))
            for case, columns in rows.items():
                found[name][case].append(np.stack(columns, axis=1))
    return {
        name: {case: np.concatenate(batches) for case, batches in cases.items()}
        for name, cases in found.items()
    }


def _attack(learner, method, weights, x, y, epsilon, **options):
    def loss(x):
        return learner.task_losses(y, learner.predict_with(weights, x))

    return method(loss, x, epsilon, **options)


def _scores(learner, weights, x, y):
    return learner.task_scores(y, learner.predict_with(weights, x))


def measure(learners, sampler, config, history):
    """Attacks all learners on the same fixed episodes.

    Args:
        learners: Learners by name, the one that the script is about first.
        sampler: The `EpisodeSampler` of the meta-test split.
        config: The script's `Config`, with `epsilon`, `test_epsilons` and `pgd_steps`.
        history: Learning curves.

    Returns:
        A `Result`. Its metrics are called like `ADML_accuracy_clean`, before adaptation
        `ADML_accuracy_clean_before`, and `ADML_accuracy_pgd_0.1_queries` with one of `CASES` at
        the end; `ADML_less_MAML_...` is the mean of the differences, task by task. All cases are
        there for the epsilon of training, for others `queries`; `extra["curves"]` has them all.
    """
    epsilons = sorted({0.0, float(config.epsilon), *map(float, config.test_epsilons)})
    episodes = sampler.fixed(config.eval_episodes, config.meta_batch_size)
    options = {"pgd_steps": config.pgd_steps, "seed": config.run.seed}
    scores = {
        name: attacked_scores(learner, episodes, epsilons, **options)
        for name, learner in learners.items()
    }
    first, *others = learners
    for other in others:
        scores[f"{first}_less_{other}"] = {
            attack: {case: values - scores[other][attack][case] for case, values in cases.items()}
            for attack, cases in scores[first].items()
        }
    curves = {
        name: {
            attack: {
                case: [Estimate.from_values(v) for v in rows.T] for case, rows in cases.items()
            }
            for attack, cases in found.items()
        }
        for name, found in scores.items()
    }
    metrics = {}
    for name, found in curves.items():
        clean = found["fgsm"]  # at epsilon 0, where both attacks do nothing
        metrics[f"{name}_accuracy_clean_before"] = clean["queries_before"][0]
        metrics[f"{name}_accuracy_clean"] = clean["queries"][0]
        for attack, cases in found.items():
            for case, estimates in cases.items():
                for epsilon, estimate in list(zip(epsilons, estimates, strict=True))[1:]:
                    if case == "queries" or epsilon == config.epsilon:
                        metrics[f"{name}_accuracy_{attack}_{epsilon:g}_{case}"] = estimate
    extra = {
        "epsilons": epsilons,
        "curves": curves,
        "example": example(learners, sampler, config.epsilon or max(epsilons)),
    }
    return Result(metrics, history=history, extra=extra, learner=learners[first])


def example(learners, sampler, epsilon, index=0):
    """What `attack_figures.draw_attacks` draws of fixed episode number `index`, under FGSM."""
    episode = sampler.episode(index)
    order = np.argsort(episode.query_y, kind="stable")
    _, first = np.unique(episode.query_y[order], return_index=True)
    shown = order[first]  # one query of each class
    support_x, support_y, query_x, query_y = (tf.convert_to_tensor(part)[None] for part in episode)
    found = {"epsilon": epsilon, "image": episode.query_x[shown], "label": episode.query_y[shown]}
    for name, learner in learners.items():
        weights = learner.adapt(support_x, support_y)
        changed = _attack(learner, attacks.fgsm, weights, query_x, query_y, epsilon)
        clean, attacked = (
            learner.probabilities(tf.cast(learner.predict_with(weights, x)[0], tf.float32))
            for x in (query_x, changed)
        )
        found[name] = {
            "attacked": changed.numpy()[0, shown],
            "before": clean.numpy()[shown],
            "after": attacked.numpy()[shown],
        }
    return found


def draw(result, config, directory):
    """Saves the figures of a run: one attacked task, accuracy by epsilon, learning curves."""
    extra = result.extra
    names = [name for name in extra["curves"] if "_less_" not in name]
    figure = attack_figures.draw_attacks(extra["example"], names)
    plots.save(figure, directory / "attacks.png")
    curves = {name: extra["curves"][name] for name in names}
    figure = attack_figures.draw_epsilons(extra["epsilons"], curves, config.epsilon)
    plots.save(figure, directory / "epsilon.png")
    figure = adaptation_figures.draw_learning(result.history, names)
    plots.save(figure, directory / "learning_curve.png")
