"""What notebooks need beyond `common.plots`: the source of the code that they explain."""

import ast
import inspect
import textwrap
from typing import Any

from common.errors import UserError


def show_source(thing: Any, docstring: bool = True) -> None:
    """Shows the source of a function, method or class, highlighted in a notebook.

    So a notebook never holds a copy of the code, which would go stale.

    Args:
        thing: A function, method, property or class written in Python.
        docstring: False leaves the docstring of `thing` out.
    """
    text = source(thing, docstring)
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        print(text)
        return
    if get_ipython() is None:
        print(text)
    else:
        fence = "````" if "```" in text else "```"
        pretty = f"{fence}python\n{text}\n{fence}"
        display({"text/markdown": pretty, "text/plain": text}, raw=True)


def source(thing: Any, docstring: bool = True) -> str:
    """The text that `show_source` shows: as in its file, from the left margin on."""
    thing = getattr(thing, "fget", None) or getattr(thing, "python_function", thing)
    try:
        lines = textwrap.dedent(inspect.getsource(inspect.unwrap(thing))).rstrip().splitlines()
    except (OSError, TypeError):
        raise UserError(
            f"show_source expects a function, method or class written in Python, got {thing!r}"
        ) from None
    if not docstring:
        (definition,) = ast.parse("\n".join(lines)).body
        if ast.get_docstring(definition) is not None and len(definition.body) > 1:
            first = definition.body[0]
            del lines[first.lineno - 1 : first.end_lineno]
            if not lines[first.lineno - 1].strip():  # the empty line after it
                del lines[first.lineno - 1]
    return "\n".join(lines)
