//! Programs of others: what they do with packets, and how many they have seen; or whom they hide.
//!
//! Assembled here by hand, so that no test needs a compiler.

mod program;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use aya::maps::SockMap;
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{
    BtfTracePoint, LinkOrder, ProgramError, SchedClassifier, SkLookup, Xdp, xdp::XdpMode,
};
use aya::sys::{Stats, enable_stats};
use aya::{Btf, Ebpf};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use self::program::{NAME, SOCKETS, load};
use crate::actor::Actor;
use crate::lab::{Host, within};
use crate::skip;

/// What a program does with every packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// TC: lets the next program decide, `TCX_NEXT`.
    Next,
    /// TC: accepts the packet and ends the chain, `TCX_PASS`.
    Accept,
    /// XDP: lets the packet go on, `XDP_PASS`.
    Pass,
    /// `sk_lookup`: leaves the choice to the kernel, `SK_PASS`.
    Leave,
    /// XDP: drops IPv4 datagrams and segments to this port, `XDP_DROP`.
    DropPort(u16),
    /// TC: drops the same, `TC_ACT_SHOT`.
    DropPortOnTc(u16),
    /// `sk_lookup`: gives connections to this port to a socket of a process, whatever port that is on.
    Steer(u16),
    /// TC: answers datagrams to this port by itself, where they came in, with what they say.
    AnswerOnTc(u16),
    /// XDP: the same, `XDP_TX`.
    AnswerOnXdp(u16),
    /// On the way back from `getdents64`: makes the entry with the name of this process another.
    Hide(u32),
}

/// Where among the TCX programs that are there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Before all others.
    First,
    /// After all others.
    Last,
}

/// Which packets of a netkit pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NetkitHook {
    /// Those that the primary end sends.
    Primary,
    /// Those that the other end sends.
    Peer,
}

/// A program on a device; gone when dropped.
#[derive(Debug)]
pub struct Neighbour {
    program: Ebpf,
    /// What aya does not hold.
    _link: Option<OwnedFd>,
    /// While it is open, the kernel counts runs.
    _counting: OwnedFd,
}

impl Neighbour {
    /// Attaches to TCX, at egress or at ingress.
    pub fn on_tcx(
        host: &Host,
        device: &str,
        hook: TcAttachType,
        order: Order,
        verdict: Verdict,
    ) -> Self {
        let mut program = load("classifier", verdict);
        let order = match order {
            Order::First => LinkOrder::first(),
            Order::Last => LinkOrder::last(),
        };
        attach(host, || {
            let classifier: &mut SchedClassifier = of(&mut program);
            classifier.load()?;
            classifier.attach_with_options(device, hook, TcAttachOptions::TcxOrder(order)).map(drop)
        });
        Self::counted(program)
    }

    /// Attaches to a hook of the netkit pair whose primary end this device is.
    pub fn on_netkit(host: &Host, device: &str, hook: NetkitHook, verdict: Verdict) -> Self {
        let mut program = load("classifier", verdict);
        let ifindex = host.ifindex(device);
        let classifier: &mut SchedClassifier = of(&mut program);
        classifier.load().expect("load a program");
        let descriptor = classifier.fd().expect("take a program").as_fd();
        let link = within(host, || link_to_netkit(descriptor, ifindex, hook));
        let link = link.expect("attach a program to netkit");
        Self { _link: Some(link), ..Self::counted(program) }
    }

    /// Attaches to XDP, in generic mode.
    pub fn on_xdp(host: &Host, device: &str, verdict: Verdict) -> Self {
        let mut program = load("xdp", verdict);
        attach(host, || {
            let xdp: &mut Xdp = of(&mut program);
            xdp.load()?;
            xdp.attach(device, XdpMode::Skb).map(drop)
        });
        Self::counted(program)
    }

    /// Attaches to the choice of sockets in a network namespace, and leaves that to the kernel.
    pub fn on_sk_lookup(host: &Host) -> Self {
        let mut program = load("sk_lookup", Verdict::Leave);
        attach(host, || {
            let chooser: &mut SkLookup = of(&mut program);
            chooser.load()?;
            chooser.attach(host.namespace_file()).map(drop)
        });
        Self::counted(program)
    }

