"""Compare the binary interface with the recorded one, or record it: `python tools/record_abi.py [--update]`.

The record, tests/embedding/abi.json, holds what a compiled consumer depends on: the version, the modules that it
imports, the signatures of the C functions, the members of the classes and the order of their methods, and the struct
behind the capsule. While the version is the same, functions may be added, and members at the end of the struct.
"""

import ctypes
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "tests" / "embedding" / "abi.json"
PACKAGE = ROOT / "dbs_device"
CONSUMER = ROOT / "tests" / "embedding" / "embedder" / "minimal.pyx"


def main(arguments):
    recorded, current = json.loads(RECORD.read_text()), current_abi()
    broken = incompatibilities(recorded, current)
    if broken:
        sys.exit(
            f"the binary interface has changed, and its version is still {current['version']}:\n"
            + "".join(f"  {each}\n" for each in broken)
            + "Undo that, or raise DBS_DEVICE_ABI_VERSION in dbs_device/_bus.pxd and dbs_device/dbs_device.h."
        )
    if arguments == ["--update"]:
        RECORD.write_text(json.dumps(current, indent=2) + "\n")
    elif recorded != current:
        sys.exit(f"{RECORD.relative_to(ROOT)} is not up to date: run `python tools/record_abi.py --update`")


def incompatibilities(recorded, current):
    """Return what a consumer built against the recorded interface would break on, one line each."""
    if recorded["version"] != current["version"]:
        return []  # consumers refuse to load, and say why
    lines = [
        f"{name}: {recorded[name]} -> {current[name]}"
        for name in ("capsule", "modules", "classes")
        if recorded[name] != current[name]
    ]
    for name, signature in recorded["functions"].items():
        if current["functions"].get(name) != signature:
            lines.append(f"{name}: {signature} -> {current['functions'].get(name, 'removed')}")
    old, new = recorded["struct"], current["struct"]
    if new[: len(old)] != old:
        lines.append(f"struct dbs_device_api: {old} -> {new}")
    return lines


def current_abi():
    header = without_comments((PACKAGE / "dbs_device.h").read_text())
    bus = (PACKAGE / "_bus.pxd").read_text()
    native = (PACKAGE / "_engine" / "native.pxd").read_text()
    return {
        "version": version(header, bus),
        "capsule": re.search(r'#define DBS_DEVICE_CAPSULE "(.+)"', header)[1],
        "modules": imported_modules(),
        "classes": {
            "IoManager": class_members(bus, "IoManager"),
            "NativeDevice": class_members(native, "NativeDevice"),
        },
        "functions": function_signatures(),
        "struct": struct_members(header),
    }


def version(header, bus):
    of_header = int(re.search(r"#define DBS_DEVICE_ABI_VERSION (\d+)", header)[1])
    of_bus = int(re.search(r"^    DBS_DEVICE_ABI_VERSION = (\d+)", bus, re.MULTILINE)[1])
    if of_header != of_bus:
        sys.exit(f"DBS_DEVICE_ABI_VERSION is {of_header} in dbs_device.h and {of_bus} in _bus.pxd")
    return of_bus


def imported_modules():
    """Return the modules of the package that the C code of a consumer imports, sorted."""
    with tempfile.TemporaryDirectory() as directory:
        c = Path(directory, "minimal.c")
        subprocess.run([sys.executable, "-m", "cython", "-3", CONSUMER, "-o", c], cwd=ROOT, check=True)
        return sorted({*re.findall(r'PyImport_ImportModule\("(dbs_device[\w.]*)"\)', c.read_text())})


def function_signatures():
    """Return the C functions of `_bus` by name, as Cython checks them when a consumer is imported."""
    from dbs_device import _bus

    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return {name: name_of(capsule).decode() for name, capsule in sorted(_bus.__pyx_capi__.items())}


def class_members(pxd, name):
    """Return the declarations in a cdef class, in their order."""
    body = re.search(rf"^cdef class {name}:\n((?:    .*\n|\n)*)", pxd, re.MULTILINE)[1]
    declarations = re.sub(r"#.*", "", body).split("cdef ")
    return [" ".join(each.split()) for each in declarations if each.strip()]


def struct_members(header):
    body = re.search(r"typedef struct dbs_device_api \{(.*?)\n\}", header, re.DOTALL)[1]
    return [" ".join(each.split()) for each in body.split(";") if each.strip()]


def without_comments(c):
    return re.sub(r"/\*.*?\*/", "", c, flags=re.DOTALL)


if __name__ == "__main__":
    main(sys.argv[1:])
