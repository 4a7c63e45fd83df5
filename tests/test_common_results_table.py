import json
import math
import re

from common import results_table
from common.errors import UserError
from common.results import Estimate, Result

import pytest

TABLES = """
[[row]]
table = "maml"
what = "5-way | 1-shot"
result = "maml-omniglot"
metric = "accuracy"
scale = 100
unit = "%"
published = "98.7 ± 0.4"
source = "Finn et al. 2017"

[[row]]
table = "maml"
what = "loss"
result = "maml-omniglot"
metric = "loss"
"""
README = """# Title

before
<!-- results:maml -->
old
<!-- /results:maml -->
after
"""
FILLED = """# Title

before
<!-- results:maml -->
| what | measured, mean ± 95 % | n | published | seed | time | run |
|---|---|---|---|---|---|---|
| 5-way \\| 1-shot | 98.70 ± 0.31 % | 1,000 | 98.7 ± 0.4 (Finn et al. 2017) | 0 | 51 min 40 s | 1 |
| loss | 0.050 ± 0.010 | 1,000 |  | 0 | 51 min 40 s | 1 |

1. `python maml.py --dataset omniglot` (CPU, 2 cores)
<!-- /results:maml -->
after
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "tables.toml").write_text(TABLES, encoding="utf-8")
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    Result(
        {"accuracy": Estimate(0.987, 0.0031, 1000), "loss": Estimate(0.05, 0.01, 1000)},
        seconds=3100.2,
        seed=0,
        command="python maml.py --dataset omniglot",
        device="CPU, 2 cores",
    ).save(tmp_path / "results" / "maml-omniglot.json")
    return tmp_path


def test_writes_the_tables_between_their_markers(root, capsys):
    results_table.main(["--root", str(root)])
    assert (root / "README.md").read_text(encoding="utf-8") == FILLED
    results_table.main(["--root", str(root), "--check"])
    assert "up to date" in capsys.readouterr().out


def test_check_fails_and_writes_nothing_when_out_of_date(root, capsys):
    with pytest.raises(SystemExit) as stop:
        results_table.main(["--root", str(root), "--check"])
    assert stop.value.code == 2
    assert "out of date; run `make results`" in capsys.readouterr().err
    assert (root / "README.md").read_text(encoding="utf-8") == README


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('metric = "loss"', 'metric = "mse"'), "has no metric 'mse'; it has accuracy, loss"),
        (('result = "maml-omniglot"', 'result = "none"'), r"cannot read a result file, .*none"),
        (('table = "maml"', 'table = "other"'), "must name the same tables; .* maml, other"),
        (('what = "loss"', 'wat = "loss"'), "lacks, or must not have: wat, what"),
        (("[[row]]", "[row"), "must be TOML with one"),
    ],
)
def test_mistakes_in_the_description_are_named(root, change, message):
    (root / "results" / "tables.toml").write_text(TABLES.replace(*change), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        results_table.filled(README, results_table.tables(root))


def test_missing_description_and_missing_end_marker(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*tables\.toml"):
        results_table.tables(tmp_path)
    with pytest.raises(UserError, match="lacks <!-- /results:a --> after <!-- results:a -->"):
        results_table.filled("<!-- results:a -->", {"a": "table"})


def test_filling_twice_changes_nothing_and_keeps_the_rest():
    text = "x\n<!-- results:a -->\n<!-- /results:a -->\ny\n<!-- results:b -->\n<!-- /results:b -->"
    once = results_table.filled(text, {"a": "| A |", "b": "| B |"})
    assert results_table.filled(once, {"a": "| A |", "b": "| B |"}) == once
    assert re.sub(r"\| [AB] \|\n", "", once) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(11.6, "12 s"), (59.7, "1 min 00 s"), (250, "4 min 10 s"), (3900, "1 h 05 min")],
)
def test_duration(seconds, text):
    assert results_table.duration(seconds) == text


def test_add_copies_a_result_with_its_curves_thinned(root, capsys):
    run = root / "outputs" / "run"
    run.mkdir(parents=True)
    history = {"loss": [float(step) for step in range(70_000)], "short": [1.0, math.nan]}
    metrics = {"mse": Estimate(0.5, 0.1, 600)}
    Result(metrics, history=history, config={"n_way": 1}).save(run / "result.json")
    path = results_table.add(run, "maml-sine", root)
    assert path == root / "results" / "maml-sine.json"
    loaded = Result.load(path)
    assert loaded.metrics == metrics
    assert loaded.config == {"n_way": 1}
    assert len(loaded.history["loss"]) == 100
    assert loaded.history["loss"][0] == 0.0
    assert loaded.history["loss"][-1] == 69_999.0
    assert loaded.history["loss"] == sorted(loaded.history["loss"])
    assert len(loaded.history["short"]) == 2
    assert json.loads(path.read_text())["history"]["short"] == [1.0, None]


def test_add_on_the_command_line_then_writes_the_tables(root, capsys):
    run = root / "outputs" / "run"
    run.mkdir(parents=True)
    Result({"accuracy": Estimate(0.5, 0.1, 9), "loss": Estimate(1, 0.1, 9)}).save(
        run / "result.json"
    )
    results_table.main(["--root", str(root), "--add", str(run), "maml-omniglot"])
    assert "50 ± 10 %" in (root / "README.md").read_text(encoding="utf-8")
    assert "maml-omniglot.json" in capsys.readouterr().out
