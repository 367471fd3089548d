"""Fuzzing the service: changed requests over HTTP and gRPC; none may be answered by an internal error."""
