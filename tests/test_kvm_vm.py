"""`Vm`: memory slots, doorbells, coalesced writes and the interrupt controllers in the kernel."""

import gc
import select

import pytest
from kvm_guest import RAM_SIZE, Machine, Running, needs_kvm, wait_for

from dbs_device import DeviceIo, GuestMemoryError, IoManager, NoDeviceError, Resource
from dbs_device.interrupts import IrqLine
from dbs_device.memory import Ram, Rom, RomWriteError

kvm = pytest.importorskip("dbs_device.kvm", reason="KVM is Linux's", exc_type=ImportError)
KICKED, Exit, Vm = kvm.KICKED, kvm.Exit, kvm.Vm

pytestmark = needs_kvm

PAGE = 0x1000
BASE = 0x20000
DS_20000 = "bb 00 20  8e db  ; mov bx, 0x2000; mov ds, bx\n"
DS_30000 = "bb 00 30  8e db\n"
READ_IT = "66 a1 00 00  f4  ; mov eax, [0]; hlt"
WRITE_IT = "66 a3 00 00  f4  ; mov [0], eax; hlt"


def memory_at(base, size=PAGE):
    return Resource.MemAddressRange(base, size)


class Registers(DeviceIo):
    def __init__(self):
        self.reads = []
        self.writes = []

    def load(self, base, offset, size):
        self.reads.append(offset)
        return 0x89

    def store(self, base, offset, size, value):
        self.writes.append((offset, value))

    pio_in, pio_out = load, store


