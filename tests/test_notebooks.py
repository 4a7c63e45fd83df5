"""Every notebook beside a script: its outputs can be read without running it, and it still runs.

The slow test runs the notebooks top to bottom, most with a fifth of the outer steps that the reader
sees: with all steps they take longer than all else here. What is committed was made with all.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    path for path in ROOT.glob("chapter*/[!.]*.ipynb") if path.name != "exercises.ipynb"
)
LARGEST = 1_500_000  # bytes
WHOLE = ("audio", "face", "maml")  # what these draw or check needs all of their outer steps
OUTER_STEPS = re.compile(r"(\bRunSettings\(steps=|\bsteps=(?=\d{3}))(\d+)")
DOUBLED_BACKSLASH = re.compile(r"\$[^$\n]*\\\\[a-z]+[^$\n]*\$")  # of a command within a line
MACHINE_PATH = re.compile(r"(?<![\w/.])(/(home|root|Users|tmp|work|var|mnt|opt)/|[A-Z]:\\\w)")

every_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def shown_text(notebook):
    """All text among the outputs."""
    texts = [output.get("text", "") for output in outputs(notebook)]
    for output in outputs(notebook):
        texts += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


def complaints(notebook):
    """What a reader should not see: errors and whatever went to standard error."""
    errors = [f"{o.ename}: {o.evalue}" for o in outputs(notebook) if o.output_type == "error"]
    return errors + [o.text for o in outputs(notebook) if o.get("name") == "stderr"]


def figures(notebook):
    return [o for o in outputs(notebook) if "image/png" in o.get("data", {})]


def defined_names(tree):
    """Names of all classes, functions and methods."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def definitions(text):
    """Every class, function and method in `text`, without docstrings, comments and layout."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
            found.add(ast.dump(node))
    return found


def shortened(source):
    """The code with a fifth of the outer steps of each training."""
    return OUTER_STEPS.sub(lambda found: found[1] + str(int(found[2]) // 5), source)


def imported_from(tree, module):
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }


def test_there_are_notebooks():
    assert NOTEBOOKS


@every_notebook
def test_was_executed_from_top_to_bottom(path):
    notebook = read(path)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert not complaints(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


@every_notebook
def test_is_small_and_has_a_figure(path):
    assert path.stat().st_size < LARGEST
    assert figures(read(path))


@every_notebook
def test_shows_no_path_of_the_machine(path):
    found = MACHINE_PATH.search(shown_text(read(path)))
    assert found is None, found


@every_notebook
def test_formulas_have_single_backslashes(path):
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    assert not DOUBLED_BACKSLASH.findall("\n".join(cells))


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("saved /home/ada/outputs/a.png", True),
        (r"in C:\Users\ada", True),
        ("File '/tmp/x.py'", True),
        ("outputs/maml/waves.png", False),
        ("https://example.org/home/page", False),
        ("1/2 and 'a/tmp/b'", False),
    ],
)
def test_paths_of_machines_are_recognised(text, is_one):
    assert bool(MACHINE_PATH.search(text)) == is_one


@every_notebook
def test_imports_the_algorithm_and_copies_none_of_it(path):
    script = path.with_suffix(".py")
    tree = ast.parse("\n".join(cell.source for cell in code_cells(read(path))))
    assert imported_from(tree, f"{path.parent.name}.{path.stem}")
    assert "show_source" in imported_from(tree, "common.notebooks")
    copied = defined_names(tree) & defined_names(ast.parse(script.read_text(encoding="utf-8")))
    assert not copied


@every_notebook
def test_shown_source_is_that_of_today(path):
    shown = [
        output.data["text/plain"]
        for cell in code_cells(read(path))
        for output in cell.outputs
        if "show_source(" in cell.source and "data" in output
    ]
    scripts = [*path.parent.glob("*.py"), *(ROOT / "common").glob("*.py")]
    today = set().union(*(definitions(script.read_text(encoding="utf-8")) for script in scripts))
    assert shown
    for text in shown:
        assert definitions(text) <= today, f"the source has changed, `make notebooks`:\n{text}"


@every_notebook
def test_ends_with_what_to_remember_and_references(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert headings[-2:] == ["What to remember", "References"]
    assert "arxiv.org" in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("replace(config.run, steps=1500)", "replace(config.run, steps=300)"),
        ("run=RunSettings(steps=30)", "run=RunSettings(steps=6)"),
        ("scores_by_step(learner, episodes, steps=32)",) * 2,
        ("Config(inner_steps=100, steps=5)",) * 2,
    ],
)
def test_fewer_outer_steps(source, expected):
    assert shortened(source) == expected


@every_notebook
def test_outer_steps_are_found(path):
    cells = code_cells(read(path))
    assert any(shortened(cell.source) != cell.source for cell in cells)


@pytest.mark.slow
@every_notebook
def test_runs_anywhere(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # this checkout, whatever else is installed
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
        if path.stem not in WHOLE:
            cell.source = shortened(cell.source)
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=folder).execute()
    assert not complaints(notebook)
    assert len(figures(notebook)) == len(figures(read(path)))
    assert not list(tmp_path.iterdir())  # it leaves nothing behind
