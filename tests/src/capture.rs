//! What tcpdump captured on a device, as tshark reads it.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use tempfile::NamedTempFile;

use crate::lab::Host;
use crate::lines::Lines;
use crate::process::{is_installed, succeed, wait};

/// A running tcpdump; killed when dropped.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: NamedTempFile,
}

/// A frame, as tshark dissects it: the values of each field, outermost first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Dissected {
    fields: BTreeMap<&'static str, Vec<String>>,
}

impl Capture {
    /// Starts to capture so many frames that a filter of tcpdump takes; `None`, noted as skipped,
    /// without tcpdump and tshark.
    pub fn start(host: &Host, device: &str, count: usize, filter: &str) -> Option<Self> {
        if !is_installed("tcpdump") || !is_installed("tshark") {
            return None;
        }
        let file = NamedTempFile::new().expect("make a file for a capture");
        let mut tcpdump = host.command("tcpdump");
        // Buffers for every frame of a test, each as large as the longest that may come: of 256 KiB, 16 MiB hold
        // a few only. And no other user to become.
        let options = ["-s", "2048", "-B", "16384", "-U", "--immediate-mode", "-Z", "root"];
        tcpdump.args(["-i", device, "-c", &count.to_string()]).args(options);
        tcpdump.arg("-w").arg(file.path()).arg(filter);
        tcpdump.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = tcpdump.spawn().expect("start tcpdump");
        let stderr = child.stderr.take().expect("take what tcpdump says");
        let stderr: Lines<String> = Lines::of(stderr, |line| Some(line.to_owned()));
        let ready = stderr.find(0, |line| line.contains("listening on"));
        assert!(ready.is_some(), "tcpdump does not listen: {:?}", stderr.to_end());
        Some(Self { child, file })
    }

    /// Waits for the last frame and dissects them all.
    pub fn finish(mut self) -> Vec<Dissected> {
        let status = wait(&mut self.child).expect("tcpdump has not seen every frame");
        assert!(status.success(), "tcpdump ended with {status}");
        let mut tshark = Command::new("tshark");
        tshark.arg("-n").arg("-r").arg(self.file.path());
        // Each frame by itself.
        for preference in ["ip.defragment:FALSE", "ipv6.defragment:FALSE"] {
            tshark.args(["-o", preference]);
        }
        // Only what portwatch knows: whatever is behind a port is data.
        tshark.args(["--disable-protocol", "ALL"]);
        for protocol in PROTOCOLS {
            tshark.args(["--enable-protocol", protocol]);
        }
        tshark.args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=a"]);
        tshark.args(["-E", "aggregator=,"]);
        for field in FIELDS {
            tshark.args(["-e", field]);
        }
        succeed(&mut tshark).lines().map(Dissected::parse).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Of one that has ended already there is nothing to kill, which is no failure.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Dissected {
    fn parse(line: &str) -> Self {
        let values = |text: &str| -> Vec<String> {
            text.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect()
        };
        let fields = FIELDS.into_iter().zip(line.split('|').map(values));
        Self { fields: fields.filter(|(_, values)| !values.is_empty()).collect() }
    }

    /// The names of its protocols, outermost first.
    pub fn protocols(&self) -> impl Iterator<Item = &str> {
        self.text("frame.protocols", 0).unwrap_or_default().split(':')
    }

    /// Is this one of its ports?
    pub fn has_port(&self, port: u64) -> bool {
        ["tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport"].into_iter().any(|field| {
            let values = self.fields.get(field).into_iter().flatten();
            values.into_iter().any(|value| *value == port.to_string())
        })
    }

    /// Has it such a field?
    pub fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// The value of a field, counted from the outermost.
    pub fn text(&self, field: &str, index: usize) -> Option<&str> {
        self.fields.get(field)?.get(index).map(String::as_str)
    }

    /// The same as a number, which may be hexadecimal.
    pub fn number(&self, field: &str, index: usize) -> Option<u64> {
        let text = self.text(field, index)?;
        let digits = text.strip_prefix("0x");
        digits.map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16)).ok()
    }
}

const PROTOCOLS: [&str; 19] = [
    "frame",
    "eth",
    "ethertype",
    "vlan",
    "ip",
    "ipv6",
    "ipv6.hopopts",
    "ipv6.dstopts",
    "ipv6.routing",
    "ipv6.routing.type.srh",
    "ipv6.fraghdr",
    "ah",
    "tcp",
    "udp",
    "icmp",
    "icmpv6",
    "gre",
    "vxlan",
    "geneve",
];

const FIELDS: [&str; 30] = [
    "frame.protocols",
    "frame.len",
    "ip.src",
    "ip.dst",
    "ip.len",
    "ip.frag_offset",
    "ip.flags.mf",
    "ip.id",
    "ip.proto",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.plen",
    "ipv6.fraghdr.offset",
    "ipv6.fraghdr.more",
    "ipv6.fraghdr.ident",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "_ws.malformed",
    "ip.bogus_ip_length",
    "ip.bogus_header_length",
    "ipv6.plen_exceeds_framing",
    "ipv6.bogus_ipv6_version",
    "tcp.bogus_header_length",
    "gre.flags_and_version",
    "vxlan.flag_i",
    "geneve.version",
    "tcp.hdr_len",
    "udp.length",
];
