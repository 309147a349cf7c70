//! The decoys' side: processes that do what portwatch must see, step by step, and say what they did.
//!
//! A step is a line on standard input, its answer a line on standard output: `ok` with what somebody has
//! to know of it, or `failed` with the reason. At the end of its input, or when who started it is gone, a
//! decoy ends. Nothing waits longer than [`PATIENCE`].

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, ipproto, recvmsg, sendmsg, sendto,
    socket_with,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::time::Instant;

use super::segment::{self, Syn};

/// How a decoy calls itself.
const NAME: &std::ffi::CStr = c"pw-decoy";
/// What travels, there and back.
const MESSAGE: &[u8; 9] = b"portwatch";
/// Where a descriptor changes hands; an abstract name belongs to a network namespace.
const EXCHANGE: &str = "portwatch-doctor";
/// How long a decoy waits for another one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether it goes on after a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Then {
    Stays,
    Exits,
}

/// What the steps so far have opened.
#[derive(Debug, Default)]
struct Decoy {
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
    datagrams: Option<UdpSocket>,
    exchange: Option<UnixListener>,
    raw: Option<OwnedFd>,
}

/// Plays until there are no more steps.
pub(super) fn play() -> Result<()> {
    prepare()?;
    let mut decoy = Decoy::default();
    let mut stdout = io::stdout().lock();
    for step in io::stdin().lines() {
        let (answer, then) = match decoy.step(&step.context("reading a step")?) {
            Ok((answer, then)) => (format!("ok {answer}"), then),
            Err(error) => (format!("failed {error:#}"), Then::Stays),
        };
        writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).context("answering")?;
        if then == Then::Exits {
            break;
        }
    }
    Ok(())
}

/// Serves the connection that is its standard input.
pub(super) fn work() -> Result<()> {
    prepare()?;
    let stream = io::stdin().as_fd().try_clone_to_owned().context("taking a connection")?;
    serve(&limited(TcpStream::from(stream))?)
}

/// Who started it is to outlive it, however that ends.
fn prepare() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("asking to die in time")?;
    rustix::thread::set_name(NAME).context("taking a name")
}

impl Decoy {
    fn step(&mut self, step: &str) -> Result<(String, Then)> {
        let words: Vec<&str> = step.split(' ').collect();
        let answer = match *words.as_slice() {
            ["listen", address] => self.listen(address)?,
            ["serve"] => serve(&self.accept()?).map(|()| String::new())?,
            ["serve-by-worker"] => self.serve_by_worker()?,
            ["give"] => give(&self.accept()?)?,
            ["open-exchange"] => self.open_exchange()?,
            ["take"] => self.take()?,
            ["call", address] => self.call(address)?,
            ["call-and-exit", address] => return call_and_exit(address),
            ["bind", address] => self.bind(address)?,
            ["receive"] => self.receive()?,
            ["send-and-exit", address] => return send_and_exit(address),
            ["open-raw"] => self.open_raw()?,
            ["answer-raw", port] => self.answer_raw(port.parse()?)?,
            ["knock", address] => knock(address)?,
            _ => bail!("no such step: {step}"),
        };
        Ok((answer, Then::Stays))
    }

    fn listen(&mut self, address: &str) -> Result<String> {
        self.listener = Some(limited(TcpListener::bind(address).context("listening")?)?);
        Ok(String::new())
    }

    fn accept(&self) -> Result<TcpStream> {
        let listener = self.listener.as_ref().context("nothing listens")?;
        limited(listener.accept().context("accepting")?.0)
    }

    /// Leaves a connection to a process of its own, as inetd does; answers with its pid.
    fn serve_by_worker(&self) -> Result<String> {
        let stream = OwnedFd::from(self.accept()?);
        let mut worker = Command::new(super::ITSELF);
        let worker = worker.arg("decoy-worker").stdin(Stdio::from(stream)).spawn();
        let mut worker = worker.context("starting a worker")?;
        let pid = worker.id();
        let status = worker.wait().context("waiting for the worker")?;
        ensure!(status.success(), "the worker ended with {status}");
        Ok(pid.to_string())
    }

    fn open_exchange(&mut self) -> Result<String> {
        let address = UnixAddr::from_abstract_name(EXCHANGE).context("naming the exchange")?;
        self.exchange = Some(limited(UnixListener::bind_addr(&address).context("binding")?)?);
        Ok(String::new())
    }

