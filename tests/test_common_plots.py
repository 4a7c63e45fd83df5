import json
import os
import subprocess
import sys
from pathlib import Path

from common import plots
from common.errors import UserError
from common.results import Estimate

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

ROOT = Path(__file__).resolve().parent.parent
PNG = b"\x89PNG\r\n\x1a\n"


def episode(n_way=3, k_shot=2, n_query=4):
    random = np.random.default_rng(0)
    support_y = random.permutation(np.repeat(np.arange(n_way), k_shot))
    query_y = random.permutation(np.repeat(np.arange(n_way), n_query))
    shape = (28, 28, 1)
    return (
        random.random((len(support_y), *shape)),
        support_y,
        random.random((len(query_y), *shape)),
        query_y,
    )


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_roles_have_colours_and_lines_of_their_own():
    lines = [plots.role(name) for name in ("truth", "before", "after", "baseline", "random")]
    assert len({line["color"] for line in lines}) == len(lines)
    assert len({line["linestyle"] for line in lines[1:]}) == len(lines) - 1  # told apart in grey


def test_role_is_a_copy():
    plots.role("truth")["color"] = "red"
    assert plots.role("truth")["color"] == plots.BLACK


def test_shades_darken_to_the_full_colour():
    shades = plots.shades("after", 3)
    assert shades[-1].upper() == plots.BLUE
    brightness = [sum(to_rgb(shade)) for shade in shades]
    assert brightness == sorted(brightness, reverse=True)
    assert [shade.upper() for shade in plots.shades("after", 1)] == [plots.BLUE]


def test_style_does_not_leak():
    before = dict(matplotlib.rcParams)
    with plots.style():
        plots.figure(2, 2)
    assert dict(matplotlib.rcParams) == before


def test_figure_has_axes_in_the_style():
    figure, axes = plots.figure(1, 2, sharey=True)
    assert axes.shape == (2,)
    assert not axes[0].spines["top"].get_visible()
    (line,) = axes[0].plot([0, 1])
    assert line.get_color() == plots.BLUE
    assert figure.get_size_inches()[0] == pytest.approx(8.4)


def test_save_writes_a_whole_png(tmp_path):
    figure, axis = plots.figure()
    axis.plot([0, 1])
    path = plots.save(figure, tmp_path / "new" / "a.png")
    assert path.read_bytes().startswith(PNG)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_save_to_an_impossible_place_is_a_user_error(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match=r"a\.png"):
        plots.save(plots.figure()[0], tmp_path / "a.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_figures_show_themselves_in_notebooks():
    assert plots.figure()[0]._repr_png_().startswith(PNG)
    assert plots.draw_episode(*episode())._repr_png_().startswith(PNG)


def test_interval_line_is_the_mean_in_its_band():
    _, axis = plots.figure()
    estimates = [Estimate(1.0, 0.5, 9), Estimate(2.0, 0.25, 9)]
    plots.interval_line(axis, [0, 1], estimates, "MAML", **plots.role("after"))
    (line,) = axis.lines
    assert line.get_ydata().tolist() == [1.0, 2.0]
    assert line.get_label() == "MAML"
    corners = axis.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners.tolist()} >= {(0, 0.5), (0, 1.5), (1, 1.75)}


def test_learning_curve_is_a_moving_average():
    _, axis = plots.figure()
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0])
    plots.learning_curve(axis, range(6), values, "loss", smoothing=0.5)  # over 3 values
    smooth, raw = axis.lines
    assert smooth.get_ydata().tolist() == [1.5, 1.5, 3.0, 4.5, 5.0, 5.5]
    np.testing.assert_array_equal(raw.get_ydata(), values)
    assert smooth.get_color() == raw.get_color()


def test_a_constant_learning_curve_stays_constant_to_its_ends():
    _, axis = plots.figure()
    plots.learning_curve(axis, range(100), np.full(100, 3.0))
    np.testing.assert_allclose(axis.lines[0].get_ydata(), 3.0)


def test_episode_marks_right_and_wrong_by_sign_and_colour():
    support_x, support_y, query_x, query_y = episode()
    predictions = query_y.copy()
    predictions[:5] = (predictions[:5] + 1) % 3
    figure = plots.draw_episode(support_x, support_y, query_x, query_y, predictions)
    signs = [text for text in figure.axes[0].texts if text.get_text().startswith(("✓", "✗"))]
    wrong = [text for text in signs if text.get_text().startswith("✗")]
    assert len(signs) == 12
    assert len(wrong) == 5
    assert {text.get_color() for text in wrong} == {plots.VERMILLION}
    assert {text.get_color() for text in signs if text not in wrong} == {plots.GREEN}


def test_episode_draws_each_image_in_the_row_of_its_class():
    support_x, support_y, query_x, query_y = episode()
    support_x = np.ones_like(support_x) * support_y[:, None, None, None] / 4
    query_x = np.ones_like(query_x) * query_y[:, None, None, None] / 4
    images = plots.draw_episode(support_x, support_y, query_x, query_y).axes[0].images
    assert len(images) == 3 * (2 + 4)
    rows = {}
    for image in images:
        rows.setdefault(image.get_extent()[3], set()).add(float(image.get_array().max()))
    assert [rows[top] for top in sorted(rows)] == [{0.0}, {0.25}, {0.5}]


def test_episode_takes_logits_names_and_limits():
    support_x, support_y, query_x, query_y = episode(n_query=9)
    names = ["alpha", "beta", "a very long name of a class that needs two lines"]
    figure = plots.draw_episode(
        support_x, support_y, query_x, query_y, np.eye(3)[query_y], names, max_images=4
    )
    shown = texts(figure)
    assert "alpha" in shown
    assert names[2] in [text.replace("\n", " ") for text in shown]
    assert sum(text.startswith("✓") for text in shown) == 3 * 4


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (32, 32, 3)])
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_episode_takes_grey_and_colour_images(shape, kind):
    images = np.random.default_rng(0).random((2, *shape))
    images = (images * 255).astype(kind) if kind == "uint8" else images.astype(kind)
    figure = plots.draw_episode(images, [0, 1], images, [0, 1])
    assert max(image.get_array().max() for image in figure.axes[0].images) <= 1.0


def test_episode_refuses_labels_that_do_not_fit():
    with pytest.raises(UserError, match="got 2 support images with 3 labels"):
        plots.draw_episode(np.zeros((2, 4, 4)), [0, 1, 1], np.zeros((1, 4, 4)), [0])


def test_a_notebook_shows_figure_and_source(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    cells = [
        "from common import plots\nfrom common.notebooks import show_source\n"
        "figure, axis = plots.figure()\naxis.plot([0, 1])\nfigure",
        "show_source(plots.shades)",
        "%matplotlib inline\nimport matplotlib.pyplot\nfigure",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    command = "jupyter nbconvert --to notebook --execute --inplace a.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    first, second, third = json.loads((tmp_path / "a.ipynb").read_text())["cells"]
    assert ["image/png" in output["data"] for output in first["outputs"]] == [True]
    assert second["outputs"][0]["data"]["text/markdown"][0] == "```python\n"
    assert ["image/png" in output["data"] for output in third["outputs"]] == [True]
