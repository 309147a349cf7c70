//! Commands and answers of ISO 7816-4: their names, and what of them may be shown.

use crate::app::read::Reader;

use super::in_hex;

/// A command: class, instruction, two parameters, and what it carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Command<'a> {
    instruction: u8,
    parameters: [u8; 2],
    body: &'a [u8],
}

/// Class, instruction, parameters and length.
const HEADER: usize = 5;

const SELECT: u8 = 0xa4;
const GET_DATA: u8 = 0xca;
const GET_DATA_BER: u8 = 0xcb;

impl<'a> Command<'a> {
    /// Reads a command that is exactly these bytes (ISO 7816-4, 5.1).
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let [class, instruction, p1, p2] = reader.array()?;
        // FF is no class; 6X and 9X are status, and no instruction (ISO 7816-3, 10.3).
        let fits = class != 0xff && !matches!(instruction >> 4, 6 | 9);
        let body = body(reader.rest())?;
        fits.then_some(Self { instruction, parameters: [p1, p2], body })
    }

    /// The name of the instruction, if it is known.
    pub(crate) fn name(&self) -> Option<&'static str> {
        instruction_name(self.instruction)
    }

    /// `SELECT A000000308 (PIV)`; of what it carries only names of applications.
    pub(crate) fn describe(&self) -> String {
        let Some(name) = self.name() else { return format!("INS {:02X}", self.instruction) };
        match self.instruction {
            SELECT if self.parameters[0] == 4 && (1..=16).contains(&self.body.len()) => {
                let application = application_name(self.body);
                let known = application.map(|name| format!(" ({name})")).unwrap_or_default();
                format!("{name} {}{known}", in_hex(self.body))
            }
            _ => name.to_owned(),
        }
    }
}

/// What is carried, by the length that goes before it; the length of the answer may follow.
fn body(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [] | [_] | [0, _, _] => Some(&[]),
        [0, high, low, behind @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let (body, le) = behind.split_at_checked(length)?;
            matches!(le.len(), 0 | 2).then_some(body).filter(|body| !body.is_empty())
        }
        [length, behind @ ..] => {
            let (body, le) = behind.split_at_checked(usize::from(*length))?;
            (le.len() <= 1).then_some(body)
        }
    }
}

/// The last two bytes, if a card could end its answer so.
pub(crate) fn status_word(response: &[u8]) -> Option<u16> {
    let [first, second] = *response.last_chunk::<2>()?;
    let fits = matches!(first, 0x61..=0x6f | 0x90..=0x9f) && (first != 0x90 || second == 0);
    fits.then(|| u16::from_be_bytes([first, second]))
}

/// `6A82 (file or application not found)`.
pub(super) fn describe_status(status: u16) -> String {
    let meaning = match status {
        0x9000 => "success",
        0x6100..=0x61ff => "more to come",
        0x6283 => "file deactivated",
        0x63c0..=0x63cf => return format!("{status:04X} ({} tries left)", status & 0xf),
        0x6700 => "wrong length",
        0x6881 => "no such channel",
        0x6982 => "security status not satisfied",
        0x6983 => "blocked",
        0x6984 => "reference data not usable",
        0x6985 => "conditions of use not satisfied",
        0x6a80 => "wrong data",
        0x6a81 => "function not supported",
        0x6a82 => "file or application not found",
        0x6a83 => "record not found",
        0x6a86 | 0x6b00 => "wrong parameters",
        0x6a88 => "reference data not found",
        0x6c00..=0x6cff => "wrong length of answer",
        0x6d00 => "no such instruction",
        0x6e00 => "no such class",
        0x6f00..=0x6fff => "internal error",
        _ => return format!("{status:04X}"),
    };
    format!("{status:04X} ({meaning})")
}

/// Which bytes of a command may be shown: its header; what it carries only if that names an application
/// or a data object. A single byte is a command to the reader.
pub(crate) fn show_command(bytes: &[u8], shown: &mut Vec<bool>) {
    let count = match (bytes, Command::parse(bytes)) {
        ([_], _) => 1,
        (_, None) => 0,
        (_, Some(command)) => {
            let is_harmless = matches!(command.instruction, SELECT | GET_DATA | GET_DATA_BER);
            if is_harmless || command.body.is_empty() { bytes.len() } else { HEADER }
        }
    };
    shown.extend((0..bytes.len()).map(|position| position < count));
}

/// Which bytes of an answer may be shown: its status word.
pub(crate) fn show_response(bytes: &[u8], shown: &mut Vec<bool>) {
    let hidden = bytes.len() - status_word(bytes).map_or(0, |_| 2);
    shown.extend((0..bytes.len()).map(|position| position >= hidden));
}

