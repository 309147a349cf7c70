//! Plays the processes of a test: performs steps given as arguments, and answers each with a line.
//!
//! After the last argument it exits; `stay` makes it take further steps from standard input until
//! that is closed. A step that goes wrong ends it.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::env;
use std::ffi::CString;
use std::fs;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::{IpTransparent, UdpGsoSegment};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, setsockopt};
use rustix::fs::MemfdFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

#[path = "actor/cpus.rs"]
mod cpus;
#[path = "actor/sharing.rs"]
mod sharing;
#[path = "actor/splicing.rs"]
mod splicing;

fn main() -> Result<()> {
    let mut actor = Actor::default();
    let mut steps = env::args().skip(1);
    while let Some(step) = steps.next() {
        match &*step {
            // What it says of itself, which may be a lie.
            option if option.starts_with('-') => drop(steps.next()),
            "worker" => return echo(&TcpStream::from(stdin()?)).map(drop),
            "heir" => {
                return accept(&TcpListener::from(stdin()?)).and_then(|it| echo(&it)).map(drop);
            }
            "testator" => return bequeath_again(),
            "mayfly" => return accept_and_exit(),
            "visitor" => return connect_and_exit(&env::args().nth(2).context("no address")?),
            "memfd" => return become_nameless(env::args().skip(2)),
            "stay" => return io::stdin().lines().try_for_each(|step| actor.perform(&step?)),
            step => actor.perform(step)?,
        }
    }
    Ok(())
}

/// Answers with a line.
fn say(answer: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).context("answer")
}

/// Leaves the socket it was left to another process in turn, which it names.
fn bequeath_again() -> Result<()> {
    let heir = start("heir", stdin()?)?;
    say(&format!("heir {}", heir.id()))
}

/// Goes on with these steps as a program that has no file.
fn become_nameless(steps: impl Iterator<Item = String>) -> Result<()> {
    // Kept open across `execve`, or its path would lead nowhere.
    let memfd = rustix::fs::memfd_create("nameless", MemfdFlags::empty())?;
    io::copy(&mut fs::File::open("/proc/self/exe")?, &mut fs::File::from(memfd.try_clone()?))?;
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    Err(Command::new(path).args(steps).exec()).context("run a memfd")
}

/// What the steps so far have opened.
#[derive(Debug, Default)]
struct Actor {
    listener: Option<TcpListener>,
    /// The packet socket that frames were sent through.
    frames: Option<OwnedFd>,
    stream: Option<TcpStream>,
    datagrams: Option<UdpSocket>,
    worker: Option<Child>,
    /// Where it waits for sockets of others.
    exchange: Option<UnixListener>,
    /// Both ends of a Unix socket over which a listener is on its way.
    way: Option<(UnixStream, UnixStream)>,
}

impl Actor {
    fn perform(&mut self, step: &str) -> Result<()> {
        let answer = self.step(step).with_context(|| format!("step `{step}`"))?;
        say(&answer)
    }

