"""draft"""
from dataclasses import dataclass, replace

from chapter05_maml_adml.maml import MAML
from common import command, training
from common.policy_gradient import as_examples, gaussian_policy, kl_divergence, policy_gradient_loss, surrogate_loss
from common.navigation import Navigation, NavigationSampler
from common.trust_region import TrustRegion
import keras
import tensorflow as tf

class PolicyMAML(MAML):
    def __init__(self, network, inner_lr, inner_steps=1, order=2, world=None, trajectories=20):
        super().__init__(network, inner_lr, inner_steps, order, policy_gradient_loss)
        self.world = world or Navigation()
        self.trajectories = trajectories

    def sample(self, fast_weights, goals, seed):
        def policy(obs):
            return self.predict_with(fast_weights, obs)
        return self.world.rollout(policy, goals, self.trajectories, seed)

    def train_step(self, batch):
        goals, seed = batch
        seeds = tf.unstack(tf.random.split(seed, self.inner_steps + 1, alg="philox"))
        supports = []
        fast = self.batched_network.repeated_weights(goals.shape[0])
        paths0 = None
        for step in range(self.inner_steps):
            paths = self.sample(fast, goals, seeds[step])
            paths0 = paths0 or paths
            supports.append(as_examples(paths))
            fast = self.inner_step(fast, *supports[-1], True, step)
        after = self.sample(fast, goals, seeds[-1])
        x, y = as_examples(after)
        old = self.predict_with(fast, x)
        alive = tf.reshape(after.alive, [goals.shape[0], -1])
        alive = alive * alive.shape[1] / tf.reduce_sum(alive, 1, keepdims=True)

        def outputs():
            fast = self.batched_network.repeated_weights(goals.shape[0])
            for step, support in enumerate(supports):
                fast = self.inner_step(fast, *support, True, step)
            return self.predict_with(fast, x)
        def loss(new):
            return tf.reduce_mean(surrogate_loss(y, new, old))
        def kl(new):
            return tf.reduce_mean(alive * kl_divergence(old, new))
        report = self.optimizer.step(outputs, loss, kl, self.trainable_variables)
        return {**report, "before": tf.reduce_mean(paths0.returns()), "after": tf.reduce_mean(after.returns())}
