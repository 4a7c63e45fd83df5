"""One's own images, of any size and colour, as the networks know theirs.

A folder of classes has a folder of images for each class, or one image for each class, named by
its file.
"""

from common.errors import UserError
from common.image_folders import SUFFIXES, files_of, subfolders
from common.images import decode_image

import cv2
import numpy as np

FAINTEST = 4  # of 255: less contrast is no drawing


def read_classes(folder):
    """The images of each class in a folder: `{name: [grey images]}`, at least two classes."""
    if not folder.is_dir():
        raise UserError(f"expected a folder of classes in {folder}, but there is no such folder")
    names = subfolders(folder)
    files = {name: files_of(folder / name, SUFFIXES) for name in names}
    alone = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    if names and alone:
        raise UserError(
            f"expected in {folder} either a folder for each class or one image for each, found "
            f"both ({names[0]} and {alone[0].name}): move the images into folders"
        )
    for path in alone:
        files.setdefault(path.stem, []).append(path)
    if len(files) < 2:
        raise UserError(
            f"expected at least 2 classes in {folder}, found {', '.join(files) or 'none'}: add a "
            "folder of images, or an image, for each class"
        )
    return {name: [read_grey(path) for path in paths] for name, paths in files.items()}


def read_grey(path):
    """An image file as grey values, uint8 `(height, width)`."""
    if not path.is_file():
        raise UserError(f"expected an image in {path}, but there is no such file")
    try:
        return decode_image(path.read_bytes(), str(path), size=None)[..., 0]
    except OSError as error:
        raise UserError(f"could not read {path} ({error.strerror}): make it readable") from None


def as_item(image, input_shape, drawn, name="the image"):
    """A grey image as the network knows them: resized by averaging areas, padded to their shape.

    Args:
        image: uint8 `(height, width)`.
        input_shape: `(height, width, channels)`.
        drawn: Whether the network knows light drawings on black. The paper, the median of the
            image's border, then becomes 0, and what differs most from it 255: dark on light is
            turned to light on dark.
        name: What to call the image in a message.

    Returns:
        uint8 of `input_shape`.

    Raises:
        UserError: If there is nothing to be seen.
    """
    paper = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]))
    (tall, wide), (height, width) = image.shape, input_shape[:2]
    if tall * width > wide * height:  # too tall for the shape: padded left and right
        width = max(1, round(wide * height / tall))
    else:
        height = max(1, round(tall * width / wide))
    small = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    item = np.full(input_shape[:2], paper, np.float32)
    top, left = (input_shape[0] - height) // 2, (input_shape[1] - width) // 2
    item[top : top + height, left : left + width] = small
    if drawn:
        ink = paper - item
        ink = ink if ink.max() >= -ink.min() else -ink
        if ink.max() < FAINTEST:
            raise UserError(f"expected a drawing in {name}, found an even grey: replace it")
        item = np.clip(ink / ink.max(), 0, 1) * 255
    return np.repeat(np.round(item).astype(np.uint8)[..., None], input_shape[2], axis=2)
