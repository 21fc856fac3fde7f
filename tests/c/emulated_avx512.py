"""Runs a static x86-64 Linux program on an emulated CPU with AVX-512, AVX-512 VNNI and AVX-VNNI.

The CPU is one of Bochs's, as the package bochscpu-python offers it. Nothing is booted: this file loads the program, and
stands in for the few system calls that a C program needs to compute and print. The program's output and exit status are
passed on. No files, threads or signals; position-independent programs are not loaded. It is slow:
what takes a second elsewhere takes minutes.

    pip install bochscpu-python==0.4.0
    gcc -static -no-pie ... -o PROGRAM
    emulated_avx512.py [NAME=VALUE ...] PROGRAM [ARGUMENT ...]
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

SHIM = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdarg.h>
    #include <stdio.h>
    #include <stdlib.h>

    /* Of glibc 2.38 or later; Debian 12 has 2.36. */
    unsigned long long __isoc23_strtoull(const char *s, char **end, int base) { return strtoull(s, end, base); }
    int __isoc23_sscanf(const char *s, const char *format, ...) {
        va_list list;
        va_start(list, format);
        const int count = vsscanf(s, format, list);
        va_end(list);
        return count;
    }

    /* Bochs knows many CPUs, but the package always takes this one, which has no VNNI. */
    void *_Z23create_corei3_cnl_cpuidP8BX_CPU_C(void *cpu) {
        Dl_info bochs;
        if (!dladdr(__builtin_return_address(0), &bochs)) abort();
        void *library = dlopen(bochs.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        void *(*create)(void *) = library ? dlsym(library, "_Z28create_sapphire_rapids_cpuidP8BX_CPU_C") : NULL;
        if (!create) abort();
        return create(cpu);
    }
"""


def load_shim() -> None:
    """Define what the package lacks, before it is loaded, so that its references find that first."""
    if shutil.which("gcc") is None:
        raise SystemExit("no gcc, which adapts the emulator (Debian: apt-get install gcc)")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "shim.so")
        subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=SHIM, text=True, check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


try:
    load_shim()
    import bochscpu
    from bochscpu import cpu, memory
except ModuleNotFoundError as error:
    raise SystemExit(f"{error} (pip install bochscpu-python==0.4.0)") from None

PAGE = 1 << 12
LARGE_PAGE = 1 << 21
MEMORY = 192 << 20  # guest addresses are virtual and physical at once, from 0 up to here
STACK = 8 << 20

# Where the few things of ours are, below the lowest address that a linker gives a program.
GATE = 0x1000
GATE_DATA = 0x2000  # u64: saved rcx, saved rdx, FS base, result
PAGE_TABLES = 0x10000

# What `syscall` jumps to. The program runs in ring 0, so that a jump is enough to return. Nothing may go on its stack,
# where the 128 bytes below the stack pointer are the program's.
GATE_CODE = bytes.fromhex(
    "48890c2500200000"  # mov %rcx, 0x2000
    "4889142508200000"  # mov %rdx, 0x2008
    "0f09"  # wbinvd: calls Machine.system_call
    "8b042510200000"  # mov 0x2010, %eax
    "8b142514200000"  # mov 0x2014, %edx
    "b9000100c0"  # mov $0xc0000100, %ecx: the FS base
    "0f30"  # wrmsr
    "488b042518200000"  # mov 0x2018, %rax
    "488b142508200000"  # mov 0x2008, %rdx
    "488b0c2500200000"  # mov 0x2000, %rcx
    "ffe1"  # jmp *%rcx
)


