"""Reference correlations for tests/ncc.rs, from OpenCV.

Writes drawing.png, plain.png, masked.png (transparent where the mask is), and plain.f32 and masked.f32: the results of
cv2.matchTemplate with TM_CCOEFF_NORMED, row by row as little-endian 32-bit floats. Run in this folder with
opencv-python-headless 5.0.0 (4.14.0 gives the same bytes) and numpy.
"""

import cv2
import numpy as np

cv2.setNumThreads(1)
rng = np.random.default_rng(7)


def symbol(picture, x, y):
    """A valve with a filled half and a stem."""
    cv2.polylines(picture, [np.array([[x, y], [x + 16, y + 10], [x + 16, y], [x, y + 10]])], True, 30, 1, cv2.LINE_AA)
    cv2.fillPoly(picture, [np.array([[x, y], [x + 8, y + 5], [x, y + 10]])], 30, cv2.LINE_AA)
    cv2.line(picture, (x + 8, y + 5), (x + 8, y - 4), 60, 1, cv2.LINE_AA)


drawing = np.full((80, 112), 236, np.uint8)
for x, y in [(10, 12), (61, 40), (30, 62), (88, 8)]:
    symbol(drawing, x, y)
cv2.line(drawing, (0, 45), (61, 45), 40, 2)
cv2.line(drawing, (100, 79), (40, 20), 90, 1, cv2.LINE_AA)
cv2.circle(drawing, (40, 30), 9, 20, 1, cv2.LINE_AA)
# The left part is noisy like a scan; the right part keeps paper of one grey level.
drawing[:, :72] = np.clip(drawing[:, :72] + rng.normal(0, 4, (80, 72)), 0, 255).astype(np.uint8)

plain = np.full((19, 21), 240, np.uint8)
symbol(plain, 2, 6)
masked = plain.copy()
mask = np.full(plain.shape, 255, np.uint8)
mask[12:, 12:] = 0
mask[:3, :6] = 0
masked[mask == 0] = 77

cv2.imwrite("drawing.png", drawing)
cv2.imwrite("plain.png", plain)
cv2.imwrite("masked.png", np.dstack([masked] * 3 + [mask]))


def exact(template, inside):
    """The same from 64-bit sums, and the windows without contrast, whose score OpenCV leaves to rounding errors."""
    h, w = template.shape
    windows = np.lib.stride_tricks.sliding_window_view(drawing.astype(np.float64), (h, w))[:, :, inside]
    t = template[inside] - template[inside].mean()
    norm = np.sqrt(((windows - windows.mean(2, keepdims=True)) ** 2).sum(2))
    flat = norm**2 < 0.5
    return (windows @ t) / np.where(flat, np.inf, norm) / np.sqrt((t**2).sum()), flat


for name, result, inside in [
    ("plain", cv2.matchTemplate(drawing, plain, cv2.TM_CCOEFF_NORMED), mask >= 0),
    ("masked", cv2.matchTemplate(drawing, masked, cv2.TM_CCOEFF_NORMED, mask=mask), mask > 0),
]:
    own, flat = exact(plain, inside)
    off = np.abs(result - own)
    finite = np.isfinite(result)
    print(cv2.__version__, name, result.shape, "largest difference from exact sums", off[~flat].max(), "flat windows", flat.sum(), "of them not finite", (~finite).sum(), "of them OpenCV", result[flat][:5])
    result.astype("<f4").tofile(name + ".f32")
