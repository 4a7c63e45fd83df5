"""Image files as small arrays of bytes."""

from common.errors import UserError

import cv2
import numpy as np


def decode_image(
    data: bytes, name: str, size: int | tuple[int, int] | None = 28, colour: bool = False
) -> np.ndarray:
    """Decodes an image file and resizes it by averaging areas.

    The whole image is kept: one of another shape than the result is squeezed. Transparent
    parts become white.

    Args:
        data: The content of a png, jpg, bmp or pgm file.
        name: What to call the image in a message.
        size: Height and width of the result, one number for both, or None to leave it
            as it is.
        colour: Whether to keep red, green and blue.

    Returns:
        uint8 `(height, width, 3)` if `colour`, else `(height, width, 1)`.

    Raises:
        UserError: if `data` is not a whole image; it names the image.
    """
    buffer = np.frombuffer(data, np.uint8)
    is_png = data.startswith(b"\x89PNG")
    # Byte 25 of a PNG is its colour type; 4 and 6 have an alpha channel.
    transparent = is_png and (data[25:26] in (b"\x04", b"\x06") or b"tRNS" in data)
    mode = cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE
    try:
        image = cv2.imdecode(buffer, mode | cv2.IMREAD_IGNORE_ORIENTATION if is_png else mode)
        unchanged = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if transparent else None
    except cv2.error:  # an empty file
        image = None
    # OpenCV 4 fills a cut-off JPEG with grey: the end marker must follow the last scan.
    cut_off = data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0
    if image is None or cut_off:
        raise UserError(
            f"Expected an image in {name}, but it is damaged or of another format: replace or "
            "remove it."
        )
    if unchanged is not None and unchanged.ndim == 3 and unchanged.shape[2] == 4:
        opacity = unchanged[..., 3:] / np.float32(np.iinfo(unchanged.dtype).max)
        opacity = opacity if colour else opacity[..., 0]
        image = np.round(255 - opacity * (255 - image)).astype(np.uint8)
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image[..., ::-1] if colour else image[..., None]  # OpenCV has blue first
