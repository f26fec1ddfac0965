//! 16-bit fields of headers, without panics.

/// The field at `at`, in network order.
pub(super) fn get(octets: &[u8], at: usize) -> Option<u16> {
    octets
        .get(at..)?
        .first_chunk::<2>()
        .map(|word| u16::from_be_bytes(*word))
}

/// Sets it.
pub(super) fn put(octets: &mut [u8], at: usize, value: u16) -> Option<()> {
    *octets.get_mut(at..)?.first_chunk_mut::<2>()? = value.to_be_bytes();
    Some(())
}
