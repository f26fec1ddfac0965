//! Writing octets: lengths are filled in behind what they measure.

/// Appends a structure whose 2-octet length field stands at a known place. Until it is closed the field holds 0xffff, so
/// that a half-written structure can't be read as an empty one followed by something else.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

/// An open structure: where it begins and where its length field stands.
#[derive(Clone, Copy, Debug)]
#[must_use = "a structure that is opened must be closed"]
pub struct Open {
    start: usize,
    length_at: usize,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// One octet.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Two octets, big-endian.
    pub fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Four octets, big-endian.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Octets as they are.
    pub fn octets(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
    }

    /// Opens a structure with two octets and a length: a generic payload header, a proposal or a transform (RFC 7296
    /// §3.2, §3.3.1, §3.3.2), all of which count their own header.
    pub fn open(&mut self, first: u8, second: u8) -> Open {
        let start = self.out.len();
        self.out.extend_from_slice(&[first, second, 0xff, 0xff]);
        Open {
            start,
            length_at: start + 2,
        }
    }

    /// Closes it. What is longer than its length field can say is cut by the caps long before.
    pub fn close(&mut self, open: Open) {
        let length = u16::try_from(self.out.len() - open.start).unwrap_or(u16::MAX);
        self.out[open.length_at..open.length_at + 2].copy_from_slice(&length.to_be_bytes());
    }
}
