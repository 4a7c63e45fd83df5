"""Episodes per second of `EpisodeSampler`, beside a plain NumPy sampler.

    python -m tests.benchmarks.sampler

5-way 1-shot, 32 tasks a batch, random 28 x 28 images of 1,200 classes with 20 items each, as in
Omniglot; and sine waves with 10 support and 10 query points. `cpu ms` is the processor time of
all threads for a batch of 32 tasks: what sampling takes away from training.
"""

import time

from common.datasets import FewShotData
from common.episodes import Episode, EpisodeSampler
from common.sine import SineTasks

import numpy as np

N_CLASSES, N_ITEMS, N_WAY, N_TASKS = 1200, 20, 5, 32


def random_images() -> FewShotData:
    """Items in the order of their classes."""
    shape = (N_CLASSES * N_ITEMS, 28, 28, 1)
    return FewShotData(
        items=np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        labels=np.repeat(np.arange(N_CLASSES), N_ITEMS).astype(np.int32),
        class_names=tuple(map(str, range(N_CLASSES))),
        class_groups=("all",) * N_CLASSES,
        name="random images",
        split="train",
    )


def numpy_images(data, k_shot, n_query, rotations):
    """Endless batches from a loop over tasks and classes, as most code samples them."""
    generator = np.random.default_rng(0)
    turned_classes = N_CLASSES * (4 if rotations else 1)
    while True:
        tasks = []
        for _ in range(N_TASKS):
            support, query = [], []
            for label, turned in enumerate(generator.choice(turned_classes, N_WAY, replace=False)):
                turns, character = divmod(int(turned), N_CLASSES)
                items = generator.choice(N_ITEMS, k_shot + n_query, replace=False)
                images = data.items[character * N_ITEMS + items].astype(np.float32) / 255.0
                images = np.rot90(images, turns, axes=(1, 2))
                support += [(image, label) for image in images[:k_shot]]
                query += [(image, label) for image in images[k_shot:]]
            parts = []
            for rows in (support, query):
                rows = [rows[i] for i in generator.permutation(len(rows))]
                parts += [np.stack(column) for column in zip(*rows, strict=True)]
            tasks.append(parts)
        yield Episode(*(np.stack(part) for part in zip(*tasks, strict=True)))


def numpy_waves(k_shot, n_query):
    """Endless batches of waves."""
    generator = np.random.default_rng(0)
    while True:
        amplitude, phase = (
            generator.uniform(low, high, (N_TASKS, 1, 1)) for low, high in ((0.1, 5), (0, np.pi))
        )
        support_x, query_x = (
            generator.uniform(-5, 5, (N_TASKS, points, 1)) for points in (k_shot, n_query)
        )
        parts = []
        for x in (support_x, query_x):
            parts += [x.astype(np.float32), (amplitude * np.sin(x - phase)).astype(np.float32)]
        yield Episode(*parts)


def measure(batches, seconds=2.0):
    """Episodes per second, and milliseconds of processor time a batch."""
    batches = iter(batches)
    for _ in range(3):  # traces the graph, fills the buffers
        next(batches)
    n_batches, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        next(batches)
        n_batches += 1
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    return N_TASKS * n_batches / elapsed, 1000 * cpu / n_batches


def main() -> None:
    data = random_images()
    rows = []
    for rotations in (False, True):
        for n_query in (1, 15):
            sampler = EpisodeSampler(data, N_WAY, 1, n_query, rotations=rotations)
            plain = numpy_images(data, 1, n_query, rotations)
            rows.append((f"images, {n_query} queries{', rotations' * rotations}", sampler, plain))
    rows.append(("sine", EpisodeSampler(SineTasks(), 1, 10, 10), numpy_waves(10, 10)))

    print(f"{'episodes per second':30}   sampler  cpu ms    fixed      NumPy  ratio")
    for name, sampler, plain in rows:
        rate, cpu = measure(sampler.dataset(N_TASKS))
        fixed, _ = measure(sampler.fixed(2**30, N_TASKS))
        numpy_rate, _ = measure(plain)
        print(
            f"{name:30}{rate:10,.0f}{cpu:8.2f}{fixed:9,.0f}{numpy_rate:11,.0f}"
            f"{rate / numpy_rate:6.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