    fn step(&mut self, step: &str) -> Result<String> {
        // A name may contain anything.
        if let Some(name) = step.strip_prefix("name ") {
            rustix::thread::set_name(&CString::new(name)?)?;
            return Ok("named".to_owned());
        }
        let words: Vec<&str> = step.split(' ').collect();
        match *words.as_slice() {
            ["listen", "tcp", address] => self.listen(address),
            ["listen", "shared", "tcp", address] => self.listen_shared(address.parse()?),
            ["listen", "transparent", address] => self.listen_transparently(address),
            ["listen", "mptcp", address] => self.listen_multipath(address.parse()?),
            ["bind", "udp", address] => self.bind(address),
            ["serve", count] => self.serve(count.parse()?),
            ["send-file", path] => splicing::send_file(self.listener()?, path),
            ["splice-back"] => splicing::splice_back(self.listener()?),
            ["swallow"] => splicing::swallow(self.listener()?),
            ["drain"] => splicing::drain(self.stream.as_ref().context("no connection")?),
            ["relay", address] => sharing::relay(self.listener()?, address.parse()?),
            ["sink", count] => self.sink(count.parse()?),
            ["hear", count] => self.hear(count.parse()?),
            ["pin"] => cpus::pin(0),
            ["pin", cpu] => cpus::pin(cpu.parse()?),
            ["dismiss", count] => cpus::dismiss(self.listener()?, count.parse()?),
            ["revisit", address, "from", local, count] => {
                cpus::revisit(address.parse()?, local.parse()?, count.parse()?)
            }
            ["ask", address, "from", local, count] => {
                cpus::ask(address.parse()?, local.parse()?, count.parse()?)
            }
            ["reap", count] => self.reap(count.parse()?),
            ["churn", address, count] => churn(address.parse()?, count.parse()?),
            ["mayflies", count] => self.mayflies(count.parse()?),
            ["knock", address, first, last] => knock(address, first.parse()?..=last.parse()?),
            ["crowd", address, count] => crowd(address, count.parse()?),
            ["hand-over"] => self.hand_over(),
            ["join"] => self.join(),
            ["bequeath"] => self.bequeath("heir"),
            ["bequeath", "twice"] => self.bequeath("testator"),
            ["become", program] => sharing::become_heir(program, self.listener()?),
            ["open-exchange", path] => self.open_exchange(path),
            ["give", "connection", path] => self.give_connection(path),
            ["give", "listener", path] => self.give_listener(path),
            ["give", "kernel", path] => sharing::give_to_kernel(path, self.listener()?),
            ["serve-given"] => self.serve_given(),
            ["serve-in-threads", count] => self.serve_in_threads(count.parse()?),
            ["serve-waiting"] => sharing::serve_waiting(self.listener()?),
            ["fill"] => self.fill(),
            ["cast-adrift"] => self.cast_adrift(),
            ["connect", "tcp", address] => self.connect_tcp(address),
            ["connect", "udp", address] => self.connect_udp(address.parse()?, None),
            ["connect", "udp", address, "from", local] => {
                self.connect_udp(address.parse()?, Some(local))
            }
            ["exchange", bytes] => self.exchange(bytes.parse()?),
            ["send", count, size] => self.send(count.parse()?, size.parse()?),
            ["segmented", count, size] => self.segmented(count.parse()?, size.parse()?),
            ["roundtrips", count, size] => self.roundtrips(count.parse()?, size.parse()?),
            ["sendto", address, size] => sendto(address.parse()?, size.parse()?),
            ["spread", address, count] => spread(address.parse()?, count.parse()?),
            ["inject", device, file] => self.inject(device, file),
            ["close"] => {
                drop((self.listener.take(), self.stream.take(), self.datagrams.take()));
                Ok("closed".to_owned())
            }
            _ => bail!("no such step"),
        }
    }

    /// Opens a TCP listener, without accepting yet.
    fn listen(&mut self, address: &str) -> Result<String> {
        let listener = TcpListener::bind(address)?;
        let local = listener.local_addr()?;
        self.listener = Some(limited(listener)?);
        Ok(format!("listening {local}"))
    }

    /// The same, for connections to whatever address that a rule hands over.
    fn listen_transparently(&mut self, address: &str) -> Result<String> {
        let answer = self.listen(address)?;
        let listener = self.listener.as_ref().context("no listener")?;
        setsockopt(listener, IpTransparent, &true).context("set IP_TRANSPARENT")?;
        Ok(answer)
    }

