//! Netlink dumps: one request, an answer of many datagrams, each of many messages.
//!
//! A dump that the kernel marks as inconsistent (`NLM_F_DUMP_INTR`: the table changed under it) is
//! asked for again, a bounded number of times. Only datagrams of the kernel itself count.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::Timeout;

/// What a dump gave.
#[derive(Debug)]
pub(super) struct Dump<T> {
    /// What was kept of it.
    pub(super) items: Vec<T>,
    /// The table changed during each reading: an item may be missing, or there twice.
    pub(super) is_torn: bool,
    /// Why some are missing: they were too many, or could not be decoded.
    pub(super) incomplete: Option<String>,
}

/// A netlink socket of the network namespace in which it was opened, whoever uses it later.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Connection {
    /// Opens a socket of a netlink protocol, see `netlink_sys::protocols`.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // The kernel answers from within `sendto`; this is for the day when it does not.
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES], sequence: 0 })
    }

    /// Asks for a table and keeps what `keep` makes of each message, at most `limit` items.
    ///
    /// An error code the kernel answers with, as `ENOENT` for a protocol whose diag module is not
    /// there, is the error.
    pub(super) fn dump<I: NetlinkSerializable, T>(
        &mut self,
        request: I,
        limit: usize,
        mut keep: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> io::Result<Dump<T>> {
        let mut message =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut sink = Sink { items: Vec::new(), limit, left_out: 0, undecodable: 0 };
        for _ in 0..ATTEMPTS {
            self.send(&mut message)?;
            sink = Sink { items: Vec::new(), limit, left_out: 0, undecodable: 0 };
            if !self.receive(&mut sink, &mut keep)? {
                return Ok(sink.into_dump(false));
            }
        }
        Ok(sink.into_dump(true))
    }

    /// Asks for one thing, and keeps what `keep` makes of the answer. That there is no such thing is the
    /// error `ENOENT`.
    pub(super) fn ask<I: NetlinkSerializable, T>(
        &mut self,
        request: I,
        mut keep: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> io::Result<Option<T>> {
        let mut message =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
        // With ACK there is an end to wait for, whatever the answer is.
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        self.send(&mut message)?;
        let mut sink = Sink { items: Vec::new(), limit: 1, left_out: 0, undecodable: 0 };
        self.receive(&mut sink, &mut keep)?;
        Ok(sink.items.pop())
    }

    /// Asks for something to be done; an error code the kernel answers with is the error.
    pub(super) fn order<I: NetlinkSerializable>(&mut self, order: I) -> io::Result<()> {
        let mut message =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(order));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        self.send(&mut message)?;
        let mut nothing = Sink { items: Vec::<()>::new(), limit: 0, left_out: 0, undecodable: 0 };
        self.receive(&mut nothing, &mut |_| Ok(None)).map(|_interrupted| ())
    }

    fn send<I: NetlinkSerializable>(&mut self, message: &mut NetlinkMessage<I>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(|_length| ())
    }

    /// Receives one dump to its end; true if the kernel says that it is inconsistent.
    fn receive<T>(
        &mut self,
        sink: &mut Sink<T>,
        keep: &mut impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> io::Result<bool> {
        let mut interrupted = false;
        loop {
            let datagram = receive(&self.socket, &mut self.buffer)?;
            for message in Messages::of(datagram) {
                let message = message.map_err(io::Error::other)?;
                // An answer to a request that was given up.
                if message.sequence_number() != self.sequence {
                    continue;
                }
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return result_code(message.payload()).map(|()| interrupted);
                    }
                    kind if kind < FIRST_PROTOCOL_MESSAGE => {}
                    _ => sink.take(keep(message.payload())),
                }
            }
        }
    }
}

/// One datagram of the kernel.
///
/// Datagrams of other processes, which may send to a netlink socket, are left aside.
pub(super) fn receive<'buffer>(
    socket: &Socket,
    buffer: &'buffer mut [u8],
) -> io::Result<&'buffer [u8]> {
    loop {
        // With MSG_TRUNC the length is the datagram's own, also when it did not fit.
        let received = socket.recv_from(&mut &mut *buffer, libc::MSG_TRUNC);
        let (length, sender) = match received {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        if sender.port_number() != 0 {
            continue;
        }
        return buffer.get(..length).ok_or_else(|| {
            io::Error::other(format!("a netlink answer of {length} bytes is too long"))
        });
    }
}