/// ISO 7816-4, -8 and -9, and GlobalPlatform.
const fn instruction_name(instruction: u8) -> Option<&'static str> {
    Some(match instruction {
        0x04 => "DEACTIVATE FILE",
        0x0c => "ERASE RECORD",
        0x0e | 0x0f => "ERASE BINARY",
        0x20 | 0x21 => "VERIFY",
        0x22 => "MANAGE SECURITY ENVIRONMENT",
        0x24 => "CHANGE REFERENCE DATA",
        0x26 => "DISABLE VERIFICATION",
        0x28 => "ENABLE VERIFICATION",
        0x2a => "PERFORM SECURITY OPERATION",
        0x2c => "RESET RETRY COUNTER",
        0x44 => "ACTIVATE FILE",
        0x46 | 0x47 => "GENERATE KEY PAIR",
        0x50 => "INITIALIZE UPDATE",
        0x70 => "MANAGE CHANNEL",
        0x82 => "EXTERNAL AUTHENTICATE",
        0x84 => "GET CHALLENGE",
        0x86 | 0x87 => "GENERAL AUTHENTICATE",
        0x88 => "INTERNAL AUTHENTICATE",
        0xa0 | 0xa1 => "SEARCH BINARY",
        0xa2 => "SEARCH RECORD",
        0xa4 => "SELECT",
        0xb0 | 0xb1 => "READ BINARY",
        0xb2 | 0xb3 => "READ RECORD",
        0xc0 => "GET RESPONSE",
        0xc2 | 0xc3 => "ENVELOPE",
        0xca | 0xcb => "GET DATA",
        0xd0 | 0xd1 => "WRITE BINARY",
        0xd2 => "WRITE RECORD",
        0xd6 | 0xd7 => "UPDATE BINARY",
        0xd8 => "PUT KEY",
        0xda | 0xdb => "PUT DATA",
        0xdc | 0xdd => "UPDATE RECORD",
        0xe0 => "CREATE FILE",
        0xe2 => "APPEND RECORD",
        0xe4 => "DELETE FILE",
        0xe6 => "INSTALL",
        0xe8 => "LOAD",
        0xf2 => "GET STATUS",
        0xfe => "TERMINATE",
        _ => return None,
    })
}

/// Applications that many cards have, by how their names begin.
fn application_name(name: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 10] = [
        (&[0xa0, 0, 0, 0x03, 0x08], "PIV"),
        (&[0xd2, 0x76, 0, 0x01, 0x24, 0x01], "OpenPGP"),
        (&[0xa0, 0, 0, 0x06, 0x47, 0x2f], "FIDO"),
        (&[0xa0, 0, 0, 0, 0x63, b'P', b'K', b'C', b'S'], "PKCS #15"),
        (&[0xa0, 0, 0, 0x01, 0x51], "GlobalPlatform"),
        (&[0xa0, 0, 0, 0, 0x03, 0, 0], "GlobalPlatform"),
        (b"1PAY.SYS.DDF01", "EMV"),
        (b"2PAY.SYS.DDF01", "EMV"),
        (&[0xa0, 0, 0, 0x02, 0x47, 0x10, 0x01], "travel document"),
        (&[0xa0, 0, 0, 0, 0x87, 0x10, 0x02], "USIM"),
    ];
    KNOWN.iter().find(|(beginning, _)| name.starts_with(beginning)).map(|(_, known)| *known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_if_its_lengths_agree() {
        let bodies = [
            (&[0x00, 0xb0, 0, 0][..], Some(0)),
            (&[0x00, 0xb0, 0, 0, 0x10], Some(0)),
            (&[0x00, 0xa4, 4, 0, 2, 0x3f, 0x00], Some(2)),
            (&[0x00, 0xa4, 4, 0, 2, 0x3f, 0x00, 0x00], Some(2)),
            (&[0x00, 0xa4, 4, 0, 3, 0x3f, 0x00], None),
            (&[0x00, 0xd6, 0, 0, 0, 0, 2, 1, 2], Some(2)),
            (&[0x00, 0xb0, 0, 0, 0, 1, 0], Some(0)),
            (&[0xff, 0xa4, 4, 0], None),
            (&[0x00, 0x61, 0, 0], None),
            (&[0x00, 0xa4, 4], None),
        ];
        for (bytes, body) in bodies {
            assert_eq!(Command::parse(bytes).map(|it| it.body.len()), body, "{bytes:02x?}");
        }
    }

    #[test]
    fn a_pin_is_blanked_and_the_name_of_an_application_is_not() {
        let verify = [0x00, 0x20, 0, 0x80, 4, b'1', b'2', b'3', b'4'];
        let select = [0x00, 0xa4, 4, 0, 2, 0x3f, 0x00];
        let unknown = [0x80, 0x11, 0, 0, 2, b'4', b'2'];

        assert_eq!(masked(show_command, &verify), [0x00, 0x20, 0, 0x80, 4, 0, 0, 0, 0]);
        assert_eq!(masked(show_command, &select), select);
        assert_eq!(masked(show_command, &unknown), [0x80, 0x11, 0, 0, 2, 0, 0]);
        assert_eq!(masked(show_command, b"secret"), [0; 6]);
        assert_eq!(masked(show_response, &[1, 2, 0x90, 0]), [0, 0, 0x90, 0]);
        assert_eq!(masked(show_response, b"1234"), [0; 4]);
    }

    fn masked(show: fn(&[u8], &mut Vec<bool>), bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        show(bytes, &mut shown);
        bytes.iter().zip(shown).map(|(byte, shown)| if shown { *byte } else { 0 }).collect()
    }
}
