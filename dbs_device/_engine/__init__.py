"""Private: the compiled engine behind `dbs_device._bus`, and helper modules. docs/development.md has a map of it."""
