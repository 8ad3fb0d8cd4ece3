"""Every form of an access, made on a manager and on its model."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dbs_device import CallbackHandle, entry_point_addresses

from .bus_buffers import BAD, READONLY, WRITABLE, content, filled
from .bus_model import LAST, SIZES, Bus, Refused, Unowned
from .native import compiled

if TYPE_CHECKING:
    from .bus import Machine, Pair

SPACES = ("MMIO", "MMIO", "PIO")
BUFFER_SIZES = (1, 2, 3, 4, 5, 8, 8, 9, 16, 0x41)

FOREIGN = r"""
#include <pthread.h>
#include <stdint.h>
#include <stddef.h>

typedef uint64_t (*load_function)(void *handle, uint64_t address, unsigned size);
typedef void (*store_function)(void *handle, uint64_t address, unsigned size, uint64_t value);
typedef struct {
    void *function, *handle;
    int is_store;
    uint64_t address, value;
    unsigned size;
} access;

static void *make(void *argument) {
    access *a = argument;
    if (a->is_store) ((store_function)a->function)(a->handle, a->address, a->size, a->value);
    else a->value = ((load_function)a->function)(a->handle, a->address, a->size);
    return NULL;
}
uint64_t on_new_thread(void *function, void *handle, int is_store, uint64_t address, unsigned size, uint64_t value) {
    access a = {function, handle, is_store, address, value, size};
    pthread_t thread;
    if (pthread_create(&thread, NULL, make, &a) != 0) return UINT64_MAX;
    pthread_join(thread, NULL);
    return a.value;
}
"""


def order_of(pair: Pair) -> Any:
    return pair.model.byteorder


# ----------------------------------------------------------------------------- integers


def integer(machine: Machine, pair: Pair) -> None:
    random, manager, model = machine.random, pair.manager, pair.model
    space = random.choice(SPACES)
    address, size, write = machine.address(space, model), random.choice(SIZES[space]), random.random() < 0.5
    value = random.getrandbits(8 * size)
    machine.run.step("store" if write else "load", space, address, size, value)
    if write:
        store = manager.mmio_store if space == "MMIO" else manager.pio_out
        data = bytearray(value.to_bytes(size, order_of(pair)))
        machine.compare(
            lambda: store(address, size, value),
            lambda: model.access(space, address, data, True, True),
            value=False,
        )
        return
    load = manager.mmio_load if space == "MMIO" else manager.pio_in
    machine.compare(lambda: load(address, size), lambda: modelled_load(model, space, address, size))


def modelled_load(model: Bus, space: str, address: int, size: int) -> int:
    data = bytearray(size)
    model.access(space, address, data, False, True)
    return int.from_bytes(data, model.byteorder)  # type: ignore[arg-type]


def wrong_arguments(machine: Machine, pair: Pair) -> None:
    """Numbers that are no addresses, sizes or values: an error of the documented type, and no device is called."""
    random, manager = machine.random, pair.manager
    space = random.choice(SPACES)
    good: list[Any] = [machine.address(space, pair.model), random.choice(SIZES[space]), 0]
    odd = [-1, 0, 3, 5, 7, 9, 16, 2**63, 2**64, -(2**64), 2**200, -(2**200), 1.0, None, "1", b"", [], object(), 1 << 16]
    which = random.randrange(3)
    bad = [each for each in odd if not fits(space, which, good[1], each)]
    good[which] = random.choice(bad)
    machine.run.step("wrong", space, which, good)
    load, store, read = {
        "MMIO": (manager.mmio_load, manager.mmio_store, manager.mmio_read),
        "PIO": (manager.pio_in, manager.pio_out, manager.pio_read),
    }[space]
    errors = Refused(("TypeError", "OverflowError", "ValueError"))

    def refuse() -> None:
        raise errors

    machine.compare(lambda: store(*good), refuse)
    if which < 2:
        machine.compare(lambda: load(*good[:2]), refuse)
    if which == 0:
        machine.compare(lambda: read(good[0], bytearray(2)), refuse)
        find = (manager.mmio_bus if space == "MMIO" else manager.pio_bus).find
        machine.compare(lambda: find(good[0]), refuse)


def fits(space: str, which: int, size: int, value: Any) -> bool:
    if type(value) is not int:
        return False
    if which == 1:
        return value in SIZES[space]
    return 0 <= value <= (LAST[space] if which == 0 else (1 << 8 * size) - 1)


# ----------------------------------------------------------------------------- buffers


def buffer(machine: Machine, pair: Pair) -> None:
    random, manager, model = machine.random, pair.manager, pair.model
    space, write = random.choice(SPACES), random.random() < 0.5
    address = machine.address(space, model)
    data = random.randbytes(random.choice(BUFFER_SIZES))
    real = filled(random, random.choice(WRITABLE + READONLY if write else WRITABLE), data)
    modelled = bytearray(data)
    machine.run.step("write" if write else "read", space, address, type(real).__name__, data)
    access = {
        ("MMIO", False): manager.mmio_read,
        ("MMIO", True): manager.mmio_write,
        ("PIO", False): manager.pio_read,
        ("PIO", True): manager.pio_write,
    }[space, write]
    kind, what = machine.compare(
        lambda: access(address, real), lambda: model.access(space, address, modelled, write, False), value=False
    )
    if kind == "value" or type(what).__name__ == "NoDeviceError":
        try:
            got = content(real)
        except ValueError:
            return  # a device has released the caller's view
        assert got == modelled, f"{got!r}, not {bytes(modelled)!r}"


def bad_buffer(machine: Machine, pair: Pair) -> None:
    """Neither a buffer of another kind nor a read-only one reaches a device."""
    random, manager = machine.random, pair.manager
    space, write = random.choice(SPACES), random.random() < 0.5
    address, size = machine.address(space, pair.model), random.choice([1, 2, 4, 8, 9])
    bad = random.choice(BAD if write else BAD + READONLY)(size)
    machine.run.step("bad buffer", space, write, address, bad)
    calls = {
        "MMIO": [manager.mmio_write] if write else [manager.mmio_read],
        "PIO": [manager.pio_write, lambda port, data: manager.pio_out_string(port, 1, data)]
        if write
        else [manager.pio_read, lambda port, data: manager.pio_in_string(port, 1, data)],
    }[space]

    def refuse() -> None:
        raise Refused(("TypeError", "BufferError", "ValueError", "NoDeviceError"))

    for call in calls:
        machine.compare(lambda call=call: call(address, bad), refuse)


# ----------------------------------------------------------------------------- batches


def many(machine: Machine, pair: Pair) -> None:
    random, manager, model = machine.random, pair.manager, pair.model
    size, write = random.choice(SIZES["MMIO"]), random.random() < 0.5
    count = random.randrange(9)
    addresses = [machine.address("MMIO", model) for _ in range(count)]
    values = [random.getrandbits(8 * size) for _ in range(count)]
    machine.run.step("store_many" if write else "load_many", size, addresses, values, count=count + 1)
    array: Any = np.array(addresses, np.uint64)
    if count and random.random() < 0.2:
        array = np.repeat(array, 2)[::2]
    done = 0

    def modelled() -> list[int]:
        nonlocal done
        got = []
        for address, value in zip(addresses, values, strict=True):
            if write:
                model.access("MMIO", address, bytearray(value.to_bytes(size, order_of(pair))), True, True)
            else:
                got.append(modelled_load(model, "MMIO", address, size))
            done += 1
        return got

    def real() -> list[int]:
        if write:
            manager.mmio_store_many(array, size, np.array(values, np.uint64))
            return []
        return manager.mmio_load_many(array, size).tolist()

    kind, what = machine.compare(real, modelled)
    assert kind == "value" or what.accesses_done == done, f"{what.accesses_done} accesses done, not {done}"


def string(machine: Machine, pair: Pair) -> None:
    random, manager, model = machine.random, pair.manager, pair.model
    size, write = random.choice(SIZES["PIO"]), random.random() < 0.5
    port, count = machine.address("PIO", model), random.randint(1, 6)
    data = random.randbytes(size * count)
    machine.run.step("out_string" if write else "in_string", port, size, data, count=count)
    real, modelled = bytearray(data), bytearray(data)
    done = 0

    def items() -> None:
        nonlocal done
        for start in range(0, len(data), size):
            item = modelled[start : start + size]
            model.access("PIO", port, item, write, False)
            modelled[start : start + size] = item
            done += 1

    call = manager.pio_out_string if write else manager.pio_in_string
    kind, what = machine.compare(lambda: call(port, size, real), items, value=False)
    if kind == "error":
        assert what.accesses_done == done, f"{what.accesses_done} items done, not {done}"
    assert real[: done * size] == modelled[: done * size]


# ----------------------------------------------------------------------------- entry points


LOADS = {"MMIO": ("mmio_load", "uc_mmio_load"), "PIO": ("pio_in", "uc_pio_in")}
STORES = {"MMIO": ("mmio_store", "uc_mmio_store"), "PIO": ("pio_out", "uc_pio_out")}
ADDRESSES = entry_point_addresses()
U64, U32, UINT, POINTER = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint, ctypes.c_void_p
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "mmio_load": ctypes.CFUNCTYPE(U64, POINTER, U64, UINT)(ADDRESSES["mmio_load"]),
    "pio_in": ctypes.CFUNCTYPE(U64, POINTER, U64, UINT)(ADDRESSES["pio_in"]),
    "mmio_store": ctypes.CFUNCTYPE(None, POINTER, U64, UINT, U64)(ADDRESSES["mmio_store"]),
    "pio_out": ctypes.CFUNCTYPE(None, POINTER, U64, UINT, U64)(ADDRESSES["pio_out"]),
    "uc_mmio_load": ctypes.CFUNCTYPE(U64, POINTER, U64, UINT, POINTER)(ADDRESSES["uc_mmio_load"]),
    "uc_pio_in": ctypes.CFUNCTYPE(U32, POINTER, U32, ctypes.c_int, POINTER)(ADDRESSES["uc_pio_in"]),
    "uc_mmio_store": ctypes.CFUNCTYPE(None, POINTER, U64, UINT, U64, POINTER)(ADDRESSES["uc_mmio_store"]),
    "uc_pio_out": ctypes.CFUNCTYPE(None, POINTER, U32, ctypes.c_int, U32, POINTER)(ADDRESSES["uc_pio_out"]),
}
STRINGS = {
    name: ctypes.CFUNCTYPE(ctypes.c_size_t, POINTER, U64, UINT, POINTER, ctypes.c_size_t)(ADDRESSES[name])
    for name in ("pio_in_string", "pio_out_string")
}
refuse_unowned = ctypes.CFUNCTYPE(None, POINTER, ctypes.c_int)(ADDRESSES["refuse_unowned"])


def entry_point(machine: Machine, pair: Pair) -> None:
    """An access by pointer: on this thread, or on one that C has made. The exception is latched."""
    random, model = machine.random, pair.model
    space, write = random.choice(SPACES), random.random() < 0.5
    address = machine.address(space, model)
    base = random.choice([0, 0, 0, 1, address, 2**64 - 1]) if space == "MMIO" else 0
    size = random.choice([*SIZES[space], *SIZES[space], 0, 3, 5, 16, 2**31 - 1])
    value = random.getrandbits(8 * min(size, 4 if space == "PIO" else 8))
    name = random.choice((STORES if write else LOADS)[space])
    # Beside an open transaction, a handler that changes the map on another thread waits for its end.
    library = compiled(FOREIGN) if random.random() < 0.15 and machine.open is None else None
    refuses = random.random() < 0.3
    offset = (address - base) % 2**64
    wraps = offset + base > LAST["MMIO"]
    machine.run.step("entry point", name, offset, base, size, value, refuses, library is not None)
    handle = CallbackHandle(pair.manager, base)
    refuse_unowned(handle.address, refuses)

    def modelled() -> int:
        if size not in SIZES[space]:
            raise Refused("ValueError")
        data = bytearray(value.to_bytes(size, order_of(pair)) if write else size)
        if wraps:
            model.unowned += model.log
            served = False
        else:
            try:
                served = model.access(space, address, data, write, True)
            except Unowned:
                served = False
        if not served and model.open_bus is None:
            if refuses:
                raise Unowned
            return 0
        if wraps:
            data[:] = bytes([model.open_bus or 0]) * size
        return 0 if write else int.from_bytes(data, order_of(pair))

    def real() -> int:
        arguments: list[Any] = [offset, size, *([value] if write else [])]
        if library is not None and not name.startswith("uc_"):
            function = ctypes.cast(FUNCTIONS[name], ctypes.c_void_p)
            library.on_new_thread.restype = ctypes.c_uint64
            got = library.on_new_thread(
                function, ctypes.c_void_p(handle.address), int(write), U64(offset), UINT(size), U64(value)
            )
        elif name.startswith("uc_"):
            got = FUNCTIONS[name](None, *arguments, handle.address)
        else:
            got = FUNCTIONS[name](handle.address, *arguments)
        error = handle.pop_exception()
        if error is not None:
            raise error
        return 0 if write else got

    machine.compare(real, modelled)
    assert handle.pop_exception() is None


def string_by_pointer(machine: Machine, pair: Pair) -> None:
    random, model = machine.random, pair.model
    size, write = random.choice(SIZES["PIO"]), random.random() < 0.5
    port, count, refuses = machine.address("PIO", model), random.randint(0, 6), random.random() < 0.3
    data = random.randbytes(size * count)
    name = "pio_out_string" if write else "pio_in_string"
    machine.run.step(name, port, size, data, refuses, count=count + 1)
    handle = CallbackHandle(pair.manager)
    refuse_unowned(handle.address, refuses)
    real, modelled = ctypes.create_string_buffer(data, len(data) + 1), bytearray(data if write else len(data))
    done = 0

    def items() -> None:
        nonlocal done
        for start in range(0, len(data), size):
            item = modelled[start : start + size]
            try:
                model.access("PIO", port, item, write, False)
                modelled[start : start + size] = item
            except Unowned:
                if refuses:
                    raise
            done += 1

    made = 0

    def call() -> None:
        nonlocal made
        made = STRINGS[name](handle.address, port, size, ctypes.addressof(real), count)
        error = handle.pop_exception()
        if error is not None:
            raise error

    machine.compare(call, items, value=False)
    assert made == done, f"{made} items made, not {done}"
    assert real.raw[: len(data)] == modelled


def kept_views(machine: Machine, pair: Pair) -> None:
    """What rude devices have kept is used: it is never memory that is gone."""
    random = machine.random
    machine.run.step("kept views", len(machine.world.kept))
    for view in machine.world.kept:
        try:
            if not view.readonly and random.random() < 0.5:
                view[random.randrange(len(view))] = random.getrandbits(8)
            else:
                bytes(view)
        except ValueError:
            pass  # it was released
    if random.random() < 0.3:
        machine.world.kept = []


ACCESSES: tuple[Callable[[Machine, Pair], None], ...] = (
    *[integer] * 6,
    *[buffer] * 6,
    many,
    many,
    string,
    string,
    string_by_pointer,
    *[entry_point] * 4,
    wrong_arguments,
    bad_buffer,
    kept_views,
)
