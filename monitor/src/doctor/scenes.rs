//! What is played in the self-test, and who has to be named for it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::cast::{Decoy, within};
use super::judge::{Act, Claim, Deed, Place};
use crate::owner::Side;

/// A decoy listens here before portwatch looks.
const OLDER: u16 = 23_510;
/// Here while it watches.
const SERVER: u16 = 23_511;
/// Here on IPv6.
const IPV6: u16 = 23_512;
/// Here for datagrams.
const DATAGRAMS: u16 = 23_513;
/// Here nobody listens, and somebody answers.
const RAW: u16 = 23_514;

/// The ports of all scenes, below those that the kernel gives to clients. In a namespace of their own
/// nobody else uses them.
pub(super) const PORTS: &str = "23510-23514";

/// How long a scene may take, on a host that has other things to do.
const SCENE: Duration = Duration::from_secs(2);

/// Everybody who plays, called before the first scene: afterwards no program is started.
#[derive(Debug)]
pub(super) struct Cast {
    older: Decoy,
    server: Decoy,
    brief: Decoy,
    caller: Decoy,
    taker: Decoy,
    customer: Decoy,
    sender: Decoy,
    receiver: Decoy,
    server6: Decoy,
    caller6: Decoy,
    responder: Decoy,
    knocker: Decoy,
}

impl Cast {
    /// Starts all of them.
    pub(super) fn call() -> Result<Self> {
        Ok(Self {
            older: Decoy::call()?,
            server: Decoy::call()?,
            brief: Decoy::call()?,
            caller: Decoy::call()?,
            taker: Decoy::call()?,
            customer: Decoy::call()?,
            sender: Decoy::call()?,
            receiver: Decoy::call()?,
            server6: Decoy::call()?,
            caller6: Decoy::call()?,
            responder: Decoy::call()?,
            knocker: Decoy::call()?,
        })
    }

    /// What has to be there before portwatch looks.
    pub(super) fn play_before(&mut self) -> Act {
        let done = self.older.perform(&listen(OLDER), within(SCENE));
        Act {
            name: "older-listener",
            subject: "a listener that is older than portwatch's hooks",
            claim: done.map(|_| listener(OLDER, &self.older)).into(),
        }
    }

    /// Everything else, one after the other.
    pub(super) fn play(&mut self, has_ipv6: bool) -> Vec<Act> {
        let mut acts = vec![self.listener(), self.brief_client(), self.worker(), self.passed()];
        acts.extend(self.datagram());
        acts.push(if has_ipv6 { self.ipv6() } else { ipv6(Claim::NotApplicable) });
        acts.push(self.raw_responder());
        acts
    }

    fn listener(&mut self) -> Act {
        let done = self.server.perform(&listen(SERVER), within(SCENE));
        Act {
            name: "listener",
            subject: "a listener that opens while portwatch watches",
            claim: done.map(|_| listener(SERVER, &self.server)).into(),
        }
    }

    fn brief_client(&mut self) -> Act {
        let deadline = within(SCENE);
        self.server.tell("serve");
        let called = self.brief.perform(&at("call-and-exit", SERVER), deadline);
        let served = self.server.hear(deadline);
        let claim = called.and_then(|from| served.and_then(|_| address(&from)));
        Act {
            name: "brief-client",
            subject: "a client that connects, sends and exits at once",
            claim: claim.map(|from| flow(from, SERVER, Side::Source, self.brief.pid())).into(),
        }
    }

    fn worker(&mut self) -> Act {
        let deadline = within(SCENE);
        self.server.tell("serve-by-worker");
        let called = self.caller.perform(&at("call", SERVER), deadline);
        let worker = self.server.hear(deadline);
        let claim = called.and_then(|from| {
            let pid = worker?.parse().map_err(|_error| "the worker has no pid".to_owned())?;
            Ok(flow(address(&from)?, SERVER, Side::Destination, pid))
        });
        Act {
            name: "worker",
            subject: "a worker that serves a connection its parent accepted",
            claim: claim.into(),
        }
    }

