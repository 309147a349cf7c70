//! What this host says of itself, asked without changing it: the one place that reads `/proc` and
//! speaks netlink.
//!
//! Everything here blocks (on `/proc`, a mount of somebody else, a name service), so it runs on
//! worker threads, never on the task that owns the pipeline. What cannot be read is said, in words
//! for a person, and never fails the rest.
//!
//! - [`identity`]: host name, machine id, boot id
//! - [`netns`]: every network namespace, and how to run something in one
//! - [`links`]: the interfaces of a namespace, and a subscription to their changes
//! - [`loopback`]: its loopback device
//! - [`port_ranges`]: which ports clients get by chance, which take rights
//! - [`filters`]: who is on the clsact hooks of an interface
//! - [`nftables`]: the rules that send what comes for a port to somewhere else
//! - [`conntrack`]: what a connection is called on the other side of a translation of addresses
//! - [`ipvs`]: the services of the kernel's load balancer
//! - [`bpf_holders`]: which processes have descriptors of BPF programs
//! - [`bpf_pins`]: under which paths they are pinned
//! - [`serving`]: who serves at an address, in whatever namespace that is
//! - [`sockets`]: the TCP and UDP sockets of a namespace on given ports
//! - [`holders`]: which processes have a descriptor of a socket, without BPF
//! - [`descriptor`]: what kind of socket a descriptor of a process is
//! - [`shown`]: whether `/proc` shows a process, and a descriptor of it
//! - [`tunnels`]: devices for which the kernel has a UDP socket
//! - [`nfs`]: what the kernel's NFS server listens on
//! - [`adrift`]: sockets that somebody holds without a descriptor
//! - [`packet_sockets`]: packet sockets and their filters
//! - [`bind_probe`]: whether a port can be bound
//! - [`cgroup`]: systemd unit and container of a cgroup path
//! - `containers`: name and image of a container, as its runtime says
//! - [`executable`]: what a process really runs, and its SHA-256
//! - [`packages`]: which package installed a file
//! - [`process`]: who a pid is, safe against pid reuse
//! - [`artifacts`]: files and answers as they are, to be kept

mod proc;
mod modules;
mod netlink;
mod netfilter;
mod wireguard;
pub mod identity;
pub mod netns;
pub mod links;
pub mod loopback;
pub mod port_ranges;
pub mod qdisc;
pub mod filters;
pub mod nftables;
pub mod conntrack;
pub mod ipvs;
pub mod bpf_holders;
pub mod bpf_pins;
pub mod serving;
pub mod sockets;
pub mod holders;
pub mod descriptor;
pub mod shown;
pub mod tunnels;
pub mod nfs;
pub mod adrift;
pub mod packet_sockets;
pub mod bind_probe;
pub mod cgroup;
mod containers;
pub mod executable;
pub mod packages;
pub mod process;
pub mod artifacts;