    /// Serves a connection that somebody hands over.
    fn take(&self) -> Result<String> {
        let exchange = self.exchange.as_ref().context("no exchange is open")?;
        let giver = limited(exchange.accept().context("waiting for who gives")?.0)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(&giver, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .context("receiving a descriptor")?;
        let given = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let stream = TcpStream::from(given.context("no descriptor came")?);
        serve(&stream).map(|()| String::new())
    }

    /// Connects and talks; answers with its own address. The connection stays.
    fn call(&mut self, address: &str) -> Result<String> {
        let mut stream = limited(TcpStream::connect(address).context("connecting")?)?;
        stream.write_all(MESSAGE).context("sending")?;
        expect(&mut stream)?;
        let local = stream.local_addr()?;
        self.stream = Some(stream);
        Ok(local.to_string())
    }

    fn bind(&mut self, address: &str) -> Result<String> {
        self.datagrams = Some(limited(UdpSocket::bind(address).context("binding")?)?);
        Ok(String::new())
    }

    fn receive(&self) -> Result<String> {
        let socket = self.datagrams.as_ref().context("no socket is bound")?;
        let mut received = [0; MESSAGE.len()];
        let (length, sender) = socket.recv_from(&mut received).context("receiving")?;
        ensure!(received.get(..length) == Some(MESSAGE), "something else came");
        Ok(sender.to_string())
    }

    fn open_raw(&mut self) -> Result<String> {
        let flags = SocketFlags::CLOEXEC;
        let raw = socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::TCP));
        self.raw = Some(limited(raw.context("opening a raw socket")?)?);
        Ok(String::new())
    }

    /// Answers the first SYN to a port on which nobody listens; answers with who sent it.
    fn answer_raw(&self, port: u16) -> Result<String> {
        let raw = self.raw.as_ref().context("no raw socket is open")?;
        let deadline = Instant::now() + PATIENCE;
        let mut packet = [0; 2048];
        while Instant::now() < deadline {
            let (length, _) = rustix::net::recv(raw, &mut packet, RecvFlags::empty())
                .context("waiting for a packet")?;
            let syn = packet.get(..length).and_then(Syn::read);
            let Some(syn) = syn.filter(|syn| syn.destination.port() == port) else { continue };
            // The port of a raw socket's address means nothing.
            let receiver = SocketAddrV4::new(*syn.source.ip(), 0);
            sendto(raw, &segment::syn_ack(&syn), SendFlags::empty(), &receiver)
                .context("answering")?;
            return Ok(syn.source.to_string());
        }
        bail!("no SYN came")
    }
}

/// The client that no look at `/proc` is in time for: connects, sends, is gone.
fn call_and_exit(address: &str) -> Result<(String, Then)> {
    let mut stream = limited(TcpStream::connect(address).context("connecting")?)?;
    stream.write_all(MESSAGE).context("sending")?;
    Ok((stream.local_addr()?.to_string(), Then::Exits))
}

/// One datagram, and gone.
fn send_and_exit(address: &str) -> Result<(String, Then)> {
    let remote: SocketAddr = address.parse()?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("binding")?;
    socket.send_to(MESSAGE, remote).context("sending")?;
    Ok((socket.local_addr()?.to_string(), Then::Exits))
}

/// A connection attempt; the kernel refuses it, since nobody listens.
fn knock(address: &str) -> Result<String> {
    match TcpStream::connect(address) {
        Ok(_stream) => Ok("connected".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok("refused".to_owned()),
        Err(error) => Err(error).context("connecting"),
    }
}

/// Hands a connection to who waits at the exchange, and keeps nothing of it.
fn give(stream: &TcpStream) -> Result<String> {
    let address = UnixAddr::from_abstract_name(EXCHANGE).context("naming the exchange")?;
    let taker = UnixStream::connect_addr(&address).context("looking for who takes")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [stream.as_fd()];
    ensure!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "no room for it");
    sendmsg(&taker, &[IoSlice::new(b"!")], &mut control, SendFlags::empty())
        .context("handing a descriptor over")?;
    Ok(String::new())
}

/// Takes the message and answers it, as far as anybody is left to hear that.
fn serve(mut stream: &TcpStream) -> Result<()> {
    expect(&mut stream)?;
    match stream.write_all(MESSAGE) {
        Err(error) if is_gone(&error) => Ok(()),
        written => written.context("answering"),
    }
}

fn expect(stream: &mut impl io::Read) -> Result<()> {
    let mut received = [0; MESSAGE.len()];
    stream.read_exact(&mut received).context("receiving")?;
    ensure!(received == *MESSAGE, "something else came");
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Nothing waits for ever.
fn limited<S: AsFd + fmt::Debug>(socket: S) -> Result<S> {
    for direction in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, direction, Some(PATIENCE)).context("setting a time-out")?;
    }
    Ok(socket)
}
