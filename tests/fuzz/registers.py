"""Register banks against a model in C, bit by bit.

The C program makes the accesses through the bus's C entry points, and compares each read with the model.
"""

from __future__ import annotations

import ctypes
import threading
from random import Random

from register_model import BankPlan, Place, random_plan, written

from dbs_device import CallbackHandle, IoManager, Resource, entry_point_addresses
from dbs_device.registers import W1T, Bits, Register, RegisterAlias, RegisterBank

from .harness import Run
from .native import compiled

BANK_ACCESSES, THREADS_ACCESSES = 20_000, 40_000

SOURCE = r"""
#include <stdint.h>
#include <string.h>

typedef uint64_t (*load_function)(void *handle, uint64_t address, unsigned size);
typedef void (*store_function)(void *handle, uint64_t address, unsigned size, uint64_t value);

enum { BITS = 64, NOTHING = 0xFFFF };

typedef struct {
    uint16_t registers;
    uint16_t offset, size;
    uint8_t becomes[BITS]; /* bit 2 * old + new: what a bit becomes */
} place;

typedef struct {
    uint32_t size, byteorder_is_big, gap, page_bits, positions, place_count;
    const place *places;
    const uint16_t *owners; /* [write][page][position], a place or NOTHING */
    const uint8_t *readable, *effect, *whole, *depends; /* by register and bit; effect: 1 clears, 2 sets */
    uint8_t (*values)[BITS];
    uint8_t *ram;
} model;

static unsigned page_of(const model *m) {
    unsigned page = 0, i;
    for (i = 0; i < m->page_bits; i++) page |= m->values[0][i] << i;
    return page;
}
static const place *place_at(const model *m, int write, uint64_t position) {
    uint16_t owner = m->owners[((size_t)write * (1u << m->page_bits) + page_of(m)) * m->positions + position];
    return owner == NOTHING ? NULL : &m->places[owner];
}
static unsigned access(model *m, int write, uint64_t offset, unsigned size, uint8_t *data) {
    unsigned done = 0, byte, bit;
    while (done < size) {
        uint64_t position = offset + done;
        const place *p = place_at(m, write, position);
        uint8_t touched[BITS] = {0};
        uint8_t *values;
        unsigned r, i;
        if (!p) {
            if (m->gap == 2 && position < m->size) {
                if (write) m->ram[position] = data[done]; else data[done] = m->ram[position];
            } else if (!write) data[done] = m->gap == 1 ? 0xFF : 0;
            done++;
            continue;
        }
        r = p->registers;
        values = m->values[r];
        for (byte = (unsigned)(position - p->offset); byte < p->size && done < size; byte++, done++) {
            unsigned lane = m->byteorder_is_big ? p->size - 1 - byte : byte;
            if (!write) data[done] = 0;
            for (bit = 0; bit < 8; bit++) {
                i = 8 * lane + bit;
                touched[i] = 1;
                if (write) values[i] = p->becomes[i] >> (2 * values[i] + (data[done] >> bit & 1)) & 1;
                else if (m->readable[r * BITS + i]) data[done] |= (uint8_t)(values[i] << bit);
            }
        }
        for (i = 0; i < 8u * p->size; i++) {
            if (!touched[i] && !m->whole[r]) continue;
            if (!write && m->effect[r * BITS + i]) values[i] = m->effect[r * BITS + i] == 2;
            if (write && !touched[i] && !m->depends[r * BITS + i]) values[i] = p->becomes[i] >> (2 * values[i]) & 1;
        }
    }
    return 0;
}
static uint64_t next(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
/* Returns the number of the first access that differs, or `count`. */
uint64_t run(load_function load, store_function store, void *handle, model *m, uint64_t count, uint64_t seed,
             uint64_t *report) {
    uint64_t done;
    for (done = 0; done < count; done++) {
        uint64_t random = next(&seed), value = next(&seed), offset, got, expected = 0;
        unsigned size = 1u << (random >> 8 & 3);
        uint8_t data[8];
        offset = (random >> 16) % m->size;
        if (random & 2) {
            const place *p = &m->places[(random >> 16) % m->place_count];
            offset = p->offset;
            size = p->size;
        }
        if (random & 1) {
            memcpy(data, &value, 8);
            store(handle, offset, size, value);
            access(m, 1, offset, size, data);
            continue;
        }
        got = load(handle, offset, size);
        access(m, 0, offset, size, data);
        memcpy(&expected, data, size);
        if (got != expected) {
            report[0] = offset; report[1] = size; report[2] = got; report[3] = expected;
            return done;
        }
    }
    return count;
}
/* One of four threads: toggles bit `number` of register 0, sets and clears its bit of register 8 (at 4 and 16),
   and writes its byte of register 12. Returns the number of updates that were lost. */
uint64_t share(load_function load, store_function store, void *handle, uint64_t count, unsigned number) {
    uint64_t done, lost = 0, bit = 1u << number;
    for (done = 0; done < count; done++) {
        store(handle, 0, 4, bit);
        lost += (load(handle, 0, 4) >> number & 1) != ((done + 1) & 1);
        store(handle, 4, 4, bit);
        lost += !(load(handle, 8, 4) & bit);
        store(handle, 16, 4, bit);
        lost += !!(load(handle, 8, 4) & bit);
        store(handle, 12 + number, 1, done & 0xFF);
        lost += load(handle, 12 + number, 1) != (done & 0xFF);
    }
    return lost;
}
"""


