//! Classic BPF programs, as they filter what a packet socket receives: what they let through, and how they
//! read.
//!
//! The instructions are those of `include/uapi/linux/bpf_common.h` and `filter.h`. Jumps go forward only, so
//! that every run ends.

mod reach;
mod text;

use serde::{Deserialize, Serialize};

pub use self::reach::{Framing, Reach};

/// One instruction.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions to skip if true.
    pub jump_true: u8,
    /// And if false.
    pub jump_false: u8,
    /// Its number.
    pub k: u32,
}

/// A program.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Filter {
    /// Its instructions, in order.
    pub instructions: Vec<Instruction>,
}

/// A packet as a filter sees it.
#[derive(Clone, Copy, Debug)]
struct Packet<'a> {
    bytes: &'a [u8],
    /// Where its network header begins.
    network: usize,
    ethertype: u16,
}

impl Filter {
    /// Reads a program as the kernel gives it (`struct sock_filter`, host byte order); `None`: it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (chunks, []) = bytes.as_chunks::<8>() else { return None };
        let instructions =
            chunks.iter().map(|[c0, c1, jump_true, jump_false, k @ ..]| Instruction {
                code: u16::from_ne_bytes([*c0, *c1]),
                jump_true: *jump_true,
                jump_false: *jump_false,
                k: u32::from_ne_bytes(*k),
            });
        (1..=MAX_INSTRUCTIONS)
            .contains(&chunks.len())
            .then(|| Self { instructions: instructions.collect() })
    }

    /// Does it let a packet through? `None`: that depends on what only the kernel knows.
    fn accepts(&self, packet: Packet<'_>) -> Option<bool> {
        let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; 16]);
        let mut at = 0_usize;
        // Each step goes forward.
        for _ in 0..=self.instructions.len() {
            let Instruction { code, jump_true, jump_false, k } = *self.instructions.get(at)?;
            at = at.checked_add(1)?;
            let slot = k as usize % 16;
            match (code & 0x07, code & 0xe0) {
                // ld, ldx
                (class @ (0 | 1), mode) => {
                    let value = match mode {
                        0x00 => Some(k),
                        0x20 => packet.load(k, code)?,
                        0x40 => packet.load(x.wrapping_add(k), code)?,
                        0x60 => Some(*memory.get(slot)?),
                        0x80 => Some(u32::try_from(packet.bytes.len()).ok()?),
                        // 4 * ([k] & 0xf)
                        0xa0 => packet.byte(k).map(|byte| u32::from(byte & 0xf) * 4),
                        _ => return None,
                    };
                    // Beyond its end a packet is rejected.
                    let Some(value) = value else { return Some(false) };
                    if class == 0 { a = value } else { x = value }
                }
                (2, _) => *memory.get_mut(slot)? = a,
                (3, _) => *memory.get_mut(slot)? = x,
                (4, _) => match alu(code & 0xf0, a, if code & 8 == 0 { k } else { x }) {
                    Some(result) => a = result,
                    // Division by zero.
                    None => return Some(false),
                },
                (5, _) => {
                    let operand = if code & 8 == 0 { k } else { x };
                    let holds = match code & 0xf0 {
                        0x00 => {
                            at = at.checked_add(k as usize)?;
                            continue;
                        }
                        0x10 => a == operand,
                        0x20 => a > operand,
                        0x30 => a >= operand,
                        0x40 => a & operand != 0,
                        _ => return None,
                    };
                    at = at.checked_add(usize::from(if holds { jump_true } else { jump_false }))?;
                }
                (6, _) => return Some(if code & 0x18 == 0x10 { a != 0 } else { k != 0 }),
                (_, _) if code & 0xf8 == 0x80 => a = x,
                _ => x = a,
            }
        }
        None
    }
}

/// `None`: a division by zero.
fn alu(operation: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => a.checked_div(operand)?,
        0x40 => a | operand,
        0x50 => a & operand,
        0x60 => a.checked_shl(operand).unwrap_or(0),
        0x70 => a.checked_shr(operand).unwrap_or(0),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(operand)?,
        0xa0 => a ^ operand,
        _ => return None,
    })
}

impl Packet<'_> {
    /// What is there, in the size of an instruction: `None` for what only the kernel knows, `Some(None)`
    /// beyond the end.
    #[expect(
        clippy::option_option,
        reason = "not known, and known not to be there, are two answers"
    )]
    fn load(&self, offset: u32, code: u16) -> Option<Option<u32>> {
        let start = match offset {
            // SKF_AD_OFF: about the packet, not in it. Protocol, type, VLAN tag and whether there is one.
            0xffff_f000 => return Some(Some(u32::from(self.ethertype))),
            0xffff_f004 | 0xffff_f02c | 0xffff_f030 => return Some(Some(0)),
            special if special > 0xffff_f000 => return None,
            // SKF_NET_OFF: from the network header on.
            0xfff0_0000.. => self.network.checked_add(offset.wrapping_sub(0xfff0_0000) as usize)?,
            0xffe0_0000.. => offset.wrapping_sub(0xffe0_0000) as usize,
            _ => offset as usize,
        };
        let size = match code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            _ => 1,
        };
        let bytes = start.checked_add(size).and_then(|end| self.bytes.get(start..end));
        Some(bytes.map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))))
    }

    fn byte(&self, offset: u32) -> Option<u8> {
        self.bytes.get(offset as usize).copied()
    }
}

/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

#[cfg(test)]
mod tests;
