"""Translates between the contract and the manager. The only package that imports grpc and the stubs."""