    /// The same by Multipath TCP.
    fn listen_multipath(&mut self, address: SocketAddr) -> Result<String> {
        let family = if address.is_ipv4() {
            rustix::net::AddressFamily::INET
        } else {
            rustix::net::AddressFamily::INET6
        };
        let kind = rustix::net::SocketType::STREAM;
        let socket = rustix::net::socket(family, kind, Some(rustix::net::ipproto::MPTCP))?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, 16)?;
        self.listener = Some(limited(TcpListener::from(socket))?);
        Ok(format!("listening {address}"))
    }

    fn bind(&mut self, address: &str) -> Result<String> {
        let socket = UdpSocket::bind(address)?;
        let local = socket.local_addr()?;
        self.datagrams = Some(limited(socket)?);
        Ok(format!("bound {local}"))
    }

    /// Echoes so many connections one after the other, or so many datagrams.
    fn serve(&self, count: u64) -> Result<String> {
        let mut bytes = 0_u64;
        for _ in 0..count {
            let echoed = match (&self.listener, &self.datagrams) {
                (Some(listener), _) => echo(&accept(listener)?)?,
                (None, Some(socket)) => echo_datagram(socket)?,
                (None, None) => bail!("nothing to serve with"),
            };
            bytes = bytes.saturating_add(echoed);
        }
        Ok(format!("served {bytes}"))
    }

    /// Takes so many datagrams and answers none.
    fn sink(&self, count: u64) -> Result<String> {
        let socket = self.datagrams.as_ref().context("no socket")?;
        let mut buffer = vec![0; MAX_DATAGRAM];
        for _ in 0..count {
            socket.recv(&mut buffer)?;
        }
        Ok(format!("took {count}"))
    }

    /// Takes so many datagrams, asks who sent them, and answers none.
    fn hear(&self, count: u64) -> Result<String> {
        let socket = self.datagrams.as_ref().context("no socket")?;
        let mut buffer = vec![0; MAX_DATAGRAM];
        for _ in 0..count {
            socket.recv_from(&mut buffer)?;
        }
        Ok(format!("heard {count}"))
    }

    /// Accepts so many connections and closes each once its peer has.
    fn reap(&self, count: u64) -> Result<String> {
        let listener = self.listener.as_ref().context("no listener")?;
        for _ in 0..count {
            let mut stream = accept(listener)?;
            stream.read_to_end(&mut Vec::new()).context("receive")?;
        }
        Ok(format!("reaped {count}"))
    }

    /// Leaves the listener to so many processes, a few at a time, that each accept one connection.
    fn mayflies(&self, count: usize) -> Result<String> {
        let listener = self.listener.as_ref().context("no listener")?;
        a_few_at_a_time(count, || start("mayfly", listener.try_clone()?.into()))?;
        Ok(format!("bred {count}"))
    }

    /// Accepts a connection and leaves it to a process of its own, as inetd does.
    fn hand_over(&mut self) -> Result<String> {
        let listener = self.listener.as_ref().context("no listener")?;
        let worker = start("worker", accept(listener)?.into())?;
        let answer = format!("worker {}", worker.id());
        self.worker = Some(worker);
        Ok(answer)
    }

    /// Waits for the worker.
    fn join(&mut self) -> Result<String> {
        let status = self.worker.take().context("no worker")?.wait()?;
        ensure!(status.success(), "the worker ended with {status}");
        Ok("joined".to_owned())
    }

    /// Sends the listener over a Unix socket and lets go of it: nobody has a descriptor of it, as long as
    /// nobody receives there.
    fn cast_adrift(&mut self) -> Result<String> {
        let listener = self.listener.take().context("no listener")?;
        let (here, there) = UnixStream::pair()?;
        let descriptors = [listener.as_fd()];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut room);
        ensure!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)), "no room");
        sendmsg(&here, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
        self.way = Some((here, there));
        Ok("adrift".to_owned())
    }

    /// Leaves the listener to a process that survives this one; it serves one connection.
    fn bequeath(&mut self, part: &str) -> Result<String> {
        let listener = self.listener.take().context("no listener")?;
        Ok(format!("{part} {}", start(part, listener.into())?.id()))
    }

    fn listener(&self) -> Result<&TcpListener> {
        self.listener.as_ref().context("no listener")
    }

    fn listen_shared(&mut self, address: SocketAddr) -> Result<String> {
        self.listener = Some(limited(sharing::listen_shared(address)?)?);
        Ok(format!("listening {address}"))
    }

    /// Waits there for sockets from now on.
    fn open_exchange(&mut self, path: &str) -> Result<String> {
        self.exchange = Some(UnixListener::bind(path)?);
        Ok(format!("waiting {path}"))
    }

    /// Accepts a connection and hands it on.
    fn give_connection(&self, path: &str) -> Result<String> {
        sharing::give(path, accept(self.listener()?)?.as_fd())?;
        Ok("given".to_owned())
    }

    fn give_listener(&mut self, path: &str) -> Result<String> {
        sharing::give(path, self.listener()?.as_fd())?;
        self.listener = None;
        Ok("given".to_owned())
    }

    fn serve_given(&self) -> Result<String> {
        let exchange = self.exchange.as_ref().context("no exchange")?;
        Ok(format!("served {}", sharing::serve_given(exchange)?))
    }

    fn serve_in_threads(&self, count: usize) -> Result<String> {
        Ok(format!("served {}", sharing::serve_in_threads(self.listener()?, count)?))
    }

    /// Sends until nobody takes any more.
    fn fill(&self) -> Result<String> {
        let mut stream = self.stream.as_ref().context("no connection")?;
        stream.set_nonblocking(true)?;
        let (noise, mut total) = (noise(1 << 16), 0_usize);
        loop {
            match stream.write(&noise) {
                Ok(length) => total = total.saturating_add(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("send"),
            }
        }
        Ok(format!("filled {total}"))
    }

    fn connect_tcp(&mut self, address: &str) -> Result<String> {
        let stream = TcpStream::connect(address)?;
        let local = stream.local_addr()?;
        self.stream = Some(limited(stream)?);
        Ok(format!("connected {local}"))
    }

    fn connect_udp(&mut self, remote: SocketAddr, local: Option<&str>) -> Result<String> {
        let socket = UdpSocket::bind(local.unwrap_or(any(remote)))?;
        socket.connect(remote)?;
        let local = socket.local_addr()?;
        self.datagrams = Some(limited(socket)?);
        Ok(format!("connected {local}"))
    }

    /// Sends frames through a device as they are: the lines of a file, in hexadecimal digits.
    fn inject(&mut self, device: &str, file: &str) -> Result<String> {
        let mut interfaces = getifaddrs()?.filter(|interface| interface.interface_name == device);
        let address = interfaces.find_map(|it| it.address?.as_link_addr().copied());
        let address = address.context("find the device")?;
        let (family, kind) = (AddressFamily::Packet, SockType::Raw);
        let socket = nix::sys::socket::socket(family, kind, SockFlag::empty(), None)?;
        let mut count = 0_u64;
        for line in fs::read_to_string(file)?.lines() {
            let frame = from_hexadecimal(line)?;
            let sent =
                nix::sys::socket::sendto(socket.as_raw_fd(), &frame, &address, MsgFlags::empty());
            ensure!(
                sent.with_context(|| format!("send {line}"))? == frame.len(),
                "sent in part: {line}"
            );
            count = count.saturating_add(1);
        }
        self.frames = Some(socket);
        Ok(format!("injected {count}"))
    }

    /// Sends so many bytes over TCP, and checks that all of them come back unchanged.
    fn exchange(&self, bytes: usize) -> Result<String> {
        let stream = self.stream.as_ref().context("no connection")?;
        let sent = noise(bytes);
        let mut received = Vec::with_capacity(bytes);
        thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| -> io::Result<()> {
                let mut writing = stream;
                writing.write_all(&sent)?;
                writing.shutdown(Shutdown::Write)
            });
            let mut reading = stream;
            reading.read_to_end(&mut received)?;
            writer.join().ok().context("the writer panicked")?.context("send")
        })?;
        ensure!(received == sent, "{} bytes came back, changed", received.len());
        Ok(format!("exchanged {bytes}"))
    }

    /// Sends so many writes of so many bytes to whom it is connected to.
    fn send(&self, count: u64, size: usize) -> Result<String> {
        for _ in 0..count {
            match (self.stream.as_ref(), &self.datagrams) {
                (Some(mut stream), _) => stream.write_all(&noise(size))?,
                (None, Some(socket)) => ensure!(socket.send(&noise(size))? == size, "cut short"),
                (None, None) => bail!("not connected"),
            }
        }
        Ok(format!("sent {count}"))
    }

    /// Sends so many datagrams of a size in one call, which the kernel segments as late as it can.
    fn segmented(&self, count: usize, size: u16) -> Result<String> {
        let socket = self.datagrams.as_ref().context("not connected")?;
        setsockopt(socket, UdpGsoSegment, &i32::from(size)).context("set UDP_SEGMENT")?;
        let all = noise(count * usize::from(size));
        ensure!(socket.send(&all)? == all.len(), "cut short");
        Ok(format!("sent {count}"))
    }

    /// Sends messages, each once the one before has come back unchanged.
    fn roundtrips(&self, count: u64, size: usize) -> Result<String> {
        let sent = noise(size);
        let mut received = vec![0; MAX_DATAGRAM];
        for number in 0..count {
            let length = match (self.stream.as_ref(), &self.datagrams) {
                (Some(mut stream), _) => {
                    stream.write_all(&sent)?;
                    let expected = received.get_mut(..size).context("too long")?;
                    stream.read_exact(expected).map(|()| size)
                }
                (None, Some(socket)) => socket.send(&sent).and_then(|_| socket.recv(&mut received)),
                (None, None) => bail!("not connected"),
            };
            let length = length.with_context(|| format!("message {number}"))?;
            ensure!(received.get(..length) == Some(&sent), "message {number} came back changed");
        }
        Ok(format!("exchanged {count}"))
    }
}