class TestSlots:
    def test_ram_that_is_plugged_is_the_guests_at_once(self):
        with Machine(DS_20000 + "66 a1 00 00  66 40  66 a3 04 00  f4") as machine:
            ram = machine.plug(Ram(PAGE), memory_at(BASE))
            ram.view[:4] = (41).to_bytes(4, "little")
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            assert ram.view[4] == 42
            assert processor.vcpu.counters.exits == 1

    def test_ram_that_is_unplugged_exits(self):
        with Machine(DS_20000 + READ_IT) as machine:
            machine.plug(Ram(PAGE), memory_at(BASE))
            machine.manager.unregister_device_io([memory_at(BASE)])
            with pytest.raises(NoDeviceError):
                machine.processor().run()

    def test_ram_that_moves_keeps_its_contents(self):
        with Machine(DS_30000 + READ_IT) as machine:
            ram = machine.plug(Ram(2 * PAGE), memory_at(BASE, 2 * PAGE))
            ram.view[:4] = b"moved"[:4]
            with machine.manager.begin_tx() as transaction:
                transaction.unregister_device_io([memory_at(BASE, 2 * PAGE)])
                transaction.register_device_io(ram, [memory_at(0x30000, 2 * PAGE)])
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            assert processor.registers["rax"] == int.from_bytes(b"move", "little")
            assert processor.vcpu.counters.exits == 1

    def test_only_whole_pages_are_mapped(self):
        with Machine(DS_20000 + "a0 ff 0f  8a 26 00 10  f4  ; mov al, [0xfff]; mov ah, [0x1000]") as machine:
            ram = machine.plug(Ram(bytearray(0x1800)), memory_at(BASE, 0x1001))
            ram.view[0xFFF:0x1001] = b"\x11\x22"
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            assert processor.registers["rax"] & 0xFFFF == 0x2211
            assert processor.vcpu.counters.mmio >= 1

    def test_a_write_to_rom_reaches_on_write_and_a_read_does_not_exit(self):
        written = []
        rom = Rom((0xCAFE).to_bytes(4, "little").ljust(PAGE, b"\0"), on_write=lambda *write: written.append(write))
        with Machine(DS_20000 + "66 a1 00 00  66 a3 08 00  66 a1 00 00 f4") as machine:
            machine.plug(rom, memory_at(BASE))
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            assert written == [(8, (0xCAFE).to_bytes(4, "little"))]
            assert (processor.registers["rax"], processor.vcpu.counters.exits) == (0xCAFE, 2)

    def test_a_rom_that_refuses_writes(self):
        with Machine(DS_20000 + WRITE_IT) as machine:
            machine.plug(Rom(bytes(PAGE), on_write="raise"), memory_at(BASE))
            processor = machine.processor()
            with pytest.raises(RomWriteError):
                processor.run()
            assert processor.run() is Exit.HLT

    def test_memory_of_the_users_own(self):
        memory = Ram(PAGE)
        memory.view[:4] = b"mine"
        with Machine(DS_20000 + READ_IT) as machine:
            machine.vm.map(BASE, memory)
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            assert processor.registers["rax"] == int.from_bytes(b"mine", "little")
            machine.vm.unmap(BASE)
            processor.set(rip=0x1000)
            with pytest.raises(NoDeviceError):
                processor.run()
            with pytest.raises(ValueError, match="no memory has been mapped at 0x20000"):
                machine.vm.unmap(BASE)

    def test_flash_switches_between_its_array_and_its_registers(self):
        class Flash(Registers):
            """Reads as its array, out of a read-only slot, until a command other than 0xFF."""

            def store(self, base, offset, size, value):
                super().store(base, offset, size, value)
                if value == 0xFF:
                    machine.vm.map(BASE, array, read_only=True)
                else:
                    machine.vm.unmap(BASE)

        code = (
            DS_20000
            + """
            8a 0e 05 00                            ; mov cl, [5]    the array
            c6 06 00 00 90  8a 2e 05 00            ; mov byte [0], 0x90;  mov ch, [5]    a register
            c6 06 00 00 ff  8a 16 05 00  f4        ; mov byte [0], 0xff;  mov dl, [5]    the array again
        """
        )
        array = Ram(PAGE)
        array.view[5] = 0x55
        with Machine(code) as machine:
            flash = machine.plug(Flash(), Resource.MmioAddressRange(BASE, PAGE))
            machine.vm.map(BASE, array, read_only=True)
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            assert (processor.registers["rcx"], processor.registers["rdx"] & 0xFF) == (0x8955, 0x55)
            assert (flash.reads, flash.writes) == ([5], [(0, 0x90), (0, 0xFF)])

    def test_a_range_inside_a_writable_slot_is_refused(self):
        device = Registers()
        with Machine() as machine:
            machine.plug(device, Resource.MmioAddressRange(BASE + 8, 8))
            with pytest.raises(GuestMemoryError, match=r"MMIO range 0x20008\.\.0x2000f of .*0x20000\.\.0x20fff"):
                machine.vm.map(BASE, Ram(PAGE))
            machine.vm.map(BASE + PAGE, Ram(PAGE))
            with pytest.raises(GuestMemoryError) as caught:
                machine.plug(device, Resource.MmioAddressRange(BASE + PAGE, 8))
            error = caught.value
            assert (error.base, error.last, error.device) == (BASE + PAGE, BASE + PAGE + 7, device)
            assert (error.page, error.page_last) == (BASE + PAGE, BASE + 2 * PAGE - 1)
            assert BASE + PAGE in [each.base for each in machine.manager.mapped_ranges()]  # the change stands

    def test_memory_that_does_not_fit(self):
        with Machine() as machine:
            for base, memory in (
                (BASE + 1, Ram(PAGE)),
                (BASE, Ram(PAGE + 1)),
                (BASE, Ram(memoryview(Ram(2 * PAGE))[1:])),
            ):
                with pytest.raises(ValueError, match="memory is mapped by pages of 0x1000 bytes"):
                    machine.vm.map(base, memory)
            with pytest.raises(ValueError, match=r"0xf000\.\.0xffff overlaps memory that is mapped at 0x0\.\.0xffff"):
                machine.vm.map(RAM_SIZE - PAGE, Ram(PAGE))
            machine.vm.map(RAM_SIZE, Ram(PAGE))

    def test_a_slot_that_the_kernel_refuses(self):
        with Machine() as machine:
            with pytest.raises(FileExistsError):
                Vm(machine.fd, machine.manager, first_slot=8)  # its RAM overlaps that of the first
            with pytest.raises(OSError, match="Invalid argument"):
                machine.plug(Ram(PAGE), memory_at(1 << 62))
            machine.manager.unregister_device_io([memory_at(1 << 62)])
            machine.plug(Ram(PAGE), memory_at(BASE))

    def test_closing_removes_the_slots(self):
        with Machine(READ_IT) as machine:
            machine.vm.close()
            machine.vm.close()
            machine.plug(Ram(PAGE), memory_at(BASE))
            with pytest.raises(ValueError, match="the Vm is closed"):
                machine.vm.map(BASE, Ram(PAGE))
            with Vm(machine.fd, machine.manager) as again:
                assert "2 memory slots" in repr(again)
                assert machine.processor().run() is Exit.HLT

    def test_the_memory_of_a_guest_outlives_all_but_the_manager(self):
        with Machine(DS_20000 + READ_IT) as machine:
            machine.vm = None
            machine.plug(Ram(PAGE), memory_at(BASE)).view[:4] = b"here"
            gc.collect()
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            assert processor.registers["rax"] == int.from_bytes(b"here", "little")
            machine.vm = Vm(machine.fd, IoManager())  # something to close

    def test_a_manager_is_needed(self):
        with Machine() as machine, pytest.raises(TypeError, match="Vm takes an IoManager, not NoneType"):
            Vm(machine.fd, None)


