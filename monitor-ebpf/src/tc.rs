//! The TC classifiers: they look at a packet and let it go on, whatever it is.
//!
//! They always return `TC_ACT_UNSPEC`, which is `TCX_NEXT`: every other program on the hook still
//! sees the packet, and its fate is theirs.

use core::hint::cold_path;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use monitor_ebpf::bytes::{Bytes, Window};
use monitor_ebpf::key::{self, Key, Words};
use monitor_ebpf::packet::{self, Follow, Glance, Headers, Link};
use monitor_ebpf::wire::{InterfaceId, Place, aside, program};

use crate::config;
use crate::flows::{self, Accounted};
use crate::look::look;
use crate::{netns, sample, totals};

/// A classifier, for a hook and what packets begin with there. One that is elsewhere is run by
/// programs that tell its network namespace first: see [`netns`].
macro_rules! classifiers {
    ($($name:ident: $program:ident, egress: $egress:literal, $link:ident, elsewhere: $elsewhere:literal;)*) => {$(
        #[classifier]
        #[inline(always)]
        fn $name(ctx: TcContext) -> i32 {
            let (program, link) = (program::$program, Link::$link);
            observe(&ctx, Hook { program, egress: $egress, link, elsewhere: $elsewhere })
        }
    )*};
}

classifiers! {
    pw_ingress: INGRESS, egress: false, Ethernet, elsewhere: false;
    pw_egress: EGRESS, egress: true, Ethernet, elsewhere: false;
    pw_ingress_l3: INGRESS, egress: false, Bare, elsewhere: false;
    pw_egress_l3: EGRESS, egress: true, Bare, elsewhere: false;
    pw_ns_ingress: INGRESS, egress: false, Ethernet, elsewhere: true;
    pw_ns_egress: EGRESS, egress: true, Ethernet, elsewhere: true;
    pw_ns_ingress_l3: INGRESS, egress: false, Bare, elsewhere: true;
    pw_ns_egress_l3: EGRESS, egress: true, Bare, elsewhere: true;
}

/// Does nothing: what the cost of the others is measured against.
#[classifier]
fn pw_empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Where a program runs; constants once inlined.
#[derive(Clone, Copy)]
pub(crate) struct Hook {
    pub(crate) program: u32,
    pub(crate) egress: bool,
    pub(crate) link: Link,
    /// In another network namespace than portwatch's.
    pub(crate) elsewhere: bool,
}

#[inline(always)]
fn observe(ctx: &TcContext, hook: Hook) -> i32 {
    let glanced = match hook.link {
        Link::Ethernet => packet::glance(bytes(ctx), config::watched, Observed { ctx, hook }),
        Link::Bare => Glance::Unclear,
    };
    if let Glance::Unclear = glanced {
        cold_path();
        look(ctx, hook);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
pub(crate) fn bytes(ctx: &TcContext) -> Bytes {
    // SAFETY: `data..data_end` is readable until a helper changes the packet; both are read anew.
    unsafe { Bytes::new(ctx.data(), ctx.data_end()) }
}

/// A packet, where it was seen.
#[derive(Clone, Copy)]
struct Observed<'a> {
    ctx: &'a TcContext,
    hook: Hook,
}

impl Follow for Observed<'_> {
    type Followed = ();

    #[inline(always)]
    fn follow(self, headers: Headers) {
        let Self { ctx, hook } = self;
        let available = ctx.len() as usize - headers.network;
        if headers.length as usize > available {
            cold_path();
            totals::set_aside(aside::BAD_IP_HEADER);
            return;
        }
        let words = if headers.ipv6 { Words::All } else { Words::Ipv4 };
        count(ctx, hook, headers, words, || ends(ctx, headers), || sequence(ctx, headers));
    }
}

/// Both addresses and both ports of a packet as they lie in it; an IPv4 packet's addresses are one word.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) addresses: [u64; 4],
    pub(crate) ports: u32,
}

/// Counts a packet: in the totals, and in the flow between these ends. `words`, a constant, tells what
/// is known of its key; `sequence` is asked for the sequence number of a SYN.
#[inline(always)]
pub(crate) fn count(
    ctx: &TcContext,
    hook: Hook,
    headers: Headers,
    words: Words,
    ends: impl FnOnce() -> Option<Ends>,
    sequence: impl FnOnce() -> u32,
) {
    // SAFETY: reads the number of the CPU, which stays the same while the program runs.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(total) = totals::row(cpu, headers.port, hook.egress) else {
        return;
    };
    // SAFETY: the skb the kernel called us with.
    let (segments, ifindex) = unsafe { ((*ctx.skb.skb).gso_segs, (*ctx.skb.skb).ifindex) };
    let length = headers.length;
    let header = (headers.payload - headers.network) as u32;
    // SAFETY: `total` was just looked up.
    unsafe { totals::add(total, length, header, segments) };
    let accounted = match key_of(hook, headers, (cpu, ifindex), ends) {
        Some(key) => {
            let packet = flows::Packet {
                key,
                words,
                cpu,
                length,
                tcp_flags: headers.tcp_flags,
                has_payload: length > header,
                program: hook.program,
            };
            let accounted = flows::account(ctx, packet, sequence);
            let represents = match accounted {
                Accounted::Sample(represents) => represents,
                Accounted::Head if length > config::snaplen() => {
                    cold_path();
                    sample::take_head(ctx, packet, headers);
                    0
                }
                Accounted::Head => 1,
                Accounted::Followed | Accounted::Overflow => 0,
            };
            if represents != 0 {
                sample::take(ctx, packet, headers, represents);
            }
            accounted
        }
        None => Accounted::Overflow,
    };
    if let Accounted::Overflow = accounted {
        cold_path();
        // SAFETY: as above; a map value stays valid until the program returns.
        unsafe { totals::add_overflow(total, length) };
    }
}

/// The flow key; `None` for an interface that does not fit into one.
#[inline(always)]
fn key_of(
    hook: Hook,
    headers: Headers,
    (cpu, ifindex): (u32, u32),
    ends: impl FnOnce() -> Option<Ends>,
) -> Option<Key> {
    let netns = if hook.elsewhere { netns::here(cpu)? } else { 0 };
    let mut place = InterfaceId::new(netns, ifindex)?.bits();
    if hook.egress {
        place |= Place::EGRESS;
    }
    if headers.udp {
        place |= Place::UDP;
    }
    if headers.ipv6 {
        place |= Place::IPV6;
    }
    let Ends { addresses: [a, b, c, d], ports } = ends()?;
    Some([a, b, c, d, key::tail(ports, place)])
}

/// The ends of a packet that took a glance: its ports follow its addresses.
#[inline(always)]
fn ends(ctx: &TcContext, headers: Headers) -> Option<Ends> {
    let bytes = bytes(ctx);
    if headers.ipv6 {
        let ends = bytes.window::<36>(headers.network + 8)?;
        let addresses =
            [ends.raw64::<0>(), ends.raw64::<8>(), ends.raw64::<16>(), ends.raw64::<24>()];
        Some(Ends { addresses, ports: ends.raw32::<32>() })
    } else {
        let ends = bytes.window::<12>(headers.network + 12)?;
        Some(Ends { addresses: [ends.raw64::<0>(), 0, 0, 0], ports: ends.raw32::<8>() })
    }
}

/// The sequence number of a TCP packet that took a glance, as it lies there.
#[inline(always)]
fn sequence(ctx: &TcContext, headers: Headers) -> u32 {
    let transport = headers.network + if headers.ipv6 { 40 } else { 20 };
    bytes(ctx).window::<8>(transport).map_or(0, Window::raw32::<4>)
}
