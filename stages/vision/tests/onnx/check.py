"""Runs exported networks with ONNX Runtime and compares: `check.py FOLDER`, whose cases.json lists what to run.

Needs onnxruntime and numpy alone. Prints one line a case; ends with 1 when one is out of its tolerance.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime


def array(folder, entry):
    return np.fromfile(folder / entry["file"], dtype="<f4").reshape(entry["shape"])


def objects_differ(found, expected, tolerance):
    """Largest difference between lists of objects, whose order may differ where scores are nearly equal."""
    worst = 0.0
    for rows, wanted in zip(found, expected):
        rows, wanted = rows[rows[:, 4] > 0], wanted[wanted[:, 4] > 0]
        if len(rows) != len(wanted):
            return float("inf")
        free = list(range(len(rows)))
        for row in wanted:
            off = [np.abs(rows[i] - row).max() for i in free]
            best = int(np.argmin(off))
            worst = max(worst, off[best])
            free.pop(best)
        if (np.diff(rows[:, 4]) > 0).any():
            return float("inf")
    return worst


def main(folder):
    failed = False
    for case in json.loads((folder / "cases.json").read_text()):
        session = onnxruntime.InferenceSession(str(folder / case["model"]), providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map
        missing = [k for k in ["names", "stride", "imgsz", "task", "batch", "author"] if k not in about]
        found = session.run(None, {session.get_inputs()[0].name: array(folder, case["input"])})
        expected = [array(folder, e) for e in case["outputs"]]
        shapes = [list(a.shape) for a in found] == [list(a.shape) for a in expected]
        if not shapes:
            off = float("inf")
        elif case["compare"] == "objects":
            off = objects_differ(found[0], expected[0], case["tolerance"])
        elif case["compare"] == "rms":
            square = sum(float(((a - b).astype(np.float64) ** 2).sum()) for a, b in zip(found, expected))
            off = (square / sum(float((b.astype(np.float64) ** 2).sum()) for b in expected)) ** 0.5
        else:
            off = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected))
        good = off <= case["tolerance"] and not missing
        failed |= not good
        shapes = [list(a.shape) for a in found]
        word = "ok" if good else "FAILED"
        print(f"{word} {case['name']}: {case['compare']} {off:.3g} of {case['tolerance']} at most, {shapes} {missing or ''}")
    return int(failed)


sys.exit(main(pathlib.Path(sys.argv[1])))
