"""The compiled engine, and private helpers: everything but the public modules."""
