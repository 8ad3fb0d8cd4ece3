"""RTL and the bus in one simulation: a Verilog master accesses a device in Python, and a Verilog timer is compared with
its model."""
