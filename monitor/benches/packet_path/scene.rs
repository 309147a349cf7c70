//! A pipeline on a made-up host, and the records that a kernel would write for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use monitor::attribution::Request;
use monitor::clock::{Clock, boot_ns};
use monitor::endpoint::Netns;
use monitor::explanation::Explanation;
use monitor::host::netns::Mark;
use monitor::kernel::flow_table::Reading;
use monitor::kernel::object;
use monitor::owner::{Packaging, Process};
use monitor::pipeline::{Input, Payload, Pipeline, Settings};
use monitor::policy::Policy;
use monitor_ebpf::packet::tcp;
use monitor_ebpf::wire::{
    FlowKey, FlowRecord, Header, Place, SampleRecord, Slot, SocketRecord, WIRE_VERSION, action,
    kind, program,
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::frames::{self, WATCHED};

/// Inode and cookie of the only network namespace.
const INODE: u64 = 4_026_531_840;
const NETNS: u64 = 1;
const SERVER: [u8; 4] = [10, 0, 0, 2];

/// A pipeline with what `portwatch watch` uses when the user chooses nothing.
pub(crate) fn pipeline(slots: usize) -> Result<Pipeline> {
    let netns = || Netns { inode: INODE, name: None };
    let mut pipeline = Pipeline::new(Settings {
        ports: WATCHED.to_string().parse().map_err(|error| anyhow!("{error}"))?,
        policy: Policy::default(),
        payload: Payload::Masked,
        snaplen: 128,
        interval: Duration::from_secs(10),
        idle_timeout: Duration::from_mins(1),
        slots,
        jiffy_ns: object::jiffy_ns()?,
        netns: netns(),
        clock: Clock::of_host(),
        names_ends: false,
    });
    pipeline.apply(Input::Namespaces(vec![(netns(), Mark::Cookie(NETNS))]));
    Ok(pipeline)
}

/// A process listens on the watched port: its record, and what `/proc` says of the process.
pub(crate) fn listen(pipeline: &mut Pipeline) {
    let mut record = SocketRecord::new_zeroed();
    record.header = header(kind::SOCKET, program::SOCK_OPS, boot_ns());
    (record.cookie, record.netns_cookie, record.family, record.protocol) = (10, NETNS, 4, 6);
    (record.tgid, record.in_process, record.action) = (4712, 1, action::LISTEN);
    (record.local, record.local_port) = (mapped(SERVER), WATCHED);
    pipeline.apply(Input::Record { bytes: record.as_bytes().into(), now_ns: boot_ns() });
    answer(pipeline);
}

/// Answers what is asked until nothing is.
fn answer(pipeline: &mut Pipeline) {
    loop {
        pipeline.take_up_requests();
        let requests = pipeline.take_requests();
        if requests.is_empty() {
            return;
        }
        for request in requests {
            let now_ns = boot_ns();
            pipeline.apply(match request {
                Request::Hash { key } => Input::Hashed { key, hash: Ok("00".repeat(32)) },
                Request::Package { key } => {
                    Input::Packaged { key, packaging: Ok(Packaging::NoPackage) }
                }
                Request::Identify { key, pid, .. } => {
                    Input::Identified { key, process: Arc::new(process(pid)), now_ns }
                }
                Request::Container { key } => {
                    Input::Contained { key, container: Err(String::new()), untold: None }
                }
                Request::Recognise { cookie, .. } => {
                    Input::Recognised { cookie, kind: None, now_ns }
                }
                Request::Namespaces => Input::Namespaces(Vec::new()),
                Request::Translate { flow, .. } => Input::Translated { flow, there: None, now_ns },
                Request::Relay { key, .. } => Input::Relayed { key, to: None, now_ns },
                Request::Explain { number, .. } => {
                    Input::Explained { number, explanation: Explanation::default(), now_ns }
                }
            });
        }
    }
}

fn process(pid: u32) -> Process {
    Process {
        pid,
        start_ticks: Some(u64::from(pid)),
        name: "cardbridged".to_owned(),
        executable: Some("/usr/sbin/cardbridged".into()),
        args: ["/usr/sbin/cardbridged", "--port", "3516"].map(str::to_owned).to_vec(),
        uid: Some(990),
        user: Some("cardbridge".to_owned()),
        ..Process::default()
    }
}

/// The first packet of connection `number` to the listener, which takes slot `number`.
pub(crate) fn begins(number: u32, generation: u32) -> FlowRecord {
    let mut record = FlowRecord::new_zeroed();
    record.header = header(kind::FLOW, program::INGRESS, boot_ns());
    (record.slot, record.generation) = (number, generation);
    record.tcp_flags = tcp::SYN;
    // The times of packets are the times of their records here.
    FlowRecord { key: key(number), jiffies: 0, ..record }
}

/// What the slot of connection `number` holds after so many packets.
pub(crate) fn counted(number: u32, generation: u64, packets: u64, flags: u8) -> Reading {
    let mut content = Slot::new_zeroed();
    content.key = key(number);
    content.count = generation << Slot::PACKET_BITS | packets;
    (content.bytes, content.tcp_flags) = (packets * 100, flags);
    Reading { slot: number, content }
}

/// The record of a sampled packet of connection `number`, with its 128 first bytes.
pub(crate) fn sample(number: u32) -> Result<Vec<u8>> {
    let packet = frames::datagram(true);
    let data = packet.get(14..).context("making a packet")?;
    let mut record = SampleRecord::new_zeroed();
    record.header = header(kind::SAMPLE, program::INGRESS, boot_ns());
    record.key = key(number);
    record.captured = u32::try_from(data.len()).context("making a packet")?;
    (record.length, record.represents, record.payload_offset) = (record.captured, 1, 28);
    Ok([record.as_bytes(), data].concat())
}

fn key(number: u32) -> FlowKey {
    let [_, b, c, d] = number.to_be_bytes();
    let source = (mapped([11, b, c, d]), 40_000);
    FlowKey::new(source, (mapped(SERVER), WATCHED), 2 << Place::INTERFACE_SHIFT)
}

const fn header(kind: u16, program: u32, ktime_ns: u64) -> Header {
    Header { version: WIRE_VERSION, kind, program, ktime_ns }
}

fn mapped(ip: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::from(ip).to_ipv6_mapped().octets()
}

/// Bytes that this process has allocated on the heap.
pub(crate) fn heap() -> usize {
    // SAFETY: no precondition; it only reads counters of the allocator.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}
