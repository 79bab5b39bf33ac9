"""Messages on the wire: any message class of a scheduler as a short header and raw tensors, and back, in frames.

    Registry            numbers the message classes and takes messages apart, by reflection
    Encoder, Decoder    (`codec`) one pair a connection and direction: message <-> header, definitions, body
    split, Assembly     (`frames`) header and body <-> frames
    protocol_pb2        generated from protos/fedsim/wire/protocol.proto, as is protocol_pb2_grpc, the only part that
                        knows gRPC

Knows neither time, nor transports, nor how devices are reached. What a peer sends is trusted in nothing: whatever is
wrong with it is a `WireError`, before memory is taken for it.
"""
