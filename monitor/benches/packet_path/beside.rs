//! What portwatch costs from socket to socket, system calls included: two veth pairs side by side, an
//! empty TCX program at one and portwatch at the other.
//!
//! A datagram's whole way takes a hundred times what portwatch adds, and drifts by more from second to
//! second. So both pairs carry bursts in turn, milliseconds apart, and then change roles, since no two
//! devices are alike.

use std::net::UdpSocket;

use anyhow::{Context as _, Result};

use crate::Effort;
use crate::cable::{Cable, DEVICES};
use crate::clock::Stopwatch;
use crate::frames::{UNWATCHED, WATCHED};
use crate::observer::{attach_empty, empty_program, watch};
use crate::process::{one_apart, stay_on};
use crate::programs::nanoseconds_each;
use crate::report::Row;
use crate::spread::Spread;

/// The most that portwatch may cost off the port, in per cent of the whole way.
const OFF_BAR: f64 = 1.0;

/// Pairs of bursts before the roles change, and packets of each.
const BURSTS: usize = 60;
const SENT: u32 = 512;
/// Datagrams that are sent before they are read: they fit into the socket's buffer.
const IN_FLIGHT: u32 = 32;

/// Per cent that the whole way is longer with what is compared.
#[derive(Debug, Default)]
struct Longer {
    off: Vec<f64>,
    on: Vec<f64>,
    /// With another empty program.
    empty: Vec<f64>,
}

/// Sender and receiver of both ports at one device.
struct Sockets {
    off: (UdpSocket, UdpSocket),
    on: (UdpSocket, UdpSocket),
}

/// Bursts through both, with portwatch at the one and then at the other.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let cable = Cable::lay()?;
    let (cpu, others) = one_apart()?;
    let mut object = empty_program()?;
    let [first, second] = DEVICES;
    let sockets = [Sockets::at(&cable, 0)?, Sockets::at(&cable, 1)?];
    let [one, other] = &sockets;
    let mut whole = Vec::new();
    let mut longer = Longer::default();
    for _ in 0..effort.turns.div_ceil(2) {
        let mut sum = [0.0; 3];
        for (name, ours, empty_name, empty) in
            [(first, one, second, other), (second, other, first, one)]
        {
            stay_on(&others)?;
            let _links = attach_empty(&mut object, empty_name)?;
            let watching = watch(&["--interface", name])?;
            stay_on(&[cpu])?;
            let off = compare(&ours.off, &empty.off, &mut whole)?;
            let on = compare(&ours.on, &empty.on, &mut whole)?;
            watching.stop()?;
            let _links = attach_empty(&mut object, name)?;
            let same = compare(&ours.off, &empty.off, &mut whole)?;
            for (sum, median) in sum.iter_mut().zip([off, on, same]) {
                *sum += median / 2.0;
            }
        }
        let [off, on, same] = sum;
        longer.off.push(off);
        longer.on.push(on);
        longer.empty.push(same);
    }
    let row = |what: &str, values| {
        let what = format!("sent and received, over an empty TCX program: {what}");
        Row::new(what, "%", Spread::of(values))
    };
    let whole = Row::new("sent and received: an empty TCX program", "ns", Spread::of(whole));
    Ok(vec![
        whole,
        row("an empty TCX program", longer.empty),
        row("portwatch, off the port", longer.off).at_most(OFF_BAR),
        row("portwatch, on the port", longer.on),
    ])
}

impl Sockets {
    fn at(cable: &Cable, device: usize) -> Result<Self> {
        let pair = |port| {
            let reader = (Cable::reader(device), port);
            let receiver = UdpSocket::bind(reader).context("binding a socket")?;
            let sender = cable.at_sending_end(|| {
                let sender =
                    UdpSocket::bind((Cable::sender(device), 0)).context("binding a socket")?;
                sender.connect(reader).context("connecting a socket")?;
                Ok(sender)
            })?;
            Ok::<_, anyhow::Error>((sender, receiver))
        };
        Ok(Self { off: pair(UNWATCHED)?, on: pair(WATCHED)? })
    }
}

/// How much longer the way through `ours` is than through `empty`, in per cent. What the latter takes
/// is added to `whole`, in nanoseconds.
fn compare(
    ours: &(UdpSocket, UdpSocket),
    empty: &(UdpSocket, UdpSocket),
    whole: &mut Vec<f64>,
) -> Result<f64> {
    let mut longer = Vec::new();
    for burst in 0..BURSTS {
        let (with, without) = if burst % 2 == 0 {
            let with = send(ours)?;
            (with, send(empty)?)
        } else {
            let without = send(empty)?;
            (send(ours)?, without)
        };
        whole.push(without);
        longer.push((with / without - 1.0) * 100.0);
    }
    Spread::of(longer).map(|spread| spread.median).context("comparing bursts")
}

/// Nanoseconds for each packet of a burst that is sent and received.
///
/// Some kernels do not count a thread's interrupts as its time, and a datagram crosses the cable in one:
/// hence the time of everybody.
fn send((sender, receiver): &(UdpSocket, UdpSocket)) -> Result<f64> {
    let mut datagram = [0_u8; 64];
    let running = Stopwatch::of_everybody();
    for _ in 0..SENT / IN_FLIGHT {
        for _ in 0..IN_FLIGHT {
            sender.send(&datagram).context("sending a datagram")?;
        }
        for _ in 0..IN_FLIGHT {
            receiver.recv(&mut datagram).context("receiving a datagram")?;
        }
    }
    Ok(nanoseconds_each(running.elapsed(), SENT))
}
