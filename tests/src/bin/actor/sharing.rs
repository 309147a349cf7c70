//! Sockets that change hands: ports that several open, descriptors that travel, heirs.

use std::fs;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::net::sockopt::{set_socket_reuseport, socket_acceptconn};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
};

use super::{accept, echo, limited};

/// Opens a listener on a port that others open as well.
pub(super) fn listen_shared(address: SocketAddr) -> Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Hands a listener to the kernel, by the file that takes the number of its descriptor.
pub(super) fn give_to_kernel(path: &str, listener: &TcpListener) -> Result<String> {
    fs::write(path, listener.as_raw_fd().to_string())?;
    Ok("given".to_owned())
}

/// Hands a socket to whoever waits there.
pub(super) fn give(path: &str, socket: BorrowedFd<'_>) -> Result<()> {
    let stream = UnixStream::connect(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket];
    ensure!(control.push(SendAncillaryMessage::ScmRights(&sockets)), "no room for a descriptor");
    sendmsg(&stream, &[IoSlice::new(b"!")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Waits for a socket.
fn take(exchange: &UnixListener) -> Result<OwnedFd> {
    let (stream, _) = exchange.accept()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let sockets = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    sockets.context("no descriptor came")
}

/// Waits for a socket and serves one connection: the one it is, or one that comes to it.
pub(super) fn serve_given(exchange: &UnixListener) -> Result<u64> {
    let socket = take(exchange)?;
    if socket_acceptconn(&socket)? {
        return echo(&accept(&TcpListener::from(socket))?);
    }
    echo(&limited(TcpStream::from(socket))?)
}

/// Serves so many connections, each in a thread of its own.
pub(super) fn serve_in_threads(listener: &TcpListener, count: usize) -> Result<u64> {
    let streams = (0..count).map(|_| accept(listener)).collect::<Result<Vec<_>>>()?;
    let threads = streams.into_iter().map(|stream| thread::spawn(move || echo(&stream)));
    let mut bytes = 0_u64;
    for thread in threads.collect::<Vec<_>>() {
        let echoed = thread.join().ok().context("a thread panicked")??;
        bytes = bytes.saturating_add(echoed);
    }
    Ok(bytes)
}

/// Serves the connections that wait, one after the other, and says whose they are.
pub(super) fn serve_waiting(listener: &TcpListener) -> Result<String> {
    listener.set_nonblocking(true)?;
    let mut answer = "served".to_owned();
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                echo(&limited(stream)?)?;
                answer = format!("{answer} {peer}");
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answer),
            Err(error) => return Err(error).context("accept"),
        }
    }
}

/// Accepts a connection and passes on to there what comes, and back.
pub(super) fn relay(listener: &TcpListener, to: SocketAddr) -> Result<String> {
    let (near, far) = (accept(listener)?, limited(TcpStream::connect(to)?)?);
    let passed = thread::scope(|scope| {
        let there = scope.spawn(|| pass(&near, &far));
        pass(&far, &near).and_then(|_| there.join().ok().context("a thread panicked")?)
    });
    Ok(format!("relayed {}", passed?))
}

/// Passes on all that one side has to say.
fn pass(mut from: &TcpStream, mut to: &TcpStream) -> Result<u64> {
    let passed = std::io::copy(&mut from, &mut to).context("relay")?;
    to.shutdown(Shutdown::Write).context("end a connection")?;
    Ok(passed)
}

/// Goes on as another program, with the listener as its standard input.
pub(super) fn become_heir(program: &str, listener: &TcpListener) -> Result<String> {
    rustix::stdio::dup2_stdin(listener.as_fd())?;
    Err(Command::new(program).arg("heir").exec()).context("run another program")
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
