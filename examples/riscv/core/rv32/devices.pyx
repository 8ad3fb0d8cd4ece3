"""Devices in Cython for machines with an rv32 core. They take the GIL where a line, a sink or a timer is called.

They do what the devices of the same names in `dbs_device.devices` do.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from dbs_device._bus cimport NativeDevice, c_check_abi

from .core cimport Core

from dbs_device.errors import StateError

__all__ = ["Clint", "GoldfishRtc", "PowerSwitch", "Timebase", "Uart16550"]

c_check_abi()

cdef uint64_t NS_PER_SECOND = 1_000_000_000


cdef class Timebase:
    """Time since power-on, without the GIL: that of a core's cycles, and of what is added while it waits.

    Parameters
    ----------
    core : Core
        Whose cycles are counted.
    ns_per_cycle : int
        Duration of a cycle in ns.
    """

    cdef Core core
    cdef uint64_t ns_per_cycle
    cdef uint64_t added  # modulo 2**64

    def __cinit__(self, Core core not None, uint64_t ns_per_cycle):
        self.core = core
        self.ns_per_cycle = ns_per_cycle

    cdef uint64_t c_now(self) noexcept nogil:
        return self.core.c_cycles() * self.ns_per_cycle + self.added

    def now(self):
        """Return the time in ns."""
        return self.c_now()

    def set_now(self, uint64_t now):
        """Go on from a time in ns."""
        self.added += now - self.c_now()


cdef class Output:
    """An interrupt line as its device sees it: the GIL is taken for edges only."""

    cdef object irq
    cdef bint level

    def __cinit__(self, irq):
        self.irq = irq

    cdef int set(self, bint level) except -1 nogil:
        if level != self.level:
            self.level = level
            with gil:
                self.irq(level)
        return 0


def no_irq(level):
    """Leave an interrupt line unconnected."""


cdef object state_of(object device, object state, dict like):
    """Return a state that has the keys of `like`, and values of the same types."""
    if not isinstance(state, dict) or state.keys() != like.keys():
        raise StateError(f"the state of a {type(device).__name__} has {', '.join(like)}, not {state!r:.80}")
    for key, value in like.items():
        if type(state[key]) is not type(value):
            raise StateError(f"{type(device).__name__}.{key} is of type {type(value).__name__}, not {state[key]!r:.80}")
    return state


# The registers of a 16550, and their bits
cdef enum:
    DATA = 0  # with DLAB set, the low byte of the divisor
    INTERRUPT_ENABLE = 1  # with DLAB set, the high byte of the divisor
    INTERRUPT_ID = 2  # read
    FIFO_CONTROL = 2  # written
    LINE_CONTROL = 3
    MODEM_CONTROL = 4
    LINE_STATUS = 5
    MODEM_STATUS = 6
    SCRATCH = 7

cdef enum:
    ENABLE_RECEIVED = 0x01
    ENABLE_TRANSMITTER_EMPTY = 0x02
    ENABLE_LINE_STATUS = 0x04
    ENABLE_MODEM_STATUS = 0x08
    ID_MODEM_STATUS = 0x00
    ID_NONE = 0x01
    ID_TRANSMITTER_EMPTY = 0x02
    ID_RECEIVED = 0x04
    ID_LINE_STATUS = 0x06
    ID_TIMEOUT = 0x0C
    ID_FIFOS_ENABLED = 0xC0
    FIFO_ENABLE = 0x01
    FIFO_CLEAR_RECEIVER = 0x02
    DIVISOR_LATCH_ACCESS = 0x80
    MODEM_OUT2 = 0x08
    MODEM_LOOPBACK = 0x10
    DATA_READY = 0x01
    OVERRUN_ERROR = 0x02
    TRANSMITTER_EMPTY = 0x60  # THRE and TEMT
    CTS_DSR_DCD = 0xB0
    RING = 0x40
    FIFO_SIZE = 16

cdef uint32_t[4] TRIGGER_LEVELS = [1, 4, 8, 14]


cdef class Uart16550(NativeDevice):
    """Serial port: a 16550A with its FIFOs, and a peer that is always connected and accepts every byte at once.

    Datasheet: National Semiconductor PC16550D.

    Parameters
    ----------
    sink : callable
        Called with each byte that the guest sends.
    irq : callable
        The interrupt line, which OUT2 enables.
    """

    version = 1

    cdef object sink
    cdef Output output
    cdef uint32_t divisor
    cdef uint8_t interrupt_enable, fifo_control, line_control, modem_control, scratch, modem_changes
    cdef bint overrun, transmitter_empty_pending
    cdef uint8_t[FIFO_SIZE] received
    cdef uint32_t first, count

    def __cinit__(self, *, sink, irq=no_irq):
        self.sink = sink
        self.output = Output(irq)

    def receive(self, received):
        """Receive bytes from the peer. Bytes that do not fit are lost, and an overrun is reported."""
        if not self.modem_control & MODEM_LOOPBACK:
            for byte in received:
                self.push(byte)
            self.update_irq()

    @property
    def room(self):
        """How many bytes `receive` takes without a loss; none while the guest has the receiver in loopback."""
        return 0 if self.modem_control & MODEM_LOOPBACK else self.capacity() - self.count

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        cdef size_t position
        for position in range(size):
            data[position] = self.read_register(offset + position & 7)
        self.update_irq()
        return 0

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        cdef size_t position
        for position in range(size):
            self.write_register(offset + position & 7, data[position])
        self.update_irq()
        return 0

    cdef uint8_t read_register(self, uint64_t offset) noexcept nogil:
        cdef uint8_t value
        if offset <= INTERRUPT_ENABLE and self.line_control & DIVISOR_LATCH_ACCESS:
            return <uint8_t>(self.divisor >> 8 * offset)
        if offset == LINE_STATUS:
            value = TRANSMITTER_EMPTY
            if self.count:
                value |= DATA_READY
            if self.overrun:
                value |= OVERRUN_ERROR
            self.overrun = False
            return value
        if offset == DATA:
            return self.pop()
        if offset == INTERRUPT_ENABLE:
            return self.interrupt_enable
        if offset == INTERRUPT_ID:
            value = self.interrupt_id()
            if value == ID_TRANSMITTER_EMPTY:
                self.transmitter_empty_pending = False  # reading its identification clears it
            return value | ID_FIFOS_ENABLED if self.fifo_control & FIFO_ENABLE else value
        if offset == LINE_CONTROL:
            return self.line_control
        if offset == MODEM_CONTROL:
            return self.modem_control
        if offset == MODEM_STATUS:
            value = self.modem_inputs() | self.modem_changes
            self.modem_changes = 0
            return value
        return self.scratch

    cdef int write_register(self, uint64_t offset, uint8_t value) except -1 nogil:
        cdef uint8_t before
        if offset <= INTERRUPT_ENABLE and self.line_control & DIVISOR_LATCH_ACCESS:
            self.divisor = self.divisor & ~(<uint32_t>0xFF << 8 * offset) | <uint32_t>value << 8 * offset
        elif offset == DATA:
            self.transmitter_empty_pending = True  # it has been sent by then
            if self.modem_control & MODEM_LOOPBACK:
                self.push(value)
            else:
                with gil:
                    self.sink(value)
        elif offset == INTERRUPT_ENABLE:
            if value & ~self.interrupt_enable & ENABLE_TRANSMITTER_EMPTY:
                self.transmitter_empty_pending = True
            self.interrupt_enable = value & 0x0F
        elif offset == FIFO_CONTROL:
            if (value ^ self.fifo_control) & FIFO_ENABLE or value & FIFO_CLEAR_RECEIVER:
                self.count = 0
            self.fifo_control = value
        elif offset == LINE_CONTROL:
            self.line_control = value
        elif offset == MODEM_CONTROL:
            before = self.modem_inputs()
            self.modem_control = value & 0x1F
            value = before ^ self.modem_inputs()
            self.modem_changes |= (value & CTS_DSR_DCD) >> 4 | (value & before & RING) >> 4
        elif offset == SCRATCH:
            self.scratch = value
        return 0

    cdef uint32_t capacity(self) noexcept nogil:
        return FIFO_SIZE if self.fifo_control & FIFO_ENABLE else 1

    cdef void push(self, uint8_t byte) noexcept nogil:
        if self.count < self.capacity():
            self.received[(self.first + self.count) % FIFO_SIZE] = byte
            self.count += 1
            return
        self.overrun = True
        if not self.fifo_control & FIFO_ENABLE:
            self.received[self.first] = byte  # the holding register is overwritten; a full FIFO is not

    cdef uint8_t pop(self) noexcept nogil:
        cdef uint8_t byte
        if self.count == 0:
            return 0
        byte = self.received[self.first]
        self.first = (self.first + 1) % FIFO_SIZE
        self.count -= 1
        return byte

    cdef uint8_t modem_inputs(self) noexcept nogil:
        cdef uint8_t control = self.modem_control
        if not control & MODEM_LOOPBACK:
            return CTS_DSR_DCD
        # Loopback: DTR, RTS, OUT1 and OUT2 are read as DSR, CTS, RI and DCD.
        return (control & 1) << 5 | (control & 2) << 3 | (control & 4) << 4 | (control & 8) << 4

    cdef uint8_t interrupt_id(self) noexcept nogil:
        """Return the pending interrupt of the highest priority."""
        cdef uint32_t trigger = 1
        if self.interrupt_enable & ENABLE_LINE_STATUS and self.overrun:
            return ID_LINE_STATUS
        if self.interrupt_enable & ENABLE_RECEIVED and self.count:
            if self.fifo_control & FIFO_ENABLE:
                trigger = TRIGGER_LEVELS[self.fifo_control >> 6]
            # Bytes below the trigger level are reported once the line is idle, which it is: they arrive at once.
            return ID_RECEIVED if self.count >= trigger else ID_TIMEOUT
        if self.interrupt_enable & ENABLE_TRANSMITTER_EMPTY and self.transmitter_empty_pending:
            return ID_TRANSMITTER_EMPTY
        if self.interrupt_enable & ENABLE_MODEM_STATUS and self.modem_changes:
            return ID_MODEM_STATUS
        return ID_NONE

    cdef int update_irq(self) except -1 nogil:
        cdef bint connected = self.modem_control & MODEM_OUT2 and not self.modem_control & MODEM_LOOPBACK
        return self.output.set(connected and self.interrupt_id() != ID_NONE)

    def save_state(self):
        """Return the registers and the received bytes."""
        return {
            "divisor": self.divisor,
            "interrupt_enable": self.interrupt_enable,
            "fifo_control": self.fifo_control,
            "line_control": self.line_control,
            "modem_control": self.modem_control,
            "scratch": self.scratch,
            "received": bytes([self.received[(self.first + index) % FIFO_SIZE] for index in range(self.count)]),
            "overrun": bool(self.overrun),
            "transmitter_empty_pending": bool(self.transmitter_empty_pending),
            "modem_changes": self.modem_changes,
        }

    def load_state(self, state):
        """Load a state; `StateError` if it is not one. The interrupt line follows."""
        checked = state_of(self, state, self.save_state())
        if len(checked["received"]) > FIFO_SIZE:
            raise StateError(f"{len(checked['received'])} received bytes do not fit a FIFO of {FIFO_SIZE}")
        self.divisor = checked["divisor"]
        self.interrupt_enable = checked["interrupt_enable"]
        self.fifo_control = checked["fifo_control"]
        self.line_control = checked["line_control"]
        self.modem_control = checked["modem_control"]
        self.scratch = checked["scratch"]
        self.first, self.count = 0, len(checked["received"])
        for index, byte in enumerate(checked["received"]):
            self.received[index] = byte
        self.overrun = checked["overrun"]
        self.transmitter_empty_pending = checked["transmitter_empty_pending"]
        self.modem_changes = checked["modem_changes"]
        self.update_irq()


cdef enum:
    MSIP = 0x0000
    MTIMECMP = 0x4000
    MTIME = 0xBFF8


cdef class Clint(NativeDevice):
    """Core-local interruptor of one hart.

    Datasheet: SiFive FU540-C000 manual, chapter 9.

    Parameters
    ----------
    clock : Clock
        The machine's time, with a `Timebase` as its `timebase`.
    frequency : int
        Of mtime, in Hz.
    software_irq, timer_irq : callable
        The lines.
    """

    version = 1

    cdef Timebase timebase
    cdef uint64_t frequency
    cdef uint64_t compare
    cdef uint64_t delta  # what software has added to the ticks since power-on
    cdef Output software, timer
    cdef object alarm

    def __cinit__(self, *, clock, uint64_t frequency, software_irq=no_irq, timer_irq=no_irq):
        self.timebase = clock.timebase
        self.frequency = frequency
        self.compare = <uint64_t>-1
        self.software = Output(software_irq)
        self.timer = Output(timer_irq)
        self.alarm = clock.timer(self.expire)

    cdef uint64_t ticks(self) noexcept nogil:
        cdef uint64_t now = self.timebase.c_now()
        return now // NS_PER_SECOND * self.frequency + now % NS_PER_SECOND * self.frequency // NS_PER_SECOND

    cdef uint64_t register_at(self, uint64_t offset) noexcept nogil:
        """Return the 64 bits at a multiple of 8."""
        if offset == MTIME:
            return self.ticks() + self.delta
        if offset == MTIMECMP:
            return self.compare
        return self.software.level if offset == MSIP else 0

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        cdef uint64_t value = self.register_at(offset & ~<uint64_t>7)
        memcpy(data, <uint8_t *>&value + (offset & 7), min(size, 8 - (offset & 7)))
        return 0

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        cdef uint64_t at = offset & ~<uint64_t>7
        cdef uint64_t old = self.register_at(at)
        cdef uint64_t new = old
        memcpy(<uint8_t *>&new + (offset & 7), data, min(size, 8 - (offset & 7)))
        if at == MTIME:
            self.delta += new - old
        elif at == MTIMECMP:
            self.compare = new
        elif at == MSIP:
            return self.software.set(new & 1)
        else:
            return 0
        with gil:
            self.update_timer()
        return 0

    cdef int update_timer(self) except -1:
        """Set the level of the timer interrupt, and the time of its next edge."""
        cdef uint64_t ticks = self.ticks()
        cdef uint64_t remaining = self.compare - ticks - self.delta
        if self.compare <= ticks + self.delta:
            self.alarm.cancel()
            return self.timer.set(True)
        if remaining >> 63:
            self.alarm.cancel()  # in centuries
        else:
            self.alarm.set(-(-(<object>ticks + remaining) * <object>NS_PER_SECOND // self.frequency))
        return self.timer.set(False)

    def expire(self, now):
        """Look at the timer, as the clock calls."""
        self.update_timer()

    def save_state(self):
        """Return the registers."""
        return {"software": bool(self.software.level), "compare": self.compare, "delta": self.delta}

    def load_state(self, state):
        """Load a state; `StateError` if it is not one. Interrupt lines follow."""
        checked = state_of(self, state, self.save_state())
        self.compare = checked["compare"]
        self.delta = checked["delta"]
        self.software.set(checked["software"])
        self.update_timer()


cdef enum:
    TIME_LOW = 0x00
    TIME_HIGH = 0x04
    ALARM_LOW = 0x08
    ALARM_HIGH = 0x0C
    IRQ_ENABLED = 0x10
    CLEAR_ALARM = 0x14
    ALARM_STATUS = 0x18
    CLEAR_INTERRUPT = 0x1C


cdef class GoldfishRtc(NativeDevice):
    """Real-time clock of Android's emulator: nanoseconds since 1970, with an alarm.

    Specification: Android, `goldfish/docs/GOLDFISH-VIRTUAL-HARDWARE.TXT`, section "Goldfish timer".

    Parameters
    ----------
    clock : Clock
        The machine's time, with a `Timebase` as its `timebase`.
    start : datetime
        Date and time at power-on, with a time zone.
    irq : callable
        The interrupt line.
    """

    version = 1

    cdef Timebase timebase
    cdef uint64_t offset  # from the machine's time to the date, modulo 2**64
    cdef uint32_t time_high, alarm_low, alarm_high  # as last read or written
    cdef bint enabled, pending, is_set
    cdef Output output
    cdef object timer

    def __cinit__(self, *, clock, start, irq=no_irq):
        self.timebase = clock.timebase
        self.offset = int(start.timestamp()) * <object>NS_PER_SECOND - self.timebase.c_now()
        self.output = Output(irq)
        self.timer = clock.timer(self.expire)

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        cdef uint32_t value = self.read_register(offset & ~<uint64_t>3)
        memcpy(data, <uint8_t *>&value + (offset & 3), min(size, 4 - (offset & 3)))
        return 0

    cdef uint32_t read_register(self, uint64_t offset) noexcept nogil:
        cdef uint64_t now
        if offset == TIME_LOW:
            now = self.timebase.c_now() + self.offset
            self.time_high = <uint32_t>(now >> 32)
            return <uint32_t>now
        if offset == TIME_HIGH:
            return self.time_high
        if offset == ALARM_LOW:
            return self.alarm_low
        if offset == ALARM_HIGH:
            return self.alarm_high
        if offset == IRQ_ENABLED:
            return self.enabled
        return self.is_set if offset == ALARM_STATUS else 0

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        cdef uint32_t value = 0
        cdef uint64_t now = self.timebase.c_now() + self.offset
        if size != 4 or offset & 3:
            return 0  # the specification has whole registers
        memcpy(&value, data, 4)
        if offset == TIME_LOW:
            self.set_time(now & 0xFFFFFFFF00000000ULL | value, now)
        elif offset == TIME_HIGH:
            self.time_high = value
            self.set_time(now & 0xFFFFFFFFULL | <uint64_t>value << 32, now)
        elif offset == ALARM_LOW:
            self.alarm_low = value
            with gil:
                self.set_alarm()
        elif offset == ALARM_HIGH:
            self.alarm_high = value
        elif offset == IRQ_ENABLED:
            self.enabled = value & 1
        elif offset == CLEAR_ALARM and self.is_set:
            self.is_set = False
            with gil:
                self.timer.cancel()
        elif offset == CLEAR_INTERRUPT:
            self.pending = False
        return self.output.set(self.enabled and self.pending)

    cdef int set_time(self, uint64_t time, uint64_t now) except -1 nogil:
        self.offset += time - now
        if self.is_set:
            with gil:
                self.set_alarm()
        return 0

    cdef int set_alarm(self) except -1:
        cdef uint64_t when = (<uint64_t>self.alarm_high << 32 | self.alarm_low) - self.offset
        self.is_set = True
        self.timer.set(when if when >> 63 == 0 else 0)  # one that has passed is due at once
        return 0

    def expire(self, now):
        """Set the interrupt, as the clock calls."""
        self.is_set, self.pending = False, True
        self.output.set(self.enabled)

    def save_state(self):
        """Return the registers, the date at the clock's zero and the timer."""
        return {
            "offset": self.offset,
            "time_high": self.time_high,
            "alarm_low": self.alarm_low,
            "alarm_high": self.alarm_high,
            "enabled": bool(self.enabled),
            "pending": bool(self.pending),
            "is_set": bool(self.is_set),
            # Not what the registers say: ALARM_HIGH may have been written since.
            "due": self.timer.when if self.is_set else 0,
        }

    def load_state(self, state):
        """Load a state; `StateError` if it is not one. The interrupt line follows."""
        checked = state_of(self, state, self.save_state())
        self.offset = checked["offset"]
        self.time_high = checked["time_high"]
        self.alarm_low, self.alarm_high = checked["alarm_low"], checked["alarm_high"]
        self.enabled, self.pending, self.is_set = checked["enabled"], checked["pending"], checked["is_set"]
        if self.is_set:
            self.timer.set(checked["due"])
        else:
            self.timer.cancel()
        self.output.set(self.enabled and self.pending)


cdef enum:
    POWER_OFF = 0x5555
    RESET = 0x7777


cdef class PowerSwitch(NativeDevice):
    """The register of SiFive's test finisher that ends the machine; a "syscon" to device trees.

    Parameters
    ----------
    stop : callable
        Called with "power off" or "reset" when the guest stores 0x5555 or 0x7777.
    """

    version = 1

    cdef object stop

    def __cinit__(self, *, stop):
        self.stop = stop

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        cdef uint32_t value = 0
        memcpy(&value, data, min(size, 4))
        if offset == 0 and (value == POWER_OFF or value == RESET):
            with gil:
                self.stop("power off" if value == POWER_OFF else "reset")
        return 0

    def save_state(self):
        """Return an empty state."""
        return {}

    def load_state(self, state):
        """Load a state; `StateError` if it is not one."""
        state_of(self, state, {})
