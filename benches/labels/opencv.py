"""The peer of `pipeline bench labels`: symbols found with OpenCV's matchTemplate, on one thread.

Every template in every turn and scale is one call of `cv2.matchTemplate(..., cv2.TM_CCOEFF_NORMED)`; local maxima above
a floor are boxes, and of boxes that overlap the weaker is dropped whatever its class. Times are CPU seconds of this
process. `pipeline bench labels --peer opencv` runs this program; it can also be run by hand:

    python3 opencv.py request.json > answer.json

The request: {"templates": [{"class": name, "file": path, "margin": pixels of paper around the ink}],
"sheets": [path], "quarter_turns": 4, "scales": [0.8, ...], "floor": 0.5, "nms_iou": 0.5}.
The answer: {"opencv", "numpy", "python", "sheets": [{"calls", "match_cpu_s", "cpu_s", "boxes":
[[class, left, top, right, bottom, score]]}]}, boxes in pixels, best first.
"""

import json
import platform
import sys
import time

try:
    import cv2
    import numpy as np
except ImportError as missing:
    sys.stderr.write(f"{missing}\n")
    sys.exit(3)

# A place has to score highest within this share of its template's shorter side: two boxes that are closer than that
# in both directions overlap by half or more, so that the weaker would be dropped anyway.
PEAK_REACH = 0.17


def variants(request):
    """Every template in every turn and scale, prepared before the clock runs."""
    out = []
    for template in request["templates"]:
        picture = cv2.imread(template["file"], cv2.IMREAD_GRAYSCALE)
        for scale in request["scales"]:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            resized = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how)
            for turn in range(request["quarter_turns"]):
                turned = np.ascontiguousarray(np.rot90(resized, -turn))
                out.append((template["class"], template["margin"] * scale, turned))
    return out


def suppressed(boxes, scores, iou):
    """Indices of the boxes that no better one overlaps by more than `iou`, best first."""
    across = np.argsort(boxes[:, 0], kind="stable")
    boxes, scores = boxes[across], scores[across]
    # Only boxes that begin within the widest one's width can overlap.
    reach = (boxes[:, 2] - boxes[:, 0]).max()
    first = np.searchsorted(boxes[:, 0], boxes[:, 0] - reach)
    last = np.searchsorted(boxes[:, 0], boxes[:, 0] + reach)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    free = np.ones(len(boxes), bool)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not free[i]:
            continue
        kept.append(across[i])
        near = first[i] + np.flatnonzero(free[first[i] : last[i]])
        corner = np.minimum(boxes[i, 2:], boxes[near, 2:]) - np.maximum(boxes[i, :2], boxes[near, :2])
        common = np.clip(corner, 0, None).prod(axis=1)
        free[near[common > iou * (areas[i] + areas[near] - common)]] = False
        free[i] = False
    return kept


def label(sheet, templates, floor, iou):
    """Boxes of one sheet and what they cost."""
    started = time.process_time()
    matching, calls = 0.0, 0
    classes, boxes, scores = [], [], []
    for name, margin, template in templates:
        height, width = template.shape
        if height > sheet.shape[0] or width > sheet.shape[1]:
            continue
        before = time.process_time()
        likeness = cv2.matchTemplate(sheet, template, cv2.TM_CCOEFF_NORMED)
        matching += time.process_time() - before
        calls += 1
        side = 2 * max(2, int(PEAK_REACH * min(width, height))) + 1
        square = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
        ys, xs = np.nonzero((likeness > floor) & (likeness >= cv2.dilate(likeness, square)))
        corners = np.stack([xs + margin, ys + margin, xs + width - margin, ys + height - margin], axis=1)
        classes.extend([name] * len(xs))
        boxes.append(corners.astype(np.float64))
        scores.append(likeness[ys, xs].astype(np.float64))
    out = []
    if classes:
        corners, scores = np.concatenate(boxes), np.concatenate(scores)
        for i in suppressed(corners, scores, iou):
            out.append([classes[i], *corners[i].tolist(), float(scores[i])])
    return {"calls": calls, "match_cpu_s": matching, "cpu_s": time.process_time() - started, "boxes": out}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    cv2.setNumThreads(1)
    cv2.ocl.setUseOpenCL(False)
    templates = variants(request)
    sheets = []
    for path in request["sheets"]:
        sheet = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        sheets.append(label(sheet, templates, request["floor"], request["nms_iou"]))
    versions = {"opencv": cv2.__version__, "numpy": np.__version__, "python": platform.python_version()}
    json.dump({**versions, "sheets": sheets}, sys.stdout)


if __name__ == "__main__":
    main()
