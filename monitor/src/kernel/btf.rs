//! Offsets of kernel struct members, from the running kernel's BTF.
//!
//! The iterator and the tracepoints read members that have no UAPI view. Their offsets come from the
//! kernel itself; without BTF these programs are not used at all, since a guess would read something else.
//! Format: <https://docs.kernel.org/bpf/btf.html>.

mod view;

use anyhow::{Context as _, Result, bail};
use monitor_ebpf::view::ViewOffsets;

/// Where the kernel publishes its own types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Anonymous structs and unions nest a few levels deep at most.
const MAX_NESTING: u32 = 8;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
const KIND_LAST: u32 = 19;

/// The members the kernel programs read, in bytes from the start of their struct.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offsets {
    /// `struct socket`, `sk`.
    pub socket_sk: u32,
    /// `struct task_struct`, `tgid`.
    pub task_tgid: u32,
    /// `struct sock`.
    pub sock: SockOffsets,
    /// `struct file` and what it leads to; needed on old kernels only, so that newer ones may do without.
    pub file: Option<FileOffsets>,
    /// What the iterators of the cross-view read; those are not used where one is missing.
    pub view: Option<ViewOffsets>,
}

/// Members by which the socket of a file is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileOffsets {
    /// `struct file`, `f_inode`.
    pub inode: u32,
    /// `struct file`, `private_data`.
    pub private_data: u32,
    /// `struct inode`, `i_mode`.
    pub inode_mode: u32,
    /// `struct sock_common`, `skc_cookie`.
    pub sock_cookie: u32,
}

/// Members of `struct sock` and of the `struct sock_common` it begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SockOffsets {
    /// `skc_num`.
    pub num: u32,
    /// `skc_dport`.
    pub dport: u32,
    /// `skc_family`.
    pub family: u32,
    /// `sk_protocol`.
    pub protocol: u32,
}

impl Offsets {
    /// Reads them from the running kernel.
    pub fn of_running_kernel() -> Result<Self> {
        let btf = std::fs::read(VMLINUX).with_context(|| format!("reading {VMLINUX}"))?;
        let types = Types::parse(&btf).with_context(|| format!("reading {VMLINUX}"))?;
        Ok(Self {
            socket_sk: types.member("socket", "sk")?,
            task_tgid: types.member("task_struct", "tgid")?,
            sock: SockOffsets {
                num: types.member("sock_common", "skc_num")?,
                dport: types.member("sock_common", "skc_dport")?,
                family: types.member("sock_common", "skc_family")?,
                protocol: types.member("sock", "sk_protocol")?,
            },
            file: FileOffsets::find(&types).ok(),
            view: view::find(&types).ok(),
        })
    }
}

impl FileOffsets {
    fn find(types: &Types<'_>) -> Result<Self> {
        Ok(Self {
            inode: types.member("file", "f_inode")?,
            private_data: types.member("file", "private_data")?,
            inode_mode: types.member("inode", "i_mode")?,
            sock_cookie: types.member("sock_common", "skc_cookie")?,
        })
    }
}

/// The type section of a BTF blob, with the position of each type.
struct Types<'a> {
    section: &'a [u8],
    strings: &'a [u8],
    /// Position of type `id` at index `id - 1`.
    positions: Vec<u32>,
}

/// The fixed head of a type.
#[derive(Clone, Copy)]
struct Head {
    name: u32,
    kind: u32,
    members: u32,
    bitfields: bool,
    size_or_type: u32,
}

