//! Ring buffer records to events: total, typed and silent. The caller counts what is refused.

use monitor_ebpf::wire::{FlowRecord, Header, SampleRecord, SocketRecord, WIRE_VERSION, kind};
use zerocopy::FromBytes as _;

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// A slot of the flow table was taken.
    Flow(FlowRecord),
    /// A packet was sampled; the bytes begin with its IP header.
    Sample(SampleRecord, &'a [u8]),
    /// Something happened to a socket.
    Socket(SocketRecord),
}

/// Why a record was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than what it claims to be.
    #[error("a record of {length} bytes is too short for its kind")]
    Length {
        /// Bytes there were.
        length: usize,
    },
    /// Written by another version of the kernel programs.
    #[error("a record of wire version {found}, this is version {WIRE_VERSION}")]
    Version {
        /// What it says.
        found: u16,
    },
    /// No kind we know.
    #[error("a record of unknown kind {kind}")]
    Kind {
        /// What it says.
        kind: u16,
    },
    /// Fields that contradict each other.
    #[error("a record that contradicts itself")]
    Contradiction,
}

/// Decodes one record.
pub fn decode(record: &[u8]) -> Result<Event<'_>, DecodeError> {
    let too_short = DecodeError::Length { length: record.len() };
    let (header, _) = Header::read_from_prefix(record).map_err(|_short| too_short)?;
    if header.version != WIRE_VERSION {
        return Err(DecodeError::Version { found: header.version });
    }
    match header.kind {
        kind::FLOW => {
            FlowRecord::read_from_bytes(record).map(Event::Flow).map_err(|_size| too_short)
        }
        kind::SAMPLE => {
            let (sample, rest) =
                SampleRecord::read_from_prefix(record).map_err(|_short| too_short)?;
            let captured = usize::try_from(sample.captured).unwrap_or(usize::MAX);
            let data = rest.get(..captured).ok_or(DecodeError::Contradiction)?;
            Ok(Event::Sample(sample, data))
        }
        kind::SOCKET => {
            SocketRecord::read_from_bytes(record).map(Event::Socket).map_err(|_size| too_short)
        }
        kind => Err(DecodeError::Kind { kind }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromZeros as _, IntoBytes as _};

    #[test]
    fn a_record_survives_the_way_through_the_ring() {
        let mut record = SocketRecord::new_zeroed();
        record.header = header(kind::SOCKET);
        record.cookie = 42;

        assert_eq!(decode(record.as_bytes()), Ok(Event::Socket(record)));
    }

    #[test]
    fn every_truncation_is_refused() {
        let mut flow = FlowRecord::new_zeroed();
        flow.header = header(kind::FLOW);
        for length in 0..size_of::<FlowRecord>() {
            assert!(decode(&flow.as_bytes()[..length]).is_err(), "{length} bytes decoded");
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut flow = FlowRecord::new_zeroed();
        flow.header = Header { version: WIRE_VERSION + 1, ..header(kind::FLOW) };

        assert_eq!(decode(flow.as_bytes()), Err(DecodeError::Version { found: WIRE_VERSION + 1 }));
    }

    #[test]
    fn a_sample_that_claims_more_bytes_than_follow_is_refused() {
        let mut sample = SampleRecord::new_zeroed();
        sample.header = header(kind::SAMPLE);
        sample.captured = 5;
        let mut record = sample.as_bytes().to_vec();
        record.extend([1, 2, 3, 4]);

        assert_eq!(decode(&record), Err(DecodeError::Contradiction));

        record.extend([5, 6]);
        assert_eq!(decode(&record), Ok(Event::Sample(sample, &[1, 2, 3, 4, 5])));
    }

    fn header(kind: u16) -> Header {
        Header { version: WIRE_VERSION, kind, program: 0, ktime_ns: 0 }
    }
}
