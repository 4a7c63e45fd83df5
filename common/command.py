"""From the command line to a finished run: `main(Config, run, draw)` is a script's whole `main`."""

import contextlib
import errno
import io
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError
from common.results import Result
from common.run_directory import RunDirectory
from common.settings import PLACES, RunSettings, as_flags, flag, flat, restored

import tyro

Settings = TypeVar("Settings")

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE_CAUSES = {  # what the person can mend, and no bug of ours
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EIO,
}  # fmt: skip


def main(
    Config: type,
    run: Callable[..., Result],
    draw: Callable[[Result, Any, Path], Any] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Runs a script: settings, training, `result.json`, figures, and a table of the metrics.

    Args:
        Config: The script's settings, a frozen dataclass with a field `run: RunSettings`.
        run: `run(config, directory=..., progress=True)` returns the `Result`.
        draw: `draw(result, config, directory)` saves figures in the run's folder.
        argv: The command line without the script's name; by default that of this process.

    Raises:
        SystemExit: With status 2 and one line on standard error if the user or the machine is
            the cause, with 130 after Ctrl-C. Bugs keep their traceback.
    """
    script = script_name(Config)
    with readable_errors():
        config = parse(Config, argv)
        if resumed := config.run.resume is not None:
            directory = RunDirectory.resume(config, script)
        else:
            directory = RunDirectory.create(config, script)
        start = time.perf_counter()
        try:
            result = run(config, directory=directory.path, progress=True)
        except KeyboardInterrupt:
            print(f"\nstopped; continue with --resume {directory.path}", file=sys.stderr)
            sys.exit(130)
        except Exception:
            if not resumed:
                directory.discard_if_unused()
            raise
        result = replace(
            result,
            seconds=directory.seconds_before + time.perf_counter() - start,
            seed=config.run.seed,
            command=command_line(config),
            versions=versions(),
            device=device(),
            config={name: value for name, value in flat(config).items() if name not in PLACES},
        )
        if draw is not None:
            draw(result, config, directory.path)
        directory.save(result)  # last: with it the run is finished
        print(summary(result, directory.path))


def parse(
    Config: type[Settings], argv: Sequence[str] | None = None, description: str | None = None
) -> Settings:
    """Makes a `Config` from the command line.

    `--dataset NAME` starts from `Config.for_dataset(NAME)` if the script has such settings,
    `--smoke` from `Config.smoke()` and `--resume` from the settings of the run that it continues,
    in place of `Config()`; flags that are given count more than any of these.

    Args:
        Config: The script's settings.
        argv: The flags; by default those of this process.
        description: Stands above the flags in `--help`; by default the first paragraph of the
            script's docstring.

    Returns:
        The settings; `run.resume` is None or the folder of the run to continue.

    Raises:
        UserError: If a flag is unknown or not of its type, a value is out of its range, or there
            is nothing to resume.
        SystemExit: With status 0 after `--help`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    script, module = script_name(Config), sys.modules[Config.__module__]
    if description is None:
        description = (module.__doc__ or Config.__doc__ or "").strip().split("\n\n")[0]
    flags = [word for word in argv if word not in ("-h", "--help")]
    prog = _script_path(Config).name
    shared, _ = _parsed(
        RunSettings, flags, prog=prog, default=Config().run, return_unknown_args=True
    )
    default = defaults(Config, shared)
    directory = shared.resume
    if directory is not None:
        directory = RunDirectory.find(directory, shared.output_dir, script)
        default = RunDirectory.config(directory, script, default)
    config = _parsed(Config, argv, prog=prog, default=default, description=description)
    return replace(config, run=replace(config.run, resume=directory))


def defaults(Config: type[Settings], shared: RunSettings) -> Settings:
    """The settings of a script before its flags are read: those of the data set, or of a trial."""
    by_dataset = hasattr(Config, "for_dataset")
    if shared.smoke:
        return Config.smoke(shared.dataset) if by_dataset else Config.smoke()
    return Config.for_dataset(shared.dataset) if by_dataset else Config()


def _parsed(form: type, argv: list[str], **options: Any) -> Any:
    """`tyro.cli` with flat flags; whatever is wrong with them is a `UserError`.

    tyro prints errors, those of the dataclass as well, in a frame and exits; hence the detour.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(form, args=argv, config=(tyro.conf.OmitArgPrefixes,), **options)
    except SystemExit as stop:
        error = stop.__context__
        while error is not None and not isinstance(error, UserError):
            error = error.__context__
        if error is not None:
            raise error from None
        if not printed.getvalue():  # --help
            raise
        raise UserError(_without_frame(printed.getvalue())) from None


def _without_frame(printed: str) -> str:
    """What tyro printed as one line: what is wrong, what it expects, and where to read on.

    A frame has a title, parts between lines of dashes, and in the last part a word on `--help`.
    """
    parts = [[]]
    for line in printed.strip().splitlines()[1:]:
        if "─" in line and not line.strip("│╰╯─ "):
            parts.append([])
        else:
            parts[-1].append(line.strip("│ "))
    wrong, *hints = [part for part in parts if any(part)] or [[printed.strip()]]
    wrong = wrong[: wrong.index("")] if "" in wrong else wrong  # details follow an empty line
    said = [" ".join(wrong).removeprefix("Error parsing ").rstrip(".")]
    for heading, *rest in hints:
        if rest and heading.endswith(":"):
            word = "expected" if heading.startswith("Argument") else heading.rstrip(":").lower()
            said.append(f"{word} {rest[0]}")
    return "; ".join([*said, "see --help"])


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turns what the user can mend into one line and exit status 2, and Ctrl-C into 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        full = "No space left on device" in str(error)  # TensorFlow and HDF5 have own classes
        if not (isinstance(error, UserError) or full or _is_outside_cause(error)):
            raise
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def _is_outside_cause(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in OUTSIDE_CAUSES


def script_name(Config: type) -> str:
    """`maml` for the `Config` of `chapter05_maml_adml/maml.py`, also when it runs as a script."""
    return _script_path(Config).stem


def _script_path(Config: type) -> Path:
    return Path(sys.modules[Config.__module__].__file__).resolve()


def command_line(config: Any) -> str:
    """The command that repeats a run, from the repository's root, wherever files lie here."""
    path = _script_path(type(config))
    path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
    default = defaults(type(config), config.run)
    usual = type(config)().run.dataset  # the others must be named, whatever follows from them
    default = replace(default, run=replace(default.run, dataset=usual))
    smoke = "--smoke" if config.run.smoke and default.run.smoke else ""
    return " ".join(f"python {path} {smoke} {as_flags(config, default)}".split())


def conflicts(config: Any, folder: Path) -> str:
    """The first flag of this command that does not fit a finished run, or nothing.

    Args:
        config: Settings from the command line.
        folder: Folder of a run of the same script.
    """
    usual = flat(defaults(type(config), config.run))
    usual["dataset"] = type(config)().run.dataset
    settings = RunDirectory.settings(folder, script_name(type(config)))
    trained = flat(restored(type(config)(), settings))
    for name, value in flat(config).items():
        given = name not in (*PLACES, "smoke") and value != usual[name]
        if given and value != trained.get(name):
            return f"{flag(name)} {value}"
    return ""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in ("tensorflow", "keras", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def device() -> str:
    """The GPUs that TensorFlow uses, or else the CPU; does not import TensorFlow for it."""
    tensorflow = sys.modules.get("tensorflow")
    gpus = tensorflow.config.list_physical_devices("GPU") if tensorflow else []
    if gpus:
        details = tensorflow.config.experimental.get_device_details(gpus[0])
        name = details.get("device_name", "GPU")
        return name if len(gpus) == 1 else f"{len(gpus)} x {name}"
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return f"CPU, {cores} core{'s' if cores != 1 else ''}"


def summary(result: Result, directory: Path) -> str:
    """What a person sees at the end: metrics with their 95 % intervals, and where files are."""
    width = max((len(name) for name in result.metrics), default=0)
    lines = [
        f"  {name:<{width}}  {estimate.text():<20} n = {estimate.n}"
        for name, estimate in result.metrics.items()
    ]
    files = sorted(path for kind in ("png", "gif") for path in directory.rglob(f"*.{kind}"))
    files.append(directory / "result.json")
    heading = f"mean ± 95 % interval, {result.seconds:.1f} s, {result.device}"
    return "\n".join([heading, *lines, "files", *(f"  {path}" for path in files)])
