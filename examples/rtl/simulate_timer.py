"""The tests of cocotb with the Verilog timer, which is compared with its model."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from dbs_device.cocotb import Difference, compare

from .devices import Timer
from .reset import reset


async def differences_of(dut: Any, faulty: bool, **options: Any) -> list[Difference]:
    dut.faulty.value = faulty
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    await reset(dut)
    return await compare(master, Timer(), **options)


@cocotb.test()
async def timer_agrees_with_its_model(dut: Any) -> None:
    assert await differences_of(dut, faulty=False) == []


@cocotb.test()
async def planted_error_is_named(dut: Any) -> None:
    differences = await differences_of(dut, faulty=True)
    for each in differences:
        cocotb.log.info("%s", each)
    assert {each.register for each in differences} == {"STATUS"}
    assert {field.name for each in differences for field in each.fields} == {"OVERRUN"}


@cocotb.test()
async def planted_error_may_be_ignored(dut: Any) -> None:
    assert await differences_of(dut, faulty=True, ignore={"STATUS.OVERRUN"}) == []
