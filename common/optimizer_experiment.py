"""What `chapter01_intro/learning_to_learn.py` measures: a learned optimiser and hand-made ones."""

from functools import partial

from common import optimizer_figures, plots, training
from common.hand_made_optimizers import HAND_MADE
from common.optimisees import Classifiers, OptimiseeSampler, Quadratics, load_images
from common.results import Estimate, Result

import keras
import numpy as np
import tensorflow as tf

RATES = (*(float(f"{m}e{k}") for k in range(-4, 1) for m in (1, 2, 5)), 10.0)
HISTORY_STEPS = 40  # of the gradient histories whose updates are drawn


def optimisees_and_steps(config):
    """The functions and steps of training, and those beyond, by name; the first is training."""
    steps = config.train_steps
    if config.run.dataset == "quadratics":
        usual, large = Quadratics(config.dimensions), Quadratics(2 * config.dimensions)
        return {
            "training": (usual, steps),
            f"{2 * steps}_steps": (usual, 2 * steps),
            f"{2 * config.dimensions}_dimensions": (large, steps),
        }
    images, units = load_images(config.run.dataset, config.run.data_dir), config.hidden
    networks = partial(Classifiers, images, batch_size=config.batch_size)
    usual = networks((units,))
    return {
        "training": (usual, steps),
        f"{2 * steps}_steps": (usual, 2 * steps),
        f"{2 * units}_units": (networks((2 * units,)), steps),
        "two_layers": (networks((units, units)), steps),
        "ReLU": (networks((units,), "relu"), steps),
    }


def new_sampler(config):
    """Functions of the kind that the optimiser is trained on, an `OptimiseeSampler`."""
    return OptimiseeSampler(*optimisees_and_steps(config)["training"], config.run.seed)


def train(learner, sampler, config, directory=None, progress=False):
    """Trains the optimiser; it ends with the weights that were best on validation functions.

    Returns:
        `{"step": [...], "loss": [...], "val_loss": [...]}`, one value an epoch; a loss is the sum
        over the steps of training, mean over functions.
    """
    rate, steps = config.outer_lr, config.run.steps
    if config.outer_decay:
        updates = steps * learner.updates_per_step
        rate = keras.optimizers.schedules.CosineDecay(rate, updates)
    learner.compile(keras.optimizers.Adam(rate), jit_compile=config.run.jit)
    n = config.validation_episodes
    return training.train(
        learner, sampler, steps=steps, meta_batch_size=config.meta_batch_size,
        validation=tf.data.Dataset.from_tensors(next(sampler.fixed(n, n, "validation"))),
        directory=directory, keep_best=True, progress=progress,
    )  # fmt: skip


def follower(minimise, new_rule, sampler):
    """Compiles the minimisation of functions by a rule, for every rate at once.

    Args:
        minimise: The function of that name in the script.
        new_rule: Makes a rule from a rate, a scalar tensor.
        sampler: An `OptimiseeSampler`.

    Returns:
        A function of a rate and batches of the sampler, which gives f(theta_t) as NumPy
        `(tasks, steps + 1)`.
    """

    @partial(tf.function, autograph=False)
    def compiled(rate, theta, data):
        rule = new_rule(rate)
        state = rule.initial_state(theta)
        return minimise(rule, sampler.optimisees, theta, state, data, 0, sampler.steps)[2]

    def losses(rate, batches):
        rate = tf.constant(rate, tf.float32)
        return np.concatenate([compiled(rate, *batch).numpy().T for batch in batches])

    return losses