class Machine:
    """One program, loaded and ready to run."""

    def __init__(self, program: Path, arguments: Sequence[str], environment: Sequence[str] = ()) -> None:
        self.memory = mmap.mmap(-1, MEMORY, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.session = bochscpu.Session()
        self.session.missing_page_handler = self.missing_page
        host = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for address in range(0, MEMORY, PAGE):
            memory.page_insert(address, host + address)
        self.exit_status: int | None = None
        self.failure = ""
        self.top = MEMORY - STACK
        entry, headers, count = self.load(program.read_bytes())
        self.write(GATE, GATE_CODE)
        self.map_memory()
        self.session.cpu.state = self.state(entry, self.stack(arguments, environment, entry, headers, count))

    def write(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data

    def load(self, elf: bytes) -> tuple[int, int, int]:
        """Copy the segments to their addresses. Returns the entry point, the program headers' address and number."""
        kind, machine, _, entry, offset = struct.unpack_from("<HHIQQ", elf, 16)
        size, count = struct.unpack_from("<HH", elf, 54)
        if elf[:5] != b"\x7fELF\x02" or (kind, machine) != (2, 62):
            raise SystemExit("not a static x86-64 program at fixed addresses (gcc -static -no-pie)")
        headers = end = 0
        for i in range(count):
            tag, _, start, address, _, stored, length, _ = struct.unpack_from("<IIQQQQQQ", elf, offset + i * size)
            if tag != 1:
                continue
            self.write(address, elf[start : start + stored])
            end = max(end, address + length)
            if start <= offset < start + stored:
                headers = address + offset - start
        self.break_start = self.break_end = -(-end // PAGE) * PAGE
        return entry, headers, count

    def map_memory(self) -> None:
        """Page tables that map every address to itself."""
        present_writable, large = 3, 0x80
        directory = PAGE_TABLES + 2 * PAGE
        self.write(PAGE_TABLES, struct.pack("<Q", PAGE_TABLES + PAGE | present_writable))
        self.write(PAGE_TABLES + PAGE, struct.pack("<Q", directory | present_writable))
        for i in range(MEMORY // LARGE_PAGE):
            self.write(directory + 8 * i, struct.pack("<Q", i * LARGE_PAGE | large | present_writable))

    def stack(self, arguments: Sequence[str], environment: Sequence[str], entry: int, headers: int, count: int) -> int:
        """What Linux puts there for a new program. Returns the stack pointer."""
        text = MEMORY - PAGE
        pointers = []
        for value in [*arguments, *environment]:
            data = value.encode() + b"\0"
            text -= len(data)
            self.write(text, data)
            pointers.append(text)
        random = (text - 16) & ~15
        at_phdr, at_phent, at_phnum, at_pagesz, at_entry, at_random = 3, 4, 5, 6, 9, 25
        words = [len(arguments), *pointers[: len(arguments)], 0, *pointers[len(arguments) :], 0]
        words += [at_phdr, headers, at_phent, 56, at_phnum, count, at_pagesz, PAGE, at_entry, entry]
        words += [at_random, random, 0, 0]
        pointer = (random - 8 * len(words)) & ~15
        self.write(pointer, struct.pack(f"<{len(words)}Q", *words))
        return pointer

    def state(self, entry: int, stack: int) -> bochscpu.State:
        state = bochscpu.State()
        cpu.set_long_mode(state)
        state.cr0 |= 1 << 1  # MP
        state.cr0 &= ~(1 << 18 | 1 << 2 | 1 << 3)  # no alignment checks; SSE is neither emulated nor lazily enabled
        state.cr4 |= 1 << 18 | 1 << 10 | 1 << 9  # OSXSAVE, OSXMMEXCPT, OSFXSR
        state.efer |= 1  # the instruction `syscall`
        state.xcr0 = 0xE7  # x87, SSE, AVX and AVX-512
        state.mxcsr, state.mxcsr_mask = 0x1F80, 0xFFFF
        state.fpcw = 0x37F
        state.cr3 = PAGE_TABLES
        state.star = 0x08 << 32
        state.lstar = GATE
        state.rip, state.rsp, state.rflags = entry, stack, 2
        code, data = bochscpu.Segment(), bochscpu.Segment()
        for segment, selector, attributes in ((code, 0x08, 0x209B), (data, 0x10, 0xC93)):
            segment.present, segment.selector, segment.attr = True, selector, attributes
            segment.base, segment.limit = 0, 0xFFFFFFFF
        state.cs = code
        state.ds = state.es = state.ss = state.fs = state.gs = data
        return state

    def run(self) -> int:
        hook = bochscpu.Hook()
        hook.cache_cntrl = self.system_call
        hook.exception = self.exception
        hook.hlt = self.halt
        self.session.run([hook])
        if self.exit_status is None:
            raise SystemExit(f"the emulated program failed: {self.failure or 'it stopped'}")
        return self.exit_status

    def stop(self, failure: str) -> None:
        self.failure = self.failure or failure
        self.session.stop()

    def missing_page(self, address: int) -> None:
        raise RuntimeError(f"no memory at {address:#x}")

    def exception(self, session: bochscpu.Session, _cpu: int, vector: int, _error: int) -> None:
        state = session.cpu.state
        self.stop(f"exception {vector} at {state.rip:#x}, address {state.cr2:#x}")

    def halt(self, _session: bochscpu.Session, _cpu: int) -> None:
        self.stop("hlt, which is how abort() ends when nothing else does")

    def system_call(self, session: bochscpu.Session, _cpu: int, _what: int) -> None:
        state = session.cpu.state
        known = SYSTEM_CALLS.get(state.rax)
        result = -errno.ENOSYS if known is None else known(self, state.rdi, state.rsi, state.rdx)
        self.write(GATE_DATA + 24, struct.pack("<q", result))

    def write_file(self, descriptor: int, address: int, length: int) -> int:
        if descriptor not in (1, 2):
            return -errno.EBADF
        return os.write(descriptor, self.memory[address : address + length])

    def write_vector(self, descriptor: int, vector: int, count: int) -> int:
        parts = [struct.unpack_from("<QQ", self.memory, vector + 16 * i) for i in range(count)]
        return sum(self.write_file(descriptor, address, length) for address, length in parts)

    def set_break(self, address: int, *_: int) -> int:
        if self.break_start <= address <= self.top:
            self.break_end = address
        return self.break_end

    def allocate(self, address: int, length: int, _protection: int) -> int:
        """Memory is taken from the top down and not given back; fresh pages are zero."""
        start = (self.top - length) & -PAGE
        if address or start < self.break_end:
            return -errno.ENOMEM
        self.top = start
        return start

    def thread_pointer(self, code: int, address: int, _: int) -> int:
        set_fs = 0x1002
        if code != set_fs:
            return -errno.EINVAL
        self.write(GATE_DATA + 16, struct.pack("<Q", address))
        return 0

    def exit(self, status: int, *_: int) -> int:
        self.exit_status = status & 0xFF
        self.session.stop()
        return 0

    def kill(self, _process: int, _thread: int, signal: int) -> int:
        return self.exit(128 + signal)  # as a shell reports it

    def nothing(self, *_: int) -> int:
        return 0


SYSTEM_CALLS: dict[int, Callable[[Machine, int, int, int], int]] = {
    1: Machine.write_file,
    9: Machine.allocate,
    10: Machine.nothing,  # mprotect
    11: Machine.nothing,  # munmap
    12: Machine.set_break,
    20: Machine.write_vector,
    60: Machine.exit,
    158: Machine.thread_pointer,
    231: Machine.exit,
    234: Machine.kill,
}


def main() -> int:
    command = sys.argv[1:]
    environment = []
    while command and "=" in command[0]:
        environment.append(command.pop(0))
    if not command:
        raise SystemExit("usage: emulated_avx512.py [NAME=VALUE ...] PROGRAM [ARGUMENT ...]")
    return Machine(Path(command[0]), command, environment).run()


if __name__ == "__main__":
    sys.exit(main())
