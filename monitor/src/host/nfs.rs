//! What the kernel's NFS server listens on, by its own list.

use std::fs::File;
use std::io::{self, Read as _};

use crate::endpoint::Transport;

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

/// Of the file system, by fs/nfsd/nfsctl.c.
const NFSD_MAGIC: u64 = 0x6e66_7364;
/// The kernel makes it no longer than a page.
const MAX_LIST: u64 = 64 << 10;

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
    fn what_is_no_such_line_is_none() {
        let list =
            b"\n tcp 1\ntcp\ntcp \ntcp 0\ntcp 65536\ntcp -1\ntcp 1 2\ntcp \xff\nTCP 1\ntcp\0 1";

        assert_eq!(parse(list), []);
        assert_eq!(parse(b""), []);
        assert_eq!(parse(b"udp 111"), [(Transport::Udp, 111)]);
    }
}