/// The messages in one datagram.
pub(super) struct Messages<'datagram> {
    rest: &'datagram [u8],
}

impl<'datagram> Messages<'datagram> {
    /// Splits a datagram.
    pub(super) fn of(datagram: &'datagram [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'datagram> Iterator for Messages<'datagram> {
    type Item = Result<NetlinkBuffer<&'datagram [u8]>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = NetlinkBuffer::new_checked(self.rest);
        let length = message.as_ref().map_or(usize::MAX, |message| {
            // Messages start at multiples of four (NLMSG_ALIGNTO).
            usize::try_from(message.length()).unwrap_or(usize::MAX).saturating_add(3) & !3
        });
        self.rest = self.rest.get(length..).unwrap_or_default();
        Some(message)
    }
}

/// Items of one dump while it is received.
struct Sink<T> {
    items: Vec<T>,
    limit: usize,
    left_out: usize,
    undecodable: usize,
}

impl<T> Sink<T> {
    fn take(&mut self, kept: Result<Option<T>, DecodeError>) {
        match kept {
            Ok(Some(_)) if self.items.len() >= self.limit => self.left_out += 1,
            Ok(kept) => self.items.extend(kept),
            Err(_) => self.undecodable += 1,
        }
    }

    fn into_dump(self, is_torn: bool) -> Dump<T> {
        let incomplete = match (self.left_out, self.undecodable) {
            (0, 0) => None,
            (0, undecodable) => Some(format!("{undecodable} cannot be decoded")),
            (left_out, _) => Some(format!("{left_out} more than {} are left out", self.limit)),
        };
        Dump { items: self.items, is_torn, incomplete }
    }
}

/// The result in `NLMSG_ERROR` and `NLMSG_DONE`: 0 or a negative errno.
fn result_code(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(code) if code < 0 => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Ok(()),
    }
}

/// How often a dump is asked for that the kernel marks as inconsistent.
const ATTEMPTS: u32 = 4;

/// The kernel fills at most 32 KiB a datagram of a dump (`netlink_recvmsg` in
/// `net/netlink/af_netlink.c`), and only for a reader who had room for that much before.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Message types below are netlink's own (`NLMSG_MIN_TYPE`).
const FIRST_PROTOCOL_MESSAGE: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_split_at_aligned_messages() {
        let mut datagram = message(17, 16);
        datagram.resize(20, 0);
        datagram.extend(message(16, 17));

        let kinds: Vec<_> =
            Messages::of(&datagram).map(|message| message.unwrap().message_type()).collect();

        assert_eq!(kinds, [16, 17]);
    }

    #[test]
    fn every_truncation_of_a_datagram_ends_in_an_error_or_in_nothing() {
        let datagram = message(24, 16);

        for length in 0..datagram.len() {
            let messages: Vec<_> = Messages::of(&datagram[..length]).collect();

            assert_eq!(messages.len(), usize::from(length > 0));
            assert!(messages.iter().all(Result::is_err), "{length} bytes decoded");
        }
    }

    #[test]
    fn the_kernels_error_code_is_the_error() {
        let error = result_code(&(-2i32).to_ne_bytes()).unwrap_err();

        assert_eq!(error.raw_os_error(), Some(2));
        assert!(result_code(&[]).is_ok());
    }

    #[test]
    fn what_exceeds_the_limit_is_counted() {
        let mut sink = Sink { items: Vec::new(), limit: 1, left_out: 0, undecodable: 0 };

        sink.take(Ok(Some(1)));
        sink.take(Ok(None));
        sink.take(Ok(Some(2)));
        let dump = sink.into_dump(false);

        assert_eq!(dump.items, [1]);
        assert_eq!(dump.incomplete.as_deref(), Some("1 more than 1 are left out"));
    }

    fn message(length: u32, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        let mut message = NetlinkBuffer::new(&mut bytes);
        message.set_length(length);
        message.set_message_type(kind);
        bytes
    }
}
