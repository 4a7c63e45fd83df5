"""Sine tasks are the waves they say, and cost the published floors to predict blindly."""

import math

from common.datasets import load
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.sine import SineTasks

import numpy as np
import pytest

SEED = (0, 0)


def sample(tasks=None, seed=SEED, n_tasks=1000, k_shot=5, n_query=7):
    drawn = (tasks or SineTasks()).sample(seed, n_tasks, k_shot, n_query)
    return type(drawn)(*(part.numpy() for part in drawn))


def test_points_lie_on_the_wave_of_their_parameters():
    episode = sample()
    amplitude, phase, _ = (p.numpy()[:, None, None] for p in SineTasks().parameters(SEED, 1000))
    for x, y in [episode[:2], episode[2:]]:
        np.testing.assert_allclose(y, amplitude * np.sin(x - phase), atol=1e-5)
    assert episode.support_x.shape == episode.support_y.shape == (1000, 5, 1)
    assert episode.query_x.shape == episode.query_y.shape == (1000, 7, 1)
    assert {part.dtype for part in episode} == {np.dtype("float32")}


def test_parameters_and_points_are_independent_and_uniform():
    amplitude, phase, _ = (p.numpy() for p in SineTasks().parameters(SEED, 20_000))
    episode = sample(n_tasks=20_000, k_shot=1, n_query=1)
    columns = {
        "amplitude": (amplitude, 0.1, 5.0),
        "phase": (phase, 0.0, math.pi),
        "support": (episode.support_x.ravel(), -5.0, 5.0),
        "query": (episode.query_x.ravel(), -5.0, 5.0),
    }
    for name, (values, low, high) in columns.items():
        assert low <= values.min() <= values.max() <= high, name
        steps = np.linspace(low, high, 11)
        shares = np.histogram(values, steps)[0] / len(values)
        np.testing.assert_allclose(shares, 0.1, atol=0.011, err_msg=name)  # five deviations
    correlations = np.corrcoef([values for values, _, _ in columns.values()])
    assert np.abs(correlations - np.eye(4)).max() < 0.036


def test_floors_of_prediction_without_adaptation():
    # E[A^2] / 2 = 4.2517. The mean wave is E[A sin(x - phase)] = -E[A] 2/pi cos x = -1.6234 cos x,
    # which explains 1.6234^2 E[cos^2 x] = 1.2460 of it: 3.0057 is left.
    amplitude = 0.1, 5.0
    of_zero = (amplitude[1] ** 3 - amplitude[0] ** 3) / 3 / (amplitude[1] - amplitude[0]) / 2
    slope = -sum(amplitude) / 2 * 2 / math.pi
    blind = of_zero - slope**2 * (0.5 + math.sin(10) / 20)
    assert (of_zero, slope, blind) == pytest.approx((4.2517, -1.6234, 3.0057), abs=1e-4)

    episode = sample(n_tasks=100_000, k_shot=5, n_query=5)
    x, y = episode.support_x.ravel(), episode.support_y.ravel()
    assert np.mean(y**2) == pytest.approx(of_zero, abs=0.07)  # five standard errors
    waves = np.stack([np.cos(x), np.sin(x), np.cos(2 * x), np.ones_like(x), x], axis=1)
    coefficients = np.linalg.lstsq(waves, y, rcond=None)[0]
    np.testing.assert_allclose(coefficients, [slope, 0, 0, 0, 0], atol=0.05)
    query_x, query_y = episode.query_x.ravel(), episode.query_y.ravel()
    assert np.mean((query_y - slope * np.cos(query_x)) ** 2) == pytest.approx(blind, abs=0.06)


def test_seed_decides_and_splits_have_their_own_streams():
    np.testing.assert_array_equal(sample().query_y, sample().query_y)
    streams = [sample(SineTasks(split=split)) for split in ("train", "validation", "test")]
    streams += [sample(seed=(0, 1)), sample(seed=(1, 0))]
    for part in range(4):
        values = np.stack([stream[part].ravel() for stream in streams])
        assert len(np.unique(values)) > 0.99 * values.size


def test_support_and_query_points_differ():
    episode = sample(k_shot=7, n_query=7)
    assert np.mean(episode.support_x == episode.query_x) < 0.01


def test_same_waves_in_every_version():
    amplitude, phase, frequency = SineTasks().parameters(SEED, 2)
    assert frequency.numpy().tolist() == [1, 1]
    np.testing.assert_allclose(amplitude, [2.7441661, 3.8225443], rtol=1e-6)
    np.testing.assert_allclose(phase, [0.7070978, 0.4802828], rtol=1e-6)


def test_own_ranges():
    wave = SineTasks(amplitude=(7, 7), phase=(0.5, 0.5), x_range=(0, 1))
    episode = sample(wave)
    np.testing.assert_allclose(episode.query_y, 7 * np.sin(episode.query_x - 0.5), atol=1e-5)
    assert 0 <= episode.query_x.min() <= episode.query_x.max() <= 1


def test_sampler_tells_the_wave_of_a_fixed_episode():
    sampler = EpisodeSampler(load("sine-frequency", "test"), 1, 5, 100, seed=2)
    parameters = sampler.tasks.parameters(sampler.seed_of(3), 1)
    episode = sampler.episode(3)
    wave = SineTasks.wave(*parameters, episode.query_x)
    np.testing.assert_allclose(episode.query_y, wave, atol=1e-5)


def test_relatives_differ_in_one_range():
    usual = sample()
    frequencies = load("sine-frequency", "train").parameters(SEED, 20_000)[2].numpy()
    assert 0.8 <= frequencies.min() < 0.81 < 1.19 < frequencies.max() <= 1.2
    phases = load("sine-phase", "train").parameters(SEED, 20_000)[1].numpy()
    assert 0 <= phases.min() < 0.01 < 6.27 < phases.max() <= 2 * math.pi
    for name in ("sine-frequency", "sine-phase"):  # of the same amplitudes at the same points
        other = sample(load(name, "train"))
        np.testing.assert_array_equal(other.query_x, usual.query_x)
        assert np.abs(other.query_y - usual.query_y).mean() > 0.1
        assert np.abs(other.query_y).max() <= 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"amplitude": (5.0, 0.1)}, "amplitude"),
        ({"amplitude": (-1.0, 1.0)}, "amplitude .*at least 0"),
        ({"amplitude": (1.0,)}, "amplitude"),
        ({"phase": (1.0, 0.0)}, "phase"),
        ({"frequency": (-0.1, 1.0)}, "frequency .*at least 0"),
        ({"phase": (0.0, math.nan)}, "phase"),
        ({"x_range": (-math.inf, 5.0)}, "x_range"),
        ({"x_range": (1.0, 1.0)}, "x_range"),
        ({"split": "dev"}, "split .*found 'dev'"),
    ],
)
def test_wrong_ranges_are_refused(wrong, message):
    with pytest.raises(UserError, match=f"expected .*{message}") as refusal:
        SineTasks(**wrong)
    assert "\n" not in str(refusal.value)
