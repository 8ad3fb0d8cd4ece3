"""An RV32IMA core on the bus of dbs-device: `core`, and `devices` in Cython."""