RING_1000 = "b9 e8 03  66 a3 10 00  e2 fa  f4  ; cx = 1000; mov [0x10], eax; loop; hlt"
WINDOW = Resource.MmioAddressRange(BASE, PAGE)
MOVED = Resource.MmioAddressRange(0x30000, PAGE)


class TestDoorbells:
    def test_writes_ring_and_do_not_exit(self):
        with Machine(DS_20000 + RING_1000) as machine:
            device = machine.plug(Registers(), WINDOW)
            with machine.vm.doorbell(BASE + 0x10, 4) as doorbell:
                processor = machine.processor()
                assert doorbell.read() == 0
                assert processor.run() is Exit.HLT
                assert select.select([doorbell], [], [], 0)[0] == [doorbell]
                assert (doorbell.read(), doorbell.read()) == (1000, 0)
                assert (device.writes, processor.vcpu.counters.exits) == ([], 1)

    def test_a_doorbell_that_is_closed_does_not_ring(self):
        with Machine(DS_20000 + "66 a3 10 00 f4") as machine:
            device = machine.plug(Registers(), WINDOW)
            doorbell = machine.vm.doorbell(BASE + 0x10, 4)
            doorbell.close()
            doorbell.close()
            assert machine.processor().run() is Exit.HLT
            assert (device.writes, doorbell.fileno()) == ([(0x10, 0)], -1)

    def test_one_value_rings_and_others_reach_the_device(self):
        code = DS_20000 + "b0 05 a2 10 00  fe c0 a2 10 00  a3 10 00 f4  ; 5 and 6 of one byte, 6 of two"
        with Machine(code) as machine:
            device = machine.plug(Registers(), WINDOW)
            doorbell = machine.vm.doorbell(BASE + 0x10, 1, 5)
            assert machine.processor().run() is Exit.HLT
            assert (doorbell.read(), device.writes) == (1, [(0x10, 6), (0x10, 6)])

    def test_ports(self):
        with Machine("e6 12  e7 12  f4") as machine:
            device = machine.plug(Registers(), Resource.PioAddressRange(0x10, 8))
            doorbell = machine.vm.doorbell(0x12, 1, space="PIO")
            assert machine.processor().run() is Exit.HLT
            assert (doorbell.read(), device.writes) == (1, [(2, 0)])

    def test_it_follows_the_range(self):
        with Machine(DS_30000 + RING_1000) as machine:
            device = machine.plug(Registers(), WINDOW)
            doorbell = machine.vm.doorbell(BASE + 0x10, 4)
            with machine.manager.begin_tx() as transaction:
                transaction.unregister_device_io([WINDOW])
                transaction.register_device_io(device, [MOVED])
            assert doorbell.address == 0x30010
            assert machine.processor().run() is Exit.HLT
            assert doorbell.read() == 1000
            machine.manager.unregister_device_io([MOVED])
            assert doorbell.address is None
            machine.plug(device, WINDOW)
            assert doorbell.address == BASE + 0x10

    def test_two_devices_change_places(self):
        with Machine() as machine:
            first, second = machine.plug(Registers(), WINDOW), machine.plug(Registers(), MOVED)
            doorbells = machine.vm.doorbell(BASE, 4), machine.vm.doorbell(0x30000, 4)
            with machine.manager.begin_tx() as transaction:
                transaction.unregister_device_io([WINDOW, MOVED])
                transaction.register_device_io(first, [MOVED])
                transaction.register_device_io(second, [WINDOW])
            assert [each.address for each in doorbells] == [0x30000, BASE]

    def test_what_cannot_ring(self):
        with Machine() as machine:
            machine.plug(Registers(), WINDOW)
            with pytest.raises(NoDeviceError, match=r"no device owns MMIO address 0x30000 \(4 bytes\)"):
                machine.vm.doorbell(0x30000, 4)
            with pytest.raises(NoDeviceError, match="runs past the end"):
                machine.vm.doorbell(BASE + PAGE - 2, 4)
            with pytest.raises(ValueError, match="1, 2, 4 or 8 bytes, not 3"):
                machine.vm.doorbell(BASE, 3)
            with pytest.raises(ValueError, match="value 0x100 does not fit 1 byte"):
                machine.vm.doorbell(BASE, 1, 0x100)
            machine.vm.doorbell(BASE, 4)
            with pytest.raises(OSError, match="File exists"):
                machine.vm.doorbell(BASE, 4)


