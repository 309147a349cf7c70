//! Any bytes at all, as a record of the kernel: it is one of a known kind and size, or is refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::decode::{Event, decode};
use monitor_ebpf::wire::{FlowRecord, SampleRecord, SocketRecord, WIRE_VERSION};

fuzz_target!(|record: &[u8]| {
    match decode(record) {
        Ok(Event::Flow(_)) => assert_eq!(record.len(), size_of::<FlowRecord>()),
        Ok(Event::Socket(_)) => assert_eq!(record.len(), size_of::<SocketRecord>()),
        Ok(Event::Sample(sample, data)) => {
            assert_eq!(data.len(), sample.captured as usize);
            assert!(size_of::<SampleRecord>() + data.len() <= record.len());
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    }
    assert_eq!(record[..2], WIRE_VERSION.to_ne_bytes());
});
