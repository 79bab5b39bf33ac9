"""Throwaway."""

from __future__ import annotations
import threading, grpc, queue, time
from fedsim.emulation.transport.seam import Pace, Traffic
from fedsim.emulation.transport.server import Peer, OPTS
from fedsim.emulation.shaping import Grant
from fedsim.errors import UserError, RunError
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb


class Client:
    def __init__(self, address, node, *, pace=Pace(), credentials=None, token=None):
        self.address = address
        self.node = node
        self.pace = pace
        self.traffic = Traffic()
        self.peer = None
        self.ch = None
        self.shaping = None
        self.left = False

    def join(self, req):
        self.ch = grpc.insecure_channel(self.address, options=OPTS)
        self.left = False
        call = self.ch.unary_unary(
            "/fedsim.wire.Emulation/Join", pb.JoinRequest.SerializeToString, pb.JoinResponse.FromString
        )
        try:
            r = call(req, timeout=30, wait_for_ready=True)
        except grpc.RpcError as e:
            raise UserError(e.details())
        self.k = r.node
        p = self.peer = Peer(SERVER, self.node, self.pace, True)
        p.traffic = self.traffic
        meta = (("session-bin", r.session),)
        if self.shaping:
            self._shape(p)

        def it(q):
            while True:
                x = q.get()
                if x is None:
                    return
                yield x

        down = self.ch.stream_stream("/fedsim.wire.Emulation/Control", pb.Up.SerializeToString, pb.Down.FromString)(
            it(p.control), metadata=meta
        )
        data = self.ch.stream_stream("/fedsim.wire.Emulation/Data")(it(p.data), metadata=meta)

        def rc():
            try:
                for d in down:
                    w = d.WhichOneof("what")
                    if w == "acknowledgement":
                        p.acked(d.acknowledgement)
                    elif w == "grant":
                        p.shaper.grant(Grant(self.k, True, d.grant.message, d.grant.rate, d.grant.since))
                    elif w == "refusal":
                        self._gone(p, d.refusal.reason)
                    else:
                        self.node.told(SERVER, d)
            except grpc.RpcError as e:
                self._gone(p, str(e.details()))
            else:
                self._gone(p, "closed")

        def rd():
            try:
                for f in data:
                    p.take(f)
            except grpc.RpcError as e:
                pass
            except Exception as e:
                import traceback

                traceback.print_exc()
                self._gone(p, repr(e))

        threading.Thread(target=rc, daemon=True).start()
        threading.Thread(target=rd, daemon=True).start()
        self.node.connected(SERVER)
        return r

    def _gone(self, p, reason):
        if p.alive and not self.left:
            p.alive = False
            self.node.disconnected(SERVER, reason)

    def _shape(self, p):
        p.shape(
            self.shaping,
            None,
            lambda n, ready: p.control.put(pb.Up(announcement=pb.Announcement(message=n, ready=ready))),
        )

    def shape(self, s):
        self.shaping = s
        self._shape(self.peer)

    def send(self, *a):
        return self.peer.send(*a)

    def tell(self, n):
        if self.peer:
            self.peer.control.put(n)

    def leave(self, reason):
        self.left = True
        self.tell(pb.Up(leave=pb.Leave(reason=reason)))
        time.sleep(0.2)
        self.peer.control.put(None)
        self.peer.data.put(None)
        self.ch.close()

    def flush(self, t):
        time.sleep(0.3)

    def close(self):
        self.left = True
        if self.peer and self.peer.shaper:
            self.peer.shaper.reset()
            self.peer.shaper.close()
        if self.ch:
            self.ch.close()
