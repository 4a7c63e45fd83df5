import dataclasses
import json
import math

from common.errors import UserError
from common.results import Estimate, Result

import numpy as np
import pytest


def test_estimate_worked_by_hand():
    # 1, 2, 3, 4: mean 2.5, squared deviations sum to 5, sd = sqrt(5 / 3), ci = 1.96 sd / 2
    estimate = Estimate.from_values([[1, 2], [3, 4]])
    assert estimate.mean == 2.5
    assert estimate.ci95 == pytest.approx(0.98 * math.sqrt(5 / 3))
    assert estimate.n == 4


def test_interval_covers_the_mean_95_times_in_100():
    samples = np.random.default_rng(0).normal(1.0, 2.0, size=(2000, 600))
    estimates = [Estimate.from_values(sample) for sample in samples]
    covered = np.mean([abs(estimate.mean - 1.0) <= estimate.ci95 for estimate in estimates])
    assert abs(covered - 0.95) < 0.02  # four standard errors


@pytest.mark.parametrize(
    ("values", "sd", "quantile"),  # of Student's t with one degree of freedom less than values
    [([1.0, 2.0, 4.0], 1.52753, 4.30265), ([1.0, 2.0, 3.0, 4.0, 5.0], 2.5**0.5, 2.77645)],
)
def test_interval_over_a_few_seeds_is_students(values, sd, quantile):
    estimate = Estimate.from_seeds(values)
    assert estimate.mean == pytest.approx(np.mean(values))
    assert estimate.ci95 == pytest.approx(quantile * sd / len(values) ** 0.5, rel=1e-4)
    assert estimate.n == len(values)
    assert math.isnan(Estimate.from_seeds(values[:1]).ci95)


def test_estimate_comes_back_from_what_json_holds():
    estimate = Estimate(1.5, 0.5, 7)
    assert Estimate.restored(estimate) is estimate
    assert Estimate.restored(json.loads(json.dumps(estimate._asdict()))) == estimate
    back = Estimate.restored({"mean": None, "ci95": None, "n": 3})
    assert math.isnan(back.mean)
    assert math.isnan(back.ci95)
    assert back.n == 3


def test_estimate_of_one_value_has_no_interval_and_of_none_is_refused():
    estimate = Estimate.from_values([3.0])
    assert estimate.mean == 3.0
    assert math.isnan(estimate.ci95)
    with pytest.raises(ValueError, match="at least one value"):
        Estimate.from_values([])


@pytest.mark.parametrize(
    ("estimate", "options", "text"),
    [
        (Estimate(0.98703, 0.00312, 1000), (100, "%"), "98.70 ± 0.31 %"),
        (Estimate(0.98703, 0.00312, 1000), (), "0.9870 ± 0.0031"),
        (Estimate(2.4123, 0.0951, 600), (), "2.412 ± 0.095"),
        (Estimate(1234.5, 12.0, 600), (), "1234 ± 12"),
        (Estimate(1.0, 0.0, 600), (100, "%"), "100 ± 0 %"),
        (Estimate(0.5, math.nan, 1), (), "0.5"),
    ],
)
def test_estimate_text_shows_two_digits_of_the_interval(estimate, options, text):
    assert estimate.text(*options) == text


def test_result_survives_saving_and_loading(tmp_path):
    result = Result(
        {"accuracy": Estimate(0.9, 0.01, 600)},
        seconds=12.5,
        history={"loss": [3.0, 1.0]},
        extra={"curve": np.array([1, 2]), "score": np.float32(0.5)},
        learner=object(),
        seed=3,
        command="python a.py --seed 3",
        versions={"python": "3.11"},
        device="CPU, 2 cores",
        config={"n_way": 5},
    )
    path = tmp_path / "result.json"
    result.save(path)
    loaded = Result.load(path)
    assert loaded == dataclasses.replace(
        result, extra={"curve": [1, 2], "score": 0.5}, learner=None
    )
    content = json.loads(path.read_text())
    assert content["metrics"] == {"accuracy": {"mean": 0.9, "ci95": 0.01, "n": 600}}
    assert "learner" not in content
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    path = tmp_path / "result.json"
    history = {"loss": [1.0, math.nan, np.float32("inf")]}
    Result({"mse": Estimate(math.nan, math.inf, 3)}, history=history, extra={"x": math.nan}).save(
        path
    )

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["metrics"]["mse"] == {"mean": None, "ci95": None, "n": 3}
    loaded = Result.load(path)
    assert math.isnan(loaded.metrics["mse"].mean)
    assert loaded.history["loss"][0] == 1.0
    assert math.isnan(loaded.history["loss"][1])


def test_text_with_brackets_and_spaces_is_written_as_it_is(tmp_path):
    command = 'python a.py "[a   b]" [c   d]'
    Result({}, command=command, extra={"words": ["a   b", "[  ]"]}).save(tmp_path / "r.json")
    loaded = Result.load(tmp_path / "r.json")
    assert loaded.command == command
    assert loaded.extra == {"words": ["a   b", "[  ]"]}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"metrics": {"a": {"mean": 1}}}', "\0"])
def test_damaged_result_file_is_named(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"result\.json"):
        Result.load(path)


def test_missing_result_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read a result file, .*none\.json"):
        Result.load(tmp_path / "none.json")
