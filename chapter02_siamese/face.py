"""Face verification and identification with a siamese network, on people it has never met."""

from dataclasses import dataclass, replace

from chapter02_siamese import recognition
from common import command
from common.settings import RunSettings


@dataclass(frozen=True)
class Config(recognition.Settings):
    """Settings of the script; the defaults are those of the drawn faces."""

    run: RunSettings = RunSettings(steps=600, dataset="faces")

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set."""
        steps = 600 if dataset == "faces" else 1000
        return cls(run=RunSettings(steps=steps, dataset=dataset))

    @classmethod
    def smoke(cls, dataset="faces"):
        """The whole script in seconds."""
        tried = RunSettings(steps=10, dataset=dataset, smoke=True)
        small = {"filters": 8, "people": 4, "pairs": 16, "eval_pairs": 200, "eval_episodes": 50}
        return replace(cls.for_dataset(dataset), **small, run=tried)


def load(name, split, data_dir=None, fold=0):
    from common import datasets
    return datasets.load(name, split, data_dir)


def run(config, directory=None, progress=False):
    """Trains the network and measures it on people never seen; see `recognition.run`."""
    return recognition.run(config, load, None, directory, progress)


def main():
    """The command line: see `--help`."""
    command.main(Config, run)


if __name__ == "__main__":
    main()