class TestCoalescedWrites:
    def test_they_come_before_the_exit_in_order(self):
        class Console(DeviceIo):
            def pio_out(self, base, offset, size, value):
                seen.append(("port", value))

        class Screen(Registers):
            def store(self, base, offset, size, value):
                seen.append(("screen", value))

        seen = []
        code = (
            DS_20000
            + """
            b9 f4 01                 ; mov cx, 500: more than the ring holds
            89 0e 10 00  e2 fa       ; next: mov [0x10], cx; loop next
            b0 07 e6 10 f4           ; mov al, 7; out 0x10, al; hlt
        """
        )
        with Machine(code) as machine:
            machine.plug(Screen(), WINDOW)
            machine.plug(Console(), Resource.PioAddressRange(0x10, 1))
            with machine.vm.coalesce(BASE, PAGE):
                processor = machine.processor(coalesced_ring=machine.coalesced_ring)
                assert processor.run() is Exit.HLT
            assert seen == [*(("screen", value) for value in range(500, 0, -1)), ("port", 7)]
            counters = processor.vcpu.counters
            assert counters.exits < 20
            assert (counters.coalesced + counters.exits, counters.mmio) == (502, 500)

    def test_a_kick_brings_them(self):
        with Machine(DS_20000 + "a3 10 00  eb fe") as machine:
            device = machine.plug(Registers(), WINDOW)
            machine.vm.coalesce(BASE, PAGE)
            processor = machine.processor(coalesced_ring=machine.coalesced_ring)
            thread = Running(processor.vcpu)
            while processor.vcpu.counters.coalesced == 0:  # it may be kicked before the write
                processor.vcpu.kick()
                assert thread.finish() is KICKED
                thread = Running(processor.vcpu)
            processor.vcpu.kick()
            assert thread.finish() is KICKED
            assert device.writes == [(0x10, 0)]

    def test_an_exception_loses_neither_the_others_nor_the_exit(self):
        class Screen(Registers):
            def store(self, base, offset, size, value):
                super().store(base, offset, size, value)
                if value == 2:
                    raise LookupError("burnt in")

        code = DS_20000 + "b9 03 00  89 0e 10 00  e2 fa  e4 10  f4"
        with Machine(code) as machine:
            screen = machine.plug(Screen(), WINDOW)
            ports = machine.plug(Registers(), Resource.PioAddressRange(0x10, 1))
            machine.vm.coalesce(BASE, PAGE)
            processor = machine.processor(coalesced_ring=machine.coalesced_ring)
            with pytest.raises(LookupError, match="burnt in"):
                processor.run()
            assert ports.reads == []
            assert processor.run() is Exit.HLT
            assert [value for _, value in screen.writes] == [3, 2, 1]
            assert (ports.reads, processor.registers["rax"]) == ([0], 0x89)

    def test_it_follows_the_range(self):
        with Machine() as machine:
            device = machine.plug(Registers(), WINDOW)
            zone = machine.vm.coalesce(BASE + 0x100, 0x100)
            machine.manager.unregister_device_io([WINDOW])
            assert zone.address is None
            machine.plug(device, MOVED)
            assert zone.address == 0x30100
            with pytest.raises(ValueError, match="a zone has 1 byte or more, not 0"):
                machine.vm.coalesce(0x30000, 0)


