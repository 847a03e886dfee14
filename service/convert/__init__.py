"""Between the contract's messages and the service's own values; beside the edge the only user of protobuf.

Every limit of the contract is checked here, once, on the way in: each function of `fields` and `incoming` returns a
value or raises InvalidRequest that names the fields and the remedy. `outgoing` makes the responses.
"""