    fn passed(&mut self) -> Act {
        let deadline = within(SCENE);
        let opened = self.taker.perform("open-exchange", deadline);
        self.taker.tell("take");
        self.server.tell("give");
        let called = self.customer.perform(&at("call", SERVER), deadline);
        let (given, taken) = (self.server.hear(deadline), self.taker.hear(deadline));
        let claim = opened.and(given).and(taken).and(called).and_then(|from| address(&from));
        let pid = self.taker.pid();
        Act {
            name: "passed-socket",
            subject: "a process that was handed a connection over a Unix socket",
            claim: claim.map(|from| flow(from, SERVER, Side::Destination, pid)).into(),
        }
    }

    fn datagram(&mut self) -> [Act; 2] {
        let deadline = within(SCENE);
        let bound = self.receiver.perform(&at("bind", DATAGRAMS), deadline);
        self.receiver.tell("receive");
        let sent = self.sender.perform(&at("send-and-exit", DATAGRAMS), deadline);
        let received = self.receiver.hear(deadline);
        let from = bound.and(received).and(sent).and_then(|from| address(&from));
        let claim = |side, decoy: &Decoy| {
            from.clone().map(|from| flow(from, DATAGRAMS, side, decoy.pid())).into()
        };
        [
            Act {
                name: "datagram",
                subject: "one UDP datagram of a process that exits",
                claim: claim(Side::Source, &self.sender),
            },
            Act {
                name: "udp-receiver",
                subject: "a UDP server that only receives",
                claim: claim(Side::Destination, &self.receiver),
            },
        ]
    }

    fn ipv6(&mut self) -> Act {
        let deadline = within(SCENE);
        let address_text = format!("[::1]:{IPV6}");
        let listening = self.server6.perform(&format!("listen {address_text}"), deadline);
        self.server6.tell("serve");
        let called = self.caller6.perform(&format!("call {address_text}"), deadline);
        let served = self.server6.hear(deadline);
        let claim = listening.and(served).and(called).and_then(|from| address(&from));
        ipv6(claim.map(|from| flow(from, IPV6, Side::Source, self.caller6.pid())).into())
    }

    fn raw_responder(&mut self) -> Act {
        let deadline = within(SCENE);
        let opened = self.responder.perform("open-raw", deadline);
        self.responder.tell(&format!("answer-raw {RAW}"));
        let knocked = self.knocker.perform(&at("knock", RAW), deadline);
        let answered = self.responder.hear(deadline);
        let claim = opened.and(knocked).and(answered).and_then(|from| address(&from));
        Act {
            name: "raw-responder",
            subject: "a raw socket that answers a SYN on a port where nobody listens",
            claim: claim.map(|from| answer(from, self.responder.pid())).into(),
        }
    }
}

impl From<Result<Deed, String>> for Claim {
    fn from(done: Result<Deed, String>) -> Self {
        done.map_or_else(Self::NotDone, Self::Done)
    }
}

const fn ipv6(claim: Claim) -> Act {
    Act { name: "ipv6-client", subject: "a client that connects over IPv6", claim }
}

fn listener(port: u16, decoy: &Decoy) -> Deed {
    Deed { place: Place::Listener { port }, pid: decoy.pid() }
}

const fn flow(client: SocketAddr, port: u16, side: Side, pid: u32) -> Deed {
    Deed { place: Place::Flow { client, port, side }, pid }
}

const fn answer(client: SocketAddr, pid: u32) -> Deed {
    Deed { place: Place::Answer { client, port: RAW }, pid }
}

fn listen(port: u16) -> String {
    at("listen", port)
}

fn at(step: &str, port: u16) -> String {
    format!("{step} 127.0.0.1:{port}")
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_error| format!("the decoy names no address: {text}"))
}

/// Until when everything that is played has to be seen.
pub(super) fn patience() -> Instant {
    within(Duration::from_millis(2500))
}
