"""Builds the extension: _core.pyx over the C core in csrc/. Everything else is in pyproject.toml."""

import os
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# Files in the wheel get this date unless the builder gives another, so that the same sources make the same bytes.
os.environ.setdefault("SOURCE_DATE_EPOCH", "315532800")  # 1980, the first that zip files know

# One wheel serves every CPython from 3.11 on; the free-threaded builds have no stable ABI.
limited_api = not sysconfig.get_config_var("Py_GIL_DISABLED")

core = Extension(
    "mxn_edge._core",
    sources=["mxn_edge/_core.pyx", *sorted(map(str, Path("csrc").rglob("*.c")))],
    depends=sorted(map(str, [*Path("csrc").rglob("*.h"), *Path("csrc").rglob("*.def")])),
    include_dirs=["csrc"],
    # Baseline flags only: what a CPU may lack is enabled inside csrc/isa/*.c. No contraction, so that every
    # instruction set crops to the same pixels.
    extra_compile_args=[
        "-std=c11",
        "-O3",
        "-g0",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=off",
        "-fvisibility=hidden",
    ],
    libraries=["m", "pthread"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if limited_api else [],
    py_limited_api=limited_api,
)

setup(
    ext_modules=cythonize([core], language_level=3, compiler_directives={"freethreading_compatible": True}),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if limited_api else {},
)