/// Sends one datagram from a socket that is not connected.
fn sendto(remote: SocketAddr, size: usize) -> Result<String> {
    let socket = UdpSocket::bind(any(remote))?;
    socket.send_to(&noise(size), remote)?;
    Ok(format!("sent {}", socket.local_addr()?))
}

/// Sends one byte from each of so many sockets: so many flows.
fn spread(remote: SocketAddr, count: u64) -> Result<String> {
    for _ in 0..count {
        let socket = UdpSocket::bind(any(remote))?;
        socket.send_to(&[0], remote)?;
    }
    Ok(format!("spread {count}"))
}

/// Opens and closes so many connections, one after the other.
fn churn(remote: SocketAddr, count: u64) -> Result<String> {
    for _ in 0..count {
        TcpStream::connect(remote)?.shutdown(Shutdown::Write)?;
    }
    Ok(format!("churned {count}"))
}

/// Tries to connect to each port, whatever comes of it.
fn knock(address: &str, ports: std::ops::RangeInclusive<u16>) -> Result<String> {
    let address: IpAddr = address.parse()?;
    let open = ports.filter(|port| TcpStream::connect((address, *port)).is_ok()).count();
    Ok(format!("open {open}"))
}

/// So many processes, a few at a time, that each connect once, say from where, and exit at once.
fn crowd(remote: &str, count: usize) -> Result<String> {
    let program = env::current_exe()?;
    let visitor = || Command::new(&program).args(["visitor", remote]).spawn().context("start");
    a_few_at_a_time(count, visitor)?;
    Ok(format!("crowd {count}"))
}

