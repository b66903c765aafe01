"""The peer of `pipeline bench labels`: symbols found with OpenCV's matchTemplate, on one thread.

Every template in every turn and scale is one call of `cv2.matchTemplate(..., cv2.TM_CCOEFF_NORMED)`; local maxima above
a floor are boxes, and of boxes that overlap the weaker is dropped whatever its class. Times are CPU seconds of this
process. `pipeline bench labels --peer opencv` runs this program; it can also be run by hand:

    python3 opencv.py request.json > answer.json

The request: {"templates": [{"class": name, "file": path, "margin": pixels of paper around the ink}],
"sheets": [path], "quarter_turns": 4, "scales": [0.8, ...], "floor": 0.35, "nms_iou": 0.5}.
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

# Side of the square, in pixels, in which a place has to score highest.
PEAK_SIDE = 5


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


def suppressed(classes, boxes, scores, iou):
    """Indices of the boxes that no better one overlaps by more than `iou`, best first."""
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        corner = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        common = np.clip(corner, 0, None).prod(axis=1)
        order = rest[common <= iou * (areas[best] + areas[rest] - common)]
    return kept


def label(sheet, templates, floor, iou):
    """Boxes of one sheet and what they cost."""
    started = time.process_time()
    matching, calls = 0.0, 0
    classes, boxes, scores = [], [], []
    square = np.ones((PEAK_SIDE, PEAK_SIDE), np.uint8)
    for name, margin, template in templates:
        height, width = template.shape
        if height > sheet.shape[0] or width > sheet.shape[1]:
            continue
        before = time.process_time()
        likeness = cv2.matchTemplate(sheet, template, cv2.TM_CCOEFF_NORMED)
        matching += time.process_time() - before
        calls += 1
        peaks = (likeness > floor) & (likeness >= cv2.dilate(likeness, square))
        ys, xs = np.nonzero(peaks)
        for x, y in zip(xs, ys):
            classes.append(name)
            boxes.append((x + margin, y + margin, x + width - margin, y + height - margin))
            scores.append(float(likeness[y, x]))
    out = []
    if boxes:
        corners = np.asarray(boxes, np.float64)
        for i in suppressed(classes, corners, np.asarray(scores), iou):
            out.append([classes[i], *corners[i].tolist(), scores[i]])
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
