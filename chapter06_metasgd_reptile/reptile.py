"""Reptile: move the initial weights towards where training on a task ends, and nothing more.

Alex Nichol, Joshua Achiam, John Schulman (2018), arXiv:1803.02999, Algorithm 1 and its batched
version.

    phi_i~ = U_i^k(phi)                               k steps of SGD or Adam on task i
    phi   <- phi + epsilon * 1/n sum_i (phi_i~ - phi)     outer step; n = 1: the serial version

There is no second derivative, and no query set in training. With one inner step it is training on
all tasks at once; what makes it meta-learning are the later ones. To leading order in the inner
rate alpha, (phi - phi~) / alpha after k steps of SGD is k times the mean gradient, less
k (k - 1) / 4 alpha times the gradient of the inner product of two minibatches' gradients (the
paper's section 5.1): phi goes where a step on one minibatch also helps the other.

Differences from the paper and its code:

1. The running squares of the inner Adam (beta1 = 0) go on from task to task on images, as in the
   authors' code; tasks that are trained side by side leave their mean. On waves they start anew
   with every task, so that the first step is as long in every weight (`--inner-memory`).
2. Minibatches of the inner loop go through the shuffled support set again and again in the same
   order; the authors shuffle anew. `--inner-batch 0` takes the whole set in every step.
3. Far fewer outer steps by default; the settings say how many.
4. Waves: the authors' network has other nonlinearities; here ReLU, as in MAML's.
5. The loss in the learning curve is that of queries after adaptation; no weight depends on it.
6. At meta-test, too, a turned character is of a class of its own, as in `maml.py`; the authors turn
   those of training only. Ink is 1 and paper 0 here, theirs the other way round.

Batch normalisation normalises by the batch, so it matters in whose company a query is. "Reptile"
here sees each query with the support set alone; "Reptile_transductive", the same weights, all
queries of a task together, as MAML does. The paper has a row for each.

`python chapter06_metasgd_reptile/reptile.py` trains on sine waves and compares with MAML: mean
squared error 0.66 ± 0.08 after ten steps on ten points of 600 unseen waves, MAML's 0.60 ± 0.13,
seed 0. `--dataset omniglot-random` takes handwritten characters: accuracy on unseen ones, 5-way
1-shot, is 95.0 ± 0.6 % plain and 97.2 ± 0.5 % transductive.
"""

from dataclasses import dataclass, replace

from chapter05_maml_adml import maml
from chapter05_maml_adml.maml import MAML
from common import command, experiment, training
from common.errors import UserError
from common.inner_adam import adam_updates
from common.learner import as_episode
from common.settings import RunSettings, non_negative, one_of, positive

import keras
import tensorflow as tf


@dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the script; the defaults are those of the sine waves."""

    train_shots: int = 10
    """Support items of each class in training; at meta-test there are `k_shot`."""

    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers of the network for waves."""

    inner_optimizer: str = "adam"
    """Of the inner steps: adam (with beta1 = 0) or sgd."""
    inner_memory: bool = False
    """Let Adam's running squares go on from task to task, as in the authors' code."""
    inner_lr: float = 0.01
    """alpha: rate of the inner steps."""
    inner_steps: int = 32
    """k: inner steps in training."""
    inner_batch: int = 0
    """Support items in a minibatch of the inner steps; 0 takes them all."""
    test_steps: int = 32
    """Inner steps at test time."""

    outer_lr: float = 1.0
    """epsilon: part of the way to the adapted weights that an outer step goes."""
    outer_decay: bool = True
    """Let epsilon fall to zero along a straight line."""
    meta_batch_size: int = 5
    """Tasks in an outer step; 1 is the serial version."""

    baseline_steps: int = 4000
    """Outer steps of the MAML that is compared, with its own settings; 0 leaves it out."""
    order: int = 2
    """Order of that MAML's meta-gradient."""
    later_lr_factor: float = 1.0
    """That MAML's factor on the inner rate from the second inner step on."""
    run: RunSettings = RunSettings(steps=4000, dataset="sine-phase")

    def __post_init__(self):
        super().__post_init__()
        positive(self, "train_shots", "inner_steps")
        non_negative(self, "inner_batch")
        one_of(self, "inner_optimizer", ("adam", "sgd"))
        if not self.hidden or min(self.hidden) < 1:
            raise UserError(f"--hidden must be numbers of at least 1, got {self.hidden}")
        if not self.baseline_steps and (self.order, self.later_lr_factor) != (2, 1.0):
            raise UserError(
                "--order and --later-lr-factor are settings of the MAML that is compared, found "
                "them with --baseline-steps 0; leave them out, or let that MAML be trained"
            )

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set, after the authors' code."""
        steps = cls().run.steps
        if dataset.startswith("sine"):
            return cls(run=RunSettings(steps=steps, dataset=dataset))
        steps = 30000 if dataset.startswith("omniglot") else 2000
        return cls(
            n_way=5, k_shot=1, n_query=1, train_shots=10, rotations=True, inner_lr=0.001,
            inner_memory=True, inner_steps=5, inner_batch=10, test_steps=50, eval_episodes=1000,
            baseline_steps=0, run=RunSettings(steps=steps, dataset=dataset),
        )  # fmt: skip