    /// Attaches likewise, and gives connections to `port` to the listener of a server.
    pub fn on_sk_lookup_for(host: &Host, port: u16, server: &Actor) -> Self {
        let mut program = load("sk_lookup", Verdict::Steer(port));
        let sockets = program.map_mut(SOCKETS).expect("find a map");
        let mut sockets = SockMap::try_from(sockets).expect("take a map for one of sockets");
        sockets.set(0, &socket_of(server.pid()), 0).expect("store a socket in a map");
        attach(host, || {
            let chooser: &mut SkLookup = of(&mut program);
            chooser.load()?;
            chooser.attach(host.namespace_file()).map(drop)
        });
        Self::counted(program)
    }

    /// Hides a process from everybody who lists `/proc`, as a rootkit does; `None`, noted as skipped, where the
    /// kernel does not allow that.
    pub fn that_hides(pid: u32) -> Option<Self> {
        if cfg!(not(target_arch = "x86_64")) {
            skip("the program that hides a process is written for x86-64");
            return None;
        }
        let mut program = load("tp_btf/sys_exit", Verdict::Hide(pid));
        let hider: &mut BtfTracePoint = of(&mut program);
        let attached = Btf::from_sys_fs()
            .map_err(|error| error.to_string())
            .and_then(|btf| hider.load("sys_exit", &btf).map_err(|error| error.to_string()))
            .and_then(|()| hider.attach().map_err(|error| error.to_string()));
        match attached {
            Ok(_link) => Some(Self::counted(program)),
            Err(why) => {
                // Of all that the verifier says one line is the reason.
                let why = why.lines().rev().find(|line| line.contains("cannot")).unwrap_or(&why);
                skip(&format!("no program can hide a process: {why}"));
                None
            }
        }
    }

    fn counted(program: Ebpf) -> Self {
        let counting = enable_stats(Stats::RunTime).expect("let the kernel count runs");
        Self { program, _link: None, _counting: counting }
    }

    /// Its number and tag, as portwatch and `bpftool` tell them.
    pub fn identity(&self) -> (u32, String) {
        let program = self.program.program(NAME).expect("find a program");
        let info = program.info().expect("ask the kernel about a program");
        (info.id(), format!("{:016x}", info.tag()))
    }

    /// How many packets it has seen.
    pub fn seen(&self) -> u64 {
        let program = self.program.program(NAME).expect("find a program");
        program.info().expect("ask the kernel about a program").run_count()
    }
}

/// The only socket that a process has.
fn socket_of(pid: u32) -> OwnedFd {
    let table = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&table).expect("list descriptors").map_while(Result::ok);
    let is_socket = |entry: &fs::DirEntry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        target.to_string_lossy().starts_with("socket:")
    };
    let sockets = entries.filter(is_socket);
    let mut numbers = sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let number = numbers.next().expect("find a socket");
    assert_eq!(numbers.next(), None, "{pid} has more than one socket");
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    let process = pidfd_open(process, PidfdFlags::empty()).expect("open a process");
    pidfd_getfd(process, number, PidfdGetfdFlags::empty()).expect("take a descriptor")
}

/// Attaches in the namespace of a host.
fn attach(host: &Host, attach: impl FnOnce() -> Result<(), ProgramError> + Send) {
    within(host, attach).expect("attach a program");
}

/// `BPF_LINK_CREATE` for a hook of netkit, which aya does not know.
fn link_to_netkit(program: BorrowedFd<'_>, device: u32, hook: NetkitHook) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: i32 = 28;
    const BPF_NETKIT_PRIMARY: u32 = 54;

    let hook = match hook {
        NetkitHook::Primary => BPF_NETKIT_PRIMARY,
        NetkitHook::Peer => BPF_NETKIT_PRIMARY + 1,
    };
    // Program, target, hook, flags; what is not there is zero to the kernel.
    let attributes = [program.as_raw_fd().unsigned_abs(), device, hook, 0];
    #[expect(unsafe_code, reason = "no safe crate attaches to netkit")]
    // SAFETY: the kernel reads as many bytes as it is told, and opens what it gives for us.
    unsafe {
        let size = size_of_val(&attributes);
        let link = nix::libc::syscall(
            nix::libc::SYS_bpf,
            BPF_LINK_CREATE,
            std::ptr::from_ref(&attributes),
            size,
        );
        match i32::try_from(link) {
            Ok(link) if link >= 0 => Ok(OwnedFd::from_raw_fd(link)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn of<'a, P>(program: &'a mut Ebpf) -> &'a mut P
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = program.program_mut(NAME).expect("find a program");
    program.try_into().expect("load a program of the kind it was made for")
}
