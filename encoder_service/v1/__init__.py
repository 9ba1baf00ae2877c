"""Generated from `protos/` by `make stubs`; not edited by hand."""
