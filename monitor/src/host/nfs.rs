//! What the kernel's NFS server listens on, and which servers its NFS client talks to, by their own lists.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr};

use crate::endpoint::{Endpoint, Transport};

/// The list. There is one where somebody has mounted the file system `nfsd`, as a server's start does; it
/// is about the network namespace in which that was done.
pub const PORTLIST: &str = "/proc/fs/nfsd/portlist";

/// Transport and port of each listener; none where there is no list.
///
/// Waits for a server that is being started or stopped.
pub fn listeners() -> io::Result<Vec<(Transport, u16)>> {
    let file = match File::open(PORTLIST) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // Anything else may be mounted there.
    if u64::try_from(rustix::fs::fstatfs(&file)?.f_type).ok() != Some(NFSD_MAGIC) {
        return Err(io::Error::other("not of the NFS server"));
    }
    let mut list = Vec::new();
    file.take(MAX_LIST).read_to_end(&mut list)?;
    Ok(parse(&list))
}

/// `tcp 2049`, a line for each.
fn parse(list: &[u8]) -> Vec<(Transport, u16)> {
    let lines = list.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(listener).collect()
}

fn listener(line: &str) -> Option<(Transport, u16)> {
    let (transport, port) = line.split_once(' ')?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        // RDMA, and what answers over a client's connection.
        _ => return None,
    };
    Some((transport, port.parse().ok().filter(|port| *port != 0)?))
}

/// The list of the client, as it is called in the namespace that it is about.
pub const SERVERS: &str = "/proc/net/nfsfs/servers";

/// A server that the NFS client talks to, of which something is or was just mounted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Server {
    /// Where it is.
    pub at: Endpoint,
    /// The version of NFS.
    pub version: u8,
}

/// The servers of the NFS client of the calling thread's network namespace; none where there is no list.
pub fn servers_here() -> io::Result<Vec<Server>> {
    let file = match File::open("/proc/thread-self/net/nfsfs/servers") {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut list = Vec::new();
    file.take(MAX_LIST).read_to_end(&mut list)?;
    Ok(parse_servers(&list))
}

/// `v4 0a000002  801   3 server.example`, a line for each below a headline.
fn parse_servers(list: &[u8]) -> Vec<Server> {
    // Of the name, which whoever mounts may choose, nothing is read.
    let lines = list.split(|byte| *byte == b'\n').map(|line| line.get(..MAX_LINE).unwrap_or(line));
    lines.filter_map(server).collect()
}

fn server(line: &[u8]) -> Option<Server> {
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (version, ip, port) = (word()?, word()?, word()?);
    // With what comes after, neither of them was cut off.
    word()?.parse::<u32>().ok()?;
    let version = version.strip_prefix('v')?.parse().ok()?;
    let at = Endpoint { ip: address(ip)?, port: u16::try_from(hexadecimal(port)?).ok()? };
    (at.port != 0).then_some(Server { at, version })
}

/// In hexadecimal digits, with leading zeros and without anything between them.
fn address(digits: &str) -> Option<IpAddr> {
    let number = hexadecimal(digits)?;
    match digits.len() {
        8 => Some(Ipv4Addr::from_bits(u32::try_from(number).ok()?).into()),
        32 => Some(Endpoint::from_mapped(number.to_be_bytes(), 0).ip),
        _ => None,
    }
}

/// Nothing but digits: no sign.
fn hexadecimal(digits: &str) -> Option<u128> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

/// Of the file system, by fs/nfsd/nfsctl.c.
const NFSD_MAGIC: u64 = 0x6e66_7364;
/// The kernel makes that of the server no longer than a page; that of the client has some 40 bytes for each.
const MAX_LIST: u64 = 64 << 10;
/// What is read of a line: more than version, address, port and number of users.
const MAX_LINE: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_listener() {
        let list = b"rdma 20049\ntcp 2049\ntcp 2049\nudp 2049\ntcp-bc 2049\n";

        let tcp = (Transport::Tcp, 2049);
        assert_eq!(parse(list), [tcp, tcp, (Transport::Udp, 2049)]);
    }

    #[test]
    fn each_line_below_the_headline_is_a_server() {
        let list = b"NV SERVER   PORT USE HOSTNAME\n\
            v4 0a000002  801   3 server.example\n\
            v3 7f000001  dbc  12 127.0.0.1\n\
            v4 20010db8000000000000000000000002 ffff   1 v6 server\n\
            v4 00000000000000000000ffff0a000003  801   1 mapped\n\
            v4 fe800000000000000000000000000001  801 100 \n";

        let servers: Vec<(String, u8)> = parse_servers(list)
            .into_iter()
            .map(|Server { at, version }| (at.to_string(), version))
            .collect();

        let expected = [
            ("10.0.0.2:2049", 4),
            ("127.0.0.1:3516", 3),
            ("[2001:db8::2]:65535", 4),
            ("10.0.0.3:2049", 4),
            ("[fe80::1]:2049", 4),
        ];
        assert_eq!(servers, expected.map(|(at, version)| (at.to_owned(), version)));
    }

    #[test]
    fn what_is_no_server_is_none() {
        for line in [
            "",
            " ",
            "v4",
            // Cut off in the middle of the port.
            "v4 0a000002 8",
            "v4 0a000002  801",
            "v4 0a000002  801 x host",
            "v4 0a000002  801 -1 host",
            "v4 0a000002    0   1 host",
            "v4 0a000002 10801   1 host",
            "v4 0a000002 +801   1 host",
            "v4 0a000002 0x801   1 host",
            "v4 +a000002  801   1 host",
            "v4 a000002  801   1 host",
            "v4 0a00000200  801   1 host",
            "v4 20010db8000000000000000000000002000  801   1 host",
            "v4 unprintable  801   1 host",
            "v256 0a000002  801   1 host",
            "v-4 0a000002  801   1 host",
            "4 0a000002  801   1 host",
            "V4 0a000002  801   1 host",
            "v4\t0a000002\t801\t1\thost",
            "v4 0a000002\u{a0}801 1 host",
        ] {
            assert_eq!(parse_servers(line.as_bytes()), [], "{line:?}");
        }
        assert_eq!(parse_servers(b"v4 0a0000\xff2 801 1 host"), []);
        assert_eq!(parse_servers(&vec![b' '; 100_000]), []);
    }

    #[test]
    fn the_name_of_a_server_says_nothing() {
        let name = [b"v4 0a000002  801   1 ".as_slice(), &vec![0xff; 70_000], b" v4"].concat();

        assert_eq!(parse_servers(&name).len(), 1);
        assert_eq!(parse_servers(b"v4 0a000002  801   1 a v4 0a000009  801 1 b").len(), 1);
    }

    proptest::proptest! {
        /// No text is too much for it, and what a server is made of was all there.
        #[test]
        fn any_bytes_are_some_servers_or_none(list: Vec<u8>) {
            let lines = list.split(|byte| *byte == b'\n').count();
            assert!(parse_servers(&list).len() <= lines);
        }
    }

    #[test]
    fn what_is_no_such_line_is_none() {
        let list =
            b"\n tcp 1\ntcp\ntcp \ntcp 0\ntcp 65536\ntcp -1\ntcp 1 2\ntcp \xff\nTCP 1\ntcp\0 1";

        assert_eq!(parse(list), []);
        assert_eq!(parse(b""), []);
        assert_eq!(parse(b"udp 111"), [(Transport::Udp, 111)]);
    }
}