def sums(losses):
    """The sum of f(theta_t) over t = 1, 2, ... of each function; infinite if it diverged."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = losses[:, 1:].sum(axis=1, dtype=np.float64)
    return np.where(np.isfinite(total), total, np.inf)


def best_rate(losses, batches):
    """The rate of the grid with the least mean sum of `losses(rate, batches)`."""
    return min(RATES, key=lambda rate: sums(losses(rate, batches)).mean())


def measure(learner, minimise, config, history, progress=False):
    """Losses on new functions of the learned optimiser and of hand-made ones at their best rates.

    Returns:
        A `Result`. Its metrics are called like `Adam_loss_sum`, the sum of f(theta_t) over the
        steps t >= 1, and `learned_less_best_loss_sum`, the mean of the differences, function by
        function, to the hand-made optimiser with the lowest mean. For functions beyond training
        their name ends in that of the kind: `Adam_loss_sum_200_steps`.
    """
    metrics, extra = {}, {"conditions": {}}
    for kind, (optimisees, steps) in optimisees_and_steps(config).items():
        if progress:
            print(f"measuring on functions of the kind: {kind.replace('_', ' ')}", flush=True)
        sampler = OptimiseeSampler(optimisees, steps, config.run.seed)
        n = config.validation_episodes
        validation = list(sampler.fixed(n, n, "validation"))
        test = list(sampler.fixed(config.eval_episodes, n))
        losses = {"learned": follower(minimise, lambda rate: learner, sampler)(0.0, test)}
        rates = {}
        for name, new_rule in HAND_MADE.items():
            follow = follower(minimise, new_rule, sampler)
            rates[name] = best_rate(follow, validation)
            losses[name] = follow(rates[name], test)
        ending = "" if kind == "training" else f"_{kind}"
        metrics |= _metrics(losses, ending)
        extra["conditions"][kind] = {
            "rates": rates,
            "curves": {name: optimizer_figures.curve(found) for name, found in losses.items()},
        }
        if kind == "training":
            before = losses["learned"][:, :-1].sum(axis=1, dtype=np.float64)
            metrics["learned_loss_sum_from_step_0"] = Estimate.from_values(before)
            rules = {name: HAND_MADE[name](rate) for name, rate in rates.items()}
            extra["updates"] = updates_of_histories({"learned": learner, **rules}, sampler)
    return Result(metrics, history=history, extra=extra, learner=learner)


def _metrics(losses, ending):
    totals = {name: sums(found) for name, found in losses.items()}
    best = min(HAND_MADE, key=lambda name: totals[name].mean())
    with np.errstate(invalid="ignore"):  # both may be infinite
        difference = totals["learned"] - totals[best]
    values = {f"{name}_loss_sum": total for name, total in totals.items()}
    values["learned_less_best_loss_sum"] = difference
    values |= {f"{name}_final_loss": found[:, -1] for name, found in losses.items()}
    return {f"{name}{ending}": Estimate.from_values(found) for name, found in values.items()}


def updates_of_histories(rules, sampler):
    """What rules make of made-up histories of the gradient of one coordinate.

    Args:
        rules: Update rules by name.
        sampler: An `OptimiseeSampler`; the gradients are as large as a tenth of what its functions
            have at the start (root mean square).

    Returns:
        `{"gradients": {history: [...]}, "updates": {rule: {history: [...]}}}`.
    """
    theta, data = next(sampler.fixed(8, 8))
    with tf.GradientTape() as tape:
        tape.watch(theta)
        losses = sampler.optimisees.losses(theta, data, 0)
    size = 0.1 * float(tf.sqrt(tf.reduce_mean(tape.gradient(losses, theta) ** 2)))
    t = np.arange(HISTORY_STEPS)
    histories = {
        "constant": np.ones(HISTORY_STEPS),
        "alternating": (-1.0) ** t,
        "turning": np.where(t < HISTORY_STEPS // 2, 1.0, -1.0),
        "vanishing": 10 ** (-t / 10),
    }
    gradients = size * np.stack(list(histories.values()), axis=1)[:, np.newaxis]  # (steps, 1, 4)
    found = {}
    for name, rule in rules.items():
        state, updates = rule.initial_state(tf.zeros((1, len(histories)))), []
        for gradient in gradients:
            update, state = rule.update(tf.constant(gradient, tf.float32), state)
            updates.append(update[0].numpy())
        found[name] = dict(zip(histories, np.transpose(updates).tolist()))
    sizes = np.transpose(gradients[:, 0]).tolist()
    return {"gradients": dict(zip(histories, sizes)), "updates": found}


def draw(result, config, directory):
    """Saves the figures of a run: losses, losses beyond training, updates, learning curve."""
    conditions = {kind.replace("_", " "): c for kind, c in result.extra["conditions"].items()}
    usual = {"training": conditions.pop("training")}
    figures = {
        "losses": optimizer_figures.draw_losses(usual),
        "beyond_training": optimizer_figures.draw_losses(conditions),
        "updates": optimizer_figures.draw_updates(result.extra["updates"]),
        "learning_curve": optimizer_figures.draw_learning(result.history, result.metrics),
    }
    for name, figure in figures.items():
        plots.save(figure, directory / f"{name}.png")
