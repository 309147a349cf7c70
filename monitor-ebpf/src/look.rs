//! The second look: packets that take more than a glance, whatever their shape.
//!
//! Their headers are read from a copy, 256 bytes at a time and mostly once. That costs some 20 ns more
//! than direct access, but headers may lie in any page of the packet, nothing of it is changed to reach
//! them, and the verifier sees plain memory.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::TcContext;

use monitor_ebpf::bytes::pin;
use monitor_ebpf::key::{self, Words};
use monitor_ebpf::packet::{self, Headers, Kind, Parsed, Part, Source, View};
use monitor_ebpf::wire::aside;

use crate::fragments::{self, Datagram, Ports};
use crate::tc::{Ends, Hook, count};
use crate::{config, totals};

/// Bytes copied at a time: more than the longest chain of headers that is seen in practice.
const COPIED: usize = 256;

/// What a look needs for a moment and is too large for the stack.
#[repr(C)]
struct Scratch {
    copy: [u8; COPIED],
    /// Where in the packet `copy` begins.
    start: usize,
    /// How many bytes of `copy` are the packet's.
    filled: usize,
    /// See [`Source::blur`].
    blurred: usize,
    /// See [`Source::note_sequence`].
    sequence: u32,
    /// See [`Head::blur_headers`].
    headers: Headers,
}

/// One for each CPU; sized by the loader.
#[map(name = "pw_scratch")]
static SCRATCH: Array<Scratch> = Array::with_max_entries(1, 0);

/// Parses and counts the packet. Not inlined, so that packets that take a glance have the registers
/// for themselves; the call costs 9 ns.
#[inline(never)]
pub(crate) fn look(ctx: &TcContext, hook: Hook) {
    // SAFETY: reads the number of the CPU, which stays the same while the program runs.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(scratch) = SCRATCH.get_ptr_mut(cpu) else {
        return;
    };
    let mut head = Head { ctx, scratch };
    copy(ctx, scratch, 0);
    let mut parsed = packet::parse(&mut head, hook.link, config::watched);
    let counted = match parsed.kind {
        Kind::Flow => fits(ctx, &mut parsed),
        Kind::LaterFragment => {
            if !fits(ctx, &mut parsed) {
                return;
            }
            if !join(&mut head, &mut parsed) {
                totals::set_aside(aside::FRAGMENT_LATER);
                return;
            }
            true
        }
        Kind::IcmpError => {
            let (source, destination) =
                (parsed.headers.source_port, parsed.headers.destination_port);
            if config::watched(source, destination).is_some() {
                totals::set_aside(aside::ICMP_ERROR);
            }
            return;
        }
        Kind::Aside => {
            totals::set_aside(parsed.reason);
            false
        }
        Kind::Other => false,
    };
    match parsed.part {
        Part::First => note_first(&mut head, parsed, counted),
        Part::Later if counted => totals::set_aside(aside::FRAGMENT_JOINED),
        Part::Later | Part::Whole => {}
    }
    if !counted {
        return;
    }
    if parsed.tunnelled {
        totals::set_aside(aside::TUNNELLED);
    }
    let headers = head.blur_headers(parsed.headers);
    let ends = || {
        let addresses = head.addresses(headers.network, headers.ipv6)?;
        Some(Ends { addresses, ports: key::ports(headers.source_port, headers.destination_port) })
    };
    // SAFETY: this CPU's live scratch.
    let sequence = || unsafe { (*scratch).sequence };
    count(ctx, hook, headers, Words::All, ends, sequence);
}

/// Is the packet as long as it says? One too large for its length field gets its length here.
#[inline(always)]
fn fits(ctx: &TcContext, parsed: &mut Parsed) -> bool {
    let available = ctx.len() - parsed.headers.network as u32;
    if parsed.headers.length == 0 {
        parsed.headers.length = available;
    }
    let fits = parsed.headers.length <= available || parsed.goes_on;
    if !fits {
        totals::set_aside(if parsed.tunnelled { aside::BAD_TUNNEL } else { aside::BAD_IP_HEADER });
    }
    fits
}

/// Remembers the ports of a first fragment for those that follow. One that is not counted takes the
/// place of what an earlier datagram left behind: identifications are used again.
#[inline(always)]
fn note_first(head: &mut Head<'_>, parsed: Parsed, counted: bool) {
    let Some(datagram) = head.datagram(parsed) else {
        return;
    };
    if counted {
        totals::set_aside(aside::FRAGMENT_FIRST);
        fragments::remember(&datagram, Ports::of(parsed.headers));
    } else {
        fragments::forget(&datagram);
    }
}

