"""A device of ours beside Qiling's own peripherals, on one of Qiling's Cortex-M boards."""
