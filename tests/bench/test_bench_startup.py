"""What a program pays before its first answer, in a process of its own that has imported numpy."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

BODIES = {
    "import mxn_edge": "import mxn_edge",
    "import mxn_edge.recognizer": "import mxn_edge.recognizer",
    "first prediction after import": "r = mxn_edge.Recognizer(); r.predict(frame); r.predict_faces([frame])",
}


@pytest.mark.parametrize("what", BODIES)
def test_startup(benchmark: Any, what: str) -> None:
    benchmark.group = "start"
    before = "import mxn_edge.recognizer" if what.startswith("first") else ""
    program = (
        f"import time, numpy\n{before}\nframe = numpy.zeros((480, 640, 3), numpy.uint8)\nstart = time.perf_counter()\n"
        f"{BODIES[what]}\nprint(time.perf_counter() - start)"
    )
    seconds: list[float] = []

    def run() -> None:
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds.append(float(result.stdout))

    benchmark.pedantic(run, rounds=15, warmup_rounds=2)
    # The benchmark's own figure holds the start of the interpreter and of numpy, too.
    benchmark.extra_info["milliseconds"] = 1e3 * sorted(seconds)[len(seconds) // 2]