INIT_PIC = """
    b0 11 e6 20  b0 20 e6 21  b0 04 e6 21  b0 01 e6 21  b0 00 e6 21  ; vectors 0x20.., nothing masked
"""
IRQ = 5


class TestControllersInTheKernel:
    @pytest.mark.parametrize("kind", ["irq_line", "irqfd", "irqfd behind a line"])
    def test_a_line_reaches_the_handler(self, kind):
        class Acknowledged(DeviceIo):
            count = 0

            def pio_out(self, base, offset, size, value):
                self.count += 1

        with Machine(INIT_PIC + "e6 80  fb f4 eb fd  ; out 0x80, al; sti; hlt; jmp $ - 1", irqchip=True) as machine:
            machine.load(4 * (0x20 + IRQ), "00 20 00 00")
            machine.load(0x2000, "b0 20 e6 20  e6 80 cf  ; end of interrupt; out 0x80, al; iret")
            device = machine.plug(Acknowledged(), Resource.PioAddressRange(0x80, 1))
            line = machine.vm.irq_line(IRQ) if kind == "irq_line" else machine.vm.irqfd(IRQ)
            if kind == "irqfd behind a line":
                line = IrqLine(line)
            processor = machine.processor()
            thread = Running(processor.vcpu)
            wait_for(lambda: device.count == 1)
            for number in range(2, 50):
                line(True)
                line(False)
                wait_for(lambda number=number: device.count == number)
            processor.vcpu.kick()
            assert thread.finish() is KICKED

    def test_an_irqfd_that_is_closed(self):
        with Machine(irqchip=True) as machine:
            with machine.vm.irqfd(IRQ) as event:
                assert event.fileno() >= 0
            event.close()
            assert event.fileno() == -1
            with pytest.raises(ValueError, match="negative"):
                event(True)

    def test_without_controllers(self):
        with Machine() as machine:
            with pytest.raises(OSError):  # noqa: PT011  which one differs between kernels
                machine.vm.irqfd(IRQ)
            with pytest.raises(OSError):  # noqa: PT011
                machine.vm.irq_line(IRQ).set(True)


def test_the_file_of_a_vm_may_be_an_object():
    class File:
        def __init__(self, fd):
            self.fd = fd

        def fileno(self):
            return self.fd

    with Machine() as machine, Vm(File(machine.fd), IoManager()) as vm:
        assert repr(vm).startswith("<Vm of <IoManager: 0 MMIO ranges, 0 PIO ranges>: 0 memory slots")
