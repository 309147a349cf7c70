//! What user space chooses at load time: read-only globals, constants to the verifier.

use core::ptr;

use monitor_ebpf::wire::Settings;

/// Written by the loader before the programs are verified, so that branches on it cost nothing.
#[unsafe(no_mangle)]
static PW_SETTINGS: Settings = Settings::ZERO;

/// One bit per port: bit `port % 64` of word `port / 64`. 8 KiB, so that the ports in use stay in L1.
#[unsafe(no_mangle)]
static PW_PORTS: [u64; 1024] = [0; 1024];

macro_rules! setting {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name() -> $type {
            // SAFETY: a static; volatile, since the loader replaces the value the compiler saw.
            unsafe { ptr::read_volatile(&raw const PW_SETTINGS.$name) }
        }
    )*};
}

setting! {
    /// How far the hash is shifted right to become the index of a set.
    set_shift: u32,
    /// Sets per CPU in the flow table.
    sets: u32,
    /// Rows per CPU in the totals.
    total_rows: u32,
    /// Bytes of a packet that a sample carries.
    snaplen: u32,
    /// Bytes that a sample of one of the first packets of a flow carries.
    head_snaplen: u32,
    /// Sample 1 in this many packets of a flow; 0: none.
    sample_every: u32,
    /// Sample this many first packets with payload of each flow.
    head_samples: u32,
    /// Samples a CPU may take in one `budget_window`.
    sample_budget: u32,
    /// Jiffies after which the budget is whole again.
    budget_window: u32,
    /// Which helpers this kernel offers where: bits of `wire::helper`.
    helpers: u32,
    /// Offset of `sk` in `struct socket`, from the running kernel's BTF.
    socket_sk_offset: u32,
    /// Offset of `tgid` in `struct task_struct`.
    task_tgid_offset: u32,
    /// Offset of `skc_num` in `struct sock`.
    sock_num_offset: u32,
    /// Offset of `skc_dport` in `struct sock`.
    sock_dport_offset: u32,
    /// Offset of `skc_family` in `struct sock`.
    sock_family_offset: u32,
    /// Offset of `sk_protocol` in `struct sock`.
    sock_protocol_offset: u32,
    /// Offset of `skc_cookie` in `struct sock`.
    sock_cookie_offset: u32,
    /// Offset of `f_inode` in `struct file`.
    file_inode_offset: u32,
    /// Offset of `private_data` in `struct file`.
    file_private_data_offset: u32,
    /// Offset of `i_mode` in `struct inode`.
    inode_mode_offset: u32,
    /// The watched port if there is only one, else 0.
    only_port: u32,
    /// Flow records that the ring of a CPU holds.
    flow_ring: u32,
}

/// A random odd multiplier of the flow hash, which an attacker who crafts keys cannot know.
#[inline(always)]
pub(crate) fn hash_multiplier(index: usize) -> u64 {
    // SAFETY: as above; `index` is a constant below 8 wherever this is called.
    unsafe { ptr::read_volatile(&raw const PW_SETTINGS.hash_multipliers[index]) }
}

/// Is the port watched?
#[inline(always)]
pub(crate) fn is_watched(port: u16) -> bool {
    watched(port, port).is_some()
}

/// The port a packet counts under. When both are watched it is the lower one, so that both
/// directions of a conversation count under the same port.
#[inline(always)]
pub(crate) fn watched(source: u16, destination: u16) -> Option<u16> {
    // A constant to the verifier, which drops the way that is not taken.
    let only = only_port();
    if only != 0 {
        let is_watched = u32::from(source) == only || u32::from(destination) == only;
        return is_watched.then_some(only as u16);
    }
    match (is_in_set(source), is_in_set(destination)) {
        (false, false) => None,
        (true, false) => Some(source),
        (false, true) => Some(destination),
        (true, true) => Some(if source < destination { source } else { destination }),
    }
}

#[inline(always)]
fn is_in_set(port: u16) -> bool {
    // SAFETY: as above; a u16 divided by 64 is below 1024.
    let word = unsafe { ptr::read_volatile(&raw const PW_PORTS[(port >> 6) as usize]) };
    word >> (port & 63) & 1 != 0
}