class CPlace(ctypes.Structure):
    _fields_ = (
        ("register", ctypes.c_uint16),
        ("offset", ctypes.c_uint16),
        ("size", ctypes.c_uint16),
        ("becomes", ctypes.c_uint8 * 64),
    )


class CModel(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("size", "is_big", "gap", "page_bits", "positions", "place_count")),
        *((name, ctypes.c_void_p) for name in ("places", "owners", "readable", "effect", "whole", "depends")),
        *((name, ctypes.c_void_p) for name in ("values", "ram")),
    )


def driver() -> ctypes.CDLL | None:
    """Return the compiled program, or None where there is no C compiler."""
    library = compiled(SOURCE)
    if library is not None:
        library.run.restype = library.share.restype = ctypes.c_uint64
    return library


def table_of(plan: BankPlan, place: Place) -> bytes:
    """Return, by bit, what a write makes of it."""
    return bytes(
        sum(written(access, place.action, old, new) << (2 * old + new) for old in (0, 1) for new in (0, 1))
        for access, _, _ in plan.registers[place.register].bits()
    ).ljust(64, b"\0")


class NativeModel:
    """The C model of a plan, and the memory that it uses."""

    def __init__(self, plan: BankPlan) -> None:
        places = plan.places()
        pages, positions = 1 << plan.page_bits, plan.size + 16
        owners = [[[0xFFFF] * positions for _ in range(pages)] for _ in range(2)]
        for number, place in enumerate(places):
            for write in (0, 1):
                if place.write if write else place.read:
                    for page in range(pages) if place.page is None else (place.page,):
                        span = slice(place.offset, place.offset + place.size)
                        owners[write][page][span] = [number] * place.size
        bits = [plan_bits.bits() + [("RO", None, 0)] * (64 - 8 * plan_bits.size) for plan_bits in plan.registers]
        flat = [bit for register in bits for bit in register]
        self.places = (CPlace * len(places))(
            *(
                CPlace(place.register, place.offset, place.size, (ctypes.c_uint8 * 64)(*table_of(plan, place)))
                for place in places
            )
        )
        self.owners = (ctypes.c_uint16 * (2 * pages * positions))(
            *(owner for direction in owners for page in direction for owner in page)
        )
        self.readable = bytes(access != "WO" for access, _, _ in flat)
        self.effect = bytes({None: 0, "clear": 1, "set": 2}[effect] for _, effect, _ in flat)
        self.whole = bytes(register.lanes == "register" for register in plan.registers)
        self.depends = bytes(access not in ("RO", "WC", "WS") for access, _, _ in flat)
        self.values = (ctypes.c_uint8 * len(flat))(*(reset for _, _, reset in flat))
        self.ram = (ctypes.c_uint8 * plan.size)()
        self.model = CModel(
            plan.size,
            plan.byteorder == "big",
            {"zero": 0, "ones": 1, "ram": 2}[plan.gap],
            plan.page_bits,
            positions,
            len(places),
            *(
                ctypes.cast(memory, ctypes.c_void_p)
                for memory in (self.places, self.owners, self.readable, self.effect, self.whole, self.depends)
            ),
            *(ctypes.cast(memory, ctypes.c_void_p) for memory in (self.values, self.ram)),
        )

    def register_values(self) -> list[int]:
        return [
            sum(bit << number for number, bit in enumerate(self.values[start : start + 64]))
            for start in range(0, len(self.values), 64)
        ]


