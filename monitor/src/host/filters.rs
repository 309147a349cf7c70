//! The filters on the clsact hooks of an interface, in the order in which the kernel asks them.
//!
//! Read are the few attributes that are used, so that a kind of filter nobody knows here is listed
//! like any other.

use std::io;

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Connection;
use crate::endpoint::Direction;
use crate::escape;

/// A filter of the chain that the kernel starts with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Lower ones are asked first.
    pub priority: u16,
    /// `bpf`, `u32`, `flower`, … Foreign bytes: escape before showing.
    pub kind: String,
    /// The BPF program behind it, if it is one.
    pub program: Option<FilterProgram>,
}

/// The BPF program of a filter.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FilterProgram {
    /// Number of the program; `None` for classic BPF.
    pub id: Option<u32>,
    /// The name it was attached under. Foreign bytes: escape before showing.
    pub name: Option<String>,
}

/// The filters of one direction of an interface of the calling thread's network namespace.
///
/// An interface without a clsact qdisc has none.
pub fn list(ifindex: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let mut request = TcMessage::default();
    request.header.index =
        i32::try_from(ifindex).map_err(|_too_large| io::ErrorKind::InvalidInput)?;
    let minor = match direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    request.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
    let mut connection = Connection::open(NETLINK_ROUTE)?;
    let dump = connection.dump(RouteNetlinkMessage::GetTrafficFilter(request), LIMIT, parse)?;
    let mut filters = dump.items;
    // One of many hundred elements is one filter to a reader.
    filters.dedup();
    Ok(filters)
}

/// The filter in a message; `None` for what is none: the head of a priority, a filter of another
/// chain, which is only reached from the first.
fn parse(payload: &[u8]) -> Result<Option<Filter>, DecodeError> {
    let (header, attributes) = payload.split_at_checked(HEADER_BYTES).ok_or("a short header")?;
    let word = |offset: usize| {
        let bytes = header.get(offset..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    };
    let (handle, info) = (word(HANDLE), word(INFO));
    let mut filter =
        Filter { priority: u16::try_from(info >> 16).unwrap_or_default(), ..Filter::default() };
    let mut chain = 0;
    for attribute in NlasIterator::new(attributes).filter_map(Result::ok) {
        match attribute.kind() {
            TCA_KIND => filter.kind = text(attribute.value()),
            TCA_CHAIN => chain = number(attribute.value()).unwrap_or_default(),
            TCA_OPTIONS => filter.program = Some(program(attribute.value())),
            _ => {}
        }
    }
    if filter.kind != "bpf" {
        filter.program = None;
    }
    Ok((handle != 0 && chain == 0).then_some(filter))
}

fn program(options: &[u8]) -> FilterProgram {
    let mut program = FilterProgram::default();
    for attribute in NlasIterator::new(options).filter_map(Result::ok) {
        match attribute.kind() {
            TCA_BPF_NAME => program.name = Some(text(attribute.value())),
            TCA_BPF_ID => program.id = number(attribute.value()),
            _ => {}
        }
    }
    program
}

fn text(bytes: &[u8]) -> String {
    escape::text_from_bytes(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Filters read at most, of one hook.
const LIMIT: usize = 1024;

// `struct tcmsg` and attributes: include/uapi/linux/rtnetlink.h and pkt_cls.h.
const HEADER_BYTES: usize = 20;
const HANDLE: usize = 8;
const INFO: usize = 16;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netfilter::attribute;

    #[test]
    fn a_bpf_filter_is_read_with_its_program() {
        let options = [attribute(TCA_BPF_NAME, b"guest\0"), attribute(TCA_BPF_ID, &word(57))];
        let message =
            message(1, &[attribute(TCA_KIND, b"bpf\0"), attribute(TCA_OPTIONS, &options.concat())]);

        let filter = parse(&message).unwrap().unwrap();

        let program = FilterProgram { id: Some(57), name: Some("guest".to_owned()) };
        assert_eq!(filter, Filter { priority: 40, kind: "bpf".to_owned(), program: Some(program) });
    }

    #[test]
    fn the_head_of_a_priority_and_other_chains_are_no_filters_that_run() {
        let kind = attribute(TCA_KIND, b"u32\0");

        assert_eq!(parse(&message(0, std::slice::from_ref(&kind))).unwrap(), None);
        assert_eq!(parse(&message(1, &[kind, attribute(TCA_CHAIN, &word(3))])).unwrap(), None);
    }

    #[test]
    fn every_truncation_is_an_error_or_a_filter() {
        let whole = message(1, &[attribute(TCA_KIND, b"u32\0")]);

        for length in 0..HEADER_BYTES {
            assert!(parse(&whole[..length]).is_err());
        }
        for length in HEADER_BYTES..whole.len() {
            assert!(parse(&whole[..length]).unwrap().is_some());
        }
    }

    fn message(handle: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let words = [0, 2, handle, 0xffff_fff2, 40 << 16];
        [words.map(word).concat(), attributes.concat()].concat()
    }

    fn word(word: u32) -> [u8; 4] {
        word.to_ne_bytes()
    }
}
