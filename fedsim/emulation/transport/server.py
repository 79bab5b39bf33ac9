"""Throwaway."""

from __future__ import annotations
import queue, threading, secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any
import grpc
from fedsim.emulation.transport.seam import *
from fedsim.emulation.transport.seam import Node, Door, Refused, Pace, Traffic, Shaping
from fedsim.emulation.shaper import Shaper
from fedsim.emulation.ingress import Ingress
from fedsim.emulation.line import frame_size
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.frames import Assembly, split

OPTS = [
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.so_reuseport", 0),
    ("grpc.enable_http_proxy", 0),
]


class Peer:
    def __init__(s, k, node, pace, up):
        s.k = k
        s.node = node
        s.pace = pace
        s.control = queue.SimpleQueue()
        s.data = queue.Queue(4)
        s.count = 0
        s.flying = {}
        s.shaper = None
        s.alive = True
        s.lock = threading.Lock()
        s.assembly = Assembly(lambda h: node.begin(k, h))
        s.traffic = None
        s.up = up
        s.size = pace.frame
        s.conn = None
        s.shaping = None
        s.ingress = None

    def shape(s, shaping, ingress, announce):
        c = s.conn = shaping.connection(s.k)
        s.ingress = ingress
        s.shaping = shaping
        s.size = frame_size(c.own_rate(0), shaping.dilation)
        s.shaper = Shaper(
            c,
            shaping.clock,
            s.data.put,
            announce=announce if c.shared else None,
            began=lambda n, m: s.node.started(s.k, s.flying[n], m),
            ended=s.ended,
        )

    def ended(s, n, a, b):
        if s.ingress is not None and s.conn.shared:
            s.ingress.finish(SERVER, s.k, n)

    def send(s, number, header, body, nbytes, queued):
        with s.lock:
            if not s.alive:
                return False
            s.count += 1
            n = s.count
            s.flying[n] = number
            frames = list(split(n, header, body, s.size))
            s.traffic.messages += 1
            s.traffic.frames += len(frames)
            s.traffic.nbytes += sum(map(len, frames))
            if s.shaper is None:
                for f in frames:
                    s.data.put(f)
            else:
                s.shaper.open(n, nbytes, queued)
                bodyb = sum(len(b) for b in body)
                for i, f in enumerate(frames):
                    s.shaper.put(f, nbytes - bodyb if i == 0 else len(f) - 17, last=i == len(frames) - 1)
        return True

    def take(s, frame):
        n = s.assembly.position.message
        room = s.assembly.add(frame)
        if room is not None:
            arrived = s.node.received(s.k, room)
            ack = pb.Acknowledgement(message=n, arrived=arrived)
            s.control.put(pb.Up(acknowledgement=ack) if s.up else pb.Down(acknowledgement=ack))
            if s.ingress is not None and not s.up:
                s.ingress.finish(s.k, SERVER, n)

    def acked(s, a):
        s.node.landed(s.k, s.flying.pop(a.message), a.arrived)


class Server:
    def __init__(self, address, node, door, *, pace=Pace(), credentials=None):
        self.node = node
        self.door = door
        self.pace = pace
        self.peers = {}
        self.sessions = {}
        self.traffic = Traffic()
        self.shaping = None
        self.ingress = None
        self.pool = ThreadPoolExecutor(200)
        self.server = grpc.server(self.pool, options=OPTS)
        h = {
            "Join": grpc.unary_unary_rpc_method_handler(
                self.join, pb.JoinRequest.FromString, pb.JoinResponse.SerializeToString
            ),
            "Control": grpc.stream_stream_rpc_method_handler(self.control, pb.Up.FromString, pb.Down.SerializeToString),
            "Data": grpc.stream_stream_rpc_method_handler(self.data),
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("fedsim.wire.Emulation", h),))
        self.port = self.server.add_insecure_port(address)
        self.server.start()

    def join(self, req, ctx):
        try:
            r = self.door.admit(req, None)
        except Refused as e:
            ctx.abort(getattr(grpc.StatusCode, e.code), e.reason)
        p = Peer(r.node, self.node, self.pace, False)
        p.traffic = self.traffic
        r.session = secrets.token_bytes(16)
        self.sessions[r.session] = p
        self.peers[r.node] = p
        if self.shaping:
            self._shape(p)
        self.node.connected(r.node)
        return r

    def _shape(self, p):
        p.shape(self.shaping, self.ingress, lambda n, ready: self.ingress.announce(SERVER, p.k, n, ready))

    def _peer(self, ctx):
        return self.sessions[dict(ctx.invocation_metadata())["session-bin"]]

    def control(self, it, ctx):
        p = self._peer(ctx)

        def read():
            try:
                for up in it:
                    w = up.WhichOneof("what")
                    if w == "acknowledgement":
                        p.acked(up.acknowledgement)
                    elif w == "announcement":
                        self.ingress.announce(p.k, SERVER, up.announcement.message, up.announcement.ready)
                    elif w == "leave":
                        self._gone(p, up.leave.reason)
                    elif w != "heartbeat":
                        self.node.told(p.k, up)
            except Exception as e:
                self._gone(p, str(e))
            else:
                self._gone(p, "closed")

        threading.Thread(target=read, daemon=True).start()
        while True:
            d = p.control.get()
            if d is None:
                return
            yield d

    def data(self, it, ctx):
        p = self._peer(ctx)

        def read():
            try:
                for f in it:
                    p.take(f)
            except grpc.RpcError:
                pass
            except Exception as e:
                import traceback

                traceback.print_exc()
                self._gone(p, str(e))

        threading.Thread(target=read, daemon=True).start()
        while True:
            d = p.data.get()
            if d is None:
                return
            yield d

    def _gone(self, p, reason):
        with p.lock if False else threading.Lock():
            if not p.alive:
                return
            p.alive = False
        if self.peers.get(p.k) is p:
            del self.peers[p.k]
        if p.shaper:
            p.shaper.reset()
        if self.ingress:
            self.ingress.leave(p.k)
        p.control.put(None)
        self.node.disconnected(p.k, reason)

    def shape(self, shaping):
        self.shaping = shaping

        def give(g):
            p = self.peers.get(g.device)
            if p is None:
                return
            if g.up:
                p.control.put(pb.Down(grant=pb.Grant(message=g.number, rate=g.rate, since=g.since)))
            else:
                p.shaper.grant(g)

        self.ingress = Ingress(shaping.sharing, shaping.clock, give)
        for p in self.peers.values():
            self._shape(p)

    def send(self, peer, number, header, body, nbytes, queued):
        p = self.peers.get(peer)
        return p is not None and p.send(number, header, body, nbytes, queued)

    def tell(self, peer, notice):
        p = self.peers.get(peer)
        if p:
            p.control.put(notice)

    def dismiss(self, peer, reason):
        p = self.peers.get(peer)
        if p:
            p.control.put(pb.Down(refusal=pb.Refusal(reason=reason)))
            self._gone(p, reason)

    def flush(self, t):
        import time

        time.sleep(0.1)
        return True

    def close(self):
        for p in list(self.peers.values()):
            p.alive = False
            p.control.put(None)
            if p.shaper:
                p.shaper.reset()
                p.shaper.close()
        if self.ingress:
            self.ingress.close()
        self.server.stop(0.2).wait(2)