@keras.saving.register_keras_serializable("meta_learning")
class Reptile(MAML):
    """Meta-learns the initial weights of a network without second derivatives (Nichol et al. 2018).

    The optimizer that it is compiled with gets `phi - phi~`, averaged over tasks, as a gradient:
    with SGD its rate is epsilon.

    Args:
        network: A built Keras model; its trainable weights are phi.
        inner_lr: alpha, the rate of the inner steps, on the mean loss of a minibatch.
        inner_steps: k, the inner steps in training.
        loss: None for cross-entropy on integer labels and logits, otherwise any Keras loss.
        test_steps: Inner steps outside training; by default as many as in training.
        inner_optimizer: `"adam"`, with beta1 = 0, or `"sgd"`.
        inner_batch: Support items in a minibatch; 0 takes the whole support set.
        transductive: Whether all queries of a task are seen in one batch. Otherwise each one is
            seen with the support set alone, which matters to batch normalisation.
        inner_memory: Whether the running squares of Adam go on from task to task in training; they
            then are weights of the learner, and every task of a test starts from the last ones.

    Raises:
        UserError: If a number is negative, or the inner optimizer is not one of the two.
    """

    def __init__(
        self,
        network,
        inner_lr,
        inner_steps=1,
        loss=None,
        test_steps=None,
        inner_optimizer="adam",
        inner_batch=0,
        transductive=False,
        inner_memory=False,
        **options,
    ):
        super().__init__(network, inner_lr, inner_steps, 1, loss, test_steps, **options)
        if inner_optimizer not in ("adam", "sgd"):
            raise UserError(f"inner_optimizer must be adam or sgd; got {inner_optimizer!r}.")
        if inner_batch < 0:
            raise UserError(f"inner_batch must not be negative; got {inner_batch}.")
        self.inner_optimizer, self.inner_batch = inner_optimizer, inner_batch
        self.transductive, self.inner_memory = transductive, inner_memory
        if inner_memory:
            self.memory = [
                self.add_weight(v.shape, "zeros", v.dtype, trainable=False, name=f"memory_{number}")
                for number, v in enumerate(network.trainable_variables)
            ]
            self.steps_before = self.add_weight(
                (), "zeros", "int64", trainable=False, name="steps_before"
            )

    def adapt(self, support_x, support_y, steps=None, training=False):
        """From phi to every phi_i~, U^k(phi), for all tasks at once: arguments as in MAML.

        Returns:
            The fast weights: a list aligned with `network.trainable_variables`, each
            `(tasks, *shape)`. Their derivative with respect to phi is the identity.
        """
        state = self.adapt_with_state(support_x, support_y, steps, training)
        return list(state[: len(self.network.trainable_variables)])

    def adapt_with_state(self, support_x, support_y, steps=None, training=False):
        """As `adapt`, and what `inner_step` returns beside the fast weights."""
        if steps is None:
            steps = self.inner_steps if training else self.test_steps
        state = self.batched_network.repeated_weights(support_x.shape[0])
        if steps:  # the first step by itself: all tasks still share their weights, which is faster
            state = self.inner_step(state, support_x, support_y, training)
            state = tf.while_loop(
                lambda *state: state[-1] < steps,
                lambda *state: tuple(self.inner_step(state, support_x, support_y, training)),
                tuple(state),
            )
        return state

    def inner_step(self, fast_weights, support_x, support_y, training=False, step=0):
        """One step of every task on the next minibatch of its support set.

        Args:
            fast_weights: Fast weights to start from; or what this method returned, to go on.
            support_x, support_y, training: As in `adapt`.
            step: Not needed here.

        Returns:
            A list: the new fast weights, then Adam's running squares, aligned with them, and the
            number of steps taken.
        """
        n_weights = len(self.network.trainable_variables)
        weights, state = list(fast_weights[:n_weights]), fast_weights[n_weights:]
        *squares, count = state or self.initial_state(weights)
        batch_x, batch_y = (self.minibatch(part, count) for part in (support_x, support_y))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            predictions = self.predict_with(weights, batch_x, training, count)
            losses = self.task_losses(batch_y, predictions)  # (tasks,)
        gradients = tape.gradient(
            losses, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        count += 1
        if self.inner_optimizer == "sgd":
            updates = [self.inner_lr * gradient for gradient in gradients]
        else:
            before = self.steps_before.value if self.inner_memory else 0  # in earlier tasks
            updates, squares = adam_updates(gradients, squares, before + count, self.inner_lr)
        weights = [w - tf.stop_gradient(u) for w, u in zip(weights, updates, strict=True)]
        return [*weights, *squares, count]

    def initial_state(self, weights):
        """Adam's running squares and the number of steps at the start of a task."""
        if not self.inner_memory:
            return [*map(tf.zeros_like, weights), tf.constant(0, tf.int64)]
        kept = [tf.broadcast_to(v, w.shape) for v, w in zip(self.memory, weights)]
        return [*kept, tf.constant(0, tf.int64)]

    def minibatch(self, support, step):
        """Rows `(tasks, inner_batch, ...)` of step number `step`, in the order of the support."""
        size = support.shape[1]
        if not 0 < self.inner_batch < size:
            return support
        rows = (step * self.inner_batch + tf.range(self.inner_batch, dtype=tf.int64)) % size
        return tf.gather(support, rows, axis=1)

    def task_gradients(self, episode):
        """`phi - phi_i~` of every task, which takes the place of a meta-gradient.

        Returns:
            `(gradients, losses)`: a list aligned with `network.trainable_variables`, each
            `(tasks, *shape)`, and the query losses after adaptation, `(tasks,)`.
        """
        state = self.adapt_with_state(episode.support_x, episode.support_y, training=True)
        n_weights = len(self.network.trainable_variables)
        fast_weights = list(state[:n_weights])
        if self.inner_memory and self.inner_steps:
            *squares, count = state[n_weights:]
            for kept, found in zip(self.memory, squares, strict=True):
                kept.assign(tf.reduce_mean(found, axis=0))
            self.steps_before.assign_add(count)
        phi = self.network.trainable_variables
        gradients = [w[None] - fast for w, fast in zip(phi, fast_weights, strict=True)]
        predictions = self.predict_with(fast_weights, episode.query_x)  # for the curve only
        return gradients, self.task_losses(episode.query_y, predictions)

    def train_step(self, episode):
        """One outer step: phi <- phi + epsilon * mean over tasks of (phi~ - phi)."""
        gradients, losses = self.task_gradients(as_episode(episode))
        gradients = [self.optimizer.scale_loss(tf.reduce_mean(g, axis=0)) for g in gradients]
        self.optimizer.apply(gradients, self.network.trainable_variables)
        self.loss_metric.update_state(losses)
        return {"loss": self.loss_metric.result()}

    @staticmethod
    def outer_optimizer(config):
        """SGD at the rate epsilon, which falls to zero along a straight line."""
        rate = config.outer_lr
        if config.outer_decay:
            rate = keras.optimizers.schedules.PolynomialDecay(rate, config.run.steps, 0.0)
        return keras.optimizers.SGD(rate)

    def query_predictions(self, episode, training=False):
        """The queries seen through the weights adapted to the support set."""
        fast_weights = self.adapt(episode.support_x, episode.support_y, training=training)
        return self.predict_queries(fast_weights, episode)

    def predict_queries(self, fast_weights, episode):
        """Outputs for the queries, `(tasks, queries, outputs)`: all in one batch if transductive,
        otherwise each in a batch with the support set."""
        if self.transductive:
            return self.predict_with(fast_weights, episode.query_x)

        def predict(number):
            query = episode.query_x[:, number : number + 1]
            batch = tf.concat([episode.support_x, query], axis=1)
            return tf.cast(self.predict_with(fast_weights, batch)[:, -1], tf.float32)

        numbers = tf.range(episode.query_x.shape[1])
        outputs = tf.map_fn(predict, numbers, fn_output_signature=tf.float32)
        return tf.transpose(outputs, [1, 0, 2])

    def predict_with(self, fast_weights, inputs, training=False, call=0):
        """As in MAML; what follows the weights, as `inner_step` returns it, is left aside."""
        n_weights = len(self.network.trainable_variables)
        return super().predict_with(list(fast_weights[:n_weights]), inputs, training, call)

    def get_config(self):
        names = ("inner_optimizer", "inner_batch", "transductive", "inner_memory")
        config = {**super().get_config(), **{name: getattr(self, name) for name in names}}
        return {k: v for k, v in config.items() if k not in ("order", "later_lr_factor")}


def run(config, directory=None, progress=False):
    """Meta-trains Reptile, and measures it on tasks never seen, beside MAML if that is asked for.

    Returns:
        A `Result` with the score of each learner after 0, 1, 3, 5, 10 and `test_steps` inner steps.
    """
    training.prepare(config.run)
    sampler, test_sampler = samplers(config)
    learners = {"Reptile": new_learner(config, sampler)}
    history = experiment.train(learners, sampler, config, directory, progress)
    if config.baseline_steps:
        learners |= compared_maml(config, sampler, directory, progress)
    if learners["Reptile"].classifies:
        other = learners["Reptile_transductive"] = new_learner(config, sampler, transductive=True)
        other.set_weights(learners["Reptile"].get_weights())
    return experiment.measure(learners, test_sampler, config, history)


def samplers(config):
    """The episodes for meta-training, with `train_shots`, and those for meta-test."""
    shots = {"k_shot": config.train_shots, "test_k_shot": config.test_k_shot or config.k_shot}
    return experiment.samplers(replace(config, **shots))


def new_learner(config, sampler, transductive=False):
    """An untrained Reptile, its weights decided by the seed."""
    network, loss = experiment.new_network(config, sampler)
    transductive |= loss is not None  # waves: a point's neighbours make no difference there
    inner = (config.inner_optimizer, config.inner_batch, transductive, config.inner_memory)
    rates = (config.inner_lr, config.inner_steps)
    return Reptile(network, *rates, loss, config.test_steps, *inner)


def compared_maml(config, sampler, directory=None, progress=False):
    """MAML by its own settings, trained on the same tasks for `baseline_steps` outer steps."""
    usual = maml.Config.for_dataset(config.run.dataset)
    shared = {"n_way": config.n_way, "meta_batch_size": config.meta_batch_size}
    usual = replace(usual, **shared, run=replace(config.run, steps=config.baseline_steps))
    network, loss = experiment.new_network(config, sampler)
    learner = MAML(
        network, usual.inner_lr, usual.inner_steps, config.order, loss, config.test_steps,
        config.later_lr_factor,
    )  # fmt: skip
    place = directory and directory / "MAML"
    experiment.train({"MAML": learner}, sampler, usual, place, progress)
    return {"MAML": learner}


def main():
    """The command line: see `--help`."""
    command.main(Config, run, experiment.draw)


if __name__ == "__main__":
    main()
