"""The devices of the PC, one module each, every one named after the chip whose datasheet it follows."""
