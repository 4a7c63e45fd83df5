import json

from common import results_table
from common.errors import UserError
from common.learner_table import learner_tables
from common.results import Estimate, Result

import pytest

LEARNERS = """
table = "family"

[[gain]]
key = "images"
title = "images"
scale = 100
unit = "%"

[[cost]]
title = "outer step"
result = "costs"

[[learner]]
name = "MAML"
idea = "the first"
benchmark = "MAML"

[[learner]]
name = "quick"
idea = "half the time"
benchmark = "quick"
images = ["quick", "quick_less_MAML"]

[[learner]]
name = "the other way round"
idea = "a minus"
images = ["quick", "-quick_less_MAML"]

[[learner]]
name = "unmeasured"
idea = "not in the files"
"""
TABLE = """\
| learner | what is its own | images | outer step |
|---|---|---|---|
| MAML | the first |  | 2.0 ms |
| quick | half the time | -1.50 ± 0.25 % | 0.50 |
| the other way round | a minus | 1.50 ± 0.25 % |  |
| unmeasured | not in the files |  |  |"""


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "learners.toml").write_text(LEARNERS, encoding="utf-8")
    rows = [{"learner": "MAML", "seconds": 0.002}, {"learner": "quick", "seconds": 0.001}]
    (folder / "costs.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    Result({"quick_less_MAML": Estimate(-0.015, 0.0025, 600)}).save(folder / "quick.json")
    return tmp_path


def test_gains_have_their_interval_and_costs_are_relative_to_the_first(root):
    assert learner_tables(root) == {"family": TABLE}


def test_the_table_is_written_with_the_others(root):
    (root / "results" / "tables.toml").write_text("row = []", encoding="utf-8")
    assert results_table.tables(root) == {"family": TABLE}


def test_without_its_description_there_is_no_table(tmp_path):
    assert learner_tables(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("quick_less_MAML", "quick_less"), "has no metric 'quick_less'; it has quick_less_MAML"),
        (('["quick",', '["none",'), r"cannot read a result file, .*none"),
        (('result = "costs"', 'result = "none"'), "cannot read a benchmark's file, .*none"),
        (('idea = "the first"', 'ideas = "the first"'), "must not have: ideas"),
        (('table = "family"', ""), "lacks 'table'"),
        (("[[gain]]", "[gain"), "must be TOML"),
    ],
)
def test_mistakes_in_the_description_are_named(root, change, message):
    path = root / "results" / "learners.toml"
    path.write_text(LEARNERS.replace(*change), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        learner_tables(root)
