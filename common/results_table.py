"""Writes the tables of results in README.md from the committed result files.

`results/tables.toml` says what each row is; the numbers come from the files alone (a table of
learners side by side is told in common/learner_table.py):

    [[row]]
    table = "maml-sine"                  # between `<!-- results:maml-sine -->` and
    what = "5-shot, after 10 steps"      # `<!-- /results:maml-sine -->` in README.md
    result = "maml-sine"                 # results/maml-sine.json
    metric = "mse_after_10_steps"
    scale = 1                            # 100 for per cent
    unit = ""
    published = "0.35"
    source = "Finn et al. 2017"

    python -m common.results_table                          # writes the tables
    python -m common.results_table --check                  # fails if they are out of date
    python -m common.results_table --add outputs/maml/2026-01-31T12-00-00-seed0 maml-sine
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.command import ROOT, readable_errors
from common.errors import UserError
from common.files import atomic_path
from common.learner_table import learner_tables
from common.results import Result

import numpy as np
import tyro

NEEDED = {"table", "what", "result", "metric"}  # in each row of tables.toml
OPTIONAL = {"scale", "unit", "published", "source"}
POINTS = 100  # of a learning curve in a committed result file
MOST_EXTRA = 10_000  # characters of an entry of `extra` there; arrays for figures are longer


@dataclass(frozen=True)
class Options:
    """Writes the tables of results in README.md from the files in results/."""

    check: bool = False
    """Write nothing; fail if README.md is out of date."""

    add: tuple[Path, str] | None = None
    """First copy the result of a run, given by its folder, to results/NAME.json."""

    root: Path = ROOT
    """The folder with README.md and results/."""


def tables(root: Path) -> dict[str, str]:
    """The Markdown of each table in `results/tables.toml` and `results/learners.toml`, by name."""
    path = root / "results" / "tables.toml"
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["row"]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} must be TOML with one [[row]] or more: {error}") from None
    by_table: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if wrong := (NEEDED - row.keys()) | (row.keys() - NEEDED - OPTIONAL):
            raise UserError(f"a row of {path} lacks, or must not have: {', '.join(sorted(wrong))}")
        by_table.setdefault(row["table"], []).append(row)
    made = {name: _table(rows, root / "results") for name, rows in by_table.items()}
    return made | learner_tables(root)


def _table(rows: Iterable[Mapping[str, Any]], folder: Path) -> str:
    """A Markdown table, and below it the command and the machine of each run that it tells of."""
    lines = [
        "| what | measured, mean ± 95 % | n | published | seed | time | run |",
        "|---|---|---|---|---|---|---|",
    ]
    runs: list[str] = []
    for row in rows:
        path = folder / f"{row['result']}.json"
        result = Result.load(path)
        if row["metric"] not in result.metrics:
            known = ", ".join(result.metrics)
            raise UserError(f"{path} has no metric {row['metric']!r}; it has {known}")
        estimate = result.metrics[row["metric"]]
        run = f"`{result.command}` ({result.device})"
        if run not in runs:
            runs.append(run)
        published = row.get("published", "")
        if published and "source" in row:
            published += f" ({row['source']})"
        cells = (
            row["what"],
            estimate.text(row.get("scale", 1), row.get("unit", "")),
            f"{estimate.n:,}",
            published,
            result.seed,
            duration(result.seconds),
            runs.index(run) + 1,
        )
        lines.append("| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |")
    numbered = [f"{number}. {run}" for number, run in enumerate(runs, start=1)]
    return "\n".join([*lines, "", *numbered])


def duration(seconds: float) -> str:
    """A wall time for people: `12 s`, `4 min 10 s`, `1 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def filled(text: str, contents: Mapping[str, str]) -> str:
    """`text` with each of the `contents` between its markers."""
    marked = set(re.findall(r"<!-- results:([\w-]+) -->", text))
    if strays := marked ^ contents.keys():
        raise UserError(
            "README.md and results/tables.toml must name the same tables; only one of them has "
            + ", ".join(sorted(strays))
        )
    for name, content in contents.items():
        start, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
        if end not in text.partition(start)[2]:
            raise UserError(f"README.md lacks {end} after {start}")
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{content}\n{end}{rest.partition(end)[2]}"
    return text


def add(directory: Path, name: str, root: Path) -> Path:
    """Copies a run's result to `results/`, its curves thinned, without what only figures need."""
    result = Result.load(directory / "result.json")
    path = root / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    history = {key: _thinned(values) for key, values in result.history.items()}
    extra = {key: value for key, value in result.extra.items() if len(str(value)) < MOST_EXTRA}
    replace(result, history=history, extra=extra).save(path)
    return path


def _thinned(values: Sequence[float]) -> list[float]:
    """At most `POINTS` of the values, evenly spaced, the first and the last among them."""
    if len(values) <= POINTS:
        return list(values)
    return [values[index] for index in np.linspace(0, len(values) - 1, POINTS).round().astype(int)]


def main(argv: Sequence[str] | None = None) -> None:
    """Writes or checks the tables; see the module's docstring."""
    options = tyro.cli(Options, args=argv, prog="python -m common.results_table")
    with readable_errors():
        if options.add is not None:
            print("wrote", add(*options.add, options.root))
        readme = options.root / "README.md"
        old = readme.read_text(encoding="utf-8") if readme.exists() else ""
        new = filled(old, tables(options.root))
        if new == old:
            print(f"{readme} is up to date")
        elif options.check:
            raise UserError(f"{readme} is out of date; run `make results`")
        else:
            with atomic_path(readme) as temporary:
                temporary.write_text(new, encoding="utf-8")
            print("wrote", readme)


if __name__ == "__main__":
    main()
