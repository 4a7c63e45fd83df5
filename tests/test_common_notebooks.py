import functools

from common.errors import UserError
from common.notebooks import show_source, source

import pytest


def decorate(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class Adder:
    """Adds numbers."""

    @decorate
    def add(self, a, b):
        """The sum.

        Long story.
        """

        # The comment stays.
        return a + b

    @property
    def name(self):
        return "adder"

    def silent(self):
        """Has nothing but this."""


ADD = '''@decorate
def add(self, a, b):
    """The sum.

    Long story.
    """

    # The comment stays.
    return a + b'''

ADD_WITHOUT = """@decorate
def add(self, a, b):
    # The comment stays.
    return a + b"""


def test_methods_are_moved_to_the_margin():
    assert source(Adder.add) == ADD


def test_bound_methods_and_properties():
    assert source(Adder().add) == ADD
    assert source(Adder.name) == '@property\ndef name(self):\n    return "adder"'


def test_docstring_can_be_left_out():
    assert source(Adder.add, docstring=False) == ADD_WITHOUT
    assert source(Adder, docstring=False).startswith("class Adder:\n    @decorate\n")
    assert source(decorate, docstring=False) == source(decorate)


def test_a_docstring_that_is_the_whole_body_stays():
    assert source(Adder.silent, docstring=False) == source(Adder.silent)


def test_prints_outside_notebooks(capsys):
    show_source(Adder.add)
    assert capsys.readouterr().out == ADD + "\n"


@pytest.mark.parametrize("thing", [len, 3, "text"])
def test_what_has_no_source_is_named(thing):
    with pytest.raises(UserError, match=r"written in Python, got"):
        show_source(thing)
