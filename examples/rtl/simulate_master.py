"""The tests of cocotb with the Verilog master, whose accesses reach devices in Python."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteSlave, AxiResp

from dbs_device import DeviceIo, IoManager, Resource
from dbs_device.cocotb import DeviceRegion

from .devices import Uart
from .reset import reset

MESSAGE = b"every byte once"


async def serve_master(dut: Any, region: DeviceRegion) -> None:
    """Run the Verilog master with a region as its target, until it has finished."""
    AxiLiteSlave(AxiLiteBus.from_prefix(dut, "m_axil"), dut.clk, dut.rst, target=region)
    await reset(dut)
    await RisingEdge(dut.done)


@cocotb.test()
async def master_reaches_a_device(dut: Any) -> None:
    uart = Uart(MESSAGE)
    await serve_master(dut, DeviceRegion(uart))
    assert not uart.received
    assert uart.sent == MESSAGE
    cocotb.log.info("the master has moved %d bytes, each once", len(uart.sent))


@cocotb.test()
async def master_reaches_a_device_on_the_bus(dut: Any) -> None:
    uart = Uart(MESSAGE)
    manager = IoManager()
    manager.register_device_io(uart, [Resource.MmioAddressRange(0x4000_4400, uart.size)], name="uart")
    await serve_master(dut, DeviceRegion(manager, base=0x4000_4400))
    assert uart.sent == MESSAGE


@cocotb.test()
async def bus_answers_unowned_addresses_with_an_error(dut: Any) -> None:
    cocotb.start_soon(serve_master(dut, DeviceRegion(IoManager())))
    await RisingEdge(dut.m_axil_rvalid)
    await ReadOnly()
    assert dut.m_axil_rresp.value == AxiResp.SLVERR


class Defective(DeviceIo):
    def load(self, base: int, offset: int, size: int) -> int:
        raise ArithmeticError("a defect of the model")


@cocotb.test(expect_error=ArithmeticError)
async def defect_of_a_model_fails_the_test(dut: Any) -> None:
    await serve_master(dut, DeviceRegion(Defective(), 0x10))
