"""Who is trained on, and who is tested: the two ways to split, by people and by pairs."""

from common import pair_lists
from common.datasets import SPLITS

BOOK_PAIRS = 20000  # as many genuine and imposite pairs as the book draws, or all that there are


def shown_data(config, load):
    """The data that the figures are of: what was tested on, and the test split itself."""
    fold = 0 if config.folds else config.fold
    split = load(config.run.dataset, "test", config.run.data_dir, fold)
    return data_of(config, load, fold)[2]["test"][0], split


def data_of(config, load, fold):
    """What to train on, the pairs to do it with (None: all), and data and pairs to judge with."""
    settings = config.run
    parts = {name: load(settings.dataset, name, settings.data_dir, fold) for name in SPLITS}
    if config.split == "pairs":
        data = pair_lists.merged(list(parts.values()))
        drawn = pair_lists.fixed_pairs(data.labels, BOOK_PAIRS, settings.seed)
        listed, *others = pair_lists.split_pairs(drawn)
        return data, listed, dict(zip(("validation", "test"), ((data, p) for p in others)))
    judged = {}
    for name in ("validation", "test"):
        drawn = pair_lists.fixed_pairs(parts[name].labels, config.eval_pairs, settings.seed)
        judged[name] = (parts[name], drawn)
    return parts["train"], None, judged
