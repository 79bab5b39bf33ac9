"""How nodes reach one another: one gRPC connection a device, that survives broken streams.

`server.Server` is the server's end of all connections, `client.Client` a device's end of its one; what both have in
common is a `session`. What a node is told, and what it can ask for, is in `seam`. Knows neither scripts nor scenarios,
and of messages no more than header and body.
"""
