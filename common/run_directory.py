"""The folder of a run, `RunDirectory`:

outputs/maml/2026-01-31T12-00-00-seed0/
    config.json     the settings, written before anything else
    clock.json      when the run began, and how long it ran before it was resumed
    result.json     written last: a run without it is unfinished and can be resumed
    ...             weights, figures, logs
"""

import itertools
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.results import Result, jsonable, read_json, write_json
from common.settings import NEWEST, PLACES, flag, flat, restored


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run: `<output-dir>/<script>/<time-and-seed>/`."""

    path: Path
    seconds_before: float = 0.0

    @classmethod
    def create(cls, config: Any, script: str) -> "RunDirectory":
        """Makes the folder of a new run and writes its `config.json` first."""
        parent = config.run.output_dir / script
        name = f"{datetime.now():%Y-%m-%dT%H-%M-%S}-seed{config.run.seed}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path = _make_unique(parent / name)
        except OSError as error:
            raise UserError(
                f"cannot make a folder in {parent} ({error.strerror}); choose another --output-dir"
            ) from None
        write_json(path / "config.json", {"script": script, **flat(config)})
        return cls(path)._start_clock()

    @classmethod
    def resume(cls, config: Any, script: str) -> "RunDirectory":
        """Opens the folder `config.run.resume`; the run must have been started with `config`.

        Raises:
            UserError: If a setting differs, other than where files lie.
        """
        path = config.run.resume
        before, now = cls.settings(path, script), json.loads(json.dumps(jsonable(flat(config))))
        differences = [
            f"{flag(name)} {before.get(name)} (now {now.get(name)})"
            for name in before | now
            if name not in PLACES and before.get(name) != now.get(name)
        ]
        if differences:
            raise UserError(
                f"{path} was started with {', '.join(differences)}; leave these flags out to "
                "continue it, or leave out --resume to start a new run"
            )
        return cls(path, _seconds_so_far(path))._start_clock()

    @staticmethod
    def find(resume: Path, output_dir: Path, script: str) -> Path:
        """The run that `--resume` means: the newest unfinished one, or the folder given."""
        if resume != NEWEST:
            if not (resume / "config.json").is_file():
                raise UserError(f"--resume expects the folder of a run, found none in {resume}")
            if (resume / "result.json").exists():
                raise UserError(f"{resume} is finished, its result is there: nothing to resume")
            return resume
        started = [path.parent for path in (output_dir / script).glob("*/config.json")]
        unfinished = [path for path in started if not (path / "result.json").exists()]
        if not unfinished:
            raise UserError(
                f"found no unfinished run in {output_dir / script}: nothing to resume; leave out "
                "--resume to start a new run"
            )
        return max(unfinished, key=lambda path: (path / "config.json").stat().st_mtime_ns)

    @staticmethod
    def settings(path: Path, script: str) -> dict[str, Any]:
        """The settings in the `config.json` of a run, as `common.settings.flat` gives them."""
        settings = read_json(path / "config.json", "the settings of a run")
        if (owner := settings.pop("script", None)) != script:
            raise UserError(f"{path} is a run of {owner}, expected one of {script}")
        return settings

    @classmethod
    def config(cls, path: Path, script: str, default: Any) -> Any:
        """The `Config` of a run; `default` gives its type."""
        settings = cls.settings(path, script)
        if strange := (settings.keys() ^ flat(default).keys()) - set(PLACES):
            names = ", ".join(flag(name) for name in sorted(strange))
            raise UserError(f"{path} is from another version of {script} ({names} differ)")
        try:
            return restored(default, settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path / 'config.json'} is damaged: {error}") from None

    def save(self, result: Result) -> None:
        """Writes `result.json`, with which the run is finished."""
        result.save(self.path / "result.json")

    def discard_if_unused(self) -> None:
        """Removes the folder of a run that failed before it left anything of worth."""
        if {path.name for path in self.path.iterdir()} <= {"config.json", "clock.json"}:
            for path in self.path.iterdir():
                path.unlink()
            self.path.rmdir()
            with suppress(OSError):  # other runs are there
                self.path.parent.rmdir()

    def _start_clock(self) -> "RunDirectory":
        clock = {"started": time.time(), "seconds_before": self.seconds_before}
        write_json(self.path / "clock.json", clock)
        return self


def _make_unique(path: Path) -> Path:
    """Makes the folder `path`, or `path-2`, `path-3`, ... if others were as quick."""
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate


def _seconds_so_far(path: Path) -> float:
    """Time that the earlier parts of a run took: until the last of them last wrote a file."""
    try:
        clock = read_json(path / "clock.json", "the clock of a run")
        last = max(file.stat().st_mtime for file in path.rglob("*"))
        return clock["seconds_before"] + max(last - clock["started"], 0.0)
    except (UserError, KeyError, TypeError):  # killed before it was written, or damaged
        return 0.0  # a lost time is no reason to lose the run