/// Gives a later fragment the ports of its first one, if that was seen.
#[inline(always)]
fn join(head: &mut Head<'_>, parsed: &mut Parsed) -> bool {
    let ports = head.datagram(*parsed).and_then(|datagram| fragments::find(&datagram));
    let Some(ports) = ports else {
        return false;
    };
    ports.give_to(&mut parsed.headers)
}

/// The packet, as the parser reads it.
struct Head<'a> {
    ctx: &'a TcContext,
    scratch: *mut Scratch,
}

impl Head<'_> {
    /// What a fragment is part of.
    #[inline(always)]
    fn datagram(&mut self, parsed: Parsed) -> Option<Datagram> {
        let (network, ipv6) = (parsed.headers.network, parsed.headers.ipv6);
        let addresses = self.addresses(network, ipv6)?;
        Some(Datagram::new(addresses, parsed.id, parsed.protocol, ipv6))
    }

    /// Both addresses of an IP header, as a flow key has them.
    #[inline(always)]
    fn addresses(&mut self, network: usize, ipv6: bool) -> Option<[u64; 4]> {
        if ipv6 {
            let addresses = self.view::<32>(network + 8)?;
            Some([
                addresses.raw64::<0>(),
                addresses.raw64::<8>(),
                addresses.raw64::<16>(),
                addresses.raw64::<24>(),
            ])
        } else {
            let addresses = self.view::<8>(network + 12)?;
            Some([addresses.raw64::<0>(), 0, 0, 0])
        }
    }
}

impl Source for Head<'_> {
    #[inline(always)]
    fn view<const LEN: usize>(&mut self, offset: usize) -> Option<View<'_, LEN>> {
        const { assert!(LEN <= COPIED) }
        // SAFETY: this CPU's live scratch. Volatile: what the verifier knew of a number is forgotten.
        let (start, filled) =
            unsafe { ((&raw const (*self.scratch).start).read_volatile(), self.filled()) };
        // An offset before the copy wraps around and is beyond it, too.
        let mut at = offset.wrapping_sub(start);
        if at > COPIED - LEN || at + LEN > filled {
            copy(self.ctx, self.scratch, offset);
            if self.filled() < LEN {
                return None;
            }
            at = 0;
        }
        // The verifier wants to see the bound of the very register that is added.
        let at = pin(at);
        if at > COPIED - LEN {
            return None;
        }
        // SAFETY: `LEN` bytes from `at` on lie in `copy`, and nobody writes it while `self` is borrowed.
        let bytes = unsafe { &*(&raw const (*self.scratch).copy).cast::<u8>().add(at).cast() };
        Some(View(bytes))
    }

    #[inline(always)]
    fn blur(&mut self, number: usize) -> usize {
        // SAFETY: this CPU's live scratch. The verifier does not track what lies in a map.
        unsafe {
            let blurred = &raw mut (*self.scratch).blurred;
            blurred.write_volatile(number);
            blurred.read_volatile()
        }
    }

    #[inline(always)]
    fn note_sequence(&mut self, sequence: u32) {
        // SAFETY: this CPU's live scratch.
        unsafe { (*self.scratch).sequence = sequence };
    }
}

impl Head<'_> {
    /// As [`Source::blur`], so that what follows is verified once for all shapes of packets.
    #[inline(always)]
    fn blur_headers(&mut self, headers: Headers) -> Headers {
        // SAFETY: this CPU's live scratch.
        unsafe {
            let blurred = &raw mut (*self.scratch).headers;
            blurred.write_volatile(headers);
            blurred.read_volatile()
        }
    }

    #[inline(always)]
    fn filled(&self) -> usize {
        // SAFETY: this CPU's live scratch.
        unsafe { (&raw const (*self.scratch).filled).read_volatile() }
    }
}

/// Copies what the packet has from `offset` on, as much as fits.
#[inline(never)]
fn copy(ctx: &TcContext, scratch: *mut Scratch, offset: usize) {
    let rest = (ctx.len() as usize).saturating_sub(offset);
    let wanted = if rest < COPIED { rest } else { COPIED };
    // The helper refuses a length of 0. Verifiers before 6.2 see that it is more only like this.
    let last = pin(wanted.wrapping_sub(1));
    // SAFETY: this CPU's live scratch, of whose copy at most all is written.
    unsafe {
        (&raw mut (*scratch).start).write_volatile(offset);
        (&raw mut (*scratch).filled).write_volatile(0);
        if last >= COPIED {
            return;
        }
        let to = (&raw mut (*scratch).copy).cast();
        if bpf_skb_load_bytes(ctx.skb.skb.cast(), offset as u32, to, last as u32 + 1) == 0 {
            (&raw mut (*scratch).filled).write_volatile(wanted);
        }
    }
}
