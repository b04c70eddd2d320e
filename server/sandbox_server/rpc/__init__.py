"""Translation between the contract and the manager, and nothing else. The only place that knows grpc and the stubs."""
