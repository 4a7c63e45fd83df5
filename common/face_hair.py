"""Hair and beard of an invented person."""

from common.face_head import Head

import numpy as np


def draw_hair_behind(head: Head) -> None:
    """Draws the hair that falls behind the head, as far down as it is long."""
    who = head.who
    if who.hair_end < -0.2:
        return
    y = np.linspace(-0.9, who.hair_end, 24)
    wide = head.half_width(np.minimum(y, 0.1)) + who.hair_bulk * 0.8 + 0.04
    wide = wide + who.hair_wave * np.sin(9 * y + who.seed)
    wide[-1] *= 0.8
    right = np.stack([wide, y], 1)
    both = np.concatenate([right, right[::-1] * [-1, 1]])
    both[:, 0] -= 0.12 * np.sin(head.how.yaw)  # behind the axis that the head turns about
    head.fill(both, who.hair * 0.82)


def draw_hair_in_front(head: Head) -> None:
    """Draws the hair on the head: from its outline, grown by the bulk, down to the hairline."""
    who = head.who
    if who.hairline < -0.93:  # bald
        return
    side_end = min(0.1, max(-0.5, who.hair_end))  # at the temples
    top = head.outline(-1, 0.01)[:40]
    end = np.searchsorted(top[:, 1], side_end)
    right = top[: max(end, 4)]
    outer = right * (1 + who.hair_bulk) + [0, -0.03]
    outer = np.concatenate([outer[::-1] * [-1, 1], outer])  # from the left over the top
    outer[:, 0] -= 0.05 * np.sin(head.how.yaw)
    wave = who.hair_wave * np.sin(np.linspace(0, 8 * np.pi, len(outer)) + who.seed)
    outer *= 1 + wave[:, None]
    hairline = _hairline(head, right[-1])
    head.fill(np.concatenate([outer, hairline[::-1]]), who.hair)
    # Strands from the parting to the hairline, a little lighter and darker.
    random = np.random.default_rng(int(who.seed) + 1)
    middle = len(outer) // 2 + int(who.hair_parting * len(outer) * 0.2)
    for shift in (-28, 34):
        share = random.uniform(0.06, 0.94, int(who.strands / 2))
        start = outer[middle] * [1, 0.97]
        end = hairline[(share * (len(hairline) - 1)).astype(int)][:, None]
        bend = outer[(share * (len(outer) - 1)).astype(int)][:, None] * 0.9
        t = np.linspace(0.05, 0.95, 8)[:, None]
        curves = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end  # (strands, 8, 2)
        head.line(curves, who.hair + shift, 3, 0.5)


def _hairline(head: Head, temple: np.ndarray) -> np.ndarray:
    """Returns the edge of the hair on the face, from left to right."""
    who = head.who
    u = np.linspace(-1, 1, 31)
    y = who.hairline + who.hair_sweep * (u - who.hair_parting) ** 2
    edge = np.abs(u) ** 6  # at the temples it meets the outline
    y = y * (1 - edge) + temple[1] * edge
    x = u * (temple[0] * edge + head.half_width(np.minimum(y, 0)) * (1 - edge)) * 0.98
    points = head.turn(np.stack([x, y], 1))
    still = np.stack([x, y], 1)
    return points * (1 - edge[:, None]) + still * edge[:, None]


def draw_beard(head: Head) -> None:
    """Draws stubble, beard and moustache, for those who have them."""
    who = head.who
    tone = who.hair * 0.9
    u = np.linspace(-1, 1, 31)
    edge = 0.1 + (who.nose_end + 0.03) * (1 - u**4)  # from the ears down to below the nose
    cheek = head.turn(np.stack([u * head.half_width(edge), edge], 1))
    edge_of_face = np.abs(u[:, None]) ** 8  # at the ears it meets the outline
    still = np.stack([u * head.half_width(edge), edge], 1)
    jaw = np.concatenate([cheek * (1 - edge_of_face) + still * edge_of_face, head.outline(0.1, 1)])
    for amount, opacity in ((who.stubble, 0.28), (who.beard, 0.95)):
        if amount > 0:
            head.fill(jaw, tone, min(1, amount * 1.6 + 0.3) * opacity)
    if who.moustache > 0:
        x = np.linspace(-1, 1, 17)
        middle = who.nose_end + 0.62 * (who.mouth_height - who.nose_end) - 0.03
        wide = who.mouth_width * (0.8 + 0.5 * who.moustache)
        upper = np.stack([x * wide, middle - 0.05 * (1 - x**2) + 0.05 * x**2], 1)
        lower = np.stack([x * wide, middle + 0.05 + 0.04 * x**2], 1)
        head.fill(head.turn(np.concatenate([upper, lower[::-1]]), out=0.05), tone, 0.9)