impl<'a> Types<'a> {
    fn parse(btf: &'a [u8]) -> Result<Self> {
        let magic = btf.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
        if magic != Some(MAGIC) {
            bail!("no BTF of this machine's byte order");
        }
        let header_len = word(btf, 4).context("short header")?;
        let section = |at: usize| -> Option<&'a [u8]> {
            let start = header_len.checked_add(word(btf, at)?)? as usize;
            btf.get(start..start.checked_add(word(btf, at + 4)? as usize)?)
        };
        let types = section(8).context("no type section")?;
        let strings = section(16).context("no string section")?;
        let mut positions = Vec::new();
        let mut at = 0_usize;
        while at < types.len() {
            positions.push(u32::try_from(at).context("type section too large")?);
            let head = Head::at(types, at).context("a type is cut short")?;
            at = head.end(at)?;
        }
        Ok(Self { section: types, strings, positions })
    }

    /// Byte offset of a member that may lie in anonymous structs or unions.
    fn member(&self, structure: &str, member: &str) -> Result<u32> {
        match self.bit(structure, member)? {
            bits if bits % 8 == 0 => Ok(bits / 8),
            _ => bail!("struct {structure} of this kernel has no member {member}"),
        }
    }

    /// As [`member`](Self::member), in bits.
    fn bit(&self, structure: &str, member: &str) -> Result<u32> {
        for &position in &self.positions {
            let Some(head) = Head::at(self.section, position as usize) else { continue };
            if head.kind == KIND_STRUCT && head.members > 0 && self.is(head.name, structure) {
                return self.bits_to(position as usize, member, MAX_NESTING).with_context(|| {
                    format!("struct {structure} of this kernel has no member {member}")
                });
            }
        }
        bail!("this kernel's BTF has no struct {structure}")
    }

    fn bits_to(&self, position: usize, wanted: &str, nesting: u32) -> Option<u32> {
        let head = Head::at(self.section, position)?;
        for index in 0..head.members as usize {
            let at = position + 12 + index * 12;
            let (name, type_id) = (word(self.section, at)?, word(self.section, at + 4)?);
            let raw = word(self.section, at + 8)?;
            let bits = if head.bitfields { raw & 0x00ff_ffff } else { raw };
            if self.is(name, wanted) {
                return Some(bits);
            }
            if name == 0
                && let Some(inner) = self.structure(type_id)
                && let Some(nesting) = nesting.checked_sub(1)
                && let Some(inner_bits) = self.bits_to(inner, wanted, nesting)
            {
                return bits.checked_add(inner_bits);
            }
        }
        None
    }

    /// Position of a type if it is a struct or union.
    fn structure(&self, type_id: u32) -> Option<usize> {
        let position = *self.positions.get(type_id.checked_sub(1)? as usize)? as usize;
        let head = Head::at(self.section, position)?;
        matches!(head.kind, KIND_STRUCT | KIND_UNION).then_some(position)
    }

    fn is(&self, name: u32, wanted: &str) -> bool {
        self.strings
            .get(name as usize..)
            .and_then(|rest| rest.strip_prefix(wanted.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

impl Head {
    fn at(types: &[u8], at: usize) -> Option<Self> {
        let info = word(types, at + 4)?;
        Some(Self {
            name: word(types, at)?,
            kind: info >> 24 & 0x1f,
            members: info & 0xffff,
            bitfields: info >> 31 != 0,
            size_or_type: word(types, at + 8)?,
        })
    }

    /// Where the next type starts.
    fn end(self, at: usize) -> Result<usize> {
        let members = self.members as usize;
        let tail = match self.kind {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => members * 12,
            KIND_ENUM | KIND_FUNC_PROTO => members * 8,
            kind if kind <= KIND_LAST => 0,
            // Its length is unknown, so nothing behind it can be found.
            kind => bail!("unknown type kind {kind} (size or type {})", self.size_or_type),
        };
        Ok(at + 12 + tail)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_in_an_anonymous_struct_has_the_sum_of_both_offsets() {
        let btf = blob(
            b"\0outer\0wanted\0",
            &[
                // 1: struct { int x; wanted at bit 32 }
                &[0, KIND_STRUCT << 24 | 2, 8],
                &[0, 2, 0],
                &[7, 2, 32],
                // 2: int
                &[0, KIND_INT << 24, 4, 0],
                // 3: struct outer { anonymous 1 at bit 64 }
                &[1, KIND_STRUCT << 24 | 1, 16],
                &[0, 1, 64],
            ],
        );

        let types = Types::parse(&btf).unwrap();

        assert_eq!(types.member("outer", "wanted").unwrap(), 12);
        assert!(types.member("outer", "absent").is_err());
        assert!(types.member("out", "wanted").is_err());
    }

    #[test]
    fn every_truncation_is_an_error_or_an_answer_and_never_a_panic() {
        let btf = blob(b"\0outer\0wanted\0", &[&[1, KIND_STRUCT << 24 | 1, 4], &[7, 9, 0]]);

        for length in 0..btf.len() {
            if let Ok(types) = Types::parse(&btf[..length]) {
                drop(types.member("outer", "wanted"));
            }
        }
    }

    fn blob(strings: &[u8], words: &[&[u32]]) -> Vec<u8> {
        let types: Vec<u8> = words
            .iter()
            .flat_map(|words| words.iter().flat_map(|word| word.to_ne_bytes()))
            .collect();
        let mut blob = Vec::new();
        blob.extend(MAGIC.to_ne_bytes());
        blob.extend([1, 0]);
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let lengths = [24, 0, length(&types), length(&types), length(strings)];
        blob.extend(lengths.iter().flat_map(|word| word.to_ne_bytes()));
        blob.extend(types);
        blob.extend(strings);
        blob
    }
}
