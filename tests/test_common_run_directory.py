import dataclasses
import json
import os
from pathlib import Path

from common.errors import UserError
from common.results import Result
from common.run_directory import RunDirectory
from common.settings import NEWEST, RunSettings

import pytest

DEFAULT = RunSettings()


@dataclasses.dataclass(frozen=True)
class Config:
    n_way: int = 5
    rates: tuple[float, ...] = (0.1, 0.2)
    run: RunSettings = DEFAULT


def config_in(folder, **run):
    return Config(run=RunSettings(output_dir=folder, **run))


def resuming(config, path):
    return dataclasses.replace(config, run=dataclasses.replace(config.run, resume=path))


def test_run_directory_has_time_seed_and_settings(tmp_path):
    directory = RunDirectory.create(config_in(tmp_path, seed=7), "maml")
    assert directory.path.parent == tmp_path / "maml"
    assert directory.path.match("????-??-??T??-??-??-seed7")
    content = json.loads((directory.path / "config.json").read_text())
    assert content["script"] == "maml"
    assert content["seed"] == 7
    assert content["rates"] == [0.1, 0.2]


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    paths = {RunDirectory.create(config_in(tmp_path), "maml").path for _ in range(12)}
    assert len(paths) == 12


def test_a_file_as_output_dir_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --output-dir"):
        RunDirectory.create(config_in(tmp_path / "file"), "maml")


def test_find_takes_the_newest_unfinished_run(tmp_path):
    runs = [RunDirectory.create(config_in(tmp_path), "maml") for _ in range(3)]
    for age, run in zip((300, 200, 100), runs):
        file = run.path / "config.json"
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    assert RunDirectory.find(NEWEST, tmp_path, "maml") == runs[2].path
    runs[2].save(Result({}))
    assert RunDirectory.find(NEWEST, tmp_path, "maml") == runs[1].path
    assert RunDirectory.find(runs[0].path, tmp_path, "maml") == runs[0].path


def test_find_says_when_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        RunDirectory.find(NEWEST, tmp_path, "maml")
    with pytest.raises(UserError, match="expects the folder of a run, found none in"):
        RunDirectory.find(tmp_path, tmp_path, "maml")
    run = RunDirectory.create(config_in(tmp_path), "maml")
    run.save(Result({}))
    with pytest.raises(UserError, match="is finished"):
        RunDirectory.find(run.path, tmp_path, "maml")


def test_resume_with_other_settings_lists_them(tmp_path):
    config = config_in(tmp_path, steps=100)
    path = RunDirectory.create(config, "maml").path
    other = resuming(dataclasses.replace(config_in(tmp_path, steps=200), n_way=20), path)
    with pytest.raises(UserError) as caught:
        RunDirectory.resume(other, "maml")
    message = str(caught.value)
    assert "--n-way 5 (now 20), --steps 100 (now 200);" in message
    assert "\n" not in message


def test_resume_does_not_mind_where_files_lie(tmp_path):
    config = config_in(tmp_path)
    path = RunDirectory.create(config, "maml").path
    elsewhere = config_in(tmp_path / "other", data_dir=Path("/data"))
    assert RunDirectory.resume(resuming(elsewhere, path), "maml").path == path


def test_resume_of_another_scripts_run_is_refused(tmp_path):
    config = config_in(tmp_path)
    path = RunDirectory.create(config, "maml").path
    with pytest.raises(UserError, match="is a run of maml, expected one of reptile"):
        RunDirectory.resume(resuming(config, path), "reptile")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"script": "maml", "n_way": 5}', "another version of maml .*--rates"),
    ],
)
def test_damaged_settings_of_a_run_are_named(tmp_path, content, message):
    path = RunDirectory.create(config_in(tmp_path), "maml").path
    (path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        RunDirectory.config(path, "maml", Config())


def test_settings_of_a_wrong_type_are_damage(tmp_path):
    path = RunDirectory.create(config_in(tmp_path), "maml").path
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(content | {"steps": "many"}))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        RunDirectory.config(path, "maml", Config())


def test_config_of_a_run_is_what_it_was_started_with(tmp_path):
    config = dataclasses.replace(config_in(tmp_path, seed=4), rates=(3.0,))
    path = RunDirectory.create(config, "maml").path
    assert RunDirectory.config(path, "maml", Config()) == config


def test_seconds_of_the_parts_of_a_run_add_up(tmp_path):
    config = config_in(tmp_path)
    path = RunDirectory.create(config, "maml").path

    def write_after(seconds):  # a checkpoint, that long after the part of the run began
        started = json.loads((path / "clock.json").read_text())["started"]
        (path / "weights").write_text("")
        os.utime(path / "weights", (started + seconds,) * 2)

    write_after(100)
    second = RunDirectory.resume(resuming(config, path), "maml")
    assert second.seconds_before == pytest.approx(100, abs=1e-3)
    write_after(20)
    third = RunDirectory.resume(resuming(config, path), "maml")
    assert third.seconds_before == pytest.approx(120, abs=1e-3)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"started": "x", "seconds_before": 1}'])
def test_a_run_without_its_clock_can_be_resumed(tmp_path, content):
    config = config_in(tmp_path)
    path = RunDirectory.create(config, "maml").path
    (path / "clock.json").unlink()
    if content is not None:
        (path / "clock.json").write_text(content)
    assert RunDirectory.resume(resuming(config, path), "maml").seconds_before == 0.0


def test_discard_removes_only_a_run_that_left_nothing(tmp_path):
    first = RunDirectory.create(config_in(tmp_path), "maml")
    second = RunDirectory.create(config_in(tmp_path), "maml")
    (first.path / "weights").write_text("")
    first.discard_if_unused()
    second.discard_if_unused()
    assert list((tmp_path / "maml").iterdir()) == [first.path]
