//! A program as text, as `tcpdump -d` writes it.

use super::{Filter, Instruction};

impl Filter {
    /// A line for each instruction, at most so many.
    pub fn lines(&self, at_most: usize) -> Vec<String> {
        let numbered = self.instructions.iter().enumerate().take(at_most);
        let mut lines: Vec<String> =
            numbered.map(|(at, it)| format!("({at:03}) {}", line(*it, at))).collect();
        let left_out = self.instructions.len().saturating_sub(at_most);
        if left_out > 0 {
            lines.push(format!("… and {left_out} more"));
        }
        lines
    }
}

fn line(instruction: Instruction, at: usize) -> String {
    let Instruction { code, k, jump_true, jump_false } = instruction;
    let size = match code & 0x18 {
        0x08 => "h",
        0x10 => "b",
        _ => "",
    };
    let operand = if code & 8 == 0 { format!("#{k:#x}") } else { "x".to_owned() };
    match code & 0x07 {
        class @ (0 | 1) => {
            let name = if class == 0 { format!("ld{size}") } else { format!("ldx{size}") };
            match code & 0xe0 {
                0x00 => format!("{name} #{k:#x}"),
                0x20 => format!("{name} [{k}]"),
                0x40 => format!("{name} [x + {k}]"),
                0x60 => format!("{name} M[{k}]"),
                0x80 => format!("{name} #pktlen"),
                _ => format!("{name} 4*([{k}]&0xf)"),
            }
        }
        2 => format!("st M[{k}]"),
        3 => format!("stx M[{k}]"),
        4 if code & 0xf0 == 0x80 => "neg".to_owned(),
        4 => {
            let names =
                ["add", "sub", "mul", "div", "or", "and", "lsh", "rsh", "neg", "mod", "xor"];
            let name = names.get(usize::from(code >> 4 & 0xf)).unwrap_or(&"alu");
            format!("{name} {operand}")
        }
        5 => {
            let to = |skip: u32| at as u64 + 1 + u64::from(skip);
            let name = match code & 0xf0 {
                0x10 => "jeq",
                0x20 => "jgt",
                0x30 => "jge",
                0x40 => "jset",
                _ => return format!("ja {}", to(k)),
            };
            let (yes, no) = (to(jump_true.into()), to(jump_false.into()));
            format!("{name} {operand} jt {yes} jf {no}")
        }
        6 if code & 0x18 == 0x10 => "ret a".to_owned(),
        6 => format!("ret #{k}"),
        _ if code & 0xf8 == 0x80 => "txa".to_owned(),
        _ => "tax".to_owned(),
    }
}