def entry_points(handle: CallbackHandle) -> tuple[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]:
    addresses = entry_point_addresses()
    return (
        ctypes.c_void_p(addresses["mmio_load"]),
        ctypes.c_void_p(addresses["mmio_store"]),
        ctypes.c_void_p(handle.address),
    )


def differences_of_bank(library: ctypes.CDLL, random: Random, accesses: int) -> list[str]:
    """Make so many accesses to a random bank; return what differed."""
    plan = random_plan(random)
    bank, model = plan.bank_class()(), NativeModel(plan)
    manager = IoManager(straddle="pass")
    manager.register_device_io(bank, [Resource.MmioAddressRange(0, plan.size + 8)])
    handle = CallbackHandle(manager)
    report = (ctypes.c_uint64 * 4)()
    done = library.run(
        *entry_points(handle),
        ctypes.byref(model.model),
        ctypes.c_uint64(accesses),
        ctypes.c_uint64(random.getrandbits(64)),
        report,
    )
    if done != accesses:
        offset, size, got, expected = report
        return [f"access {done}: {size} bytes at {offset:#x}: {got:#x}, not {expected:#x}"]
    if list(bank.save_state()["registers"].values()) != model.register_values():
        return ["the registers differ at the end"]
    return []


class Flags(Register):
    BACKEND = Bits(24, 8)


class Shared(RegisterBank):
    """Four threads use it, each its own bits and byte."""

    TOGGLED = Register(0x0, access=W1T)
    FLAGS = Flags(0x8)
    SET = RegisterAlias(FLAGS, 0x4, "set")
    CLEAR = RegisterAlias(FLAGS, 0x10, "clear")
    BYTES = Register(0xC)


def differences_of_threads(library: ctypes.CDLL, accesses: int) -> list[str]:
    """Let four threads, and a backend, change bits of the same registers; return what was lost."""
    bank, manager = Shared(), IoManager()
    manager.register_device_io(bank, [Resource.MmioAddressRange(0, bank.size)])
    handle = CallbackHandle(manager)
    lost = [0] * 5

    def use(number: int) -> None:
        lost[number] = library.share(*entry_points(handle), ctypes.c_uint64(accesses // 8), ctypes.c_uint(number))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    turn = 0
    while any(thread.is_alive() for thread in threads):
        turn += 1
        bank.FLAGS.update(BACKEND=turn & 0xFF)
        lost[4] += turn & 0xFF != bank.FLAGS.BACKEND
    return [f"thread {number} lost {count} updates" for number, count in enumerate(lost) if count]


def play(run: Run) -> None:
    library = driver()
    if library is None:
        raise RuntimeError("there is no C compiler")
    if run.chance(0.05):
        run.step("threads", THREADS_ACCESSES, count=THREADS_ACCESSES)
        differences = differences_of_threads(library, THREADS_ACCESSES)
    else:
        run.step("bank", BANK_ACCESSES, count=BANK_ACCESSES)
        differences = differences_of_bank(library, run.random, BANK_ACCESSES)
    assert not differences, "; ".join(differences)
