//! The TCP throughput equation (RFC 9347 appendix B, RFC 5348 §3.1), in whole numbers: the same on every machine.

/// Fractional bits of what is divided by the RTT.
const BITS: u32 = 48;

/// Nanoseconds between two packets at the rate that TCP would have with this RTT (in nanoseconds) and one loss event in
/// `inverse` packets. RFC 9347 appendix B: "X = 1 / (R * (sqrt(2*p/3) + 12*sqrt(3*p/8)*p*(1+32*p^2)))" packets a second,
/// which is RFC 5348's with b = 1 and t_RTO = 4*R.
pub(super) fn interval(rtt: u64, inverse: u32) -> u64 {
    let inverse = u128::from(inverse.max(1));
    // sqrt(2*p/3), and sqrt(3*p/8), each times 2^BITS.
    let first = (2 << (2 * BITS)) / (3 * inverse);
    let second = (3 << (2 * BITS)) / (8 * inverse);
    let square = inverse * inverse;
    // p*(1+32*p^2) is (i^2 + 32) / i^3.
    let second = second.isqrt() * 12 * (square + 32) / (square * inverse);
    let nanos = (u128::from(rtt) * (first.isqrt() + second)) >> BITS;
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// The other way round: how many packets there are to a loss event at the least, for them to be at most this far apart. RFC 5348
/// §6.3.1 is content with "within 5%"; where the rate is that of the highest loss, it can't be met.
pub(super) fn inverse(rtt: u64, apart: u64) -> u32 {
    let (mut low, mut high) = (1, u32::MAX);
    while low < high {
        let middle = low + (high - low) / 2;
        if interval(rtt, middle) <= apart {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values computed elsewhere: see `tests/data/tfrc`.
    #[test]
    fn known_answers() {
        let rows = include_str!("../../../../tests/data/tfrc/equation.tsv").lines();
        let mut count = 0;
        for row in rows.filter(|row| !row.starts_with('#')) {
            let numbers: Vec<u64> = row.split('\t').map(|n| n.parse().unwrap()).collect();
            let [rtt, packets, nanos] = numbers[..] else {
                panic!("{row}")
            };
            let got = interval(rtt * 1000, packets as u32);
            // A nanosecond, or a millionth.
            assert!(got.abs_diff(nanos) <= 1 + nanos / 1_000_000, "{row}: {got}");
            let back = inverse(rtt * 1000, got);
            assert!(interval(rtt * 1000, back) <= got);
            assert!(back == 1 || interval(rtt * 1000, back - 1) > got, "{row}: {back}");
            count += 1;
        }
        assert!(count > 50);
    }

    #[test]
    fn extremes() {
        assert_eq!(interval(1, u32::MAX), 0);
        assert_eq!(interval(u64::MAX, 0), u64::MAX);
        assert_eq!(interval(0, 1), 0);
        assert_eq!(inverse(10_000_000, 0), u32::MAX);
        assert_eq!(inverse(10_000_000, u64::MAX), 1);
    }
}