/// Starts so many processes, of which a few are there at the same time.
fn a_few_at_a_time(count: usize, mut start: impl FnMut() -> Result<Child>) -> Result<()> {
    let mut alive = VecDeque::new();
    for _ in 0..count {
        if alive.len() >= AT_A_TIME {
            succeed(alive.pop_front())?;
        }
        alive.push_back(start()?);
    }
    alive.into_iter().try_for_each(|child| succeed(Some(child)))
}

fn succeed(child: Option<Child>) -> Result<()> {
    let Some(mut child) = child else { return Ok(()) };
    let status = child.wait()?;
    ensure!(status.success(), "a process ended with {status}");
    Ok(())
}

/// Connects, says who it is and from where, and exits at once.
fn connect_and_exit(remote: &str) -> Result<()> {
    let stream = TcpStream::connect(remote)?;
    // One write, so that the lines of many processes stay whole.
    writeln!(io::stdout(), "{} {}", std::process::id(), stream.local_addr()?)?;
    Ok(())
}

/// Accepts one connection, reads what comes, says who it is and whom it served, and exits 2 ms later.
fn accept_and_exit() -> Result<()> {
    let mut stream = accept(&TcpListener::from(stdin()?))?;
    stream.read_to_end(&mut Vec::new()).context("receive")?;
    writeln!(io::stdout(), "{} {}", std::process::id(), stream.peer_addr()?)?;
    thread::sleep(Duration::from_millis(2));
    Ok(())
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let (stream, _peer) = listener.accept().context("accept")?;
    limited(stream)
}

/// Sends back what comes until the other side has nothing more to say.
fn echo(mut stream: &TcpStream) -> Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0_u64;
    loop {
        let length = stream.read(&mut buffer).context("receive")?;
        if length == 0 {
            return Ok(total);
        }
        stream.write_all(buffer.get(..length).unwrap_or_default()).context("send")?;
        total = total.saturating_add(u64::try_from(length)?);
    }
}

fn echo_datagram(socket: &UdpSocket) -> Result<u64> {
    let mut buffer = vec![0; MAX_DATAGRAM];
    let (length, peer) = socket.recv_from(&mut buffer).context("receive")?;
    socket.send_to(buffer.get(..length).unwrap_or_default(), peer).context("send")?;
    Ok(u64::try_from(length)?)
}

/// Starts this program in another part, with a socket as its standard input.
fn start(part: &str, socket: OwnedFd) -> Result<Child> {
    let program = env::current_exe()?;
    Command::new(program).arg(part).stdin(Stdio::from(socket)).spawn().context("start")
}

fn stdin() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}

/// Nothing waits for ever, so that a test that fails leaves no process behind.
fn limited<S: AsFd>(socket: S) -> Result<S> {
    for direction in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, direction, Some(patience()))?;
    }
    Ok(socket)
}

/// A little less than the test waits, so that it hears why.
fn patience() -> Duration {
    portwatch_tests::deadline().saturating_sub(Duration::from_secs(5))
}

/// Any address and port of the same family.
fn any(remote: SocketAddr) -> &'static str {
    if remote.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
}

/// Bytes that do not repeat, the same in each run (xorshift).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut noise: Vec<u8> =
        std::iter::repeat_with(next).take(bytes.div_ceil(8)).flatten().collect();
    noise.truncate(bytes);
    noise
}

const MAX_DATAGRAM: usize = 65_535;

/// Processes of a crowd that are there at the same time.
const AT_A_TIME: usize = 8;

fn from_hexadecimal(line: &str) -> Result<Vec<u8>> {
    let digit = |it: u8| char::from(it).to_digit(16).context("read a hexadecimal digit");
    let byte = |pair: &[u8]| match *pair {
        [high, low] => Ok(u8::try_from(digit(high)? << 4 | digit(low)?)?),
        _ => bail!("a byte has two digits"),
    };
    line.as_bytes().chunks(2).map(byte).collect()
}
