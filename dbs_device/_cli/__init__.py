"""The commands of ``python -m dbs_device``."""
