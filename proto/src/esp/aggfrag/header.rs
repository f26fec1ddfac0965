//! What stands before the data blocks (RFC 9347 §6.1.1, §6.1.2).

/// Congestion information (RFC 9347 §6.1.2), times in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Congestion {
    /// P: "PLMTUD probing is in progress".
    pub probing: bool,
    /// E: "Congestion Experienced (CE) ECN bits were received and used in deriving the reported LossEventRate".
    pub experienced: bool,
    /// "the inverse of the current loss event rate, as calculated by the receiver. A value of zero indicates no loss."
    pub loss_event_rate: u32,
    /// "the sender's current RTT estimate"; zero is none yet.
    pub rtt: u32,
    /// Between the arrival of what is echoed and now.
    pub echo_delay: u32,
    /// Between two packets that the sender of this sends.
    pub transmit_delay: u32,
    /// To be echoed.
    pub tval: u32,
    /// Echoed.
    pub techo: u32,
}

/// The header of a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Octets of data before the first new data block.
    pub block_offset: u16,
    /// Sub-type 1 has it, sub-type 0 has not.
    pub congestion: Option<Congestion>,
}

/// Too short, or of a sub-type there is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an AGGFRAG_PAYLOAD header")]
pub struct WrongHeader;

/// A field's largest value, which also stands for all above (§6.1.2: "If the RTT is equal to or larger than 0x3FFFFF, the
/// value MUST be set to 0x3FFFFF"; the delays likewise).
const RTT_MOST: u32 = 0x3f_ffff;
pub(super) const DELAY_MOST: u32 = 0x1f_ffff;

impl Header {
    /// Octets of the non-congestion-control format.
    pub const PLAIN: usize = 4;
    /// Octets of the congestion control format.
    pub const CONGESTION: usize = 24;

    /// Octets of this one.
    #[must_use]
    pub const fn octets(&self) -> usize {
        if self.congestion.is_some() {
            Self::CONGESTION
        } else {
            Self::PLAIN
        }
    }

    /// Reads it from a payload; returns the data blocks, too.
    ///
    /// # Errors
    /// [`WrongHeader`].
    pub fn read(payload: &[u8]) -> Result<(Self, &[u8]), WrongHeader> {
        let (&[sub_type, flags, high, low], rest) = payload.split_first_chunk().ok_or(WrongHeader)?;
        let block_offset = u16::from_be_bytes([high, low]);
        let (congestion, data) = match sub_type {
            // "Reserved: An octet set to 0 on generation and ignored on receipt."
            0 => (None, rest),
            1 => {
                let (fields, data) = rest.split_first_chunk::<20>().ok_or(WrongHeader)?;
                (Some(Congestion::read(flags, fields)), data)
            }
            _ => return Err(WrongHeader),
        };
        let header = Self {
            block_offset,
            congestion,
        };
        Ok((header, data))
    }

    /// Writes it to the beginning of a payload; returns what is left for data blocks, `None` if there is no room.
    pub fn write<'a>(&self, payload: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (head, rest) = payload.split_first_chunk_mut::<{ Self::PLAIN }>()?;
        let [high, low] = self.block_offset.to_be_bytes();
        let Some(congestion) = &self.congestion else {
            *head = [0, 0, high, low];
            return Some(rest);
        };
        let flags = u8::from(congestion.probing) << 1 | u8::from(congestion.experienced);
        *head = [1, flags, high, low];
        let (fields, rest) = rest.split_first_chunk_mut::<20>()?;
        congestion.write(fields);
        Some(rest)
    }
}

impl Congestion {
    fn read(flags: u8, fields: &[u8; 20]) -> Self {
        let word = |at: usize| {
            let four = fields.get(at..).and_then(|rest| rest.first_chunk::<4>());
            u32::from_be_bytes(*four.unwrap_or(&[0; 4]))
        };
        // 22 bits of RTT, 21 of Echo Delay, 21 of Transmit Delay.
        let delays = u64::from(word(4)) << 32 | u64::from(word(8));
        Self {
            probing: flags & 2 != 0,
            experienced: flags & 1 != 0,
            loss_event_rate: word(0),
            rtt: (delays >> 42) as u32,
            echo_delay: (delays >> 21) as u32 & DELAY_MOST,
            transmit_delay: delays as u32 & DELAY_MOST,
            tval: word(12),
            techo: word(16),
        }
    }

    fn write(&self, fields: &mut [u8; 20]) {
        let delays = u64::from(self.rtt.min(RTT_MOST)) << 42
            | u64::from(self.echo_delay.min(DELAY_MOST)) << 21
            | u64::from(self.transmit_delay.min(DELAY_MOST));
        let [high, low] = [(delays >> 32) as u32, delays as u32];
        let words = [self.loss_event_rate, high, low, self.tval, self.techo];
        for (place, word) in fields.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }
}
