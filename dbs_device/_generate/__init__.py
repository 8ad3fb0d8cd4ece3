"""Modules of register banks, generated from descriptions of hardware: a reader by format, one model, one printer."""
