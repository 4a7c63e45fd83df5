"""Figures of embedded episodes show every class, and the plane in which the points vary."""

from chapter03_protonets.protonet import ProtoNet
from common import metric_figures
from common.episodes import Episode

import keras
import numpy as np
import pytest
from matplotlib.offsetbox import AnnotationBbox


def learner(*shape):
    inputs = keras.Input(shape)
    return ProtoNet(keras.Model(inputs, keras.layers.Flatten()(inputs)))


def episode(n_way, *shape):
    random = np.random.default_rng(0)
    support_x, query_x = (random.uniform(size=(n_way * n, *shape)) for n in (2, 3))
    labels = [np.tile(np.arange(n_way, dtype=np.int32), n) for n in (2, 3)]
    return Episode(support_x.astype(np.float32), labels[0], query_x.astype(np.float32), labels[1])


def test_the_plane_is_that_of_greatest_variance():
    random = np.random.default_rng(0)
    flat = random.normal(size=(40, 2)) * [9, 3]
    points = np.column_stack([0.01 * random.normal(size=40), flat])  # (40, 3), thin in one axis
    projected, other = metric_figures.plane_of(points, points[:5])
    np.testing.assert_allclose(projected[:5], other)
    assert projected.var(axis=0)[0] > projected.var(axis=0)[1]
    distances = np.linalg.norm(projected[:, None] - projected, axis=-1)
    np.testing.assert_allclose(
        distances, np.linalg.norm(flat[:, None] - flat, axis=-1), rtol=0.02, atol=0.05
    )


@pytest.mark.parametrize("n_way", [2, 5, 20])
def test_no_two_of_many_classes_look_the_same(n_way):
    assert len(set(metric_figures.class_colors(n_way))) == n_way


def test_an_episode_is_embedded_as_it_is():
    task = episode(3, 4)
    support, query = metric_figures.embedded(learner(4), task)
    np.testing.assert_allclose(support, task.support_x)
    np.testing.assert_allclose(query, task.query_x)


@pytest.mark.parametrize(("shape", "pictures"), [((4,), 0), ((6, 6, 1), 3), ((6, 6, 3), 3)])
def test_prototypes_and_queries_are_drawn(shape, pictures):
    figure = metric_figures.draw_prototypes(learner(*shape), episode(3, *shape), "a title")
    (axis,) = figure.axes
    assert axis.get_title() == "a title"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "class 0", "class 1", "class 2",
    ]  # fmt: skip
    sizes = [len(points.get_offsets()) for points in axis.collections]
    assert sizes == [3, 1] * 3  # of each class its queries, then its prototype
    drawn = [artist for artist in axis.get_children() if isinstance(artist, AnnotationBbox)]
    assert len(drawn) == pictures
    assert figure._repr_png_().startswith(b"\x89PNG")
