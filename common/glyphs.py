"""Printed characters of six scripts: the image data set that needs no download.

The twelve faces of DejaVu Sans, Sans Mono and Serif that come with matplotlib share 1,375
letters and digits. Eight signs (micro, ohm, ...) and two mere marks are left out. Many others
look like one another (Latin A, Greek Alpha, Cyrillic A): of characters whose drawings differ by
less than 2 % of their ink over all faces only the first in Unicode order stays, also if they
are of different scripts. That leaves 1,240 classes: 986 / 83 / 171. In a single face two may
still agree, as the italic of Cyrillic te and Latin m.

Each class is drawn 20 times, in all twelve faces and under small random affine changes. A
drawing is 28 x 28, ink 255 on 0; it depends on its character and number alone. The pixels may
differ slightly between versions of matplotlib, which bring different versions of FreeType.
"""

import hashlib
import unicodedata
from pathlib import Path

from common.datasets import FewShotData
from common.errors import UserError
from common.files import cached_arrays
from common.glyph_drawing import EM, draw, first_of_each_look, shape_of

import cv2
import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font

# Digits count as a script. Latin and Greek have by far the most characters; the scripts of
# validation and test are never seen in training.
SCRIPTS = {
    "train": ("LATIN", "GREEK"),
    "validation": ("ARMENIAN", "DIGIT"),
    "test": ("CYRILLIC", "GEORGIAN"),
}
FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, slanted in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{slanted}", f"-Bold{slanted}")
)
N_DRAWINGS = 20
SMALLEST = 0.4  # ems that a character must measure, in height or width
FORMAT = 1  # raise it whenever the drawings change


def load_glyphs(split: str) -> FewShotData:
    """Loads the characters of the scripts of one split, in Unicode order.

    A class is named by its Unicode name, its group is the script, and its attributes are the
    words of its name: LATIN SMALL LETTER Y WITH DIAERESIS and CYRILLIC SMALL LETTER ZHE WITH
    DIAERESIS share all but three. All splits have the same attribute columns.

    Args:
        split: `"train"`, `"validation"` or `"test"`.

    Returns:
        The data, items uint8 `(classes * 20, 28, 28, 1)`.
    """
    paths = [Path(matplotlib.get_data_path(), "fonts", "ttf", face) for face in FACES]
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"Expected the font {path}, but this matplotlib came without it: install "
                "matplotlib with pip."
            )
    fonts = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    key = (FORMAT, matplotlib.__version__, cv2.__version__, fonts)
    cached = cached_arrays("glyphs", key, lambda: render([FT2Font(str(path)) for path in paths]))

    names = [unicodedata.name(chr(code)) for code in cached["code_points"]]
    words = sorted({word for name in names for word in name.split()})
    attributes = np.array([[word in name.split() for word in words] for name in names], np.float32)
    chosen = [i for i, name in enumerate(names) if name.split()[0] in SCRIPTS[split]]
    return FewShotData.from_drawings(
        cached["drawings"][chosen],
        class_names=tuple(names[i] for i in chosen),
        class_groups=tuple(names[i].split()[0] for i in chosen),
        name="glyphs",
        split=split,
        attributes=attributes[chosen],
        attribute_names=tuple(words),
    )


def render(fonts: list[FT2Font]) -> dict[str, np.ndarray]:
    """Draws every character that all fonts share and that looks like no earlier one.

    Args:
        fonts: The faces.

    Returns:
        `drawings`, uint8 `(classes, 20, 28, 28)`, and `code_points`, int32 `(classes,)`.
    """
    shapes = {
        code: [shape_of(font, chr(code)) for font in fonts] for code in shared_characters(fonts)
    }
    code_points = [code for code in shapes if max(shapes[code][0].shape) >= SMALLEST * EM]
    plain = np.array([[draw(shape) for shape in shapes[code]] for code in code_points])
    kept = [code_points[i] for i in first_of_each_look(plain)]
    drawings = []
    for code in kept:
        random = np.random.default_rng([FORMAT, code])
        # Every face once, in random order, and some of them twice.
        faces = [*random.permutation(len(fonts)), *random.permutation(len(fonts))][:N_DRAWINGS]
        drawings.append([draw(shapes[code][face], *random.uniform(-1, 1, 5)) for face in faces])
    return {
        "drawings": np.array(drawings),
        "code_points": np.array(kept, np.int32),
    }


def shared_characters(fonts: list[FT2Font]) -> list[int]:
    """Returns the code points of the letters and digits of `SCRIPTS` that all fonts have.

    Modifier letters (superscripts), fractions and signs such as the Ohm sign are left out.
    """
    scripts = {script for some in SCRIPTS.values() for script in some}
    shared = set.intersection(*(set(font.get_charmap()) for font in fonts))
    return [
        code
        for code in sorted(shared)
        if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lt", "Lo", "Nd")
        and unicodedata.name(chr(code)).split()[0] in scripts
    ]
