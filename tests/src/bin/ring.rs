//! Serves connections through `io_uring`, where nothing is a system call of its own.
//!
//! `ring ADDRESS fds|direct`: listens, says so, echoes one connection and says so. `direct` accepts it
//! into the table of the ring, so that the process has no descriptor of it.

use std::env;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail, ensure};
use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, opcode, squeue};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [address, kind] = *words.as_slice() else { bail!("usage: ring ADDRESS fds|direct") };
    let mut ring = IoUring::new(8).context("make a ring")?;
    let listener = TcpListener::bind(address)?;
    writeln!(io::stdout(), "listening {}", listener.local_addr()?)?;
    let fd = Fd(listener.as_raw_fd());
    let accept = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut());
    let bytes = match kind {
        "fds" => {
            let connection = Fd(complete(&mut ring, &accept.build())?);
            let bytes = echo(
                &mut ring,
                |data, size| opcode::Recv::new(connection, data, size).build(),
                |data, size| opcode::Send::new(connection, data, size).build(),
            );
            complete(&mut ring, &opcode::Close::new(connection).build())?;
            bytes?
        }
        "direct" => {
            ring.submitter().register_files_sparse(1).context("make a table of files")?;
            let slot = Some(DestinationSlot::auto_target());
            let slot = complete(&mut ring, &accept.file_index(slot).build())?;
            let connection = Fixed(u32::try_from(slot)?);
            let bytes = echo(
                &mut ring,
                |data, size| opcode::Recv::new(connection, data, size).build(),
                |data, size| opcode::Send::new(connection, data, size).build(),
            );
            complete(&mut ring, &opcode::Close::new(connection).build())?;
            bytes?
        }
        _ => bail!("no such kind: {kind}"),
    };
    writeln!(io::stdout(), "served {bytes}")?;
    Ok(())
}

/// Sends back what comes until the other side has nothing more to say.
fn echo(
    ring: &mut IoUring,
    receive: impl Fn(*mut u8, u32) -> squeue::Entry,
    send: impl Fn(*const u8, u32) -> squeue::Entry,
) -> Result<u64> {
    let mut buffer = vec![0_u8; 1 << 16];
    let mut total = 0_u64;
    loop {
        let size = u32::try_from(buffer.len())?;
        let received = complete(ring, &receive(buffer.as_mut_ptr(), size))?;
        if received == 0 {
            return Ok(total);
        }
        let mut sent = 0;
        while sent < usize::try_from(received)? {
            let rest = buffer.get(sent..usize::try_from(received)?).unwrap_or_default();
            let length = u32::try_from(rest.len())?;
            sent = sent.saturating_add(complete(ring, &send(rest.as_ptr(), length))?.try_into()?);
        }
        total = total.saturating_add(u64::try_from(received)?);
    }
}

/// Performs one operation, and waits until it is done.
fn complete(ring: &mut IoUring, operation: &squeue::Entry) -> Result<i32> {
    #[expect(unsafe_code, reason = "the ring cannot know how long buffers live")]
    // SAFETY: buffer and descriptor of the operation outlive this call, which waits for its end.
    unsafe {
        ring.submission().push(operation).context("the ring is full")?;
    }
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().context("nothing was completed")?.result();
    ensure!(result >= 0, io::Error::from_raw_os_error(-result));
    Ok(result)
}
