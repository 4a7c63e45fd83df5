import dataclasses
import inspect
import json
from pathlib import Path

from common.errors import UserError
from common.settings import (
    RunSettings,
    as_flags,
    at_least,
    flag,
    flat,
    fraction,
    non_negative,
    positive,
    restored,
)

import pytest

DEFAULT = RunSettings(steps=50)


@dataclasses.dataclass(frozen=True)
class Config:
    n_way: int = 5
    inner_lr: float = 0.1
    rates: tuple[float, ...] = (0.1, 0.2)
    weights: Path | None = None
    run: RunSettings = DEFAULT


def test_flag_spells_a_setting_as_on_the_command_line():
    assert flag("meta_batch_size") == "--meta-batch-size"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"dataset": ""}, "--dataset must name a data set, got an empty name"),
    ],
)
def test_run_settings_refuse_impossible_values(settings, message):
    with pytest.raises(UserError) as caught:
        RunSettings(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (positive, 0, "--inner-lr must be at least 1, got 0"),
        (positive, 0.0, "--inner-lr must be greater than 0, got 0.0"),
        (positive, float("nan"), "--inner-lr must be a finite number, got nan"),
        (non_negative, -0.5, "--inner-lr must be at least 0, got -0.5"),
        (fraction, 1.5, "--inner-lr must be between 0 and 1, got 1.5"),
        (fraction, float("inf"), "--inner-lr must be a finite number, got inf"),
    ],
)
def test_checks_name_flag_bound_and_value(check, value, message):
    with pytest.raises(UserError) as caught:
        check(Config(inner_lr=value), "inner_lr")
    assert str(caught.value) == message


def test_checks_accept_their_bounds():
    positive(Config(n_way=1, inner_lr=1e-9), "n_way", "inner_lr")
    non_negative(Config(inner_lr=0.0), "inner_lr")
    at_least(2, Config(n_way=2), "n_way")
    fraction(Config(inner_lr=0.0), "inner_lr")
    fraction(Config(inner_lr=1.0), "inner_lr")


def test_at_least_looks_at_every_name():
    with pytest.raises(UserError, match=r"--inner-lr must be at least 2, got 0\.1"):
        at_least(2, Config(), "n_way", "inner_lr")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunSettings().seed = 1


def test_every_shared_setting_is_documented_in_its_source():
    source = inspect.getsource(RunSettings)
    for field in dataclasses.fields(RunSettings):
        after = source.split(f"    {field.name}: ")[1].splitlines()[1]
        assert after.strip().startswith('"""'), field.name


def test_flat_and_restored_are_inverse_through_json():
    config = Config(
        n_way=20,
        rates=(1.0,),
        weights=Path("a/b"),
        run=RunSettings(seed=3, data_dir=Path("/data"), jit=True),
    )
    settings = json.loads(json.dumps(flat(config), default=str))
    assert settings["n_way"] == 20
    assert settings["seed"] == 3
    assert "run" not in settings
    assert restored(Config(), settings) == config


def test_restored_keeps_what_is_not_mentioned():
    assert restored(Config(n_way=7), {"seed": 2}) == Config(
        n_way=7, run=dataclasses.replace(Config().run, seed=2)
    )


def test_as_flags_gives_the_differences_and_no_places():
    config = Config(
        n_way=20,
        rates=(1.0, 2.0),
        run=RunSettings(
            steps=50, dataset="folder:/my images", jit=True, output_dir=Path("/somewhere")
        ),
    )
    expected = "--n-way 20 --rates 1.0 2.0 --dataset 'folder:/my images' --jit"
    assert as_flags(config, Config()) == expected
    assert as_flags(Config(), config) == "--n-way 5 --rates 0.1 0.2 --dataset sine --no-jit"
    assert as_flags(Config(), Config()) == ""
